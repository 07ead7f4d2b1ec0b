"""Hugging Face weights in: a folder of safetensors (or a hub id) becomes a sharded parameter tree.

Tensor by tensor, each device's part straight into the target dtype: host memory above the files' page cache stays at about
this process's part of one stacked parameter, so a model larger than the host's memory loads onto a slice.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import numpy as np
from safetensors import SafetensorError, safe_open

from gopd_jax.models.config import ModelConfig
from gopd_jax.models.tensor_names import Row, table

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = ("F32", "F16", "BF16")
WEIGHT_FILES = ("*.json", "*.safetensors")


def local_folder(path: str | Path, patterns: tuple[str, ...] = WEIGHT_FILES) -> Path:
    """The folder itself, or the files of a hub id that match `patterns`, downloaded unless they are in the cache.

    Raises:
        ValueError: neither a folder nor a hub id that can be had.
    """
    if Path(path).is_dir():
        return Path(path)
    try:
        return Path(
            huggingface_hub.snapshot_download(
                str(path), allow_patterns=list(patterns), ignore_patterns=["*/*"]
            )
        )
    except (
        OSError,
        ValueError,
    ) as e:  # no network, no such repository, no permission, not shaped like a hub id
        reason = " ".join(str(e).split())
        raise ValueError(
            f"cannot find model {str(path)!r}: not a folder here, nor a hub id that can be downloaded ({reason})"
        ) from e


def load_params(path: str | Path, config: ModelConfig, dtype: Any, shardings: Any) -> Any:
    """Reads a checkpoint into the tree of `decoder.abstract_params(config)`.

    Args:
        path: local folder or hub id, with model.safetensors or model.safetensors.index.json and its shards; float32, float16
            or bfloat16.
        dtype: of the parameters returned, whatever that of the files.
        shardings: a tree of `jax.sharding.Sharding` like the parameters, or one for all.

    Raises:
        ValueError: no weights there; or tensors missing, unexpected, given twice, or of the wrong shape or dtype. The message
            names them. Checked against the files' headers before anything is read.
    """
    rows = table(config)
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = _tree({row.path: shardings for row in rows})
    folder = local_folder(path)
    with contextlib.ExitStack() as stack:
        tensors = {name: handle.get_slice(name) for name, handle in _open(folder, stack).items()}
        _check(rows, tensors, config, folder)
        return _tree(
            {
                row.path: _load(row, tensors, np.dtype(dtype), _at(shardings, row.path))
                for row in rows
            }
        )


def _load(
    row: Row, tensors: dict[str, Any], dtype: np.dtype, sharding: jax.sharding.Sharding
) -> jax.Array:
    parts: dict[Any, np.ndarray] = {}  # replicas of one part are read once

    def part(index: tuple[slice, ...]) -> np.ndarray:
        key = tuple((s.start, s.stop) for s in index)
        if key not in parts:
            above, inside = index[: len(row.stack)], index[len(row.stack) :]
            numbers = [range(size)[s] for size, s in zip(row.stack, above, strict=True)]
            lengths = [len(range(size)[s]) for size, s in zip(row.shape, inside, strict=True)]
            stacked = np.empty((*map(len, numbers), *lengths), dtype)
            for place in np.ndindex(stacked.shape[: len(row.stack)]):
                name = row.name.format(*(n[i] for n, i in zip(numbers, place, strict=True)))
                stacked[place] = row.read(tensors[name], inside)
            parts[key] = stacked
        return parts[key]

    return jax.make_array_from_callback((*row.stack, *row.shape), sharding, part)


def _open(folder: Path, stack: contextlib.ExitStack) -> dict[str, Any]:
    """Tensor name -> the open file that holds it."""
    handles: dict[str, Any] = {}
    holders: dict[str, str] = {}
    for file in _files(folder):
        try:
            handle = stack.enter_context(safe_open(folder / file, framework="np"))
        except (OSError, SafetensorError) as e:
            raise ValueError(
                f"{folder}: cannot read {file}, wanted a safetensors file ({e})"
            ) from e
        twice = [name for name in handle.keys() if name in holders]
        if twice:
            where = _some(f"{name} (in {holders[name]} and {file})" for name in twice)
            raise ValueError(f"{folder}: duplicate tensors, wanted each in one file: {where}")
        handles |= dict.fromkeys(handle.keys(), handle)
        holders |= dict.fromkeys(handle.keys(), file)
    return handles


def _files(folder: Path) -> list[str]:
    single, index = (folder / SINGLE).is_file(), (folder / INDEX).is_file()
    if single and index:
        raise ValueError(
            f"{folder}: both {SINGLE} and {INDEX}: every tensor would be a duplicate, remove one of the two"
        )
    if index:
        return sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    if single:
        return [SINGLE]
    raise ValueError(
        f"{folder}: no weights, wanted {SINGLE} or {INDEX}; it holds {_some(sorted(p.name for p in folder.iterdir()))}"
    )


def _check(rows: list[Row], tensors: dict[str, Any], config: ModelConfig, folder: Path) -> None:
    wanted = {name: row for row in rows for name in row.tensor_names()}
    missing = [
        f"{name} {list(row.tensor_shape)} (our {'/'.join(row.path)})"
        for name, row in wanted.items()
        if name not in tensors
    ]
    unexpected = [
        name for name in tensors if name not in wanted and not _ignorable(name, tensors, config)
    ]
    if missing:
        others = f"; the files hold, mapped to nothing: {_some(unexpected)}" if unexpected else ""
        raise ValueError(
            f"{folder}: missing tensors, wanted by a {config.family}: {_some(missing)}{others}"
        )
    if unexpected:
        raise ValueError(
            f"{folder}: unexpected tensors, nothing in a {config.family} (tied_embeddings={config.tied_embeddings}) "
            f"maps to them: {_some(unexpected)}"
        )
    shapes = {name: tuple(tensors[name].get_shape()) for name in wanted}
    wrong = [
        f"{name} is {list(shapes[name])}, wanted {list(row.tensor_shape)} (our {'/'.join(row.path)} {list(row.shape)})"
        for name, row in wanted.items()
        if shapes[name] != row.tensor_shape
    ]
    if wrong:
        raise ValueError(f"{folder}: wrong shapes: {_some(wrong)}")
    dtypes = {name: tensors[name].get_dtype() for name in wanted}
    strange = [f"{name} is {dtype}" for name, dtype in dtypes.items() if dtype not in FLOATS]
    if strange:
        raise ValueError(f"{folder}: wrong dtypes, wanted one of {FLOATS}: {_some(strange)}")


def _ignorable(name: str, tensors: dict[str, Any], config: ModelConfig) -> bool:
    """The head saved beside a tied embedding, and the rotary frequencies that old transformers saved as buffers."""
    if name == "lm_head.weight" and config.tied_embeddings:
        return tuple(tensors[name].get_shape()) == (config.vocab_size, config.width)
    return name.endswith("rotary_emb.inv_freq")


def weights_fingerprint(path: str | Path) -> str:
    """sha256 (hex) of the tensors of a checkpoint: for each name in sorted order, the name, dtype, shape and bytes.

    File names, sharding into files and metadata do not enter, so the same weights saved in other shards keep their fingerprint;
    one changed bit, another dtype or a renamed tensor changes it. Streamed, one MiB at a time.
    """
    folder = local_folder(path)
    where: dict[str, tuple[Path, int, dict[str, Any]]] = {}
    with contextlib.ExitStack() as stack:
        _open(folder, stack)  # for its errors: no weights, not safetensors, duplicates
    for file in _files(folder):
        with open(folder / file, "rb") as f:
            header_size = int.from_bytes(f.read(8), "little")
            header = json.loads(f.read(header_size))
        where |= {
            name: (folder / file, 8 + header_size, entry)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    digest = hashlib.sha256()
    for name in sorted(where):
        file, base, entry = where[name]
        begin, end = entry["data_offsets"]
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        with open(file, "rb") as f:
            f.seek(base + begin)
            for offset in range(begin, end, 2**20):
                digest.update(f.read(min(2**20, end - offset)))
    return digest.hexdigest()


def _tree(leaves: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _some(names: Any, limit: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (
        f" and {len(names) - limit} more" if len(names) > limit else ""
    )
