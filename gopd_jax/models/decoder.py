"""The decoder: parameters declared once with their logical axes, one block for training, scoring, prefill and decode.

In: token ids, positions, segments. Out: hidden states after the last norm, in the compute dtype; never logits (the head is
`output_head`, applied in chunks by whoever needs log-probs). `Decoder` scans the block over stacked layers; `decode` unrolls
the same block over per-layer caches, because a stacked cache in a scan costs about three times the bytes. Who attends to what,
and what is kept of it, is the layout's business (`attention.Layout` for packed rows, `rollout.layouts` with a cache).
"""

from collections.abc import Sequence
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gopd_jax.models.attention import Layout
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.linear import linear
from gopd_jax.models.moe import Moe
from gopd_jax.models.rope import rotate, rotation
from gopd_jax.runtime.mesh import constrain, shardings

_normal = nn.initializers.normal(0.02)


def _matrix(module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> Any:
    """A weight of the block; where `decode` gives it flat, or as an int8 array, it is taken as it is."""
    if module.has_variable("params", name):
        return module.get_variable("params", name)
    return module.param(name, nn.with_logical_partitioning(_normal, axes), shape)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, in float32; returned in x's dtype."""

    eps: float

    @nn.compact
    def __call__(self, x):
        scale = self.param(
            "scale", nn.with_logical_partitioning(nn.initializers.ones, ("norm",)), (x.shape[-1],)
        )
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return (x32 * scale.astype(jnp.float32)).astype(x.dtype)


class Attention(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD, layout, cache):
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
        key_BTKH = rotate(key_BTKH, layout.cos, layout.sin)
        out_BTNH, cache = layout.attend(query_BTNH, key_BTKH, value_BTKH, cache)
        kernel = _matrix(
            self, "out", (c.heads, c.head_size, c.width), ("heads", "head_size", "embed")
        )
        kernel = kernel if kernel.ndim == 2 else kernel.reshape(-1, c.width)
        return linear(out_BTNH.reshape(*x_BTD.shape[:2], -1), kernel), cache


class Mlp(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD):
        wide = (self.config.width, self.config.mlp_width)
        gate = linear(x_BTD, _matrix(self, "gate", wide, ("embed", "mlp")))
        up = linear(x_BTD, _matrix(self, "up", wide, ("embed", "mlp")))
        return linear(nn.silu(gate) * up, _matrix(self, "down", wide[::-1], ("mlp", "embed")))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). Returns x [B, T, D] and the cache as `layout.attend` returned it."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD, layout, cache=None):
        eps = self.config.norm_eps
        attended, cache = Attention(self.config, name="attention")(
            RMSNorm(eps, name="attention_norm")(x_BTD), layout, cache
        )
        x_BTD = x_BTD + attended
        mlp = Moe if self.config.experts else Mlp
        x_BTD = x_BTD + mlp(self.config, name="mlp")(RMSNorm(eps, name="mlp_norm")(x_BTD))
        return constrain(x_BTD, ("batch", None, None)), cache


class Decoder(nn.Module):
    """Hidden states of packed rows, layers scanned over stacked parameters.

    Args of the call: tokens, positions, segments, int32 [R, S]; tokens of one row see earlier tokens of their own segment.
    Returns [R, S, D] in `dtype`, after the final norm.
    """

    config: ModelConfig
    dtype: Any = jnp.float32
    remat: bool = True

    @nn.compact
    def __call__(self, tokens_RS, positions_RS, segments_RS):
        c = self.config
        table = nn.with_logical_partitioning(_normal, ("vocab", "embed"))
        embedding_VD = self.param("embedding", table, (c.vocab_size, c.width))
        if not c.tied_embeddings:
            self.param(
                "head", table, (c.vocab_size, c.width)
            )  # read by output_head; declared here with the rest
        index_S = jnp.arange(tokens_RS.shape[1])
        layout = Layout(*rotation(c, positions_RS), segments_RS, segments_RS, index_S, index_S)
        x_RSD = constrain(
            jnp.take(embedding_VD, tokens_RS, axis=0).astype(self.dtype), ("batch", None, None)
        )
        block = nn.remat(Block, prevent_cse=False) if self.remat else Block
        layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x_RSD, _ = layers(c, name="layers")(x_RSD, layout)
        return RMSNorm(c.norm_eps, name="final_norm")(x_RSD)


