"""Whether two models write chats in the same way: what their templates render, where they stop.

In: two tokenizers. Out: what differs, in words. The student's template and stop ids are used for
all models of a run, so a model that was trained with others reads chats it has not seen.
"""

from gopd_jax.data.messages import Messages
from gopd_jax.data.tokenizer import ChatTokenizer

# A question alone, as most rows hold it, and a chat with every role.
PROBES: tuple[Messages, ...] = (
    ({"role": "user", "content": "What is 17 * 23?"},),
    (
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is 17 * 23?"},
        {"role": "assistant", "content": "391"},
        {"role": "user", "content": "And 17 + 23?"},
    ),
)
SHOWN = 24  # characters from the first difference on


def differences(student: ChatTokenizer, other: ChatTokenizer) -> list[str]:
    """What a model does otherwise than the student; empty when nothing differs."""
    found = []
    for messages in PROBES:
        ours, theirs = _rendered(student, messages), _rendered(other, messages)
        if ours != theirs:
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), -1)
            at = min(len(ours), len(theirs)) if at < 0 else at
            found.append(
                f"its chat template renders {theirs[at : at + SHOWN]!r} from character {at} on, "
                f"the student's {ours[at : at + SHOWN]!r}"
            )
            break
    if student.stop_ids != other.stop_ids:
        found.append(f"its stop ids are {[*other.stop_ids]}, the student's {[*student.stop_ids]}")
    return found


def _rendered(tokenizer: ChatTokenizer, messages: Messages) -> str:
    try:
        return tokenizer.tokenizer.apply_chat_template(
            list(messages),
            add_generation_prompt=True,
            enable_thinking=tokenizer.enable_thinking,
            tokenize=False,
        )
    except MemoryError:
        raise
    except Exception as e:  # a template is a program of the model's, and may raise anything
        return f"an error ({e})"
