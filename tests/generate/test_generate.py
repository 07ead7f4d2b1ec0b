"""The generate command: what it writes is what the engine draws, in one go or in several; what is wrong is one line."""

import json
import shutil

import jax
import numpy as np
import pytest

from gopd_jax import generate, sampling_job, tiny
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.models.config import load_config
from gopd_jax.models.decoder import abstract_params, logical_axes
from gopd_jax.models.huggingface import load_params
from gopd_jax.models.settings import SamplingRule
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.runtime.mesh import make_mesh, shardings
from gopd_jax.types import EncodedPrompt, Prompt, Request

BASE = tiny.model("base")
ROWS = [
    {"prompt": "437+885"},
    {
        "prompt_id": "code",
        "messages": [{"role": "user", "content": "f(0,0)=12;f(1,0)=15;f(0,1)=16"}],
    },
    {"prompt_id": "short", "prompt": "900-123", "max_tokens": 3},
]
LIMITS = {"line-1": 24, "code": 24, "short": 3}
OPTIONS = [
    "--samples=3",
    "--max-tokens=24",
    "--slots=4",
    "--seed=7",
    "--temperature=0.9",
    "--top-p=0.95",
]


def write_rows(path, rows):
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
    path.write_bytes(text.encode(errors="surrogateescape"))
    return path


def command(folder, *options):
    """The exit code; prompts.jsonl and out.jsonl are in the folder."""
    files = [f"--prompts={folder}/prompts.jsonl", f"--out={folder}/out.jsonl"]
    try:
        return generate.main([f"--model={BASE}", *files, *options])
    except SystemExit as e:  # argparse
        return e.code


def lines(folder):
    return (folder / "out.jsonl").read_bytes().splitlines(keepends=True)


def samples(folder):
    """{(prompt id, sample id): record}"""
    records = [json.loads(line) for line in lines(folder)]
    by_name = {(r["prompt_id"], r["sample_id"]): r for r in records}
    assert len(by_name) == len(records)
    return by_name


def summary(folder):
    return json.loads((folder / "out.summary.json").read_text())


