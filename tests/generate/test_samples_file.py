"""A second start of the same command resumes; another command does not touch the samples."""

from generate_cases import (
    OPTIONS,
    ROWS,
    assert_same,
    command,
    lines,
    samples,
    summary,
    write_rows,
)
import pytest

from gopd_jax import tiny
from gopd_jax.generate.samples_file import SamplesFile


def test_a_resumed_command_keeps_what_is_there_and_draws_the_rest(whole, copy):
    first = lines(whole)[:4]
    unfinished = lines(whole)[4][:-30]  # killed in the middle of a line
    (copy / "out.jsonl").write_bytes(b"".join(first) + unfinished)
    assert command(copy, *OPTIONS, "--slots=5") == 0
    assert lines(copy)[:4] == first
    assert_same(samples(copy), samples(whole))
    said = summary(copy)
    assert said["complete"] and said["drawn"]["samples"] == 5 and len(said["starts"]) == 2
    assert (said["samples"], said["tokens"]) == (9, summary(whole)["tokens"])


def test_each_sample_is_on_disk_as_soon_as_it_is_finished(tmp_path, monkeypatch, capsys):
    write_rows(tmp_path / "prompts.jsonl", ROWS[:1])
    write, seen = SamplesFile.write, []

    def interrupted(self, record):
        write(self, record)
        seen.append(len(samples(tmp_path)))
        if len(seen) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(SamplesFile, "write", interrupted)
    assert command(tmp_path, *OPTIONS) == 130
    assert "resumes from here" in capsys.readouterr().err
    assert seen == [1, 2] and not summary(tmp_path)["complete"]
    assert summary(tmp_path)["settings"]["seed"] == 7


def test_a_complete_command_is_not_run_again(copy, no_weights, capsys):
    before = [(copy / name).read_bytes() for name in ("out.jsonl", "out.summary.json")]
    assert command(copy, *OPTIONS) == 0
    assert "complete already" in capsys.readouterr().out
    assert [(copy / name).read_bytes() for name in ("out.jsonl", "out.summary.json")] == before


@pytest.mark.parametrize(
    "options, words",
    [
        (["--seed=8"], "seed is 8, was 7"),
        (["--samples-per-prompt=2"], "samples_per_prompt is 2, was 3"),
        (["--temperature=1", "--max-response-tokens=20"], "max_response_tokens is 20, was 24"),
        (["--temperature=1", "--max-response-tokens=20"], "temperature is 1.0, was 0.9"),
        (["--compute-dtype=bfloat16"], "compute_dtype is 'bfloat16', was 'float32'"),
        (["--extra-stop-ids", "5"], "stop_ids is [2, 5], was [2]"),
        (["--model=" + tiny.model("math_teacher")], "model_fingerprint is"),
    ],
)
def test_another_command_does_not_touch_the_samples(copy, no_weights, capsys, options, words):
    before = (copy / "out.jsonl").read_bytes()
    assert command(copy, *OPTIONS, *options) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and words in said
    assert "expected the same settings, or another --out" in said
    assert (copy / "out.jsonl").read_bytes() == before


def test_other_prompts_are_another_command(copy, no_weights, capsys):
    write_rows(copy / "prompts.jsonl", [*ROWS[:2], ROWS[2] | {"prompt": "900-124"}])
    assert command(copy, *OPTIONS) == 2
    assert "prompts_fingerprint is" in capsys.readouterr().err


def test_a_file_that_no_command_wrote_is_left_alone(copy, no_weights, capsys):
    text = b"".join(lines(copy)[:1] + lines(copy)[:1])
    (copy / "out.jsonl").write_bytes(text)
    assert command(copy, *OPTIONS) == 2
    expected = f"{copy}/out.jsonl:2: expected a sample of this command, each once"
    assert expected in capsys.readouterr().err
    (copy / "out.summary.json").unlink()
    assert command(copy, *OPTIONS) == 2
    assert "cannot be read from" in capsys.readouterr().err
    assert (copy / "out.jsonl").read_bytes() == text
