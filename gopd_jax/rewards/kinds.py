"""The kinds of answers that can be verified: a judge and a check of ground truths for each.

`verifier.py` looks up kinds here in the trainer's process, `worker.py` in its own. Imports neither
JAX nor pydantic, so that a worker starts quickly; a test holds that `settings.RewardKind` names the
same kinds.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from gopd_jax.rewards import code, math


class Judge(Protocol):
    """Judges answers of one kind, one at a time, in a worker process.

    Attributes:
        guards: whether this machine has each guard of the sandbox ("seccomp", "landlock",
            "scratch"); True if the kind does not need it.
    """

    guards: dict[str, bool]

    def time_limit(self, ground_truth: str, timeout_s: float) -> float:
        """Seconds an answer to `ground_truth` may take, given the verifier's own limit."""
        ...

    def __call__(
        self, response: str, ground_truth: str, deadline: float
    ) -> tuple[float, str] | tuple[float, str, dict[str, float], str]:
        """Judges one response.

        Args:
            response: the model's text.
            ground_truth: what the kind reads, checked before.
            deadline: `time.monotonic` seconds.

        Returns:
            The fields of `verifier.Verdict`; the last two may be left out.
        """
        ...


class Kind(NamedTuple):
    """One kind of answers.

    Attributes:
        judge: makes the judge, given the memory in MiB that an answer may use.
        check_ground_truth: raises ValueError for a ground truth that the judge cannot use.
    """

    judge: Callable[[int], Judge]
    check_ground_truth: Callable[[str], None]


KINDS: dict[str, Kind] = {
    "math": Kind(math.MathJudge, math.check_ground_truth),
    "code": Kind(code.CodeJudge, code.check_ground_truth),
}
