"""The scalars of a run as TensorBoard events.

In: plain numbers by step. Out: a file of events in the run's folder.
"""

from collections.abc import Iterator, Mapping
import contextlib
import os
from pathlib import Path
import shutil
import tempfile
import time

from etils import epath
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import directory_check
from tensorboardX.summary import scalar

from gopd_jax.runtime.files import cannot_write, is_remote, replace_bytes


class Board:
    """The scalars of a run for TensorBoard; written at once, without a thread that could fail.

    Object stores (gs://) cannot append: events are written to a local file, and `flush` uploads it.

    Args:
        folder: gets a file of events.
        first_step: events of this and later steps that are in the folder already are not shown.
    """

    def __init__(self, folder: str, first_step: int):
        self._folder, self._local = folder, folder
        with self._errors():
            if is_remote(folder):
                self._local = tempfile.mkdtemp(prefix="gopd_jax_tensorboard_")
            directory_check(self._local)
            # The writer names its file by the clock, which may be set back between two starts.
            number = len(list(epath.Path(folder).glob("*")))
            self._writer = EventsWriter(os.path.join(self._local, "events"), f".{number}")
        start = SessionLog(status=SessionLog.START)
        self._write(Event(session_log=start, step=first_step))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._write(Event(summary=scalar(name, value), step=step))

    def flush(self) -> None:
        with self._errors():
            self._writer.flush()
            self._upload()

    def close(self) -> None:
        with self._errors():
            self._writer.close()
            if self._local != self._folder:
                self._upload()
                shutil.rmtree(self._local)

    def _upload(self) -> None:
        if self._local != self._folder:
            for file in Path(self._local).iterdir():
                replace_bytes(epath.Path(self._folder) / file.name, file.read_bytes())

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
