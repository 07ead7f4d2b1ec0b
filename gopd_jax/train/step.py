"""One step of training: rollout -> score -> update.

In: the train state and the stream of requests. Out: the new state, and a record of what the step
left behind. While an update runs, the metrics of the step before are written and the requests of
the next are read, so that the device never waits for either.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from itertools import chain, pairwise

import jax

from gopd_jax.config import Config
from gopd_jax.data.answers import given_answers_of
from gopd_jax.data.settings import FEEDBACK
from gopd_jax.data.stream import PromptStream
from gopd_jax.evaluate.held_out import batched
from gopd_jax.learner.controls import controlled
from gopd_jax.learner.example import Example
from gopd_jax.learner.inspection import inspect_responses, inspection_metrics
from gopd_jax.learner.learner import FrozenModel, Learner, Packed
from gopd_jax.learner.packing import padding_hint
from gopd_jax.learner.parking import bring
from gopd_jax.learner.scoring import Scoring
from gopd_jax.learner.sources import (
    given_answers,
    in_order,
    outside_advantages,
    to_examples,
    to_score,
)
from gopd_jax.objective.gopd import needs_reference
from gopd_jax.rewards.verifier import Verdict
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.rollout.samplers import Samplers
from gopd_jax.runtime.errors import NonFiniteError, naming
from gopd_jax.runtime.processes import share
from gopd_jax.runtime.progress import say
from gopd_jax.runtime.stopping import stop_point
from gopd_jax.train.clock import Clock
from gopd_jax.train.feedback import as_read, showing
from gopd_jax.train.finite import first_fault
from gopd_jax.train.keys import training_key
from gopd_jax.train.prepare import RunInputs
from gopd_jax.train.step_log import StepLog, StepRecord, Update
from gopd_jax.train.verification import BackgroundVerifier, PendingVerdicts, Submitted
from gopd_jax.types import Params, Request, Rollout, SampleKey, TrainState


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What a step is made with.

    teachers: by domain; empty for grpo.
    reference: None where no lambda needs it.
    verifier: has each rollout as soon as it is finished.
    clock: of the loop.
    """

    config: Config
    inputs: RunInputs
    learner: Learner
    samplers: Samplers
    teachers: Mapping[str, FrozenModel]
    reference: FrozenModel | None
    verifier: BackgroundVerifier
    clock: Clock

    def step(
        self, state: TrainState, stream: PromptStream, step: int, log: StepLog
    ) -> tuple[TrainState, StepRecord, str]:
        """rollout -> score -> update, of the next requests of the stream.

        Returns:
            The new state, the record of the step, and the note on the step before it for the
            progress bar.

        Raises:
            Stopped: a signal has asked for it, before the update; the state is as it was.
            NonFiniteError: a number of the step is NaN or infinite. The state is as it was, and the
                rollouts are written beside the run.
        """
        record = StepRecord(step)
        with self.clock.phase("data"):
            requests = next(stream)

        teachers = self._teachers(state)
        scoring = Scoring(self.learner, teachers, self.reference)
        params = self.learner.student_params(state)
        with self.clock.phase("rollout"):
            self._rollout(params, requests, record, scoring)

        with self.clock.phase("score"):
            if not self.config.learner.score_early:
                scoring.add(self._to_score(record.rollouts))
            scored = self._scored(params, scoring, record)
            updates = [self._packed(examples, i > 0) for i, examples in enumerate(scored)]
            record.scoring = scoring.cost
            record.inspected = self._inspected(params, teachers, record)
            if step == 1:
                self._hint(updates[0])
            stop_point()

        with self.clock.phase("update"):
            for packed in updates:
                state, metrics, tokens = self.learner.update(state, packed)
                kept = dataclasses.replace(packed, batches=())  # the next step has their memory
                record.updates.append(Update(kept, metrics, tokens))
            # While the device works:
            note = log.write_last()  # of the step before
            record.learning_rate = log.learning_rate(record)
            if step < self.config.steps:
                stream.read_ahead()
            jax.block_until_ready(state.step)
        if fault := first_fault(record, list(self.inputs.train)):
            path = log.write_fault(record, record.updates[fault.update], fault.keys)
            raise NonFiniteError(fault.describe(step, path))
        record.laps = self.clock.lap()
        log.keep(record)
        return state, record, note

    def _teachers(self, state: TrainState) -> Mapping[str, FrozenModel]:
        """The teachers that score this step's responses, as they are now."""
        if self.config.method != "gopd":  # those of sft have answered already
            return {}
        if (params := self.learner.teacher_params(state)) is None:
            return self.teachers
        now = {n: dataclasses.replace(t, params=params) for n, t in self.teachers.items()}
        reference = self.reference and self.reference.params
        self.learner.read_heads(dict.fromkeys(now, params), reference)
        return now

    def _inspected(
        self, params: Params, teachers: Mapping[str, FrozenModel], record: StepRecord
    ) -> dict[str, float | list[float]]:
        """What a few responses say over the whole vocabulary, in the steps that write samples."""
        log = self.config.log
        if self.config.method != "gopd" or not (log.inspected and log.writes_samples(record.step)):
            return {}
        by_domain, shaping = {}, self.config.shaping
        for name, scale in shaping.reward_scales(self.config.reward_scales, record.step).items():
            of_domain = [r for r in record.rollouts if r.request.prompt.source.domain == name]
            if of_domain:
                needed = needs_reference(scale) or shaping.reference_everywhere
                reference = self.reference if needed else None
                models = teachers[name], reference
                rollouts = of_domain[: log.inspected]
                given = self.learner, params, *models, rollouts, scale
                by_domain[name] = inspect_responses(*given)
        return inspection_metrics(by_domain)

    def _hint(self, packed: Packed) -> None:
        """Says what would leave less padding, if there is much."""
        if hint := padding_hint(packed.cost.filled, self.learner.buckets):
            say(hint)

    def _packed(self, examples: Sequence[Example], later: bool) -> Packed:
        """The examples of an update on the mesh, with the same arrays in every step."""
        method, control = self.config.method, self.config.control
        read = not self.config.objective.exact and not control.of_advantages
        there = {
            "behaviour_logprobs": method != "sft",
            "old_logprobs": later and method != "sft",
            "teacher_logprobs": method == "gopd" and read,
            "reference_logprobs": self.reference is not None and read,
            "kl_coefficients": self.config.shaping.trust_region,
        }
        return self.learner.pack(examples, [name for name, is_there in there.items() if is_there])

    def _scored(self, params: Params, scoring: Scoring, record: StepRecord) -> list[list[Example]]:
        """The examples of each update, with the log-probs of frozen models.

        The first update needs no old log-probs, which are its own, and sft has no ratio to an old
        policy.
        """
        first, *later = self._examples(record)
        scored = scoring.finish()
        if later and self.config.method != "sft":
            of_old = Scoring(self.learner, {}, old=params)
            of_old.add([e for examples in later for e in examples])
            for key, found in of_old.finish().items():
                scored[key] |= found
            scoring.cost += of_old.cost
        found = []
        for number, examples in enumerate((first, *later)):
            given = [dataclasses.replace(e, **scored[e.key]) for e in examples]
            seed = self.config.seed, record.step, number
            found.append(controlled(given, self.config.control, seed))
        return found

    def _examples(self, record: StepRecord) -> list[list[Example]]:
        """The examples of each update. Waits here for verdicts, where the run learns from them."""
        config, rewards = self.config, None
        if config.learns_from_rewards:
            with self.clock.phase("verify"):
                verdicts = record.verdicts.result()
            rewards = [verdict.reward for verdict in verdicts]
        return to_examples(
            record.rollouts,
            outside_advantages(config.method, record.rollouts, rewards, config.shaping),
            method=config.method,
            reward_scales=config.reward_scales,
            weighting=config.learner.weighting,
            shaping=config.shaping,
            step=record.step,
            updates=config.learner.updates_per_batch,
            split_seed=(config.seed, record.step),
        )

    def _rollout(
        self, params: Params, requests: Sequence[Request], record: StepRecord, scoring: Scoring
    ) -> None:
        """Draws the step's rollouts from the student; for sft, takes the answers to learn from.

        Each rollout goes to the verifier of one host as soon as it is finished, and to scoring when
        its teacher can read its prompt; the record holds them in the order of their keys.
        """
        config = self.config
        sampler = self.samplers[self.inputs.models[config.student]]
        if config.method == "sft":
            rollouts = self._answers(requests, record)
        else:
            with self.clock.phase("weight_sync"):
                weights = jax.block_until_ready(sampler.sync_weights(params))
            rollouts = self._drawn(sampler, weights, requests, record)
        selected = self._verified(requests)
        submitted = (
            (part, self._submitted(part, selected))
            for part in batched(rollouts, max(1, sampler.slots // 4))
        )
        if showing(config):  # one part behind, so that its verdicts come while the next is drawn
            submitted = (part for part, _ in pairwise(chain(submitted, [None])))
        finished: list[Rollout] = []
        futures = []
        with naming(f"rollouts of step {record.step}"):
            for part, verdicts in submitted:
                part = self._as_read(part, verdicts, record)
                if config.learner.score_early:
                    scoring.add(self._to_score(part))
                finished += part
                futures.append(verdicts)
        record.rollouts = in_order(finished)
        keys = [r.request.key for r in record.rollouts]
        record.verdicts = PendingVerdicts(futures, keys)

    def _submitted(self, rollouts: Sequence[Rollout], selected: set[SampleKey]) -> Submitted:
        """The verdicts of this host's share of some rollouts, being computed."""
        decode = self.inputs.tokenizer.decode
        mine = [(r, decode(r.tokens)) for r in share(rollouts)]
        return self.verifier.submit(mine, selected)

    def _as_read(
        self, rollouts: Sequence[Rollout], verdicts: Submitted, record: StepRecord
    ) -> Sequence[Rollout]:
        """The rollouts, with what a teacher reads that is shown something of the answer."""
        if not showing(self.config):
            return rollouts
        found: Sequence[Verdict | None] = [None] * len(rollouts)
        if showing(self.config, FEEDBACK):
            with self.clock.phase("verify"):
                found = PendingVerdicts([verdicts], [r.request.key for r in rollouts]).result()
        read, cut = as_read(self.config, self.inputs.readers, rollouts, found)
        record.prompts_cut += cut
        return read

    def _to_score(self, rollouts: Sequence[Rollout]) -> list[Example]:
        scales, weighting = self.config.reward_scales, self.config.learner.weighting
        return to_score(rollouts, reward_scales=scales, weighting=weighting)

    def _drawn(
        self,
        sampler: RolloutEngine,
        weights: Params,
        requests: Sequence[Request],
        record: StepRecord,
    ) -> Iterator[Rollout]:
        """The samples of a model, in the order in which they finish; the record counts them."""
        key = training_key(self.config.seed, record.step)
        yield from sampler(weights, requests, key, self.config.rollout.rule)
        record.sampling += sampler.stats

    def _verified(self, requests: Sequence[Request]) -> set[SampleKey]:
        """Which samples are verified: the first `log.rewards` of the shuffled stream, or all.

        Verdicts that a teacher reads or the student learns from are needed.
        """
        most = 0 if self.config.learns_from_rewards else self.config.log.rewards
        told = showing(self.config, FEEDBACK)
        needed = (r for r in requests if r.prompt.source.domain in told)
        return {r.key for r in chain(requests[: most or len(requests)], needed)}

    def _answers(self, requests: Sequence[Request], record: StepRecord) -> Iterator[Rollout]:
        """What sft learns from: samples of the domain's teacher, or the data set's answers."""
        config = self.config
        for name in config.domains:
            mine = [r for r in requests if r.prompt.source.domain == name]
            if mine and name in self.teachers:
                teacher = self.teachers[name]
                sampler = self.samplers[teacher.config]
                weights = sampler.sync_weights(bring(teacher.params))
                yield from self._drawn(sampler, weights, mine, record)
                del weights  # before those of the next teacher are made
            else:
                answers = given_answers_of(self.inputs.tokenizer, [r.prompt for r in mine])
                yield from given_answers(mine, answers)
