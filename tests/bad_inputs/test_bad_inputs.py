"""Bad input ends a command with exit status 2 and one sentence, and changes no file.

The cases are in the modules beside this one. They run in this process, through `main`, because
starting Python and JAX takes seconds; a few run in processes of their own.
"""

import hashlib
import importlib
import os
from pathlib import Path
import subprocess
import sys

from cases import CASES, Case
from document import DOCUMENT, HEADING, table
import huggingface_hub.constants
import pytest

ROOT = Path(__file__).parents[2]
LONGEST = 330  # characters; the longest sentences list the choices
IN_PROCESSES = ("train-config_exits", "train-failing_import", "report-report_file")


@pytest.fixture(autouse=True)
def nothing_from_before(monkeypatch, tmp_path):
    """An empty working folder, no hub, and no config module of an earlier case."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith("mine."):
            del sys.modules[name]


def tree(folder: Path) -> dict[str, str]:
    """What is in a folder: a hash of each file. What Python compiles of a config is not ours."""
    return {
        str(path.relative_to(folder)): path.is_file()
        and os.access(path, os.R_OK)
        and hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


def module_of(command: str) -> str:
    name = f"gopd_jax.{command}"
    path = ROOT.joinpath(*name.split("."))
    return f"{name}.__main__" if path.is_dir() else name


def check(case: Case, said: str) -> None:
    """Checks that the sentence on stderr is one, and says what it should."""
    assert said.startswith("error: ") and said.endswith("\n") and said.count("\n") == 1, said
    assert len(said) <= LONGEST and "Traceback" not in said
    at = 0
    for part in case.says:
        assert part in said[at:], said
        at = said.index(part, at) + len(part)


@pytest.mark.parametrize("name", CASES)
def test_one_line(name, tmp_path, capsys):
    case = CASES[name]
    arguments = case.prepare(tmp_path)
    before = tree(tmp_path)
    try:
        status = importlib.import_module(module_of(case.command)).main(arguments)
    except SystemExit as stop:  # argparse
        status = stop.code
    assert status == 2
    check(case, capsys.readouterr().err)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", IN_PROCESSES)
def test_one_line_of_a_process(name, tmp_path):
    case = CASES[name]
    arguments = case.prepare(tmp_path)
    before = tree(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", f"gopd_jax.{case.command}", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    check(case, done.stderr)
    assert tree(tmp_path) == before


def test_the_table_is_current():
    written = DOCUMENT.read_text().partition(HEADING)[2].partition("\n## ")[0].strip()
    assert written == table(), "run: python -m tests.bad_inputs.document"
