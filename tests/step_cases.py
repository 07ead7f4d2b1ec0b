"""Tiny examples, batches and requests for the tests of rollout, learner and evaluate.

The model is `model_cases.CASES["qwen3_tied"]`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from model_cases import CASES
import numpy as np

from gopd_jax.config import Config
from gopd_jax.data.settings import DataSettings, DomainSettings
from gopd_jax.learner.example import Example
from gopd_jax.learner.packing import Bucket, pack
from gopd_jax.learner.settings import LearnerSettings
from gopd_jax.models.decoder import Decoder, output_head
from gopd_jax.rollout.settings import RolloutSettings
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.train import models
from gopd_jax.types import EncodedPrompt, Prompt, Request, SampleKey

TINY = CASES["qwen3_tied"]
PER_TOKEN = ("behaviour_logprobs", "old_logprobs", "teacher_logprobs", "reference_logprobs")


# ---- A run.


def make_config(domains=("math",), **changes):
    """The config of a run with 8 rollouts a step.

    `changes` are fields of learner, rollout or data, or of the config itself; `scales` is lambda by
    domain.
    """
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
    domain = DomainSettings(train="a.jsonl", test="b.jsonl", reward="math", teacher="teacher")
    scales = changes.pop("scales", {})
    return Config(
        **({"name": "test", "student": "student"} | changes),
        domains={d: dataclasses.replace(domain, reward_scale=scales.get(d)) for d in domains},
        **{part: cls(**fields[part]) for part, cls in parts.items()},
    )


def make_learner(config, mesh=None):
    """The learner of a run on `mesh`; without one, on the first device."""
    mesh = make_mesh(devices=jax.devices()[:1]) if mesh is None else mesh
    return models.make_learner(config, TINY, ProgramTable(mesh), jnp.float32)


# ---- Examples and packed batches.


def make_examples(count=8, domains=1, seed=0, prompt=(1, 8), response=(1, 12), **fields):
    """Random examples of random lengths; their weights differ, so that a misplaced one shows."""
    rng = np.random.default_rng(seed)

    def one(i):
        length = int(rng.integers(response[0], response[1] + 1))
        prompt_length = rng.integers(prompt[0], prompt[1] + 1)
        given = {
            "key": SampleKey("p", i),
            "domain": i % domains,
            "prompt": rng.integers(1, TINY.vocab_size, prompt_length, dtype=np.int32),
            "response": rng.integers(1, TINY.vocab_size, length, dtype=np.int32),
            "weight": float(rng.uniform(0.5, 1.5)) / (count * length),
            "reward_scale": 1.25,
            "behaviour_logprobs": rng.uniform(-6, -3, length).astype(np.float32),
        }
        return Example(**(given | fields))

    return [one(i) for i in range(count)]


def make_samples(prompts, count, prompt=(20, 60), response=(1, 40), seed=0, domains=1):
    """Several samples of each of some prompts, their lengths at random."""
    rng = np.random.default_rng(seed)
    examples = make_examples(prompts * count, 1, seed, (1, 1), response)
    read = [
        rng.integers(1, TINY.vocab_size, rng.integers(*prompt), dtype=np.int32)
        for _ in range(prompts)
    ]
    return [
        dataclasses.replace(
            e,
            key=SampleKey(f"p{i // count}", i % count),
            prompt=read[i // count],
            domain=i // count % domains,
        )
        for i, e in enumerate(examples)
    ]


def random_values(examples, seed):
    """A plausible log-prob for each response token, by the key of the example."""

    def one(example):
        rng = np.random.default_rng((seed, example.key.sample_id))
        return rng.uniform(-6, -3, len(example.response)).astype(np.float32)

    return {e.key: one(e) for e in examples}


def pack_one(examples, micro_batches, rows, row_length, logprobs=None):
    """The batch of examples in rows of one length, and the slices of its rows."""
    batches, slices = pack(examples, [Bucket(micro_batches, rows, row_length)], logprobs)
    return batches[0], slices


def predictions(slices, example):
    """Index into [M, R, S] arrays of the predictions of an example's response tokens, by hand."""
    where = slices[example.key]
    first = where.start + len(example.prompt) - 1
    return where.micro, where.row, slice(first, first + len(example.response))


def of_tokens(arrays, packed, example):
    """The entries of an example's response tokens, given an array for each bucket."""
    bucket = packed.slices[example.key].bucket
    return np.asarray(arrays[bucket])[predictions(packed.slices, example)]


def run_score(run, params, batch):
    """`step.score` of all rows of a batch at once; `run` takes its positional arguments."""
    M, R, S = batch.tokens.shape
    fields = batch.tokens, batch.positions, batch.segments, batch.targets, batch.weights > 0
    return np.asarray(run(params, *(x.reshape(M * R, S) for x in fields))).reshape(M, R, S)


def put(batch, slices, examples, values):
    """`values`, by key and one for each response token, in a [M, R, S] array of zeros."""
    out = np.zeros(batch.tokens.shape, np.float32)
    for e in examples:
        out[predictions(slices, e)] = values[e.key]
    return out


def scored(
    examples, micro_batches, rows, row_length, names=("teacher_logprobs", "reference_logprobs")
):
    """A packed batch with random log-probs in the fields `names`, and the slices of its rows."""
    batch, slices = pack_one(examples, micro_batches, rows, row_length)
    extra = {}
    for name in names:
        values = random_values(examples, 10 + PER_TOKEN.index(name))
        extra[name] = put(batch, slices, examples, values)
    return batch.replace(**extra), slices


# ---- The same numbers, computed naively.


@functools.cache
def _naive_logprobs():
    def run(params, tokens_BT, targets_BT):
        positions = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        hidden = Decoder(TINY, remat="none").apply(
            {"params": params}, tokens_BT, positions, jnp.ones_like(tokens_BT)
        )
        everything = jax.nn.log_softmax(jnp.einsum("btd,vd->btv", hidden, output_head(params)))
        return jnp.take_along_axis(everything, targets_BT[..., None], axis=-1)[..., 0]

    def weighted(params, tokens, targets, coefficients):
        logprobs = run(params, tokens, targets)
        return jnp.sum(coefficients * logprobs), logprobs

    return jax.jit(jax.value_and_grad(weighted, has_aux=True))


def naive(params, examples, coefficients=None, width=24):
    """A weighted sum of log-probs and its gradient: an example in each row, all logits at once.

    Args:
        coefficients: by key, a number or one for each response token; None is 0 for all of them.

    Returns:
        The sum of coefficient * log-prob over all response tokens, their log-probs by key, and the
        gradient of the sum.
    """
    tokens, targets = np.zeros((2, len(examples), width), np.int32)
    weights = np.zeros(tokens.shape, np.float32)
    for i, e in enumerate(examples):
        whole = np.concatenate([e.prompt, e.response])
        tokens[i, : len(e)], targets[i, : len(e) - 1] = whole, whole[1:]
        if coefficients is not None:
            weights[i, len(e.prompt) - 1 : len(e) - 1] = coefficients[e.key]
    (value, logprobs), grad = _naive_logprobs()(params, tokens, targets, weights)
    by_key = {
        e.key: np.asarray(logprobs)[i, len(e.prompt) - 1 : len(e) - 1]
        for i, e in enumerate(examples)
    }
    return float(value), by_key, grad


# ---- Requests.


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


# ---- Comparisons.


def trees_close(actual, expected, atol, rtol=0.0):
    """Same structure and values; the expected tree must not be all zeros."""
    assert max(float(np.abs(x).max()) for x in jax.tree.leaves(expected)) > 100 * atol
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=rtol), actual, expected
    )


def trees_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
