"""Conversations with tools, and a chat template that renders all of them."""

import copy

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "default": None},
                "unit": {"enum": ["C", "F", None]},
            },
            "required": ["city"],
        },
    },
}
CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "Ulm", "unit": None, "days": 2}},
}
SYSTEM = {"role": "system", "content": "Answer in one word."}
TURNS = [
    {"role": "user", "content": "Which city is it?"},
    {"role": "assistant", "content": "Ulm.", "reasoning_content": "An early thought."},
    {"role": "user", "content": "And its weather?"},
]
CALLED = [
    {"role": "assistant", "reasoning_content": "I must look.", "tool_calls": [CALL]},
    {"role": "tool", "content": "rain", "tool_call_id": "call00001", "name": "get_weather"},
]
CONVERSATION = [SYSTEM, *TURNS, *CALLED]


def row(**fields) -> dict:
    """A row that uses everything, as a JSON line holds it, with `fields` changed."""
    whole = {"messages": CONVERSATION, "tools": [WEATHER], "ground_truth": "rain"}
    return copy.deepcopy(whole | fields)


# It renders every part, and knows two keyword arguments.
TEMPLATE = """\
{%- if style is defined %}[{{ style }}]{% endif %}
{%- if enable_thinking is defined and enable_thinking is false %}[fast]{% endif %}
{%- for tool in tools or [] %}<tool>{{ tool | tojson }}{% endfor %}
{%- for m in messages %}<{{ m.role }}>
{%- if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}
{%- if m.content is string %}{{ m.content | trim }}
{%- else %}{% for part in m.content or [] %}{{ part.text }};{% endfor %}{% endif %}
{%- for call in m.tool_calls or [] %}<call>{{ call.function | tojson }}{% endfor %}
{%- endfor %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""
