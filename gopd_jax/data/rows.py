"""Source files -> rows in one schema, every row checked.

In: what `sources.py` finds for a source: `.jsonl`, `.jsonl.gz` or `.parquet` files, or rows of `tiny:NAME/SPLIT`. Out: dicts
with "prompt_id", "messages", "ground_truth" and "extra". A bad row is named by file and line: `read` stops at the first one, or
skips it when asked; `scan` gives them all. The domain of a row is not decided here, and nothing is tokenised.
"""

from collections.abc import Callable, Iterator
import dataclasses
import gzip
import hashlib
import io
import json
from typing import Any, BinaryIO
import zlib

from etils import epath

from gopd_jax.data import formats, sources
from gopd_jax.data.sources import SUFFIXES, stem

__all__ = ["SUFFIXES", "Scanned", "fingerprint", "parse", "read", "scan", "stem"]


@dataclasses.dataclass(frozen=True)
class Scanned:
    """A row or what is wrong with it: `where` is its file and line, `format` "" where none was found."""

    where: str
    format: str = ""
    row: dict[str, Any] | None = None
    error: str = ""


def fingerprint(source: str, version: str) -> str:
    """sha256 hex of what decides the prompts: content (unpacked), the stem, which is in the prompt ids, and the reader."""
    contents = []
    for file in sources.files(source):
        try:
            with _open(file) as stream:
                contents.append(hashlib.file_digest(stream, "sha256").hexdigest())
        except (
            EOFError,
            zlib.error,
            gzip.BadGzipFile,
        ):  # cut short: what that means for its rows is `scan`'s to say
            with epath.Path(file).open("rb") as stream:
                contents.append(hashlib.file_digest(stream, "sha256").hexdigest())
    content = contents[0] if len(contents) == 1 else contents
    return hashlib.sha256(json.dumps([version, stem(source), content]).encode()).hexdigest()


def read(source: str, bad: Callable[[str], None] | None = None) -> Iterator[dict[str, Any]]:
    """Yields the checked rows of `source` in order.

    Args:
      bad: is told of each bad row, which is then skipped; without it the first one is a ValueError.
    """
    rows = 0
    for scanned in scan(source):
        if scanned.row is not None:
            rows += 1
            yield scanned.row
        elif bad is None:
            raise ValueError(f"{scanned.where}: {scanned.error}")
        else:
            bad(f"{scanned.where}: {scanned.error}")
    if not rows:
        raise ValueError(f"{source}: no rows{'' if bad is None else ' that can be read'}")


def scan(source: str) -> Iterator[Scanned]:
    """Every row of `source` in order, good or bad; a file that cannot be read on is one bad row, and the next file goes on.

    The row number in a default prompt id counts from 0 and counts bad rows too; with several files it counts in each.
    """
    taken: dict[str, str] = {}
    files = sources.files(source)
    for file in files:
        prefix = stem(source) if len(files) == 1 else f"{stem(source)}/{stem(file)}"
        for number, (where, raw) in enumerate(_raw_rows(file)):
            if isinstance(raw, ValueError):
                yield Scanned(where, error=str(raw))
                continue
            try:
                name, row = _parse(raw, f"{prefix}/{number:06d}")
            except ValueError as error:
                yield Scanned(where, error=str(error))
                continue
            first = taken.setdefault(row["prompt_id"], where)
            if first != where:
                yield Scanned(
                    where, name, error=f"prompt_id {row['prompt_id']!r} is already taken by {first}"
                )
            else:
                yield Scanned(where, name, row)


def parse(raw: Any, default_id: str) -> dict[str, Any]:
    """One raw row -> {"prompt_id", "messages", "ground_truth", "extra"}, or a ValueError that says what is wrong."""
    return _parse(raw, default_id)[1]


def _parse(raw: Any, default_id: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(raw, dict):
        raise ValueError(f"a row must be an object, this one is {type(raw).__name__}")
    raw = dict(raw)
    prompt_id = formats.text_of(raw.pop("prompt_id", default_id), "prompt_id", convert=False)
    parsed = formats.read(raw)
    try:
        json.dumps(parsed.extra)
    except TypeError as error:
        raise ValueError(
            f"a field beside prompt and ground truth has no JSON form: {error}"
        ) from error
    row = {
        "prompt_id": prompt_id,
        "messages": parsed.messages,
        "ground_truth": parsed.ground_truth,
        "extra": parsed.extra,
    }
    return parsed.format, row


def _open(file: str) -> BinaryIO:
    if file.startswith("tiny:"):
        from gopd_jax.data import embedded as tasks

        name, _, split = file.removeprefix("tiny:").partition("/")
        return io.BytesIO(tasks.json_lines(name, split))
    stream = epath.Path(file).open("rb")
    return gzip.open(stream) if file.endswith(".gz") else stream


def _raw_rows(file: str) -> Iterator[tuple[str, Any]]:
    """Where and what each row of a file is; a ValueError in the place of a row that cannot be read."""
    with _open(file) as stream:
        yield from (_parquet_rows if file.endswith(".parquet") else _json_rows)(stream, file)


def _json_rows(stream: BinaryIO, file: str) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                raw = json.loads(line)
            except (
                ValueError,
                RecursionError,
            ) as error:  # malformed JSON, or bytes that are not UTF-8
                raw = ValueError(f"not valid JSON: {error}")
            yield f"{file}:{number}", raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield f"{file}:{number + 1}", ValueError(f"not a whole gzip file ({error})")


def _parquet_rows(stream: BinaryIO, file: str) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(stream).iter_batches(
            batch_size=1024
        ):  # some rows hold megabytes
            for row in batch.to_pylist():
                # pandas writes its index as a column; it says nothing about the prompt
                yield (
                    f"{file} row {number}",
                    {k: v for k, v in row.items() if not k.startswith("__index_level_")},
                )
                number += 1
    except (pa.ArrowException, OSError) as error:
        where = f"{file} row {number}" if number else file
        yield where, ValueError(f"not a readable parquet file: {error}")
