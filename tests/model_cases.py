"""Tiny architectures that cover the variants of the decoder.

Sizes differ, so that no two axes can be confused.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gopd_jax.models.config import ModelConfig, RopeScaling
from gopd_jax.models.decoder import abstract_params

_base = ModelConfig(
    family="qwen3",
    vocab_size=96,
    layers=2,
    width=32,
    heads=4,
    kv_heads=2,
    head_size=16,  # heads * head_size is not width
    mlp_width=48,
    rope_theta=10000.0,
    max_positions=512,
)
_llama = dataclasses.replace(_base, family="llama", norm_eps=1e-5, tied_embeddings=False)

CASES = {
    "qwen3_tied": _base,
    "qwen3_untied": dataclasses.replace(_base, tied_embeddings=False, heads=6, head_size=8),
    "qwen2_tied": dataclasses.replace(_base, family="qwen2", head_size=8, rope_theta=1e6),
    "qwen2_untied_linear_rope": dataclasses.replace(
        _base,
        family="qwen2",
        head_size=8,
        tied_embeddings=False,
        rope_scaling=RopeScaling("linear", 4.0),
    ),
    "llama_untied_one_kv_head": dataclasses.replace(_llama, kv_heads=1),
    # Wavelengths run from 6 to 20000 positions: some are below 64/4 and kept, some above 64/1 and
    # divided, some are in between.
    "llama_tied_llama3_rope": dataclasses.replace(
        _llama,
        tied_embeddings=True,
        kv_heads=4,
        rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 64),
    ),
    "qwen3_moe_untied": dataclasses.replace(
        _base,
        family="qwen3_moe",
        tied_embeddings=False,
        experts=6,
        experts_per_token=3,
        moe_mlp_width=24,
    ),
    "qwen3_moe_one_expert": dataclasses.replace(
        _base,
        family="qwen3_moe",
        layers=3,
        experts=4,
        experts_per_token=1,
        moe_mlp_width=40,
        norm_topk_prob=False,
    ),
}


def random_params(config, seed=0):
    """Noise on every leaf.

    The unit norms and zero biases of `init_params` would hide mistakes in how they are used.
    """
    rng = np.random.default_rng(seed)

    def leaf(path, p):
        center = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(rng.normal(center, 0.2, p.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, abstract_params(config))
