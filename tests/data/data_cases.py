"""A small real tokenizer and prompts to encode with it, for the tests of this folder."""

from pathlib import Path

import numpy as np
import tokenizers
from transformers import PreTrainedTokenizerFast

from gopd_jax.types import EncodedPrompt, Prompt

ROOT = Path(__file__).parents[2]

# The shape of the Qwen3 template, in four lines.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def save_tokenizer(
    folder: Path, template: str | None = TEMPLATE, eos: str | None = "<|im_end|>", more: tuple = ()
) -> Path:
    """A byte-level BPE of 300-odd tokens as a Hugging Face folder; ids 0..2 are the special tokens."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(
        ["what is two plus two? think step by step", "user assistant system"], trainer
    )
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