def same(actual, expected):
    """Log-probs to rounding: other slots are other programs."""
    assert actual.keys() == expected.keys()
    for name, record in actual.items():
        a, b = record.copy(), expected[name].copy()
        np.testing.assert_allclose(
            a.pop("logprobs"), b.pop("logprobs"), atol=2e-5, err_msg=str(name)
        )
        assert a == b


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with the files of a command that ran in one go."""
    folder = tmp_path_factory.mktemp("whole")
    write_rows(folder / "prompts.jsonl", ROWS)
    assert command(folder, *OPTIONS) == 0
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture
def no_weights(monkeypatch):
    def load_params(*_):
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(sampling_job, "load_params", load_params)


# ---- What is written.


def test_samples_are_those_of_the_engine(whole):
    model, tokenizer, mesh = (
        load_config(BASE),
        ChatTokenizer.load(BASE),
        make_mesh(devices=jax.devices()[:1]),
    )
    messages = [r.get("messages") or [{"role": "user", "content": r["prompt"]}] for r in ROWS]
    prompts = [
        EncodedPrompt(Prompt(name, tuple(m), "", ""), tokenizer.encode_prompt(m))
        for name, m in zip(LIMITS, messages, strict=True)
    ]
    requests = [Request(p, i, LIMITS[p.source.prompt_id]) for p in prompts for i in range(3)]
    engine = RolloutEngine(
        model, mesh, tokenizer.stop_ids, slots=9, max_prompt_tokens=40, max_response_tokens=24
    )
    params = load_params(
        BASE, model, "float32", shardings(mesh, abstract_params(model), logical_axes(model))
    )
    rollouts = engine(
        engine.sync_weights(params), requests, jax.random.key(7), SamplingRule(0.9, 0, 0.95)
    )
    expected = {
        r.request.key: {
            "prompt_id": r.request.key.prompt_id,
            "sample_id": r.request.sample_id,
            "text": tokenizer.decode(r.tokens),
            "tokens": r.tokens.tolist(),
            "logprobs": r.behaviour_logprobs.tolist(),
            "finish_reason": r.finish_reason,
        }
        for r in rollouts
    }
    same(samples(whole), expected)


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
    said, tokens = summary(whole), sum(len(r["tokens"]) for r in samples(whole).values())
    assert said["complete"] and (
        said["prompts"],
        said["samples"],
        said["tokens"],
        said["skipped"],
    ) == (3, 9, tokens, {})
    assert said["truncated"] == sum(r["finish_reason"] == "length" for r in samples(whole).values())
    drawn, settings, (start,) = said["drawn"], said["settings"], said["starts"]
    assert (drawn["samples"], drawn["tokens"]) == (9, tokens)
    assert drawn["tokens_per_second"] == pytest.approx(tokens / drawn["seconds"], rel=0.01)
    assert 0 < drawn["slot_utilisation"] <= 1 and drawn["programs_compiled"] > 2
    assert {
        "model": BASE,
        "seed": 7,
        "max_tokens": 24,
        "top_p": 0.95,
        "stop_ids": [2],
        "dtype": "float32",
    }.items() <= settings.items()
    assert settings["max_prompt_tokens"] == len(
        ChatTokenizer.load(BASE).encode_prompt(ROWS[1]["messages"])
    )  # the longest
    assert {"git_commit", "packages", "devices"} <= start.keys()


def test_four_devices_draw_the_same(whole, run_on_fake_devices, tmp_path):
    """Two share each layer. Fewer prompts, too: those that are left keep their samples."""
    write_rows(tmp_path / "prompts.jsonl", ROWS[:1])
    program = "import sys; from gopd_jax.generate import main; sys.exit(main(sys.argv[1:]))"
    files = [
        f"--model={BASE}",
        f"--prompts={tmp_path}/prompts.jsonl",
        f"--out={tmp_path}/out.jsonl",
    ]
    run_on_fake_devices(
        program, *files, *[o for o in OPTIONS if "slots" not in o], "--tensor=2", count=4
    )
    assert summary(tmp_path)["settings"]["slots"] == 4  # 3 samples, two pairs of devices
    same(samples(tmp_path), {name: r for name, r in samples(whole).items() if name[0] == "line-1"})


# ---- Going on.


def test_a_resumed_command_keeps_what_is_there_and_draws_the_rest(whole, copy):
    first = lines(whole)[:4]
    (copy / "out.jsonl").write_bytes(
        b"".join(first) + lines(whole)[4][:-30]
    )  # killed in the middle of a line
    assert command(copy, *OPTIONS, "--slots=5") == 0
    assert lines(copy)[:4] == first
    same(samples(copy), samples(whole))
    said = summary(copy)
    assert said["complete"] and said["drawn"]["samples"] == 5 and len(said["starts"]) == 2
    assert (said["samples"], said["tokens"]) == (9, summary(whole)["tokens"])


def test_each_sample_is_on_disk_as_soon_as_it_is_finished(tmp_path, monkeypatch, capsys):
    write_rows(tmp_path / "prompts.jsonl", ROWS[:1])
    write, seen = generate.Output.write, []

    def interrupted(self, record):
        write(self, record)
        seen.append(len(samples(tmp_path)))
        if len(seen) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(generate.Output, "write", interrupted)
    assert command(tmp_path, *OPTIONS) == 130
    assert "goes on from there" in capsys.readouterr().err
    assert seen == [1, 2] and not summary(tmp_path)["complete"]
    assert summary(tmp_path)["settings"]["seed"] == 7


def test_a_complete_command_is_not_run_again(copy, no_weights, capsys):
    before = [(copy / name).read_bytes() for name in ("out.jsonl", "out.summary.json")]
    assert command(copy, *OPTIONS) == 0
    assert "complete already" in capsys.readouterr().err
    assert [(copy / name).read_bytes() for name in ("out.jsonl", "out.summary.json")] == before


@pytest.mark.parametrize(
    "options, words",
    [
        (["--seed=8"], "seed is 8, was 7"),
        (["--samples=2"], "samples is 2, was 3"),
        (
            ["--temperature=1", "--max-tokens=20"],
            "max_tokens is 20, was 24; temperature is 1.0, was 0.9",
        ),
        (["--dtype=bfloat16"], "dtype is 'bfloat16', was 'float32'"),
        (["--stop-ids", "5"], "stop_ids is [2, 5], was [2]"),
        (["--model=" + tiny.model("math_teacher")], "model_fingerprint is"),
    ],
)
def test_another_command_does_not_touch_the_samples(copy, no_weights, capsys, options, words):
    before = (copy / "out.jsonl").read_bytes()
    assert command(copy, *OPTIONS, *options) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert (
        said.startswith("error: ") and words in said and "wanted the same, or another --out" in said
    )
    assert (copy / "out.jsonl").read_bytes() == before


def test_other_prompts_are_another_command(copy, no_weights, capsys):
    write_rows(copy / "prompts.jsonl", [*ROWS[:2], ROWS[2] | {"prompt": "900-124"}])
    assert command(copy, *OPTIONS) == 2
    assert "prompts_fingerprint is" in capsys.readouterr().err


def test_a_file_that_no_command_wrote_is_left_alone(copy, no_weights, capsys):
    text = b"".join(lines(copy)[:1] + lines(copy)[:1])
    (copy / "out.jsonl").write_bytes(text)
    assert command(copy, *OPTIONS) == 2
    assert (
        f"{copy}/out.jsonl:2: wanted a sample of this command, each once" in capsys.readouterr().err
    )
    (copy / "out.summary.json").unlink()
    assert command(copy, *OPTIONS) == 2
    assert "cannot be read from" in capsys.readouterr().err
    assert (copy / "out.jsonl").read_bytes() == text


# ---- What cannot be drawn.


def test_prompts_over_a_limit_are_reported_and_the_others_go_on(tmp_path, capsys):
    wordy, greedy = (
        {"prompt_id": "wordy", "prompt": "1+" * 20},
        {"prompt_id": "greedy", "prompt": "1+1", "max_tokens": 7},
    )
    write_rows(tmp_path / "prompts.jsonl", [wordy, greedy, ROWS[2]])
    assert command(tmp_path, "--max-prompt-tokens=20", "--max-tokens=6") == 0
    said, skipped = capsys.readouterr().err, summary(tmp_path)["skipped"]
    assert "skipped: prompt 'wordy' has 43 tokens: wanted at most 20" in said
    assert "skipped: prompt 'greedy' asks for max_tokens=7: wanted at most --max-tokens=6" in said
    assert skipped.keys() == {"wordy", "greedy"} and all(
        f"prompt {k!r} {v}" in said for k, v in skipped.items()
    )
    assert samples(tmp_path).keys() == {("short", 0)}


@pytest.mark.parametrize(
    "rows, options, words",
    [
        (
            [ROWS[0], "", '{"prompt": "1+1'],
            [],
            "prompts.jsonl:3: not valid JSON: Unterminated string",
        ),
        (['{"prompt": "\udcff"}'], [], "prompts.jsonl:1: not valid JSON: 'utf-8' codec"),
        (
            [{"text": "1+1"}],
            [],
            'prompts.jsonl:1: wanted an object with "messages" or "prompt", found [\'text\']',
        ),
        (["[1]"], [], 'prompts.jsonl:1: wanted an object with "messages" or "prompt", found [1]'),
        (
            [{"messages": [{"role": "user"}]}],
            [],
            "prompts.jsonl:1: messages[0].content must be a string, not None",
        ),
        ([ROWS[1], ROWS[1]], [], "prompts.jsonl:2: prompt_id 'code' is already taken by line 1"),
        (
            [ROWS[0] | {"max_tokens": 0}],
            [],
            "prompts.jsonl:1: max_tokens=0: wanted an integer >= 1",
        ),
        (
            [ROWS[0] | {"max_tokens": True}],
            [],
            "prompts.jsonl:1: max_tokens=True: wanted an integer >= 1",
        ),
        ([""], [], "prompts.jsonl: no rows"),
        (None, [], "prompts.jsonl: no such file"),
        (ROWS, ["--max-prompt-tokens=2"], "none of 3 prompts is within the limits"),
        ([{"prompt": "1+" * 400}], [], "none of 1 prompts is within the limits"),
        (ROWS, ["--samples=5", "--slots=4"], "--samples=5: wanted at most --slots=4"),
        (ROWS, ["--samples=0"], "--samples=0: wanted an integer in [1, "),
        (ROWS, ["--max-prompt-tokens=-1"], "--max-prompt-tokens=-1: wanted an integer in [1, "),
        (ROWS, ["--seed=-1"], "--seed=-1: wanted an integer in [0, 4294967295]"),
        (ROWS, ["--max-tokens=512"], "--max-tokens=512: wanted less than the 512 positions"),
        (ROWS, ["--max-tokens=500", "--max-prompt-tokens=13"], "wanted at most 512 together"),
        (ROWS, ["--temperature=-1"], "temperature=-1.0: wanted a number >= 0"),
        (ROWS, ["--top-p=0"], "top_p=0.0: wanted a number in (0, 1]"),
        (ROWS, ["--stop-ids", "5", "128"], "stop ids [128]"),
        (ROWS, ["--kernel=magic"], "invalid choice: 'magic' (choose from"),
        (
            ROWS,
            ["--kernel=pallas_tpu"],
            "'pallas_tpu' runs on tpu, the devices here are cpu: expected one of ['auto', 'xla']",
        ),
        (ROWS, ["--kv-cache=int4"], "invalid choice: 'int4' (choose from"),
        (ROWS, ["--tensor=3"], "tensor=3 does not fit 1 devices"),
        (ROWS, ["--model=/nowhere"], "'/nowhere'"),
        (ROWS, ["--modl=x"], "unrecognized arguments: --modl=x"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_any_work(
    tmp_path, no_weights, capsys, rows, options, words
):
    if rows is not None:
        write_rows(tmp_path / "prompts.jsonl", rows)
    assert command(tmp_path, *options) == 2
    *before, said = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and words in said, said
    assert all(line.startswith("skipped: ") for line in before)
    assert not (tmp_path / "out.jsonl").exists() and not (tmp_path / "out.summary.json").exists()


@pytest.mark.parametrize(
    "file, old, new, words",
    [
        (
            "chat_template.jinja",
            None,
            "{{ raise_exception('no system role') }}",
            "prompt 'line-1': the chat template of",
        ),
        (
            "config.json",
            '"vocab_size": 128',
            '"vocab_size": 64',
            "has 64 embeddings, its tokenizer 1",
        ),
        ("config.json", '"qwen3"', '"gpt2"', "unsupported architecture model_type='gpt2'"),
    ],
)
def test_models_that_do_not_fit(tmp_path, no_weights, capsys, file, old, new, words):
    folder = shutil.copytree(BASE, tmp_path / "model")
    text = (folder / file).read_text()
    assert old is None or old in text
    (folder / file).write_text(new if old is None else text.replace(old, new))
    write_rows(tmp_path / "prompts.jsonl", ROWS)
    assert command(tmp_path, f"--model={folder}") == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and words in said, said


def test_help_has_an_example_that_reads(capsys):
    assert command(None, "--help") == 0
    said = capsys.readouterr().out
    example = said.split("<<END\n")[1].split("\n  END")[0].splitlines()
    assert [
        generate._parse(line.encode(), f"line-{i}", 1).prompt.prompt_id
        for i, line in enumerate(example, 1)
    ] == [
        "line-1",
        "haiku",
    ]
