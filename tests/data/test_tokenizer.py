"""Chat messages to token ids and back, stop ids, fingerprints."""

import json
from pathlib import Path
import shutil

from data_cases import run_script, save_tokenizer
import huggingface_hub.constants
import numpy as np
import pytest

from gopd_jax.data.tokenizer import ChatTokenizer, check_same_vocabulary

CHAT = (
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "what is two plus two?"},
)
THINKING = "<|im_start|>assistant\n"
NO_THINKING = THINKING + "<think>\n\n</think>\n\n"


@pytest.fixture
def tokenizer(tokenizer_folder):
    return ChatTokenizer.load(tokenizer_folder)


@pytest.mark.parametrize("thinking, tail", [(False, NO_THINKING), (True, THINKING)])
def test_encode_prompt_is_the_template(tokenizer_folder, thinking, tail):
    text = (
        "<|im_start|>system\nbe brief<|im_end|>\n"
        "<|im_start|>user\nwhat is two plus two?<|im_end|>\n"
    )
    tokenizer = ChatTokenizer.load(tokenizer_folder, enable_thinking=thinking)
    ids = tokenizer.encode_prompt(CHAT)
    assert ids.dtype == np.int32 and ids.ndim == 1
    assert ids[0] == 1  # <|im_start|>, and no other token before it
    assert tokenizer.decode(ids, skip_special_tokens=False) == text + tail
    assert ids.tolist() == tokenizer.tokenizer.encode(text + tail, add_special_tokens=False)


def test_suffix_goes_to_the_last_user_message(tokenizer):
    chat = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    ids = tokenizer.encode_prompt(chat, suffix="\nthink \\boxed{}.")
    by_hand = [*chat[:2], {"role": "user", "content": "c\nthink \\boxed{}."}]
    np.testing.assert_array_equal(ids, tokenizer.encode_prompt(by_hand))
    assert chat[2]["content"] == "c"  # the prompt itself is unchanged
    with pytest.raises(ValueError, match=r"no user message .* \['system'\]"):
        tokenizer.encode_prompt([{"role": "system", "content": "s"}], suffix="x")


def test_batch_equals_one_by_one(tokenizer):
    chats = [({"role": "user", "content": "two " * n + "é<|im_end|>"},) for n in (1, 40, 3)]
    for ids, chat in zip(tokenizer.encode_prompts(chats, " s"), chats, strict=True):
        np.testing.assert_array_equal(ids, tokenizer.encode_prompt(chat, " s"))


def test_decode(tokenizer):
    text = "what , is \n two 42 é"  # spaces before punctuation stay
    ids = [*tokenizer.tokenizer.encode(text), 2]
    assert tokenizer.decode(np.asarray(ids, np.int32)) == text
    assert tokenizer.decode(ids, skip_special_tokens=False) == text + "<|im_end|>"


