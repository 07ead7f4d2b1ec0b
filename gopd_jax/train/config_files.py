"""Config files: where `--config=math` is, which presets a file has, and what a preset sets.

In: the value of --config. Out: the path of a file, and text for `train --help`. The files lie in
configs/ of a checkout; an installed package carries them as gopd_jax/configs. Loads no JAX.
"""

import ast
from collections.abc import Iterator, Mapping
import difflib
from pathlib import Path
import runpy

from ml_collections import ConfigDict

import gopd_jax
from gopd_jax.config import default, domain
from gopd_jax.presets import Preset

HEAD = """\
Config files: --config=NAME takes the first preset, --config=NAME:PRESET another one, and
--config=NAME --help shows the notes of a file and what a preset sets.
"""


def folder() -> Path:
    """The folder of the config files that come with this installation or checkout."""
    package = Path(gopd_jax.__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def names() -> list[str]:
    """What --config calls the files of `folder`: their names without .py."""
    return sorted(path.stem for path in folder().glob("*.py"))


def resolve(value: str) -> str:
    """FILE[:PRESET] of a value of --config, which may also be NAME[:PRESET].

    Raises:
        ValueError: there is neither such a name nor such a file; names the choices.
    """
    file, colon, preset = value.partition(":")
    if file in names():
        return f"{folder() / file}.py{colon}{preset}"
    if not Path(file).is_file():
        near = difflib.get_close_matches(file, names(), n=1)
        raise ValueError(
            f"--config={file}: no such file{f'; nearest: {near[0]!r}' if near else ''}; expected a "
            f"config file of yours (FILE.py) or one of {', '.join(names())}"
        )
    return value


def presets(path: Path) -> Mapping[str, Preset]:
    """The presets that a config file declares as PRESETS; the first is the default."""
    return runpy.run_path(str(path)).get("PRESETS", {})


def catalog() -> str:
    """The config files of `folder`, each with its claim and its presets."""
    lines = [HEAD]
    for name in names():
        path = folder() / f"{name}.py"
        lines += [f"  {name}", f"    {notes(path).splitlines()[0]}", *_preset_lines(presets(path))]
    return "\n".join(lines)


def description(value: str, config: ConfigDict) -> str:
    """Notes and presets of the file of `value` (FILE[:PRESET]), and what `config` sets."""
    path = Path(value.partition(":")[0])
    declared = presets(path)
    lines = [str(path), "", notes(path), ""]
    if declared:
        lines += ["Presets; the first is the default:", *_preset_lines(declared), ""]
    lines += [f"What {config.name or path.stem} sets (in brackets: the default):"]
    lines += [f"  --config.{line}" for line in _changes(config)]
    return "\n".join(lines)


def notes(path: Path) -> str:
    """The docstring of a config file."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "(no notes)"


def _preset_lines(declared: Mapping[str, Preset]) -> list[str]:
    width = max((len(preset) for preset in declared), default=0)
    return [f"      :{preset:<{width}}  {entry.about}" for preset, entry in declared.items()]


def _changes(config: ConfigDict) -> Iterator[str]:
    """FIELD=VALUE (DEFAULT) of each field that is not at its default."""
    usual = dict(_flat(default()))
    of_domain = dict(_flat(domain()))
    for field, value in _flat(config):
        if field.startswith("domains."):
            before = of_domain.get(field.split(".", 2)[-1])
        else:
            before = usual.get(field)
        if value != before:
            was = "" if before in ("", None) else f" ({before})"
            yield f"{field}={value}{was}"


def _flat(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted name and value of each field."""
    for name in config:
        value = config.get_oneway_ref(name).get()
        if isinstance(value, ConfigDict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
