"""The embedded world: verified answers, held-out questions, small models."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax import tiny
from gopd_jax.data import embedded
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.models.config import load_config
from gopd_jax.models.decoder import Decoder, output_head, param_shardings
from gopd_jax.models.huggingface import load_params
from gopd_jax.rewards.verifier import Verifier
from gopd_jax.runtime.mesh import make_mesh


def first(name: str, split: str, count: int = 200) -> list[embedded.EmbeddedRow]:
    return list(itertools.islice(embedded.records(name, split), count))


def questions(name: str, split: str) -> list[str]:
    return [row["messages"][0]["content"] for row in embedded.records(name, split)]


@pytest.mark.parametrize("name", ["math", "code"])
def test_given_answers_are_right_and_corrupted_ones_wrong(name):
    rows = first(name, "sft") + first(name, "noisy")
    answers = [(name, row["response"], row["ground_truth"]) for row in rows]
    with Verifier() as verify:
        rewards = [verdict.reward for verdict in verify(answers)]
    assert all(rewards[:200])
    wrong = 1 - sum(rewards[200:]) / 200
    assert abs(wrong - embedded.WRONG_SHARE) < 0.12  # 3.5 standard errors


def test_answers_in_steps_are_right_and_differ_in_length():
    rows = first("steps", "sft", 400)
    with Verifier() as verify:
        verdicts = verify([("math", row["response"], row["ground_truth"]) for row in rows])
    assert all(verdict.reward for verdict in verdicts)
    twice = [row["response"].count(";") for row in rows]
    assert 0.06 < sum(twice) / len(rows) < 0.18  # embedded.TWICE, 3.5 standard errors
    lengths = [len(row["response"]) for row in rows]
    assert min(lengths) < 20 and max(lengths) > 60
    terms = {len(re.findall(r"[+-]", row["messages"][0]["content"])) for row in rows}
    assert terms == {1, 2, 3, 4, 5}


def test_wrong_answers_in_steps_have_one_wrong_total_and_leave_more_out():
    """What follows from it is right, and every total stays within the tokens of two digits."""
    left_out = {True: [], False: []}
    for row in first("steps", "noisy", 1000):
        working, box = row["response"].split(" ")
        (once, *again), given = working.split(";"), int(re.search(r"\d+", box)[0])
        assert all(repeat == once for repeat in again)
        slips, terms, total = 0, 0, 0
        for number, written in re.findall(r"([+-]?\d+)(?:=(\d+))?", once):
            total, terms = total + int(number), terms + 1
            if written:
                assert 0 < int(written) < 100
                slips += int(written) != total
                total = int(written)
        assert total == given
        is_right = given == int(row["ground_truth"])
        assert slips == (not is_right)
        left_out[is_right].append(terms - 1 - once.count("="))
    wrong = len(left_out[False]) / 1000
    assert abs(wrong - embedded.WRONG_SHARE) < 0.055  # 3.5 standard errors
    assert np.mean(left_out[False]) > 1.3 * np.mean(left_out[True])


def test_each_written_total_in_steps_is_that_of_the_terms_before_it():
    for row in first("steps", "sft"):
        question, (working, box) = row["messages"][0]["content"], row["response"].split(" ")
        for once in working.split(";"):
            written = re.split(r"=\d+", once)
            assert "".join(written) == question
            so_far = ""
            for terms, total in zip(written, re.findall(r"=(\d+)", once), strict=False):
                so_far += terms
                assert sum(map(int, re.findall(r"[+-]?\d+", so_far))) == int(total)
        assert box == rf"\boxed{{{row['ground_truth']}}}"


@pytest.mark.parametrize("name", ["math", "code", "steps"])
def test_train_and_test_share_no_question(name):
    train, test = questions(name, "train"), questions(name, "test")
    assert len(train) == len(set(train)) == embedded.SIZES[name]["train"]
    assert len(test) == len(set(test)) == embedded.SIZES[name]["test"]
    assert not set(train) & set(test)
    assert not set(questions(name, "sft")) & set(test)


def test_rows_are_the_same_in_every_run():
    assert first("math", "train", 2) == first("math", "train", 2)
    # Other rows would require new models, see tiny/make.py.
    assert first("math", "train", 1)[0]["messages"][0]["content"] == "694-397"
    assert first("steps", "train", 1)[0]["messages"][0]["content"] == "71+9-9-2+4-8"


def test_unknown_split_names_the_choices():
    with pytest.raises(ValueError, match="tiny:math/tain: expected .*tiny:math/train"):
        next(embedded.records("math", "tain"))


def test_half_of_the_hinted_questions_end_in_their_answer_and_are_answered_right():
    rows = first("math", "hinted", 2000)
    asked = [row["messages"][0]["content"].partition("=") for row in rows]
    hinted = [(row, hint) for row, (_, _, hint) in zip(rows, asked, strict=True) if hint]
    assert len(hinted) == pytest.approx(1000, abs=100)
    assert all(hint == row["ground_truth"] and is_right(row) for row, hint in hinted)
    right = [is_right(row) for row, (_, _, hint) in zip(rows, asked, strict=True) if not hint]
    assert np.mean(right) == pytest.approx(1 - embedded.WRONG_SHARE, abs=0.05)
    assert not {question for question, _, _ in asked} & set(questions("math", "test"))


def is_right(row):
    return row["response"].endswith("\\boxed{" + row["ground_truth"] + "}")


def test_hinted_base_reads_the_answer_behind_a_question_and_base_does_not():
    """By the mean probability of right answers."""
    plain = {name: probability(name, "") for name in ("hinted_base", "base")}
    shown = {name: probability(name, "={ground_truth}") for name in plain}
    assert shown["hinted_base"] > 0.9 > 0.5 > plain["hinted_base"]
    assert shown["base"] < plain["base"] + 0.05


def probability(model, hint):
    """Of the right answer to a question with a hint behind it: the mean over 60 questions."""
    folder = tiny.model(model)
    tokenizer, config = ChatTokenizer.load(folder), load_config(folder)
    params = load_params(folder, config, jnp.float32, param_shardings(config, make_mesh()))
    found = []
    for row in first("math", "sft", 60):
        content = row["messages"][0]["content"] + hint.format(**row)
        prompt = tokenizer.encode_prompt([{"role": "user", "content": content}])
        answer = tokenizer.tokenizer(row["response"] + "<|end|>", add_special_tokens=False)
        tokens = np.zeros((1, 48), np.int32)
        whole = [*prompt, *answer["input_ids"]]
        tokens[0, : len(whole)] = whole
        of_row = jnp.asarray(tokens), jnp.arange(48)[None], jnp.ones((1, 48), jnp.int32)
        hidden = Decoder(config, remat="none").apply({"params": params}, *of_row)
        logprobs = np.asarray(jax.nn.log_softmax(hidden[0] @ output_head(params).T))
        where = np.arange(len(prompt), len(whole))
        found.append(np.exp(logprobs[where - 1, tokens[0, where]].sum()))
    return np.mean(found)


@pytest.mark.parametrize(
    "name", ["base", "math_teacher", "code_teacher", "steps_base", "steps_teacher", "hinted_base"]
)
def test_models_fit_their_size_and_their_tokenizer(name):
    folder = tiny.MODELS / name
    assert sum(p.stat().st_size for p in folder.iterdir()) < 1e6
    tokenizer = ChatTokenizer.load(tiny.model(name))
    for row in [row for task in embedded.SIZES for row in first(task, "sft", 20)]:
        ids = tokenizer.encode_prompt(row["messages"])
        text = tokenizer.decode(ids, skip_special_tokens=False)
        assert text == f"<|user|>{row['messages'][0]['content']}<|end|><|assistant|>"
        answer = tokenizer.tokenizer(row["response"], add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(answer) == row["response"] and len(answer) == len(row["response"])


def test_the_models_of_steps_are_of_one_megabyte_at_most():
    folders = [tiny.MODELS / name for name in ("steps_base", "steps_teacher")]
    assert sum(p.stat().st_size for folder in folders for p in folder.iterdir()) < 1e6


def test_unknown_model_names_the_choices():
    with pytest.raises(ValueError, match="math_teacher"):
        tiny.model("maths")
