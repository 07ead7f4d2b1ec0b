"""What the documents name exists, and what exists they name: options, settings, metrics.

CHANGELOG.md is left out: it names what there was.
"""

import functools
import importlib.util
from pathlib import Path
import re

import pytest

from gopd_jax.__main__ import COMMANDS
from gopd_jax.config import Config
from gopd_jax.runtime import schema
from gopd_jax.train import file_fields
from gopd_jax.train.metric_fields import METRICS
from tests import commands_page

ROOT = Path(__file__).parents[1]
PATTERNS = ("*.md", "docs/**/*.md", "configs/*.py", "examples/**/*.*", "tpu_scripts/*", "Makefile")
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text()
    for pattern in PATTERNS
    for path in sorted(ROOT.glob(pattern))
    if path.suffix in {".md", ".py", ".sh", ".jsonl", ""} and path.name != "CHANGELOG.md"
    if path.is_file()
}
SETTINGS = {field.name for field in schema.reference(Config)}
FIELDS = {
    field.name
    for group in (
        METRICS,
        file_fields.EVALUATIONS,
        file_fields.SAMPLES,
        file_fields.SUMMARY,
        file_fields.SUMMARY_DOMAIN,
        file_fields.SUMMARY_ROW,
    )
    for field in group
}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*(?![\w-])")
# Options of other programs that stand alone in a sentence.
FOREIGN = {"--max-model-len", "--tensor-parallel-size", "--generation-config"}
# What stands for a name in a sentence about names.
PLACEHOLDERS = {"PART.FIELD", "FIELD", "NAME", "field", "domains.NAME", "domains.DOMAIN"}


@functools.cache
def options_of(command: str) -> frozenset[str]:
    """The options in the help of a command and of its parts."""
    texts = [commands_page.help_of(command)]
    texts += [commands_page.help_of(command, part) for part in commands_page.PARTS.get(command, ())]
    return frozenset(OPTION.findall("\n".join(texts)))


def commands_in(text: str) -> list[tuple[str, list[str]]]:
    """Each command line of the text: a command of this project, and the options given to it."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = re.findall(r"(?:-m gopd_jax\.|\bgopd )(\w+)([^\n`|]*)", joined)
    return [(name, OPTION.findall(rest)) for name, rest in lines if name in COMMANDS]


def test_the_page_of_commands_is_current():
    """After a change: python -m tests.commands_page > docs/commands.md"""
    assert (ROOT / "docs" / "commands.md").read_text() == commands_page.page()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_options_on_command_lines_are_those_of_the_command(name):
    for command, given in commands_in(DOCUMENTS[name]):
        assert set(given) <= options_of(command), (command, given)


def test_command_lines_are_found():
    found = [command for text in DOCUMENTS.values() for command, _ in commands_in(text)]
    assert set(found) == set(COMMANDS) and len(found) > 60


@pytest.mark.parametrize("name", DOCUMENTS)
def test_options_in_sentences_exist(name):
    known = frozenset().union(*map(options_of, COMMANDS)) | FOREIGN
    spans = [s for s in re.findall(r"`([^`\n]+)`", DOCUMENTS[name]) if s.startswith("--")]
    given = {option for span in spans for option in OPTION.findall(span)}
    assert given <= known, given - known


def is_setting(name: str) -> bool:
    """Whether a dotted name, with any domain, is a setting or a group of settings."""
    name = re.sub(r"^domains\.\w+", "domains.NAME", name)
    name = re.sub(r"^data\.template_kwargs\.\w+", "data.template_kwargs", name)
    return any(f"{setting}.".startswith(f"{name}.") for setting in SETTINGS)


def is_module(name: str) -> bool:
    """Whether a dotted name, or what precedes its last one or two parts, is a module here."""
    parts = f"gopd_jax.{name}".split(".")
    heads = [".".join(parts[:end]) for end in range(len(parts), 2, -1)]
    return any(map(_is_found, heads))


def _is_found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("name", DOCUMENTS)
def test_settings_exist(name):
    text = DOCUMENTS[name]
    given = set(re.findall(r"--config\.([A-Za-z_.\d]*\w)", text))
    given |= set(re.findall(r"^\s+config\.([a-z_.\d]*\w) =", text, re.MULTILINE))
    groups = {setting.partition(".")[0] for setting in SETTINGS if "." in setting}
    dotted = re.findall(r"`(\w+(?:\.\w+)+)(?:=[^`]*)?`", text)
    given |= {d for d in dotted if d.partition(".")[0] in groups and not is_module(d)}
    if name == "docs/reliability.md":  # it quotes what the commands refuse
        given = {g for g in given if f"config.{g}" not in refused_in(text)}
    if name == "docs/metrics.md":  # files have names that begin as settings do
        given -= {"domains.DOMAIN.rows.WHO"}
    wrong = {g for g in given if not is_setting(g)} - PLACEHOLDERS
    assert not wrong


def refused_in(text: str) -> str:
    """The lines of the table of bad inputs."""
    return "\n".join(line for line in text.split("\n") if "bad_inputs/" in line)


def test_every_setting_and_field_has_its_entry():
    entries = {
        page: set(re.findall(r"^- `([^`]+)`", DOCUMENTS[f"docs/{page}.md"], re.MULTILINE))
        for page in ("configuration", "metrics")
    }
    assert entries["configuration"] == SETTINGS
    assert entries["metrics"] == FIELDS


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name.endswith(".md")])
def test_fields_and_functions_exist(name):
    """Every `name_of_several_words` is a field, a setting, a preset, or a name in the code."""
    prose = re.sub(r"```.*?```", "", DOCUMENTS[name], flags=re.DOTALL)
    given = set(re.findall(r"`([a-z][a-z0-9]*(?:_[a-z0-9]+)+)(?:/[A-Z]+)?`", prose))
    wrong = given - FIELDS - words_of_the_code()
    assert not wrong


@functools.cache
def words_of_the_code() -> frozenset[str]:
    texts = [path.read_text() for path in (ROOT / "gopd_jax").rglob("*.py")]
    presets = {path.stem for path in (ROOT / "configs").glob("*.py")}
    return frozenset(re.findall(r"\w+", "\n".join(texts))) | presets
