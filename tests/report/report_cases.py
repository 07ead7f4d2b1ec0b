"""Hand-made run folders for the tests of the report."""

import json

from gopd_jax.report import findings, read
from gopd_jax.runtime.run_folder import FORMAT


def config(**learner):
    domain = {
        "train": "a.jsonl",
        "test": "b.jsonl",
        "teacher": "models/teacher",
        "reward_scale": None,
    }
    rollout = {"prompts_per_step": 8, "samples_per_prompt": 2, "max_response_tokens": 64}
    return {
        "name": "run",
        "student": "models/student",
        "method": "gopd",
        "steps": 40,
        "seed": 3,
        "domains": {"math": domain},
        "rollout": rollout,
        "learner": {"reward_scale": 1.25, "learning_rate": 1e-5} | learner,
    }


def metrics(step, steps, **changes):
    """A healthy step; `changes` are values, or functions of how far the run is (0 to 1)."""
    far = step / steps
    values = {
        "step": step,
        "reward": 0.3 + 0.3 * far,
        "reward_low": 0.25 + 0.3 * far,
        "reward_high": 0.4 + 0.3 * far,
        "response_length": 50.0,
        "truncated": 0.01,
        "repetition_rate": 0.0,
        "reverse_kl_teacher": 0.2 - 0.1 * far,
        "kl_reference": 0.1,
        "entropy": 0.4,
        "grad_norm": 1.0,
        "grad_noise": 0.4,
        "learning_rate": 1e-5,
        "advantage_std": 0.5,
        "advantage_mean": -0.2,
        "advantage_abs": 0.3,
        "advantage_min": -4.0 - step,
        "advantage_max": 2.0,
        "sampler_gap": 1e-3,
        "importance_capped": 0.0,
        "compilations": 20,
        "seconds": 2.1,
        "seconds_weight_sync": 0.1,
        "seconds_rollout": 0.5,
        "seconds_score": 1.5,
        "tokens_by_position": [16.0, 16.0, 8.0],
        "advantage_mean_by_position": [-1.0, -0.5, 0.25],
    }
    return values | {k: v(far) if callable(v) else v for k, v in changes.items()}


def sample(step, **changes):
    n = 4
    values = {
        "step": step,
        "prompt_id": "p/1",
        "sample_id": 0,
        "domain": "math",
        "prompt": "1+1?",
        "response": "two\n",
        "ground_truth": "2",
        "reward": 1.0,
        "verdict": "correct",
        "finish_reason": "stop",
        "tokens": ["t", "w", "o", "\n"],
        "advantages": [0.5, -0.25, 0.0, 1.0],
        "student_logprobs": [-1.0] * n,
        "teacher_logprobs": [-0.5] * n,
        "behaviour_logprobs": [-1.0] * n,
    }
    return values | changes


def evaluation(model, step, by_prompt):
    return {
        "step": step,
        "model": model,
        "domain": "math",
        "by_prompt": by_prompt,
        "samples": 2,
        "tokens": 1000,
        "truncated": 0.0,
    }


def make_run(
    folder, steps=40, finished=True, samples=None, fingerprint="d", changes=None, **learner
):
    """Writes a run folder and returns its path.

    The student ends 0.25 above its teacher, or 0.5, on each of 40 prompts.
    """
    folder.mkdir(parents=True)
    start = {
        "time": "2026-01-02T03:04:05+0000",
        "command": ["train.py", "--config=configs/math.py"],
        "git_commit": "abc123",
        "git_changed": True,
        "gopd_jax": "0.1.0",
        "python": "3.11",
        "packages": {"jax": "0.10"},
        "devices": ["cpu", "cpu"],
    }
    run = {
        "format": FORMAT,
        "config": config(**learner),
        "fingerprints": {"data": {"math/test": fingerprint}},
        "starts": [start],
    }
    write_json(folder / "run.json", run)
    teacher = [0.25, 0.5] * 20
    student = [score + (0.25 if i % 4 else 0.5) for i, score in enumerate(teacher)]
    evaluations = [
        evaluation("student", 0, [0.0] * 40),
        evaluation("teacher", 0, teacher),
        evaluation("student", steps, student),
    ]
    write_lines(folder / "evaluations.jsonl", evaluations)
    all_metrics = [metrics(step, steps, **changes or {}) for step in range(1, steps + 1)]
    write_lines(folder / "metrics.jsonl", all_metrics)
    samples = [sample(step) for step in (1, 10)] if samples is None else samples
    write_lines(folder / "samples.jsonl", samples)
    if finished:
        write_json(folder / "summary.json", {"training_seconds": 80.0, "rollout_tokens": 32000})
    return str(folder)


def edit_run(folder, edit):
    """Applies `edit` to the content of a folder's run.json."""
    path = folder / "run.json"
    content = json.loads(path.read_text())
    edit(content)
    write_json(path, content)


def write_json(path, content):
    path.write_text(json.dumps(content))


def write_lines(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


def findings_of(folder):
    """The findings of a run by title, in their order."""
    return {f.title: f for f in findings.of_checks(findings.checks(read.read_run(folder)))}


def checks_of(folder):
    """The checks of a run by their rule."""
    return {c.rule: c for c in findings.checks(read.read_run(folder))}
