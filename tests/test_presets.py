"""Every preset is a config that converts, and the command line says what is wrong with one in a line."""

from pathlib import Path
import runpy
import subprocess
import sys

import pytest

from gopd_jax.config import from_config_dict

ROOT = Path(__file__).parents[1]
PRESETS = [
    ("configs/math.py", "tiny"),
    ("configs/math.py", "qwen3_4b"),
    ("configs/math.py", "qwen3_1_7b"),
    ("configs/multi_teacher.py", "tiny"),
    ("configs/multi_teacher.py", "qwen3_4b"),
]


@pytest.mark.parametrize("path, preset", PRESETS)
def test_presets_convert(path, preset):
    config = from_config_dict(runpy.run_path(str(ROOT / path))["get_config"](preset))
    assert config.method == "gopd" and config.learner.reward_scale == 1.25
    if preset != "tiny":  # the paper's values
        assert (config.rollout.prompts_per_step, config.rollout.samples_per_prompt, config.steps) == (1024, 1, 50)
        assert (config.data.max_prompt_tokens, config.rollout.max_response_tokens) == (2048, 16384)
        assert (config.learner.learning_rate, config.learner.schedule, config.learner.warmup_steps) == (1e-5, "constant", 0)
        assert not config.data.enable_thinking and not config.reference


@pytest.mark.parametrize("path", ["configs/math.py", "configs/multi_teacher.py"])
def test_unknown_preset_names_the_choices(path):
    with pytest.raises(ValueError, match="qwen3_4b"):
        runpy.run_path(str(ROOT / path))["get_config"]("qwen4")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config=configs/none.py"], "configs/none.py"),
        (["--config=configs/math.py", "--config.learner.learning_rat=1"], 'Did you mean "learning_rate"'),
        (["--config=configs/math.py", "--config.learner.reward_scale=-1"], "reward_scale=-1.0: wanted a number >= 0"),
        (["--config=configs/math.py", "--config.mesh.tensor=3"], "tensor=3 does not fit 1 devices"),
    ],
)
def test_wrong_commands_end_in_one_line(arguments, message, tmp_path):
    command = [sys.executable, "-m", "gopd_jax.train", *arguments, f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert message in done.stderr.replace("\n", " ") and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
