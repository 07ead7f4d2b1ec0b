"""Random examples for the benchmarks of the learner.

In: their numbers, and the ids of a model. Out: examples as `Learner.pack` takes them. Does not
measure anything.
"""

import argparse
from collections.abc import Sequence

import numpy as np

from gopd_jax.benchmark.workload import random_prompts
from gopd_jax.learner.example import Example
from gopd_jax.types import SampleKey

FIRST_ID = 5  # the ids below it are special tokens in most vocabularies
REWARD_SCALE = 1.25


def make_examples(args: argparse.Namespace, vocab_size: int) -> list[Example]:
    """The examples of --workload; those of several teachers take turns."""
    if args.workload == "random":
        pairs = random_pairs(args, vocab_size)
    else:
        pairs = step_pairs(
            args.prompts * args.samples_per_prompt,
            args.max_prompt_tokens,
            args.mean_response_tokens,
            args.max_response_tokens,
            vocab_size,
            args.seed,
        )
    return to_examples(pairs, args.teachers, vocab_size, args.samples_per_prompt)


Pair = tuple[np.ndarray, np.ndarray]  # int32 ids of a prompt and of a response


def step_pairs(
    count: int, prompt: int, mean: int, limit: int, vocab_size: int, seed: int = 0
) -> list[Pair]:
    """Prompts of one length, each with a response of geometric length, all of random ids.

    Other trainers are measured with exactly these draws: first all lengths, then the ids of each
    prompt and response together.

    Args:
        count: number of prompts.
        prompt: tokens of each prompt.
        mean: mean tokens of a response, before the limit.
        limit: most tokens of a response.
        vocab_size: number of ids.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.geometric(1 / mean, count), limit)
    rows = [rng.integers(FIRST_ID, vocab_size, prompt + n).astype(np.int32) for n in lengths]
    return [(row[:prompt], row[prompt:]) for row in rows]


def random_pairs(args: argparse.Namespace, vocab_size: int) -> list[Pair]:
    """The prompts of `random_prompts`, each with several responses of geometric lengths."""
    rng = np.random.default_rng(args.seed)
    prompts = random_prompts(args.prompts, args.max_prompt_tokens, vocab_size)

    def response() -> np.ndarray:
        length = min(rng.geometric(1 / args.mean_response_tokens), args.max_response_tokens)
        return rng.integers(FIRST_ID, vocab_size, length, dtype=np.int32)

    return [(p, response()) for p in prompts for _ in range(args.samples_per_prompt)]


def domain_names(teachers: int) -> list[str]:
    return [f"domain {i}" for i in range(teachers)]


def to_examples(
    pairs: Sequence[Pair], teachers: int, vocab_size: int, samples: int = 1
) -> list[Example]:
    """Examples that weigh every response token the same; so many at a time are of one prompt.

    Their behaviour log-probs are those of a sampler that draws every id with the same probability.
    """
    weight = 1 / sum(len(response) for _, response in pairs)
    return [
        Example(
            key=SampleKey(f"{i // samples:09}", i % samples),
            domain=i // samples % teachers,
            prompt=prompt,
            response=response,
            weight=weight,
            reward_scale=REWARD_SCALE,
            behaviour_logprobs=np.full(len(response), -np.log(vocab_size), np.float32),
        )
        for i, (prompt, response) in enumerate(pairs)
    ]
