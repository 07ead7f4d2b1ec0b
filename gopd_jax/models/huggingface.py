"""Hugging Face weights in: a folder of safetensors, or a hub id, becomes a sharded parameter tree.

Tensors are read one after the other, each device's part straight into the target dtype. Besides
the page cache of the files, host memory holds one device's part of one stacked parameter at a time,
so a model larger than the host's memory can be loaded onto a slice. Of a tensor that is split among
processes, each reads its own part.
"""

from collections.abc import Iterable, Mapping, Sequence
import concurrent.futures
import contextlib
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from flax.traverse_util import flatten_dict, unflatten_dict
import huggingface_hub
import jax
from jax.sharding import SingleDeviceSharding
from jax.typing import DTypeLike
import numpy as np
from safetensors import SafetensorError, safe_open

from gopd_jax.models.config import ModelConfig, refuse_path
from gopd_jax.models.tensor_names import Row, StoredTensor, table
from gopd_jax.runtime.errors import brief
from gopd_jax.runtime.files import read_json
from gopd_jax.runtime.object_store import local_copy
from gopd_jax.runtime.processes import shared
from gopd_jax.types import Params

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = ("F32", "F16", "BF16")
WEIGHT_FILES = ("*.json", "*.safetensors")
READERS = 8  # tensors that are hashed at once


def local_folder(path: str | Path, patterns: tuple[str, ...] = WEIGHT_FILES) -> Path:
    """A local folder as it is, or the local copy of a folder on gs:// or of a hub id.

    Args:
        path: local folder, folder on an object store, or hub id.
        patterns: file names of the hub id to download, unless they are in the cache already.

    Raises:
        ValueError: neither a folder nor a hub id that can be downloaded.
    """
    path = local_copy(str(path))
    if Path(path).is_dir():
        return Path(path)
    refuse_path(path)
    try:
        folder = huggingface_hub.snapshot_download(
            str(path), allow_patterns=list(patterns), ignore_patterns=["*/*"]
        )
    # No network, no such repository, no permission, or not shaped like a hub id.
    except (OSError, ValueError) as e:
        reason = brief(e)
        raise ValueError(
            f"cannot find model {str(path)!r}: expected a local folder, or a hub id that can be "
            f"downloaded ({reason})"
        ) from e
    return Path(folder)


def load_params(
    path: str | Path,
    config: ModelConfig,
    dtype: DTypeLike,
    shardings: Params | jax.sharding.Sharding,
) -> Params:
    """Reads a checkpoint into the tree of `decoder.abstract_params(config)`.

    Args:
        path: local folder or hub id, with model.safetensors, or model.safetensors.index.json and
            its shards; float32, float16 or bfloat16.
        config: the architecture.
        dtype: of the returned parameters, whatever the dtype of the files.
        shardings: a tree of shardings like the parameters, or one sharding for all.

    Raises:
        ValueError: there are no weights, or tensors are missing, unexpected, in two files, or have
            the wrong shape or dtype. The message names them. The headers of the files are checked
            before any tensor is read. Also a tensor that is not finite in `dtype`.
    """
    rows = table(config)
    if isinstance(shardings, jax.sharding.Sharding):
        by_path = {row.path: shardings for row in rows}
    else:
        by_path = flatten_dict(shardings)
    folder = local_folder(path)
    with contextlib.ExitStack() as stack:
        tensors = {name: handle.get_slice(name) for name, handle in _open(folder, stack).items()}
        _check(rows, tensors, config, folder)
        kind = np.dtype(dtype)
        try:
            params = {row.path: _load(row, tensors, kind, by_path[row.path]) for row in rows}
        except ValueError as e:
            raise ValueError(f"{folder}: {e}") from e
        return unflatten_dict(params)


def check_tensors(path: str | Path, config: ModelConfig) -> None:
    """Checks the headers of a checkpoint's files, as `load_params` does; reads no tensor.

    Raises:
        ValueError: see `load_params`.
    """
    folder = local_folder(path)
    with contextlib.ExitStack() as stack:
        tensors = {name: handle.get_slice(name) for name, handle in _open(folder, stack).items()}
        _check(table(config), tensors, config, folder)


