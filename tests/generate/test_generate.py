"""The generate command writes what the engine draws, whatever the slots and devices."""

from generate_cases import (
    BASE,
    LIMITS,
    OPTIONS,
    ROWS,
    assert_same,
    command,
    samples,
    summary,
    write_rows,
)
import jax
import pytest

from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.generate.job import load_weights
from gopd_jax.generate.prompts import read_prompts
from gopd_jax.models.config import load_config
from gopd_jax.models.settings import SamplingRule
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.types import EncodedPrompt, Prompt, Request


def test_samples_are_those_of_the_engine(whole):
    tokenizer = ChatTokenizer.load(BASE)
    messages = [r.get("messages") or [{"role": "user", "content": r["prompt"]}] for r in ROWS]
    prompts = [
        EncodedPrompt(Prompt(name, tuple(m), "", ""), tokenizer.encode_prompt(m))
        for name, m in zip(LIMITS, messages, strict=True)
    ]
    requests = [Request(p, i, LIMITS[p.source.prompt_id]) for p in prompts for i in range(3)]
    engine = RolloutEngine(
        load_config(BASE),
        make_mesh(devices=jax.devices()[:1]),
        tokenizer.stop_ids,
        slots=9,
        max_prompt_tokens=40,
        max_response_tokens=24,
    )
    rule = SamplingRule(temperature=0.9, top_p=0.95)
    rollouts = engine(load_weights(engine, BASE), requests, jax.random.key(7), rule)
    expected = {
        r.request.key: {
            "prompt_id": r.request.key.prompt_id,
            "sample_id": r.request.key.sample_id,
            "text": tokenizer.decode(r.tokens),
            "tokens": r.tokens.tolist(),
            "logprobs": r.behaviour_logprobs.tolist(),
            "finish_reason": r.finish_reason,
        }
        for r in rollouts
    }
    assert_same(samples(whole), expected)


def test_limits_stops_and_rounding(whole):
    reasons = set()
    for (name, _), record in samples(whole).items():
        stopped = record["tokens"][-1] == 2
        assert record["finish_reason"] == ("stop" if stopped else "length")
        assert len(record["tokens"]) == len(record["logprobs"]) <= LIMITS[name]
        assert stopped or len(record["tokens"]) == LIMITS[name]
        assert all(x <= 0 and round(x, 6) == x for x in record["logprobs"])
        reasons.add((name, record["finish_reason"]))
    assert ("line-1", "stop") in reasons and ("short", "length") in reasons


def test_summary_says_what_was_done_and_how(whole):
    said, records = summary(whole), samples(whole).values()
    tokens = sum(len(r["tokens"]) for r in records)
    assert said["complete"]
    assert (said["prompts"], said["samples"], said["tokens"]) == (3, 9, tokens)
    assert said["skipped"] == {}
    assert said["truncated"] == sum(r["finish_reason"] == "length" for r in records)
    drawn, settings, (start,) = said["drawn"], said["settings"], said["starts"]
    assert (drawn["samples"], drawn["tokens"]) == (9, tokens)
    assert drawn["tokens_per_second"] == pytest.approx(tokens / drawn["seconds"], rel=0.01)
    assert 0 < drawn["slot_utilisation"] <= 1 and drawn["programs_compiled"] > 2
    expected = {"model": BASE, "seed": 7, "max_response_tokens": 24, "top_p": 0.95}
    assert (expected | {"stop_ids": [2], "compute_dtype": "float32"}).items() <= settings.items()
    longest = ChatTokenizer.load(BASE).encode_prompt(ROWS[1]["messages"])
    assert settings["max_prompt_tokens"] == len(longest)
    assert {"git_commit", "packages", "devices"} <= start.keys()


@pytest.mark.slow
def test_four_devices_draw_the_same(whole, run_on_fake_devices, tmp_path):
    """Two devices share each layer. There are fewer prompts, too: they keep their samples."""
    write_rows(tmp_path / "prompts.jsonl", ROWS[:1])
    program = (
        "import sys; from gopd_jax.generate.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    files = [
        f"--model={BASE}",
        f"--prompt-file={tmp_path}/prompts.jsonl",
        f"--out={tmp_path}/out.jsonl",
    ]
    options = [o for o in OPTIONS if "slots" not in o]
    run_on_fake_devices(program, *files, *options, "--tensor=2", count=4)
    assert summary(tmp_path)["settings"]["slots"] == 4  # 3 samples, two pairs of devices
    expected = {key: r for key, r in samples(whole).items() if key[0] == "line-1"}
    assert_same(samples(tmp_path), expected)


def test_help_has_an_example_that_reads(capsys, tmp_path):
    assert command(None, "--help") == 0
    said = capsys.readouterr().out
    example = said.split("<<END\n")[1].split("\n  END")[0]
    (tmp_path / "prompts.jsonl").write_text(example)
    prompts = read_prompts(str(tmp_path / "prompts.jsonl"))
    assert [p.prompt.prompt_id for p in prompts] == ["line-1", "hi"]
