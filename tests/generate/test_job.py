"""What cannot be drawn is said in one line before any work, or skipped and reported."""

import shutil

from generate_cases import BASE, ROWS, command, samples, summary, write_rows
import pytest

from gopd_jax.generate.prompts import read_prompts


def test_prompts_over_a_limit_are_reported_and_the_others_are_drawn(tmp_path, capsys):
    wordy = {"prompt_id": "wordy", "prompt": "1+" * 20}
    greedy = {"prompt_id": "greedy", "prompt": "1+1", "max_response_tokens": 7}
    write_rows(tmp_path / "prompts.jsonl", [wordy, greedy, ROWS[2]])
    assert command(tmp_path, "--max-prompt-tokens=20", "--max-response-tokens=6") == 0
    said, skipped = capsys.readouterr().err, summary(tmp_path)["skipped"]
    assert "skipped: prompt 'wordy' has 43 tokens: expected at most 20" in said
    greedy = "skipped: prompt 'greedy' asks for max_response_tokens=7: expected at most "
    assert f"{greedy}--max-response-tokens=6" in said
    assert skipped.keys() == {"wordy", "greedy"}
    assert all(f"prompt {name!r} {reason}" in said for name, reason in skipped.items())
    assert samples(tmp_path).keys() == {("short", 0)}


def test_tools_and_keyword_arguments_of_a_row_are_read(tmp_path):
    tools = [{"name": "f", "parameters": {"properties": {"x": None}}}]
    chat = [
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]},
        {"role": "tool", "content": "2"},
    ]
    row = {"messages": chat, "tools": tools, "chat_template_kwargs": {"n": 1}}
    (read,) = read_prompts(str(write_rows(tmp_path / "a.jsonl", [row])))
    assert read.prompt.messages == tuple(chat)
    assert (read.prompt.tools, read.prompt.template_kwargs) == (tools, {"n": 1})


TOOL = {"name": "f", "parameters": {}}


@pytest.mark.parametrize(
    "more, options, words",
    [
        ({"tools": [TOOL]}, [], "prompt 'line-1': the chat template of"),
        ({"tools": [TOOL]}, [], "drops tools[0].name='f'"),
        ({"chat_template_kwargs": {"n": 1}}, [], "prompt 'line-1': chat_template_kwargs.n: "),
        ({}, ['--template-kwargs={"n": 1}'], "template_kwargs.n: the chat template of"),
        ({}, ["--template-kwargs=[1]"], "invalid value '[1]': expected a JSON object"),
    ],
)
def test_a_template_that_drops_what_it_is_given(tmp_path, no_weights, capsys, more, options, words):
    write_rows(tmp_path / "prompts.jsonl", [ROWS[0] | more])
    assert command(tmp_path, *options) == 2
    assert words in one_error(capsys)


def one_error(capsys):
    """The error in the last line; the lines before it are about skipped prompts."""
    *before, said = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ")
    assert all(line.startswith("skipped: ") for line in before)
    return said


FOUND = 'expected an object with "messages" or "prompt"'


@pytest.mark.parametrize(
    "rows, words",
    [
        ([ROWS[0], "", '{"prompt": "1+1'], "prompts.jsonl:3: not valid JSON: Unterminated string"),
        (['{"prompt": "\udcff"}'], "prompts.jsonl:1: not valid JSON: 'utf-8' codec"),
        ([{"text": "1+1"}], f"prompts.jsonl:1: found ['text'], {FOUND}"),
        (["[1]"], f"prompts.jsonl:1: found [1], {FOUND}"),
        ([{"messages": [{"role": "user"}]}], "prompts.jsonl:1: messages[0].content"),
        ([ROWS[1], ROWS[1]], "prompts.jsonl:2: prompt_id 'code' is already taken by line 1"),
        (
            [ROWS[0] | {"max_response_tokens": 0}],
            "prompts.jsonl:1: max_response_tokens=0: expected an integer >= 1",
        ),
        (
            [ROWS[0] | {"max_response_tokens": True}],
            "prompts.jsonl:1: max_response_tokens=True: expected an integer >= 1",
        ),
        ([""], "prompts.jsonl: no rows"),
        (None, "prompts.jsonl: no such file"),
        ([{"prompt": "1+" * 400}], "none of 1 prompts is within the limits"),
    ],
)
def test_prompts_that_cannot_be_drawn(tmp_path, no_weights, capsys, rows, words):
    if rows is not None:
        write_rows(tmp_path / "prompts.jsonl", rows)
    assert command(tmp_path) == 2
    assert words in one_error(capsys)
    assert not (tmp_path / "out.jsonl").exists() and not (tmp_path / "out.summary.json").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        (["--max-prompt-tokens=2"], "none of 3 prompts is within the limits"),
        (
            ["--samples-per-prompt=0"],
            "--samples-per-prompt: invalid value '0': expected an integer in [1, 2147483647]",
        ),
        (
            ["--max-prompt-tokens=-1"],
            "--max-prompt-tokens: invalid value '-1': expected an integer",
        ),
        (["--seed=-1"], "--seed: invalid value '-1': expected an integer in [0, 4294967295]"),
        (
            ["--max-response-tokens=512"],
            "--max-response-tokens=512: expected less than the 512 positions",
        ),
        (["--max-response-tokens=500", "--max-prompt-tokens=13"], "expected at most 512 together"),
        (["--temperature=-1"], "temperature=-1.0: expected a number >= 0"),
        (["--top-p=0"], "top_p=0.0: expected a number > 0"),
        (["--extra-stop-ids", "5", "128"], "stop ids [128]"),
        (["--kernel=magic"], "invalid choice: 'magic' (choose from"),
        (["--kernel=pallas_tpu"], "kernel='pallas_tpu'"),
        (["--kv-cache=int4"], "invalid choice: 'int4' (choose from"),
        (["--tensor=3"], "tensor=3 does not fit 1 devices"),
        (["--model=/nowhere"], "'/nowhere'"),
        (["--modl=x"], "unrecognized arguments: --modl=x"),
    ],
)
def test_options_that_cannot_be(tmp_path, no_weights, capsys, options, words):
    write_rows(tmp_path / "prompts.jsonl", ROWS)
    assert command(tmp_path, *options) == 2
    assert words in one_error(capsys)
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
            "has 64 embeddings, its tokenizer has 1",
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
