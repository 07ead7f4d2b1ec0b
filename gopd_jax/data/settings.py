"""Settings of prompts: the domains that they belong to, and how they are read."""

import dataclasses
import string
from typing import Annotated, Any

from pydantic import AfterValidator, JsonValue

from gopd_jax.rewards.settings import NONE, check_reward
from gopd_jax.runtime.schema import (
    Count,
    Flag,
    NonNegative,
    Positive,
    PositiveCount,
    Text,
    settings,
)

# Fields of a teacher_context that are not of the row.
STUDENT_ANSWER, FEEDBACK = OF_ANSWERS = ("student_answer", "feedback")
OWN_TEMPLATE = "own"  # a teacher_template

# What a chat template is given in another way, and the options of transformers beside it.
RESERVED = (
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversation",
    "conversations",
    "max_length",
    "messages",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "sanitize_control_tokens",
    "tokenize",
    "tokenizer_kwargs",
    "tools",
    "truncation",
)


def check_template_kwargs(kwargs: dict[str, Any], where: str) -> dict[str, Any]:
    """Checks keyword arguments of a chat template and returns them.

    Raises:
        ValueError: a name that is reserved, or an enable_thinking that is not true or false.
    """
    if reserved := [name for name in kwargs if name in RESERVED]:
        raise ValueError(
            f"{where}.{reserved[0]}: expected a variable of the chat template other than "
            f"{', '.join(RESERVED)}"
        )
    thinking = kwargs.get("enable_thinking", False)
    if not isinstance(thinking, bool):  # templates compare it with `is false`: 0 would be true
        raise ValueError(f"{where}.enable_thinking={thinking!r}: expected true or false")
    return kwargs


def shown_of_answers(context: str) -> tuple[str, ...]:
    """Which of `OF_ANSWERS` a teacher_context names; none in one that cannot be read."""
    try:
        named = {name for _, name, _, _ in string.Formatter().parse(context)}
    except ValueError:  # such as a lone brace: the first prompt says what is wrong
        return ()
    return tuple(name for name in OF_ANSWERS if name in named)


def _checked(kwargs: dict[str, Any]) -> dict[str, Any]:
    return check_template_kwargs(kwargs, "config.data.template_kwargs")


@settings
class DomainSettings:
    """One domain of prompts: its data, its verifier, its teacher."""

    train: Text = ""
    """Training prompts: a .jsonl, .jsonl.gz or .parquet file, a folder or pattern of them,
    "hf://datasets/OWNER/NAME/PATH" on the Hugging Face hub, or "tiny:NAME/SPLIT" of the embedded
    world. Required."""
    test: Text = ""
    """Test prompts, in the same forms. Required unless held_out is set or reward is "none"."""
    held_out: NonNegative = 0.0
    """Number of training prompts held out as the test set, or their share if it is below 1. They
    are chosen by a hash of the question, so that no question is on both sides. Where reward is
    "none" and there is no test set, 0 holds out 64 prompts, at most a tenth of them."""
    min_difficulty: NonNegative = 0.0
    """Training prompts with a lower "difficulty" are left out; 0 keeps all. The paper uses 6."""
    reward: Text = ""
    """How answers are verified: "math", "code", "package.module:function" for a function of yours,
    or "none" for a domain whose answers nobody can verify. Required."""
    teacher: Text = ""
    """The teacher of this domain: a Hugging Face folder or hub id. Required by method gopd; with
    sft, an empty teacher trains on the data set's own responses."""
    reward_scale: NonNegative | None = None
    """lambda of this teacher; None takes learner.reward_scale."""
    prompt_suffix: Text = ""
    """Text appended to the last user message of each prompt."""
    teacher_context: Text = ""
    """Text that only the teacher reads, after the suffix: on-policy self-distillation. Fields of
    the row stand in braces, such as {ground_truth} or {solution}; {student_answer} is the answer
    that the teacher is to score, and {feedback} what its verification found."""
    teacher_template: Text = ""
    """The chat template of the prompts that the teacher reads: "" is the student's, "own" that of
    the teacher's folder; else a file with a Jinja template."""
    share: Positive = 1.0
    """Share of each batch, relative to the other domains."""

    def check(self, where: str) -> None:
        """Raises ValueError for fields that do not go together; `where` names the domain."""
        if not self.train:
            raise ValueError(
                f"{where}.train must be set (a .jsonl or .parquet file, hf://datasets/..., or "
                "tiny:NAME/SPLIT)"
            )
        if not self.test and not self.held_out and self.reward != NONE:
            raise ValueError(
                f"{where}: test or held_out must be set (test prompts, or the number of training "
                "prompts held out as the test set)"
            )
        if self.held_out >= 1 and self.held_out != int(self.held_out):
            raise ValueError(
                f"{where}.held_out={self.held_out!r}: expected a share below 1, or a whole number "
                "of prompts"
            )
        if self.held_out and self.test not in ("", self.train):
            raise ValueError(
                f"{where}.held_out={self.held_out!r}: expected no other test set, but "
                f"{where}.test={self.test!r}; set one of the two"
            )
        check_reward(self.reward, f"{where}.reward")
        if self.shown_of_answers and self.reward == NONE:
            raise ValueError(
                f"{where}.teacher_context={self.teacher_context!r}: expected no "
                f"{{{self.shown_of_answers[0]}}} where {where}.reward={NONE!r}, because held-out "
                "answers are measured against a teacher that has not read them"
            )

    @property
    def prompts_teacher(self) -> bool:
        """Whether the teacher reads other prompts than the student."""
        return bool(self.teacher_context or self.teacher_template)

    @property
    def shown_of_answers(self) -> tuple[str, ...]:
        """Which of `OF_ANSWERS` the teacher reads."""
        return shown_of_answers(self.teacher_context)


@settings
class DataSettings:
    """How prompts are read."""

    cache_dir: Text = ""
    """Folder of the prepared data sets; empty is WORKDIR/datasets, and with a workdir on gs://
    datasets in the user's cache folder."""
    max_prompt_tokens: PositiveCount = 2048
    """Longest prompt in tokens, template included; longer prompts are left out, never cut."""
    max_teacher_prompt_tokens: Count = 0
    """Longest prompt that a teacher reads where it is not the student's; 0 takes max_prompt_tokens.
    Longer prompts are left out, but {student_answer} and {feedback} lose their ends until the
    prompt fits."""
    template_kwargs: Annotated[dict[str, JsonValue], AfterValidator(_checked)] = dataclasses.field(
        default_factory=lambda: {"enable_thinking": False}
    )
    """Keyword arguments of the chat template: data.template_kwargs.NAME=VALUE, where VALUE is JSON
    or a text. A row's chat_template_kwargs override them. A name that the template does not know is
    refused, except enable_thinking: Qwen3's template knows it, others ignore it."""
    skip_bad_rows: Flag = False
    """Leave out rows that cannot be read, and say which, instead of refusing to start."""
