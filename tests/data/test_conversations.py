"""Rows with tools and several turns: what is read, from which files, and what is refused."""

import inspect
import json

from chat_cases import CALL, CONVERSATION, TURNS, WEATHER, row
from data_cases import write
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerBase

from gopd_jax.data import rows
from gopd_jax.data.datasets import prepare
from gopd_jax.data.select import question_hash
from gopd_jax.data.settings import RESERVED
from gopd_jax.types import Prompt

KWARGS = {"style": {"z": 1.0, "a": [None, True, "é"]}, "n": 3}


def in_order(value):
    """A value with the order of its keys and the types of its leaves."""
    return json.dumps(value)


def test_a_data_set_on_disk_keeps_order_and_types(tmp_path):
    lines = [row(chat_template_kwargs=KWARGS), row(messages=TURNS, tools=None), row(tools=[])]
    source = write(tmp_path / "a.jsonl", lines)
    first, second, third = prepare(source, tmp_path / "prepared", domain="d")
    assert in_order(list(first.messages[:4])) == in_order(CONVERSATION[:4])
    assert first.messages == tuple(CONVERSATION)
    assert in_order(first.messages[4]["tool_calls"]) == in_order([CALL])
    assert "content" not in first.messages[4]
    assert in_order(first.tools) == in_order([WEATHER])
    assert in_order(first.template_kwargs) == in_order(KWARGS)
    assert first.extra == {}
    assert (second.tools, second.template_kwargs, second.extra) == (None, {}, {"tools": None})
    assert third.tools == []


@pytest.mark.parametrize("field", ["messages", "prompt"])
@pytest.mark.parametrize("as_text", [False, True])
def test_formats_of_trl_and_verl(field, as_text):
    raw = row(chat_template_kwargs=KWARGS)
    raw[field] = raw.pop("messages")
    raw["reward_model"] = {"ground_truth": raw.pop("ground_truth"), "style": "rule"}
    if as_text:
        for name in ("tools", "chat_template_kwargs"):
            raw[name] = json.dumps(raw[name])
    parsed = rows.parse(raw, "id")
    assert parsed["messages"] == CONVERSATION
    assert in_order(parsed["tools"]) == in_order([WEATHER])
    assert in_order(parsed["template_kwargs"]) == in_order(KWARGS)
    assert parsed["extra"] == {"reward_model": {"style": "rule"}}


def test_parquet_fills_objects_of_one_column_with_nulls_which_are_left_out(tmp_path):
    other = {"type": "function", "function": {"name": "stop", "parameters": {"properties": {}}}}
    stop = {"type": "function", "function": {"name": "stop", "arguments": {"now": True}}}
    call = {"role": "assistant", "content": "", "tool_calls": [stop]}
    raw = [
        {"messages": [TURNS[0]], "tools": [WEATHER], "answer": "1"},
        {"messages": [TURNS[0], call, {"role": "tool", "content": ""}], "answer": "1"},
        {"messages": [TURNS[0]], "tools": [other], "answer": "1"},
        {"messages": [TURNS[0]], "chat_template_kwargs": {"n": 1}, "answer": "1"},
    ]
    source = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(raw, _schema(raw)), source)
    assert pq.read_table(source).to_pylist()[2]["tools"][0]["function"]["description"] is None
    found = list(prepare(source, tmp_path / "prepared", domain="d"))
    assert [list(p.messages) for p in found] == [r["messages"] for r in raw]
    known = json.loads(in_order(WEATHER))
    del known["function"]["parameters"]["properties"]["city"]["default"]
    assert found[0].tools == [known]  # nulls in lists stay
    assert [p.tools for p in found[1:]] == [None, [other], None]
    assert [p.template_kwargs for p in found] == [{}, {}, {}, {"n": 1}]


def _schema(raw):
    """The schema that holds every row."""
    tables = [pa.Table.from_pylist([r]).schema for r in raw]
    return pa.unify_schemas(tables, promote_options="permissive")


