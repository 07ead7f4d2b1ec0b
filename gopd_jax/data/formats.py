r"""One raw row of a known data set -> chat messages, ground truth, and the fields that are carried along.

Comes in: a dict as a JSON line or a parquet row holds it. Goes out: `Parsed`, or a ValueError that says what is wrong. Which
format a row has is found from its fields: `FORMATS` is a list of predicates, the first that fits decides.

    own           messages | prompt | question | problem, and ground_truth
    eurus-code    verl fields, a reward_model.ground_truth of inputs and outputs (PRIME-RL/Eurus-2-RL-Data)
    verl          verl fields: data_source, prompt, ability, reward_model.ground_truth, extra_info
    livecodebench, evalplus, humaneval, mbpp (also MBPP+): see `code_formats.py`
    deepmath      question, final_answer, difficulty, topic, r1_solution_1.. (zwhe99/DeepMath-103K)
    gsm8k         question, answer that ends in "#### number"
    math          problem, solution whose last \boxed{} is the answer, level, type (hendrycks MATH)
    plain         messages | prompt | question | problem, and answer
"""

from collections.abc import Callable
import dataclasses
import json
import math
import re
from typing import Any

from gopd_jax.data import code_formats
from gopd_jax.rewards.math import last_boxed

PROMPT_KEYS = ("messages", "prompt", "question", "problem")
_THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?")
Fields = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Parsed:
    """A row read: the name of its format, chat messages, ground truth as text, and the fields that are left."""

    format: str
    messages: list[dict[str, str]]
    ground_truth: str
    extra: Fields


def read(raw: Fields) -> Parsed:
    """Reads a row by the first format that fits; fields that are null count as absent."""
    row = {key: value for key, value in raw.items() if value is not None}
    for name, fits, take in FORMATS:
        if fits(row):
            extra = dict(raw)
            try:
                prompt, ground_truth = take(extra)
            except ValueError:
                raise
            except Exception as error:  # a field of a type or form that its format does not have
                raise ValueError(
                    f"not a row of format {name}: {type(error).__name__}: {error}"
                ) from error
            return Parsed(name, prompt, ground_truth, extra)
    found = ", ".join(raw) or "an empty row"
    if not any(key in row for key in PROMPT_KEYS):
        raise ValueError(f"no prompt: wanted one of {', '.join(PROMPT_KEYS)}, found {found}")
    raise ValueError(
        "no ground truth: wanted one of ground_truth, reward_model.ground_truth, answer, or the fields of another known format "
        f"({', '.join(name for name, _, _ in FORMATS)}); found {found}"
    )


def _own(extra: Fields) -> tuple[list[dict[str, str]], str]:
    return _prompt(extra), text_of(extra.pop("ground_truth"), "ground_truth")


def _verl(extra: Fields) -> tuple[list[dict[str, str]], str]:
    model = extra["reward_model"]
    extra["reward_model"] = {key: field for key, field in model.items() if key != "ground_truth"}
    return _prompt(extra), text_of(model["ground_truth"], "reward_model.ground_truth")


def _eurus(extra: Fields) -> tuple[list[dict[str, str]], str]:
    messages, ground_truth = _verl(extra)
    spec, note = code_formats.inputs_and_outputs(
        json.loads(ground_truth), " ".join(m["content"] for m in messages)
    )
    if note:
        last = max(i for i, message in enumerate(messages) if message["role"] == "user")
        messages[last] = {
            **messages[last],
            "content": messages[last]["content"].rstrip() + "\n\n" + note,
        }
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


def _is_verl(row: Fields) -> bool:
    model = row.get("reward_model")
    return isinstance(model, dict) and model.get("ground_truth") is not None and _has_prompt(row)


def _deepmath(extra: Fields) -> tuple[list[dict[str, str]], str]:
    for key in (
        "r1_solution_2",
        "r1_solution_3",
    ):  # two thirds of 5 GB; one solution is enough for a teacher_context
        extra.pop(key, None)
    return _prompt(extra), text_of(extra.pop("final_answer"), "final_answer")


