"""The model card says what run.json and summary.json say, and nothing else."""

import json
from pathlib import Path

import huggingface_hub
import pytest
from run_cases import CONFIG, RUN, SUMMARY, run

from gopd_jax.export.card import front_matter, interval, model_card
from gopd_jax.runtime.run_folder import write_run


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No hub: the card of a base model is not available."""
    monkeypatch.chdir(tmp_path)

    def download(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


def card(folder, content=RUN, summary=SUMMARY, step=20):
    write_run(str(folder), content)
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return model_card(str(folder), step, "bfloat16")


def test_the_card_says_how_the_model_was_made(tmp_path):
    text = card(tmp_path)
    for words in (
        "# math_run, step 20",
        "acme/base-1b` after 20 steps",
        "written in bfloat16",
        "| student, at the start | acme/base-1b |  | 5aa5 |",
        "| teacher of math | math-teacher (a local folder) | 1.25 | 7ea1 |",
        "| teacher of code | acme/coder, shown more than the student | 1 | 7ea2 |",
        "| reference | acme/base-1b |  | 5aa5 |",
        "| math/train | hf://datasets/acme/problems@v2/train.parquet | 12,345 | math | da01 |",
        "| math/test | test.jsonl | 500 | math | da02 |",
        "| code/test | tiny:code/train, held out of the training prompts | 100 | code |",
        '| keyword arguments of the chat template | enable_thinking=false, style="new" |',
        '| after each prompt of math | "Think.\\n" |',
        '| shown to the teacher of code alone | "The answer: {ground_truth}" |',
        "| least difficulty of math | 6 |",
        "| share of math in each step, relative | 3 |",
        "| stop ids besides the model's | 5, 7 |",
        "| compute dtype | bfloat16 |",
        "| upper limit of importance weights | 5 |",
        "| steps of the run | 20 |",
        "64 prompts x 4 samples",
        "1,234,567",
        "1024 tokens",
        "temperature 0.9, top-k 0, top-p 0.95",
        "cache int8",
        "AdamW, learning rate 3e-06 (cosine, 2 warm-up updates)",
        "truncated responses: mask",
        "| seed | 7 |",
        "0.1.0, git commit c0ffee with uncommitted changes",
        "jax 0.10.2",
        "| devices | 2 x TPU v5e |",
        "| math | 500 prompts x 4 | student before | 25.00 [24.00, 26.00] | 90.5 | 12.5 |",
        "| math | 500 prompts x 4 | teacher | 50.00 [48.00, 52.00] | 80.0 | 0.0 |",
        "| math | 500 prompts x 4 | student after | 55.00 [53.00, 57.00] | 85.0 | 0.0 |",
        "| student after - teacher | +5.00 [4.00, 6.00] |",
        "held-out prompts of the training domains only",
        "2602.12125",
    ):
        assert words in text, words
    assert "/home/jo" not in text  # folders of the machine that trained are nobody's business


def test_the_card_names_the_checkpoint_that_the_run_started_from(tmp_path):
    point = {"run": "/home/jo/secret/runs/first", "step": 40, "manifest": "fa11"}
    text = card(tmp_path, RUN | {"init_from": point})
    assert "the optimizer of step 40 of another run, `first` (sha256 of its manifest: fa11)" in text
    assert "| student, before the other run | acme/base-1b |  | 5aa5 |" in text
    assert "/home/jo" not in text and "another run" not in card(tmp_path)


def test_several_updates_per_step_are_clipped(tmp_path):
    learner = {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 3.0}
    many = CONFIG | {"learner": CONFIG["learner"] | learner | {"updates_per_batch": 4}}
    text = card(tmp_path, RUN | {"config": many})
    assert "| clipping of the ratio | PPO, low 0.2, high 0.28, dual 3 |" in text
    assert "clipping of the ratio" not in card(tmp_path)


def test_the_hub_reads_the_front_matter(tmp_path):
    data = huggingface_hub.ModelCard(card(tmp_path)).data.to_dict()
    assert data == {
        "base_model": "acme/base-1b",
        "datasets": ["acme/problems"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["gopd_jax", "on-policy-distillation", "distillation"],
    }


def test_a_local_base_is_named_without_its_folder_and_gives_its_license(tmp_path):
    base = tmp_path / "bases/one"
    base.mkdir(parents=True)
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: mine\n---\n# Base\n")
    text = front_matter(run(student="bases/one")["config"])
    assert "license: other\nlicense_name: mine" in text and "base_model" not in text
    (base / "README.md").write_text("no front matter")
    assert "license" not in front_matter(run(student="bases/one")["config"])
    (base / "README.md").write_text("---\nlicense: [\n---\n")
    assert "license" not in front_matter(run(student="bases/one")["config"])


def test_an_unfinished_run_has_no_results(tmp_path):
    text = card(tmp_path, summary=None, step=10)
    assert "The run had not ended when this model was exported" in text
    assert "score, %" not in text and "held-out prompts of" not in text


def test_results_of_another_step_are_marked(tmp_path):
    text = card(tmp_path, step=10)
    assert "results of step 20, the last of the run; this model is that of step 10" in text
    assert "are the results of" not in card(tmp_path, step=20)


@pytest.mark.parametrize(
    "method, words", [("grpo", "verified reward"), ("sft", "Supervised fine-tuning")]
)
def test_other_methods_have_neither_lambda_nor_citation(tmp_path, method, words):
    text = card(tmp_path, run(method=method))
    assert words in text and "1.25" not in text and "2602.12125" not in text
    assert ("teacher of code" in text) == (method == "sft")


def test_what_is_not_known_is_left_out(tmp_path):
    known = {"config": {"student": "acme/base-1b"}, "fingerprints": {}, "starts": []}
    text = card(tmp_path, known, summary=None)
    assert "| optimizer |" not in text and "None" not in text and "{" not in text
    old = RUN | {"starts": [{k: v for k, v in RUN["starts"][0].items() if k != "prompts"}]}
    assert "| math/test | test.jsonl | not recorded |" in card(tmp_path, old)


def test_both_forms_of_an_interval():
    assert interval({"mean": 0.5, "half_width": 0.25}) == (0.25, 0.75)
    assert interval({"mean": 0.5, "low": 0.3, "high": 0.6}) == (0.3, 0.6)


def test_the_card_of_a_damaged_summary_is_an_error(tmp_path):
    card(tmp_path)
    Path(tmp_path / "summary.json").write_text("{")
    with pytest.raises(ValueError, match="summary.json is damaged"):
        model_card(str(tmp_path), 20, "bfloat16")
