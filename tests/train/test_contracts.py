"""The contract checks with weights: none fires on the embedded world, each on its broken case."""

import dataclasses
import functools
import json
import shutil

import jax
from loop_cases import small
import pytest

from gopd_jax import tiny
from gopd_jax.check import scores
from gopd_jax.check.settings import NAMES
from gopd_jax.evaluate.held_out import Evaluation
from gopd_jax.learner import scoring
from gopd_jax.learner.learner import FrozenModel
from gopd_jax.models.settings import SamplingRule
from gopd_jax.train import contracts
from gopd_jax.train.check_alone import check_alone
from gopd_jax.train.contracts import Contract, Loaded, outcomes
from gopd_jax.train.evaluations import Evaluations
from gopd_jax.train.memory import devices_for
from gopd_jax.train.models import initial_state, load_models, make_learner
from gopd_jax.train.prepare import make_stream, prepare
from gopd_jax.train.run import run, samplers_of

HOT = SamplingRule(temperature=0.6)
TEACHER = tiny.model("math_teacher")
QUICK = {
    "check.before_training": True,
    "steps": 1,
    "eval.prompts": 8,
    "eval.every": 0,
    "checkpoint.every": 1,
}


def loaded(config, folder):
    """The inputs and what is loaded of a config."""
    programs, dtype = devices_for(config, folder)
    inputs = prepare(config, folder)
    learner = make_learner(config, inputs.models[config.student], programs, dtype, inputs.num_ids)
    samplers = samplers_of(config, inputs, programs, dtype)
    teachers, reference = load_models(config, inputs, learner)
    state, stream = initial_state(config, inputs, learner), make_stream(config, inputs)
    return inputs, Loaded(learner, samplers, state, teachers, reference, stream)


class World:
    """A config, what it loads, and what the checks find with some of it replaced."""

    def __init__(self, folder, **changes):
        self.config = small(**changes)
        self.inputs, self.loaded = loaded(self.config, str(folder))

    def found(self, config=None, inputs=None, **changes):
        """The outcomes by name; of several by one name, the worst."""
        now = dataclasses.replace(self.loaded, **changes)
        made = outcomes(config or self.config, inputs or self.inputs, now)
        return {o.name: o for o in sorted(made, key=lambda o: o.state == "failed")}

    def failed(self, **changes):
        return {name for name, o in self.found(**changes).items() if o.state == "failed"}

    @property
    def examples(self):
        """Scored by the student alone, as the checks score it."""
        engine = self.loaded.samplers[self.loaded.learner.student]
        params = self.loaded.learner.student_params(self.loaded.state)
        weights, key = engine.sync_weights(params), jax.random.key(3)
        drawn = scores.draw(engine, weights, self.loaded.requests, 8, key, SamplingRule())
        given = contracts.to_score(drawn, reward_scales=self.loaded.learner.reward_scales)
        return scoring.with_scores(self.loaded.learner, given, {}, old=params)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def tempered(monkeypatch):
    """Scores at another temperature than 1."""
    monkeypatch.setattr(scoring, "score", functools.partial(scoring.score, rule=HOT))


def others(params):
    """Parameters of another model of the same shapes."""
    return jax.tree.map(lambda x: 1.05 * x, params)


# ---- Nothing fires where nothing is broken.


def test_the_embedded_world_passes_and_the_stream_stays(world):
    before = world.loaded.stream.get_state()
    found = world.found()
    assert {o.state for o in found.values()} == {"passed"}
    assert found.keys() == NAMES.keys() - {"adapter", "teacher_better"}
    assert world.loaded.stream.get_state() == before


def test_a_sampling_rule_passes_and_scores_stay_plain(world):
    """The sampler's log-probs are those of the rule, the learner's those of temperature 1."""
    config = small(**{"rollout.temperature": 0.6})
    found = world.found(config)
    assert {o.state for o in found.values()} == {"passed"}
    assert found["sampler"].number != found["temperature"].number


# ---- Each check fires.


def test_scores_of_another_temperature(world, tempered):
    """The sampler reports temperature 1, so that both disagree with what the learner finds."""
    assert world.failed() == {"temperature", "sampler"}


def test_scores_of_the_rule_in_place_of_temperature_one(world, tempered):
    """The mistake that hides from the sampler: both are of the rule."""
    config = small(**{"rollout.temperature": 0.6})
    assert world.failed(config=config) == {"temperature"}


def test_a_sampler_that_draws_from_another_rule(world):
    examples, learner = world.examples, world.loaded.learner
    params = learner.student_params(world.loaded.state)
    plain = scores.sampler(learner, params, examples, SamplingRule(), 1e-4)
    assert plain.state == "passed"
    assert scores.sampler(learner, params, examples, HOT, 1e-4).state == "failed"


def test_a_student_that_is_scored_otherwise_as_a_teacher(world):
    learner, examples = world.loaded.learner, world.examples
    params = learner.student_params(world.loaded.state)
    check = functools.partial(scores.self_teacher, learner, domain="math", bound=1e-4)
    assert check(params, examples).state == "passed"
    assert check(others(params), examples).state == "failed"
    otherwise = [dataclasses.replace(e, teacher_prompt=e.prompt[1:]) for e in examples]
    assert check(params, otherwise).state == "failed"


def test_a_teacher_that_is_the_student(world):
    student = FrozenModel(
        "teacher of math", world.loaded.learner.student, world.loaded.state.params
    )
    assert world.failed(teachers={"math": student}) == {"teachers_differ"}


