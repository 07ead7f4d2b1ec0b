"""What the benchmark samples, and the engine that it measures.

In: the options of the command. Out: prompts as token ids, requests, stop ids, a `RolloutEngine`.
Does not measure anything.
"""

import argparse
from collections.abc import Sequence
import os
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from gopd_jax.data.rows import json_line
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.generate.options import engine_options
from gopd_jax.models.config import ModelConfig
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.runtime.mesh import compute_dtype
from gopd_jax.types import EncodedPrompt, Prompt, Request

FIRST_STOP_ID = 300  # the ids below it are bytes and special tokens in most vocabularies


def stop_ids(vocab_size: int, mean: int) -> list[int]:
    """Draws V / mean stop ids, the same ones every time.

    With random weights, a token is one of them with probability 1 / mean.

    Raises:
        ValueError: the vocabulary is too small.
    """
    count = max(1, vocab_size // mean)
    if vocab_size < FIRST_STOP_ID + count:
        raise ValueError(
            f"--mean-response-tokens={mean} needs {count} stop ids from {FIRST_STOP_ID} on: "
            "expected a vocabulary "
            f"of at least {FIRST_STOP_ID + count} ids, the model has {vocab_size}"
        )
    ids = np.arange(FIRST_STOP_ID, vocab_size)
    chosen = np.random.default_rng(0).choice(ids, size=count, replace=False)
    return sorted(int(i) for i in chosen)


def random_prompts(count: int, tokens: int, vocab_size: int) -> list[np.ndarray]:
    """Prompts of random ids, each with between half of `tokens` and `tokens` ids."""
    rng = np.random.default_rng(1)
    least = (tokens + 1) // 2
    return [
        rng.integers(5, vocab_size, rng.integers(least, tokens + 1), dtype=np.int32)
        for _ in range(count)
    ]


def chat_prompts(
    model: str, file: str, count: int, vocab_size: int
) -> tuple[list[np.ndarray], int]:
    """The first questions of a JSON-lines file, in the chat template of a model.

    Args:
        model: folder or hub id.
        file: each row has a "question".
        count: number of prompts.
        vocab_size: number of the model's embeddings.

    Returns:
        The prompts, and the number of ids of the tokenizer.
    """
    tokenizer = ChatTokenizer.load(model)
    tokenizer.check_fits(f"--model={model}", vocab_size)
    if not os.path.isfile(file):
        raise ValueError(f"--prompt-file={file}: no such file, expected JSON lines with a question")
    with open(file, "rb") as lines:
        questions = [_question(line, f"{file}:{n}") for n, line in enumerate(lines, start=1)]
    questions = questions[:count]
    if len(questions) < count:
        raise ValueError(
            f"--prompt-file={file} has {len(questions)} questions: expected --prompts={count}"
        )
    chats = [[{"role": "user", "content": q}] for q in questions]
    return tokenizer.encode_prompts(chats), tokenizer.num_ids


def _question(line: bytes, where: str) -> str:
    try:
        row = json_line(line)
    except ValueError as e:
        raise ValueError(f"{where}: {e}") from e
    if not isinstance(row, dict) or not isinstance(row.get("question"), str):
        raise ValueError(f"{where}: expected an object with a text as 'question'")
    return row["question"]


def to_requests(prompts: Sequence[np.ndarray], samples: int, max_tokens: int) -> list[Request]:
    """The requests for `samples` answers to each prompt."""
    encoded = [
        EncodedPrompt(Prompt(f"prompt {i}", (), "benchmark", ""), p) for i, p in enumerate(prompts)
    ]
    return [Request(p, s, max_tokens) for p in encoded for s in range(samples)]


def make_engine(
    args: argparse.Namespace,
    model: ModelConfig,
    mesh: Mesh,
    max_prompt_tokens: int,
    num_ids: int,
) -> RolloutEngine:
    """The engine that the options describe; it draws from the first `num_ids` ids."""
    return RolloutEngine(
        model,
        mesh,
        stop_ids(num_ids, args.mean_response_tokens),
        slots=args.slots,
        max_prompt_tokens=max_prompt_tokens,
        max_response_tokens=args.max_response_tokens,
        num_ids=num_ids,
        dtype=compute_dtype(args.compute_dtype),
        options=engine_options(args),
    )


def settings_in_effect(args: argparse.Namespace) -> dict[str, Any]:
    """All options, "auto" replaced, and the version of JAX."""
    dtype = np.dtype(compute_dtype(args.compute_dtype)).name
    return vars(args) | {"compute_dtype": dtype, "jax": jax.__version__}
