"""What reaches the model of a conversation, and what a template that drops a part is told."""

import copy
import dataclasses

from chat_cases import CALL, CALLED, CONVERSATION, SYSTEM, TEMPLATE, TURNS, WEATHER, row
import pytest

from gopd_jax.data import rows
from gopd_jax.data.encode import encode_all
from gopd_jax.data.messages import Chat
from gopd_jax.data.teacher_prompts import add_teacher_context
from gopd_jax.data.template_check import variables
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.types import Prompt

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def load(tokenizer_folder):
    """Loads the small tokenizer with a chat template."""

    def loaded(template=TEMPLATE, **kwargs) -> ChatTokenizer:
        return ChatTokenizer.load(tokenizer_folder, chat_template=template, template_kwargs=kwargs)

    return loaded


@pytest.fixture
def qwen3(load, shared_data):
    return load((shared_data / "qwen3_chat_template.jinja").read_text())


def ids_of_transformers(tokenizer, chat, **kwargs):
    """The ids that a call of `apply_chat_template` gives for a chat."""
    messages, tools = copy.deepcopy((chat.messages, chat.tools))
    return tokenizer.tokenizer.apply_chat_template(
        messages, tools=tools, add_generation_prompt=True, **kwargs
    )["input_ids"]


CHATS = {
    "plain": Chat([TURNS[0]]),
    "turns": Chat([SYSTEM, *TURNS]),
    "tools": Chat(CONVERSATION, [WEATHER]),
    "two calls": Chat(
        [
            TURNS[0],
            {**CALLED[0], "content": "Let me see.", "tool_calls": [CALL, CALL]},
            CALLED[1],
            {"role": "tool", "content": ""},
            TURNS[2],
        ],
        [WEATHER, {"name": "stop", "parameters": {}}],
        {"enable_thinking": True},
    ),
    "text": Chat(
        [
            TURNS[0],
            {
                "role": "assistant",
                "tool_calls": [{"function": {"name": "f", "arguments": '{"a":  [1.0, null]}'}}],
            },
            CALLED[1],
        ]
    ),
}


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
def test_ids_are_those_of_transformers(load, chat):
    tokenizer = load(style="plain")
    (ids,) = tokenizer.encode_chats([chat])
    kwargs = {"style": "plain", "enable_thinking": False} | chat.template_kwargs
    assert ids.tolist() == ids_of_transformers(tokenizer, chat, **kwargs)


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
def test_ids_of_qwen3_are_those_of_transformers(qwen3, chat):
    (ids,) = qwen3.encode_chats([chat])
    kwargs = {"enable_thinking": False} | chat.template_kwargs
    assert ids.tolist() == ids_of_transformers(qwen3, chat, **kwargs)


def test_a_batch_holds_chats_of_all_kinds(load):
    tokenizer = load()
    together = tokenizer.encode_chats(list(CHATS.values()))
    for ids, chat in zip(together, CHATS.values(), strict=True):
        assert ids.tolist() == tokenizer.encode_chats([chat])[0].tolist()
    assert tokenizer.encode_chats([]) == []


def test_kwargs_of_a_row_override_those_of_the_run(load):
    tokenizer = load(style="run", enable_thinking=True)
    rendered = [
        tokenizer.render(Chat([TURNS[0]], template_kwargs=kwargs))
        for kwargs in ({}, {"style": "row"}, {"enable_thinking": False})
    ]
    heads = [text.split("<")[0] for text in rendered]
    assert heads == ["[run]", "[row]", "[run][fast]"]
    assert tokenizer.template_fingerprint != load(style="run").template_fingerprint
    assert tokenizer.template_fingerprint != load(enable_thinking=True).template_fingerprint


# ---- What is dropped.

