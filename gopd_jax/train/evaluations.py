"""Evaluations of a run: of the student as it learns, and once of each teacher.

In: a model and its parameters. Out: a line of evaluations.jsonl for each domain: scores, or the
distance to the teacher where answers are not verified. An evaluation that an earlier start of the
run has made is not repeated, nor one that another run has made of the same weights.
"""

from collections.abc import Mapping, Sequence
import dataclasses

from etils import epath

from gopd_jax.config import Config
from gopd_jax.data.teacher_prompts import as_asked
from gopd_jax.evaluate.held_out import Evaluation, evaluate
from gopd_jax.evaluate.unverified import Unverified, measure
from gopd_jax.learner.learner import FrozenModel, Learner
from gopd_jax.learner.parking import bring
from gopd_jax.models.config import ModelConfig
from gopd_jax.rewards.own import is_own
from gopd_jax.rewards.settings import NONE
from gopd_jax.rewards.verifier import Verifier
from gopd_jax.rollout.samplers import Samplers
from gopd_jax.runtime.errors import naming
from gopd_jax.runtime.files import JsonObject
from gopd_jax.runtime.metrics import JsonLines
from gopd_jax.runtime.processes import of_first
from gopd_jax.runtime.progress import say
from gopd_jax.train import evaluation_cache
from gopd_jax.train.keys import evaluation_key
from gopd_jax.train.prepare import RunInputs
from gopd_jax.types import EncodedPrompt, Params


