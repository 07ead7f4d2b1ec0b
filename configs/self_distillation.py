r"""On-policy self-distillation: the teacher is the student's own start, with a hint in its prompt.

`teacher_context` is added to the last user message of the teacher's prompt alone; its fields in
braces come from the row, or are {student_answer} and {feedback} (examples/feedback). Student and
teacher score the student's tokens, each after its own prompt.
The teacher stays frozen: one that follows the student (self_teacher.follow) can collapse with it.

tiny (default): hinted_base, an embedded base that has learnt to read an answer behind the question
    and is 30% right without one. As its own teacher it is shown the answer. The base of the other
    presets cannot read a hint and gains nothing (docs/log.md).
        python -m gopd_jax.train --config=self_distillation
    Hardware: 2 CPU cores. Time: minutes. Expected: 84% right without the hint (docs/results.md).

qwen3_4b: Qwen3-4B, shown the reference solution in DeepMath's own format (field r1_solution_1),
    lambda = 1. Not in the paper.
        python -m gopd_jax.train --config=self_distillation:qwen3_4b \
            --workdir=gs://BUCKET/self
    Expected: not measured by us. Others saw gains on shared rules and losses on AIME.
"""

from gopd_jax.presets import Preset, choose, embedded, paper

PRESETS = {
    "tiny": Preset(
        "the embedded world: a base that can read a hint, minutes on 2 CPU cores", lambda: _tiny()
    ),
    "qwen3_4b": Preset(
        "Qwen3-4B, shown the solutions of DeepMath; not in the paper", lambda: _paper()
    ),
}


def get_config(preset: str = "tiny"):
    return choose("self_distillation", preset, PRESETS)


def _tiny():
    config = embedded({"math": "hinted_base"}, student="hinted_base")
    config.domains.math.teacher_context = "={ground_truth}"
    config.data.max_teacher_prompt_tokens = 17
    config.learner.reward_scale = 1.0
    return config


def _paper():
    config = paper("Qwen/Qwen3-4B", {"math": "Qwen/Qwen3-4B"})
    config.domains.math.teacher_context = (
        "\nFor your eyes only, a solution:\n{r1_solution_1}\nNow solve it in your own words."
    )
    config.data.max_teacher_prompt_tokens = 2048 + 16384
    config.learner.reward_scale = 1.0
    return config
