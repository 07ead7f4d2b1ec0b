"""Hugging Face weights out: a parameter tree becomes a folder that transformers and vLLM load.

Written beside its destination and renamed when complete, so a folder with the final name is whole.
"""

from collections.abc import Iterator
import functools
import json
import os
from pathlib import Path
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file
import transformers

from gopd_jax.models.config import ModelConfig, from_hf, to_hf
from gopd_jax.models.huggingface import INDEX, SINGLE, local_folder
from gopd_jax.models.tensor_names import Row, table

SHARD_BYTES = 4 * 10**9
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# Qwen's tokenizer is vocab.json + merges.txt, Llama 2's tokenizer.model; templates moved out of tokenizer_config.json in 2025.
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
    """The folder to write, or the ValueError that `save_pretrained` raises about it."""
    if "://" in str(out):  # Path would take it for a local folder named "gs:"
        raise ValueError(
            f"cannot write to {out}: wanted a folder of this machine, to be copied from there"
        )
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f"will not overwrite {out}: wanted a folder that does not exist yet, or an empty one"
        )
    return out


def save_pretrained(
    out: str | Path,
    config: ModelConfig,
    params: Any,
    dtype: str = "bfloat16",
    tokenizer_from: str | Path | None = None,
    token_ids: dict[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Writes config.json, generation_config.json, safetensors and tokenizer files; returns the folder.

    Args:
        out: folder to make; must not exist, or be empty.
        params: tree like `decoder.abstract_params(config)`, jax or numpy arrays, any float dtype, any sharding of this process.
        dtype: of the tensors written, "bfloat16", "float16" or "float32"; also config.json's dtype.
        tokenizer_from: folder or hub id of the model that the parameters started from: its tokenizer files, chat template and
            generation_config.json are copied, and its bos, eos and pad ids go into config.json.
        token_ids: bos_token_id, eos_token_id, pad_token_id; where given, they win over those of `tokenizer_from`.
        shard_bytes: largest file. One file's tensors are in host memory at a time.

    Raises:
        ValueError: `out` is a URL, a file, or a folder with something in it, or `params` are spread over several processes.
    """
    out = check_free(out)
    if not all(getattr(p, "is_fully_addressable", True) for p in jax.tree.leaves(params)):
        raise ValueError(
            "parameters are spread over several processes: save a Hugging Face folder from a single process"
        )
    source = (
        None
        if tokenizer_from is None
        else local_folder(tokenizer_from, (*TOKENIZER_FILES, "*config.json"))
    )
    ids = (_token_ids(source) if source else {}) | (token_ids or {})

    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    partial.mkdir()
    try:
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
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return out


def _token_ids(source: Path) -> dict[str, Any]:
    ids: dict[str, Any] = {}
    for name in (
        "generation_config.json",
        "config.json",
    ):  # the second wins: vLLM and old transformers read it alone
        if (source / name).is_file():
            found = json.loads((source / name).read_text())
            ids |= {key: found[key] for key in TOKEN_IDS if found.get(key) is not None}
    return ids


def _write_config(folder: Path, config: ModelConfig, dtype: str, ids: dict[str, Any]) -> None:
    written = to_hf(config, dtype=dtype, **ids).to_diff_dict()
    # transformers 4 and older vLLM know neither `rope_parameters` nor `dtype`: they would silently take rope_theta = 10000.
    rope = dict(written["rope_parameters"])
    written["rope_theta"] = rope.pop("rope_theta")
    written["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    written["torch_dtype"] = dtype
    if config.experts:
        written["num_experts"] = (
            config.experts
        )  # transformers 5 writes num_local_experts, which the others do not know
    (folder / "config.json").write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
    again = from_hf(transformers.AutoConfig.from_pretrained(folder), str(folder))
    assert again == config, f"config.json does not say what was meant: {again} is not {config}"


def _write_weights(
    folder: Path, config: ModelConfig, params: Any, dtype: str, shard_bytes: int
) -> None:
    shards = _plan(config, jnp.dtype(dtype).itemsize, shard_bytes)
    weight_map, total = {}, 0
    for number, shard in enumerate(shards, start=1):
        file = (
            SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        )
        tensors = {name: row.write(_value(params, row, index, dtype)) for name, row, index in shard}
        save_file(
            tensors, folder / file, metadata={"format": "pt"}
        )  # transformers refuses a file without this
        (folder / file).chmod(
            (folder / "config.json").stat().st_mode
        )  # safetensors makes files that only the owner may read
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(t.nbytes for t in tensors.values())
        del tensors  # before the next one is gathered
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _plan(
    config: ModelConfig, itemsize: int, shard_bytes: int
) -> list[list[tuple[str, Row, tuple[int, ...]]]]:
    """Tensors of each file, layer after layer as Hugging Face orders them, none above `shard_bytes` unless one tensor is."""
    shards: list[list[tuple[str, Row, tuple[int, ...]]]] = [[]]
    size = 0
    for name, row, index in _in_order(table(config)):
        nbytes = int(np.prod(row.shape)) * itemsize
        if shards[-1] and size + nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append((name, row, index))
        size += nbytes
    return shards


def _in_order(rows: list[Row]) -> Iterator[tuple[str, Row, tuple[int, ...]]]:
    stacked = [row for row in rows if row.stack]
    yield from ((row.name, row, ()) for row in rows if row.path == ("embedding",))
    for layer in range(stacked[0].stack[0]):
        for row in stacked:
            for index in np.ndindex(row.stack[1:]):
                yield row.name.format(layer, *index), row, (layer, *index)
    yield from ((row.name, row, ()) for row in rows if not row.stack and row.path != ("embedding",))


def _value(params: Any, row: Row, index: tuple[int, ...], dtype: str) -> np.ndarray:
    """One tensor's value on the host: sliced and cast on device, so a sharded stack is never gathered."""
    leaf = params
    for key in row.path:
        leaf = leaf[key]
    if isinstance(leaf, np.ndarray):
        return np.asarray(leaf[index], jnp.dtype(dtype))
    return np.asarray(_slice(leaf, index, jnp.dtype(dtype)))


# The index is an argument, not a constant: one program for each parameter instead of one for each layer.
@functools.partial(jax.jit, static_argnums=2)
def _slice(p: jax.Array, index: tuple[int, ...], dtype: Any) -> jax.Array:
    for i in index:
        p = jax.lax.dynamic_index_in_dim(p, i, keepdims=False)
    return p.astype(dtype)
