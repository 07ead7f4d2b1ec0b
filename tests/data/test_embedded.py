"""The embedded world: verified answers, held-out questions, small models."""

import itertools

import pytest

from gopd_jax import tiny
from gopd_jax.data import embedded
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.rewards.verifier import Verifier


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


@pytest.mark.parametrize("name", ["math", "code"])
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


def test_unknown_split_names_the_choices():
    with pytest.raises(ValueError, match="tiny:math/tain: expected .*tiny:math/train"):
        next(embedded.records("math", "tain"))


@pytest.mark.parametrize("name", ["base", "math_teacher", "code_teacher"])
def test_models_fit_their_size_and_their_tokenizer(name):
    folder = tiny.MODELS / name
    assert sum(p.stat().st_size for p in folder.iterdir()) < 1e6
    tokenizer = ChatTokenizer.load(tiny.model(name))
    for row in first("math", "sft", 20) + first("code", "sft", 20):
        ids = tokenizer.encode_prompt(row["messages"])
        text = tokenizer.decode(ids, skip_special_tokens=False)
        assert text == f"<|user|>{row['messages'][0]['content']}<|end|><|assistant|>"
        answer = tokenizer.tokenizer(row["response"], add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(answer) == row["response"] and len(answer) == len(row["response"])


def test_unknown_model_names_the_choices():
    with pytest.raises(ValueError, match="math_teacher"):
        tiny.model("maths")
