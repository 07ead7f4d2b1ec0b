"""Decoder language models: Hugging Face folders in and out, one block for training, scoring and decoding.

In: a Hugging Face folder (or hub id), token ids. Out: hidden states; the head is applied by the caller, chunk by chunk.
Knows nothing of losses.
"""

from gopd_jax.models.config import ModelConfig, load_config
from gopd_jax.models.decoder import (
    Decoder,
    abstract_params,
    decode,
    init_params,
    logical_axes,
    output_head,
    unstack,
    unstacked_axes,
)
from gopd_jax.models.huggingface import load_params, weights_fingerprint
from gopd_jax.models.huggingface_save import save_pretrained

__all__ = [
    "Decoder",
    "ModelConfig",
    "abstract_params",
    "decode",
    "init_params",
    "load_config",
    "load_params",
    "logical_axes",
    "output_head",
    "save_pretrained",
    "unstack",
    "unstacked_axes",
    "weights_fingerprint",
]
