"""Chat messages <-> token ids, through a Hugging Face tokenizer and its chat template.

In: the messages of a `Prompt`. Out: int32 ids, generation prompt included. Also what other stages
must agree on: the ids that end a response, and fingerprints of the vocabulary and of the template.
Does not load models, and does not need torch.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import json
import os
import types
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file

from gopd_jax.data.messages import Chat, Messages, with_suffix
from gopd_jax.data.settings import check_template_kwargs
from gopd_jax.data.template_check import TemplateCheck
from gopd_jax.runtime.errors import brief
from gopd_jax.runtime.files import read_json
from gopd_jax.runtime.hub import ask_for
from gopd_jax.runtime.object_store import local_copy


@dataclasses.dataclass(frozen=True)
class ChatTokenizer:
    """A tokenizer, its chat template and the ids that end a response; see `ChatTokenizer.load`.

    tokenizer: of Hugging Face, with a chat template.
    path: the local folder or hub id that it came from.
    enable_thinking: passed to the chat template, which may ignore it.
    stop_ids: sorted, unique and never empty; a response ends with any of them.
    template_kwargs: further keyword arguments, which the chat template must know.
    """

    tokenizer: PreTrainedTokenizerBase
    path: str
    enable_thinking: bool
    stop_ids: tuple[int, ...]
    template_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        enable_thinking: bool = False,
        extra_stop_ids: Iterable[int] = (),
        chat_template: str | None = None,
        template_kwargs: Mapping[str, Any] = types.MappingProxyType({}),
    ) -> "ChatTokenizer":
        """Loads a tokenizer.

        Args:
            path: a local folder with tokenizer.json, or a Hugging Face hub id.
            enable_thinking: the switch of the Qwen3 template.
            extra_stop_ids: stop ids in addition to those of generation_config.json and the
                tokenizer's end of sequence.
            chat_template: Jinja text that replaces the tokenizer's own template.
            template_kwargs: keyword arguments of the chat template; an "enable_thinking" among
                them replaces the argument.

        Raises:
            ValueError: no tokenizer at `path`, no chat template, no stop id, a stop id outside the
                vocabulary, or a reserved name in `template_kwargs`.
        """
        path = local_copy(os.path.expanduser(os.fspath(path)))
        tokenizer = _from_pretrained(path)
        if chat_template is not None:
            tokenizer.chat_template = chat_template
        if not isinstance(tokenizer.chat_template, (str, dict, type(None))):
            raise ValueError(
                f"the chat template of {path!r} is {tokenizer.chat_template!r}: expected a text"
            )
        if not tokenizer.chat_template:
            raise ValueError(
                f"the tokenizer at {path!r} has no chat template: pass chat_template, or use the "
                "instruct model's"
            )
        stop_ids = {*_generation_stop_ids(path), *extra_stop_ids}
        if tokenizer.eos_token_id is not None:
            stop_ids.add(tokenizer.eos_token_id)
        if not stop_ids:
            raise ValueError(
                f"no stop id at {path!r}: neither generation_config.json, the tokenizer nor "
                "extra_stop_ids has one"
            )
        outside = [i for i in stop_ids if not 0 <= i < len(tokenizer)]
        if outside:
            raise ValueError(
                f"stop ids {sorted(outside)} of {path!r} are outside its vocabulary of "
                f"{len(tokenizer)} ids: expected ids from 0 to {len(tokenizer) - 1}"
            )
        kwargs = check_template_kwargs(dict(template_kwargs), "template_kwargs")
        thinking = kwargs.pop("enable_thinking", enable_thinking)
        return cls(tokenizer, path, thinking, tuple(sorted(stop_ids)), kwargs)

    @functools.cached_property
    def num_ids(self) -> int:
        """One more than the largest id; a model may have more rows, which stand for no token."""
        return 1 + max(self.tokenizer.get_vocab().values())

    def check_fits(self, model: str, vocab_size: int) -> None:
        """Raises ValueError unless a model has an embedding for every id.

        Args:
            model: what messages call the model.
            vocab_size: number of its embeddings.
        """
        if self.num_ids > vocab_size:
            raise ValueError(
                f"{model} has {vocab_size} embeddings, its tokenizer has {self.num_ids} ids: "
                "expected at least as many embeddings as ids"
            )

    def encode_prompt(self, messages: Messages, suffix: str = "") -> np.ndarray:
        """Encodes one chat.

        Args:
            messages: the chat.
            suffix: added to the last user message by `with_suffix`.

        Returns:
            int32 token ids [T], generation prompt included.
        """
        return self.encode_prompts([messages], suffix)[0]

    def encode_prompts(self, batch: Sequence[Messages], suffix: str = "") -> list[np.ndarray]:
        """Encodes many chats, as `encode_prompt` does; the tokenizer works on them in parallel.

        Raises:
            ValueError: the chat template refuses a chat, or makes no token of it.
        """
        chats = [Chat(with_suffix(m, suffix)) for m in batch]
        return self._ids(chats, [self.render(chat) for chat in chats])

    def encode_chats(self, chats: Sequence[Chat], check: bool = True) -> list[np.ndarray]:
        """Encodes chats of a data set, after a check that the template renders all of each.

        Args:
            chats: the chats.
            check: False leaves the check out, for chats that have passed it with another text.

        Returns:
            int32 token ids [T] of each chat, generation prompt included.

        Raises:
            ValueError: the template refuses a chat or drops a part of it; names the chat.
        """
        texts = [self.render(chat) for chat in chats]
        if check:
            self._check.check_kwargs(self.template_kwargs, "template_kwargs")
            for chat, text in zip(chats, texts, strict=True):
                self._check.check(chat, text)
        return self._ids(chats, texts)

    def render(self, chat: Chat, generation_prompt: bool = True) -> str:
        """Returns the text of a chat, with the generation prompt unless told otherwise.

        Raises:
            ValueError: the template refuses the chat; names the chat.
        """
        kwargs = {"enable_thinking": self.enable_thinking, **self.template_kwargs}
        try:
            return self.tokenizer.apply_chat_template(
                list(chat.messages),
                tools=chat.tools,
                add_generation_prompt=generation_prompt,
                tokenize=False,
                **{**kwargs, **chat.template_kwargs},
            )
        except MemoryError:
            raise
        except Exception as error:  # a template is a program of the model's, and may raise anything
            raise ValueError(
                f"{chat.name}: the chat template of {self.path!r} refuses it ({brief(error)})"
            ) from error

    @functools.cached_property
    def _check(self) -> TemplateCheck:
        templates = self.tokenizer.chat_template
        texts = templates.values() if isinstance(templates, dict) else [templates]
        return TemplateCheck(f"the chat template of {self.path!r}", self.render, texts)

    def _ids(self, chats: Sequence[Chat], texts: list[str]) -> list[np.ndarray]:
        if not texts:
            return []
        # The template writes the special tokens itself.
        encoded = self.tokenizer(texts, add_special_tokens=False, padding=False, truncation=False)
        for chat, ids in zip(chats, encoded["input_ids"], strict=True):
            if not ids:
                raise ValueError(
                    f"{chat.name}: the chat template of {self.path!r} makes no token of "
                    f"{str(list(chat.messages))[:80]}: expected at least one"
                )
        return [np.asarray(ids, np.int32) for ids in encoded["input_ids"]]

    def shortened(self, text: str, tokens: int) -> str:
        """The text without its last `tokens` tokens, and without its last character at least."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self.decode(ids[: max(0, len(ids) - tokens)])[: max(0, len(text) - 1)]

    def decode(self, ids: Sequence[int] | np.ndarray, skip_special_tokens: bool = True) -> str:
        """Returns the text of token ids, with its spaces unchanged."""
        ids = np.asarray(ids).tolist()
        return self.tokenizer.decode(
            ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )

    @functools.cached_property
    def vocabulary_fingerprint(self) -> str:
        """sha256 hex of the token of every id.

        How text is split into tokens is left out: only the student's tokenizer splits text.
        """
        return _sha256(sorted((i, token) for token, i in self.tokenizer.get_vocab().items()))

    @functools.cached_property
    def template_fingerprint(self) -> str:
        """sha256 hex of the chat templates and their keyword arguments."""
        templates = self.tokenizer.chat_template  # a dict: one is for chats with tools
        more = [templates] if isinstance(templates, dict) else []
        more += [dict(self.template_kwargs)] if self.template_kwargs else []
        return _sha256([self.tokenizer.get_chat_template(), self.enable_thinking, *more])


