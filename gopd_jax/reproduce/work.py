"""One arm with one seed: made (trained, extrapolated, or there already) and scored. Runs in a worker process.

In: the arm, the seed, the folder of the experiment. Out: OUT/seedN/ARM/scores.json, and what training left beside it. An arm
that was stopped half-way goes on from its last checkpoint; a finished one is not touched.
"""

import dataclasses
import functools
import json
import os
from pathlib import Path
import time
from typing import Any

from absl import logging

from gopd_jax.reproduce.arms import Arm


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is run: training steps, samples of a step for each domain, and held-out prompts x samples that score a model.

    Code is scored by fewer: each sample is a program to run.
    """

    steps: int = 100
    samples_per_step: int = 256
    math: tuple[int, int] = (4096, 2)
    code: tuple[int, int] = (1024, 2)


def start_worker(cores: Any, compiled: str) -> None:
    """Gives this process a core of its own, where there are several processes, and the programs that others compiled."""
    if (core := cores.get()) is not None:
        os.sched_setaffinity(0, {core})
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    logging.set_verbosity(logging.ERROR)  # Orbax warns that it opens a finished run read-only


def run(arm: Arm, seed: int, out: str, size: Size) -> dict[str, Any]:
    """Makes and scores one arm; returns its scores: for each domain the mean reward of each prompt, length and truncation."""
    if scores := finished(arm, seed, out):
        return scores
    folder = Path(out) / f"seed{seed}" / arm.name
    path = folder / "scores.json"
    start = time.perf_counter()
    _make(arm, seed, out, size)
    scores = {"arm": arm.name, "seed": seed, "domains": _score(arm, seed, out, size)}
    scores["seconds"] = round(time.perf_counter() - start, 1)
    folder.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".tmp").write_text(json.dumps(scores))
    path.with_suffix(".tmp").replace(path)
    return scores


def finished(arm: Arm, seed: int, out: str) -> dict[str, Any] | None:
    """The scores of an arm that is done."""
    path = Path(out) / f"seed{seed}" / arm.name / "scores.json"
    return json.loads(path.read_text()) if path.exists() else None


def run_quietly(arm: Arm, seed: int, out: str, size: Size) -> dict[str, Any]:
    """`run`, what it says kept in a file: several processes would talk over one another."""
    from gopd_jax.runtime import progress

    folder = Path(out) / f"seed{seed}" / arm.name
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log.txt", "a") as file:
        progress.console.file = file
        try:
            return run(arm, seed, out, size)
        except Exception as e:
            raise RuntimeError(
                f"arm {arm.name}, seed {seed}: {e!r}; its log is {folder}/log.txt"
            ) from e


def model_folder(name: str, seed: int, out: str) -> str:
    """Where the model of an arm is, as a Hugging Face folder."""
    from gopd_jax import tiny
    from gopd_jax.reproduce.arms import ARMS

    return (
        tiny.model(name)
        if ARMS[name].kind == "given"
        else str(Path(out) / f"seed{seed}" / name / "model")
    )


def _make(arm: Arm, seed: int, out: str, size: Size) -> None:
    folder = model_folder(arm.name, seed, out)
    if arm.kind == "given" or os.path.isdir(folder):
        return
    from gopd_jax import expo, export, train

    teachers = [model_folder(t, seed, out) for t in arm.teachers]
    if arm.kind == "expo":
        expo.extrapolate(
            model_folder(arm.student, seed, out),
            teachers,
            dict(arm.settings)["alpha"],
            folder,
            "float32",
        )
        return
    workdir = str(Path(folder).parent)
    if train.run(to_config(arm, seed, out, size), workdir) is None:
        raise KeyboardInterrupt  # a SIGTERM: saved, to be continued
    export.export(workdir, folder, dtype="float32")


def to_config(arm: Arm, seed: int, out: str, size: Size) -> Any:
    """The training run of an arm."""
    from gopd_jax.config import from_config_dict
    from gopd_jax.presets import embedded

    config = embedded(dict.fromkeys(arm.domains, ""))
    config.name, config.method, config.seed = arm.name, arm.kind, seed
    config.student = model_folder(arm.student, seed, out)
    config.reference = model_folder(arm.reference, seed, out) if arm.reference else ""
    for domain, teacher in zip(arm.domains, arm.teachers, strict=False):
        config.domains[domain].teacher = model_folder(teacher, seed, out)
    config.steps = arm.times * size.steps
    config.learner.learning_rate = (
        5e-4  # half of the preset's, as is the batch: at 1e-3 its noise alone sharpens the student
    )
    samples = size.samples_per_step * len(arm.domains)
    if arm.kind == "grpo":  # as tiny.make does it: twice the samples in a step, and half the steps
        samples, config.steps = 2 * samples, max(1, size.steps // 2)
        config.rollout.samples_per_prompt = 8
        config.learner.learning_rate, config.learner.schedule = 3e-4, "constant"
    config.rollout.prompts_per_step = samples // config.rollout.samples_per_prompt
    config.rollout.slots = samples
    config.learner.warmup_steps = (
        config.steps // 20 if arm.kind == "sft" else 0
    )  # 5%, as in the paper
    config.data.cache_dir = str(Path(out) / "datasets")
    config.eval.update(
        every=0, prompts=64, samples=1
    )  # a glance: every arm is scored at its end, see `_score`
    config.checkpoint.update(every=25, keep=1)
    config.log.update(rewards=32, samples_every=25)
    config.update_from_flattened_dict({k: v for k, v in arm.settings if k != "alpha"})
    config.checkpoint.every = min(config.checkpoint.every, config.steps)
    return from_config_dict(config)


def _score(arm: Arm, seed: int, out: str, size: Size) -> dict[str, Any]:
    """avg@k on held-out prompts: the same prompts and keys for every arm of a seed, so that differences are paired."""
    import jax
    import jax.numpy as jnp

    from gopd_jax.evaluate.held_out import evaluate
    from gopd_jax.models.config import load_config
    from gopd_jax.models.huggingface import load_params
    from gopd_jax.models.settings import SamplingRule

    folder = model_folder(arm.name, seed, out)
    model = load_config(folder)
    verify, prompts_of, engine_of, tokenizer = _tools(out)
    params = load_params(
        folder, model, jnp.float32, jax.sharding.SingleDeviceSharding(jax.devices()[0])
    )
    scores = {}
    for domain in arm.domains:
        engine = engine_of(model, domain)
        prompts, samples = getattr(size, domain)
        result = evaluate(
            engine,
            engine.lay_out(params),
            prompts_of(domain)[:prompts],
            verify,
            domain,
            tokenizer,
            samples=samples,
            max_tokens=engine.max_response_tokens,
            rule=SamplingRule(),
            key=jax.random.fold_in(jax.random.key(seed), 1_000_000),  # no training step has it
            name=f"score {arm.name}, seed {seed}: {domain}",
        )
        length = result.tokens / (len(result.by_prompt) * samples)
        scores[domain] = {
            "by_prompt": result.by_prompt,
            "length": length,
            "truncated": result.truncated,
        }
    return scores


@functools.cache
def _tools(out: str) -> tuple[Any, Any, Any, Any]:
    """What scoring needs, made once in a process: the verifier, prompts by domain, engines by architecture and domain."""
    from gopd_jax import tiny
    from gopd_jax.data.datasets import prepare
    from gopd_jax.data.encode import encode_all
    from gopd_jax.data.tokenizer import ChatTokenizer
    from gopd_jax.presets import embedded
    from gopd_jax.rewards.verifier import Verifier
    from gopd_jax.rollout.engine import RolloutEngine
    from gopd_jax.runtime.mesh import make_mesh

    tokenizer = ChatTokenizer.load(tiny.model("base"))

    @functools.cache
    def limits(domain: str) -> Any:
        return embedded({domain: ""})

    @functools.cache
    def prompts_of(domain: str) -> list[Any]:
        rows = prepare(f"tiny:{domain}/test", os.path.join(out, "datasets"), domain=domain)
        return list(encode_all(rows, tokenizer, "", limits(domain).data.max_prompt_tokens)[0])

    @functools.cache
    def engine_of(model: Any, domain: str) -> RolloutEngine:
        return RolloutEngine(
            model,
            make_mesh(),
            tokenizer.stop_ids,
            slots=512,
            max_prompt_tokens=limits(domain).data.max_prompt_tokens,
            max_response_tokens=limits(domain).rollout.max_response_tokens,
        )

    return Verifier(), prompts_of, engine_of, tokenizer
