"""Tokenizers and templates: each check passes on the embedded models and fires when broken."""

import json
import shutil

import pytest

from gopd_jax import tiny
from gopd_jax.check import tokens
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.types import EncodedPrompt, Prompt

QUESTIONS = ("7+5=", "12*3=", "81-9=")


@pytest.fixture(scope="module")
def student():
    return ChatTokenizer.load(tiny.model("base"))


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(tiny.model("math_teacher"), tmp_path / "teacher")


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def prompts_of(tokenizer):
    sources = [
        Prompt(f"q{i}", ({"role": "user", "content": text},), "math", "0")
        for i, text in enumerate(QUESTIONS)
    ]
    return [EncodedPrompt(p, tokenizer.encode_prompt(p.messages)) for p in sources]


def chats(tokenizer):
    return tokens.chats_of(prompts_of(tokenizer), "")


def template(folder, old, new):
    path = folder / "chat_template.jinja"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    return ChatTokenizer.load(folder)


def test_the_embedded_models_pass(student, folder):
    teacher = ChatTokenizer.load(folder)
    found = [
        tokens.round_trip(student, "math", prompts_of(student)),
        tokens.generation_prompt(student, "math", chats(student)),
        tokens.teacher_template(student, teacher, "teacher of math", chats(student)),
        tokens.stop_ids(student, teacher, "teacher of math"),
        tokens.token_strings(student, teacher, "teacher of math", tiny_rows := 128),
    ]
    assert {o.state for o in found} == {"passed"}
    assert found[-1].saw == f"{tiny_rows - student.num_ids} rows stand for no id"


def test_a_decoder_that_adds_spaces_breaks_the_round_trip(folder):
    edit(folder / "tokenizer.json", lambda content: content.update(decoder=None))
    broken = ChatTokenizer.load(folder)
    found = tokens.round_trip(broken, "math", prompts_of(broken))
    assert (found.state, found.number) == ("failed", 3)
    assert "the first that differs is 'q0'" in found.saw


def test_a_template_that_does_not_begin_the_answer(folder):
    broken = template(folder, "{% if add_generation_prompt %}", "{% if false %}")
    found = tokens.generation_prompt(broken, "math", chats(broken))
    assert (found.state, found.number, found.saw) == ("failed", 0, "nothing is added to the chat")


def test_a_teacher_that_was_made_with_another_template(student, folder):
    teacher = template(folder, "<|end|>", "<|end|>\\n")
    found = tokens.teacher_template(student, teacher, "teacher of math", chats(student))
    assert (found.state, found.number, found.unit) == ("failed", 3, "of 3 prompts")
    assert "the first is prompt 'q0': its template writes '\\n<|assistant|>' from" in found.saw


def test_a_template_that_writes_the_same_prompts_otherwise_is_no_difference(student, folder):
    teacher = template(folder, "{{ '<|assistant|>' }}", "<|assistant|>")
    assert teacher.template_fingerprint != student.template_fingerprint
    found = tokens.teacher_template(student, teacher, "teacher of math", chats(student))
    assert found.state == "passed"


def test_a_template_that_refuses_the_prompts(student, folder):
    teacher = template(folder, "{% for", "{{ raise_exception('no') }}{% for")
    found = tokens.teacher_template(student, teacher, "teacher of math", chats(student))
    assert (found.state, found.number) == ("failed", 3)
    assert "an error" in found.saw


def test_other_stop_ids(student, folder):
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 3]}')
    found = tokens.stop_ids(student, ChatTokenizer.load(folder), "teacher of math")
    assert (found.state, found.number) == ("failed", 1)
    assert found.saw == "its are [2, 3], the student's [2]"


def test_an_id_with_another_text(student, folder):
    def swap(content):
        vocabulary = content["model"]["vocab"]
        vocabulary["0"], vocabulary["1"] = vocabulary["1"], vocabulary["0"]

    edit(folder / "tokenizer.json", swap)
    found = tokens.token_strings(student, ChatTokenizer.load(folder), "teacher of math", 128)
    assert (found.state, found.number) == ("failed", 2)
    assert "is '0' for the student and '1' for it" in found.saw


def test_too_few_rows(student):
    found = tokens.token_strings(student, student, "student", student.num_ids - 1)
    assert found.state == "failed" and f"for {student.num_ids} ids" in found.saw
