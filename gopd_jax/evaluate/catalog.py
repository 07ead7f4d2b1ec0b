"""The benchmarks and suites known by name: their files, how they are verified, the paper's samples.

A table. `suites.py` finds and reads the files.
"""

import dataclasses

from gopd_jax.data.messages import MATH_SUFFIX
from gopd_jax.rewards.settings import RewardKind

DEFAULT_MAX_TOKENS = 16384  # of a response, as in the paper
# avg@32 and avg@4: arXiv 2602.12125, section 4.1
PAPER_SAMPLES: dict[RewardKind, int] = {"math": 32, "code": 4}
OWN_SAMPLES = 4  # of a problem that a reward function of the user judges
SUFFIXES: dict[RewardKind, str] = {"math": MATH_SUFFIX, "code": ""}


@dataclasses.dataclass(frozen=True)
class Known:
    """A benchmark that is known by name.

    files: names its file may have, each also with .gz.
    reward: the kind of verification.
    samples: k, the samples of each problem.
    suffix: appended to each prompt.
    """

    files: tuple[str, ...]
    reward: RewardKind
    samples: int
    suffix: str


def _math(*files: str) -> Known:
    return Known(files, "math", PAPER_SAMPLES["math"], SUFFIXES["math"])


def _code(*files: str) -> Known:
    return Known(files, "code", PAPER_SAMPLES["code"], SUFFIXES["code"])


KNOWN: dict[str, Known] = {
    "aime24": _math("aime24.jsonl"),
    "aime25": _math("aime25.jsonl"),
    "hmmt25_feb": _math("hmmt25_feb.jsonl"),
    "hmmt25_nov": _math("hmmt25_nov.jsonl"),
    "amc": _math("amc.jsonl"),
    "math500": _math("math500.jsonl"),
    "gsm8k_test": _math("gsm8k_test.jsonl"),
    "humaneval_plus": _code("HumanEvalPlus.jsonl", "humaneval_plus.jsonl"),
    "mbpp_plus": _code("MbppPlus.jsonl", "mbpp_plus.jsonl"),
    "livecodebench_v6": _code("livecodebench_v6.jsonl", "livecodebench.jsonl"),
    "humaneval": _code("HumanEval.jsonl", "humaneval.jsonl"),
    "mbpp": _code("mbpp.jsonl"),
    # The embedded models were trained without a suffix.
    "tiny:math/test": Known((), "math", 4, ""),
    "tiny:code/test": Known((), "code", 4, ""),
    "tiny:steps/test": Known((), "math", 4, ""),
}
SUITES: dict[str, tuple[str, ...]] = {
    "math": ("aime24", "aime25", "hmmt25_feb", "hmmt25_nov"),
    "code": ("humaneval_plus", "mbpp_plus", "livecodebench_v6"),
}
