"""Log-probs of teachers, reference and old student, computed as the rollouts come.

In: examples, in any number of portions. Out: the log-probs of each one; for an estimator that reads
the whole vocabulary, the hidden states that the heads of these models are applied to. Rows that are
full are scored at once, while other rollouts are still drawn; what is left waits for company.
Models that read the same prompt share the packing. Each model scores only what it is needed for.
Parked models come to the devices one after the other, those that are needed, and stay for what each
has to score.
"""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from gopd_jax.learner.example import HIDDEN, Example
from gopd_jax.learner.flops import FORWARD
from gopd_jax.learner.groups import Group, ready
from gopd_jax.learner.learner import FrozenModel, Learner, put
from gopd_jax.learner.operations import NO_COST, WITHOUT_HEAD, Prompts, score_cost
from gopd_jax.learner.packing import Bucket, Row, best_fit, check_fits, fill, members_of, plan
from gopd_jax.learner.parking import bring
from gopd_jax.learner.step import hidden_states, score
from gopd_jax.models.config import ModelConfig
from gopd_jax.objective.gopd import needs_reference
from gopd_jax.runtime.mesh import token_sharding
from gopd_jax.runtime.processes import fetch
from gopd_jax.runtime.stopping import stop_point
from gopd_jax.types import Params, SampleKey

# Rows that are scored before all rollouts are there are filled to at least this share.
FULL = 0.95

READ = ("tokens", "positions", "segments", "targets")


@dataclasses.dataclass(frozen=True)
class _Reads:
    """Which examples are packed together: those of a domain that the same models read alike.

    models: by the field of `Example` that each one fills.
    """

    domain: int
    as_teacher: bool
    models: tuple[tuple[str, FrozenModel], ...]


_Work = tuple[_Reads, Sequence[Row], Bucket]  # a micro-batch


def scoring_program(
    learner: Learner, config: ModelConfig, hidden: bool = False
) -> tuple[Any, dict[str, Any]]:
    """What is run to score, and the other arguments of `ProgramTable.compiled`.

    Args:
        hidden: hidden states are wanted in place of log-probs.
    """
    decoder, where = learner.decoder(config), token_sharding(learner.mesh)
    function = functools.partial(score, model=decoder, num_ids=learner.num_ids)
    if hidden:
        function = functools.partial(hidden_states, model=decoder)
    return function, {"name": "score", "out": lambda: where}


def with_scores(
    learner: Learner,
    examples: Sequence[Example],
    teachers: Mapping[str, FrozenModel],
    reference: FrozenModel | None = None,
    old: Params | None = None,
) -> list[Example]:
    """The examples with the log-probs that frozen models give them; see `Scoring`."""
    scoring = Scoring(learner, teachers, reference, old)
    scoring.add(examples)
    scored = scoring.finish()
    return [dataclasses.replace(e, **scored[e.key]) for e in examples]


