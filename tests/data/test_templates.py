"""What a model's template and stop ids do otherwise than the student's."""

import dataclasses

import pytest

from gopd_jax import tiny
from gopd_jax.data.templates import differences
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.tiny.tokenizer import TEMPLATE

SYSTEM_REFUSED = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
)


def load(template=None, name="base"):
    return ChatTokenizer.load(tiny.model(name), chat_template=template)


def test_equal_files_differ_in_nothing():
    assert differences(load(), load(name="math_teacher")) == []


@pytest.mark.parametrize(
    "template, words",
    [
        (
            TEMPLATE.replace("<|end|>", "<|end|>\n"),
            r"renders '\n<|assistant|>' from character 31 on",
        ),
        (TEMPLATE.replace("{% if add", "{% if not add"), "renders '' from character 31 on"),
        ("{{ 1 // 0 }}", "renders 'an error (integer divisi"),
        (SYSTEM_REFUSED + TEMPLATE, "renders 'an error (no system role)"[:30]),
    ],
)
def test_the_first_difference_of_a_rendered_chat_is_shown(template, words):
    (found,) = differences(load(), load(template))
    assert words in found and "the student's '<|" in found


def test_stop_ids_are_compared():
    more = dataclasses.replace(load(), stop_ids=(2, 3))
    assert differences(load(), more) == ["its stop ids are [2, 3], the student's [2]"]
