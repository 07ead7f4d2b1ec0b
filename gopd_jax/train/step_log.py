"""What a step leaves behind: one line of metrics, and some samples with the numbers of each token.

In: the record of a step. Out: metrics.jsonl, samples.jsonl, the trackers, and the short note that
the progress bar shows. A step is written while the next one runs, so that the device never waits;
only its few metrics are fetched at its end.
"""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
import json
from typing import Self

from etils import epath
import jax
import numpy as np
import optax

from gopd_jax.config import Config
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.learner.learner import Packed
from gopd_jax.learner.operations import NO_COST, Cost
from gopd_jax.learner.step import StepMetrics, TokenValues
from gopd_jax.models.routing import routing_metrics
from gopd_jax.rewards.verifier import Verdict
from gopd_jax.rollout.stats import RolloutStats
from gopd_jax.runtime.errors import Stopped
from gopd_jax.runtime.files import JsonObject, replace_text
from gopd_jax.runtime.metrics import RunLog, compilations, compilations_cached
from gopd_jax.runtime.processes import fetch
from gopd_jax.runtime.trackers import Trackers
from gopd_jax.train.clock import ASIDE, Clock
from gopd_jax.train.feedback import showing
from gopd_jax.train.rollout_metrics import rollout_metrics
from gopd_jax.train.verdicts import Verdicts
from gopd_jax.train.verification import PendingVerdicts
from gopd_jax.types import Rollout, SampleKey

NOTE = {  # metric -> its name in the progress bar
    "reward": "reward",
    "reverse_kl_teacher": "kl(teacher)",
    "response_length": "length",
    "grad_norm": "grad",
}


@dataclasses.dataclass(frozen=True)
class Update:
    """One optimizer update: what went in, and what came out, still on device."""

    packed: Packed
    metrics: StepMetrics
    tokens: tuple[TokenValues, ...]


