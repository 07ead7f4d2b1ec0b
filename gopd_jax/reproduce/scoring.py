"""The scores of an arm's model on held-out prompts.

The prompts and keys are the same for every arm of a seed, so that differences are paired.
"""

from collections.abc import Sequence
import functools
import os

import jax
from ml_collections import ConfigDict
import numpy as np

from gopd_jax import tiny
from gopd_jax.data.datasets import prepare
from gopd_jax.data.embedded import REWARDS
from gopd_jax.data.encode import encode_all
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.evaluate.held_out import Evaluation, evaluate
from gopd_jax.generate.job import load_weights
from gopd_jax.models.config import load_config
from gopd_jax.models.settings import SamplingRule
from gopd_jax.presets import embedded
from gopd_jax.reproduce.arms import TEACHERS, Arm, Size
from gopd_jax.reproduce.folder import DomainScores, model_folder
from gopd_jax.rewards.verifier import Verifier
from gopd_jax.rollout.mixture import Mixture
from gopd_jax.rollout.samplers import Samplers
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.types import EncodedPrompt

SLOTS = 512
SCORING_STEP = 1_000_000  # folded into the seed's key; no training step has this number


def score(arm: Arm, seed: int, out: str, size: Size) -> dict[str, DomainScores]:
    """avg@k of an arm's model in each of its domains, with response length and truncation."""
    folders, exponents = [model_folder(arm.name, seed, out)], [1.0]
    if arm.kind == "optimum":
        scale = float(dict(arm.settings)["learner.reward_scale"])
        folders = [model_folder(name, seed, out) for name in (*arm.teachers, arm.student)]
        exponents = [scale, 1 - scale]
    key = jax.random.fold_in(jax.random.key(seed), SCORING_STEP)
    scores: dict[str, DomainScores] = {}
    for domain in arm.domains:
        prompts, samples = {"code": size.code}.get(domain, size.math)
        name = f"score {arm.name}, seed {seed}: {domain}"
        result = _scorer(out)(folders, exponents, domain, prompts, samples, key, name)
        scores[domain] = {
            "by_prompt": list(result.by_prompt),
            "length": result.tokens / (len(result.by_prompt) * samples),
            "truncated": result.truncated,
        }
    return scores


class Scorer:
    """Evaluates models of the embedded world; keeps the prompts and engines that it has made.

    Args:
        datasets: folder in which the data sets are prepared.
    """

    def __init__(self, datasets: str):
        self._datasets, self._verify = datasets, Verifier()
        self._programs = ProgramTable(make_mesh())
        self._tokenizer = ChatTokenizer.load(tiny.model("base"))
        self._prompts: dict[str, Sequence[EncodedPrompt]] = {}
        self._samplers = {domain: self._make_samplers(domain) for domain in TEACHERS}

    def __call__(
        self,
        folders: Sequence[str],
        exponents: Sequence[float],
        domain: str,
        prompts: int,
        samples: int,
        key: jax.Array,
        name: str,
    ) -> Evaluation:
        """Draws `samples` responses to each of the first `prompts` test prompts of a domain.

        Args:
            folders: the model, or several with `exponents`; see `rollout.mixture`.
        """
        engine = self._samplers[domain][tuple(map(load_config, folders))]
        weights = tuple(load_weights(engine, folder, n) for n, folder in enumerate(folders))
        mixture = Mixture(weights, np.array(exponents, np.float32))
        return evaluate(
            engine,
            mixture if len(folders) > 1 else weights[0],
            self._test_prompts(domain)[:prompts],
            self._verify,
            REWARDS[domain],
            self._tokenizer,
            samples=samples,
            max_tokens=engine.max_response_tokens,
            rule=SamplingRule(),
            key=key,
            name=name,
        )

    def _test_prompts(self, domain: str) -> Sequence[EncodedPrompt]:
        if domain not in self._prompts:
            rows = prepare(f"tiny:{domain}/test", self._datasets, domain=domain)
            longest = _limits(domain).data.max_prompt_tokens
            prompts, _ = encode_all(rows, self._tokenizer, "", longest)
            self._prompts[domain] = list(prompts)
        return self._prompts[domain]

    def _make_samplers(self, domain: str) -> Samplers:
        limits = _limits(domain)
        return Samplers(
            self._programs,
            self._tokenizer.stop_ids,
            slots=SLOTS,
            max_prompt_tokens=limits.data.max_prompt_tokens,
            max_response_tokens=limits.rollout.max_response_tokens,
        )


@functools.cache
def _scorer(out: str) -> Scorer:
    """The scorer of this process."""
    return Scorer(os.path.join(out, "datasets"))


def _limits(domain: str) -> ConfigDict:
    """The embedded world's settings, for the length limits of a domain."""
    return embedded({domain: ""})
