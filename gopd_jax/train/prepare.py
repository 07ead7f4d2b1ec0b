"""What must hold before step 0: models, tokenizers, data and paths fit together. Each failure is one clear error.

In: the config. Out: a `Contract` with what was read on the way (architectures, tokenizer, prompts, fingerprints).
"""

import collections
from collections.abc import Sequence
import dataclasses
import functools
import os
from typing import Any
import uuid

from etils import epath
import numpy as np

from gopd_jax.config import Config
from gopd_jax.data.datasets import DataSource, prepare
from gopd_jax.data.prompts import EncodedPrompts, FilterReport, encode_all
from gopd_jax.data.select import hard_enough, hold_out
from gopd_jax.data.teacher_prompts import add_teacher_context
from gopd_jax.data.tokenizer import ChatTokenizer, check_same_vocabulary
from gopd_jax.models.config import ModelConfig, load_config
from gopd_jax.models.huggingface import weights_fingerprint
from gopd_jax.rewards.verifier import check_ground_truth
from gopd_jax.runtime.progress import say
from gopd_jax.types import EncodedPrompt, Prompt


@dataclasses.dataclass(frozen=True)
class Contract:
    """What a run is made of, read and checked.

    tokenizer: the student's; it alone templates prompts. models: architecture by path. teachers: path by domain (not grpo).
    reference: path, or None where no lambda needs it. train, test: encoded prompts by domain. dropped: over the limit.
    fingerprints: sha256 of everything that must not change under a resumed run.
    """

    tokenizer: ChatTokenizer
    models: dict[str, ModelConfig]
    teachers: dict[str, str]
    reference: str | None
    train: dict[str, Sequence[EncodedPrompt]]
    test: dict[str, Sequence[EncodedPrompt]]
    dropped: dict[str, FilterReport]
    fingerprints: dict[str, Any]


def check(config: Config, workdir: str) -> Contract:
    """Reads and checks everything that the run needs.

    Raises:
        ValueError: a path that cannot be written, a model or tokenizer that cannot be read, vocabularies that differ, a
            vocabulary larger than the model's, data that cannot be verified; one sentence says which and what was wanted.
    """
    check_writable(workdir)
    teachers = (
        {}
        if config.method == "grpo"
        else {name: d.teacher for name, d in config.domains.items() if d.teacher}
    )
    needs_reference = config.method == "gopd" and any(
        config.reward_scale(name) != 1 for name in config.domains
    )
    reference = (config.reference or config.student) if needs_reference else None
    roles = {"student": config.student} | {
        f"teacher of {name}": path for name, path in teachers.items()
    }
    if reference:
        roles["reference"] = reference
    models = {path: load_config(path) for path in dict.fromkeys(roles.values())}
    load = functools.cache(
        lambda path: ChatTokenizer.load(
            path, config.data.enable_thinking, config.rollout.extra_stop_ids
        )
    )
    tokenizers = {role: load(path) for role, path in roles.items()}
    check_same_vocabulary(tokenizers)
    tokenizer = tokenizers["student"]
    for role, path in roles.items():
        if len(tokenizer.tokenizer) > models[path].vocab_size:
            raise ValueError(
                f"{role} {path!r} has {models[path].vocab_size} embeddings, its tokenizer {len(tokenizer.tokenizer)} ids: "
                "wanted at least as many embeddings as ids"
            )
    for role, path in roles.items():
        if config.longest > models[path].max_positions:
            raise ValueError(
                f"{role} {path!r} takes {models[path].max_positions} positions; prompt + response limit is {config.longest}"
            )
    hashes = {path: weights_fingerprint(path) for path in models}
    for role, path in roles.items():
        shown_more = (
            role.startswith("teacher")
            and config.domains[role.removeprefix("teacher of ")].teacher_context
        )
        if role.startswith("teacher") and hashes[path] == hashes[config.student] and not shown_more:
            say(
                f"warning: the {role} has the student's own weights ({path}): every advantage will be about 0"
            )

    data_dir = config.data.cache_dir or os.path.join(workdir, "datasets")
    train, test, dropped, sources = {}, {}, {}, {}
    for name, domain in config.domains.items():
        for split, out in (("train", train), ("test", test)):
            rows, fingerprint, chosen = _prompts(name, config, split, data_dir)
            sources[f"{name}/{split}"] = fingerprint
            limit = config.data.max_prompt_tokens
            identity = (
                data_dir,
                name,
                chosen,
                tokenizer.vocabulary_fingerprint,
                tokenizer.template_fingerprint,
            )
            encoded = _encode(
                _Source(
                    (*identity, domain.prompt_suffix, limit),
                    rows,
                    tokenizer,
                    domain.prompt_suffix,
                    limit,
                )
            )
            out[name], dropped[f"{name}/{split}"] = encoded
        if domain.teacher_context and config.method == "gopd":
            limit = config.data.max_teacher_prompt_tokens or config.data.max_prompt_tokens
            train[name], dropped[f"{name}/train, as its teacher reads it"] = add_teacher_context(
                train[name], tokenizer, domain.prompt_suffix, domain.teacher_context, limit
            )
        for prompts in (train[name], test[name]):
            _check_some_rows(name, domain.reward, prompts)
        if config.method == "sft" and not domain.teacher:
            sft_answers(tokenizer, _spread(train[name]))
    fingerprints = {
        "weights": {role: hashes[path] for role, path in roles.items()},
        "vocabulary": tokenizer.vocabulary_fingerprint,
        "template": tokenizer.template_fingerprint,
        "data": sources,
    }
    return Contract(tokenizer, models, teachers, reference, train, test, dropped, fingerprints)