def with_stop_ids(folder: Path, source: Path, value: object) -> Path:
    shutil.copytree(source, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    return folder


@pytest.mark.parametrize("value, expected", [([2, 0], (0, 2)), (0, (0, 2)), (None, (2,))])
def test_stop_ids_of_the_generation_config(tokenizer_folder, tmp_path, value, expected):
    folder = with_stop_ids(tmp_path / "model", tokenizer_folder, value)
    assert ChatTokenizer.load(folder).stop_ids == expected


def test_stop_ids(tokenizer_folder, tokenizer, tmp_path):
    assert tokenizer.stop_ids == (2,)
    assert ChatTokenizer.load(tokenizer_folder, extra_stop_ids=[7, 2, 5]).stop_ids == (2, 5, 7)
    with pytest.raises(ValueError, match="must be an id or a list of ids, not '<|im_end|>'"):
        ChatTokenizer.load(with_stop_ids(tmp_path / "text", tokenizer_folder, "<|im_end|>"))
    size = len(tokenizer.tokenizer)
    message = rf"stop ids \[-1, {size}\] .* outside its vocabulary of {size} ids"
    with pytest.raises(ValueError, match=message):
        ChatTokenizer.load(tokenizer_folder, extra_stop_ids=[size, size - 1, -1])
    without = save_tokenizer(tmp_path / "without", eos=None)
    with pytest.raises(ValueError, match="no stop id at"):
        ChatTokenizer.load(without)
    assert ChatTokenizer.load(without, extra_stop_ids=[2]).stop_ids == (2,)


def test_no_chat_template(tmp_path):
    folder = save_tokenizer(tmp_path, template=None)
    with pytest.raises(ValueError, match="has no chat template"):
        ChatTokenizer.load(folder)
    tokenizer = ChatTokenizer.load(folder, chat_template="{{ messages[0].content }}>")
    assert tokenizer.decode(tokenizer.encode_prompt(CHAT)) == "be brief>"


def test_fingerprints(tokenizer_folder, tmp_path):
    one, same = (ChatTokenizer.load(tokenizer_folder) for _ in range(2))
    thinking = ChatTokenizer.load(tokenizer_folder, enable_thinking=True)
    other = ChatTokenizer.load(tokenizer_folder, chat_template="{{ messages[0].content }}")
    larger = ChatTokenizer.load(save_tokenizer(tmp_path, more=("<extra>",)))
    assert len({t.vocabulary_fingerprint for t in (one, same, other)}) == 1
    assert one.vocabulary_fingerprint != larger.vocabulary_fingerprint
    assert len({t.template_fingerprint for t in (one, same, larger)}) == 1
    assert len({t.template_fingerprint for t in (one, thinking, other)}) == 3


def test_check_same_vocabulary(tokenizer_folder, tokenizer, tmp_path):
    thinking = ChatTokenizer.load(tokenizer_folder, enable_thinking=True)
    check_same_vocabulary({"student": tokenizer, "teacher": thinking})
    larger = ChatTokenizer.load(save_tokenizer(tmp_path / "larger", more=("<extra>",)))
    extra_id = len(larger.tokenizer) - 1
    message = rf"id {extra_id}, None for student and '<extra>' for math teacher"
    with pytest.raises(ValueError, match=message):
        check_same_vocabulary(
            {"student": tokenizer, "reference": tokenizer, "math teacher": larger}
        )


def test_two_tokens_that_changed_places_are_named(tokenizer_folder, tokenizer, tmp_path):
    swapped = tmp_path / "swapped"
    shutil.copytree(tokenizer_folder, swapped)
    file = json.loads((swapped / "tokenizer.json").read_text())
    vocabulary = {i: token for token, i in file["model"]["vocab"].items()}
    file["model"]["vocab"] = {token: {50: 51, 51: 50}.get(i, i) for i, token in vocabulary.items()}
    (swapped / "tokenizer.json").write_text(json.dumps(file))
    expected = f"id 50, {vocabulary[50]!r} for student and {vocabulary[51]!r} for teacher"
    with pytest.raises(ValueError) as error:
        check_same_vocabulary({"student": tokenizer, "teacher": ChatTokenizer.load(swapped)})
    assert expected in str(error.value)
    assert str(tokenizer_folder) in str(error.value) and str(swapped) in str(error.value)


@pytest.mark.parametrize(
    "path, message",
    [
        ("{tmp_path}/absent", "there is no such folder"),
        ("./absent", "there is no such folder"),
        ("{tmp_path}", "this folder holds no tokenizer"),
        ("nobody/such-a-model", "the Hugging Face hub did not provide it"),
    ],
)
def test_nothing_to_load_is_one_sentence(tmp_path, monkeypatch, path, message):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    path = path.format(tmp_path=tmp_path)
    with pytest.raises(ValueError) as error:
        ChatTokenizer.load(path)
    assert str(error.value).startswith(f"no tokenizer at {path!r}: ")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_needs_no_torch(tokenizer_folder, tokenizer):
    script = """
import sys
sys.modules["torch"] = None  # importing it fails from here on
from gopd_jax.data.tokenizer import ChatTokenizer
tokenizer = ChatTokenizer.load(sys.argv[1])
print(tokenizer.encode_prompt([{"role": "user", "content": "two"}]).tolist())
"""
    done = run_script(script, tokenizer_folder)
    assert done.returncode == 0, done.stderr
    expected = tokenizer.encode_prompt([{"role": "user", "content": "two"}])
    assert json.loads(done.stdout.splitlines()[-1]) == expected.tolist()


@pytest.mark.parametrize("thinking, tail", [(False, NO_THINKING), (True, THINKING)])
def test_qwen3_template(shared_data, tokenizer_folder, thinking, tail):
    template = (shared_data / "qwen3_chat_template.jinja").read_text()
    tokenizer = ChatTokenizer.load(
        tokenizer_folder, enable_thinking=thinking, chat_template=template
    )
    ids = tokenizer.encode_prompt([{"role": "user", "content": "what?"}], suffix="\nBe brief.")
    text = "<|im_start|>user\nwhat?\nBe brief.<|im_end|>\n" + tail
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