class Scoring:
    """The log-probs of one batch of rollouts.

    Example:
        scoring = Scoring(learner, {"math": teacher}, reference)
        scoring.add(examples)       # as often as rollouts finish
        scored = scoring.finish()   # {key: {"teacher_logprobs": [T], "reference_logprobs": [T]}}

    Args:
        learner: whose rows and domains these are.
        teachers: by domain; each scores the examples of its own domain, on the prompt that it
            reads.
        reference: scores the examples whose lambda needs it; None where none does.
        old: the student's parameters, for the log-probs before several updates; or None.
    """

    def __init__(
        self,
        learner: Learner,
        teachers: Mapping[str, FrozenModel],
        reference: FrozenModel | None = None,
        old: Params | None = None,
    ):
        self.cost = NO_COST
        self._learner, self._teachers, self._reference = learner, teachers, reference
        self._old = None if old is None else FrozenModel("old student", learner.student, old)
        self._domains, self._scales = list(learner.reward_scales), learner.reward_scales
        self._waiting: dict[tuple[int, bool, tuple[str, ...]], tuple[_Reads, list[Example]]] = {}
        self._scored: dict[SampleKey, dict[str, np.ndarray]] = {}
        self._counted: dict[str, Prompts] = collections.defaultdict(set)  # by field
        self._brought: tuple[Params, Params] | None = None  # a parked model, parked and on device
        self._running: list[tuple[str, jax.Array, list[tuple[Example, int, int]]]] = []

    def add(self, examples: Sequence[Example]) -> None:
        """Takes examples, and begins to score the rows that they fill.

        What is scored together follows from the order of the examples alone.

        Raises:
            ValueError: an example is longer than a row.
        """
        bucket = self._learner.buckets[0]
        for example in examples:
            self._scored[example.key] = {}
            for reads in self._models_of(example):
                name = reads.domain, reads.as_teacher, tuple(field for field, _ in reads.models)
                as_read = example
                if reads.as_teacher:
                    as_read = dataclasses.replace(example, prompt=example.teacher_prompt)
                check_fits(as_read, bucket)
                self._waiting.setdefault(name, (reads, []))[1].append(as_read)
        room, work = bucket.rows * bucket.length, []
        for reads, waiting in self._waiting.values():
            if sum(map(len, waiting)) < room:
                continue
            groups = self._ready(waiting, bucket)
            if sum(map(len, groups)) >= room:
                work += self._full_rows(reads, waiting, groups, bucket)
        self._score_all(work)

    def finish(self) -> dict[SampleKey, dict[str, np.ndarray]]:
        """Scores what is waiting.

        Returns:
            For each example, by the field of `Example`, float32 [T] of each model, nats; or its
            hidden states [T, D].
        """
        buckets, work = self._learner.buckets, []
        for reads, waiting in self._waiting.values():
            planned = plan(waiting, buckets, self._learner.sharing)
            for bucket, rows in zip(buckets, planned, strict=True):
                starts = range(0, len(rows), bucket.rows)
                work += [(reads, rows[start : start + bucket.rows], bucket) for start in starts]
            waiting.clear()
        self._score_all(work)
        self._collect()
        self._brought = None
        return self._scored

    def _models_of(self, example: Example) -> list[_Reads]:
        """What is to be scored of an example, on each prompt."""
        name = self._domains[example.domain]
        of = "hidden" if self._learner.estimator.exact else "logprobs"
        ours, theirs = [], []
        if name in self._teachers:
            own_prompt = example.teacher_prompt is not None
            (theirs if own_prompt else ours).append((f"teacher_{of}", self._teachers[name]))
        everywhere = self._learner.shaping.reference_everywhere
        read = everywhere or needs_reference(self._scales[name])
        if self._reference is not None and read:
            ours.append((f"reference_{of}", self._reference))
        if self._old is not None:
            ours.append(("old_logprobs", self._old))
        both = (False, tuple(ours)), (True, tuple(theirs))
        return [_Reads(example.domain, *reads) for reads in both if reads[1]]

    def _ready(self, waiting: Sequence[Example], bucket: Bucket) -> list[Group[Example]]:
        """The groups that lose nothing if they are scored before the rest is there."""
        return ready(
            sorted(waiting, key=lambda e: (-len(e), e.key)),
            self._learner.sharing,
            samples=self._learner.shape.samples,
            room=bucket.length,
            full=FULL * bucket.length,
        )

    def _full_rows(
        self,
        reads: _Reads,
        waiting: list[Example],
        groups: Sequence[Group[Example]],
        bucket: Bucket,
    ) -> list[_Work]:
        """Whole micro-batches of full rows, to be scored; the other examples stay."""
        rows = best_fit(groups, [bucket.length] * len(groups))
        full = [row for row in rows if sum(map(len, row)) >= FULL * bucket.length]
        full = full[: len(full) // bucket.rows * bucket.rows]
        gone = {e.key for e in members_of(full)}
        waiting[:] = [e for e in waiting if e.key not in gone]
        starts = range(0, len(full), bucket.rows)
        return [(reads, full[start : start + bucket.rows], bucket) for start in starts]

    def _score_all(self, work: Sequence[_Work]) -> None:
        """Scores micro-batches: first with the models on the devices, then with each parked one."""
        models = [model for reads, _, _ in work for _, model in reads.models]
        parked = {id(model.params): model for model in models if model.parked}
        for turn in [None, *parked]:
            for reads, rows, bucket in work:
                now = [
                    (field, model)
                    for field, model in reads.models
                    if turn == (id(model.params) if model.parked else None)
                ]
                if now:
                    stop_point()
                    self._score(dataclasses.replace(reads, models=tuple(now)), rows, bucket)

    def _on_device(self, model: FrozenModel) -> Params:
        """The parameters of a model. A parked one comes back, and the one before it is dropped."""
        if not model.parked:
            return model.params
        if self._brought is None or self._brought[0] is not model.params:
            self._brought = None
            self._brought = model.params, bring(model.params)
        return self._brought[1]

    def _score(self, reads: _Reads, rows: Sequence[Row], bucket: Bucket) -> None:
        """Starts one micro-batch, after the one before it is done."""
        self._collect()
        learner = self._learner
        arrays, starts = fill(rows, bucket.rows, bucket.length, ())
        wanted_RS = arrays["weights"] > 0
        examples = list(members_of(rows))
        where = token_sharding(learner.mesh)
        given = [put(x, where) for x in (*(arrays[name] for name in READ), wanted_RS)]
        for field, model in reads.models:
            function, options = scoring_program(learner, model.config, field in HIDDEN)
            params = self._on_device(model)
            run = learner.programs.compiled(function, params, *given, **options)
            places = [(e, *starts[e.key]) for e in examples]
            self._running.append((field, run(params, *given), places))
            self.cost += score_cost(
                learner.decoder(model.config),
                examples,
                arrays["segments"],
                wanted_RS,
                learner.devices,
                self._counted[field],
                WITHOUT_HEAD if field in HIDDEN else FORWARD,
            )

    def _collect(self) -> None:
        """Waits for what runs, and takes the log-probs of its examples."""
        for field, result, places in self._running:
            found = fetch(result)
            for example, row, start in places:
                first = start + len(example.prompt) - 1
                values = found[row, first : first + len(example.response)]
                # A copy of hidden states, so that those of the padding can go.
                self._scored[example.key][field] = values.copy() if field in HIDDEN else values
        self._running.clear()
