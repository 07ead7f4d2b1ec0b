"""Text that is appended to the last user message."""

import pytest

from gopd_jax.data.messages import add_to_last_user_message, with_suffix

SUFFIX = "\nPut your final answer within \\boxed{}."


@pytest.mark.parametrize(
    "question, suffix, expected",
    [
        ("1 + 1?", SUFFIX, "1 + 1?" + SUFFIX),
        ("1 + 1? In \\boxed{}.", SUFFIX, "1 + 1? In \\boxed{}."),
        ("1 + 1? In \\boxed{}.", " Be brief.", "1 + 1? In \\boxed{}. Be brief."),
        ("1 + 1?", "", "1 + 1?"),
    ],
)
def test_a_suffix_that_asks_for_a_box_is_not_added_twice(question, suffix, expected):
    chat = [{"role": "user", "content": question}]
    assert with_suffix(chat, suffix) == [{"role": "user", "content": expected}]
    assert chat == [{"role": "user", "content": question}]


def test_text_goes_to_the_last_user_message():
    roles = {"a": "user", "b": "user", "c": "assistant"}
    chat = [{"role": role, "content": text} for text, role in roles.items()]
    assert [m["content"] for m in add_to_last_user_message(chat, "!")] == ["a", "b!", "c"]
    assert [m["content"] for m in chat] == ["a", "b", "c"]


def test_without_a_user_message_there_is_nothing_to_append_to():
    system = [{"role": "system", "content": "s"}]
    assert add_to_last_user_message(system, "") == system
    with pytest.raises(ValueError, match=r"no user message .* \['system'\]"):
        add_to_last_user_message(system, "x")


def test_text_goes_to_the_last_part_of_the_last_user_message():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "id": 1}]
    chat = [{"role": "user", "content": parts}, {"role": "tool", "content": "c"}]
    added = add_to_last_user_message(chat, "!")
    assert added == [{"role": "user", "content": [parts[0], {**parts[1], "text": "b!"}]}, chat[1]]
    assert parts[1]["text"] == "b"
    parts[0]["text"] = "In \\boxed{}."
    assert with_suffix(chat, SUFFIX) == chat