@dataclasses.dataclass
class StepRecord:
    """What a step did; filled in as the step goes on.

    rollouts, verdicts: in the order of the rollouts' keys.
    sampling: what the samplers did; nothing where no token was drawn.
    laps: seconds of each phase since the end of the step before.
    scoring: the cost of the log-probs of frozen models.
    learning_rate: of the first update.
    prompts_cut: answers for which a text that the teacher is shown had to be cut.
    inspected: metrics of a few responses over the whole vocabulary; see `learner.inspection`.
    values: metrics of the updates.
    """

    step: int
    rollouts: list[Rollout] = dataclasses.field(default_factory=list)
    verdicts: PendingVerdicts | None = None
    sampling: RolloutStats = dataclasses.field(default_factory=RolloutStats)
    updates: list[Update] = dataclasses.field(default_factory=list)
    scoring: Cost = NO_COST
    laps: dict[str, float] = dataclasses.field(default_factory=dict)
    learning_rate: jax.Array | float = 0.0
    prompts_cut: int = 0
    inspected: dict[str, float | list[float]] = dataclasses.field(default_factory=dict)
    values: dict[str, float | list[float]] = dataclasses.field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Wall clock since the end of the step before."""
        return sum(self.laps.values())

    @property
    def training_seconds(self) -> float:
        """The same without the evaluation and the checkpoint between the two steps."""
        return sum(seconds for name, seconds in self.laps.items() if name not in ASIDE)


class StepLog:
    """Writes the record of each step while the next one runs; a context manager.

    Leaving it writes the last record, unless an error has ended the run: the other hosts, whose
    verdicts it would wait for, are elsewhere then. A restart makes that step again.

    Args:
        workdir: the run's folder.
        last_step: step of the checkpoint that the run resumes from; later lines are dropped.
        trackers: started; they are shown the metrics too.
        schedule: learning rate by update.
        clock: of the loop; waiting for verdicts is a phase of its own.
        scores: model, step and scores of each evaluation of earlier starts.

    Attributes:
        verdicts: on what is written so far.
    """

    def __init__(
        self,
        workdir: str,
        last_step: int,
        trackers: Trackers,
        config: Config,
        tokenizer: ChatTokenizer,
        schedule: optax.Schedule,
        clock: Clock,
        scores: Sequence[tuple[str, int, Mapping[str, float]]],
    ):
        self._config, self._tokenizer, self._schedule = config, tokenizer, schedule
        self._workdir, self._clock = workdir, clock
        self.verdicts = Verdicts(workdir, config)
        self._log = RunLog(workdir, last_step, trackers, scores)
        self._last: StepRecord | None = None

    def keep(self, record: StepRecord) -> None:
        """Keeps a record, to be written by the next `write_last`."""
        # Within `write_last`, fetching would wait for the update of the next step.
        record.values = self._values(record)
        self._last = record

    def learning_rate(self, record: StepRecord) -> jax.Array | float:
        """The learning rate of the record's first update, perhaps still on device.

        A schedule is a dozen operations, one call each: for a moment in which the device works.
        """
        return self._schedule((record.step - 1) * len(record.updates))

    def write_last(self) -> str:
        """Writes the record that is kept, if any, and makes sure that it is on disk.

        Returns:
            The note on what was written.
        """
        record, self._last = self._last, None
        if record is None:
            return ""
        with self._clock.phase("verify"):
            verdicts = record.verdicts.result()
        values = self._metrics(record, verdicts)
        self._log.metrics(record.step, values)
        log = self._config.log
        if log.samples and log.writes_samples(record.step):
            for sample in self._samples(record, record.updates[-1], log.samples):
                self._log.sample(record.step, sample)
        self._log.flush()
        return "  ".join(f"{short} {values[k]:.3g}" for k, short in NOTE.items() if k in values)

    def scores(self, model: str, step: int, values: Mapping[str, float]) -> None:
        """Shows the trackers what an evaluation of "student" or "teacher" has found, if any."""
        self._log.scores(model, step, values)

    def write_fault(self, record: StepRecord, update: Update, keys: Collection[SampleKey]) -> str:
        """Writes the rollouts in which a number is not finite; returns the path of the file.

        The lines are those of samples.jsonl; Python's json reads their NaN and Infinity.
        """
        path = epath.Path(self._workdir) / f"nonfinite_step_{record.step}.jsonl"
        samples = self._samples(record, update, len(record.rollouts), keys)
        if jax.process_index() == 0:
            replace_text(path, "".join(json.dumps(sample) + "\n" for sample in samples))
        return str(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None or issubclass(kind, Stopped) or jax.process_count() == 1:
                self.write_last()
        finally:
            self._log.close()

    def _values(self, record: StepRecord) -> dict[str, float | list[float]]:
        """What the updates have measured, fetched from the device."""
        fetched = jax.device_get([u.metrics for u in record.updates])
        total = fetched[0].diagnostics
        for metrics in fetched[1:]:
            total = total.merge(metrics.diagnostics)
        values = total.finish(list(self._config.domains))
        values["loss"] = float(np.mean([m.loss for m in fetched]))
        values["grad_norm"] = float(np.mean([m.grad_norm for m in fetched]))
        if np.isfinite(noise := np.mean([m.grad_noise for m in fetched])):
            values["grad_noise"] = float(noise)
        values["learning_rate"] = float(record.learning_rate)
        if fetched[0].routing is not None:
            values |= routing_metrics([m.routing for m in fetched])
        return values

    def _metrics(
        self, record: StepRecord, verdicts: Sequence[Verdict | None]
    ) -> dict[str, float | list[float]]:
        domains = list(self._config.domains)
        values: dict[str, float | list[float]] = rollout_metrics(record.rollouts, verdicts, domains)
        values |= record.inspected | record.values
        if told := showing(self._config):
            read = sum(r.request.prompt.source.domain in told for r in record.rollouts)
            values["teacher_prompts_cut"] = record.prompts_cut / max(read, 1)
        cost = sum((u.packed.cost for u in record.updates), NO_COST)
        values["packing_filled"] = cost.filled
        values["attention_useful"] = cost.attention_useful
        whole = cost + record.scoring
        values["useful_flops"] = whole.useful.total
        values["flops_useful"] = whole.flops_useful
        values |= {f"seconds_{name}": seconds for name, seconds in record.laps.items()}
        values["seconds"] = record.seconds
        values["tokens_per_second"] = values["rollout_tokens"] / record.training_seconds
        values["compilations"] = compilations()
        values["compilations_cached"] = compilations_cached()
        if record.sampling.steps:
            values["slot_utilisation"] = record.sampling.utilisation
            values["decode_steps"] = record.sampling.steps
            values["prefill_tokens"] = record.sampling.prefill_tokens
        return values

    def _samples(
        self, record: StepRecord, update: Update, most: int, keys: Collection[SampleKey] = ()
    ) -> list[JsonObject]:
        """The first rollouts of an update, token by token; with `keys`, only those."""
        verdicts = record.verdicts.result()
        fetched = [jax.tree.map(fetch, values) for values in update.tokens]
        examples, slices = update.packed.examples, update.packed.slices
        among = keys or slices
        shown = [i for i, r in enumerate(record.rollouts) if r.request.key in among]
        out = []
        for i in shown[:most]:
            rollout = record.rollouts[i]
            key, prompt = rollout.request.key, rollout.request.prompt
            example, where = examples[key], slices[key]
            tokens = fetched[where.bucket]
            here = where.predictions(len(prompt.tokens), len(rollout.tokens))
            old = example.old_logprobs
            values = {
                "student_logprobs": tokens.logprobs[here] if old is None else old,
                "teacher_logprobs": example.teacher_logprobs,
                "reference_logprobs": example.reference_logprobs,
                "advantages": tokens.advantages[here],
            }
            for name in ("teacher_logprobs", "reference_logprobs"):
                if (found := getattr(tokens, name)) is not None:  # with an exact estimator
                    values[name] = found[here]
            sample = self._sample(rollout, verdicts[i])
            out.append(sample | {k: _rounded(x) for k, x in values.items() if x is not None})
        return out

    def _sample(self, rollout: Rollout, verdict: Verdict | None) -> JsonObject:
        """A rollout as samples.jsonl shows it, without what the models say of its tokens."""
        prompt, decode = rollout.request.prompt, self._tokenizer.decode
        sample = {
            "prompt_id": rollout.request.key.prompt_id,
            "sample_id": rollout.request.key.sample_id,
            "domain": prompt.source.domain,
            "prompt": decode(prompt.tokens, skip_special_tokens=False),
            "response": decode(rollout.tokens),
            "ground_truth": prompt.source.ground_truth,
            "reward": verdict.reward if verdict else None,
            "verdict": verdict.detail if verdict else "not verified",
            **({"reward_metrics": verdict.metrics} if verdict and verdict.metrics else {}),
            "finish_reason": rollout.finish_reason,
            "tokens": [decode([t], skip_special_tokens=False) for t in rollout.tokens],
            "behaviour_logprobs": _rounded(rollout.behaviour_logprobs),
        }
        if prompt.teacher_tokens is not None:
            sample["teacher_prompt"] = decode(prompt.teacher_tokens, skip_special_tokens=False)
        return sample


def _rounded(x: np.ndarray) -> list[float]:
    return [round(float(v), 5) for v in np.asarray(x)]
