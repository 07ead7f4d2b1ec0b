"""The decoder: parameters, and one block for training, scoring, prefill and decode.

In: token ids, positions, segments. Out: hidden states after the final norm, in the compute dtype.
Does not compute logits: whoever needs log-probs applies `output_head` in chunks.

Every parameter is declared once, with its logical axes. `Decoder` scans the block over stacked
layers. `decode` unrolls the same block over per-layer caches, because a stacked cache in a scan
costs about three times the bytes. The layout decides what a token attends to and what is cached of
it: `attention.Layout` for packed rows, the layouts of the sampler with a cache.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any, Protocol

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike

from gopd_jax.kernels import grouped_matmul, packed_attention_xla
from gopd_jax.kernels.grouped_matmul import GroupedMatmul
from gopd_jax.kernels.packed_attention import SAVED, PackedAttention
from gopd_jax.models.attention import Layout, for_each_rank
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.embedding import embed
from gopd_jax.models.linear import Adapted, linear
from gopd_jax.models.moe import Moe
from gopd_jax.models.rope import rotate, rotation
from gopd_jax.models.routing import COLLECTION
from gopd_jax.models.settings import Remat
from gopd_jax.runtime.mesh import constrain, shardings
from gopd_jax.types import Params

Cache = Any  # of one layer: whatever the layout's `attend` takes and returns


class AnyLayout(Protocol):
    """What the block needs of a layout.

    cos, sin: float32 [B, T, H/2], rotation of the new queries and keys.
    rows: logical axis of B.
    """

    cos: jax.Array
    sin: jax.Array
    rows: str

    def attend(
        self, query_BTNH: jax.Array, key_BTKH: jax.Array, value_BTKH: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """Returns the attention output [B, T, N, H], and the layer's cache or what to put in it."""
        ...


class SplitWeights(Protocol):
    """How `decode` reads decode weights that are split over the devices."""

    def embed(self, embedding_VD: jax.Array, tokens_BT: jax.Array) -> jax.Array:
        """The embedding of each token, [B, T, D]."""
        ...

    def layer(self, layer: Params, after: jax.Array) -> Params:
        """The weights of a layer, whole; not before `after` is known."""
        ...


_normal = nn.initializers.normal(0.02)
# What a rematerialised block begins with, by `checkpoint_name`.
LAYER_INPUT = "layer input"


def _matrix(
    module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str, ...]
) -> jax.Array:
    """A weight of the block.

    Decode weights may be flat or int8 (see `unstack`), and those of a student may be `Adapted`,
    which `Module.param` would refuse, so a weight that exists is returned as it is.
    """
    if module.has_variable("params", name):
        return module.get_variable("params", name)
    return module.param(name, nn.with_logical_partitioning(_normal, axes), shape)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, in float32; returned in x's dtype."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param(
            "scale", nn.with_logical_partitioning(nn.initializers.ones, ("norm",)), (x.shape[-1],)
        )
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return (x32 * scale.astype(jnp.float32)).astype(x.dtype)


