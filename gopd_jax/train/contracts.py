"""The contract checks of a run: which there are for a config, and what becomes of their outcomes.

In: what a run has loaded. Out: outcomes, one line or a table, checks.json; a ValueError before step
0 where a check fails that is not accepted. The checks change nothing of the run.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import time

from etils import epath

from gopd_jax.check import scores, tokens
from gopd_jax.check.outcome import (
    Outcome,
    accepting,
    count,
    not_checked,
    raise_if_failed,
    table,
)
from gopd_jax.check.teachers import teacher_better
from gopd_jax.config import Config
from gopd_jax.data.stream import PromptStream
from gopd_jax.learner.example import Example
from gopd_jax.learner.learner import FrozenModel, Learner
from gopd_jax.learner.scoring import with_scores
from gopd_jax.learner.sources import to_score
from gopd_jax.models.settings import PLAIN
from gopd_jax.rewards.settings import NONE
from gopd_jax.rollout.samplers import Samplers
from gopd_jax.runtime.errors import naming
from gopd_jax.runtime.files import replace_json
from gopd_jax.runtime.processes import of_first
from gopd_jax.runtime.progress import detail, result_width, say
from gopd_jax.train.checks import spread
from gopd_jax.train.evaluations import Evaluations
from gopd_jax.train.keys import training_key
from gopd_jax.train.prepare import RunInputs, teacher_of
from gopd_jax.types import Request, TrainState

FILE = "checks.json"
SHOWN_MORE = "the teacher is shown more than the student"
SHOWN_ANSWERS = "what the teacher reads depends on the answer and its verdict"


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What the checks with weights look at.

    teachers: by domain.
    reference: None where no lambda needs it.
    stream: of the requests of step 1; it stays where it is.
    """

    learner: Learner
    samplers: Samplers
    state: TrainState
    teachers: Mapping[str, FrozenModel]
    reference: FrozenModel | None
    stream: PromptStream

    @property
    def requests(self) -> list[Request]:
        before = self.stream.get_state()
        requests = next(self.stream)
        self.stream.set_state(before)
        return requests


# ---- The checks of a config.


def outcomes(config: Config, inputs: RunInputs, loaded: Loaded) -> list[Outcome]:
    """Every check but that of the teachers' scores."""
    found = [*_of_tokens(config, inputs), *_of_scores(config, inputs, loaded)]
    return accepting(found, config.check.accepted)


def _of_tokens(config: Config, inputs: RunInputs) -> list[Outcome]:
    prompts = {name: spread(inputs.train[name]) for name in config.domains}
    chats = {
        name: tokens.chats_of(prompts[name], domain.prompt_suffix)
        for name, domain in config.domains.items()
    }
    found = [tokens.round_trip(inputs.tokenizer, n, p) for n, p in prompts.items()]
    found += [tokens.generation_prompt(inputs.tokenizer, n, c) for n, c in chats.items()]
    read = {teacher_of(name): chats[name] for name in config.domains}
    read["reference"] = [chat for of_domain in chats.values() for chat in of_domain]
    others = {r: t for r, t in inputs.tokenizers.items() if r != "student"}
    student = inputs.tokenizer
    own = {teacher_of(name) for name, d in config.domains.items() if d.teacher_template}
    for role, tokenizer in others.items():
        if role in own:
            found.append(not_checked("teacher_template", role, "it has prompts of its own"))
        else:
            found.append(tokens.teacher_template(student, tokenizer, role, read[role]))
    found += [tokens.stop_ids(student, t, r) for r, t in others.items()]
    paths = {teacher_of(name): path for name, path in inputs.teachers.items()}
    paths |= {"student": config.student, "reference": inputs.reference}
    for role, tokenizer in inputs.tokenizers.items():
        embeddings = inputs.models[paths[role]].vocab_size
        found.append(tokens.token_strings(student, tokenizer, role, embeddings))
    return found


def _of_scores(config: Config, inputs: RunInputs, loaded: Loaded) -> list[Outcome]:
    """The checks on samples of the student, drawn with the key of step 0, which no run has."""
    learner, state = scores.by_logprobs(loaded.learner), loaded.state
    if config.method == "sft" and not config.lora.rank:
        why = "sft learns from answers that are there"
        return [not_checked(name, "student", why) for name in ("sampler", "temperature")]
    engine = loaded.samplers[inputs.models[config.student]]
    bounds, params = scores.bounds_of(learner, engine), learner.student_params(state)
    key, rule = training_key(config.seed, 0), config.rollout.rule
    requests = loaded.requests
    with naming("contract checks"):
        weights = engine.sync_weights(params)
        drawn = {
            r: scores.draw(engine, weights, requests, config.check.tokens, key, r)
            for r in dict.fromkeys((rule, PLAIN))
        }
        del weights
    on_policy = config.method == "gopd"
    teachers = loaded.teachers if on_policy else {}
    examples = {}
    for r, rollouts in drawn.items():
        some = scores.some_of_each(rollouts, config.check.samples)
        given = to_score(some, reward_scales=learner.reward_scales)
        models = (teachers, loaded.reference) if r == rule else ({}, None)
        examples[r] = with_scores(learner, given, *models, old=params)
    ours = examples[rule]
    found = [
        scores.sampler(learner, params, ours, rule, bounds.sampler),
        scores.temperature(examples[PLAIN], bounds.sampler),
    ]
    if on_policy:
        found += _of_teachers(config, inputs, loaded, ours, bounds)
    if config.lora.rank:
        found += scores.adapter(learner, state, ours, bounds)
    return found


