"""The benchmarks of scoring and of updates on a tiny architecture with random weights."""

import json

import numpy as np
import pytest

from gopd_jax.benchmark import machine
from gopd_jax.benchmark.__main__ import main
from gopd_jax.benchmark.examples import domain_names, step_pairs, to_examples
from gopd_jax.kernels.packed_attention_gpu import pallas_gpu
from gopd_jax.kernels.packed_attention_xla import Xla
from gopd_jax.learner.flops import Work
from gopd_jax.learner.operations import executed_work

CONFIG = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 64,
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
OPTIONS = ["--random-weights", "--prompts=6", "--max-prompt-tokens=4", "--json"]
OPTIONS += ["--mean-response-tokens=4", "--max-response-tokens=8", "--rows-per-micro-batch=4"]


@pytest.fixture
def records(tmp_path, capsys, monkeypatch):
    """Runs a part and returns its records; a small matrix product measures the peak."""
    monkeypatch.setitem(machine.SIZES, "cpu", 64)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))

    def run(part, *options):
        assert main([part, f"--model={tmp_path}", *OPTIONS, *options]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


@pytest.mark.slow
def test_the_figures_of_an_update_add_up(records):
    out = records("update", "--runs=2", "--peak-flops=1e9")
    warm_up, *runs = [r for r in out if r["record"] in ("warm-up", "run")]
    median = out[-1]
    assert warm_up["record"] == "warm-up" and len(runs) == 2
    tokens = sum(len(response) for _, response in step_pairs(6, 4, 4, 8, 64))
    for run in runs:
        assert (run["rollouts"], run["compilations"]) == (6, 0)
        assert (run["response_tokens"], run["all_tokens"]) == (tokens, tokens + 6 * 4)
        parts = run["seconds_pack"] + run["seconds_score"] + run["seconds_update"]
        assert parts == pytest.approx(run["seconds"], rel=1e-4)
        assert run["response_tokens_per_second"] == pytest.approx(tokens / parts, rel=1e-4)
        # 5 forward passes: two scorers, and three for the student.
        done = run["mfu"] * run["seconds"] * 1e9
        assert done == pytest.approx(median["useful_flops"], rel=1e-4)
        update = run["mfu_update"] * run["seconds_update"] * 1e9
        assert update == pytest.approx(median["useful_flops"] * 3 / 5, rel=1e-4)
    for kind in ("useful", "executed"):
        by_part = [median[f"{kind}_flops_{part}"] for part in ("score", "update")]
        by_piece = [median[f"{kind}_flops_{piece}"] for piece in ("blocks", "attention", "head")]
        assert sum(by_part) == pytest.approx(sum(by_piece), rel=1e-4)
        assert sum(by_part) == pytest.approx(median[f"{kind}_flops"], rel=1e-4)
    assert median["executed_over_useful"] > 1
    assert (median["peak_flops"], median["peak_is"]) == (1e9, "given")
    assert median["row_tokens"] == sum(int(s) * n for s, n in median["rows"].items())
    assert median["filled_share"] == pytest.approx((tokens + 24) / median["row_tokens"], rel=1e-4)
    assert median["response_share"] == pytest.approx(tokens / median["row_tokens"], rel=1e-4)
    assert median["peak_gib"] > 0 and median["engine"] == "gopd_jax-cpu"
    names = {p["name"] for p in out if p["record"] == "program"}
    assert {"score", "train step"} <= names


@pytest.mark.slow
def test_scoring_counts_one_model_and_its_teachers_share_the_work(records):
    score = records("score", "--count-only")
    update = records("update", "--count-only", "--remat=none")
    (one,), (whole,) = score, update
    assert one["record"] == "counted" and "useful_flops_update" not in one
    assert whole["useful_flops_score"] == 2 * one["useful_flops_score"]
    assert whole["useful_flops"] == pytest.approx(5 * one["useful_flops"])
    several = records("score", "--runs=1", "--teachers=2", "--parts")[-1]
    assert several["useful_flops"] == one["useful_flops"]
    assert several["micro_batches"] == 2 and several["rows_empty"] > 0
    assert several["peak_is"] == "measured" and 0 < several["mfu"]
    # 3 passes over 3 matrices of one layer, 4 passes over one chunk of 128 positions.
    peak, (length,) = several["peak_flops"], several["rows"]
    mlp = several["mlp_of_peak"] * several["mlp_seconds"] * peak
    assert mlp == pytest.approx(3 * 2 * 4 * int(length) * 3 * 16 * 32, rel=1e-4)
    head = several["head_of_peak"] * several["head_seconds"] * peak
    assert head == pytest.approx(4 * 2 * 64 * 16 * 128, rel=1e-4)
    assert 0 < several["head_useful_of_peak"] < several["head_of_peak"]
    seconds = several["mlp_seconds"] + several["head_seconds"]
    both = several["mlp_and_head_of_peak"] * seconds * peak
    assert both == pytest.approx(mlp + head, rel=1e-4)


def test_remat_is_counted(records):
    # Rows of several blocks of the kernel, which has a backward pass of its own.
    options = ("--count-only", "--row-length=160")
    (none,) = records("update", *options, "--remat=none")
    (attention,) = records("update", *options, "--remat=attention")
    block, offload = (
        records("update", *options, f"--remat={remat}")[0] for remat in ("block", "offload")
    )
    names = ("useful_flops", "executed_flops_score", "executed_flops_head")
    assert len({tuple(record[n] for n in names) for record in (none, attention, block)}) == 1
    assert none["executed_flops_blocks"] < attention["executed_flops_blocks"]
    assert attention["executed_flops_blocks"] == block["executed_flops_blocks"]
    # Two scorers; three passes and the scores again; and the forward pass again.
    assert none["executed_flops_attention"] == attention["executed_flops_attention"]
    one = none["executed_flops_attention"] / 5.5
    assert block["executed_flops_attention"] == pytest.approx(6.5 * one, rel=1e-4)
    assert offload["executed_flops"] == block["executed_flops"]


def test_several_answers_share_a_prompt_in_the_random_workload(records):
    options = ("--workload=random", "--samples-per-prompt=3", "--count-only")
    (counted,) = records("score", *options)
    assert counted["rollouts"] == 18
    (without,) = records("score", *options, "--no-share-prompts")
    assert counted["useful_flops"] == without["useful_flops"]
    assert counted["executed_flops"] <= without["executed_flops"]
    assert counted["attention_useful"] >= without["attention_useful"]


def test_the_workload_is_that_of_other_trainers():
    """The draws of a published script: lengths, then the ids of each row."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(1 / 128, 64), 512)
    rows = [rng.integers(5, 8192, 96 + n) for n in lengths]
    pairs = step_pairs(64, 96, 128, 512, 8192)
    assert sum(len(response) for _, response in pairs) == 8186
    for row, (prompt, response) in zip(rows, pairs, strict=True):
        assert len(prompt) == 96 and prompt.dtype == np.int32
        assert (np.concatenate([prompt, response]) == row).all()


def test_examples_take_turns_among_teachers():
    examples = to_examples(step_pairs(5, 2, 3, 4, 64), 2, 64)
    assert [e.domain for e in examples] == [0, 1, 0, 1, 0]
    several = to_examples(step_pairs(5, 2, 3, 4, 64), 2, 64, samples=2)
    assert [e.domain for e in several] == [0, 0, 1, 1, 0]
    assert [e.key.prompt_id == several[0].key.prompt_id for e in several] == [True] * 2 + [
        False
    ] * 3
    assert domain_names(2) == ["domain 0", "domain 1"]
    assert sum(e.weight * len(e.response) for e in examples) == pytest.approx(1)
    assert examples[0].behaviour_logprobs == pytest.approx(-np.log(64))


def test_executed_work_by_hand():
    segments = np.array([[[1, 1, 2, 2], [1, 1, 1, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
    wanted = np.zeros((2, 2, 4), bool)
    wanted[0, :, 1:3] = True
    blocks = Xla(block=2, widths=(1,))
    # The first row has two blocks on the diagonal, the second one more below it; 4 tokens are
    # wanted, and a chunk holds all 8 of a micro-batch.
    assert executed_work(segments, wanted, 64, blocks) == Work(16, 5 * 4, 8)
    # Two devices have a row each.
    assert executed_work(segments, wanted, 64, blocks, devices=2) == Work(16, 5 * 4, 8)
    # The kernel for GPUs runs no block of the empty rows.
    assert executed_work(segments, wanted, 64, pallas_gpu) == Work(16, 2 * 64 * 64, 8)
    # Rows of one block have all scores.
    assert executed_work(segments, wanted, 64, Xla(4, (1,))) == Work(16, 4 * 16, 8)
