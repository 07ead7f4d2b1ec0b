"""What a run is made of, read and checked before any work starts.

In: the config. Out: `RunInputs`: architectures, tokenizer, prompts, fingerprints. No parameters are
loaded here.
"""

import collections
from collections.abc import Hashable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import json
import os

from etils import epath

from gopd_jax.config import Config
from gopd_jax.data.answers import given_answers_of
from gopd_jax.data.datasets import DataSource
from gopd_jax.data.datasets import prepare as prepare_data
from gopd_jax.data.encode import FilterReport, encode_all, in_both
from gopd_jax.data.select import hard_enough, hold_out
from gopd_jax.data.settings import OWN_TEMPLATE, DomainSettings
from gopd_jax.data.stream import PromptStream
from gopd_jax.data.teacher_prompts import add_teacher_context
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.models.config import ModelConfig, load_config
from gopd_jax.models.huggingface import check_tensors, weights_fingerprint
from gopd_jax.objective.gopd import needs_reference
from gopd_jax.rewards.own import is_own
from gopd_jax.rewards.settings import NONE
from gopd_jax.rewards.verifier import Verifier
from gopd_jax.runtime.errors import brief
from gopd_jax.runtime.files import JsonObject, check_output, is_remote
from gopd_jax.runtime.object_store import local_root
from gopd_jax.runtime.progress import say
from gopd_jax.runtime.trackers import check_installed
from gopd_jax.train import own_rewards
from gopd_jax.train.checks import (
    check_models,
    check_prompts,
    check_weights,
    check_writable,
    spread,
    warn_of_templates,
)
from gopd_jax.train.going_on import check_steps
from gopd_jax.train.identity import check_same_run, run_identity
from gopd_jax.train.origin import check_reference, origin_of
from gopd_jax.types import EncodedPrompt, Prompt

# Prompts that are held out where neither answers nor a test set tell how far the student is, at
# most one of LEAST_PROMPTS.
HELD_OUT, LEAST_PROMPTS = 64, 10