WITHOUT = {  # a template that lacks a part, a chat that has it, and what the error names
    "developer": (
        TEMPLATE.replace("in messages %}", "in messages if m.role != 'developer' %}"),
        Chat([{"role": "developer", "content": "Be kind."}, TURNS[0]]),
        "messages[0].content of role developer='Be kind.'",
    ),
    "an early turn": (
        TEMPLATE.replace("in messages %}", "in messages[-1:] %}"),
        Chat(TURNS),
        "messages[0].content of role user='Which city is it?'",
    ),
    "text parts": (
        TEMPLATE.replace("{{ part.text }}", ""),
        Chat([{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]),
        "part 0 of messages[0].content of role user='Why?'",
    ),
    "name of a call": (
        TEMPLATE.replace("call.function |", "call.function.arguments |"),
        Chat(CONVERSATION, [WEATHER]),
        "messages[4].tool_calls[0].function.name='get_weather'",
    ),
    "arguments": (
        TEMPLATE.replace("call.function | tojson", "call.function.name"),
        Chat(CONVERSATION, [WEATHER]),
        "name 0 of messages[4].tool_calls[0].function.arguments='city'",
    ),
    "arguments as text": (
        TEMPLATE.replace("call.function | tojson", "call.function.name"),
        CHATS["text"],
        "name 0 of messages[1].tool_calls[0].function.arguments='a'",
    ),
    "tool result": (
        TEMPLATE.replace("m.content is string", "m.role != 'tool' and m.content is string").replace(
            "m.content or []", "[]"
        ),
        Chat(CONVERSATION, [WEATHER]),
        "messages[5].content of role tool='rain'",
    ),
    "thinking of this turn": (
        TEMPLATE.replace("m.reasoning_content %}", "false %}"),
        Chat([TURNS[0], *CALLED]),
        "messages[1].reasoning_content='I must look.'",
    ),
    "tools": (CHATML, Chat([TURNS[0]], [WEATHER]), "tools[0].function.name='get_weather'"),
    "description": (
        TEMPLATE.replace("tool | tojson", "tool.function.name"),
        Chat([TURNS[0]], [WEATHER]),
        "tools[0].function.description='The weather of a city.'",
    ),
    "parameters": (
        TEMPLATE.replace("tool | tojson", "tool.function.name ~ tool.function.description"),
        Chat([TURNS[0]], [WEATHER]),
        "name 0 of tools[0].function.parameters.properties='city'",
    ),
}


@pytest.mark.parametrize("template, chat, part", WITHOUT.values(), ids=WITHOUT)
def test_a_template_that_drops_a_part_is_refused(load, template, chat, part):
    assert template != TEMPLATE
    tokenizer = load(template)
    with pytest.raises(ValueError) as error:
        tokenizer.encode_chats([Chat([TURNS[2]]), dataclasses.replace(chat, name="prompt 'p7'")])
    said = str(error.value)
    assert said.startswith(f"prompt 'p7': the chat template of {tokenizer.path!r} drops {part}: ")
    assert "\n" not in said
    load().encode_chats([chat])  # the whole template renders it


def test_a_part_of_a_later_row_is_seen_too(load):
    """Rows of one shape are tried once; the shape of a row is more than its roles."""
    tokenizer = load(TEMPLATE.replace("call.function | tojson", "call.function.name"))
    bare = {**CALL, "function": {"name": "stop"}}
    first = Chat([TURNS[0], {**CALLED[0], "tool_calls": [bare]}, CALLED[1]])
    tokenizer.encode_chats([first] * 3)
    with pytest.raises(ValueError, match=r"tool_calls\[0\]\.function\.arguments"):
        tokenizer.encode_chats([first, Chat([TURNS[0], *CALLED])])


def test_a_part_that_is_rendered_in_another_form_is_not_dropped(load):
    tokenizer = load(TEMPLATE.replace("m.content | trim", "m.content | upper"))
    tokenizer.encode_chats([Chat([SYSTEM, *TURNS])])


def test_a_template_that_reads_the_texts_is_tried_part_by_part(load):
    refuse = "{% if messages[0].content != 'Answer in one word.' %}{{ raise_exception('no') }}"
    tokenizer = load(refuse + "{% endif %}" + TEMPLATE)
    tokenizer.encode_chats([Chat(CONVERSATION, [WEATHER])])
    blind = load(refuse + "{% endif %}" + CHATML.replace("in messages", "in messages[:2]"))
    with pytest.raises(ValueError, match=r"drops messages\[2\]\.content of role assistant"):
        blind.encode_chats([Chat([SYSTEM, *TURNS])])


def test_qwen3_leaves_out_early_thinking_with_one_warning(qwen3, capsys):
    tagged = {"role": "assistant", "content": "<think>\nA thought.\n</think>\n\nUlm."}
    chats = [
        Chat(CONVERSATION, [WEATHER], name="prompt 'a'"),
        Chat([TURNS[0], tagged, TURNS[2]]),
        Chat(CONVERSATION[1:], [WEATHER]),
    ]
    first, *_ = qwen3.encode_chats(chats)
    text = qwen3.decode(first, skip_special_tokens=False)
    assert "I must look." in text and "An early thought." not in text
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("warning") == 1
    assert "leaves out the thinking of finished turns, first messages[2].reasoning_content" in said
    assert "prompt 'a'" in said


@pytest.mark.parametrize(
    "chat, part",
    [
        (Chat([{"role": "developer", "content": "x"}, TURNS[0]]), r"messages\[0\]\.content of"),
        (Chat([{"role": "user", "content": [{"type": "text", "text": "x"}]}]), r"part 0 of "),
    ],
)
def test_qwen3_drops_developers_and_text_parts(qwen3, chat, part):
    with pytest.raises(ValueError, match=f"drops {part}"):
        qwen3.encode_chats([chat])


def test_an_unknown_keyword_argument_is_refused(load, qwen3):
    chat = Chat([TURNS[0]], template_kwargs={"styl": "x"}, name="prompt 'p'")
    message = r"^prompt 'p': chat_template_kwargs\.styl: .* expected one of enable_thinking, style$"
    with pytest.raises(ValueError, match=message):
        load().encode_chats([chat])
    with pytest.raises(ValueError, match=r"^template_kwargs\.styl: .* no such variable"):
        load(styl="x").encode_chats([Chat([TURNS[0]])])
    with pytest.raises(ValueError, match=r"kwargs\.style: .* expected one of enable_thinking$"):
        qwen3.encode_chats([dataclasses.replace(chat, template_kwargs={"style": "x"})])
    with pytest.raises(ValueError, match=r"chat_template_kwargs\.enable_thinking: .* none$"):
        load(CHATML).encode_chats(
            [dataclasses.replace(chat, template_kwargs={"enable_thinking": True})]
        )
    load(CHATML, enable_thinking=True).encode_chats([Chat([TURNS[0]])])  # the switch of the run


@pytest.mark.parametrize(
    "template, known",
    [
        ("{% set x = x if x is defined else 1 %}{{ x }}", {"x"}),
        ("{% if x is not defined %}{% set x = 'medium' %}{% endif %}{{ x }}", {"x"}),
        ("{% for m in messages %}{% if m.y %}{% break %}{% endif %}{% endfor %}", {"messages"}),
        ("{% generation %}{{ z }}{%- endgeneration -%}", {"z"}),
        ("{% set own = 1 %}{{ own }} word", set()),
    ],
)
def test_variables_of_a_template(template, known):
    assert variables(template) == known


def test_a_refusal_of_the_template_names_the_prompt(load):
    tokenizer = load("{{ messages[0].content + 1 }}")
    with pytest.raises(ValueError, match=r"^prompt 'p': the chat template of .* refuses it \("):
        tokenizer.encode_chats([Chat([TURNS[0]], name="prompt 'p'")])


# ---- Data sets.


def prompt(**fields) -> Prompt:
    read = rows.parse(row(**fields), "p")
    more = (read["extra"], read["tools"], read["template_kwargs"])
    return Prompt("p", tuple(read["messages"]), "d", "rain", *more)


def test_suffix_and_teacher_context_go_to_the_last_user_message(load):
    tokenizer = load()
    source = prompt(chat_template_kwargs={"style": "brief"})
    encoded, _ = encode_all([source], tokenizer, " Hurry.", 10_000)
    (read,), _ = add_teacher_context(
        encoded, tokenizer, " Hurry.", " It is {ground_truth}.", 10_000
    )
    student, teacher = map(tokenizer.decode, (read.tokens, read.teacher_tokens))
    asked = "<user>And its weather?"
    whole = tokenizer.render(Chat(source.messages, source.tools, source.template_kwargs))
    assert whole.startswith("[brief]") and whole.endswith("<tool>rain<assistant>")
    assert student == whole.replace(asked, f"{asked} Hurry.")
    assert teacher == whole.replace(asked, f"{asked} Hurry. It is rain.")


def test_the_suffix_is_added_to_the_last_text_part(load):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    source = prompt(messages=[{"role": "user", "content": parts}])
    ((encoded),), _ = encode_all([source], load(), "!", 10_000)
    assert load().decode(encoded.tokens).endswith("<user>one;two!;<assistant>")
    assert parts[1]["text"] == "two"
