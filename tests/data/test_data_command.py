"""The command that reports what is in a data set."""

import json

from chat_cases import TEMPLATE, row
from data_cases import save_tokenizer, sums, write
import pytest

from gopd_jax import tiny
from gopd_jax.data import __main__ as command


def test_the_command_counts_everything(tmp_path, capsys):
    good = [row | {"difficulty": 5 + i % 4} for i, row in enumerate(sums(0, 40))]
    long = {"prompt": "?" * 90, "ground_truth": "1", "difficulty": 9}
    path = write(tmp_path / "a.jsonl", [*good, good[0], long, "[1", "{}"])
    options = [
        f"--tokenizer={tiny.model('base')}",
        "--max-prompt-tokens=60",
        "--min-difficulty=6",
        "--held-out=5",
        "--verify",
        "--verifier-workers=1",
        "--json",
    ]
    assert command.main([str(path), *options]) == 0
    out, err = capsys.readouterr()
    assert "a.jsonl:43" in err and "a.jsonl:44" in err and "over 60 tokens 1" in err
    assert "a run stops at the first of these, unless data.skip_bad_rows is true" in err
    record = json.loads(out)
    expected = {"rows": 44, "bad": 2, "repeated": 1, "unverifiable": 0}
    assert {name: record[name] for name in expected} == expected
    assert record["difficulties"] == {"5": 11, "6": 10, "7": 10, "8": 10, "9": 1}
    assert record["dropped"] == {"difficulty below 6": 11, "over 60 tokens": 1, "cannot be read": 2}
    assert record["train"] + record["held_out"] == 30 and record["lengths"]["max"] > 90


def test_the_command_shows_a_row_with_tools(tmp_path, capsys):
    model = save_tokenizer(tmp_path / "model", TEMPLATE)
    path = write(tmp_path / "a.jsonl", [*sums(0, 3), row(), *sums(5, 3)])
    options = [f"--tokenizer={model}", '--template-kwargs={"style": "new"}', "--prompt-suffix=!!"]
    assert command.main([str(path), *options, "--json"]) == 0
    out, err = capsys.readouterr()
    example = json.loads(out)["example"]
    assert example.startswith('[new][fast]<tool>{"type": "function"')
    assert "<user>And its weather?!!" in example and example.endswith("<tool>rain<assistant>")
    assert "    " + example.replace("\n", "\n    ") in err


def test_what_a_template_drops_is_one_line(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", [*sums(0, 3), row()])
    assert command.main([str(path), f"--tokenizer={save_tokenizer(tmp_path / 'model')}"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: prompt 'a/000003': the chat template of ") and " drops " in said


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{folder}/none.jsonl"], "none.jsonl"),
        (["deepmath"], "expected a file ending in"),
        (["{folder}/a.jsonl", "--min-difficulty=6"], "none of 3 prompts has a number"),
    ],
)
def test_wrong_commands_end_in_one_line(tmp_path, capsys, arguments, message):
    write(tmp_path / "a.jsonl", sums(0, 3))
    assert command.main([argument.format(folder=tmp_path) for argument in arguments]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_questions_of_two_sources_are_compared(tmp_path, capsys):
    train = write(tmp_path / "train.jsonl", sums(0, 8))
    test = write(tmp_path / "test.jsonl", sums(5, 8))
    assert command.main([str(train), str(test)]) == 0
    out = capsys.readouterr().out
    assert f"3 questions are also in {train}, the first in row 'test/000000'" in out
    assert command.main([str(train)]) == 0
    assert "overlap" not in capsys.readouterr().out
    assert command.main([str(train), str(test), "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["overlaps"], second["overlaps"]) == ({}, {str(train): 3})


def test_prompts_alone_and_rows_that_a_reward_function_fails_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", [{"prompt": f"{i}?", "level": i} for i in range(5)])
    (tmp_path / "judge.py").write_text(
        "def f(record, answer):\n    return {'reward': 0, 'inverse': 1 / (record['level'] - 2)}\n"
    )
    assert command.main(["a.jsonl", "--json"]) == 2
    verify = ["a.jsonl", "--json", "--verify", "--verifier-workers=1"]
    capsys.readouterr()
    assert command.main([*verify, "--reward=none"]) == 0
    assert command.main([*verify, "--reward=judge:f"]) == 0
    out, err = capsys.readouterr()
    assert "verified as  not verified" in err
    none, own = map(json.loads, out.splitlines())
    assert none["formats"] == own["formats"] == {"prompt alone": 5}
    assert (none["unverifiable"], own["unverifiable"]) == (None, 1)
    (failed,) = own["unverifiable_shown"]
    assert "ZeroDivisionError" in failed and "'a/000002'" in failed and "judge.py:2" in failed
    assert command.main([*verify, "--reward=judge:g"]) == 2
    assert "nearest: 'f'" in capsys.readouterr().err
