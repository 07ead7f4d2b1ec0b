"""Settings of prompts: the domains that they belong to, and how they are read."""

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
    """Text that only the teacher reads, after the suffix. Fields of the row stand in braces, such
    as {ground_truth} or {solution}: on-policy self-distillation."""
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


@settings
class DataSettings:
    """How prompts are read."""

    cache_dir: Text = ""
    """Folder of the prepared data sets; empty is WORKDIR/datasets."""
    max_prompt_tokens: PositiveCount = 2048
    """Longest prompt in tokens, template included; longer prompts are left out, never cut."""
    max_teacher_prompt_tokens: Count = 0
    """Longest prompt with a teacher_context; 0 takes max_prompt_tokens."""
    enable_thinking: Flag = False
    """Passed to the chat template; Qwen3's template knows it, others ignore it."""
    skip_bad_rows: Flag = False
    """Leave out rows that cannot be read, and say which, instead of refusing to start."""