def _load(
    row: Row, tensors: Mapping[str, StoredTensor], dtype: np.dtype, sharding: jax.sharding.Sharding
) -> jax.Array:
    """One parameter; `tensors` are the slices of the open files, by tensor name."""
    shape = (*row.stack, *row.shape)
    holders: dict[tuple, list[jax.Device]] = {}  # a part that several devices hold is read once
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        bounds = tuple(s.indices(size)[:2] for s, size in zip(index, shape, strict=True))
        holders.setdefault(bounds, []).append(device)
    pieces, kind = {}, sharding.memory_kind
    for bounds, devices in holders.items():
        part = _part(row, tensors, dtype, [slice(*pair) for pair in bounds])
        pieces |= {
            d: jax.device_put(part, SingleDeviceSharding(d, memory_kind=kind)) for d in devices
        }
        jax.block_until_ready(list(pieces.values()))  # the part is read by then, and freed
    arrays = [pieces[device] for device in sharding.addressable_devices_indices_map(shape)]
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays, dtype=dtype)


def _part(
    row: Row, tensors: Mapping[str, StoredTensor], dtype: np.dtype, index: list[slice]
) -> np.ndarray:
    """What a device holds of a parameter."""
    above, inside = index[: len(row.stack)], tuple(index[len(row.stack) :])
    numbers = [range(size)[s] for size, s in zip(row.stack, above, strict=True)]
    lengths = [len(range(size)[s]) for size, s in zip(row.shape, inside, strict=True)]
    stacked = np.empty((*map(len, numbers), *lengths), dtype)
    for place in np.ndindex(stacked.shape[: len(row.stack)]):
        name = row.name.format(*(n[i] for n, i in zip(numbers, place, strict=True)))
        with np.errstate(over="ignore"):  # found by the next line
            stacked[place] = row.read(tensors[name], inside)
        if not np.isfinite(stacked[place]).all():
            raise ValueError(f"tensor {name} is not finite: expected neither NaN nor inf")
    return stacked


def _open(folder: Path, stack: contextlib.ExitStack) -> dict[str, safe_open]:
    """The open file of each tensor, by tensor name; `stack` closes the files."""
    handles: dict[str, safe_open] = {}
    holders: dict[str, str] = {}
    for file in _files(folder):
        try:
            handle = stack.enter_context(safe_open(folder / file, framework="np"))
        except (OSError, SafetensorError) as e:
            raise ValueError(
                f"{folder}: cannot read {file}, expected a safetensors file ({e})"
            ) from e
        twice = [name for name in handle.keys() if name in holders]
        if twice:
            where = _some(f"{name} (in {holders[name]} and {file})" for name in twice)
            raise ValueError(f"{folder}: duplicate tensors, expected each in one file: {where}")
        handles |= dict.fromkeys(handle.keys(), handle)
        holders |= dict.fromkeys(handle.keys(), file)
    return handles


def _files(folder: Path) -> list[str]:
    """Names of the safetensors files of a checkpoint."""
    single, index = (folder / SINGLE).is_file(), (folder / INDEX).is_file()
    if single and index:
        raise ValueError(
            f"{folder}: both {SINGLE} and {INDEX}, so every tensor would be a duplicate: expected "
            "one of the two"
        )
    if index:
        files = read_json(folder / INDEX, weight_map=dict)["weight_map"].values()
        strange = [f for f in files if not isinstance(f, str) or Path(f).name != f]
        if strange or not files:
            given = f"{strange[0]!r}" if strange else "nothing"
            raise ValueError(
                f"{folder / INDEX} is damaged: expected names of files in its 'weight_map', not "
                f"{given}"
            )
        return sorted(set(files))
    if single:
        return [SINGLE]
    held = _some(sorted(p.name for p in folder.iterdir()))
    raise ValueError(f"{folder}: no weights, expected {SINGLE} or {INDEX}; it holds {held}")


