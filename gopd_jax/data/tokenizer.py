"""Chat messages <-> token ids, through a Hugging Face tokenizer and its chat template.

In: messages of a `Prompt`. Out: int32 ids, generation prompt included. Also what other stages must agree on: the ids that end
a response, and fingerprints of the vocabulary and of the template. Knows nothing of models; needs no torch.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import functools
import hashlib
import json
import os
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file

Messages = Sequence[dict[str, str]]


@dataclasses.dataclass(frozen=True)
class ChatTokenizer:
    """A tokenizer, its chat template and the ids that end a response. Make one with `ChatTokenizer.load`.

    path: the local folder or hub id it came from. enable_thinking: handed to the template, which may ignore it.
    stop_ids: sorted and unique, never empty: a response ends with any of them.
    """

    tokenizer: PreTrainedTokenizerBase
    path: str
    enable_thinking: bool
    stop_ids: tuple[int, ...]

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        enable_thinking: bool = False,
        extra_stop_ids: Iterable[int] = (),
        chat_template: str | None = None,
    ) -> "ChatTokenizer":
        """Loads a tokenizer.

        Args:
          path: a local folder with tokenizer.json, or a Hugging Face hub id.
          enable_thinking: the switch of the Qwen3 template.
          extra_stop_ids: stop ids beside those of generation_config.json and the tokenizer's own end of sequence.
          chat_template: Jinja text that replaces the tokenizer's own template.

        Raises:
          ValueError: nothing loadable at `path`, no chat template, no stop id or one outside the vocabulary.
        """
        path = os.path.expanduser(os.fspath(path))
        tokenizer = _from_pretrained(path)
        if chat_template is not None:
            tokenizer.chat_template = chat_template
        if not tokenizer.chat_template:
            raise ValueError(
                f"the tokenizer at {path!r} has no chat template: pass chat_template, or use the instruct model's"
            )
        stop_ids = {*_generation_stop_ids(path), *extra_stop_ids}
        if tokenizer.eos_token_id is not None:
            stop_ids.add(tokenizer.eos_token_id)
        if not stop_ids:
            raise ValueError(
                f"no stop id at {path!r}: neither generation_config.json, the tokenizer nor extra_stop_ids has one"
            )
        outside = [i for i in stop_ids if not 0 <= i < len(tokenizer)]
        if outside:
            raise ValueError(
                f"stop ids {sorted(outside)} of {path!r} are outside its vocabulary of {len(tokenizer)} ids"
            )
        return cls(tokenizer, path, enable_thinking, tuple(sorted(stop_ids)))

    def encode_prompt(self, messages: Messages, suffix: str = "") -> np.ndarray:
        """Messages -> int32 ids [T]; `suffix` is added to the last user message by `with_suffix`."""
        return self.encode_prompts([messages], suffix)[0]

    def encode_prompts(self, batch: Sequence[Messages], suffix: str = "") -> list[np.ndarray]:
        """`encode_prompt` of many chats: the tokenizer works on them in parallel."""
        encoded = self.tokenizer.apply_chat_template(
            [with_suffix(messages, suffix) for messages in batch],
            add_generation_prompt=True,
            enable_thinking=self.enable_thinking,
            tokenize=True,
            padding=False,
            truncation=False,
            return_dict=True,  # transformers 4 defaults to a list, 5 to a dict
        )
        return [np.asarray(ids, np.int32) for ids in encoded["input_ids"]]

    def decode(self, ids: Sequence[int] | np.ndarray, skip_special_tokens: bool = True) -> str:
        """Ids -> text, spaces untouched."""
        ids = np.asarray(ids).tolist()
        return self.tokenizer.decode(
            ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )

    @functools.cached_property
    def vocabulary_fingerprint(self) -> str:
        """sha256 hex of the token of every id. How text is split is not in it: only the student's tokenizer splits text."""
        return _sha256(sorted((i, token) for token, i in self.tokenizer.get_vocab().items()))

    @functools.cached_property
    def template_fingerprint(self) -> str:
        """sha256 hex of the chat template and its thinking switch."""
        return _sha256([self.tokenizer.get_chat_template(), self.enable_thinking])


def check_same_vocabulary(named: dict[str, ChatTokenizer]) -> None:
    """Raises ValueError unless all tokenizers give every id the same token: a teacher scores the student's ids."""
    (first_name, first), *others = named.items()
    for name, other in others:
        if first.vocabulary_fingerprint == other.vocabulary_fingerprint:
            continue
        ours, theirs = (
            {i: token for token, i in t.tokenizer.get_vocab().items()} for t in (first, other)
        )
        i = min(i for i in ours.keys() | theirs.keys() if ours.get(i) != theirs.get(i))
        raise ValueError(
            f"{first_name} ({first.path}) and {name} ({other.path}) do not share their vocabulary: the first difference is "
            f"id {i}, {ours.get(i)!r} for {first_name} and {theirs.get(i)!r} for {name} (None: no such id)"
        )


def with_suffix(messages: Messages, suffix: str) -> list[dict[str, str]]:
    r"""The suffix as it is at the end of the last user message; left out where it asks for a \boxed answer and a message does
    already, as those of DeepMath in the verl schema do."""
    asked = "\\boxed" in suffix and any("\\boxed" in message["content"] for message in messages)
    return add_to_last_user_message(messages, "" if asked else suffix)


def add_to_last_user_message(messages: Messages, suffix: str) -> list[dict[str, str]]:
    messages = list(messages)
    if suffix:
        last = max(
            (i for i, message in enumerate(messages) if message["role"] == "user"), default=None
        )
        if last is None:
            raise ValueError(
                f"no user message to append the prompt suffix to: roles are {[m['role'] for m in messages]}"
            )
        messages[last] = {**messages[last], "content": messages[last]["content"] + suffix}
    return messages


def _from_pretrained(path: str) -> PreTrainedTokenizerBase:
    if os.path.isdir(path):
        where = "this folder holds no tokenizer that transformers can load"
    elif (
        path.startswith((".", "/")) or path.count("/") > 1
    ):  # never a hub id; asking the hub would retry for 45 s first
        raise ValueError(f"no tokenizer at {path!r}: there is no such folder")
    else:
        where = "there is no such folder, and the Hugging Face hub did not give it"
    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"no tokenizer at {path!r}: {where} ({reason})") from error


def _generation_stop_ids(path: str) -> list[int]:
    """eos_token_id of generation_config.json: an int, a list, or absent."""
    try:
        file = cached_file(
            path, "generation_config.json", _raise_exceptions_for_missing_entries=False
        )
    except OSError as error:  # the hub cannot be asked: going on without its stop ids would let every response run on
        raise ValueError(
            f"cannot tell whether {path!r} has a generation_config.json: {' '.join(str(error).split())}"
        ) from error
    if file is None:
        return []
    with open(file, encoding="utf-8") as stream:
        value = json.load(stream).get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise ValueError(
            f"eos_token_id in generation_config.json of {path!r} must be an id or a list of ids, not {value!r}"
        )
    return ids


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
