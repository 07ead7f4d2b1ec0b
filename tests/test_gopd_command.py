"""The command `gopd`: its list, its errors, and how help spells the commands."""

from pathlib import Path
import sys

import pytest

import gopd_jax
from gopd_jax import cli
from gopd_jax.__main__ import COMMANDS, main, module

PACKAGE = Path(gopd_jax.__file__).parent


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name, what in COMMANDS.items():
        assert f"  {name:<11}{what}\n" in out


def test_every_module_that_is_a_command_is_listed():
    modules = {path.parent.name for path in PACKAGE.glob("*/__main__.py")}
    modules |= {p.stem for p in PACKAGE.glob("[a-z]*.py") if "\ndef main(" in p.read_text()}
    assert modules == set(COMMANDS)
    for name in COMMANDS:
        assert callable(module(name).main)


def test_without_a_command_the_help_goes_to_stderr(capsys):
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("usage: gopd COMMAND")


def test_an_unknown_command_is_one_line_with_the_choices(capsys):
    assert main(["trian", "--help"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    expected = f"expected one of {', '.join(COMMANDS)}; see --help"
    assert err == f"error: no command 'trian' (did you mean 'train'?): {expected}\n"


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{gopd_jax.__version__}\n"


def test_options_reach_the_command(capsys):
    assert main(["report", "nowhere/run"]) == 2
    assert "nowhere/run" in capsys.readouterr().err
    assert main(["train", "--config=math", "--config.steps=0"]) == 2
    assert capsys.readouterr().err == "error: config.steps=0: expected a number >= 1\n"


@pytest.mark.parametrize("started, spelled", [("/bin/gopd", "gopd "), ("x/__main__.py", None)])
def test_help_spells_commands_as_the_process_was_started(monkeypatch, started, spelled):
    monkeypatch.setattr(sys, "argv", [started])
    parser = cli.Parser(prog="python -m gopd_jax.report", epilog="python -m gopd_jax.train --x")
    text = parser.format_help()
    assert f"usage: {spelled or 'python -m gopd_jax.'}report" in text
    assert f"{spelled or 'python -m gopd_jax.'}train --x" in text
