"""The one table between our parameters and the tensors of a Hugging Face checkpoint; reading and writing both follow it.

A row says how the axes of one of our parameters (of one layer, where layers are stacked) are grouped into the axes of the
tensor: `query` [D, N, H] is q_proj.weight [N*H, D], so its groups are ((1, 2), (0,)). Shapes, slices, and the transposition in
both directions follow from that.
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import abstract_params

Path = tuple[str, ...]
Groups = tuple[tuple[int, ...], ...]

PLAIN_VECTOR: Groups = ((0,),)
PLAIN_MATRIX: Groups = ((0,), (1,))
TRANSPOSED: Groups = ((1,), (0,))  # ours is [in, out], a torch Linear is [out, in]
HEADS_OUT: Groups = ((1, 2), (0,))  # [D, N, H] -> [N*H, D]
HEADS_IN: Groups = ((2,), (0, 1))  # [N, H, D] -> [D, N*H]
HEADS_BIAS: Groups = ((0, 1),)  # [N, H] -> [N*H]


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter of ours and its tensor(s).

    path: keys in the parameter tree. stack: sizes of its leading axes along which tensors are stacked: () or (L,), for experts
    (L, E). shape: of what one tensor holds, without those axes.
    name: tensor name, a "{}" for the number on each of these axes. groups: which of our axes make up each axis of the tensor.
    """

    path: Path
    name: str
    groups: Groups
    shape: tuple[int, ...]
    stack: tuple[int, ...]

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        return tuple(math.prod(self.shape[a] for a in group) for group in self.groups)

    def tensor_names(self) -> list[str]:
        return [self.name.format(*index) for index in np.ndindex(self.stack)]

    def read(self, tensor: Any, index: tuple[slice, ...]) -> np.ndarray:
        """The part `index` (start, stop per axis of ours) of a tensor, read by slicing, so the rest never leaves the disk."""
        bounds = [s.indices(size)[:2] for s, size in zip(index, self.shape, strict=True)]
        cuts, sizes = [], []
        for group in self.groups:
            inner = math.prod(self.shape[a] for a in group[1:])
            start, stop = bounds[group[0]]
            cuts.append(slice(start * inner, stop * inner))
            sizes.extend([stop - start, *(self.shape[a] for a in group[1:])])
        order = [a for group in self.groups for a in group]
        part = tensor[tuple(cuts)].reshape(sizes).transpose(np.argsort(order))
        whole = {a for group in self.groups for a in group[1:]}  # read in full above, cut only now
        return part[
            tuple(slice(*bounds[a]) if a in whole else slice(None) for a in range(len(self.shape)))
        ]

    def write(self, value: np.ndarray) -> np.ndarray:
        """The tensor of one value. Contiguous: safetensors writes the memory behind an array and ignores strides."""
        order = [a for group in self.groups for a in group]
        return np.ascontiguousarray(value.transpose(order).reshape(self.tensor_shape))


def table(config: ModelConfig) -> list[Row]:
    """A row for every parameter of `decoder.abstract_params(config)`, in the order of the tree."""
    attention: dict[Path, tuple[str, Groups]] = {("out",): ("o_proj.weight", HEADS_IN)}
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
        attention[(ours,)] = (f"{theirs}_proj.weight", HEADS_OUT)
        if config.qkv_bias:
            attention[(f"{ours}_bias",)] = (f"{theirs}_proj.bias", HEADS_BIAS)
    if config.qk_norm:
        attention[("query_norm", "scale")] = ("q_norm.weight", PLAIN_VECTOR)
        attention[("key_norm", "scale")] = ("k_norm.weight", PLAIN_VECTOR)

    block: dict[Path, tuple[str, Groups]] = {
        ("attention_norm", "scale"): ("input_layernorm.weight", PLAIN_VECTOR),
        ("mlp_norm", "scale"): ("post_attention_layernorm.weight", PLAIN_VECTOR),
    }
    block |= {
        ("attention", *path): (f"self_attn.{name}", groups)
        for path, (name, groups) in attention.items()
    }
    where = "mlp.experts.{}" if config.experts else "mlp"
    block |= {
        ("mlp", part): (f"{where}.{part}_proj.weight", TRANSPOSED)
        for part in ("gate", "up", "down")
    }
    if config.experts:
        block[("mlp", "router")] = ("mlp.gate.weight", TRANSPOSED)

    rules: dict[Path, tuple[str, Groups]] = {
        ("embedding",): ("model.embed_tokens.weight", PLAIN_MATRIX),
        ("final_norm", "scale"): ("model.norm.weight", PLAIN_VECTOR),
    }
    rules |= {
        ("layers", *path): ("model.layers.{}." + name, groups)
        for path, (name, groups) in block.items()
    }
    if not config.tied_embeddings:
        rules[("head",)] = ("lm_head.weight", PLAIN_MATRIX)

    rows = []
    for keys, leaf in jax.tree_util.tree_leaves_with_path(abstract_params(config)):
        path = tuple(k.key for k in keys)
        name, groups = rules.pop(path)
        stacked = name.count("{}")
        rows.append(Row(path, name, groups, leaf.shape[stacked:], leaf.shape[:stacked]))
    assert not rules, f"rows without a parameter: {sorted(rules)}"
    return rows
