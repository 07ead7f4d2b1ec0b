"""Settings of sampling: what is drawn in a step, and how the engine does the work."""

from typing import Annotated, Literal

from pydantic import Strict

from gopd_jax.models.settings import SamplingRule
from gopd_jax.runtime.schema import PositiveCount, part_of, settings


@settings
class EngineOptions:
    """How the engine does its work. Only the int8 options change what is drawn; the metric
    `sampler_gap` shows by how much."""

    kernel: Literal["auto", "xla", "pallas_tpu", "pallas_gpu"] = "auto"
    """Decode attention kernel. The log says which one "auto" chose, and why."""
    kv_cache: Literal["compute", "int8"] = "compute"
    """Keys and values are kept in the compute dtype, or in int8 with one scale per token and
    head, which halves the cache of bfloat16."""
    weights: Literal["compute", "int8"] = "compute"
    """Decode weights are in the compute dtype, or in int8 with one scale per output channel."""
    layout: Literal["auto", "whole", "gathered"] = "auto"
    """Decode weights are whole in each tensor group, or stay split over all devices and each layer
    is gathered when it is used, which is slower and needs less memory. "auto" takes whole ones
    where memory allows."""
    steps_per_dispatch: PositiveCount = 16
    """Tokens that a slot draws in one dispatch. Larger values cost less scheduling, and finished
    slots idle longer."""
    prefill_tokens: PositiveCount = 4096
    """Tokens of one prefill program, and the longest chunk of a prompt that is prefilled at once.
    Larger values prefill faster and delay the decoding of other slots more."""


@settings
class RolloutSettings(EngineOptions, SamplingRule):
    """What is sampled in each step, and how."""

    prompts_per_step: PositiveCount = 1024
    """Prompts in one step."""
    samples_per_prompt: PositiveCount = 1
    """Samples of each prompt, G. GRPO needs at least 2."""
    max_response_tokens: PositiveCount = 16384
    """Length limit of a response in tokens; longer responses are truncated."""
    slots: PositiveCount = 256
    """Sequences decoded at the same time. Larger values use the device better and need more
    memory for the cache."""
    extra_stop_ids: tuple[Annotated[int, Strict()], ...] = ()
    """Token ids that end a response, besides those of the model folder."""

    @property
    def options(self) -> EngineOptions:
        return part_of(self, EngineOptions)

    @property
    def rule(self) -> SamplingRule:
        return part_of(self, SamplingRule)