@dataclasses.dataclass(frozen=True)
class RunInputs:
    """What a run is made of.

    tokenizer: the student's; it applies chat templates, but for `readers`.
    models: architecture by path.
    teachers: path by domain; empty for grpo.
    reference: path, or None where no lambda needs it.
    train, test: encoded prompts by domain.
    dropped: prompts over the length limit, by "DOMAIN/train" and "DOMAIN/test".
    in_train: by domain, ids of the test prompts whose question is also trained on.
    fingerprints: of everything that must not change when the run is resumed; most are sha256.
    origin: what run.json records when the run starts: "models" by role, and "init_from", the
        checkpoint that it starts from, or None.
    tokenizers: of each role; those of others than the student are compared with it.
    readers: by domain, what writes the prompts that its teacher reads: the student's tokenizer, or
        one with a template of its own.
    """

    tokenizer: ChatTokenizer
    models: dict[str, ModelConfig]
    teachers: dict[str, str]
    reference: str | None
    train: dict[str, Sequence[EncodedPrompt]]
    test: dict[str, Sequence[EncodedPrompt]]
    dropped: dict[str, FilterReport]
    in_train: dict[str, list[str]]
    fingerprints: JsonObject
    origin: JsonObject
    tokenizers: Mapping[str, ChatTokenizer] = dataclasses.field(default_factory=dict)
    readers: Mapping[str, ChatTokenizer] = dataclasses.field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Number of prompts, by "DOMAIN/train" and "DOMAIN/test"."""
        sides = {"train": self.train, "test": self.test}
        return {f"{n}/{side}": len(p) for side, by in sides.items() for n, p in by.items()}

    @property
    def num_ids(self) -> int:
        """Number of ids that the models are sampled and scored on."""
        return self.tokenizer.num_ids


def prepare(config: Config, workdir: str) -> RunInputs:
    """Reads and checks everything that the run needs, short of parameters.

    Raises:
        ValueError: a path that cannot be written, a model or tokenizer that cannot be read, models
            that do not fit together, data that cannot be verified; one sentence says which, and
            what was expected.
    """
    with Verifier(1, config.verifier.timeout_s, config.verifier.memory_mb) as verify:
        return _prepare(config, workdir, verify)


def _prepare(config: Config, workdir: str, verify: Verifier) -> RunInputs:
    check_writable(workdir)
    if config.data.cache_dir:
        check_output("--config.data.cache_dir", os.path.join(config.data.cache_dir, "data"))
    check_installed(config.log.trackers)
    rewards = own_rewards.sources(config, verify)
    roles = roles_of(config)
    check_reference(config, roles)
    models = {path: load_config(path) for path in dict.fromkeys(roles.values())}
    load = functools.cache(lambda path: _tokenizer(path, config))
    tokenizers = {role: load(path) for role, path in roles.items()}
    check_models(roles, models, tokenizers, config.longest)

    for path, model in models.items():
        check_tensors(path, model)
    weights = {path: weights_fingerprint(path) for path in models}
    shown_more = {teacher_of(n) for n, d in config.domains.items() if d.prompts_teacher}
    check_weights(roles, weights, shown_more)

    tokenizer = tokenizers["student"]
    readers = {name: _reader(name, config, tokenizers) for name in config.domains}
    prompts = {
        name: _domain_prompts(name, config, tokenizer, readers[name], workdir)
        for name in config.domains
    }
    dropped, data_fingerprints = {}, {}
    for domain in prompts.values():
        dropped |= domain.dropped
        data_fingerprints |= domain.fingerprints
    fingerprints = _fingerprints(roles, models, tokenizers, weights)
    fingerprints["data"] = data_fingerprints
    if own := {n: r.template_fingerprint for n, r in readers.items() if r is not tokenizer}:
        fingerprints["teacher_templates"] = own
    if rewards:
        fingerprints["rewards"] = rewards
    own_rewards.try_once(config, {name: d.train for name, d in prompts.items()}, verify)
    old = check_same_run(workdir, run_identity(config, fingerprints))
    check_steps(workdir, old, config.steps)
    origin = origin_of(config, workdir, roles, fingerprints)
    inputs = RunInputs(
        tokenizer=tokenizer,
        models=models,
        teachers={n: roles[teacher_of(n)] for n in config.domains if teacher_of(n) in roles},
        reference=roles.get("reference"),
        train={name: domain.train for name, domain in prompts.items()},
        test={name: domain.test for name, domain in prompts.items()},
        dropped=dropped,
        in_train={name: in_both(d.test, d.train) for name, d in prompts.items()},
        fingerprints=fingerprints,
        origin=origin,
        tokenizers=tokenizers,
        readers=readers,
    )
    own = {teacher_of(n) for n, d in config.domains.items() if d.teacher_template}
    warn_of_templates({role: t for role, t in tokenizers.items() if role not in own})
    _warn_of_overlap(inputs)
    return inputs


def _fingerprints(
    roles: Mapping[str, str],
    models: Mapping[str, ModelConfig],
    tokenizers: Mapping[str, ChatTokenizer],
    weights: Mapping[str, str],
) -> JsonObject:
    """The fingerprints of the models of a run; `models` and `weights` are by path."""
    student = tokenizers["student"]
    return {
        "weights": {role: weights[path] for role, path in roles.items()},
        "vocabulary": student.vocabulary_fingerprint,
        "template": student.template_fingerprint,
        # Of generation_config.json, the tokenizer and the config.
        "stop_ids": {role: list(tokenizers[role].stop_ids) for role in roles},
        # What is read of each config.json; other entries of the file decide nothing.
        "architecture": {role: _sha256(models[path]) for role, path in roles.items()},
    }


def make_stream(config: Config, inputs: RunInputs) -> PromptStream:
    """The requests of each step, in the order that the seed gives them."""
    return PromptStream(
        inputs.train,
        config.rollout.prompts_per_step,
        config.rollout.samples_per_prompt,
        config.rollout.max_response_tokens,
        config.seed,
        {name: domain.share for name, domain in config.domains.items()},
    )


def _sha256(model: ModelConfig) -> str:
    text = json.dumps(dataclasses.asdict(model), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def teacher_of(domain: str) -> str:
    """The role of a domain's teacher."""
    return f"teacher of {domain}"