def _gsm8k(extra: Fields) -> tuple[list[dict[str, str]], str]:
    value = extra["answer"].rsplit("####", 1)[1].strip()  # the reasoning stays in `answer`
    return _prompt(extra), text_of(
        value.replace(",", "") if _THOUSANDS.fullmatch(value) else value, "answer"
    )


def _math(extra: Fields) -> tuple[list[dict[str, str]], str]:
    answer = last_boxed(text_of(extra["solution"], "solution"))
    if answer is None:
        raise ValueError(
            f"solution has no \\boxed{{}}, so there is no ground truth: {extra['solution'][-80:]!r}"
        )
    return _prompt(extra), text_of(answer, "the last \\boxed{} of solution")


def _plain(extra: Fields) -> tuple[list[dict[str, str]], str]:
    return _prompt(extra), text_of(extra.pop("answer"), "answer")


def _has_prompt(row: Fields) -> bool:
    return any(key in row for key in PROMPT_KEYS)


def _code(
    take: Callable[[Fields], tuple[str, Fields]],
) -> Callable[[Fields], tuple[list[dict[str, str]], str]]:
    def convert(extra: Fields) -> tuple[list[dict[str, str]], str]:
        prompt, spec = take(extra)
        return [{"role": "user", "content": text_of(prompt, "prompt")}], json.dumps(spec)

    return convert


FORMATS: list[
    tuple[str, Callable[[Fields], bool], Callable[[Fields], tuple[list[dict[str, str]], str]]]
] = [
    ("own", lambda row: "ground_truth" in row and _has_prompt(row), _own),
    ("eurus-code", _is_eurus, _eurus),
    ("verl", _is_verl, _verl),
    *((name, fits, _code(take)) for name, fits, take in code_formats.FORMATS),
    ("deepmath", lambda row: {"question", "final_answer"} <= row.keys(), _deepmath),
    (
        "gsm8k",
        lambda row: (
            "question" in row and isinstance(row.get("answer"), str) and "####" in row["answer"]
        ),
        _gsm8k,
    ),
    ("math", lambda row: {"problem", "solution"} <= row.keys() and "answer" not in row, _math),
    ("plain", lambda row: "answer" in row and _has_prompt(row), _plain),
]


def _prompt(extra: Fields) -> list[dict[str, str]]:
    """Takes the prompt out of `extra` (in place), as chat messages."""
    key = next(key for key in PROMPT_KEYS if extra.get(key) is not None)
    value = extra.pop(key)
    if isinstance(value, str) and key != "messages":
        return [{"role": "user", "content": text_of(value, key)}]
    if not isinstance(value, list):
        raise ValueError(
            f"{key} must be a list of messages{'' if key == 'messages' else ' or a string'}, not {value!r}"
        )
    messages = []
    for index, message in enumerate(value):
        if not isinstance(message, dict):
            raise ValueError(
                f"{key}[{index}] must be an object with role and content, not {message!r}"
            )
        unknown = [
            name
            for name, field in message.items()
            if name not in ("role", "content") and field is not None
        ]
        if unknown:
            raise ValueError(
                f"{key}[{index}] has {', '.join(unknown)}: only role and content can be carried"
            )
        messages.append(
            {
                name: text_of(message.get(name), f"{key}[{index}].{name}", False)
                for name in ("role", "content")
            }
        )
    roles = [message["role"] for message in messages]
    if "user" not in roles or roles[-1] == "assistant":
        raise ValueError(
            f"{key} must hold a user message and not end with the assistant's, its roles are {roles}"
        )
    return messages


def text_of(value: Any, name: str, convert: bool = True) -> str:
    """`value` as text that is not blank; with `convert` numbers are written out and lists and dicts become JSON."""
    if convert and isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    elif (
        convert
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
    ):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, not {value!r}")
    if not value.strip():
        raise ValueError(f"{name} is blank")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is not valid Unicode: {error}") from error
    return value
