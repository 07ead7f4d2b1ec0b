"""Metrics and samples of a run: JSON lines that survive a kill, and TensorBoard scalars.

In: plain numbers and records by step. Out: metrics.jsonl, samples.jsonl and tensorboard/ in the
run's folder.
"""

import json

from etils import epath
import jax
import jax.monitoring
import tensorboardX

from gopd_jax.runtime.files import JsonObject, replace_text

_compilations = 0


def _count(event: str, duration: float, **_: object) -> None:
    global _compilations
    _compilations += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(_count)


def compilations() -> int:
    """Programs compiled by this process since the import of this module."""
    return _compilations


class JsonLines:
    """An append-only file of JSON objects, each with a "step".

    Opening the file drops the lines of steps after `last_step`, which a resumed run writes again,
    and a line that a kill has cut short. On object stores (gs://), which cannot append, each
    `flush` writes the whole file.
    """

    def __init__(self, path: str | epath.Path, last_step: int):
        self._path = epath.Path(path)
        self._remote = "://" in str(path)
        self._lines = self._kept(last_step)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self._path, "".join(self._lines))
        self._file = None if self._remote else self._path.open("a")

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
        line = json.dumps(record) + "\n"
        if self._file is None:
            self._lines.append(line)
        else:
            self._file.write(line)
            self._file.flush()

    def flush(self) -> None:
        if self._file is None:
            self._path.write_text("".join(self._lines))

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()


class RunLog:
    """The three logs of a run; does nothing on hosts other than the first."""

    def __init__(self, workdir: str, last_step: int):
        self._on = jax.process_index() == 0
        if self._on:
            folder = epath.Path(workdir)
            self._metrics = JsonLines(folder / "metrics.jsonl", last_step)
            self._samples = JsonLines(folder / "samples.jsonl", last_step)
            self._board = tensorboardX.SummaryWriter(
                str(folder / "tensorboard"), purge_step=last_step + 1
            )

    def metrics(self, step: int, values: dict[str, float | list[float]]) -> None:
        """Writes the metrics of a step; lists (numbers by position) go to metrics.jsonl alone."""
        if self._on:
            self._metrics.write({"step": step} | values)
            for name, value in values.items():
                if not isinstance(value, list):
                    self._board.add_scalar(name, value, step)

    def sample(self, step: int, record: JsonObject) -> None:
        if self._on:
            self._samples.write({"step": step} | record)

    def flush(self) -> None:
        if self._on:
            self._metrics.flush()
            self._samples.flush()
            self._board.flush()

    def close(self) -> None:
        if self._on:
            self._metrics.close()
            self._samples.close()
            self._board.close()