def _prompts(
    name: str, config: Config, split: str, data_dir: str
) -> tuple[Sequence[Prompt], str, tuple]:
    """The prompts of a domain's train or test side, the fingerprint of their source, and what decides which those are."""
    domain = config.domains[name]
    source = domain.train if split == "train" or domain.held_out else domain.test
    data = prepare(source, data_dir, domain=name, skip_bad_rows=config.data.skip_bad_rows)
    if split == "test" and not domain.held_out:
        _say_skipped(f"{name}/{split}", data)
        return data, data.fingerprint, (data.fingerprint,)
    try:
        prompts, dropped = hard_enough(data, domain.min_difficulty)
        if domain.held_out:
            prompts = hold_out(prompts, domain.held_out)[split == "test"]
    except ValueError as e:
        raise ValueError(f"config.domains.{name}.{e}") from e
    if split == "train":  # the test side comes from the same rows: said once
        _say_skipped(f"{name}/{split}", data)
        for reason, count in collections.Counter(reason for _, reason in dropped).items():
            say(f"{name}/{split}: {count:,} of {len(data):,} prompts left out: {reason}")
    return (
        prompts,
        data.fingerprint,
        (data.fingerprint, domain.min_difficulty, domain.held_out, split),
    )


def _say_skipped(name: str, data: DataSource) -> None:
    if data.skipped:
        say(
            f"warning: {name}: {len(data.skipped):,} bad rows skipped, the first: {data.skipped[0]}"
        )


@dataclasses.dataclass(frozen=True)
class _Source:
    """A data set to encode; `identity` is what decides the result."""

    identity: tuple
    rows: Sequence[Prompt] = dataclasses.field(compare=False)
    tokenizer: ChatTokenizer = dataclasses.field(compare=False)
    suffix: str = dataclasses.field(compare=False)
    limit: int = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=4)
def _encode(source: _Source) -> tuple[EncodedPrompts, FilterReport]:
    """A process that makes several runs on the same data encodes it once: seconds for each run."""
    return encode_all(source.rows, source.tokenizer, source.suffix, source.limit)


def check_writable(workdir: str) -> None:
    """Raises ValueError where a file cannot be written under `workdir`."""
    folder = epath.Path(workdir)
    probe = folder / f".writable-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as e:
        raise ValueError(f"--workdir={workdir}: cannot write there ({e})") from e


def _spread(prompts: Sequence[EncodedPrompt]) -> list[EncodedPrompt]:
    """Up to 64 prompts spread over a data set."""
    return [prompts[int(i)] for i in np.unique(np.linspace(0, len(prompts) - 1, 64).astype(int))]


def _check_some_rows(name: str, kind: str, prompts: Sequence[EncodedPrompt]) -> None:
    """Can the answers be verified? All rows would take a minute (`python -m gopd_jax.data --verify`); the data builder
    has seen that each has a ground truth."""
    for encoded in _spread(prompts):
        prompt = encoded.source
        try:
            check_ground_truth(kind, prompt.ground_truth)
        except ValueError as e:
            raise ValueError(
                f"config.domains.{name}: prompt {prompt.prompt_id!r} cannot be verified as {kind!r}: {e}"
            ) from e


def sft_answers(tokenizer: ChatTokenizer, prompts: Sequence[EncodedPrompt]) -> list[np.ndarray]:
    """The given answers of SFT: the text in a row's "response", then the tokenizer's end of turn.

    Raises:
        ValueError: a row without a response, named by its prompt id.
    """
    answers = []
    for encoded in prompts:
        prompt = encoded.source
        text = prompt.extra.get("response")
        if not isinstance(text, str):
            raise ValueError(
                f'prompt {prompt.prompt_id!r} has no text in "response", and its domain no teacher: method sft learns from '
                "one of the two"
            )
        ids = tokenizer.tokenizer(text, add_special_tokens=False)["input_ids"]
        answers.append(np.array([*ids, tokenizer.tokenizer.eos_token_id], np.int32))
    return answers
