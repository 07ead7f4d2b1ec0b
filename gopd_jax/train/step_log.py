"""What a step leaves behind: one line of metrics, and some samples with the numbers of every token.

In: the record of a step, its metrics still on device. Out: metrics.jsonl, samples.jsonl, TensorBoard, and the short note that
the progress bar shows. A step is written while the next one is under way, so that the device never waits.
"""

import concurrent.futures
import dataclasses
import time
from typing import Any

import jax
import numpy as np
import optax

from gopd_jax.config import Config
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.evaluate.statistics import t95
from gopd_jax.learner.learner import Packed
from gopd_jax.objective.gopd import gopd_advantage
from gopd_jax.rewards.verifier import Verdict
from gopd_jax.rollout.engine import RolloutStats
from gopd_jax.runtime.metrics import RunLog, compilations
from gopd_jax.runtime.processes import fetch
from gopd_jax.types import PackedBatch, Rollout

# What counts as a loop at the end of a response: at least 4 copies of one n-gram of at most 128 tokens, 16 tokens together, so
# that "1111" in an answer is none.
LOOP_COPIES, LOOP_LONGEST_PERIOD, LOOP_LEAST_TOKENS = 4, 128, 16


@dataclasses.dataclass
class Update:
    """One optimizer update: what went in, and what came out, still on device."""

    packed: Packed
    batch: PackedBatch
    metrics: dict[str, Any]
    logprobs: jax.Array


@dataclasses.dataclass
class StepRecord:
    """Filled in by the training loop as a step goes on."""

    step: int
    rollouts: list[Rollout] = dataclasses.field(default_factory=list)
    texts: list[str] = dataclasses.field(default_factory=list)
    verdicts: "concurrent.futures.Future[list[Verdict | None]] | None" = (
        None  # None: not verified (log.rewards)
    )
    drawn: RolloutStats | None = None
    updates: list[Update] = dataclasses.field(default_factory=list)
    laps: dict[str, float] = dataclasses.field(default_factory=dict)
    _since: float = dataclasses.field(default_factory=time.perf_counter)

    def lap(self, name: str) -> None:
        """Ends a phase of the step."""
        now = time.perf_counter()
        self.laps[name], self._since = now - self._since, now

    @property
    def seconds(self) -> float:
        return sum(self.laps.values())

    def add_update(
        self, packed: Packed, batch: PackedBatch, metrics: dict[str, Any], logprobs: jax.Array
    ) -> None:
        self.updates.append(Update(packed, batch, metrics, logprobs))


class StepLog:
    """Writes step records one step late."""

    def __init__(
        self,
        workdir: str,
        last_step: int,
        config: Config,
        tokenizer: ChatTokenizer,
        schedule: optax.Schedule,
    ):
        self._config, self._tokenizer, self._schedule = config, tokenizer, schedule
        self._log = RunLog(workdir, last_step)
        self._last: StepRecord | None = None

    def write_previous(self, record: StepRecord) -> str:
        """Writes the record before this one and keeps this one for the next call. Returns the note of what was written."""
        note = self.write_last()
        self._last = record
        return note

    def write_last(self) -> str:
        """Writes the record that is kept, if any, and makes sure that it is on disk."""
        record, self._last = self._last, None
        if record is None:
            return ""
        values = self._metrics(record)
        self._log.metrics(record.step, values)
        every = self._config.log.samples_every
        if self._config.log.samples and (record.step % every == 0 or record.step == 1):
            for sample in self._samples(record):
                self._log.sample(record.step, sample)
        self._log.flush()
        watched = {
            "reward": "reward",
            "reverse_kl_teacher": "kl(teacher)",
            "response_length": "length",
            "grad_norm": "grad",
        }
        return "  ".join(
            f"{short} {values[name]:.3g}" for name, short in watched.items() if name in values
        )

    def close(self) -> None:
        self.write_last()
        self._log.close()

    def _metrics(self, record: StepRecord) -> dict[str, Any]:
        domains = list(self._config.domains)
        values = _rollout_metrics(record, domains)
        fetched = jax.device_get([u.metrics for u in record.updates])
        total = fetched[0]["diagnostics"]
        for metrics in fetched[1:]:
            total = total.merge(metrics["diagnostics"])
        values |= total.finish(domains)
        updates = len(fetched)
        values["loss"] = float(np.mean([m["loss"] for m in fetched]))
        values["grad_norm"] = float(np.mean([m["grad_norm"] for m in fetched]))
        values["learning_rate"] = float(self._schedule((record.step - 1) * updates))
        values["packing_filled"] = float(np.mean([u.packed.filled for u in record.updates]))
        values |= {f"seconds_{name}": seconds for name, seconds in record.laps.items()}
        values["seconds"] = record.seconds
        values["tokens_per_second"] = sum(len(r.tokens) for r in record.rollouts) / record.seconds
        values["compilations"] = compilations()
        if record.drawn is not None and record.drawn.steps:
            values["slot_utilisation"] = record.drawn.utilisation
            values["decode_steps"] = record.drawn.steps
            values["prefill_tokens"] = record.drawn.prefill_tokens
        return values

    def _samples(self, record: StepRecord) -> list[dict[str, Any]]:
        """The first few rollouts of the step's last update, token by token."""
        update = record.updates[-1]
        shown = [
            i for i, r in enumerate(record.rollouts) if rollout_name(r) in update.packed.places
        ]
        shown = shown[: self._config.log.samples]
        fields = {
            "student": update.logprobs
            if update.batch.old_logprobs is None
            else update.batch.old_logprobs,
            "teacher": update.batch.teacher_logprobs,
            "reference": update.batch.reference_logprobs,
            "advantage": update.batch.advantages,  # from outside; the G-OPD one is added below
        }
        arrays = {name: fetch(x) for name, x in fields.items() if x is not None}
        verdicts = record.verdicts.result()
        out = []
        for i in shown:
            rollout, place = (
                record.rollouts[i],
                update.packed.places[rollout_name(record.rollouts[i])],
            )
            prompt = rollout.request.prompt
            begin = place.start + len(prompt.tokens) - 1
            where = place.micro, place.row, slice(begin, begin + len(rollout.tokens))
            logprobs = {name: x[where] for name, x in arrays.items()}
            advantages = logprobs.pop("advantage")
            if "teacher" in logprobs:
                scale = self._config.reward_scale(prompt.source.domain)
                if scale == 1:
                    logprobs.pop("reference", None)  # not run on these rows
                reference = logprobs.get("reference", logprobs["teacher"])
                advantages = advantages + gopd_advantage(
                    logprobs["student"], logprobs["teacher"], reference, scale
                )
            sample = {
                "prompt_id": prompt.source.prompt_id,
                "sample_id": rollout.request.sample_id,
                "domain": prompt.source.domain,
                "prompt": self._tokenizer.decode(prompt.tokens, skip_special_tokens=False),
                "response": record.texts[i],
                "ground_truth": prompt.source.ground_truth,
                "reward": verdicts[i].reward if verdicts[i] else None,
                "verdict": verdicts[i].detail if verdicts[i] else "not verified",
                "finish_reason": rollout.finish_reason,
                "tokens": [
                    self._tokenizer.decode([t], skip_special_tokens=False) for t in rollout.tokens
                ],
                "behaviour_logprobs": _rounded(rollout.behaviour_logprobs),
            }
            sample |= {f"{name}_logprobs": _rounded(x) for name, x in logprobs.items()}
            out.append(sample | {"advantages": _rounded(advantages)})
        return out


