r"""One raw row of a known data set -> chat messages, ground truth, and the remaining fields.

In: a row as a JSON line or a parquet file holds it. Out: `Parsed`, or a ValueError that says what
is wrong. The fields of a row decide its format: the first format of `FORMATS` that fits. Does not
check that a ground truth can be verified.

    own           messages | prompt | question | problem, and ground_truth
    eurus-code    fields of verl whose reward_model.ground_truth holds inputs and outputs
                  (PRIME-RL/Eurus-2-RL-Data)
    verl          data_source, prompt, ability, reward_model.ground_truth, extra_info
    livecodebench, evalplus, humaneval, mbpp (also MBPP+): see `code_formats`
    deepmath      question, final_answer, difficulty, topic, r1_solution_1 to _3
                  (zwhe99/DeepMath-103K)
    gsm8k         question, answer that ends in "#### number"
    math          problem, solution whose last \boxed{} is the answer, level, type (MATH)
    plain         messages | prompt | question | problem, and answer

A row of any format may have "tools" and "chat_template_kwargs", see `conversations`.
"""

from collections.abc import Callable
import dataclasses
import json
import re
from typing import Literal, NamedTuple

from gopd_jax.data import code_formats
from gopd_jax.data.code_formats import Fields
from gopd_jax.data.conversations import (
    read_messages,
    take_template_kwargs,
    take_tools,
    text_of,
)
from gopd_jax.data.messages import Message, Tools, content_text
from gopd_jax.rewards.math import last_boxed
from gopd_jax.rewards.verifier import check_ground_truth

NO_GROUND_TRUTH = "prompt alone"  # the format of a row without a ground truth
PROMPT_KEYS = ("messages", "prompt", "question", "problem")
_THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?")


@dataclasses.dataclass(frozen=True)
class Parsed:
    """A row that was understood.

    format: name of its format.
    messages: the prompt as a chat.
    ground_truth: a text; for code, a test specification as JSON; "" for a prompt alone.
    extra: the remaining fields.
    tools: JSON schemas, or None.
    template_kwargs: keyword arguments of the chat template.
    """

    format: str
    messages: list[Message]
    ground_truth: str
    extra: Fields
    tools: Tools | None
    template_kwargs: Fields


class Format(NamedTuple):
    """A format of rows.

    name: as reports name it.
    fits: tells whether a row without null fields has this format.
    take: removes prompt and ground truth from a row, and returns both.
    """

    name: str
    fits: Callable[[Fields], bool]
    take: Callable[[Fields], tuple[list[Message], str]]


def read(raw: Fields, prompt_alone: bool = False) -> Parsed:
    """Reads a row by the first format that fits; fields that are null count as absent.

    Args:
        raw: the row.
        prompt_alone: a row may have no ground truth, or one that its format does not allow.

    Raises:
        ValueError: no format fits, or a field does not hold what its format requires.
    """
    row = {key: value for key, value in raw.items() if value is not None}
    for name, fits, take in FORMATS:
        if not fits(row):
            continue
        extra = dict(raw)
        try:
            messages, ground_truth = take(extra)
            tools, template_kwargs = take_tools(extra), take_template_kwargs(extra)
        except ValueError:
            if prompt_alone and take in PROMPT_AS_IT_STANDS:
                break
            raise
        except Exception as error:  # a field of a type or form that its format does not allow
            raise ValueError(
                f"not a row of format {name}: {type(error).__name__}: {error}"
            ) from error
        return Parsed(name, messages, ground_truth, extra, tools, template_kwargs)
    if prompt_alone and _has_prompt(row):
        extra = dict(raw)
        messages = _prompt(extra)
        tools, template_kwargs = take_tools(extra), take_template_kwargs(extra)
        return Parsed(NO_GROUND_TRUTH, messages, "", extra, tools, template_kwargs)
    found = ", ".join(raw) or "an empty row"
    if not _has_prompt(row):
        raise ValueError(f"no prompt: expected one of {', '.join(PROMPT_KEYS)}, found {found}")
    raise ValueError(
        "no ground truth: expected one of ground_truth, reward_model.ground_truth, answer, or the "
        f"fields of another known format ({', '.join(f.name for f in FORMATS)}); found {found}; a "
        'domain with reward "none" needs none'
    )


def guess_reward_kind(ground_truth: str) -> Literal["math", "code"]:
    """Returns "code" for a valid test specification, and "math" for any other ground truth."""
    if not ground_truth.lstrip().startswith("{"):  # most rows: saves parsing them
        return "math"
    try:
        check_ground_truth("code", ground_truth)
    except ValueError:
        return "math"
    return "code"


# ---- The prompt of a row.