@pytest.mark.parametrize("context, state", [("{feedback}", "not checked"), ("hint", "failed")])
def test_a_self_teacher_that_reads_of_answers_is_not_compared_without_any(world, context, state):
    student = FrozenModel(
        "teacher of math", world.loaded.learner.student, world.loaded.state.params
    )
    config = small(**{"domains.math.teacher_context": context})
    weights = dict.fromkeys(world.inputs.fingerprints["weights"], "the same")
    fingerprints = world.inputs.fingerprints | {"weights": weights}
    inputs = dataclasses.replace(world.inputs, fingerprints=fingerprints)
    found = world.found(config=config, inputs=inputs, teachers={"math": student})
    assert found["teachers_differ"].state == state


def test_a_reference_with_other_weights_than_the_students_start(world):
    teacher = world.loaded.teachers["math"]
    assert world.failed(reference=teacher) == {"reference"}
    weights = world.inputs.fingerprints["weights"] | {"reference": "other"}
    inputs = dataclasses.replace(
        world.inputs, fingerprints=world.inputs.fingerprints | {"weights": weights}
    )
    assert world.failed(inputs=inputs) == {"reference"}


def test_a_reference_that_was_asked_for_and_is_not_there(world):
    """The fingerprint is that of another folder, and the scores are the student's."""
    config = dataclasses.replace(world.config, reference=TEACHER)
    weights = world.inputs.fingerprints["weights"]
    weights = weights | {"reference": weights["teacher of math"]}
    inputs = dataclasses.replace(
        world.inputs, fingerprints=world.inputs.fingerprints | {"weights": weights}
    )
    assert world.failed(config=config, inputs=inputs) == {"reference"}
    teacher = world.loaded.teachers["math"]
    assert not world.failed(config=config, inputs=inputs, reference=teacher)


def test_an_adapter_that_is_not_attached(world, monkeypatch):
    config, programs = small(**{"lora.rank": 2}), world.loaded.learner.programs
    model, num_ids = world.loaded.learner.student, world.inputs.num_ids
    learner = make_learner(config, model, programs, world.loaded.learner.dtype, num_ids)
    state = learner.start(world.loaded.state.params, jax.random.key(0))

    def states():
        return [o.state for o in scores.adapter(learner, state, examples, scores.EXACT)]

    examples = world.examples
    assert states() == ["passed", "passed"]
    monkeypatch.setattr(learner, "student_params", lambda _: learner.base)
    assert states() == ["passed", "failed"]
    monkeypatch.setattr(learner, "student_params", lambda _: others(learner.base))
    assert states() == ["failed", "passed"]


def test_a_teacher_that_is_worse(world, tmp_path):
    evaluations = Evaluations(str(tmp_path), 0)
    for who, reward in (("student", 1.0), ("teacher", 0.0)):
        evaluations.add(who, "math", 0, Evaluation((reward,) * 32, 1, 100, 0.0, 0.1))
    contract = Contract(world.config, world.inputs, str(tmp_path), world.loaded)
    with pytest.raises(ValueError, match=r"check teacher_better \(teacher of math\): -1 of the re"):
        contract.check_teachers(evaluations)
    written = json.loads((tmp_path / "checks.json").read_text())["checks"]
    assert written[-1]["name"] == "teacher_better" and written[-1]["state"] == "failed"
    accepting = dataclasses.replace(world.config.check, accept="teacher_better")
    config = dataclasses.replace(world.config, check=accepting)
    Contract(config, world.inputs, str(tmp_path), world.loaded).check_teachers(evaluations)


# ---- In a run, and alone.


@pytest.fixture
def other_template(tmp_path):
    """The math teacher, as if it had been made with another chat template."""
    folder = shutil.copytree(TEACHER, tmp_path / "teacher")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|end|>", "<|end|>\\n"))
    return str(folder)


def test_a_failure_stops_the_run_before_it_is_written(tmp_path, other_template):
    message = r"check teacher_template \(teacher of math\): 64 of 64 .*accept=teacher_template"
    with pytest.raises(ValueError, match=message):
        run(small(**QUICK, **{"domains.math.teacher": other_template}), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_is_accepted_is_recorded_and_a_resumed_run_does_not_check(
    tmp_path, other_template, monkeypatch
):
    config, workdir = {**QUICK, "domains.math.teacher": other_template}, tmp_path / "run"
    run(small(**config, **{"check.accept": "teacher_template"}), str(workdir))
    found = json.loads((workdir / "checks.json").read_text())["checks"]
    assert [o["name"] for o in found if o["state"] == "accepted"] == ["teacher_template"]
    assert found[-1]["name"] == "teacher_better"

    def draw(*_):
        raise AssertionError("checked again")

    monkeypatch.setattr(scores, "draw", draw)
    run(small(**config | {"steps": 2}), str(workdir))  # goes on, and nothing is accepted now


@pytest.mark.slow
def test_a_run_with_checks_is_that_without(tmp_path, lines):
    for on in (True, False):
        run(small(**QUICK | {"check.before_training": on, "steps": 2}), str(tmp_path / str(on)))
    for name in ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl"):
        assert lines(tmp_path / "True", name) == lines(tmp_path / "False", name)
    assert not (tmp_path / "False/checks.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"lora.rank": 2}, {"rollout.weights": "int8"}])
def test_the_bounds_hold_in_bfloat16(tmp_path, changes):
    assert not World(tmp_path, compute_dtype="bfloat16", **changes).failed()


@pytest.mark.slow
def test_an_estimator_that_reads_hidden_states(tmp_path):
    assert not World(tmp_path, **{"objective.estimator": "full"}).failed()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["code", "grpo", "multi_teacher", "self_distillation", "sft"])
def test_embedded_configs_pass(path):
    changes = {"check.held_out": 8, "learner.warmup_steps": 0}
    states = {o.state for o in check_alone(small(f"configs/{path}.py", **changes))}
    assert states <= {"passed", "undecided", "not checked"}
