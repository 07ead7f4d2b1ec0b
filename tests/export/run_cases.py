"""run.json and summary.json of a run, as training writes them, to make cards from."""

import copy


def score(mean: float, half_width: float, tokens: float, truncated: float) -> dict[str, float]:
    row = {"mean": mean, "half_width": half_width}
    return row | {"mean_tokens": tokens, "truncated": truncated}


CONFIG = {
    "name": "math_run",
    "student": "acme/base-1b",
    "method": "gopd",
    "reference": "",
    "seed": 7,
    "steps": 20,
    "domains": {
        "math": {
            "train": "hf://datasets/acme/problems@v2/train.parquet",
            "test": "/home/jo/secret/test.jsonl",
            "held_out": 0.0,
            "reward": "math",
            "teacher": "/home/jo/secret/math-teacher",
            "reward_scale": None,
            "teacher_context": "",
            "prompt_suffix": "Think.\n",
            "min_difficulty": 6.0,
            "share": 3.0,
        },
        "code": {
            "train": "tiny:code/train",
            "test": "",
            "held_out": 100.0,
            "reward": "code",
            "teacher": "acme/coder",
            "reward_scale": 1.0,
            "teacher_context": "The answer: {ground_truth}",
        },
    },
    "compute_dtype": "bfloat16",
    "data": {
        "max_prompt_tokens": 512,
        "template_kwargs": {"enable_thinking": False, "style": "new"},
    },
    "rollout": {
        "temperature": 0.9,
        "top_k": 0,
        "top_p": 0.95,
        "extra_stop_ids": [5, 7],
        "kv_cache": "int8",
        "weights": "compute",
        "prompts_per_step": 64,
        "samples_per_prompt": 4,
        "max_response_tokens": 1024,
    },
    "learner": {
        "learning_rate": 3e-6,
        "schedule": "cosine",
        "warmup_steps": 2,
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "aggregation": "token-mean",
        "truncation": "mask",
        "reward_scale": 1.25,
        "importance_cap": 5.0,
        "updates_per_batch": 1,
    },
    "eval": {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
}
RUN = {
    "config": CONFIG,
    "fingerprints": {
        "weights": {
            "student": "5aa5",
            "teacher of math": "7ea1",
            "teacher of code": "7ea2",
            "reference": "5aa5",
        },
        "data": {"math/train": "da01", "math/test": "da02", "code/train": "da03"},
    },
    "starts": [
        {
            "gopd_jax": "0.1.0",
            "git_commit": "c0ffee",
            "git_changed": True,
            "packages": {"jax": "0.10.2"},
            "devices": ["TPU v5e", "TPU v5e"],
            "prompts": {"math/train": 12345, "math/test": 500, "code/train": 900, "code/test": 100},
        }
    ],
}
SUMMARY = {
    "steps": 20,
    "rollout_tokens": 1234567,
    "training_seconds": 3600.4,
    "domains": {
        "math": {
            "prompts": 500,
            "samples": 4,
            "rows": {
                "student before": score(0.25, 0.01, 90.5, 0.125),
                "teacher": score(0.5, 0.02, 80.0, 0.0),
                "student after": score(0.55, 0.02, 85.0, 0.0),
            },
            "student_minus_teacher": {"mean": 0.05, "half_width": 0.01},
        }
    },
}


def run(**changes: object) -> dict[str, object]:
    """`RUN` with other values of its config."""
    changed = copy.deepcopy(RUN)
    changed["config"] |= changes
    return changed
