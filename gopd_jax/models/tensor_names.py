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

    path: keys in the parameter tree. shape: of one layer where `layers` is not None, else of the parameter.
    name: tensor name, "{}" standing for the layer number. groups: which of our axes make up each axis of the tensor.
    layers: L when the parameter is stacked on a leading axis, else None.
    """

    path: Path
    name: str
    groups: Groups
    shape: tuple[int, ...]
    layers: int | None

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        return tuple(math.prod(self.shape[a] for a in group) for group in self.groups)

    def tensor_names(self) -> list[str]:
        return [self.name.format(i) for i in range(self.layers)] if self.layers is not None else [self.name]

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
        return part[tuple(slice(*bounds[a]) if a in whole else slice(None) for a in range(len(self.shape)))]

    def write(self, value: np.ndarray) -> np.ndarray:
        """The tensor of one layer's value. Contiguous: safetensors writes the memory behind an array and ignores strides."""
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
    block |= {("attention", *path): (f"self_attn.{name}", groups) for path, (name, groups) in attention.items()}
    block |= {("mlp", part): (f"mlp.{part}_proj.weight", TRANSPOSED) for part in ("gate", "up", "down")}

    rules: dict[Path, tuple[str, Groups]] = {
        ("embedding",): ("model.embed_tokens.weight", PLAIN_MATRIX),
        ("final_norm", "scale"): ("model.norm.weight", PLAIN_VECTOR),
    }
    rules |= {("layers", *path): ("model.layers.{}." + name, groups) for path, (name, groups) in block.items()}
    if not config.tied_embeddings:
        rules[("head",)] = ("lm_head.weight", PLAIN_MATRIX)

    rows = []
    for keys, leaf in jax.tree_util.tree_leaves_with_path(abstract_params(config)):
        path = tuple(k.key for k in keys)
        stacked = path[0] == "layers"
        name, groups = rules.pop(path)
        rows.append(Row(path, name, groups, leaf.shape[1:] if stacked else leaf.shape, config.layers if stacked else None))
    assert not rules, f"rows without a parameter: {sorted(rules)}"
    return rows