def _has_prompt(row: Fields) -> bool:
    return any(key in row for key in PROMPT_KEYS)


def _prompt(extra: Fields) -> list[Message]:
    """Removes the prompt from `extra` and returns it as a chat."""
    key = next(key for key in PROMPT_KEYS if extra.get(key) is not None)
    value = extra.pop(key)
    if isinstance(value, str) and key != "messages":
        return [{"role": "user", "content": text_of(value, key)}]
    if not isinstance(value, list):
        kinds = "a list of messages" if key == "messages" else "a list of messages or a string"
        raise ValueError(f"{key} must be {kinds}, not {value!r}")
    return read_messages(value, key)


# ---- One function per format: removes prompt and ground truth from the row, and returns both.


def _own(extra: Fields) -> tuple[list[Message], str]:
    return _prompt(extra), text_of(extra.pop("ground_truth"), "ground_truth")


def _verl(extra: Fields) -> tuple[list[Message], str]:
    model = extra["reward_model"]
    extra["reward_model"] = {key: field for key, field in model.items() if key != "ground_truth"}
    return _prompt(extra), text_of(model["ground_truth"], "reward_model.ground_truth")


def _is_verl(row: Fields) -> bool:
    model = row.get("reward_model")
    return isinstance(model, dict) and model.get("ground_truth") is not None and _has_prompt(row)


def _eurus(extra: Fields) -> tuple[list[Message], str]:
    messages, ground_truth = _verl(extra)
    shown = " ".join(map(content_text, messages))
    spec, note = code_formats.inputs_and_outputs(json.loads(ground_truth), shown)
    if note:
        last = max(i for i, message in enumerate(messages) if message["role"] == "user")
        content = messages[last]["content"].rstrip() + "\n\n" + note
        messages[last] = {**messages[last], "content": content}
    return messages, json.dumps(spec)


def _is_eurus(row: Fields) -> bool:
    if not _is_verl(row):
        return False
    value = row["reward_model"]["ground_truth"]
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return False
    try:
        value = json.loads(value)
    except ValueError:
        return False
    return isinstance(value, dict) and {"inputs", "outputs"} <= value.keys()


def _deepmath(extra: Fields) -> tuple[list[Message], str]:
    # Two thirds of 5 GB; one solution is enough for a teacher_context.
    for key in ("r1_solution_2", "r1_solution_3"):
        extra.pop(key, None)
    return _prompt(extra), text_of(extra.pop("final_answer"), "final_answer")


def _gsm8k(extra: Fields) -> tuple[list[Message], str]:
    value = extra["answer"].rsplit("####", 1)[1].strip()  # the reasoning stays in `answer`
    if _THOUSANDS.fullmatch(value):
        value = value.replace(",", "")
    return _prompt(extra), text_of(value, "answer")


def _is_gsm8k(row: Fields) -> bool:
    return "question" in row and isinstance(row.get("answer"), str) and "####" in row["answer"]


def _math(extra: Fields) -> tuple[list[Message], str]:
    answer = last_boxed(text_of(extra["solution"], "solution"))
    if answer is None:
        raise ValueError(
            f"solution has no \\boxed{{}}, so there is no ground truth: {extra['solution'][-80:]!r}"
        )
    return _prompt(extra), text_of(answer, "the last \\boxed{} of solution")


def _plain(extra: Fields) -> tuple[list[Message], str]:
    return _prompt(extra), text_of(extra.pop("answer"), "answer")


def _code(
    convert: Callable[[Fields], tuple[str, Fields]],
) -> Callable[[Fields], tuple[list[Message], str]]:
    """`take` of a format of `code_formats`."""

    def take(extra: Fields) -> tuple[list[Message], str]:
        prompt, spec = convert(extra)
        return [{"role": "user", "content": text_of(prompt, "prompt")}], json.dumps(spec)

    return take


FORMATS = [
    Format("own", lambda row: "ground_truth" in row and _has_prompt(row), _own),
    Format("eurus-code", _is_eurus, _eurus),
    Format("verl", _is_verl, _verl),
    *(Format(name, fits, _code(convert)) for name, fits, convert in code_formats.FORMATS),
    Format("deepmath", lambda row: {"question", "final_answer"} <= row.keys(), _deepmath),
    Format("gsm8k", _is_gsm8k, _gsm8k),
    Format("math", lambda r: {"problem", "solution"} <= r.keys() and "answer" not in r, _math),
    Format("plain", lambda row: "answer" in row and _has_prompt(row), _plain),
]
# These only take the ground truth from a row; the others also write the prompt.
PROMPT_AS_IT_STANDS = (_own, _verl, _deepmath, _gsm8k, _math, _plain)
