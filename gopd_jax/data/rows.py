"""Source files -> rows in one schema, every row checked.

In: a source, see `sources`. Out: a `Row` for each row of its files. A bad row is named by file and
line: `read` stops at the first one, or skips bad rows if asked to; `scan` reports them all. Does
not decide the domain of a row, and does not tokenize.
"""

from collections.abc import Callable, Iterator
import dataclasses
import gzip
import hashlib
import io
import json
from typing import Any, BinaryIO, TypedDict
import zlib

from etils import epath

from gopd_jax.data import conversations, embedded, formats, sources
from gopd_jax.data.messages import Message, Tools
from gopd_jax.data.sources import TINY, stem

# What a chat template sees of a row.
TEMPLATE_FIELDS = {*formats.PROMPT_KEYS, conversations.TOOLS, conversations.KWARGS}


class Row(TypedDict):
    """A checked row. "extra" holds the remaining fields, which have a JSON form.

    "tools" and "template_kwargs" are what the chat template is given besides the messages.
    """

    prompt_id: str
    messages: list[Message]
    ground_truth: str
    extra: dict[str, Any]
    tools: Tools | None
    template_kwargs: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Scanned:
    """A row, or what is wrong with it.

    where: file and line.
    format: name of its format, "" if none was recognized.
    row: the row, or None if it is bad.
    error: what is wrong with a bad row.
    """

    where: str
    format: str = ""
    row: Row | None = None
    error: str = ""


def fingerprint(source: str, version: str) -> str:
    """Returns the sha256 hex of everything that decides the prompts of a source.

    Args:
        source: see `sources`. Its content counts uncompressed, and so does its stem, which is part
            of the prompt ids.
        version: of the reader.
    """
    contents = []
    for file in sources.files(source):
        try:
            with _open(file) as stream:
                contents.append(hashlib.file_digest(stream, "sha256").hexdigest())
        except (EOFError, zlib.error, gzip.BadGzipFile):
            # A truncated file is hashed as it is; `scan` reports what is wrong with it.
            with epath.Path(file).open("rb") as stream:
                contents.append(hashlib.file_digest(stream, "sha256").hexdigest())
    content = contents[0] if len(contents) == 1 else contents
    return hashlib.sha256(json.dumps([version, stem(source), content]).encode()).hexdigest()


def read(
    source: str, bad: Callable[[str], None] | None = None, prompt_alone: bool = False
) -> Iterator[Row]:
    """Yields the checked rows of a source in order.

    Args:
        source: see `sources`.
        bad: called with a description of each bad row, which is then skipped.
        prompt_alone: a row needs no ground truth.

    Raises:
        ValueError: no such source, no rows, or a bad row if `bad` is None.
    """
    count = 0
    for scanned in scan(source, prompt_alone):
        if scanned.row is not None:
            count += 1
            yield scanned.row
        elif bad is None:
            raise ValueError(f"{scanned.where}: {scanned.error}")
        else:
            bad(f"{scanned.where}: {scanned.error}")
    if not count:
        can = "" if bad is None else " that can be read"
        raise ValueError(f"{source}: no rows{can}, expected at least one")


def scan(source: str, prompt_alone: bool = False) -> Iterator[Scanned]:
    """Yields every row of a source in order, good or bad.

    A file that cannot be read to its end counts as one bad row at that place, and reading continues
    with the next file. A row without a "prompt_id" gets the stem and its row number, which counts
    from 0 in each file and includes bad rows.
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
                name, row = _parse(raw, f"{prefix}/{number:06d}", prompt_alone)
            except ValueError as error:
                yield Scanned(where, error=str(error))
                continue
            first = taken.setdefault(row["prompt_id"], where)
            if first == where:
                yield Scanned(where, name, row)
            else:
                error = f"prompt_id {row['prompt_id']!r} is already taken by {first}"
                yield Scanned(where, name, error=error)


def json_line(line: bytes) -> Any:
    """The content of a line of JSON, in UTF-8 with or without a byte order mark.

    Raises:
        ValueError: it is anything else.
    """
    try:
        # Decoded here, because json.loads takes bytes with zeros for UTF-16 or UTF-32.
        return json.loads(line.decode("utf-8-sig").strip())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"not valid JSON: {error}; expected one object for each line, in UTF-8"
        ) from error


def parse(raw: Any, default_id: str) -> Row:
    """Checks one raw row.

    Args:
        raw: the row as its file holds it.
        default_id: prompt id of a row that has none.

    Raises:
        ValueError: says what is wrong with the row.
    """
    return _parse(raw, default_id)[1]


def _parse(raw: Any, default_id: str, prompt_alone: bool = False) -> tuple[str, Row]:
    """The name of a row's format, and the row."""
    if not isinstance(raw, dict):
        raise ValueError(
            f"a row must be an object, this one is {type(raw).__name__}: expected one object for "
            "each line"
        )
    raw = dict(raw)
    prompt_id = formats.text_of(raw.pop("prompt_id", default_id), "prompt_id", convert=False)
    parsed = formats.read(raw, prompt_alone)
    try:
        json.dumps(parsed.extra)
    except TypeError as error:
        raise ValueError(
            f"a field beside prompt and ground truth has no JSON form: {error}"
        ) from error
    row = Row(
        prompt_id=prompt_id,
        messages=parsed.messages,
        ground_truth=parsed.ground_truth,
        extra=parsed.extra,
        tools=parsed.tools,
        template_kwargs=parsed.template_kwargs,
    )
    return parsed.format, row


def _open(file: str) -> BinaryIO:
    if file.startswith(TINY):
        name, _, split = file.removeprefix(TINY).partition("/")
        return io.BytesIO(embedded.json_lines(name, split))
    stream = epath.Path(file).open("rb")
    return gzip.open(stream) if file.endswith(".gz") else stream


def _raw_rows(file: str) -> Iterator[tuple[str, Any]]:
    """Place and content of each row; a row that cannot be read is a ValueError."""
    with _open(file) as stream:
        yield from (_parquet_rows if file.endswith(".parquet") else _json_rows)(stream, file)


def _json_rows(stream: BinaryIO, file: str) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                raw = json_line(line)
            except ValueError as error:
                raw = error
            yield f"{file}:{number}", raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield f"{file}:{number + 1}", ValueError(f"not a whole gzip file ({error})")


def _parquet_rows(stream: BinaryIO, file: str) -> Iterator[tuple[str, Any]]:
    # Imported here because it takes 0.3 s, and most sources are JSON lines.
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        # Small batches, because some rows hold megabytes.
        for batch in pq.ParquetFile(stream).iter_batches(batch_size=1024):
            for raw in batch.to_pylist():
                # pandas writes its index as a column, which says nothing about the prompt.
                row = {k: v for k, v in raw.items() if not k.startswith("__index_level_")}
                for key in TEMPLATE_FIELDS & row.keys():
                    row[key] = conversations.without_nulls(row[key])
                yield f"{file} row {number}", row
                number += 1
    except (pa.ArrowException, OSError) as error:
        where = f"{file} row {number}" if number else file
        yield where, ValueError(f"not a readable parquet file: {error}")
