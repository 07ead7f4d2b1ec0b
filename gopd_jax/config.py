"""Configuration: what a config file may say, as frozen dataclasses, converted once and checked before any work starts.

A config file (configs/*.py) returns `default()` with some fields changed; `from_config_dict` turns it into `Config`, refusing
unknown fields by naming the nearest one, and `Config.__post_init__` checks what no single field can.
"""

from collections.abc import Iterable
import dataclasses
import fnmatch
from typing import Any

import ml_collections
from ml_collections import config_dict

from gopd_jax.dataclass_dicts import as_dict, build
from gopd_jax.learner.optimizer import SCHEDULES
from gopd_jax.objective.weights import AGGREGATIONS, TRUNCATION_RULES
from gopd_jax.rollout import EngineOptions, SamplingRule

METHODS = ("gopd", "grpo", "sft")


def _choice(field: str, value: Any, choices: Iterable[Any]) -> None:
    if value not in choices:
        raise ValueError(f"config.{field}={value!r}: wanted one of {list(choices)}")


def _check_sources(where: str, domain: "DomainConfig") -> None:
    if not domain.train:
        raise ValueError(f"{where}.train must be set (a .jsonl or .parquet file, hf://datasets/..., or tiny:NAME/SPLIT)")
    if not domain.test and not domain.held_out:
        raise ValueError(f"{where}: test or held_out must be set (test prompts of their own, or how many of train to hold out)")
    if not (0 <= domain.held_out < 1 or domain.held_out == int(domain.held_out) > 0):
        raise ValueError(f"{where}.held_out={domain.held_out!r}: wanted a share below 1, or a whole number of prompts")
    if domain.held_out and domain.test not in ("", domain.train):
        raise ValueError(f"{where}.held_out={domain.held_out!r}: has a test of its own, {domain.test!r}; wanted one of the two")
    if not domain.min_difficulty >= 0:
        raise ValueError(f"{where}.min_difficulty={domain.min_difficulty!r}: wanted a number >= 0")


def _at_least(field: str, value: float, least: float) -> None:
    if not value >= least:
        raise ValueError(f"config.{field}={value!r}: wanted a number >= {least}")


@dataclasses.dataclass(frozen=True)
class DomainConfig:
    """One domain of prompts: its data, its verifier, its teacher.

    train, test: a .jsonl, .jsonl.gz or .parquet file, a folder or pattern of them, "hf://datasets/OWNER/NAME/PATH" of the
        Hugging Face hub, or "tiny:NAME/SPLIT" of the embedded world.
    held_out: with an empty test, or one equal to train: so many prompts of train (below 1: that share) are the test set and
        not trained on; chosen by a hash of the question, so that no question is on both sides.
    min_difficulty: prompts of train below it are left out, 0: none; read from the rows' "difficulty". The paper's is 6.
    reward: how answers are verified, "math" or "code".
    teacher: Hugging Face folder or hub id; needed by method gopd.
    reward_scale: lambda of this teacher; None takes learner.reward_scale.
    prompt_suffix: appended to the last user message. share: share of each batch, relative to the other domains.
    teacher_context: what the teacher alone reads after that, with fields of the row in braces, such as {ground_truth} or
        {solution}: on-policy self-distillation.
    """

    train: str
    test: str = ""
    held_out: float = 0.0
    min_difficulty: float = 0.0
    reward: str = "math"
    teacher: str = ""
    reward_scale: float | None = None
    prompt_suffix: str = ""
    teacher_context: str = ""
    share: float = 1.0


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """cache_dir: where prepared data sets are kept; empty: WORKDIR/datasets. enable_thinking goes to the chat template.

    max_teacher_prompt_tokens: limit of prompts with a teacher_context; 0 takes max_prompt_tokens.
    skip_bad_rows: leave out rows that cannot be read, and say which, instead of refusing to start.
    """

    cache_dir: str = ""
    max_prompt_tokens: int = 2048
    max_teacher_prompt_tokens: int = 0
    enable_thinking: bool = False
    skip_bad_rows: bool = False


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """What is sampled at each step, and how: kernel to prefill_tokens are explained in `rollout.engine.EngineOptions`.

    slots: sequences decoded at once. extra_stop_ids join those of the model folder.
    """

    prompts_per_step: int = 1024
    samples_per_prompt: int = 1
    max_response_tokens: int = 16384
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    slots: int = 256
    extra_stop_ids: tuple[int, ...] = ()
    kernel: str = "auto"
    kv_cache: str = "compute"
    weights: str = "compute"
    steps_per_dispatch: int = 16
    prefill_tokens: int = 4096

    def __post_init__(self):
        _ = self.options, self.rule  # for their checks

    @property
    def options(self) -> EngineOptions:
        return EngineOptions(self.kernel, self.kv_cache, self.weights, self.steps_per_dispatch, self.prefill_tokens)

    @property
    def rule(self) -> SamplingRule:
        return SamplingRule(self.temperature, self.top_k, self.top_p)