def check_same_vocabulary(named: dict[str, ChatTokenizer]) -> None:
    """Checks that all tokenizers give every id the same token: a teacher scores the student's ids.

    Args:
        named: the tokenizers by role.

    Raises:
        ValueError: names the first id that differs.
    """
    (first_name, first), *others = named.items()
    for name, other in others:
        if first.vocabulary_fingerprint == other.vocabulary_fingerprint:
            continue
        ours, theirs = (
            {i: token for token, i in t.tokenizer.get_vocab().items()} for t in (first, other)
        )
        i = min(i for i in ours.keys() | theirs.keys() if ours.get(i) != theirs.get(i))
        no_id = "" if i in ours and i in theirs else " (None: no such id)"
        raise ValueError(
            f"{first_name} ({first.path}) and {name} ({other.path}) do not share their vocabulary: "
            f"the first difference is id {i}, {ours.get(i)!r} for {first_name} and "
            f"{theirs.get(i)!r} for {name}{no_id}"
        )


def _from_pretrained(path: str) -> PreTrainedTokenizerBase:
    if os.path.isdir(path):
        where = "this folder holds no tokenizer that transformers can load"
    elif path.startswith((".", "/")) or path.count("/") > 1:
        # Never a hub id. Asking the hub for it would retry for 45 s first.
        raise ValueError(f"no tokenizer at {path!r}: there is no such folder")
    else:
        where = "there is no such folder, and the Hugging Face hub did not provide it"
        ask_for(path)
    try:
        return AutoTokenizer.from_pretrained(path)
    except MemoryError:
        raise
    except Exception as error:  # transformers raises many kinds, and tokenizers Exception itself
        raise ValueError(f"no tokenizer at {path!r}: {where} ({brief(error)})") from error


def _generation_stop_ids(path: str) -> list[int]:
    """eos_token_id of generation_config.json: an int, a list, or absent."""
    name = "generation_config.json"
    try:
        file = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        # The hub cannot be reached. Without its stop ids, responses might never end.
        reason = " ".join(str(error).split())
        raise ValueError(f"cannot tell whether {path!r} has a {name}: {reason}") from error
    if file is None:
        return []
    value = read_json(file).get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise ValueError(
            f"eos_token_id in {name} of {path!r} must be an id or a list of ids, not {value!r}: "
            "expected ids as the tokenizer numbers them"
        )
    return ids


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
