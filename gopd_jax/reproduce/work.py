"""One arm with one seed: its model is made (trained, extrapolated, or given) and scored.

In: the arm, the seed, the folder of the experiment. Out: OUT/seedN/ARM/scores.json, and what
training left beside it. An arm that was stopped continues from its last checkpoint; a finished one
is not touched.
"""

import os
from pathlib import Path
import time

from gopd_jax.config import Config, from_config_dict
from gopd_jax.expo import extrapolate
from gopd_jax.export.run import export
from gopd_jax.presets import embedded
from gopd_jax.reproduce import scoring
from gopd_jax.reproduce.arms import Arm, Size
from gopd_jax.reproduce.folder import ArmScores, model_folder, read_scores, write_scores
from gopd_jax.train.run import run as train


def run(arm: Arm, seed: int, out: str, size: Size) -> ArmScores:
    """Makes and scores one arm, unless that is done; returns its scores."""
    if scores := read_scores(arm.name, seed, out):
        return scores
    start = time.perf_counter()
    _make(arm, seed, out, size)
    domains = scoring.score(arm, seed, out, size)
    seconds = round(time.perf_counter() - start, 1)
    scores: ArmScores = {"arm": arm.name, "seed": seed, "domains": domains, "seconds": seconds}
    write_scores(scores, out)
    return scores


def to_config(arm: Arm, seed: int, out: str, size: Size) -> Config:
    """The training run of an arm."""
    config = embedded(dict.fromkeys(arm.domains, ""))
    config.name, config.method, config.seed = arm.name, arm.kind, seed
    config.student = model_folder(arm.student, seed, out)
    config.reference = model_folder(arm.reference, seed, out) if arm.reference else ""
    # GRPO has no teachers.
    for domain, teacher in zip(arm.domains, arm.teachers, strict=False):
        config.domains[domain].teacher = model_folder(teacher, seed, out)
    config.steps = max(1, round(arm.step_factor * size.steps))
    # Half of the preset's, as is the batch: at 1e-3 its noise alone sharpens the student.
    config.learner.learning_rate = 5e-4
    samples = size.samples_per_step * len(arm.domains)
    if arm.kind == "grpo":  # as in tiny.make: twice the samples per step, and half the steps
        samples, config.steps = 2 * samples, max(1, size.steps // 2)
        config.rollout.samples_per_prompt = 8
        config.learner.learning_rate, config.learner.schedule = 3e-4, "constant"
    config.rollout.prompts_per_step = samples // config.rollout.samples_per_prompt
    config.rollout.slots = samples
    warmup = config.steps // 20 if arm.kind == "sft" else 0  # 5%, as in the paper
    config.learner.warmup_steps = warmup
    config.data.cache_dir = str(Path(out) / "datasets")
    config.eval.update(every=0, prompts=64, samples=1)  # a glance; `scoring` scores every arm
    config.check.accept = "teacher_better"  # what comes of such a teacher is part of the result
    config.checkpoint.update(every=25, keep=1)
    config.log.update(rewards=32, samples_every=25)
    config.update_from_flattened_dict({k: v for k, v in arm.settings if k != "alpha"})
    config.learner.warmup_steps = min(config.learner.warmup_steps, config.steps - 1)
    config.checkpoint.every = min(config.checkpoint.every, config.steps)
    return from_config_dict(config)


def _make(arm: Arm, seed: int, out: str, size: Size) -> None:
    """Makes the model of an arm, unless it is there."""
    folder = model_folder(arm.name, seed, out)
    if arm.kind in ("given", "optimum") or os.path.isdir(folder):
        return
    if arm.kind == "expo":
        student = model_folder(arm.student, seed, out)
        teachers = [model_folder(t, seed, out) for t in arm.teachers]
        extrapolate(student, teachers, dict(arm.settings)["alpha"], folder, "float32")
        return
    workdir = str(Path(folder).parent)
    train(to_config(arm, seed, out, size), workdir)
    export(workdir, folder, dtype="float32")
