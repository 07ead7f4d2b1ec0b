"""The rollout engine: a batch of slots, one jitted prefill and decode loop for each prompt-length bucket.

In: the student's parameters, requests. Out: finished rollouts, in any order. Does not score, verify or decode text.
"""

from collections.abc import Iterator, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from gopd_jax.models import ModelConfig, abstract_params, decode, init_cache, logical_axes, output_head, unstack
from gopd_jax.rollout.sampling import SamplingRule, draw, prompt_number, sample_keys
from gopd_jax.runtime.mesh import DECODE_RULES, batch_sharding, constrain, replicated, rows_multiple, shardings
from gopd_jax.types import Request, Rollout


class RolloutEngine:
    """Draws samples with a fixed number of slots.

    Args:
        config: architecture of the model that is sampled.
        mesh: slots are spread over its data and fsdp axes, weights and caches over its tensor axis.
        rule: the distribution to draw from.
        stop_ids: a drawn stop id ends the response and is part of it.
        slots: sequences decoded at once; a multiple of data x fsdp devices.
        max_prompt_tokens, max_response_tokens: sizes of the cache.
        dtype: compute and cache dtype.

    Raises:
        ValueError: slots that the mesh does not divide, no stop id, or one outside the vocabulary.
    """

    def __init__(
        self,
        config: ModelConfig,
        mesh: Mesh,
        rule: SamplingRule,
        stop_ids: Sequence[int],
        *,
        slots: int,
        max_prompt_tokens: int,
        max_response_tokens: int,
        dtype: Any = jnp.float32,
    ):
        if slots < 1 or slots % rows_multiple(mesh):
            raise ValueError(
                f"rollout slots={slots}: wanted a positive multiple of {rows_multiple(mesh)} (data x fsdp devices)"
            )
        outside = [i for i in stop_ids if not 0 <= i < config.vocab_size]
        if not stop_ids or outside:
            raise ValueError(
                f"stop ids {list(stop_ids)}: wanted at least one, all in [0, {config.vocab_size}); outside: {outside}"
            )
        self.mesh, self.slots = mesh, slots
        self.max_prompt_tokens, self.max_response_tokens = max_prompt_tokens, max_response_tokens
        self.buckets = _buckets(max_prompt_tokens)
        per_layer = jax.eval_shape(functools.partial(unstack, dtype=dtype), abstract_params(config))
        axes = _unstack_axes(logical_axes(config), config.layers)
        self._lay_out = jax.jit(
            functools.partial(unstack, dtype=dtype), out_shardings=shardings(mesh, per_layer, axes, DECODE_RULES)
        )
        rows = batch_sharding(mesh)
        self._generate = jax.jit(
            functools.partial(_generate, config, rule, tuple(stop_ids), max_response_tokens),
            in_shardings=(None, replicated(mesh), rows, rows, rows, rows, rows),
            out_shardings=replicated(mesh),
        )

    def lay_out(self, params: Any) -> Any:
        """The parameters cast, unstacked and resharded for decode: one device program, once for each change of weights."""
        return self._lay_out(params)

    def __call__(self, weights: Any, requests: Sequence[Request], key: jax.Array) -> Iterator[Rollout]:
        """Draws every request from `weights` (what `lay_out` returned) and yields the rollouts as they finish, in any order.

        `key` is that of (run seed, step); see `sampling.sample_keys`.

        Raises:
            ValueError: before anything is drawn, for a prompt or a token limit that the cache cannot hold; names the prompt.
        """
        for r in requests:
            if not 0 < len(r.prompt.tokens) <= self.max_prompt_tokens:
                raise ValueError(
                    f"prompt {r.prompt.prompt.prompt_id!r} has {len(r.prompt.tokens)} tokens: "
                    f"wanted 1 to max_prompt_tokens={self.max_prompt_tokens}"
                )
            if not 0 < r.max_tokens <= self.max_response_tokens:
                raise ValueError(
                    f"prompt {r.prompt.prompt.prompt_id!r} asks for max_tokens={r.max_tokens}: "
                    f"wanted 1 to max_response_tokens={self.max_response_tokens}"
                )
        by_length = sorted(requests, key=lambda r: len(r.prompt.tokens))
        for start in range(0, len(by_length), self.slots):
            yield from self._batch(weights, by_length[start : start + self.slots], key)

    def _batch(self, weights: Any, requests: Sequence[Request], key: jax.Array) -> Iterator[Rollout]:
        width = next(b for b in self.buckets if b >= max(len(r.prompt.tokens) for r in requests))
        tokens_BP = np.zeros((self.slots, width), np.int32)
        lengths_B, limits_B = np.ones(self.slots, np.int32), np.zeros(self.slots, np.int32)
        prompts_B, samples_B = np.zeros(self.slots, np.uint32), np.zeros(self.slots, np.uint32)
        for i, r in enumerate(requests):
            lengths_B[i], limits_B[i] = len(r.prompt.tokens), r.max_tokens
            tokens_BP[i, width - lengths_B[i] :] = r.prompt.tokens
            prompts_B[i], samples_B[i] = prompt_number(r.prompt.prompt.prompt_id), r.sample_id
        with jax.set_mesh(self.mesh):
            out = self._generate(weights, key, tokens_BP, lengths_B, limits_B, prompts_B, samples_B)
        drawn_BT, logprobs_BT, counts_B, stopped_B = jax.device_get(out)
        for i, r in enumerate(requests):
            n = counts_B[i]
            reason = "stop" if stopped_B[i] else "length"
            yield Rollout(r, drawn_BT[i, :n].copy(), logprobs_BT[i, :n].copy(), reason)