def _of_teachers(
    config: Config,
    inputs: RunInputs,
    loaded: Loaded,
    examples: Sequence[Example],
    bounds: scores.Bounds,
) -> list[Outcome]:
    """The checks on what teachers and reference said of the examples."""
    learner, weights = scores.by_logprobs(loaded.learner), inputs.fingerprints["weights"]
    frozen, found = scores.frozen_form(learner, loaded.state), []
    for index, (name, domain) in enumerate(config.domains.items()):
        role, own = teacher_of(name), [e for e in examples if e.domain == index]
        if not own:
            found.append(not_checked("self_teacher", name, "step 1 has no prompt of it"))
            continue
        same = weights[role] == weights["student"]
        if same and domain.shown_of_answers:
            found.append(not_checked("teachers_differ", role, SHOWN_ANSWERS))
        else:
            found.append(scores.teachers_differ(own, role, bounds.models, same))
        if domain.prompts_teacher:  # that is not meant to count here
            own = [dataclasses.replace(e, teacher_prompt=None) for e in own]
        found.append(scores.self_teacher(learner, frozen, own, name, bounds.scorer))
    if loaded.reference is None:
        return [*found, not_checked("reference", "reference", "every lambda is 1")]
    read = [e for e in examples if e.reference_logprobs is not None]
    if not read:
        return [*found, not_checked("reference", "reference", "step 1 has no prompt for it")]
    kept = {
        "fingerprints": weights,
        "given": config.reference,
        "restarted": bool(config.init_from),
    }
    return [*found, scores.reference(read, bounds, **kept)]


def of_evaluations(config: Config, inputs: RunInputs, evaluations: Evaluations) -> list[Outcome]:
    """Whether the teachers are better than the student, by the evaluations before step 1."""
    found = []
    for name in inputs.teachers:
        role, domain = teacher_of(name), config.domains[name]
        why = ""
        if domain.reward == NONE:
            why = "answers are not verified"
        elif domain.teacher_context:
            why = SHOWN_MORE
        elif not evaluations.has("teacher", name, 0):
            why = "not evaluated: config.eval.teachers=False"
        if why:
            found.append(not_checked("teacher_better", role, why))
        else:
            both = (evaluations.get(who, name, 0) for who in ("student", "teacher"))
            found.append(teacher_better(role, *both))
    return accepting(found, config.check.accepted)


# ---- The checks of a run.


class Contract:
    """The checks before step 0 of a run, and their record.

    All but that of the teachers' scores are made at once, before the run is written.

    Args:
        config: of the run.
        inputs: of the run.
        workdir: its folder.
        loaded: its models.

    Raises:
        ValueError: one failed, and is not accepted.
    """

    def __init__(self, config: Config, inputs: RunInputs, workdir: str, loaded: Loaded):
        self._config, self._inputs, self._workdir = config, inputs, workdir
        start = time.perf_counter()
        self._found = outcomes(config, inputs, loaded)
        _show(self._found, time.perf_counter() - start)
        raise_if_failed(self._found)

    def check_teachers(self, evaluations: Evaluations) -> None:
        """Compares teachers and student, and writes checks.json.

        Raises:
            ValueError: a teacher is worse, and that is not accepted.
        """
        found = of_evaluations(self._config, self._inputs, evaluations)
        self._found += found
        record = {"checks": [o.to_json() for o in self._found]}

        def write() -> dict:
            replace_json(epath.Path(self._workdir) / FILE, record)
            return record

        of_first(write)
        if found:
            _show(found)
        raise_if_failed(found)


def contract_of(config: Config, inputs: RunInputs, workdir: str, loaded: Loaded) -> Contract | None:
    """The checks of a run that has no checkpoint; None where they are switched off."""
    return Contract(config, inputs, workdir, loaded) if config.check.before_training else None


def _show(found: Sequence[Outcome], seconds: float | None = None) -> None:
    """Says what did not pass, and details of the rest."""
    open_ones = [o for o in found if o.state not in ("passed", "not checked")]
    took = "" if seconds is None else f" ({seconds:.1f} s)"
    what = "contract checks" if seconds is not None else "teachers and student"
    say(f"{what}: {count(found)}{took}")
    if open_ones:
        say(table(open_ones, result_width()), fold=False)
    detail(table(found))
