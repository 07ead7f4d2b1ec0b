"""A rollout engine for each architecture that is sampled, all alike otherwise.

In: what the engines have in common. Out: the engine of an architecture, made when it is first asked
for. Student and teachers of one architecture share an engine and its caches.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import DTypeLike

from gopd_jax.models.config import ModelConfig
from gopd_jax.rollout.engine import DEFAULTS, RolloutEngine
from gopd_jax.rollout.settings import EngineOptions
from gopd_jax.runtime.programs import ProgramTable


class Samplers:
    """The engines by architecture: `samplers[model]`, or `samplers[model, other]` for mixtures.

    Args:
        programs: table that the engines compile in; its mesh is theirs.
        stop_ids, slots, max_prompt_tokens, max_response_tokens, num_ids, dtype, options, room:
            see `RolloutEngine`.
    """

    def __init__(
        self,
        programs: ProgramTable,
        stop_ids: Sequence[int],
        *,
        slots: int,
        max_prompt_tokens: int,
        max_response_tokens: int,
        num_ids: int | None = None,
        dtype: DTypeLike = jnp.float32,
        options: EngineOptions = DEFAULTS,
        room: int | None = None,
    ):
        self._programs, self._stop_ids = programs, stop_ids
        self._shape = {
            "slots": slots,
            "max_prompt_tokens": max_prompt_tokens,
            "max_response_tokens": max_response_tokens,
            "num_ids": num_ids,
            "room": room,
        }
        self._dtype, self._options = dtype, options
        self._engines: dict[tuple[ModelConfig, ...], RolloutEngine] = {}

    def __getitem__(self, model: ModelConfig | tuple[ModelConfig, ...]) -> RolloutEngine:
        models = model if isinstance(model, tuple) else (model,)
        if models not in self._engines:
            self._engines[models] = RolloutEngine(
                models[0],
                self._programs.mesh,
                self._stop_ids,
                **self._shape,
                dtype=self._dtype,
                options=self._options,
                programs=self._programs,
                others=models[1:],
            )
        return self._engines[models]
