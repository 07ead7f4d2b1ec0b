"""Hugging Face weights out: a parameter tree becomes a folder that transformers and vLLM load.

The folder is written under another name beside its destination and renamed when it is complete, so
a folder with the final name is whole. Does not save parameters that are spread over several
processes.
"""

from collections.abc import Iterator
import contextlib
import functools
import json
import os
from pathlib import Path
import shutil

from flax.traverse_util import flatten_dict
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file
import transformers

from gopd_jax.models import exported
from gopd_jax.models.config import ModelConfig, from_hf, to_hf
from gopd_jax.models.huggingface import INDEX, SINGLE, local_folder
from gopd_jax.models.tensor_names import Row, table
from gopd_jax.runtime.files import JsonObject, cannot_write, check_output, read_json, replace_json
from gopd_jax.types import Params

# One tensor of a file: its name, its row in the table, its index on the parameter's stacked axes.
Entry = tuple[str, Row, tuple[int, ...]]
TokenIds = dict[str, int | list[int]]  # by the names in TOKEN_IDS

SHARD_BYTES = 4 * 10**9
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# Qwen's tokenizer is vocab.json and merges.txt, Llama 2's is tokenizer.model. Chat templates have
# files of their own since 2025; before, they were in tokenizer_config.json.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)


def check_free(out: str | Path) -> Path:
    """Checks that `out` can be written, before the work of `save_pretrained`, and returns its path.

    Raises:
        ValueError: a URL, a file, or a folder that is not empty.
    """
    if "://" in str(out):  # Path would take it for a local folder named "gs:"
        raise ValueError(
            f"cannot write to {out}: expected a local folder, which you can copy from there"
        )
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f"will not overwrite {out}: expected a folder that does not exist yet, or an empty one"
        )
    check_output("--out", out / "config.json")
    return out


def save_pretrained(
    out: str | Path,
    config: ModelConfig,
    params: Params,
    dtype: str = "bfloat16",
    tokenizer_from: str | Path | None = None,
    token_ids: TokenIds | None = None,
    shard_bytes: int = SHARD_BYTES,
    card: str = "",
    made: JsonObject | None = None,
) -> Path:
    """Writes config.json, generation_config.json, safetensors and tokenizer files.

    Args:
        out: folder to create; must not exist, or be empty.
        config: the architecture.
        params: tree like `decoder.abstract_params(config)` of jax or numpy arrays, in any float
            dtype, with any sharding over devices of this process.
        dtype: of the written tensors, "bfloat16", "float16" or "float32"; config.json says it too.
        tokenizer_from: folder or hub id of the model that the parameters started from. Its
            tokenizer files, chat template and generation_config.json are copied, and its bos, eos
            and pad ids are written to config.json.
        token_ids: bos_token_id, eos_token_id and pad_token_id; they override those of
            `tokenizer_from`.
        shard_bytes: limit of a file's size; a larger tensor has a file of its own. The tensors of
            one file are in host memory at a time.
        card: text of README.md, the model card; empty writes none.
        made: content of gopd.json, see `models.exported`; None writes none.

    Returns:
        The folder.

    Raises:
        ValueError: see `check_free`, or `params` are spread over several processes, or one of
            them is not finite in `dtype`.
    """
    out = check_free(out)
    if not all(getattr(p, "is_fully_addressable", True) for p in jax.tree.leaves(params)):
        raise ValueError(
            "parameters are spread over several processes: expected all of them on devices of one "
            "process"
        )
    source = None
    if tokenizer_from is not None:
        source = local_folder(tokenizer_from, (*TOKENIZER_FILES, "*config.json"))
    ids = (_token_ids(source) if source else {}) | (token_ids or {})

    with complete_folder(out) as partial:
        _write_config(partial, config, dtype, ids)
        _write_weights(partial, config, params, dtype, shard_bytes)
        generation = source / "generation_config.json" if source else None
        if generation is not None and generation.is_file():
            shutil.copyfile(generation, partial / generation.name)
        else:
            transformers.GenerationConfig(**ids).save_pretrained(partial)
        for name in TOKENIZER_FILES if source else ():
            if (source / name).is_file():
                shutil.copyfile(source / name, partial / name)
        if made:
            replace_json(partial / exported.NAME, made)
        if card:
            (partial / "README.md").write_text(card, encoding="utf-8")
    return out