def _reader(name: str, config: Config, tokenizers: Mapping[str, ChatTokenizer]) -> ChatTokenizer:
    """What writes the prompts that a domain's teacher reads."""
    template, role = config.domains[name].teacher_template, teacher_of(name)
    if config.method != "gopd" or not template:
        return tokenizers["student"]
    if template == OWN_TEMPLATE:
        return tokenizers[role]
    try:
        text = epath.Path(template).read_text()
    except (OSError, ValueError) as e:  # ValueError: no text, or a NUL byte in the name
        raise ValueError(
            f"config.domains.{name}.teacher_template={template!r}: expected '', {OWN_TEMPLATE!r} "
            f"or a file with a Jinja template ({brief(e)})"
        ) from e
    own = _tokenizer(config.domains[name].teacher, config, text)
    return dataclasses.replace(own, path=template)  # which messages name


def _tokenizer(path: str, config: Config, chat_template: str | None = None) -> ChatTokenizer:
    return ChatTokenizer.load(
        path,
        extra_stop_ids=config.rollout.extra_stop_ids,
        chat_template=chat_template,
        template_kwargs=config.data.template_kwargs,
    )


def roles_of(config: Config) -> dict[str, str]:
    """The path of the model in each role that the run has."""
    roles = {"student": config.student}
    if config.method != "grpo":
        roles |= {teacher_of(n): d.teacher for n, d in config.domains.items() if d.teacher}
    needed = any(needs_reference(scale) for scale in config.reward_scales.values())
    if config.method == "gopd" and (needed or config.shaping.reference_everywhere):
        roles["reference"] = config.reference or config.student
    return roles


@dataclasses.dataclass(frozen=True)
class _DomainPrompts:
    """The prompts of one domain; `dropped` and `fingerprints` are by "DOMAIN/SPLIT"."""

    train: Sequence[EncodedPrompt]
    test: Sequence[EncodedPrompt]
    dropped: dict[str, FilterReport]
    fingerprints: dict[str, str]


def _domain_prompts(
    name: str, config: Config, tokenizer: ChatTokenizer, reader: ChatTokenizer, workdir: str
) -> _DomainPrompts:
    """Reads, encodes and checks the prompts of a domain; `reader` writes those of its teacher."""
    domain, limit = config.domains[name], config.data.max_prompt_tokens
    data_dir = config.data.cache_dir or _datasets(workdir)
    encoded, dropped, fingerprints = {}, {}, {}
    for split in ("train", "test"):
        where = f"{name}/{split}"
        rows, fingerprints[where], chosen = _rows(name, config, split, data_dir)
        writer = (tokenizer.vocabulary_fingerprint, tokenizer.template_fingerprint)
        identity = (data_dir, name, chosen, writer)
        source = _Source(identity, domain.prompt_suffix, limit, rows, tokenizer)
        encoded[split], dropped[where] = _encode(source)
    for split, prompts in list(encoded.items()) if config.method == "gopd" else ():
        context, most = domain.teacher_context, config.data.max_teacher_prompt_tokens or limit
        if split == "test" and domain.reward != NONE:
            context, most = "", limit  # it answers held-out prompts, and is shown nothing
        if context or reader is not tokenizer:
            encoded[split], report = add_teacher_context(
                prompts, reader, domain.prompt_suffix, context, most
            )
            dropped[f"{name}/{split}, as its teacher reads it"] = report
    for prompts in encoded.values():
        check_prompts(name, domain.reward, prompts)
    if config.method == "sft" and not domain.teacher:
        given_answers_of(tokenizer, spread(encoded["train"]))  # for its check
    return _DomainPrompts(encoded["train"], encoded["test"], dropped, fingerprints)


