"""Metrics and samples of a run: JSON lines that survive a kill, and TensorBoard scalars.

In: plain numbers and records by step. Out: metrics.jsonl, samples.jsonl and tensorboard/ in the
run's folder.
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
import os
import time

from etils import epath
import jax
import jax.monitoring
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import directory_check
from tensorboardX.summary import scalar

from gopd_jax.runtime.files import JsonObject, append, cannot_write, replace_text

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
        else:
            append(self._file, line.encode(), self._path)

    def flush(self) -> None:
        if self._file is None:
            self._path.write_text("".join(self._lines))

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()


class Board:
    """The scalars of a run for TensorBoard; written at once, without a thread that could fail.

    Args:
        folder: gets a file of events.
        first_step: events of this and later steps that are in the folder already are not shown.
    """

    def __init__(self, folder: str, first_step: int):
        self._folder = folder
        with self._errors():
            directory_check(folder)
            # The writer names its file by the clock, which may be set back between two starts.
            number = len(list(epath.Path(folder).glob("*")))
            self._writer = EventsWriter(os.path.join(folder, "events"), f".{number}")
        start = SessionLog(status=SessionLog.START)
        self._write(Event(session_log=start, step=first_step))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._write(Event(summary=scalar(name, value), step=step))

    def flush(self) -> None:
        with self._errors():
            self._writer.flush()

    def close(self) -> None:
        with self._errors():
            self._writer.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with self._errors():
            self._writer.write_event(event)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise cannot_write(self._folder, e) from e


class RunLog:
    """The three logs of a run; does nothing on hosts other than the first."""

    def __init__(self, workdir: str, last_step: int):
        self._on = jax.process_index() == 0
        if self._on:
            folder = epath.Path(workdir)
            self._metrics = JsonLines(folder / "metrics.jsonl", last_step)
            self._samples = JsonLines(folder / "samples.jsonl", last_step)
            self._board = Board(str(folder / "tensorboard"), last_step + 1)

    def metrics(self, step: int, values: dict[str, float | list[float]]) -> None:
        """Writes the metrics of a step; lists (numbers by position) go to metrics.jsonl alone."""
        if self._on:
            self._metrics.write({"step": step} | values)
            scalars = {k: v for k, v in values.items() if not isinstance(v, list)}
            self._board.scalars(step, scalars)

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
