"""The benchmark of sampling on a tiny architecture with random weights."""

import json

import pytest

from gopd_jax.benchmark.__main__ import main
from gopd_jax.benchmark.workload import random_prompts, stop_ids

CONFIG = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 512,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "attention_bias": False,
}
OPTIONS = [
    "--random-weights",
    "--prompts=6",
    "--max-prompt-tokens=8",
    "--samples-per-prompt=2",
    "--slots=4",
]
OPTIONS += ["--mean-response-tokens=4", "--max-response-tokens=8", "--runs=2"]


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


@pytest.mark.slow
def test_figures_add_up_and_the_sampler_agrees_with_the_scorer(model, capsys):
    options = [*OPTIONS, "--steps-per-dispatch=2", "--score", "--json"]
    assert main(["rollout", f"--model={model}", *options]) == 0
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    runs = [r for r in records if r["record"] == "run"]
    assert records[0]["record"] == "warm-up" and len(runs) == 2
    for run in runs:
        assert (run["rollouts"], run["compilations"]) == (12, 0)
        assert run["tokens"] == run["decode_tokens"] <= 12 * 8 and run["max_length"] <= 8
        assert run["tokens_per_second"] == pytest.approx(run["tokens"] / run["seconds"], rel=1e-4)
        assert run["prompt_tokens"] == run["prefill_tokens"]
        assert run["weight_sync_seconds"] > 0
        assert 0 < run["decode_ms_per_step"] < 1e3 * run["seconds"]
    programs, median = [r for r in records if r["record"] == "program"], records[-1]
    assert {"weights", "cache", "prefill", "decode"} <= {p["name"] for p in programs}
    assert median["programs"] == len(programs)
    assert median["settings"]["compute_dtype"] == "float32" and median["settings"]["slots"] == 4
    assert median["logprob_gap_max"] < 1e-5
    assert f"run 1: {runs[0]['tokens_per_second']:,.0f} tokens/s" in err


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ["--mean-response-tokens=1"],
            "--mean-response-tokens=1 needs 512 stop ids from 300 on: expected a vocabulary",
        ),
        (["--workload=chat"], "--workload=chat: expected --prompt-file=FILE.jsonl"),
        (["--top-p=0"], "top_p=0.0: expected a number > 0"),
    ],
)
def test_bad_input_is_one_line(model, capsys, options, message):
    assert main(["rollout", f"--model={model}", *OPTIONS, *options]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {message}")


def test_the_workload_is_the_same_every_time():
    ids = stop_ids(1000, 64)
    assert ids == stop_ids(1000, 64) and len(ids) == 1000 // 64 and min(ids) >= 300
    prompts = random_prompts(50, 9, 1000)
    assert {len(p) for p in prompts} == {5, 6, 7, 8, 9}
    again = random_prompts(50, 9, 1000)
    assert all((a == b).all() for a, b in zip(prompts, again, strict=True))