def _datasets(workdir: str) -> str:
    """The folder of the prepared data sets: that of the run, or the user's cache if it is remote.

    They are read row by row, and array_record files cannot be read from an object store.
    """
    if not is_remote(workdir):
        return os.path.join(workdir, "datasets")
    return str(local_root("datasets"))


def _warn_of_overlap(inputs: RunInputs) -> None:
    for name, both in inputs.in_train.items():
        if both:
            say(
                f"warning: {name}/test: {len(both):,} of {len(inputs.test[name]):,} prompts are "
                f"also in {name}/train, the first is {both[0]!r}: its scores are not held out"
            )


def _rows(
    name: str, config: Config, split: str, data_dir: str
) -> tuple[Sequence[Prompt], str, tuple[Hashable, ...]]:
    """The prompts of a domain's train or test side.

    Returns:
        The prompts, the fingerprint of their source, and what decides which prompts those are.
    """
    domain = config.domains[name]
    is_own_test = split == "test" and domain.test and not domain.held_out
    data = prepare_data(
        domain.test if is_own_test else domain.train,
        data_dir,
        domain=name,
        skip_bad_rows=config.data.skip_bad_rows,
        prompt_alone=domain.reward == NONE or is_own(domain.reward),
    )
    if is_own_test:
        _say_skipped(f"{name}/{split}", data)
        return data, data.fingerprint, (data.fingerprint,)
    try:
        prompts, dropped = hard_enough(data, domain.min_difficulty)
        if held_out := _held_out(domain, len(prompts)):
            prompts = hold_out(prompts, held_out)[split == "test"]
    except ValueError as e:
        raise ValueError(f"config.domains.{name}.{e}") from e
    if split == "train":  # a held-out test side comes from the same rows: reported once
        _say_skipped(f"{name}/{split}", data)
        for reason, count in collections.Counter(reason for _, reason in dropped).items():
            say(f"{name}/{split}: {count:,} of {len(data):,} prompts left out: {reason}")
        if held_out != domain.held_out:
            say(
                f"{name}: {held_out:g} prompts are held out to measure progress on "
                f"(config.domains.{name}.held_out or test says which)"
            )
    chosen = (data.fingerprint, domain.min_difficulty, held_out, split)
    return prompts, data.fingerprint, chosen


def _held_out(domain: DomainSettings, prompts: int) -> float:
    """`held_out` of a domain with this number of prompts, which chooses one if nothing is set."""
    if domain.test or domain.held_out:
        return domain.held_out
    if prompts < LEAST_PROMPTS:
        raise ValueError(
            f"held_out=0: of {prompts} prompts a tenth would be held out, expected at least "
            f"{LEAST_PROMPTS} prompts, or a test set"
        )
    return min(HELD_OUT, prompts // LEAST_PROMPTS)


def _say_skipped(name: str, data: DataSource) -> None:
    if data.skipped:
        count, first = len(data.skipped), data.skipped[0]
        say(f"warning: {name}: {count:,} bad rows skipped, the first: {first}")


@dataclasses.dataclass(frozen=True)
class _Source:
    """A data set to encode; `identity` stands for its rows and its tokenizer."""

    identity: tuple[Hashable, ...]
    suffix: str
    limit: int
    rows: Sequence[Prompt] = dataclasses.field(compare=False)
    tokenizer: ChatTokenizer = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=4)
def _encode(source: _Source) -> tuple[Sequence[EncodedPrompt], FilterReport]:
    """Encodes a data set once per process: several runs on the same data save seconds each."""
    return encode_all(source.rows, source.tokenizer, source.suffix, source.limit)
