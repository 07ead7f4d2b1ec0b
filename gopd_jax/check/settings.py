"""Settings of the contract checks, and their names."""

import difflib

from gopd_jax.runtime.schema import Flag, PositiveCount, Text, settings

# Each check, and what is wrong where it fails. In this order they are made.
NAMES = {
    "round_trip": "prompts do not survive encode, decode, encode",
    "generation_prompt": "the chat template does not begin the answer",
    "teacher_template": "a model was made with another chat template than the student",
    "stop_ids": "a model ends its answers with other ids than the student",
    "token_strings": "an id stands for another text than for the student",
    "sampler": "the sampler's log-probs are not the learner's",
    "temperature": "the scores are not those of the plain distribution",
    "self_teacher": "the student in the place of its teacher has an advantage",
    "teachers_differ": "a teacher is the student itself",
    "reference": "the reference is not what was asked for",
    "adapter": "the adapter is not attached",
    "teacher_better": "a teacher is worse than the student",
}


@settings
class CheckSettings:
    """Contract checks, with weights; see `python -m gopd_jax.check`."""

    before_training: Flag = True
    """Make the checks before the first step of a run, which a failure stops. It takes seconds, and
    changes no number of the run."""
    accept: Text = ""
    """Names of checks that may fail, with commas between them: what they find is said, and the run
    goes on."""
    samples: PositiveCount = 32
    """Samples of each domain that are scored. Larger values make the check more certain."""
    tokens: PositiveCount = 16
    """Most tokens of a sample that is scored. Larger values see later positions and take longer."""
    held_out: PositiveCount = 64
    """Held-out prompts of each domain on which `python -m gopd_jax.check` compares teacher and
    student. A run compares them on those of its evaluations."""

    def __post_init__(self):
        for name in self.accepted:
            if name not in NAMES:
                near = difflib.get_close_matches(name, NAMES, n=1)
                hint = f"; nearest: {near[0]!r}" if near else ""
                raise ValueError(
                    f"config.check.accept={self.accept!r}: no check {name!r}; expected names of "
                    f"{', '.join(NAMES)}, with commas between them{hint}"
                )

    @property
    def accepted(self) -> frozenset[str]:
        """The names in `accept`."""
        return frozenset(filter(None, (name.strip() for name in self.accept.split(","))))
