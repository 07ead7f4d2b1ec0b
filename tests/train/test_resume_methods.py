"""Each method and layout of a run resumes to the bit; test_resume.py kills one of them for real."""

import shutil

from loop_cases import small
import pytest
from same_run import differences

from gopd_jax.train import curves
from gopd_jax.train.run import run

FEW = {"steps": 4, "eval.prompts": 8, "eval.every": 3}
SEVERAL_UPDATES = {"learner.updates_per_batch": 4, "learner.learning_rate": 1e-2}
GRPO = {"method": "grpo", "rollout.prompts_per_step": 4, "rollout.samples_per_prompt": 4}
BFLOAT16 = {"compute_dtype": "bfloat16"}
OWN_AND_NONE = {
    "domains.code.reward": "reward_cases:graded",
    "domains.math.reward": "none",
    "domains.math.test": "",
}
ADAPTER = {"lora.rank": 2, "learner.learning_rate": 1e-2}
TOLD = {
    "domains.code.teacher_context": " {feedback}",
    "domains.math.teacher_context": " {student_answer}",
    "data.max_teacher_prompt_tokens": 64,
}
EXACT = {"objective.estimator": "full", "log.inspected": 2}
# Each case costs seconds of compilation.
CASES = {
    "grpo, several updates, bfloat16": ("configs/math.py", GRPO | SEVERAL_UPDATES | BFLOAT16),
    "two domains, sft": ("configs/sft.py", {"learner.warmup_steps": 2}),
    "two domains, an own reward and no verifier": ("configs/multi_teacher.py", OWN_AND_NONE),
    "two domains": ("configs/multi_teacher.py", {}),
    "grpo": ("configs/math.py", GRPO),
    "sft": ("configs/math.py", {"method": "sft"}),
    "several updates": ("configs/math.py", SEVERAL_UPDATES),
    "adapter, several updates": ("configs/math.py", ADAPTER | SEVERAL_UPDATES),
    "adapter, grpo, bfloat16": ("configs/math.py", ADAPTER | GRPO | BFLOAT16),
    "adapter, two domains, sft": ("configs/sft.py", ADAPTER | {"learner.warmup_steps": 2}),
    "bfloat16": ("configs/math.py", BFLOAT16),
    "exact, a teacher that follows": (
        "configs/self_distillation.py",
        {"self_teacher.follow": "average", "self_teacher.decay": 0.5, **EXACT},
    ),
    "two domains, teachers that read the answers": ("configs/multi_teacher.py", TOLD),
    "exact, two domains": ("configs/multi_teacher.py", EXACT),
    "a control": ("configs/math.py", {"control.kind": "permuted_tokens"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_resumed_equals_uninterrupted(tmp_path, monkeypatch, capsys, case):
    """The folder is that of a run killed while it saves step 4, the last; it resumes at step 2."""
    monkeypatch.setattr(curves, "draw", lambda *_: None)  # takes time, and is not compared
    path, changes = CASES[case]
    config = small(path, **FEW, **changes)
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    run(config, str(uninterrupted))
    shutil.copytree(uninterrupted, resumed)
    shutil.rmtree(resumed / "checkpoints/4")
    (resumed / "summary.json").unlink()
    capsys.readouterr()
    run(config, str(resumed))
    assert "at step 2 of 4" in capsys.readouterr().err
    assert differences(resumed, uninterrupted, {2, 4}) == []
