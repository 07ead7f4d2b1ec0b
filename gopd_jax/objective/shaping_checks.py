"""Which shaping goes with which method, estimator and lambda; the others are refused."""

from collections.abc import Mapping
import dataclasses

from gopd_jax.objective.settings import EstimatorSettings
from gopd_jax.objective.shaping_settings import ShapingSettings


def check_shaping(
    shaping: ShapingSettings,
    *,
    method: str,
    estimator: EstimatorSettings,
    truncation: str,
    reward_scales: Mapping[str, float],
) -> None:
    """Refuses settings that would do nothing, or that lack what they read.

    Args:
        method, truncation: of the run.
        reward_scales: lambda by domain.

    Raises:
        ValueError: one sentence with the setting, its value and what was expected.
    """
    on = {f.name: getattr(shaping, f.name) for f in dataclasses.fields(shaping)}
    defaults = {f.name: f.default for f in dataclasses.fields(shaping)}

    def refuse(name: str, why: str) -> None:
        raise ValueError(
            f"config.shaping.{name}={on[name]!r}: expected {defaults[name]!r} with {why}"
        )

    teachers = [*shaping.of_advantage, *shaping.of_states]
    teachers += ["kl_coefficient"] if shaping.kl_coefficient else []
    further = ("kl_coefficient_steps", "reward_scale_steps", "task_reward")
    teachers += [name for name in further if on[name]]
    if method != "gopd" and teachers:
        refuse(teachers[0], f"method {method!r}, which it does not act on")
    if method == "sft" and shaping.truncation_penalty:
        refuse("truncation_penalty", "method 'sft', which has no advantage")
    if truncation != "keep" and shaping.truncation_penalty:
        refuse(
            "truncation_penalty",
            f"learner.truncation={truncation!r}, which does not train on truncated responses",
        )
    named = f"objective.estimator={estimator.estimator!r}"
    if estimator.of_states and shaping.of_advantage:
        refuse(shaping.of_advantage[0], f"{named}, whose loss has no advantage of a drawn token")
    if not estimator.exact and shaping.of_states:
        refuse(
            shaping.of_states[0],
            f"{named}, which does not read the whole vocabulary; 'sampled_baseline', 'full' and "
            "'top_k' do",
        )
    if estimator.estimator in ("forward_kl", "jsd") and shaping.forward_kl:
        refuse("forward_kl", f"{named}, which has a forward KL of its own")
    if shaping.gate_tau and not shaping.reward_scale_steps and set(reward_scales.values()) == {1.0}:
        refuse("gate_tau", "lambda 1 in every domain, where it gates nothing")
