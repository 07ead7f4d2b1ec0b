"""Configuration of a run: the settings of every room, nested, converted once, checked before work.

A config file (configs/*.py) returns `default()` with some fields changed; `from_config_dict` turns
it into a `Config`, refusing an unknown field by naming the nearest one. Every setting is declared
in the `settings` module of the room that it configures. `python -m gopd_jax.config` prints the
reference of all of them, which is docs/configuration.md.
"""

import dataclasses
import os
from typing import Annotated, Any, Literal

import ml_collections
from ml_collections import config_dict
from pydantic import Field, Strict

from gopd_jax.check.settings import CheckSettings
from gopd_jax.data.settings import DataSettings, DomainSettings
from gopd_jax.evaluate.settings import EvalSettings
from gopd_jax.learner.settings import ControlSettings, LearnerSettings, Method, SelfTeacherSettings
from gopd_jax.models.settings import LoraSettings, SamplingRule
from gopd_jax.objective.settings import EstimatorSettings
from gopd_jax.objective.shaping_checks import check_shaping
from gopd_jax.objective.shaping_settings import ShapingSettings
from gopd_jax.rewards.settings import NONE, VerifierSettings
from gopd_jax.rollout.settings import RolloutSettings
from gopd_jax.runtime import schema
from gopd_jax.runtime.schema import PositiveCount, Text, settings
from gopd_jax.runtime.settings import CheckpointSettings, LogSettings, MeshSettings

Seed = Annotated[int, Strict(), Field(ge=0, lt=2**32)]


@settings
class Config:
    """A whole run. Each field can be set on the command line as --config.part.field=value."""

    name: Text = ""
    """Name of the run; the default --workdir is runs/NAME. Set by the preset."""
    student: Text = ""
    """The model that is trained: a Hugging Face folder, local or gs://, or hub id. Required."""
    method: Method = "gopd"
    """gopd distils on-policy from teachers, grpo learns from verified rewards without teachers,
    sft learns from the teachers' samples or from given responses."""
    reference: Text = ""
    """The reference of gopd: a Hugging Face folder or hub id; empty is the student's start. It has
    no influence where lambda is 1."""
    init_from: Text = ""
    """The checkpoint of another run that the student starts from, with its optimizer: RUN, the
    newest, or RUN@STEP. Empty starts from the student's own weights, with a new optimizer."""
    seed: Seed = 0
    """Decides the order of prompts and every draw."""
    steps: PositiveCount = 50
    """Steps of the run: in each, responses are sampled, scored, and learned from."""
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of activations and of frozen models; "auto" is float32 on CPU and bfloat16 elsewhere.
    The student's own parameters are float32."""
    compilation_cache: Text = ""
    """The folder in which compiled programs are kept for later starts, local or gs://; empty is
    compiled in the user's cache folder, and "off" keeps none. GOPD_CACHE moves the user's cache
    folder, and "off" there keeps none; JAX_COMPILATION_CACHE_DIR, where it is set, wins over all of
    these."""
    domains: dict[str, DomainSettings] = dataclasses.field(default_factory=dict)
    data: DataSettings = DataSettings()
    rollout: RolloutSettings = RolloutSettings()
    learner: LearnerSettings = LearnerSettings()
    objective: EstimatorSettings = EstimatorSettings()
    shaping: ShapingSettings = ShapingSettings()
    control: ControlSettings = ControlSettings()
    self_teacher: SelfTeacherSettings = SelfTeacherSettings()
    lora: LoraSettings = LoraSettings()
    eval: EvalSettings = EvalSettings()
    check: CheckSettings = CheckSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    verifier: VerifierSettings = VerifierSettings()
    mesh: MeshSettings = MeshSettings()
    log: LogSettings = LogSettings()

    def __post_init__(self):
        """Checks what no single field can."""
        if not self.name or not self.student:
            raise ValueError(
                "config.name and config.student must be set: a name, and a Hugging Face folder or "
                "hub id"
            )
        if os.path.isabs(self.name) or ".." in self.name.split("/") or "\0" in self.name:
            raise ValueError(
                f"config.name={self.name!r}: expected a name, which is the folder below runs/"
            )
        self._check_domains()
        self._check_counts()
        self._check_control()
        self._check_self_teacher()
        if self.objective.exact and self.method != "gopd":
            raise ValueError(
                f"config.objective.estimator={self.objective.estimator!r}: expected 'sampled' with "
                f"method {self.method!r}, which compares the student with no teacher"
            )

        check_shaping(
            self.shaping,
            method=self.method,
            estimator=self.objective,
            truncation=self.learner.truncation,
            reward_scales=self.reward_scales,
        )

    def _check_domains(self) -> None:
        if not self.domains:
            raise ValueError(
                "config.domains is empty: expected at least one domain, such as "
                "domains.math.train=prompts.jsonl"
            )
        for name, domain in self.domains.items():
            domain.check(f"config.domains.{name}")
            if self.method == "gopd" and not domain.teacher:
                raise ValueError(
                    f"config.domains.{name}.teacher must be set: method gopd needs a teacher for "
                    "every domain"
                )
            if self.method == "sft" and domain.teacher and domain.prompts_teacher:
                own = "teacher_context" if domain.teacher_context else "teacher_template"
                raise ValueError(
                    f"config.domains.{name}.{own}={getattr(domain, own)!r}: expected none with "
                    "method 'sft', whose teachers answer the student's prompts"
                )
            if self.learns_from_rewards and domain.reward == NONE:
                why = "method grpo learns from nothing else"
                if self.shaping.task_reward:
                    why = f"shaping.task_reward={self.shaping.task_reward} learns from rewards"
                raise ValueError(
                    f"config.domains.{name}.reward={NONE!r}: expected one that verifies answers, "
                    f"because {why}"
                )

    def _check_counts(self) -> None:
        rollout, learner = self.rollout, self.learner
        updates = self.steps * learner.updates_per_batch
        if learner.warmup_steps >= updates:
            raise ValueError(
                f"config.learner.warmup_steps={learner.warmup_steps}: expected fewer than the "
                f"{updates} updates of the run"
            )
        if self.learns_from_rewards and rollout.samples_per_prompt < 2:
            of = "grpo" if self.method == "grpo" else "shaping.task_reward"
            raise ValueError(
                f"config.rollout.samples_per_prompt={rollout.samples_per_prompt}: expected >= 2 "
                f"for {of}"
            )
        if self.rollouts_per_step % learner.updates_per_batch:
            raise ValueError(
                f"config.learner.updates_per_batch={learner.updates_per_batch}: expected a divisor "
                f"of the {self.rollouts_per_step} rollouts of a step"
            )
        if 0 < learner.row_length < self.longest:
            raise ValueError(
                f"config.learner.row_length={learner.row_length}: expected >= {self.longest} "
                "(prompt + response limit), or 0"
            )

    def _check_self_teacher(self) -> None:
        follow = self.self_teacher.follow
        if follow == "none":
            return
        others = [name for name, d in self.domains.items() if d.teacher != self.student]
        if self.method != "gopd" or others:
            raise ValueError(
                f"config.self_teacher.follow={follow!r}: expected method 'gopd' and the student's "
                f"path {self.student!r} as the teacher of every domain"
                + (f", but {others[0]!r} has another" if others else "")
            )
        alone = not (self.lora.rank or self.learner.park_frozen or self.init_from)
        if self.control.kind != "none" or not alone:
            raise ValueError(
                f"config.self_teacher.follow={follow!r}: expected lora.rank=0, no init_from, "
                "control.kind='none' and learner.park_frozen=false"
            )

    def _check_control(self) -> None:
        kind = self.control.kind
        if kind == "none":
            return
        if self.method != "gopd":
            raise ValueError(
                f"config.control.kind={kind!r}: expected 'none' with method {self.method!r}, which "
                "learns from no teacher's advantages"
            )
        if not self.control.of_advantages:
            if self.eval.teachers or self.learner.park_frozen:
                raise ValueError(
                    f"config.control.kind={kind!r}: expected config.eval.teachers=false and "
                    "config.learner.park_frozen=false, because its teachers are made anew"
                )
            return
        if self.objective.exact or self.shaping != ShapingSettings():
            raise ValueError(
                f"config.control.kind={kind!r}: expected config.objective.estimator='sampled' and "
                "config.shaping as it is by default, because its advantages are not the teacher's"
            )
        if self.rollout.rule != SamplingRule():
            raise ValueError(
                f"config.control.kind={kind!r}: expected rollout.temperature=1, top_k=0 and "
                "top_p=1, because it reads the advantages off the log-probs of the samples"
            )

    @property
    def learns_from_rewards(self) -> bool:
        """Whether a step needs the verdicts on all of its responses."""
        return self.method == "grpo" or self.shaping.task_reward > 0

    @property
    def rollouts_per_step(self) -> int:
        return self.rollout.prompts_per_step * self.rollout.samples_per_prompt

    @property
    def longest(self) -> int:
        """Most tokens of a prompt with its response, as the student or a teacher reads it."""
        prompt = max(self.data.max_prompt_tokens, self.data.max_teacher_prompt_tokens)
        return prompt + self.rollout.max_response_tokens

    @property
    def reward_kinds(self) -> dict[str, str]:
        """How the answers of each domain are verified."""
        return {name: domain.reward for name, domain in self.domains.items()}

    @property
    def reward_scales(self) -> dict[str, float]:
        """lambda of each domain's teacher, in the order of the domains."""
        default = self.learner.reward_scale
        own = {name: d.reward_scale for name, d in self.domains.items()}
        return {name: default if scale is None else scale for name, scale in own.items()}


