"""Evaluations of a run: of the student as it learns, and once of each teacher.

In: a model and its parameters. Out: a line of evaluations.jsonl for each domain. An evaluation that
an earlier start of the run has made is not repeated.
"""

from collections.abc import Mapping, Sequence
import dataclasses

from etils import epath
import jax

from gopd_jax.config import Config
from gopd_jax.evaluate.held_out import Evaluation, evaluate
from gopd_jax.learner.learner import FrozenModel
from gopd_jax.models.config import ModelConfig
from gopd_jax.rewards.verifier import Verifier
from gopd_jax.rollout.samplers import Samplers
from gopd_jax.runtime.errors import naming
from gopd_jax.runtime.metrics import JsonLines
from gopd_jax.train.keys import evaluation_key
from gopd_jax.train.prepare import RunInputs
from gopd_jax.types import Params


class Evaluations:
    """The results of a run, kept in evaluations.jsonl: one line per model, domain and step."""

    def __init__(self, workdir: str, last_step: int):
        self._file = JsonLines(epath.Path(workdir) / "evaluations.jsonl", last_step)
        self._results: dict[tuple[str, str, int], Evaluation] = {}
        names = [f.name for f in dataclasses.fields(Evaluation)]
        for record in self._file.records():
            values = {name: record[name] for name in names}
            values["by_prompt"] = tuple(record["by_prompt"])
            key = (record["model"], record["domain"], record["step"])
            self._results[key] = Evaluation(**values)

    def has(self, model: str, domain: str, step: int) -> bool:
        return (model, domain, step) in self._results

    def get(self, model: str, domain: str, step: int) -> Evaluation:
        return self._results[model, domain, step]

    def scores(self) -> list[tuple[str, int, dict[str, float]]]:
        """Model, step and score of each result, the score as trackers show it."""
        return [
            (model, step, {score_name(model, domain): result.mean})
            for (model, domain, step), result in self._results.items()
        ]

    def add(self, model: str, domain: str, step: int, result: Evaluation) -> None:
        self._results[model, domain, step] = result
        if jax.process_index() == 0:
            record = {"step": step, "model": model, "domain": domain}
            self._file.write(record | result.estimate.figures | dataclasses.asdict(result))
            self._file.flush()


class Evaluator:
    """Makes the evaluations that a run still lacks."""

    def __init__(
        self,
        config: Config,
        inputs: RunInputs,
        samplers: Samplers,
        verify: Verifier,
        results: Evaluations,
    ):
        self._config, self._inputs, self._samplers = config, inputs, samplers
        self._verify, self._results = verify, results

    def student(self, params: Params, step: int) -> dict[str, float]:
        """Evaluates the student when the step calls for it: first, last, and every `eval.every`.

        Returns:
            Its score in each domain, as trackers show it; empty if nothing was evaluated.
        """
        every, last = self._config.eval.every, self._config.steps
        if step in (0, last) or (every and step % every == 0):
            model = self._inputs.models[self._config.student]
            return self._measure("student", model, params, list(self._config.domains), step)
        return {}

    def teachers(self, teachers: Mapping[str, FrozenModel]) -> dict[str, float]:
        """Evaluates each teacher on its own domain, and frees the caches that only it needed.

        Returns:
            Their scores, as trackers show them; empty if nothing was evaluated.
        """
        scores: dict[str, float] = {}
        student = self._inputs.models[self._config.student]
        for domain, teacher in teachers.items():
            scores |= self._measure("teacher", teacher.config, teacher.params, [domain], 0)
            if teacher.config != student:
                self._samplers[teacher.config].free()
        return scores

    def _measure(
        self, who: str, model: ModelConfig, params: Params, domains: Sequence[str], step: int
    ) -> dict[str, float]:
        missing = [d for d in domains if not self._results.has(who, d, step)]
        if not missing:
            return {}
        config = self._config
        between = 0 < step < config.steps and config.eval.during_prompts
        most = between or config.eval.prompts
        sampler = self._samplers[model]
        weights = sampler.sync_weights(params)
        at_step = f" at step {step}" if who == "student" else ""
        for domain in missing:
            prompts = self._inputs.test[domain]
            name = f"evaluate {who}{at_step}: {domain}"
            with naming(name):
                result = evaluate(
                    sampler,
                    weights,
                    [prompts[i] for i in range(min(most or len(prompts), len(prompts)))],
                    self._verify,
                    config.domains[domain].reward,
                    self._inputs.tokenizer,
                    samples=config.eval.samples,
                    max_tokens=config.rollout.max_response_tokens,
                    rule=config.eval.rule,
                    key=evaluation_key(config.seed),
                    name=name,
                )
            self._results.add(who, domain, step, result)
        return {score_name(who, d): self._results.get(who, d, step).mean for d in domains}


def score_name(model: str, domain: str) -> str:
    """Name of a score among the metrics that trackers show."""
    return f"score_{model}/{domain}"