class Attention(nn.Module):
    """Projections, norms and rotation around `layout.attend`. Returns [B, T, D] and the cache."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, layout: AnyLayout, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        c = self.config
        dtype = x_BTD.dtype

        def project(name, heads, axis):
            kernel = _matrix(
                self, name, (c.width, heads, c.head_size), ("embed", axis, "head_size")
            )
            kernel = kernel.T if kernel.ndim == 2 else kernel.reshape(c.width, -1)
            out = linear(x_BTD, kernel).reshape(*x_BTD.shape[:2], heads, c.head_size)
            if c.qkv_bias:
                zeros = nn.with_logical_partitioning(nn.initializers.zeros, (axis, "head_size"))
                out = out + self.param(f"{name}_bias", zeros, (heads, c.head_size)).astype(dtype)
            return out

        query_BTNH = project("query", c.heads, "heads")
        key_BTKH = project("key", c.kv_heads, "kv_heads")
        value_BTKH = project("value", c.kv_heads, "kv_heads")
        if c.qk_norm:
            query_BTNH = RMSNorm(c.norm_eps, name="query_norm")(query_BTNH)
            key_BTKH = RMSNorm(c.norm_eps, name="key_norm")(key_BTKH)
        query_BTNH = rotate(query_BTNH, layout.cos, layout.sin)
        key_BTKH = for_each_rank(rotate(key_BTKH, layout.cos, layout.sin), layout.rows)
        value_BTKH = for_each_rank(value_BTKH, layout.rows)
        out_BTNH, cache = layout.attend(query_BTNH, key_BTKH, value_BTKH, cache)
        kernel = _matrix(
            self, "out", (c.heads, c.head_size, c.width), ("heads", "head_size", "embed")
        )
        kernel = kernel if kernel.ndim == 2 else kernel.reshape(-1, c.width)
        return linear(out_BTNH.reshape(*x_BTD.shape[:2], -1), kernel), cache


class Mlp(nn.Module):
    """down(silu(gate x) * up x)."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        wide = (self.config.width, self.config.mlp_width)
        gate = linear(x_BTD, _matrix(self, "gate", wide, ("embed", "mlp")))
        up = linear(x_BTD, _matrix(self, "up", wide, ("embed", "mlp")))
        return linear(nn.silu(gate) * up, _matrix(self, "down", wide[::-1], ("mlp", "embed")))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Returns [B, T, D] and the cache that `layout.attend` returned.
    """

    config: ModelConfig
    matmul: GroupedMatmul = grouped_matmul.xla

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, layout: AnyLayout, cache: Cache = None
    ) -> tuple[jax.Array, Cache]:
        eps = self.config.norm_eps
        x_BTD = checkpoint_name(x_BTD, LAYER_INPUT)
        attended, cache = Attention(self.config, name="attention")(
            RMSNorm(eps, name="attention_norm")(x_BTD), layout, cache
        )
        x_BTD = x_BTD + attended
        normed_BTD = RMSNorm(eps, name="mlp_norm")(x_BTD)
        if self.config.experts:
            # Packed rows have segments; the layouts of the sampler, which counts nothing, do not.
            segments = getattr(layout, "query_segments", getattr(layout, "segments", None))
            mixture = Moe(self.config, self.matmul, name="mlp")
            x_BTD = x_BTD + mixture(normed_BTD, segments, layout.rows)
        else:
            x_BTD = x_BTD + Mlp(self.config, name="mlp")(normed_BTD)
        return constrain(x_BTD, (layout.rows, None, None)), cache


class Decoder(nn.Module):
    """Hidden states of packed rows, with layers scanned over stacked parameters.

    config: the architecture.
    dtype: compute dtype.
    remat: what the backward pass computes again: see `settings.Remat`.
    attention: the kernel for attention, see `kernels.choose.choose_packed_attention`.
    matmul: the kernel for experts, see `kernels.choose.choose_grouped_matmul`.
    """

    config: ModelConfig
    dtype: DTypeLike = jnp.float32
    remat: Remat = "attention"
    attention: PackedAttention = packed_attention_xla.xla
    matmul: GroupedMatmul = grouped_matmul.xla

    @nn.compact
    def __call__(
        self, tokens_RS: jax.Array, positions_RS: jax.Array, segments_RS: jax.Array
    ) -> jax.Array:
        """Runs the model on packed rows.

        Args:
            tokens_RS: int32 ids.
            positions_RS: int32, from 0 within each sequence.
            segments_RS: int32; a token attends to itself and to earlier tokens of its segment, and
                to those of its prefix; see `SegmentMask`.

        Returns:
            [R, S, D] in `dtype`, after the final norm.
        """
        c = self.config
        table = nn.with_logical_partitioning(_normal, ("vocab", "embed"))
        embedding_VD = self.param("embedding", table, (c.vocab_size, c.width))
        if not c.tied_embeddings:
            # Read by `output_head`, and declared here with the other parameters.
            self.param("head", table, (c.vocab_size, c.width))
        index_S = jnp.arange(tokens_RS.shape[1])
        layout = Layout(
            *rotation(c, positions_RS), segments_RS, segments_RS, index_S, index_S, self.attention
        )
        x_RSD = constrain(embed(embedding_VD, tokens_RS, self.dtype), ("batch", None, None))
        block = Block
        if self.remat != "none":
            block = nn.remat(Block, prevent_cse=False, policy=_kept(self.remat))
        layers = nn.scan(
            block,
            variable_axes={"params": 0, COLLECTION: 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x_RSD, _ = layers(c, self.matmul, name="layers")(x_RSD, layout)
        return RMSNorm(c.norm_eps, name="final_norm")(x_RSD)


def _kept(remat: Remat) -> Callable[..., Any] | None:
    """What the backward pass finds of a block, as a policy; None keeps its input alone."""
    policies = jax.checkpoint_policies
    if remat == "attention":
        return policies.save_only_these_names(SAVED)
    if remat == "offload":
        return policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=[LAYER_INPUT],
            offload_src="device",
            offload_dst="pinned_host",
        )
    return None


def output_head(params: Params) -> jax.Array:
    """The [V, D] matrix of the logits; with tied embeddings, the embedding."""
    return params["head"] if "head" in params else params["embedding"]


def _init(config: ModelConfig, key: jax.Array) -> Params:
    row = jnp.zeros((1, 2), jnp.int32)
    return Decoder(config).init(key, row, row, row)["params"]


def init_params(config: ModelConfig, key: jax.Array) -> Params:
    """Random float32 parameters with layers stacked on axis 0.

    Matrices are drawn from a normal distribution of deviation 0.02; norms are 1, biases 0.
    """
    return nn.meta.unbox(_init(config, key))


# Tracing takes a quarter of a second, and the result is needed in many places.
@functools.cache
def _boxed(config: ModelConfig) -> Params:
    """The parameter tree as shapes, each with its logical axes."""
    return jax.eval_shape(lambda key: _init(config, key), jax.random.key(0))


def abstract_params(config: ModelConfig) -> Params:
    """The parameter tree as float32 ShapeDtypeStructs; nothing is allocated."""
    return nn.meta.unbox(_boxed(config))


def logical_axes(config: ModelConfig) -> Params:
    """The parameter tree with a PartitionSpec of logical axis names for each parameter.

    `runtime.mesh.RULES` maps these names to mesh axes.
    """
    return nn.get_partition_spec(_boxed(config))


def param_shardings(config: ModelConfig, mesh: Mesh) -> Params:
    """The sharding of each parameter in training and scoring, from its logical axes."""
    return shardings(mesh, abstract_params(config), logical_axes(config))


def unstack(params: Params, dtype: DTypeLike) -> Params:
    """Decode weights: parameters cast to `dtype`, with a tuple of L trees as "layers".

    Attention's matrices become two-dimensional, [N * H, D]: the TPU compiler copies other forms
    before every dispatch. Adapters are merged into their matrices, one layer after the other.
    """

    def has_adapter(p):
        return isinstance(p, Adapted)

    def cast(p):
        return p if has_adapter(p) else p.astype(dtype)

    def merged(p):
        return p.merged().astype(dtype) if has_adapter(p) else p

    params = jax.tree.map(cast, params, is_leaf=has_adapter)
    num_layers = params["layers"]["attention_norm"]["scale"].shape[0]

    def layer(i):
        one = jax.tree.map(lambda p: p[i], params["layers"])
        one = jax.tree.map(merged, one, is_leaf=has_adapter)
        attention = one["attention"]
        flat = {
            name: attention[name].reshape(attention[name].shape[0], -1).T
            for name in ("query", "key", "value")
        }
        flat["out"] = attention["out"].reshape(-1, attention["out"].shape[-1])
        return one | {"attention": attention | flat}

    return {**params, "layers": tuple(layer(i) for i in range(num_layers))}


def unstacked_axes(config: ModelConfig) -> Params:
    """The logical axes of what `unstack` returns."""
    axes = logical_axes(config)

    def one(path, spec):
        kept = tuple(spec)[1:]
        if path[-1].key in ("query", "key", "value", "out"):
            kept = [a for a in kept if a not in ("head_size", "embed")] + ["embed"]
        return PartitionSpec(*kept)

    layer = jax.tree_util.tree_map_with_path(
        one, axes["layers"], is_leaf=lambda x: isinstance(x, PartitionSpec)
    )
    return {**axes, "layers": (layer,) * config.layers}


def decode(
    config: ModelConfig,
    params: Params,
    tokens_BT: jax.Array,
    layout: AnyLayout,
    caches: Sequence[Cache],
    matmul: GroupedMatmul = grouped_matmul.xla,
    split: SplitWeights | None = None,
) -> tuple[jax.Array, tuple[Cache, ...]]:
    """Runs T new tokens of each sequence with layers unrolled, in prefill and decode alike.

    Args:
        config: the architecture.
        params: what `unstack` returned; its dtype is the compute dtype.
        tokens_BT: int32 ids.
        layout: positions of the tokens, and what they attend to.
        caches: one for each layer, whatever the layout's `attend` takes.
        matmul: the kernel for experts.
        split: reads weights that are split over the devices; None if they are whole.

    Returns:
        Hidden states [B, T, D] after the final norm, and for each layer what the layout's `attend`
        returned as its cache.
    """
    block = Block(config, matmul)
    if split is None:
        x_BTD = jnp.take(params["embedding"], tokens_BT, axis=0)
    else:
        x_BTD = split.embed(params["embedding"], tokens_BT)
    x_BTD = constrain(x_BTD, (layout.rows, None, None))
    before, written = x_BTD, []
    for layer, cache in zip(params["layers"], caches, strict=True):
        if split is not None:  # may be gathered while the layer before it computes
            layer, before = split.layer(layer, before), x_BTD
        x_BTD, cache = block.apply({"params": layer}, x_BTD, layout, cache)
        written.append(cache)
    return RMSNorm(config.norm_eps).apply({"params": params["final_norm"]}, x_BTD), tuple(written)
