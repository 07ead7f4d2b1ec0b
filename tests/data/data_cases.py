"""A small real tokenizer, and rows and prompts to use with it, for the tests of this folder."""

from collections.abc import Iterable
import json
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import tokenizers
from transformers import PreTrainedTokenizerFast

from gopd_jax.types import EncodedPrompt, Prompt

ROOT = Path(__file__).parents[2]

# The shape of the Qwen3 template, in four lines.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def save_tokenizer(
    folder: Path, template: str | None = TEMPLATE, eos: str | None = "<|im_end|>", more: tuple = ()
) -> Path:
    """A byte-level BPE of 300-odd tokens as a Hugging Face folder; ids 0..2 are special tokens."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    texts = ["what is two plus two? think step by step", "user assistant system"]
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens(list(more))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=eos)
    wrapped.chat_template = template
    wrapped.save_pretrained(folder)
    return folder


def encoded(domain: str, count: int) -> list[EncodedPrompt]:
    """Prompts DOMAIN/0, DOMAIN/1, ... of different token ids."""
    return [
        EncodedPrompt(
            Prompt(f"{domain}/{i}", ({"role": "user", "content": f"{i}?"},), domain, str(i)),
            np.arange(i + 1, dtype=np.int32),
        )
        for i in range(count)
    ]


def write(path: Path, lines: Iterable[dict | str]) -> Path:
    """Writes a file of JSON lines; a str is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(line + "\n" for line in text))
    return path


def sums(start: int, count: int) -> list[dict]:
    """Rows of the problems "START + 1 =", "START+1 + 1 =", ..."""
    return [
        {"prompt": f"{i} + 1 =", "ground_truth": str(i + 1)} for i in range(start, start + count)
    ]


def run_script(script: str, *arguments: object) -> subprocess.CompletedProcess:
    """Runs a Python script in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
