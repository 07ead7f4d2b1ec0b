r"""Answers of several steps that differ in length: what lambda does to length and truncation.

Claim: a colder teacher is imitated, and gone beyond with lambda > 1, in the share of right answers,
in length and in truncation. The optimum is known: with lambda it is, token by token, the base at
temperature 1 / (1 + 2 lambda).

tiny (default): the embedded world. Question: two to six numbers to add and subtract. Answer:
    running totals, of which some may be left out, and some answers work everything out twice. The
    limit of 44 tokens cuts 6% of the base's answers. Student and reference: steps_base, 107k
    parameters, 30% right. Teacher: that base at temperature 1/3.
        python -m gopd_jax.train --config=steps
    Hardware: 2 CPU cores. Time: about 5 minutes. Expected: see docs/results.md.
"""

from gopd_jax.presets import Preset, choose, embedded

PRESETS = {
    "tiny": Preset(
        "the embedded world: answers of several steps, 107k parameters, 2 CPU cores",
        lambda: embedded({"steps": "steps_teacher"}, student="steps_base"),
    ),
}


def get_config(preset: str = "tiny"):
    return choose("steps", preset, PRESETS)
