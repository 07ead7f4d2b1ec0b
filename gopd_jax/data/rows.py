"""Source files -> rows in one schema, every row checked.

In: a path (`.jsonl`, `.jsonl.gz`, `.parquet` in the verl schema) or `tiny:NAME/SPLIT`, rows made by `gopd_jax.tiny.tasks`.
Out: dicts with "prompt_id", "messages", "ground_truth" and "extra"; the first bad row is a ValueError with file and line.
The domain of a row is not decided here, and nothing is tokenised.
"""

from collections.abc import Iterator
import gzip
import hashlib
import io
import json
import math
import re
from typing import Any, BinaryIO
import zlib

from etils import epath

PROMPT_KEYS = ("messages", "prompt", "question", "problem")
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?")


def stem(source: str) -> str:
    """What prompt ids of this source begin with: the file name without its suffix, or NAME/SPLIT."""
    if source.startswith("tiny:"):
        return source.removeprefix("tiny:")
    return epath.Path(source).name.removesuffix(".gz").rsplit(".", 1)[0]


def fingerprint(source: str, version: str) -> str:
    """sha256 hex of what decides the prompts: content (unpacked), the stem, which is in the prompt ids, and the reader."""
    try:
        with _open(source) as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{source}: not a whole gzip file ({error})") from error
    return hashlib.sha256(json.dumps([version, stem(source), content]).encode()).hexdigest()


def read(source: str) -> Iterator[dict[str, Any]]:
    """Yields the checked rows of `source` in order; the row number in a default prompt id counts from 0."""
    taken: dict[str, str] = {}
    with _open(source) as file:
        pairs = _parquet_rows(file, source) if source.endswith(".parquet") else _json_rows(file, source)
        for number, (where, raw) in enumerate(pairs):
            try:
                row = parse(raw, default_id=f"{stem(source)}/{number:06d}")
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            first = taken.setdefault(row["prompt_id"], where)
            if first != where:
                raise ValueError(f"{where}: prompt_id {row['prompt_id']!r} is already taken by {first}")
            yield row
    if not taken:
        raise ValueError(f"{source}: no rows")


def parse(raw: Any, default_id: str) -> dict[str, Any]:
    """One raw row -> {"prompt_id", "messages", "ground_truth", "extra"}, or a ValueError that says what is wrong."""
    if not isinstance(raw, dict):
        raise ValueError(f"a row must be an object, this one is {type(raw).__name__}")
    extra = dict(raw)
    prompt_id = _text(extra.pop("prompt_id", default_id), "prompt_id")
    key = next((key for key in PROMPT_KEYS if extra.get(key) is not None), None)
    if key is None:
        raise ValueError(f"no prompt: wanted one of {', '.join(PROMPT_KEYS)}, found {', '.join(raw) or 'an empty row'}")
    messages = _messages(extra.pop(key), key)
    ground_truth = _ground_truth(extra, question=key == "question")
    try:
        json.dumps(extra)
    except TypeError as error:
        raise ValueError(f"a field beside prompt and ground truth has no JSON form: {error}") from error
    return {"prompt_id": prompt_id, "messages": messages, "ground_truth": ground_truth, "extra": extra}


def _messages(value: Any, key: str) -> list[dict[str, str]]:
    if isinstance(value, str) and key != "messages":
        return [{"role": "user", "content": _text(value, key)}]
    if not isinstance(value, list):
        raise ValueError(f"{key} must be a list of messages{'' if key == 'messages' else ' or a string'}, not {value!r}")
    messages = []
    for index, message in enumerate(value):
        if not isinstance(message, dict):
            raise ValueError(f"{key}[{index}] must be an object with role and content, not {message!r}")
        unknown = [name for name, field in message.items() if name not in ("role", "content") and field is not None]
        if unknown:
            raise ValueError(f"{key}[{index}] has {', '.join(unknown)}: only role and content can be carried")
        messages.append({name: _text(message.get(name), f"{key}[{index}].{name}") for name in ("role", "content")})
    roles = [message["role"] for message in messages]
    if "user" not in roles or roles[-1] == "assistant":
        raise ValueError(f"{key} must hold a user message and not end with the assistant's, its roles are {roles}")
    return messages


def _ground_truth(extra: dict[str, Any], question: bool) -> str:
    """Takes the ground truth out of `extra` (in place): ground_truth, else verl's reward_model.ground_truth, else answer."""
    value = extra.pop("ground_truth", None)
    name, reward_model = "ground_truth", extra.get("reward_model")
    if value is None and isinstance(reward_model, dict):
        name, value = "reward_model.ground_truth", reward_model.get("ground_truth")
        extra["reward_model"] = {key: field for key, field in reward_model.items() if key != "ground_truth"}
    if value is None:
        name, value = "answer", extra.pop("answer", None)
        if question and isinstance(value, str) and "####" in value:  # GSM8K: reasoning, separator, final number
            extra["answer"] = value
            value = value.rsplit("####", 1)[1].strip()
            value = value.replace(",", "") if _THOUSANDS.fullmatch(value) else value
    if value is None:
        raise ValueError("no ground truth: wanted one of ground_truth, reward_model.ground_truth, answer")
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        value = str(value)
    return _text(value, name)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, not {value!r}")
    if not value.strip():
        raise ValueError(f"{name} is blank")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is not valid Unicode: {error}") from error
    return value


def _open(source: str) -> BinaryIO:
    if source.startswith("tiny:"):
        name, _, split = source.removeprefix("tiny:").partition("/")
        if not name or not split:
            raise ValueError(f"{source!r}: wanted tiny:NAME/SPLIT, for example tiny:math/train")
        from gopd_jax.tiny import tasks  # only the embedded world needs it

        return io.BytesIO(b"".join(json.dumps(row).encode() + b"\n" for row in tasks.records(name, split)))
    if not source.endswith(SUFFIXES):
        raise ValueError(f"{source!r}: wanted a file ending in {', '.join(SUFFIXES)}, or tiny:NAME/SPLIT")
    file = epath.Path(source).open("rb")
    return gzip.open(file) if source.endswith(".gz") else file


def _json_rows(file: BinaryIO, source: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        where = f"{source}:{number}"
        try:
            yield where, json.loads(line)
        except ValueError as error:  # malformed JSON, or bytes that are not UTF-8
            raise ValueError(f"{where}: not valid JSON: {error}") from error


def _parquet_rows(file: BinaryIO, source: str) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        batches = pq.ParquetFile(file).iter_batches()
        number = 0
        for batch in batches:
            for row in batch.to_pylist():
                # pandas writes its index as a column; it says nothing about the prompt
                yield f"{source} row {number}", {k: v for k, v in row.items() if not k.startswith("__index_level_")}
                number += 1
    except pa.ArrowException as error:
        raise ValueError(f"{source}: not a readable parquet file: {error}") from error
