"""The command `python -m gopd_jax.report`."""

from pathlib import Path
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


def test_watch_writes_again_until_the_run_is_finished(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make_run(tmp_path / "a", finished=False, steps=5)
    pages = []

    def sleep(seconds):  # the run ends while the second page is shown
        pages.append(Path("report.html").read_text())
        if len(pages) == 2:
            (tmp_path / "a/summary.json").write_text('{"training_seconds": 1.0}')
        assert seconds == 7 and len(pages) < 3

    monkeypatch.setattr(command.time, "sleep", sleep)
    assert command.main([folder, "--watch=7"]) == 0
    assert all('"reload":7.0' in page for page in pages) and len(pages) == 2
    assert '"reload":null' in Path("report.html").read_text()
    assert capsys.readouterr().out.startswith("a: finished")


def test_ctrl_c_ends_watch_with_one_line_and_a_page_that_stays(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", interrupt)
    assert command.main([make_run(tmp_path / "a", finished=False, steps=5), "--watch"]) == 130
    said = capsys.readouterr()
    assert said.err == "stopped by Ctrl-C: report.html shows the runs as far as they got\n"
    assert said.out == "" and '"reload":null' in Path("report.html").read_text()


def test_help_needs_no_heavy_import():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "gopd_jax.report", "--help"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "Several runs share the axes" in done.stdout
    assert " jax\n" not in done.stderr