@dataclasses.dataclass(frozen=True)
class LearnerConfig:
    """The update.

    reward_scale: lambda, any number >= 0; above 1 extrapolates (ExOPD). aggregation, truncation: see objective/weights.py.
    updates_per_batch: optimizer updates from one batch of rollouts (above 1 the PPO clip acts).
    row_length: tokens of a packed row, 0: prompt limit + response limit. rows_per_micro_batch: rows of one forward pass.
    Defaults are the paper's G-OPD settings (table of hyper-parameters, AdamW).
    """

    reward_scale: float = 1.25
    aggregation: str = "token-mean"
    truncation: str = "keep"
    updates_per_batch: int = 1
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float = 3.0
    importance_cap: float = 5.0
    learning_rate: float = 1e-5
    schedule: str = "constant"
    warmup_steps: int = 0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    row_length: int = 0
    rows_per_micro_batch: int = 16
    remat: bool = True


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """every: steps between evaluations (0: only before and after). prompts: at most so many of each domain's test prompts
    (0: all). samples: k of avg@k. during_prompts: prompts of the evaluations between (0: like `prompts`)."""

    every: int = 0
    prompts: int = 0
    during_prompts: int = 0
    samples: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        _ = self.rule  # for its checks

    @property
    def rule(self) -> SamplingRule:
        return SamplingRule(self.temperature, self.top_k, self.top_p)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """every: steps between checkpoints. keep: how many are kept. The last step is always saved."""

    every: int = 10
    keep: int = 2


@dataclasses.dataclass(frozen=True)
class VerifierConfig:
    """How answers are verified. workers: processes for each kind of answer (0: half the CPU cores). timeout_s: seconds of one
    answer, all its tests together. memory_mb: what a program under test may use on top of the interpreter.
    """

    workers: int = 0
    timeout_s: float = 2.0
    memory_mb: int = 256


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices on each mesh axis; one may be -1 and takes what the others leave."""

    data: int = 1
    fsdp: int = -1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """samples: rollouts written to samples.jsonl, with per-token advantages, every `samples_every` steps.

    rewards: at most so many rollouts of a step are verified (0: all). gopd and sft learn nothing from rewards, they are only
    watched, and running programs can take longer than the step; grpo verifies all of them.
    """

    samples: int = 4
    samples_every: int = 10
    rewards: int = 0


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run. Every field of every part can be set as --config.part.field=value.

    name: the run's name; WORKDIR defaults to runs/NAME. method: gopd, grpo (rewards, no teachers) or sft (given answers).
    student, reference: Hugging Face folder or hub id; an empty reference is the student's start.
    compute_dtype: "auto" is bfloat16 on accelerators and float32 on CPU.
    """

    name: str
    student: str
    domains: dict[str, DomainConfig]
    method: str = "gopd"
    reference: str = ""
    seed: int = 0
    steps: int = 50
    compute_dtype: str = "auto"
    data: DataConfig = DataConfig()
    rollout: RolloutConfig = RolloutConfig()
    learner: LearnerConfig = LearnerConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    verifier: VerifierConfig = VerifierConfig()
    mesh: MeshConfig = MeshConfig()
    log: LogConfig = LogConfig()

    def __post_init__(self):
        _choice("method", self.method, METHODS)
        _choice("compute_dtype", self.compute_dtype, ("auto", "float32", "bfloat16"))
        _choice("learner.aggregation", self.learner.aggregation, AGGREGATIONS)
        _choice("learner.truncation", self.learner.truncation, TRUNCATION_RULES)
        _choice("learner.schedule", self.learner.schedule, SCHEDULES)
        for field, least in _LEAST.items():
            part, _, name = field.rpartition(".")
            _at_least(field, getattr(getattr(self, part) if part else self, name), least)
        if not self.name or not self.student:
            raise ValueError("config.name and config.student must be set: a name, and a Hugging Face folder or hub id")
        if not self.domains:
            raise ValueError("config.domains is empty: wanted at least one domain, e.g. domains.math.train=prompts.jsonl")
        for name, domain in self.domains.items():
            _check_sources(f"config.domains.{name}", domain)
            if domain.reward_scale is not None:
                _at_least(f"domains.{name}.reward_scale", domain.reward_scale, 0)
            if not domain.share > 0:
                raise ValueError(f"config.domains.{name}.share={domain.share!r}: wanted a number > 0")
            if self.method == "gopd" and not domain.teacher:
                raise ValueError(f"config.domains.{name} has no teacher: method gopd wants one for every domain")
        if self.learner.warmup_steps >= self.steps * self.learner.updates_per_batch:
            raise ValueError(
                f"config.learner.warmup_steps={self.learner.warmup_steps}: wanted fewer than the "
                f"{self.steps * self.learner.updates_per_batch} updates of the run"
            )
        if self.method == "grpo" and self.rollout.samples_per_prompt < 2:
            raise ValueError(f"config.rollout.samples_per_prompt={self.rollout.samples_per_prompt}: wanted >= 2 for grpo")
        for field, samples in (
            ("rollout.samples_per_prompt", self.rollout.samples_per_prompt),
            ("eval.samples", self.eval.samples),
        ):
            if samples > self.rollout.slots:
                raise ValueError(f"config.{field}={samples}: wanted at most config.rollout.slots={self.rollout.slots}")
        rollouts = self.rollout.prompts_per_step * self.rollout.samples_per_prompt
        if rollouts % self.learner.updates_per_batch:
            raise ValueError(
                f"config.learner.updates_per_batch={self.learner.updates_per_batch} does not divide {rollouts} rollouts"
            )
        if self.row_length < self.longest:
            raise ValueError(
                f"config.learner.row_length={self.learner.row_length}: wanted >= {self.longest} (prompt + response limit), or 0"
            )

    @property
    def longest(self) -> int:
        """Most tokens that a prompt and its response can have together, read by the student or by a teacher with context."""
        return max(self.data.max_prompt_tokens, self.data.max_teacher_prompt_tokens) + self.rollout.max_response_tokens

    @property
    def row_length(self) -> int:
        return self.learner.row_length or self.longest

    def reward_scale(self, domain: str) -> float:
        """lambda of a domain's teacher."""
        own = self.domains[domain].reward_scale
        return self.learner.reward_scale if own is None else own