def output_head(params: Any) -> jax.Array:
    """The [V, D] matrix that maps hidden states to logits: the head, or the embedding where they are tied."""
    return params["head"] if "head" in params else params["embedding"]


def _init(config: ModelConfig, key: jax.Array) -> Any:
    row = jnp.zeros((1, 2), jnp.int32)
    return Decoder(config).init(key, row, row, row)["params"]


def init_params(config: ModelConfig, key: jax.Array) -> Any:
    """Random parameters, float32: normal(0.02) matrices, unit norms, zero biases; layers stacked on axis 0."""
    return nn.meta.unbox(_init(config, key))


@functools.cache
def _boxed(config: ModelConfig) -> Any:
    """The parameter tree as shapes with their logical axes; tracing it takes a quarter of a second, and many ask."""
    return jax.eval_shape(lambda key: _init(config, key), jax.random.key(0))


def abstract_params(config: ModelConfig) -> Any:
    """The parameter tree as float32 ShapeDtypeStructs; nothing is allocated."""
    return nn.meta.unbox(_boxed(config))


def logical_axes(config: ModelConfig) -> Any:
    """The parameter tree with, for each parameter, a PartitionSpec of logical axis names (see `runtime.mesh.RULES`)."""
    return nn.get_partition_spec(_boxed(config))


def param_shardings(config: ModelConfig, mesh: Mesh) -> Any:
    """The sharding of each parameter in training and scoring, by its logical axes."""
    return shardings(mesh, abstract_params(config), logical_axes(config))


def unstack(params: Any, dtype: Any) -> Any:
    """Parameters laid out for `decode`: cast to `dtype`, "layers" a tuple of L trees, attention's matrices in two dimensions.

    query, key, value are [N * H, D] and out [N * H, D]: for other forms the TPU compiler copies them before every dispatch.
    """
    params = jax.tree.map(lambda p: p.astype(dtype), params)
    num_layers = params["layers"]["attention_norm"]["scale"].shape[0]

    def layer(i):
        one = jax.tree.map(lambda p: p[i], params["layers"])
        flat = {
            k: one["attention"][k].reshape(one["attention"][k].shape[0], -1).T
            for k in ("query", "key", "value")
        }
        flat["out"] = one["attention"]["out"].reshape(-1, one["attention"]["out"].shape[-1])
        return one | {"attention": one["attention"] | flat}

    return {**params, "layers": tuple(layer(i) for i in range(num_layers))}


def unstacked_axes(config: ModelConfig) -> Any:
    """`logical_axes` of what `unstack` returns."""
    axes = logical_axes(config)

    def one(path, spec):
        kept = tuple(spec)[1:]
        if path[-1].key in ("query", "key", "value", "out"):
            kept = [a for a in kept if a not in ("head_size", "embed")] + ["embed"]
        return type(spec)(*kept)

    layer = jax.tree_util.tree_map_with_path(
        one, axes["layers"], is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)
    )
    return {**axes, "layers": (layer,) * config.layers}


def decode(
    config: ModelConfig, params: Any, tokens_BT: jax.Array, layout: Any, caches: Sequence[Any]
) -> tuple[jax.Array, tuple[Any, ...]]:
    """Runs T new tokens of each sequence, layers unrolled: prefill and decode alike.

    Args:
        params: what `unstack` returns; its dtype is the compute dtype.
        tokens_BT: int32.
        layout: positions (cos, sin [B, T, H/2]) and `attend(query, key, value, cache) -> (out, cache)`.
        caches: one for each layer, whatever the layout's `attend` takes.

    Returns:
        hidden states [B, T, D] after the final norm, and for each layer what `attend` returned as its cache.
    """
    x_BTD = constrain(jnp.take(params["embedding"], tokens_BT, axis=0), ("batch", None, None))
    written = []
    for layer, cache in zip(params["layers"], caches, strict=True):
        x_BTD, cache = Block(config).apply({"params": layer}, x_BTD, layout, cache)
        written.append(cache)
    return RMSNorm(config.norm_eps).apply({"params": params["final_norm"]}, x_BTD), tuple(written)
