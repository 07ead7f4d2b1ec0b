"""All contract checks of a config without a run: what `python -m gopd_jax.check` does.

In: a config. Out: outcomes. Data sets are prepared in a folder that is gone afterwards.
"""

import dataclasses
import tempfile

from gopd_jax.check.outcome import Outcome
from gopd_jax.config import Config
from gopd_jax.rewards.settings import NONE
from gopd_jax.rewards.verifier import Verifier
from gopd_jax.train.contracts import Loaded, of_evaluations, outcomes
from gopd_jax.train.evaluations import Evaluations, Evaluator
from gopd_jax.train.memory import devices_for
from gopd_jax.train.models import initial_state, load_models, make_learner
from gopd_jax.train.prepare import make_stream, prepare
from gopd_jax.train.run import samplers_of


def check_alone(config: Config) -> list[Outcome]:
    """Loads the models of a run and makes every check.

    Teachers and student are evaluated on `check.held_out` test prompts of each domain.

    Raises:
        ValueError: whatever stops a run before it begins.
    """
    few = min(config.eval.prompts or config.check.held_out, config.check.held_out)
    evaluated = dataclasses.replace(config.eval, prompts=few)
    config = dataclasses.replace(config, eval=evaluated)
    with tempfile.TemporaryDirectory() as workdir:
        programs, dtype = devices_for(config, workdir)
        inputs = prepare(config, workdir)
        model = inputs.models[config.student]
        learner = make_learner(config, model, programs, dtype, inputs.num_ids)
        samplers = samplers_of(config, inputs, programs, dtype)
        teachers, reference = load_models(config, inputs, learner)
        state = initial_state(config, inputs, learner)
        stream = make_stream(config, inputs)
        loaded = Loaded(learner, samplers, state, teachers, reference, stream)
        found = outcomes(config, inputs, loaded)
        if not teachers:
            return found
        results = Evaluations(workdir, 0)
        with Verifier(**dataclasses.asdict(config.verifier)) as verify:
            who = Evaluator(config, inputs, samplers, verify, results, learner, teachers)
            if config.eval.teachers and set(config.reward_kinds.values()) != {NONE}:
                who.teachers(teachers)
                who.student(learner.student_params(state), 0)
        return [*found, *of_evaluations(config, inputs, results)]
