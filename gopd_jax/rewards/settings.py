"""Settings of verification. Imports no JAX."""

from typing import Annotated, Literal

from pydantic import Field, Strict

from gopd_jax.runtime.schema import Count, PositiveCount, settings

RewardKind = Literal["math", "code"]  # the keys of `kinds.KINDS`


@settings
class VerifierSettings:
    """How answers are verified."""

    workers: Count = 0
    """Worker processes for each kind of answer; 0 takes half of the CPU cores."""
    timeout_s: Annotated[float, Strict(), Field(ge=0.1)] = 2.0
    """Seconds that one answer may take, all of its tests together."""
    memory_mb: PositiveCount = 256
    """Memory in MiB that a program under test may use, besides that of the interpreter."""
