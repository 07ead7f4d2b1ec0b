"""Programs compiled before the first batch: the learner finds them, on one device or several."""

import jax
from model_cases import random_params
import numpy as np
import pytest
from step_cases import TINY, make_config, make_examples, make_learner

from gopd_jax.learner.ahead import compile_ahead
from gopd_jax.learner.learner import FrozenModel
from gopd_jax.learner.scoring import with_scores
from gopd_jax.models.decoder import param_shardings


def check(learner, *, scores, old):
    """Scores and updates once; fails if a program is compiled that was not compiled ahead."""
    compile_ahead(
        learner,
        teachers={TINY} if scores else (),
        reference=TINY if scores else None,
        old=old,
        behaviour=scores,
    )
    ready = learner.programs.compiled
    names = []

    def compiled(*args, name, **options):
        names.append(name)
        if name in ("score", "train step"):
            options["out"] = lambda: pytest.fail(f"{name} was not compiled ahead")
        return ready(*args, name=name, **options)

    learner.programs.compiled = compiled
    put = jax.device_put(random_params(TINY), param_shardings(TINY, learner.mesh))
    teacher = FrozenModel("teacher", TINY, put)
    state = learner.start(jax.tree.map(jax.numpy.copy, put))
    fields = {} if scores else {"behaviour_logprobs": None}
    examples = make_examples(8, 1, **fields)
    teachers = {"math": teacher} if scores else {}
    updates = [with_scores(learner, examples, teachers, teacher if scores else None)]
    if old:  # the first update has no old log-probs, the second one has
        updates.append(with_scores(learner, updates[0], {}, old=state.params))
    for i, scored in enumerate(updates, start=1):
        state, metrics, _ = learner.update(state, learner.pack(scored))
        assert np.isfinite(metrics.loss) and int(state.step) == i
    assert set(names) >= ({"score", "train step"} if scores else {"train step"})


@pytest.mark.slow
def test_sft_needs_the_train_step_alone():
    check(make_learner(make_config(method="sft")), scores=False, old=False)


PROGRAM = """
from gopd_jax.runtime.mesh import make_mesh
from learner.test_ahead import check
from step_cases import make_config, make_learner

check(make_learner(make_config(), make_mesh(fsdp=2, tensor=2)), scores=True, old=True)
"""


@pytest.mark.slow
def test_everything_of_gopd_is_found_on_several_devices(run_on_fake_devices):
    run_on_fake_devices(PROGRAM, count=4)
