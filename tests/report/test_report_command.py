"""The command `python -m gopd_jax.report`."""

import subprocess
import sys

from report_cases import make_run

from gopd_jax.report import __main__ as command


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make_run(tmp_path / "a", finished=False, steps=5)
    assert command.main([folder]) == 0
    assert "a: unfinished at step 5" in capsys.readouterr().out
    assert (tmp_path / "report.html").stat().st_size > 10_000
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (["nowhere"], "no such folder"),
        (["empty"], "neither run.json nor metrics.jsonl"),
        ([folder, "--out=missing/report.html"], "missing/report.html"),
    ):
        assert command.main(arguments) == 2
        assert message in capsys.readouterr().err


def test_help_needs_no_heavy_import():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "gopd_jax.report", "--help"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "Several runs share the axes" in done.stdout
    assert " jax\n" not in done.stderr