@contextlib.contextmanager
def complete_folder(out: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `out` when all is written; else nothing is left of it.

    Raises:
        OSError: a file cannot be written.
    """
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        yield partial
        # The helpers of `runtime.files` rename one file; this renames the whole folder, and
        # replaces `out` if it is an empty folder.
        os.replace(partial, out)
    except BaseException as e:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(e, OSError | SafetensorError):
            raise cannot_write(out, e) from e
        raise


def _token_ids(source: Path) -> TokenIds:
    """The bos, eos and pad ids of a model folder."""
    ids: TokenIds = {}
    # config.json overrides the other, because vLLM and old versions of transformers read it alone.
    for name in ("generation_config.json", "config.json"):
        if (source / name).is_file():
            found = read_json(source / name)
            ids |= {key: found[key] for key in TOKEN_IDS if found.get(key) is not None}
    return ids


def _write_config(folder: Path, config: ModelConfig, dtype: str, ids: TokenIds) -> None:
    written = to_hf(config, dtype=dtype, **ids).to_diff_dict()
    # transformers 4 and older vLLM do not read `rope_parameters` and `dtype`; without the old
    # fields they would silently use rope_theta = 10000.
    rope = dict(written["rope_parameters"])
    written["rope_theta"] = rope.pop("rope_theta")
    written["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    written["torch_dtype"] = dtype
    if config.experts:
        # transformers 5 writes num_local_experts, which transformers 4 and vLLM do not read.
        written["num_experts"] = config.experts
    (folder / "config.json").write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
    again = from_hf(transformers.AutoConfig.from_pretrained(folder), str(folder))
    assert again == config, f"config.json reads back as {again}, expected {config}"


def _write_weights(
    folder: Path, config: ModelConfig, params: Params, dtype: str, shard_bytes: int
) -> None:
    leaves = flatten_dict(params)
    shards = _plan(config, jnp.dtype(dtype).itemsize, shard_bytes)
    weight_map, total = {}, 0
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        if len(shards) == 1:
            file = SINGLE
        tensors = {
            name: row.write(_value(leaves[row.path], index, jnp.dtype(dtype)))
            for name, row, index in shard
        }
        for name, tensor in tensors.items():
            if not np.isfinite(tensor).all():
                raise ValueError(
                    f"tensor {name} is not finite in {dtype}: expected neither NaN nor inf; "
                    "nothing is written"
                )
        # transformers refuses a file without this metadata.
        save_file(tensors, folder / file, metadata={"format": "pt"})
        # safetensors creates files that only their owner may read.
        (folder / file).chmod((folder / "config.json").stat().st_mode)
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(t.nbytes for t in tensors.values())
        del tensors  # before those of the next file are gathered
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _plan(config: ModelConfig, itemsize: int, shard_bytes: int) -> list[list[Entry]]:
    """The tensors of each file; none is above `shard_bytes`, unless a single tensor is."""
    shards: list[list[Entry]] = [[]]
    size = 0
    for name, row, index in _in_order(table(config)):
        nbytes = int(np.prod(row.shape)) * itemsize
        if shards[-1] and size + nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append((name, row, index))
        size += nbytes
    return shards


def _in_order(rows: list[Row]) -> Iterator[Entry]:
    """All tensors, layer after layer, in the order of Hugging Face."""
    stacked = [row for row in rows if row.stack]
    yield from ((row.name, row, ()) for row in rows if row.path == ("embedding",))
    for layer in range(stacked[0].stack[0]):
        for row in stacked:
            for index in np.ndindex(row.stack[1:]):
                yield row.name.format(layer, *index), row, (layer, *index)
    yield from ((row.name, row, ()) for row in rows if not row.stack and row.path != ("embedding",))


def _value(
    parameter: jax.Array | np.ndarray, index: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """One tensor of a stacked parameter, on the host.

    It is sliced and cast on device, so a sharded stack is never gathered.
    """
    if isinstance(parameter, np.ndarray):
        return np.asarray(parameter[index], dtype)
    return np.asarray(_slice(parameter, index, dtype))


# The index is traced, so there is one program per parameter and not one per layer.
@functools.partial(jax.jit, static_argnums=2)
def _slice(p: jax.Array, index: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    for i in index:
        p = jax.lax.dynamic_index_in_dim(p, i, keepdims=False)
    return p.astype(dtype)
