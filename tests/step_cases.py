"""Tiny sequences, batches and rollouts for the tests of learner and rollout; the model is `model_cases.CASES["qwen3_tied"]`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from model_cases import CASES
import numpy as np

from gopd_jax.config import Config
from gopd_jax.data.settings import DataSettings, DomainSettings
from gopd_jax.learner.packing import Sequence, pack
from gopd_jax.learner.settings import LearnerSettings
from gopd_jax.models.decoder import Decoder, output_head
from gopd_jax.rollout.settings import RolloutSettings
from gopd_jax.types import EncodedPrompt, Prompt, Request

TINY = CASES["qwen3_tied"]
PER_TOKEN = ("behaviour_logprobs", "old_logprobs", "teacher_logprobs", "reference_logprobs")


def make_config(domains=("math",), **changes):
    """A run of 8 rollouts a step; `changes` are fields of learner, rollout or data, or of the config itself."""
    parts = {"learner": LearnerSettings, "rollout": RolloutSettings, "data": DataSettings}
    fields = {
        "learner": dict(rows_per_micro_batch=2, learning_rate=0.1, weight_decay=0.0, eps=1.0),
        "rollout": dict(prompts_per_step=8, max_response_tokens=12, slots=4),
        "data": dict(max_prompt_tokens=8),
    }
    for name in list(changes):
        for part, cls in parts.items():
            if name in {f.name for f in dataclasses.fields(cls)}:
                fields[part][name] = changes.pop(name)
                break
    domain = DomainSettings(train="a.jsonl", test="b.jsonl", teacher="teacher")
    scales = changes.pop("scales", {})
    return Config(
        **({"name": "test", "student": "student"} | changes),
        domains={d: dataclasses.replace(domain, reward_scale=scales.get(d)) for d in domains},
        **{part: cls(**fields[part]) for part, cls in parts.items()},
    )


def make_sequences(count=8, domains=1, seed=0, prompt=(1, 8), response=(1, 12), **fields):
    """Random sequences of random lengths; weights differ, so that a misplaced one shows."""
    rng = np.random.default_rng(seed)

    def one(i):
        length = int(rng.integers(response[0], response[1] + 1))
        return Sequence(
            name=("p", i),
            domain=i % domains,
            prompt=rng.integers(
                1, TINY.vocab_size, rng.integers(prompt[0], prompt[1] + 1), dtype=np.int32
            ),
            response=rng.integers(1, TINY.vocab_size, length, dtype=np.int32),
            weight=float(rng.uniform(0.5, 1.5)) / (count * length),
            **(
                {
                    "reward_scale": 1.25,
                    "behaviour_logprobs": rng.uniform(-6, -3, length).astype(np.float32),
                }
                | fields
            ),
        )

    return [one(i) for i in range(count)]


def random_values(sequences, seed):
    """One plausible log-prob for each response token, by the sequence's name."""
    return {
        s.name: np.random.default_rng((seed, *s.name[1:]))
        .uniform(-6, -3, len(s.response))
        .astype(np.float32)
        for s in sequences
    }


def put(batch, places, sequences, values):
    """`values` (by name, one for each response token) at their places in a [M, R, S] array."""
    out = np.zeros(batch.tokens.shape, np.float32)
    for s in sequences:
        out[spot(places, s)] = values[s.name]
    return out


def spot(places, s):
    """The index, in [M, R, S] arrays, of the predictions of a sequence's response tokens."""
    place = places[s.name]
    first = place.start + len(s.prompt) - 1
    return place.micro, place.row, slice(first, first + len(s.response))


def scored(
    sequences, micro_batches, rows, row_length, names=("teacher_logprobs", "reference_logprobs")
):
    """A packed batch with random log-probs of the frozen models in it, and its places."""
    batch, places, _ = pack(sequences, micro_batches, rows, row_length)
    extra = {
        k: put(batch, places, sequences, random_values(sequences, 10 + PER_TOKEN.index(k)))
        for k in names
    }
    return batch.replace(**extra), places


@functools.cache
def _naive_logprobs():
    def run(params, tokens_BT, targets_BT):
        positions = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        hidden = Decoder(TINY, remat=False).apply(
            {"params": params}, tokens_BT, positions, jnp.ones_like(tokens_BT)
        )
        everything = jax.nn.log_softmax(jnp.einsum("btd,vd->btv", hidden, output_head(params)))
        return jnp.take_along_axis(everything, targets_BT[..., None], axis=-1)[..., 0]

    def weighted(params, tokens, targets, coefficients):
        logprobs = run(params, tokens, targets)
        return jnp.sum(coefficients * logprobs), logprobs

    return jax.jit(jax.value_and_grad(weighted, has_aux=True))


def naive(params, sequences, coefficients, width=24):
    """(sum of coefficient * log-prob over response tokens, log-probs by name, gradient): a row each, all logits at once.

    `coefficients` by name, a number or one for each response token.
    """
    tokens, targets = np.zeros((2, len(sequences), width), np.int32)
    coefs = np.zeros(tokens.shape, np.float32)
    for i, s in enumerate(sequences):
        whole = np.concatenate([s.prompt, s.response])
        tokens[i, : len(s)], targets[i, : len(s) - 1] = whole, whole[1:]
        coefs[i, len(s.prompt) - 1 : len(s) - 1] = coefficients[s.name]
    (value, logprobs), grad = _naive_logprobs()(params, tokens, targets, coefs)
    by_name = {
        s.name: np.asarray(logprobs)[i, len(s.prompt) - 1 : len(s) - 1]
        for i, s in enumerate(sequences)
    }
    return float(value), by_name, grad


def make_requests(lengths, max_tokens=10, sample_ids=(0,), seed=0):
    """Requests for prompts "p0", "p1", ... of the given lengths, each with the given sample ids."""
    requests = []
    for i, length in enumerate(lengths):
        tokens = np.random.default_rng((seed, i)).integers(
            1, TINY.vocab_size, length, dtype=np.int32
        )
        prompt = EncodedPrompt(
            Prompt(f"p{i}", ({"role": "user", "content": "?"},), "math", ""), tokens
        )
        requests += [Request(prompt, s, max_tokens) for s in sample_ids]
    return requests


def trees_close(actual, expected, atol, rtol=0.0):
    """Same structure and values; the expected tree must not be all zeros."""
    assert max(float(np.abs(x).max()) for x in jax.tree.leaves(expected)) > 100 * atol
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=rtol), actual, expected
    )


def trees_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
