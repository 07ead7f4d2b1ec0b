"""The command `python -m gopd_jax.reproduce`."""

import json
import subprocess
import sys

import pytest

from gopd_jax.reproduce import __main__ as command
from gopd_jax.reproduce import arms

SMALL = ["--seeds=2", "--steps=2", "--samples-per-step=8", "--prompts=8", "--jobs=1"]


@pytest.mark.slow
def test_a_run_and_a_second_one_that_has_nothing_left_to_do(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [*SMALL, f"--out={out}", "--only=table3"]
    assert command.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "reward correction > ExOPD" in shown and "Table 3" in shown and "Table 2" not in shown
    assert {p.name for p in out.glob("*.png")} == {"table3.png"}
    text = (out / "results.md").read_text()
    assert "table3.png" in text and "| OPD |" in text
    lines = [json.loads(line) for line in (out / "arms.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * len(arms.chosen(("table3",)))
    before = {p: p.stat().st_mtime_ns for p in out.rglob("scores.json")}
    assert command.main(arguments) == 0
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("scores.json")}
    assert len((out / "arms.jsonl").read_text().splitlines()) == len(lines)
    assert command.main([*arguments, "--steps=3"]) == 2
    assert "another size" in capsys.readouterr().err


def test_an_unknown_group_ends_in_one_line(tmp_path, capsys):
    out = tmp_path / "out"
    assert command.main([*SMALL, f"--out={out}", "--only=table9"]) == 2
    assert "table9: expected some of table2" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(
    "option", ["--seeds=1", "--jobs=0", "--steps=0", "--samples-per-step=7", "--prompts=1"]
)
def test_numbers_out_of_bounds_end_in_one_line(tmp_path, capsys, option):
    out, name = tmp_path / "out", option.split("=")[0]
    with pytest.raises(SystemExit) as stop:
        command.main([*SMALL, f"--out={out}", option])
    assert stop.value.code == 2 and not out.exists()
    error = capsys.readouterr().err
    assert f"argument {name}" in error and error.count("\n") == 1


def test_neither_help_nor_a_new_worker_imports_jax():
    program = (
        "import sys; import gopd_jax.reproduce.__main__, gopd_jax.reproduce.worker; "
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
