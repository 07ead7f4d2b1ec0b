"""The table between our parameters and the tensors of a Hugging Face checkpoint.

Reading and writing both follow it. A row says how the axes of one parameter, without the stacked
ones, are grouped into the axes of the tensor: `query` [D, N, H] is q_proj.weight [N*H, D], so its
groups are ((1, 2), (0,)). Shapes, slices, and the transposition in both directions follow from the
groups. Does not read or write files.
"""

import dataclasses
import math
from typing import Protocol

import jax
import numpy as np

from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import abstract_params

Path = tuple[str, ...]
Groups = tuple[tuple[int, ...], ...]

PLAIN_VECTOR: Groups = ((0,),)
PLAIN_MATRIX: Groups = ((0,), (1,))
TRANSPOSED: Groups = ((1,), (0,))  # ours is [in, out], that of a torch Linear is [out, in]
HEADS_OUT: Groups = ((1, 2), (0,))  # [D, N, H] -> [N*H, D]
HEADS_IN: Groups = ((2,), (0, 1))  # [N, H, D] -> [D, N*H]
HEADS_BIAS: Groups = ((0, 1),)  # [N, H] -> [N*H]


class StoredTensor(Protocol):
    """A tensor of an open safetensors file, read by slicing."""

    def get_shape(self) -> list[int]: ...

    def get_dtype(self) -> str: ...

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter and its tensor, or the tensors that are stacked in it.

    path: keys in the parameter tree.
    name: tensor name, with a "{}" for the index on each stacked axis.
    groups: for each axis of the tensor, the axes of the parameter that make it up.
    shape: of the parameter without its stacked axes.
    stack: sizes of the stacked axes, which lead: () for one tensor, (L,) for one per layer, (L, E)
        for one per layer and expert.
    """

    path: Path
    name: str
    groups: Groups
    shape: tuple[int, ...]
    stack: tuple[int, ...]

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """Shape of each tensor."""
        return tuple(math.prod(self.shape[a] for a in group) for group in self.groups)

    def tensor_names(self) -> list[str]:
        """Names of all tensors of the parameter."""
        return [self.name.format(*index) for index in np.ndindex(self.stack)]

    def read(self, tensor: StoredTensor | np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
        """Reads a part of a tensor.

        Args:
            tensor: one tensor; it is read by slicing, so the rest stays on disk.
            index: a slice with start and stop for each axis in `shape`.

        Returns:
            The part, with our axes.
        """
        bounds = [s.indices(size)[:2] for s, size in zip(index, self.shape, strict=True)]
        cuts, sizes = [], []
        for group in self.groups:
            inner = math.prod(self.shape[a] for a in group[1:])
            start, stop = bounds[group[0]]
            cuts.append(slice(start * inner, stop * inner))
            sizes.extend([stop - start, *(self.shape[a] for a in group[1:])])
        order = [a for group in self.groups for a in group]
        part = tensor[tuple(cuts)].reshape(sizes).transpose(np.argsort(order))
        # These axes were read in full above.
        whole = {a for group in self.groups for a in group[1:]}
        return part[
            tuple(slice(*bounds[a]) if a in whole else slice(None) for a in range(len(self.shape)))
        ]

    def write(self, value: np.ndarray) -> np.ndarray:
        """The tensor of a value of shape `shape`.

        It is contiguous, because safetensors writes the memory behind an array and ignores strides.
        """
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