def rollout_name(rollout: Rollout) -> tuple[str, int]:
    """What tells a rollout apart in its step: prompt id and sample id."""
    return rollout.request.key


def _rounded(x: Any) -> list[float]:
    return [round(float(v), 5) for v in np.asarray(x)]


def _rollout_metrics(record: StepRecord, domains: list[str]) -> dict[str, float]:
    """Rewards, lengths, truncation and repetition of the step's rollouts, over all domains and for each."""
    rewards = np.array([v.reward if v else np.nan for v in record.verdicts.result()])
    verified = np.isfinite(rewards)
    lengths = np.array([len(r.tokens) for r in record.rollouts])
    truncated = np.array([r.truncated for r in record.rollouts])
    loops = ends_in_loop(record.rollouts)
    domain = np.array([r.request.prompt.source.domain for r in record.rollouts])
    prompts = np.array([r.request.key.prompt_id for r in record.rollouts])
    values: dict[str, float] = {}
    slices = [("", np.ones(len(domain), bool))] + [(f"/{d}", domain == d) for d in domains]
    for suffix, part in slices:
        if part.any():
            known = part & verified
            if known.any():
                values[f"reward{suffix}"] = float(rewards[known].mean())
            if len(set(prompts[known])) > 1:
                values[f"reward_half_width{suffix}"] = clustered_half_width(
                    rewards[known], prompts[known]
                )
            values[f"response_length{suffix}"] = float(lengths[part].mean())
            values[f"truncated{suffix}"] = float(truncated[part].mean())
            values[f"repetition_rate{suffix}"] = float(loops[part].mean())
    values["verified"] = int(verified.sum())
    values["response_length_max"] = int(lengths.max())
    values["truncated_count"] = int(truncated.sum())
    values["rollout_tokens"] = int(lengths.sum())
    return values


def clustered_half_width(values: np.ndarray, groups: np.ndarray) -> float:
    """Half width of the 95% t interval of the mean of `values`; those of one group may depend on each other; 2 groups at least.

    With groups of one size it is that of `statistics.interval` over the groups' means.
    """
    _, group = np.unique(groups, return_inverse=True)
    sums = np.bincount(group, values - values.mean())
    return float(
        t95(len(sums) - 1) * np.sqrt(len(sums) / (len(sums) - 1) * np.sum(sums**2)) / len(values)
    )


def ends_in_loop(rollouts: list[Rollout]) -> np.ndarray:
    """Which rollouts end in a loop, bool [B]: some n-gram of token ids, repeated to the end without a break.

    Copies of it fill at least the last max(LOOP_COPIES * n, LOOP_LEAST_TOKENS) tokens, the first copy perhaps in part; n is at
    most LOOP_LONGEST_PERIOD. The stop token of a finished rollout is not looked at.
    """
    texts = [r.tokens if r.truncated else r.tokens[:-1] for r in rollouts]
    lengths = np.array([len(t) for t in texts])
    width = min(LOOP_COPIES * LOOP_LONGEST_PERIOD, lengths.max())
    ends = np.zeros((len(texts), width), np.int64)  # right-aligned
    for row, text in zip(ends, texts, strict=True):
        if kept := min(len(text), width):
            row[-kept:] = text[-kept:]
    loops = np.zeros(len(texts), bool)
    for period in range(1, LOOP_LONGEST_PERIOD + 1):
        window = max(LOOP_COPIES * period, LOOP_LEAST_TOKENS)
        if window > width:
            break
        same = ends[:, width - window + period :] == ends[:, width - window : width - period]
        loops |= (lengths >= window) & same.all(axis=1)
    return loops
