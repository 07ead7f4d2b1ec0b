"""The character tokenizer of the embedded models.

One id for each printable ASCII character and the newline, and six special ids.
"""

import pathlib
import string

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<|pad|>", "<|unk|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")

# Size of the models' vocabulary. As in the Qwen3 models, it is larger than the tokenizer's: the
# last ids have no text.
VOCAB_SIZE = 128

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def save_tokenizer(folder: str | pathlib.Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    characters = sorted(set(string.printable) - set("\t\r\x0b\x0c"))
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *characters))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|system|>"],
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(str(folder))
