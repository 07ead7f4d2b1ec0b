"""The file of finished samples, which a second start of the same command resumes.

In: records, one for each finished sample. Out: a file of JSON lines, and beside it a summary with
the settings and starts of the command. Does not draw. Of a record it reads only "prompt_id" and
"sample_id".
"""

from collections.abc import Callable, Mapping, Sequence
import io
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gopd_jax.runtime import provenance
from gopd_jax.runtime.files import append, replace_json
from gopd_jax.runtime.processes import agree
from gopd_jax.types import Request, SampleKey

Record = dict[str, Any]


class SamplesFile:
    """The samples on disk and the summary beside them; only the first host reads and writes them.

    The constructor reads what an interrupted command with the same settings left. Afterwards
    `missing` holds the requests without a sample, and `complete` is true when nothing is left to
    do.

    Args:
        path: the file of samples.
        summary: the file of the summary.
        requests: every sample of the command.
        settings: what decides the samples; written to the summary.
        may_change: names of settings that may differ when the command is resumed.
        seen: called with each record, those on disk and those that are written.

    Raises:
        ValueError: the file belongs to another command, or to none; names the setting or the line.
    """

    def __init__(
        self,
        path: Path,
        summary: Path,
        requests: Sequence[Request],
        settings: Mapping[str, Any],
        may_change: Sequence[str],
        seen: Callable[[Record], None],
    ):
        self.path = path
        self.writes = jax.process_index() == 0
        self._summary, self._settings, self._seen = summary, settings, seen
        self._starts: list[dict[str, Any]] = []
        self._file: io.FileIO | None = None
        complete, missing = False, {r.key for r in requests}
        if self.writes and (path.exists() or summary.exists()):
            complete, self._starts = self._read_summary(may_change)
            if path.exists():
                self._read_samples(missing)
        still_missing = agree(np.array([r.key in missing for r in requests]))
        self.missing = [r for r, m in zip(requests, still_missing, strict=True) if m]
        self.complete = complete and not self.missing

    def begin(self, summary: Record) -> None:
        """Records another start and opens the file for `write`."""
        if self.writes:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._starts.append(provenance.record())
            self.write_summary(summary)
            self._file = open(self.path, "ab", buffering=0)

    def write(self, record: Record) -> None:
        """Appends the record of one sample; it is on disk when this returns.

        Raises:
            OSError: it cannot be written; the file ends with the record before.
        """
        if self._file is not None:
            append(self._file, f"{json.dumps(record)}\n".encode(), self.path)
            self._seen(record)

    def write_summary(self, content: Record) -> None:
        """Replaces the summary by `content`, the settings and the starts.

        `content["complete"]` is true when nothing is left to do.
        """
        if self.writes:
            end = {"settings": self._settings, "starts": self._starts}
            replace_json(self._summary, content | end)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _read_summary(self, may_change: Sequence[str]) -> tuple[bool, list[dict[str, Any]]]:
        """Whether the earlier command was completed, and its starts."""
        try:
            old = json.loads(self._summary.read_text())
            complete, starts, settings = old["complete"], old["starts"], old["settings"]
            if not isinstance(starts, list) or not isinstance(settings, dict):
                raise TypeError("starts or settings of another type")
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise ValueError(
                f"--out={self.path} is taken, and its settings cannot be read from "
                f"{self._summary} ({e!r}): expected the samples of this command, or another --out"
            ) from e
        differing = [
            f"{name} is {value!r}, was {settings.get(name)!r}"
            for name, value in self._settings.items()
            if name not in may_change and value != settings.get(name)
        ]
        if differing:
            raise ValueError(
                f"--out={self.path} holds other samples: {'; '.join(differing)}: "
                "expected the same settings, or another --out"
            )
        return complete, starts

    def _read_samples(self, missing: set[SampleKey]) -> None:
        """Reads the samples on disk and takes them out of `missing`.

        A last line that a kill left unfinished is cut off the file.
        """
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    os.truncate(self.path, end)
                    return
                try:
                    record = json.loads(line)
                    missing.remove(SampleKey(record["prompt_id"], record["sample_id"]))
                    self._seen(record)
                except (ValueError, KeyError, TypeError) as e:
                    raise ValueError(
                        f"{self.path}:{number}: expected a sample of this command, each once "
                        f"({e!r})"
                    ) from e
                end += len(line)