def messages(*more):
    return {"messages": [TURNS[0], *more]}


def assistant(**fields):
    return messages({"role": "assistant", **fields}, TURNS[2])


BAD = {
    "role": (
        {"messages": [{"role": "human", "content": "?"}]},
        r"messages\[0\]\.role='human': expected one of system, developer, user, assistant, tool",
    ),
    "key": (assistant(content="x", weight=0), r"messages\[1\] has weight: expected only role, "),
    "last": (messages({"role": "assistant", "content": "42"}), "expected the last one to be user"),
    "no text": (assistant(content=[]), r"messages\[1\]\.content must be a string, not \[\]"),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]},
        r"messages\[0\]\.content\[0\]=.*: expected \{\"type\": \"text\"",
    ),
    "blank part": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": " "}]}]},
        r"messages\[0\]\.content\[0\]\.text is blank",
    ),
    "nothing": (assistant(tool_calls=[]), r"messages\[1\]\.content must be a string, not None"),
    "call of a user": (
        {"messages": [{**TURNS[0], "tool_calls": []}]},
        r"messages\[0\] has tool_calls, but its role is 'user'",
    ),
    "calls": (assistant(tool_calls="f()"), r"tool_calls='f\(\)': expected a list of calls"),
    "unnamed call": (
        assistant(tool_calls=[{"function": {"arguments": {}}}]),
        r"messages\[1\]\.tool_calls\[0\]=.*: expected \{\"type\": \"function\"",
    ),
    "arguments": (
        assistant(tool_calls=[{"function": {"name": "f", "arguments": [1]}}]),
        r"tool_calls\[0\]\.function\.arguments=\[1\]: expected an object, or a string of JSON",
    ),
    "thinking": (assistant(content="x", thinking=["y"]), r"messages\[1\]\.thinking must be a str"),
    "unicode": (
        assistant(tool_calls=[{"function": {"name": "f", "arguments": {"a": "\ud800"}}}]),
        r"messages\[1\] is not valid Unicode",
    ),
    "tools": ({"tools": {"name": "f"}}, r"tools=\{'name': 'f'\}: expected a list of JSON schemas"),
    "tool": ({"tools": ["f"]}, r"tools\[0\]='f': expected \{\"type\": \"function\""),
    "tools as text": ({"tools": "python"}, r"tools='python': expected JSON"),
    "a constant": ({"tools": '[{"name": "f", "x": NaN}]'}, "tools has no JSON form"),
    "kwargs": ({"chat_template_kwargs": [1]}, r"chat_template_kwargs=\[1\]: expected an object"),
    "reserved": (
        {"chat_template_kwargs": {"tools": []}},
        r"chat_template_kwargs\.tools: expected a variable of the chat template other than",
    ),
    "thinking switch": (
        {"chat_template_kwargs": {"enable_thinking": 0}},
        r"chat_template_kwargs\.enable_thinking=0: expected true or false",
    ),
}


@pytest.mark.parametrize("fields, message", BAD.values(), ids=BAD)
def test_malformed_conversations_are_refused_in_one_sentence(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        rows.parse(row(**fields), "id")
    assert "\n" not in str(error.value)


def test_every_option_of_apply_chat_template_is_reserved():
    options = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    assert options.keys() - {"self", "documents", "kwargs"} <= set(RESERVED)


def test_a_question_is_the_same_with_other_tools_and_text_in_parts():
    def prompt(content, **fields):
        return Prompt("p", ({"role": "user", "content": content},), "d", "1", **fields)

    parts = [{"type": "text", "text": "one  two"}, {"type": "text", "text": "three"}]
    same = [
        prompt("one two three"),
        prompt(parts),
        prompt("one two three", tools=[WEATHER]),
        prompt("one two three", template_kwargs={"enable_thinking": True}),
    ]
    assert len({question_hash(p) for p in same}) == 1
    assert question_hash(prompt("one two")) != question_hash(same[0])