_LEAST = {
    "steps": 1,
    "data.max_prompt_tokens": 1,
    "data.max_teacher_prompt_tokens": 0,
    "rollout.prompts_per_step": 1,
    "rollout.samples_per_prompt": 1,
    "rollout.max_response_tokens": 1,
    "rollout.slots": 1,
    "learner.reward_scale": 0,
    "learner.updates_per_batch": 1,
    "learner.clip_low": 0,
    "learner.clip_high": 0,
    "learner.dual_clip": 1,
    "learner.importance_cap": 0,
    "learner.learning_rate": 0,
    "learner.warmup_steps": 0,
    "learner.weight_decay": 0,
    "learner.clip_norm": 0,
    "learner.row_length": 0,
    "learner.rows_per_micro_batch": 1,
    "eval.every": 0,
    "eval.prompts": 0,
    "eval.during_prompts": 0,
    "eval.samples": 1,
    "verifier.workers": 0,
    "verifier.timeout_s": 0.1,
    "verifier.memory_mb": 1,
    "checkpoint.every": 1,
    "checkpoint.keep": 1,
    "log.samples": 0,
    "log.samples_every": 1,
    "log.rewards": 0,
}

# Fields that may differ when a run is resumed: they change what is shown or kept, or how the work is laid out, not the run.
# Paths are free because the fingerprints of what they lead to are compared.
FREE_FIELDS = (
    "checkpoint", "log", "mesh", "data.cache_dir", "name", "verifier.workers",
    "rollout.slots", "rollout.steps_per_dispatch", "rollout.prefill_tokens",
    "student", "reference", "domains.*.teacher", "domains.*.train", "domains.*.test",
)  # fmt: skip


def default() -> ml_collections.ConfigDict:
    """A config with every field at its default and no domains: where a config file begins."""
    return config_dict.ConfigDict(as_dict(Config, {"name": "", "student": "", "domains": {}}))


def domain(**fields: Any) -> ml_collections.ConfigDict:
    """A `DomainConfig` for a config file, its other fields at their defaults."""
    values = as_dict(DomainConfig, fields)
    if values["reward_scale"] is None:
        values["reward_scale"] = config_dict.placeholder(float)
    return config_dict.ConfigDict(values)


def from_config_dict(config: ml_collections.ConfigDict) -> Config:
    """Converts a config file's dict into `Config`.

    Raises:
        ValueError: an unknown field (the nearest known one is named), a wrong type, or values that do not go together.
    """
    return build(Config, config.to_dict(), "config")


def differing_fields(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines "field: old -> new" for two nested dicts, leaving out `FREE_FIELDS`."""
    lines = []
    for key in sorted(set(old) | set(new)):
        field = f"{prefix}{key}"
        if any(fnmatch.fnmatchcase(field, free) for free in FREE_FIELDS):
            continue
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differing_fields(a, b, f"{field}.")
        elif a != b:
            lines.append(f"{field}: {a!r} -> {b!r}")
    return lines