def _buckets(longest: int) -> list[int]:
    """Prompt widths that are compiled for: powers of two from 16, and the longest."""
    widths = [1 << i for i in range(4, 31) if 1 << i < longest]
    return [*widths, longest]


def _unstack_axes(axes: Any, num_layers: int) -> Any:
    """Logical axes of `unstack`'s tree: the layer axis is gone, "layers" is a tuple."""
    one = jax.tree.map(lambda spec: type(spec)(*tuple(spec)[1:]), axes["layers"])
    return {**axes, "layers": (one,) * num_layers}


def _generate(config, rule, stop_ids, max_response, weights, key, tokens_BP, lengths_B, limits_B, prompts_B, samples_B):
    """Prefill and the decode loop of one batch. Prompts are left-padded, so that every sequence writes the same cache column.

    Returns tokens and log-probs [B, max_response] (0 after the end), response lengths [B], whether a stop id ended it [B].
    """
    B, P = tokens_BP.shape
    column_S = jnp.arange(P + max_response)
    pad_B = P - lengths_B
    key_segments_BS = (column_S >= pad_B[:, None]).astype(jnp.int32)
    keys_B = sample_keys(key, prompts_B, samples_B)
    head_VD = output_head(weights)
    caches = init_cache(config, B, P + max_response, head_VD.dtype)
    caches = jax.tree.map(lambda c: constrain(c, ("batch", "kv_heads", None, None)), caches)

    def draw_token(hidden_BD, t, done_B, out):
        tokens_BT, logprobs_BT, counts_B, stopped_B = out
        logits_BV = jnp.einsum("bd,vd->bv", hidden_BD, head_VD, preferred_element_type=jnp.float32)
        token_B, logprob_B = draw(jax.vmap(jax.random.fold_in, (0, None))(keys_B, t), logits_BV, rule)
        tokens_BT = tokens_BT.at[:, t].set(jnp.where(done_B, 0, token_B))
        logprobs_BT = logprobs_BT.at[:, t].set(jnp.where(done_B, 0.0, logprob_B))
        counts_B = counts_B + ~done_B
        stopped_B = stopped_B | (~done_B & jnp.isin(token_B, jnp.asarray(stop_ids)))
        done_B = done_B | stopped_B | (counts_B >= limits_B)
        return token_B, done_B, (tokens_BT, logprobs_BT, counts_B, stopped_B)

    positions_BP = jnp.maximum(column_S[None, :P] - pad_B[:, None], 0)
    hidden_BPD, caches = decode(config, weights, tokens_BP, positions_BP, key_segments_BS, 0, caches)
    out = (
        jnp.zeros((B, max_response), jnp.int32),
        jnp.zeros((B, max_response), jnp.float32),
        jnp.zeros(B, jnp.int32),
        jnp.zeros(B, bool),
    )
    token_B, done_B, out = draw_token(hidden_BPD[:, -1], 0, limits_B <= 0, out)

    def unfinished(carry):
        t, _, done_B, _, _ = carry
        return (t < max_response) & ~jnp.all(done_B)

    def one_token(carry):
        t, token_B, done_B, out, caches = carry
        positions_B1 = (lengths_B + t - 1)[:, None]
        hidden_B1D, caches = decode(config, weights, token_B[:, None], positions_B1, key_segments_BS, P + t - 1, caches)
        token_B, done_B, out = draw_token(hidden_B1D[:, 0], t, done_B, out)
        return t + 1, token_B, done_B, out, caches

    carry = (jnp.int32(1), token_B, done_B, out, caches)
    return jax.lax.while_loop(unfinished, one_token, carry)[3]
