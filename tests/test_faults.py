"""docs/reliability.md names tests that exist, and `python -m tests.faults` runs them."""

import json
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests import faults  # noqa: E402

DOCUMENT = """
# Title

## Faults

| fault | what happens | test |
|---|---|---|
| a \\| b | x | `test_some.py::test_good...` |
| both | x | the same, `test_some.py::test_bad` with `helper.py` |
| late | x | `test_some.py::test_slow` |
| gone | x | `test_some.py::test_gone` |
| none | x | nothing |

| name | meaning |
|---|---|
| no row | of tests |
"""
SOME = """
import pytest

@pytest.mark.parametrize("x", [1, 2])
def test_good_one(x):
    pass

def test_bad():
    assert False

def test_other():
    assert False

@pytest.mark.slow
def test_slow():
    pass
"""


def test_every_row_names_tests_that_exist():
    rows, tests = faults.read_rows(faults.DOCUMENT.read_text()), faults.written_tests()
    assert len(rows) > 60
    # A case in brackets is checked by the test of the section that it is in.
    wrong = [
        (row.fault, name)
        for row in rows
        for name in row.names or ("no test",)
        if not any(faults.selects(name.partition("[")[0], test) for test in tests)
    ]
    assert wrong == []


def test_rows_of_a_document():
    rows = faults.read_rows(DOCUMENT)
    assert [row.fault for row in rows] == ["a \\| b", "both", "late", "gone", "none"]
    assert {row.section for row in rows} == {"Faults"}
    assert rows[1].names == ("test_some.py::test_good...", "test_some.py::test_bad")


@pytest.mark.parametrize(
    "name, test, expected",
    [
        ("a/test_x.py", "a/test_x.py::test_y[1]", True),
        ("a/test_x.py::test_y", "a/test_x.py::test_y[1]", True),
        ("a/test_x.py::test_y", "a/test_x.py::test_y_too", False),
        ("a/test_x.py::test_y...", "a/test_x.py::test_y_too", True),
        ("a/test_x.py::test_y[1]", "a/test_x.py::test_y[2]", False),
    ],
)
def test_names_select_tests(name, test, expected):
    assert faults.selects(name, test) == expected


@pytest.mark.parametrize("slow", [False, True])
def test_the_command(tmp_path, slow):
    (tmp_path / "test_some.py").write_text(SOME)
    (tmp_path / "document.md").write_text(DOCUMENT)
    program = (
        "import sys; from pathlib import Path; from tests import faults; "
        "faults.TESTS = Path(sys.argv[1]); faults.DOCUMENT = faults.TESTS / 'document.md'; "
        "sys.exit(faults.main(sys.argv[2:]))"
    )
    options = ["--json", *(["--slow"] if slow else [])]
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 1, done.stderr
    good, both, late, gone, none = json.loads(done.stdout)
    assert (good["outcome"], good["passed"]) == ("passed", 2)
    assert (both["outcome"], both["failed"]) == ("FAILED", ["test_some.py::test_bad"])
    assert (late["outcome"], late["slow"]) == (("passed", 0) if slow else ("slow", 1))
    assert (gone["outcome"], gone["unknown"]) == ("FAILED", ["test_some.py::test_gone"])
    assert none["outcome"] == "FAILED"
