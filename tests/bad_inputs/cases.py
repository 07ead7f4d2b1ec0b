"""What a bad input is: a command, what is wrong with what it is given, and what it has to say.

The modules `bad_*.py` beside this one register the cases; `test_bad_inputs.py` runs them, and
`document.py` writes them into docs/reliability.md.
"""

from collections.abc import Callable
import dataclasses
import json
import os
from pathlib import Path
import shutil
from typing import Any

import pytest

from gopd_jax import tiny

ONE_OBJECT = "expected one object for each line, in UTF-8"

# Prepares the working folder, and returns the arguments of the command.
Prepare = Callable[[Path], list[str]]


@dataclasses.dataclass(frozen=True)
class Case:
    """A bad input.

    command: the module that is run, such as "train".
    fault: what is wrong, for the document.
    says: parts of the sentence on stderr, in their order.
    prepare: writes what the command is given.
    """

    command: str
    fault: str
    says: tuple[str, ...]
    prepare: Prepare


CASES: dict[str, Case] = {}


def case(command: str, fault: str, *says: str) -> Callable[[Prepare], Prepare]:
    """Decorator: registers a `Prepare` as a case, by its name."""

    def register(prepare: Prepare) -> Prepare:
        name = f"{command}-{prepare.__name__}"
        assert name not in CASES, name
        CASES[name] = Case(command, fault, says, prepare)
        return prepare

    return register


def write(path: Path, content: str | bytes | list[Any] | dict[str, Any]) -> Path:
    """Writes text, bytes, rows as JSON lines, or an object as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    elif isinstance(content, dict):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def model(folder: Path, name: str = "student", of: str = "base") -> Path:
    """A copy of an embedded model, to be damaged."""
    return shutil.copytree(tiny.model(of), folder / name)


def edit(path: Path, **changes: Any) -> None:
    """Changes fields of a JSON file."""
    write(path, json.loads(path.read_text()) | changes)


def cut(path: Path, part: float = 0.5) -> None:
    """Cuts a file short."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])


def sums(count: int = 4, first: int = 100) -> list[dict[str, str]]:
    """Rows that every command can read."""
    numbers = range(first, first + count)
    return [{"prompt": f"{i}+{i}", "ground_truth": str(2 * i)} for i in numbers]


def without_permission(path: Path, mode: int = 0) -> None:
    """Takes permissions away; root needs none, so the case is skipped there."""
    if os.geteuid() == 0:
        pytest.skip("root may read and write everything")
    path.chmod(mode)
