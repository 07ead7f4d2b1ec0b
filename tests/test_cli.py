"""What every command has in common: one-line errors, number options, exit status, quick help."""

import argparse
import os
from pathlib import Path
import subprocess
import sys

import pytest

from gopd_jax import cli
from gopd_jax.models.settings import SamplingRule
from gopd_jax.runtime import progress
from gopd_jax.runtime.errors import NonFiniteError

ROOT = Path(__file__).parents[1]
COMMANDS = ["train", "generate", "evaluate", "report", "reproduce", "benchmark", "data"]
COMMANDS += ["export", "expo", "preview"]


def make_parser():
    parser = cli.Parser(prog="command", details=True, renamed={"--number": "--count"})
    parser.add_argument("--count", type=cli.integer(1, 5), default=1)
    parser.add_argument("--share", type=cli.number(0), default=0.0)
    parser.add_argument("--seconds", type=cli.positive_number, default=1.0)
    return parser


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--count=0"], "argument --count: invalid value '0': expected an integer in [1, 5]"),
        (["--count=6"], "argument --count: invalid value '6': expected an integer in [1, 5]"),
        (["--count=2.0"], "argument --count: invalid value '2.0': expected an integer in [1, 5]"),
        (["--seconds=0"], "argument --seconds: invalid value '0': expected a finite number > 0"),
        (["--seconds=inf"], "argument --seconds: invalid value 'inf': expected a finite number"),
        (["--seconds=nan"], "argument --seconds: invalid value 'nan': expected a finite number"),
        (["--seconds=x"], "argument --seconds: invalid value 'x': expected a finite number"),
        (["--share=-1"], "argument --share: invalid value '-1': expected a finite number >= 0"),
        (["--share=nan"], "argument --share: invalid value 'nan': expected a finite number >= 0"),
        (["--co\nun=1"], "unrecognized arguments: --co un=1"),
        (["--coun=1"], "unrecognized arguments: --coun=1"),
        (["rest"], "unrecognized arguments: rest"),
        (["--number=3"], "--number is not an option any more: expected --count"),
        (["--json=x"], "--json=x: expected --json alone, which prints to stdout"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_status_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        make_parser().parse_args(arguments)
    assert stopped.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {message}") and said.endswith("; see --help")


def test_options_within_their_bounds():
    args = make_parser().parse_args(["--count=5", "--seconds=0.5", "--share=0.25"])
    assert vars(args) == {"count": 5, "seconds": 0.5, "share": 0.25}


def test_json_and_verbose_decide_what_is_printed(capsys):
    for arguments, out, err in [
        ([], "text\n", ""),
        (["--json"], '{"a": 1}\n', "text\n"),
        (["--verbose"], "text\n", "a detail\n"),
    ]:
        assert set(vars(make_parser().parse_args(arguments))) == {"count", "share", "seconds"}
        progress.detail("a detail")
        progress.result("text", {"a": 1})
        assert tuple(capsys.readouterr()) == (out, err)
    make_parser().parse_args([])


def fails(error):
    raise error


@pytest.mark.parametrize(
    "error, status, message",
    [
        (ValueError("no such\n  thing"), 2, "error: no such thing"),
        (FileNotFoundError(2, "No such file", "x"), 2, "error: [Errno 2] No such file: 'x'"),
        (ValueError(), 2, "error: ValueError()"),
        (NonFiniteError("step 3: the loss"), 3, "error: step 3: the loss"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
    ],
)
def test_the_outcome_of_a_command_is_its_exit_status(capsys, error, status, message):
    assert cli.run(fails, error) == status
    assert capsys.readouterr().err.splitlines() == [message]


def test_a_setting_out_of_bounds_is_one_line(capsys):
    assert cli.run(lambda: SamplingRule(temperature=-1.0)) == 2
    assert capsys.readouterr().err == "error: temperature=-1.0: expected a number >= 0\n"


def test_done_stopped_and_further_kinds_of_bad_input(capsys):
    seen = []
    assert cli.run(seen.append, argparse.Namespace(x=1)) == 0
    assert seen == [argparse.Namespace(x=1)] and capsys.readouterr().err == ""
    assert cli.run(fails, KeyboardInterrupt(), stopped="; resumes") == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C; resumes\n"
    assert cli.run(fails, RuntimeError("worker"), bad_input=(ValueError, RuntimeError)) == 2
    assert capsys.readouterr().err == "error: worker\n"


@pytest.mark.parametrize("error", [RuntimeError("a defect"), KeyError("a defect")])
def test_a_defect_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        cli.run(fails, error)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_neither_jax_nor_transformers(command):
    program = f"""
import runpy, sys
sys.argv = ["gopd_jax", "--help"]
try:
    runpy.run_module("gopd_jax.{command}", run_name="__main__", alter_sys=True)
except SystemExit as stopped:
    assert not stopped.code, stopped.code
loaded = [m for m in ("jax", "flax", "transformers", "tensorflow", "grain") if m in sys.modules]
assert not loaded, loaded
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert f"python -m gopd_jax.{command}" in done.stdout
