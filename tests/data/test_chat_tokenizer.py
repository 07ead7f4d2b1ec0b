import json
import os
from pathlib import Path
import shutil
import subprocess
import sys

from data_cases import ROOT, save_tokenizer
import huggingface_hub.constants
import numpy as np
import pytest

from gopd_jax.data.tokenizer import ChatTokenizer, check_same_vocabulary

CHAT = (
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "what is two plus two?"},
)
NO_THINKING = "<|im_start|>assistant\n<think>\n\n</think>\n\n"


def with_stop_ids(folder: Path, source: Path, value) -> Path:
    shutil.copytree(source, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    return folder


def test_encode_prompt_is_the_template(tokenizer_folder):
    text = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nwhat is two plus two?<|im_end|>\n"
    for thinking, tail in ((False, NO_THINKING), (True, "<|im_start|>assistant\n")):
        tokenizer = ChatTokenizer.load(tokenizer_folder, enable_thinking=thinking)
        ids = tokenizer.encode_prompt(CHAT)
        assert ids.dtype == np.int32 and ids.ndim == 1
        assert ids[0] == 1  # <|im_start|>, and no other token before it
        assert tokenizer.decode(ids, skip_special_tokens=False) == text + tail
        assert ids.tolist() == tokenizer.tokenizer.encode(text + tail, add_special_tokens=False)


def test_suffix_goes_to_the_last_user_message(tokenizer_folder):
    tokenizer = ChatTokenizer.load(tokenizer_folder)
    chat = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    ids = tokenizer.encode_prompt(chat, suffix="\nthink \\boxed{}.")
    by_hand = [*chat[:2], {"role": "user", "content": "c\nthink \\boxed{}."}]
    np.testing.assert_array_equal(ids, tokenizer.encode_prompt(by_hand))
    assert chat[2]["content"] == "c"  # the prompt itself is untouched
    with pytest.raises(ValueError, match=r"no user message .* \['system'\]"):
        tokenizer.encode_prompt([{"role": "system", "content": "s"}], suffix="x")


def test_batch_equals_one_by_one(tokenizer_folder):
    tokenizer = ChatTokenizer.load(tokenizer_folder)
    chats = [({"role": "user", "content": "two " * n + "é<|im_end|>"},) for n in (1, 40, 3)]
    for ids, chat in zip(tokenizer.encode_prompts(chats, " s"), chats, strict=True):
        np.testing.assert_array_equal(ids, tokenizer.encode_prompt(chat, " s"))


def test_decode(tokenizer_folder):
    tokenizer = ChatTokenizer.load(tokenizer_folder)
    text = "what , is \n two 42 é"  # spaces before punctuation stay
    ids = [*tokenizer.tokenizer.encode(text), 2]
    assert tokenizer.decode(np.asarray(ids, np.int32)) == text
    assert tokenizer.decode(ids, skip_special_tokens=False) == text + "<|im_end|>"


def test_stop_ids(tokenizer_folder, tmp_path):
    assert ChatTokenizer.load(tokenizer_folder).stop_ids == (2,)
    assert ChatTokenizer.load(tokenizer_folder, extra_stop_ids=[7, 2, 5]).stop_ids == (2, 5, 7)
    assert ChatTokenizer.load(
        with_stop_ids(tmp_path / "list", tokenizer_folder, [2, 0])
    ).stop_ids == (0, 2)
    assert ChatTokenizer.load(with_stop_ids(tmp_path / "int", tokenizer_folder, 0)).stop_ids == (
        0,
        2,
    )
    assert ChatTokenizer.load(
        with_stop_ids(tmp_path / "null", tokenizer_folder, None)
    ).stop_ids == (2,)
    with pytest.raises(ValueError, match="must be an id or a list of ids, not '<|im_end|>'"):
        ChatTokenizer.load(with_stop_ids(tmp_path / "text", tokenizer_folder, "<|im_end|>"))
    size = len(ChatTokenizer.load(tokenizer_folder).tokenizer)
    with pytest.raises(
        ValueError, match=rf"stop ids \[-1, {size}\] .* outside its vocabulary of {size} ids"
    ):
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
    other_template = ChatTokenizer.load(tokenizer_folder, chat_template="{{ messages[0].content }}")
    larger = ChatTokenizer.load(save_tokenizer(tmp_path, more=("<extra>",)))
    assert (
        one.vocabulary_fingerprint
        == same.vocabulary_fingerprint
        == other_template.vocabulary_fingerprint
    )
    assert one.vocabulary_fingerprint != larger.vocabulary_fingerprint
    assert one.template_fingerprint == same.template_fingerprint == larger.template_fingerprint
    assert (
        len(
            {
                one.template_fingerprint,
                thinking.template_fingerprint,
                other_template.template_fingerprint,
            }
        )
        == 3
    )


def test_check_same_vocabulary(tokenizer_folder, tmp_path):
    student = ChatTokenizer.load(tokenizer_folder)
    check_same_vocabulary(
        {"student": student, "teacher": ChatTokenizer.load(tokenizer_folder, enable_thinking=True)}
    )
    larger = ChatTokenizer.load(save_tokenizer(tmp_path / "larger", more=("<extra>",)))
    extra_id = len(larger.tokenizer) - 1
    with pytest.raises(
        ValueError, match=rf"id {extra_id}, None for student and '<extra>' for math teacher"
    ):
        check_same_vocabulary({"student": student, "reference": student, "math teacher": larger})
    swapped = tmp_path / "swapped"
    shutil.copytree(tokenizer_folder, swapped)
    file = json.loads((swapped / "tokenizer.json").read_text())
    vocabulary = {i: token for token, i in file["model"]["vocab"].items()}
    file["model"]["vocab"] = {token: {50: 51, 51: 50}.get(i, i) for i, token in vocabulary.items()}
    (swapped / "tokenizer.json").write_text(json.dumps(file))
    expected = f"id 50, {vocabulary[50]!r} for student and {vocabulary[51]!r} for teacher"
    with pytest.raises(ValueError) as error:
        check_same_vocabulary({"student": student, "teacher": ChatTokenizer.load(swapped)})
    assert expected in str(error.value)
    assert str(tokenizer_folder) in str(error.value) and str(swapped) in str(error.value)


def test_nothing_to_load_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    for path, message in (
        (str(tmp_path / "absent"), "there is no such folder"),
        ("./absent", "there is no such folder"),
        (str(tmp_path / "empty"), "this folder holds no tokenizer"),
        ("nobody/such-a-model", "the Hugging Face hub did not give it"),
    ):
        with pytest.raises(ValueError) as error:
            ChatTokenizer.load(path)
        assert str(error.value).startswith(f"no tokenizer at {path!r}: ")
        assert message in str(error.value) and "\n" not in str(error.value)


def test_needs_no_torch(tokenizer_folder):
    script = f"""
import sys
sys.modules["torch"] = None  # importing it fails from here on
from gopd_jax.data import ChatTokenizer
tokenizer = ChatTokenizer.load({str(tokenizer_folder)!r})
print(tokenizer.encode_prompt([{{"role": "user", "content": "two"}}]).tolist())
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = ChatTokenizer.load(tokenizer_folder).encode_prompt(
        [{"role": "user", "content": "two"}]
    )
    assert json.loads(done.stdout.splitlines()[-1]) == expected.tolist()


def test_qwen3_template(shared_data, tokenizer_folder):
    template = (shared_data / "qwen3_chat_template.jinja").read_text()
    text = "<|im_start|>user\nwhat?\nBe brief.<|im_end|>\n"
    for thinking, tail in ((False, NO_THINKING), (True, "<|im_start|>assistant\n")):
        tokenizer = ChatTokenizer.load(
            tokenizer_folder, enable_thinking=thinking, chat_template=template
        )
        ids = tokenizer.encode_prompt([{"role": "user", "content": "what?"}], suffix="\nBe brief.")
        assert tokenizer.decode(ids, skip_special_tokens=False) == text + tail