class Evaluations:
    """The results of a run, kept in evaluations.jsonl: one line per model, domain and step."""

    def __init__(self, workdir: str, last_step: int):
        self._file: JsonLines | None = None  # of the first host, which alone writes
        self._results: dict[tuple[str, str, int], Evaluation | Unverified] = {}

        def opened() -> JsonObject:
            self._file = JsonLines(epath.Path(workdir) / "evaluations.jsonl", last_step)
            return {"records": self._file.records()}

        for record in of_first(opened)["records"]:
            kind = Evaluation if "by_prompt" in record else Unverified
            values = {f.name: record[f.name] for f in dataclasses.fields(kind)}
            for name in {"by_prompt", "kl_by_prompt"} & values.keys():
                values[name] = tuple(values[name])
            key = (record["model"], record["domain"], record["step"])
            self._results[key] = kind(**values)

    def has(self, model: str, domain: str, step: int) -> bool:
        return (model, domain, step) in self._results

    def get(self, model: str, domain: str, step: int) -> Evaluation:
        """The scores of a model on a domain whose answers are verified."""
        result = self._results[model, domain, step]
        assert isinstance(result, Evaluation)
        return result

    def shown(self, model: str, domain: str, step: int) -> dict[str, float]:
        """A result as trackers show it: the score, or the KL where answers are not verified."""
        result = self._results[model, domain, step]
        if isinstance(result, Evaluation):
            return {score_name(model, domain): result.mean}
        return {f"kl_{model}/{domain}": result.figures["kl"]} if result.kl_by_prompt else {}

    def scores(self) -> list[tuple[str, int, dict[str, float]]]:
        """Model and step of each result, and how trackers show it."""
        return [
            (model, step, self.shown(model, domain, step)) for model, domain, step in self._results
        ]

    def unverified(self, domain: str, step: int) -> Unverified:
        """The distance of the student to its teacher on a domain without a verifier."""
        result = self._results["student", domain, step]
        assert isinstance(result, Unverified)
        return result

    def add(
        self,
        model: str,
        domain: str,
        step: int,
        result: Evaluation | Unverified,
        cached: bool = False,
    ) -> None:
        """Adds a result; `cached` says that another run has made it."""
        self._results[model, domain, step] = result
        if self._file is not None:
            record = {"step": step, "model": model, "domain": domain}
            record |= result.figures | dataclasses.asdict(result) | {"cached": cached}
            self._file.write(record)
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
        learner: Learner,
        teachers: Mapping[str, FrozenModel],
    ):
        self._config, self._inputs, self._samplers = config, inputs, samplers
        self._verify, self.results = verify, results
        self._learner, self._teachers = learner, teachers

    def student(self, params: Params, step: int) -> dict[str, float]:
        """Evaluates the student when the step calls for it: first, last, and every `eval.every`.

        Returns:
            Its score in each domain, as trackers show it; empty if nothing was evaluated.
        """
        every, last = self._config.eval.every, self._config.steps
        if step in (0, last) or (every and step % every == 0):
            model = self._inputs.models[self._config.student]
            loaded = "student" if step == 0 and not self._config.init_from else None
            domains = list(self._config.domains)
            return self._measure("student", model, params, domains, step, loaded)
        return {}

    def teachers(self, teachers: Mapping[str, FrozenModel]) -> dict[str, float]:
        """Evaluates each teacher on its own domain.

        Where answers are not verified, there is nothing to know of a teacher alone.

        Returns:
            Their scores, as trackers show them; empty if nothing was evaluated.
        """
        scores: dict[str, float] = {}
        for domain, teacher in teachers.items() if self._config.eval.teachers else ():
            if self._config.domains[domain].reward == NONE:
                continue
            if self.results.has("teacher", domain, 0):
                continue
            loaded = teacher.role
            scores |= self._measure("teacher", teacher.config, teacher.params, [domain], 0, loaded)
        return scores

    def _inputs_of(self, loaded: str | None, domain: str) -> JsonObject | None:
        """What decides the numbers of an evaluation; None if it is not to be cached."""
        config, inputs = self._config, self._inputs
        reward = config.domains[domain].reward
        if not loaded or not config.eval.cache or reward == NONE or is_own(reward):
            return None
        sampler = self._samplers[inputs.models[config.student]]  # a teacher's is made like it
        test = self._prompts(loaded, domain)
        return evaluation_cache.inputs_of(config, inputs, loaded, domain, test, sampler)

    def _prompts(self, who: str, domain: str) -> Sequence[EncodedPrompt]:
        """The held-out prompts as the model reads them that answers."""
        prompts = self._inputs.test[domain]
        own = who != "student" and self._config.domains[domain].teacher_template
        return as_asked(prompts) if own else prompts

    def _measure(
        self,
        who: str,
        model: ModelConfig,
        params: Params,
        domains: Sequence[str],
        step: int,
        loaded: str | None,
    ) -> dict[str, float]:
        """Evaluates a model on the domains that are missing, or takes that from the cache.

        Args:
            loaded: role of the model if its parameters are those of its folder, else None.
        """
        missing = {
            d: self._inputs_of(loaded, d) for d in domains if not self.results.has(who, d, step)
        }
        for domain, what in list(missing.items()):
            if what and (found := evaluation_cache.load(what)):
                say(f"evaluate {who}: {domain}: from the cache (config.eval.cache)")
                self.results.add(who, domain, step, found, cached=True)
                del missing[domain]
        if missing:
            self._run(who, model, params, missing, step)
        return {k: v for d in domains for k, v in self.results.shown(who, d, step).items()}

    def _run(
        self,
        who: str,
        model: ModelConfig,
        params: Params,
        missing: Mapping[str, JsonObject | None],
        step: int,
    ) -> None:
        """Evaluates a model on the domains given, and keeps what the cache may keep."""
        config = self._config
        between = 0 < step < config.steps and config.eval.during_prompts
        most = between or config.eval.prompts
        sampler = self._samplers[model]
        weights = sampler.sync_weights(bring(params))
        at_step = f" at step {step}" if who == "student" else ""
        for domain, what in missing.items():
            prompts = self._prompts(who, domain)
            prompts = [prompts[i] for i in range(min(most or len(prompts), len(prompts)))]
            name, reward = f"evaluate {who}{at_step}: {domain}", config.domains[domain].reward
            how = {
                "samples": config.eval.samples,
                "max_tokens": config.rollout.max_response_tokens,
                "rule": config.eval.rule,
                "key": evaluation_key(config.seed),
                "name": name,
            }
            with naming(name):
                if reward == NONE:
                    teacher = self._teachers.get(domain)
                    result = measure(
                        sampler, weights, params, prompts, self._learner, teacher, **how
                    )
                else:
                    verify, tokenizer = self._verify, self._inputs.tokenizer
                    result = evaluate(sampler, weights, prompts, verify, reward, tokenizer, **how)
            self.results.add(who, domain, step, result)
            if what:
                evaluation_cache.store(what, self.results.get(who, domain, step))


def score_name(model: str, domain: str) -> str:
    """Name of a score among the metrics that trackers show."""
    return f"score_{model}/{domain}"