def default() -> ml_collections.ConfigDict:
    """A config with every field at its default and no domains: where a config file begins."""
    return config_dict.ConfigDict(schema.defaults(Config))


def domain(**fields: Any) -> ml_collections.ConfigDict:
    """A domain for a config file: `fields` of `DomainSettings`, the others at their defaults.

    Raises:
        ValueError: an unknown field; names the nearest one.
    """
    values = schema.defaults(DomainSettings)
    for name in fields:
        if name not in values:
            raise ValueError(f"domain.{name}: {schema.unknown_field(name, list(values))}")
    values |= fields
    if values["reward_scale"] is None:
        values["reward_scale"] = config_dict.placeholder(float)
    return config_dict.ConfigDict(values)


def from_config_dict(config: ml_collections.ConfigDict) -> Config:
    """Converts a config file's dict into a `Config`.

    Raises:
        ValueError: an unknown field (the nearest known one is named), a wrong type, a value outside
            its bounds, or values that do not go together.
    """
    return schema.build(Config, config.to_dict(), "config")


def reference() -> str:
    """Every setting with type, default and meaning, as Markdown that reads well in a terminal."""
    lines = [
        "# Configuration",
        "",
        "Every setting of a run, generated by `python -m gopd_jax.config > docs/configuration.md`.",
        "On the command line each is `--config.NAME=VALUE`; NAME in `domains.NAME` is the domain.",
    ]
    group = None
    for field in schema.reference(Config):
        part = field.name.rpartition(".")[0]
        if part != group:
            group = part
            lines += ["", f"## {part or 'run'}", ""]
        lines.append(f"- `{field.name}` ({field.kind}; default {field.default}): {field.meaning}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(reference())