def _check(
    rows: list[Row], tensors: Mapping[str, StoredTensor], config: ModelConfig, folder: Path
) -> None:
    """Raises ValueError unless the tensors are exactly those of the table, in a float dtype."""
    expected = {name: row for row in rows for name in row.tensor_names()}
    missing = [
        f"{name} {list(row.tensor_shape)} (our {'/'.join(row.path)})"
        for name, row in expected.items()
        if name not in tensors
    ]
    unexpected = [
        name for name in tensors if name not in expected and not _ignorable(name, tensors, config)
    ]
    if missing:
        others = f"; the files hold, mapped to nothing: {_some(unexpected)}" if unexpected else ""
        raise ValueError(
            f"{folder}: missing tensors, expected in a {config.family}: {_some(missing)}{others}"
        )
    if unexpected:
        raise ValueError(
            f"{folder}: unexpected tensors, which map to nothing in a {config.family} "
            f"(tied_embeddings={config.tied_embeddings}): {_some(unexpected)}"
        )
    shapes = {name: tuple(tensors[name].get_shape()) for name in expected}
    wrong = [
        f"{name} is {list(shapes[name])}, expected {list(row.tensor_shape)} "
        f"(our {'/'.join(row.path)} {list(row.shape)})"
        for name, row in expected.items()
        if shapes[name] != row.tensor_shape
    ]
    if wrong:
        raise ValueError(f"{folder}: wrong shapes: {_some(wrong)}")
    dtypes = {name: tensors[name].get_dtype() for name in expected}
    strange = [f"{name} is {dtype}" for name, dtype in dtypes.items() if dtype not in FLOATS]
    if strange:
        raise ValueError(f"{folder}: wrong dtypes, expected one of {FLOATS}: {_some(strange)}")


def _ignorable(name: str, tensors: Mapping[str, StoredTensor], config: ModelConfig) -> bool:
    """Whether a tensor without a row may be skipped.

    Some files hold the head beside a tied embedding; old versions of transformers saved the rotary
    frequencies.
    """
    if name == "lm_head.weight" and config.tied_embeddings:
        return tuple(tensors[name].get_shape()) == (config.vocab_size, config.width)
    return name.endswith("rotary_emb.inv_freq")


def weights_fingerprint(path: str | Path) -> str:
    """sha256 of the tensors of a checkpoint: their names, dtypes, shapes and bytes, sorted by name.

    It does not depend on file names, sharding into files or metadata, so the same weights saved in
    other shards have the same fingerprint. One changed bit, another dtype or a renamed tensor
    changes it. Each host reads its share of the tensors, several at once, one MiB at a time.

    Returns:
        64 hexadecimal digits.
    """
    folder = local_folder(path)
    tensors: dict[str, _Bytes] = {}
    with contextlib.ExitStack() as stack:
        _open(folder, stack)  # for its errors: no weights, not safetensors, duplicates
    for file in _files(folder):
        with open(folder / file, "rb") as f:
            header_size = int.from_bytes(f.read(8), "little")
            header = json.loads(f.read(header_size))
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = (8 + header_size + offset for offset in entry["data_offsets"])
                tensors[name] = _Bytes(folder / file, begin, end, (entry["dtype"], entry["shape"]))
    ordered = sorted(tensors.items())
    found = shared(_digests, [of_tensor for _, of_tensor in ordered])
    digest = hashlib.sha256()
    for (name, of_tensor), sha256 in zip(ordered, found, strict=True):
        digest.update(json.dumps([name, *of_tensor.kind, sha256]).encode())
    return digest.hexdigest()


class _Bytes(NamedTuple):
    """Where the bytes of a tensor are: from `begin` to `end` of a file; and its dtype and shape."""

    file: Path
    begin: int
    end: int
    kind: tuple[str, list[int]]


def _digests(tensors: Sequence[_Bytes]) -> list[str]:
    """sha256 hex of the bytes of each tensor."""

    def one(tensor: _Bytes) -> str:
        digest = hashlib.sha256()
        with open(tensor.file, "rb") as f:
            f.seek(tensor.begin)
            for offset in range(tensor.begin, tensor.end, 2**20):
                digest.update(f.read(min(2**20, tensor.end - offset)))
        return digest.hexdigest()

    with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(one, tensors))


def _some(names: Iterable[str], limit: int = 4) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
