"""The check that a teacher is better than the student, from evaluations on the same prompts.

In: evaluations. Out: an outcome.
"""

from gopd_jax.check.outcome import Outcome, State
from gopd_jax.evaluate.held_out import Evaluation, paired_difference

STATES: dict[int, State] = {1: "passed", 0: "undecided", -1: "failed"}


def teacher_better(role: str, student: Evaluation, teacher: Evaluation) -> Outcome:
    """Whether a teacher scores higher than the student, paired by prompt.

    It fails where the whole 95% interval of the difference is below 0, and is undecided where the
    interval contains 0.

    Args:
        student, teacher: of the same prompts.
    """
    found = paired_difference(teacher, student)
    return Outcome(
        "teacher_better",
        role,
        STATES[found.sign],
        found.mean,
        0.0,
        least=True,
        unit="of the reward",
        saw=f"teacher {teacher.mean:.1%}, student {student.mean:.1%}; 95% interval of the "
        f"difference [{found.low:+.1%}, {found.high:+.1%}], {found.n} prompts",
        todo="take a better teacher" if found.sign else "more held-out prompts would decide it",
    )
