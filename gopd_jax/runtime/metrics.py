"""Metrics and samples of a run: JSON lines that survive a kill.

In: plain numbers and records by step. Out: metrics.jsonl and samples.jsonl in the run's folder; the
numbers also go to the trackers of the run.
"""

import collections
from collections.abc import Mapping, Sequence
import json
import threading

from etils import epath
import jax
import jax.monitoring

from gopd_jax.runtime.files import JsonObject, append, is_remote, replace_text
from gopd_jax.runtime.tensorboard import Board
from gopd_jax.runtime.trackers import Trackers

# JAX's names. The first is also recorded of a program that is then found in the cache.
_MADE = "/jax/core/compile/backend_compile_duration"
_FOUND = "/jax/compilation_cache/cache_hits"
_counts: collections.Counter[str] = collections.Counter()
_counting = threading.Lock()  # programs are compiled in several threads


def _count(event: str, duration: float = 0.0, **_: object) -> None:
    if event in (_MADE, _FOUND):
        with _counting:
            _counts[event] += 1


jax.monitoring.register_event_duration_secs_listener(_count)
jax.monitoring.register_event_listener(_count)


def compilations() -> int:
    """Programs that this process has compiled or loaded from the compilation cache.

    Counted since the import of this module.
    """
    return _counts[_MADE]


def compilations_cached() -> int:
    """Programs among `compilations` that were loaded from the compilation cache."""
    return _counts[_FOUND]


class JsonLines:
    """An append-only file of JSON objects, each with a "step".

    Opening the file drops the lines of steps after `last_step`, which a resumed run writes again,
    and a line that a kill has cut short. On object stores (gs://), which cannot append, `flush`
    writes the whole file if it has grown.
    """

    def __init__(self, path: str | epath.Path, last_step: int):
        self._path = epath.Path(path)
        self._remote, self._grown = is_remote(path), False
        self._lines = self._kept(last_step)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self._path, "".join(self._lines))
        # Unbuffered: a line that does not fit on the disk is known at once, and can be taken back.
        self._file = None if self._remote else open(self._path, "ab", buffering=0)

    def _kept(self, last_step: int) -> list[str]:
        if not self._path.exists():
            return []
        kept = []
        for line in self._path.read_text().splitlines(keepends=True):
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if record["step"] <= last_step:
                kept.append(
                    line.rstrip("\n") + "\n"
                )  # a kill can fall between the record and its line end
        return kept

    def records(self) -> list[JsonObject]:
        """The lines that the file held when it was opened; on object stores, also those since."""
        return [json.loads(line) for line in self._lines]

    def write(self, record: JsonObject) -> None:
        """Appends a record.

        Raises:
            OSError: the disk is full, or the like; the file ends with the record before.
        """
        line = json.dumps(record) + "\n"
        if self._file is None:
            self._lines.append(line)
            self._grown = True
        else:
            append(self._file, line.encode(), self._path)

    def flush(self) -> None:
        if self._grown:
            replace_text(self._path, "".join(self._lines))
            self._grown = False

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()


class RunLog:
    """The logs of a run; does nothing on hosts other than the first.

    Args:
        workdir: the run's folder.
        last_step: step that the run resumes from; what is logged of later steps is dropped.
        trackers: shown the same numbers; those that lack earlier steps are given them.
        scores: of earlier evaluations, as arguments of `scores`.
    """

    def __init__(
        self,
        workdir: str,
        last_step: int,
        trackers: Trackers,
        scores: Sequence[tuple[str, int, Mapping[str, float]]] = (),
    ):
        self._on = jax.process_index() == 0
        self._trackers = trackers
        self._board = None
        if self._on:
            folder = epath.Path(workdir)
            self._metrics = JsonLines(folder / "metrics.jsonl", last_step)
            self._samples = JsonLines(folder / "samples.jsonl", last_step)
            if trackers.tensorboard:
                self._board = Board(str(folder / "tensorboard"), last_step + 1)
            earlier = [("metrics", r["step"], _scalars(r)) for r in self._metrics.records()]
            earlier += [(_scores_of(model), step, values) for model, step, values in scores]
            for kind, step, values in sorted(earlier, key=lambda item: item[1]):
                trackers.scalars(kind, step, values)

    def metrics(self, step: int, values: dict[str, float | list[float]]) -> None:
        """Writes the metrics of a step; lists (numbers by position) go to metrics.jsonl alone."""
        if self._on:
            self._metrics.write({"step": step} | values)
            self._show("metrics", step, _scalars(values))

    def scores(self, model: str, step: int, values: Mapping[str, float]) -> None:
        """Shows the scores of a model to the trackers; the record of them is evaluations.jsonl."""
        if self._on and values:
            self._show(_scores_of(model), step, values)

    def sample(self, step: int, record: JsonObject) -> None:
        if self._on:
            self._samples.write({"step": step} | record)

    def flush(self) -> None:
        if self._on:
            self._metrics.flush()
            self._samples.flush()
            if self._board:
                self._board.flush()
            self._trackers.flush()

    def close(self) -> None:
        if self._on:
            self.flush()
            self._metrics.close()
            self._samples.close()
            if self._board:
                self._board.close()

    def _show(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        if self._board:
            self._board.scalars(step, values)
        self._trackers.scalars(kind, step, values)


def _scalars(record: Mapping[str, float | list[float]]) -> dict[str, float]:
    """The plain numbers of a line of metrics.jsonl, without its step."""
    lists = {name for name, value in record.items() if isinstance(value, list)}
    return {name: record[name] for name in record if name not in lists | {"step"}}


def _scores_of(model: str) -> str:
    return f"scores of {model}"
