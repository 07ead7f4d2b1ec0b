r"""Answers of several steps that differ in length: what lambda does to length and truncation.

Claim: the optimum of G-OPD is known here, because the teacher is the base at temperature 1/3: with
lambda it is, token by token, the base at temperature 1 / (1 + 2 lambda). The base is 30% right at
temperature 1 and 63% right at 0, so that extrapolation has something to gain.

tiny (default): the embedded world. Question: two to six numbers to add and subtract. Answer:
    running totals, of which some may be left out, and some answers work everything out twice. The
    limit of 44 tokens cuts 6% of the base's answers. Student and reference: steps_base, 107k
    parameters, 30% right. Teacher: that base at temperature 1/3.
        python -m gopd_jax.train --config=steps
    Hardware: 2 CPU cores. Time and result of a whole run: not measured yet (docs/log.md).
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
