"""Answers of several steps that differ in length: what lambda does to length and truncation.

Claim: with lambda = 1.25 the student passes a teacher that GRPO made from the student's own start,
by more than with lambda = 1, and its answers get longer, as in the paper's Figure 2.

tiny (default): the embedded world. Question: two to six numbers to add and subtract. Answer:
    running totals, of which some may be left out, and some answers work everything out twice. The
    limit of 44 tokens cuts 6% of the base's answers. Student and reference: steps_base, 107k
    parameters, 29% right. Teacher: steps_base after 6 steps of GRPO, 63% right.
        python -m gopd_jax.train --config=steps
    Hardware: 2 CPU cores. Time: minutes. Expected: 69% right, 6 points above the teacher
    (docs/results.md).
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
