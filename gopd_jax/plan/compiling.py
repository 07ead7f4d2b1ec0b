"""Programs compiled, several at once, and what the compiler says of them; kept for later plans.

In: calls of a rehearsed run. Out: a `Compiled` for each: bytes on one device, collectives, or the
compiler's refusal. A result is found again by the program's text, the versions and the options, so
that a plan with another setting compiles only what that setting changes.
"""

from collections.abc import Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
import copy
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import re
import threading
import time
from typing import Any

import jax

from gopd_jax.plan.hlo import Collectives, Traffic, collectives
from gopd_jax.runtime.errors import brief
from gopd_jax.runtime.files import JsonObject
from gopd_jax.runtime.memory import host_memory
from gopd_jax.runtime.programs import give_back_memory
from gopd_jax.runtime.progress import Bar
from gopd_jax.runtime.rehearsal import Call
from gopd_jax.runtime.user_cache import cache_folder

# The compiler skips most of its searches: minutes become seconds, and temporaries up to twice as
# large, with other collectives.
FAST: Mapping[str, float] = {"exec_time_optimization_effort": -1.0}
JOB_BYTES = 6e9  # that the compiler may need for one train step of a model of a few billion
FORMAT = 1  # of what is kept
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_NEEDED = re.compile(r"(?:[Uu]sed|\() ?([\d.]+)([KMGT]?)i?B?\)? (?:exceeds|of)")


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program; bytes are those of one device.

    arguments, results: with the memory that results take over from arguments in both.
    taken_over: what results take over from arguments.
    temporaries: reserved besides, while the program runs.
    at_once: most bytes that are in use at one time, by the compiler's own account.
    host: temporaries in the memory of the host.
    refused: what the compiler says when the program needs more memory than there is; empty if it
        compiled.
    needed: the bytes in that message; 0 if there are none.
    collectives: None where it was refused.
    seconds: wall clock of lowering and compilation.
    """

    arguments: int = 0
    results: int = 0
    taken_over: int = 0
    temporaries: int = 0
    at_once: int = 0
    host: int = 0
    refused: str = ""
    needed: int = 0
    collectives: Collectives | None = None
    seconds: float = 0.0

    @property
    def peak(self) -> int:
        """Arguments, results and temporaries together; what a refused program asks for."""
        if self.refused:
            return self.needed
        return self.arguments + self.results - self.taken_over + self.temporaries


class Compiler:
    """Compiles for one slice.

    Args:
        topology: its name, a part of what a result is found again by.
        fast: low effort; only on TPU.
        jobs: programs compiled at the same time; 0 takes as many as memory and cores allow.
        keep: whether results are kept in the user's cache folder.
    """

    def __init__(self, topology: str, fast: bool = False, jobs: int = 0, keep: bool = True):
        self._topology, self._options = topology, dict(FAST) if fast else {}
        self._folder = cache_folder("plans") if keep else None
        self._jobs = jobs or max(1, min(os.cpu_count() or 1, int(host_memory() // JOB_BYTES)))
        self._tracing = threading.Lock()  # tracing needs Python; compilation does not

    def on(self, topology: str) -> "Compiler":
        """The same for another slice."""
        other = copy.copy(self)
        other._topology = topology
        return other

    def __call__(self, calls: Iterable[Call]) -> dict[Hashable, Compiled]:
        """What the compiler says of each program, by its key.

        Raises:
            Exception: the compiler's own, unless it says that there is too little memory.
        """
        # The largest first, so that no worker is left with it in the end.
        several = sorted(calls, key=lambda call: call.name != "train step")
        found: dict[Hashable, Compiled] = {}
        with (
            Bar(f"compile for {self._topology}", len(several), "programs") as bar,
            ThreadPoolExecutor(self._jobs) as pool,
        ):
            for call, compiled in zip(several, pool.map(self.one, several), strict=True):
                found[call.key] = compiled
                bar.advance(1, call.name)
        return found

    def one(self, call: Call) -> Compiled:
        """What the compiler says of one program."""
        start = time.perf_counter()
        with self._tracing:
            lowered = call.lowered()
            path = self._path(lowered)
        if path is not None and path.exists():
            return _from_json(json.loads(path.read_text()))
        compiled = _compile(lowered, self._options, call.mesh.size)
        del lowered
        give_back_memory()
        compiled = dataclasses.replace(compiled, seconds=time.perf_counter() - start)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(dataclasses.asdict(compiled)))
        return compiled

    def _path(self, lowered: jax.stages.Lowered) -> Any:
        """The file of a result; None where nothing is kept."""
        if self._folder is None:
            return None
        names = ("jax", "jaxlib", "libtpu")
        versions = [f"{name} {_version(name)}" for name in names]
        parts = [str(FORMAT), self._topology, json.dumps(self._options), *versions]
        text = "\n".join([*parts, lowered.as_text()])
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _compile(lowered: jax.stages.Lowered, options: Mapping[str, float], devices: int) -> Compiled:
    try:
        compiled = lowered.compile(compiler_options=dict(options) or None)
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text:
            raise
        return Compiled(refused=brief(error, 240), needed=_needed(text))
    memory = compiled.memory_analysis()
    return Compiled(
        arguments=memory.argument_size_in_bytes,
        results=memory.output_size_in_bytes,
        taken_over=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        at_once=memory.peak_memory_in_bytes,
        host=memory.host_temp_size_in_bytes,
        collectives=collectives(compiled.as_text(), devices),
    )


def _needed(text: str) -> int:
    """The number of bytes that the compiler says it would need."""
    found = _NEEDED.search(text)
    return round(float(found[1]) * _UNITS[found[2]]) if found else 0


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _from_json(record: JsonObject) -> Compiled:
    traffic = record.pop("collectives")
    if traffic is not None:
        kinds = {kind: Traffic(**t) for kind, t in traffic["by_kind"].items()}
        traffic = Collectives(kinds, traffic["at_least"])
    return Compiled(**record, collectives=traffic)
