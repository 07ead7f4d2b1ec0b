"""Rotary position embedding: frequencies from the config, and the rotation of each head."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from gopd_jax.models.config import ModelConfig


def inverse_frequencies(config: ModelConfig) -> np.ndarray:
    """Angle per position of each rotated pair, theta^(-2i/H), scaled as the config says.

    "linear" divides every frequency by `factor`. "llama3" keeps wavelengths below
    original_length / high_freq_factor, divides the frequencies of those above
    original_length / low_freq_factor by `factor`, and interpolates in between (model card and
    reference code of Llama 3.1).

    Returns:
        float32 [H/2], in radians.
    """
    half = np.arange(0, config.head_size, 2, dtype=np.float32) / config.head_size
    frequencies = (1.0 / np.float32(config.rope_theta) ** half).astype(np.float32)
    scaling = config.rope_scaling
    if scaling.kind == "linear":
        return frequencies / np.float32(scaling.factor)
    if scaling.kind == "llama3":
        wavelength = 2 * math.pi / frequencies
        smooth = scaling.original_length / wavelength - scaling.low_freq_factor
        smooth = np.clip(smooth / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0, 1.0)
        scaled = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
        return scaled.astype(np.float32)
    return frequencies


def rotation(config: ModelConfig, positions_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine, float32 [B, T, H/2] each, of the angle position * frequency."""
    angles = positions_BT[..., None].astype(jnp.float32) * inverse_frequencies(config)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BTNH: jax.Array, cos_BTH: jax.Array, sin_BTH: jax.Array) -> jax.Array:
    """Rotates the pairs (x_i, x_{i + H/2}) of every head by the given angles.

    Args:
        x_BTNH: queries or keys.
        cos_BTH: float32 [B, T, H/2].
        sin_BTH: float32 [B, T, H/2].

    Returns:
        [B, T, N, H] in the dtype of `x_BTNH`; computed in float32.
    """
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos_BTH[:, :, None, :], sin_BTH[:, :, None, :]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BTNH.dtype)
