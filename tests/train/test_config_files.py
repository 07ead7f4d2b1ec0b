"""Config files by name, and what `train --help` says about them."""

from pathlib import Path
import runpy

import pytest

from gopd_jax.config import default
from gopd_jax.train import config_files
from gopd_jax.train.__main__ import main

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(CONFIGS.glob("*.py"))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_are_the_files_of_the_checkout():
    assert config_files.folder() == CONFIGS
    assert config_files.names() == [path.stem for path in FILES]


def test_a_name_or_a_file_with_or_without_a_preset(folder):
    (folder / "mine.py").write_text("")
    assert config_files.resolve("math") == str(CONFIGS / "math.py")
    assert config_files.resolve("math:qwen3_4b") == f"{CONFIGS / 'math.py'}:qwen3_4b"
    assert config_files.resolve("mine.py:x") == "mine.py:x"


@pytest.mark.parametrize(
    "value, near",
    [("maths", "; nearest: 'math'"), ("configs/math.py", ""), (".", ""), ("", "")],
)
def test_what_is_neither_is_answered_with_the_choices(value, near):
    with pytest.raises(ValueError) as error:
        config_files.resolve(f"{value}:tiny")
    expected = "expected a config file of yours (FILE.py) or one of"
    message = f"--config={value}: no such file{near}; {expected}"
    assert str(error.value) == f"{message} {', '.join(config_files.names())}"


def test_the_catalog_has_every_file_with_its_claim_and_presets():
    lines = config_files.catalog().splitlines()
    assert max(map(len, lines)) <= 100
    for path in FILES:
        at = lines.index(f"  {path.stem}")
        assert lines[at + 1].strip() == config_files.notes(path).splitlines()[0]
        for number, (name, preset) in enumerate(config_files.presets(path).items()):
            assert lines[at + 2 + number].split(maxsplit=1) == [f":{name}", preset.about]


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_the_first_preset_is_the_default_and_each_is_in_the_notes(path):
    get_config = runpy.run_path(str(path))["get_config"]
    declared = config_files.presets(path)
    assert get_config().name == f"{path.stem}_{next(iter(declared))}"
    for name in declared:
        assert get_config(name).name == f"{path.stem}_{name}"
        assert name in config_files.notes(path)


def test_the_description_names_what_a_preset_sets_and_nothing_else():
    path = str(CONFIGS / "grpo.py")
    config = runpy.run_path(path)["get_config"]("tiny_code")
    text = config_files.description(f"{path}:tiny_code", config)
    shown = [line.strip() for line in text.splitlines()]
    assert "--config.method=grpo (gopd)" in shown
    assert "--config.rollout.samples_per_prompt=8 (1)" in shown
    assert "--config.domains.code.train=tiny:code/train" in shown
    assert not any(line.startswith("--config.seed=") for line in shown)
    assert f"What {config.name} sets" in text and ":qwen3_4b_code" in text


def test_a_file_of_ones_own_needs_neither_notes_nor_presets(folder):
    (folder / "mine.py").write_text("")
    config = default()
    config.steps = 7
    text = config_files.description("mine.py", config)
    assert text.endswith("What mine sets (in brackets: the default):\n  --config.steps=7 (50)")


def test_help_shows_the_catalog_or_one_file(capsys):
    assert main(["--help"]) == 0
    assert config_files.catalog() in capsys.readouterr().out
    assert main(["--config=math:qwen3_4b", "--help"]) == 0
    out = capsys.readouterr().out
    assert config_files.catalog() not in out
    assert "What math_qwen3_4b sets" in out and "--config.student=Qwen/Qwen3-4B" in out


NO_DATA = "def get_config():\n    raise ValueError('no data today')"


@pytest.mark.parametrize("source, said", [("x = = 1", "mine.py:1:"), (NO_DATA, "no data today")])
def test_help_for_a_broken_file_is_one_line(folder, capsys, source, said):
    (folder / "mine.py").write_text(source)
    assert main(["--help", "--config=mine.py"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and said in err
