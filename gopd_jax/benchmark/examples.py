"""Random examples for the benchmarks of the learner.

In: their numbers, and the ids of a model. Out: examples as `Learner.pack` takes them. Does not
measure anything.
"""

import numpy as np

from gopd_jax.learner.packing import Example
from gopd_jax.types import SampleKey

FIRST_ID = 5  # the ids below it are special tokens in most vocabularies


def step_examples(
    count: int, prompt: int, mean: int, limit: int, vocab_size: int, seed: int = 0
) -> list[Example]:
    """Responses of geometric lengths to prompts of one length, all of random ids.

    The draws are those that other trainers are measured with: all lengths first, then the ids of
    each prompt and response together. The importance weights are those of a sampler that draws
    every id with the same probability.

    Args:
        count: number of examples.
        prompt: tokens of each prompt.
        mean: mean tokens of a response, before the limit.
        limit: most tokens of a response.
        vocab_size: number of ids.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.geometric(1 / mean, count), limit)
    rows = [rng.integers(FIRST_ID, vocab_size, prompt + n).astype(np.int32) for n in lengths]
    weight = 1 / int(lengths.sum())
    return [
        Example(
            key=SampleKey(f"{i:06}", 0),
            domain=0,
            prompt=row[:prompt],
            response=row[prompt:],
            weight=weight,
            reward_scale=1.25,
            behaviour_logprobs=np.full(len(row) - prompt, -np.log(vocab_size), np.float32),
        )
        for i, row in enumerate(rows)
    ]
