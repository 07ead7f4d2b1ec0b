"""`python -m gopd_jax.train`: help, and mistakes that are answered with one line.

Only the command line is tested here; nothing is trained.
"""

import os
import subprocess
import sys

from loop_cases import ROOT
import pytest

from gopd_jax.config import Config
from gopd_jax.runtime import schema
from gopd_jax.train.__main__ import main, parse

CONFIG = f"--config={ROOT / 'configs/math.py'}"
NAMES = [field.name for field in schema.reference(Config)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory of each test; a run without --workdir would be written there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments):
    """The command in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "gopd_jax.train", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )


# ---- Help.


def test_help_lists_every_setting():
    done = command("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for name in NAMES:
        assert f"\n- `{name}` (" in done.stdout, name


@pytest.mark.parametrize("arguments", [["-h"], [CONFIG, "--help"], ["--help", f"{CONFIG}:tiny"]])
def test_help_in_any_place_is_help(arguments, capsys):
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "--workdir=FOLDER" in out
    assert all(f"`{name}`" in out for name in NAMES)
    # With a config file, its notes are shown as well.
    assert ("Claim: with lambda = 1.25" in out) == (len(arguments) == 2)


# ---- A command line.


def test_parse_returns_config_and_workdir():
    changes = ["--config.seed=3", "--config.domains.math.reward_scale=1.5"]
    config, workdir = parse([f"{CONFIG}:tiny", "--workdir=runs/x", *changes])
    assert workdir == "runs/x"
    assert config.seed == 3
    assert config.reward_scales == {"math": 1.5}
    assert parse([CONFIG])[1] == ""


@pytest.mark.parametrize("arguments", [["--config=math:tiny"], ["--config", "math"]])
def test_a_name_is_a_file_of_configs(arguments):
    """Also away from a checkout: the working directory of these tests is empty."""
    assert parse(arguments) == parse([CONFIG])


def test_keyword_arguments_of_the_template_may_have_any_name():
    changes = ["enable_thinking=True", "effort=high", "date=2", 'more={"a": [1, null]}', "text=1 x"]
    config, _ = parse([CONFIG, *(f"--config.data.template_kwargs.{c}" for c in changes)])
    assert config.data.template_kwargs == {
        "enable_thinking": True,
        "effort": "high",
        "date": 2,
        "more": {"a": [1, None]},
        "text": "1 x",
    }
    assert parse([CONFIG])[0].data.template_kwargs == {"enable_thinking": False}


MISTAKES = {
    "no config": ([], "--config must be set: expected --config=FILE"),
    "an earlier name": (
        [CONFIG, "--config.data.enable_thinking=True"],
        "--config.data.enable_thinking: expected its new name, "
        "--config.data.template_kwargs.enable_thinking",
    ),
    "workdir alone": (["--workdir=x"], "--config must be set: expected --config=FILE"),
    "unknown option": ([CONFIG, "--stepz=1"], "--stepz: no such option: expected --config=FILE"),
    "a field without its path": (
        [CONFIG, "--steps=1"],
        "--steps: no such option; did you mean --config.steps?",
    ),
    "abbreviation": (["--conf=x"], "--config must be set: expected --config=FILE[:PRESET]"),
    "stray argument": ([CONFIG, "extra", "more"], "unknown arguments extra more: expected"),
    "missing file": (
        ["--config=gone.py"],
        "error: --config=gone.py: no such file; expected",
    ),
    "unknown name": (["--config=maths:tiny"], "--config=maths: no such file; nearest: 'math'; "),
    "unknown preset of a name": (["--config=math:nope"], "no such preset; expected one of"),
    "unknown preset": ([f"{CONFIG}:nope"], "no such preset; expected one of ['qwen3_1_7b', "),
    "no value": ([CONFIG, "--workdir"], "--workdir"),
    "unknown group": ([CONFIG, "--config.learnr.seed=1"], "did you mean 'learner'?"),
    "unknown field": ([CONFIG, "--config.learner.reward_scal=1"], "did you mean 'reward_scale'?"),
    "unknown domain": ([CONFIG, "--config.domains.code.train=x"], "Known fields: math"),
    "below a field": ([CONFIG, "--config.steps.x=1"], "--config.steps.x: no such field"),
    "broken file": ([f"--config={ROOT / 'pyproject.toml'}"], "pyproject.toml:"),
    "text for a number": ([CONFIG, "--config.steps=three"], "steps=three: expected an integer"),
    "fraction for an integer": ([CONFIG, "--config.steps=1.5"], "steps=1.5: expected an integer"),
    "text for true or false": (
        [CONFIG, "--config.data.skip_bad_rows=maybe"],
        "error: --config.data.skip_bad_rows=maybe: expected true or false",
    ),
    "text for a fraction": (
        [CONFIG, "--config.learner.learning_rate=fast"],
        "error: --config.learner.learning_rate=fast: expected a number",
    ),
    "reserved keyword argument": (
        [CONFIG, "--config.data.template_kwargs.tools=[]"],
        "config.data.template_kwargs.tools: expected a variable of the chat template other than",
    ),
    "thinking switch": (
        [CONFIG, "--config.data.template_kwargs.enable_thinking=0"],
        "config.data.template_kwargs.enable_thinking=0: expected true or false",
    ),
    "out of bounds": ([CONFIG, "--config.steps=0"], "config.steps=0: expected a number >= 1"),
    "no choice": (
        [CONFIG, "--config.method=ppo"],
        "config.method='ppo': expected one of 'gopd', 'grpo' or 'sft'",
    ),
}


@pytest.mark.parametrize("arguments, message", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(arguments, message, folder, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1
    assert message in err
    assert "Traceback" not in err
    assert list(folder.iterdir()) == []


def test_the_process_ends_with_the_exit_status(folder):
    done = command(CONFIG, "--config.steps=0")
    assert done.returncode == 2
    assert (done.stdout, done.stderr) == ("", "error: config.steps=0: expected a number >= 1\n")
    assert list(folder.iterdir()) == []


def test_an_error_in_a_config_file_is_one_line(folder):
    (folder / "mine.py").write_text("def get_config():\n    raise ValueError('no data today')\n")
    done = command("--config=mine.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no data today\n"
