"""Every preset starts, and the command line says in one line what is wrong with one.

The embedded presets run a few steps; the full-size ones are traced with abstract weights.
"""

from pathlib import Path
import runpy
import subprocess
import sys

from data_folder import DATASETS
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.config import from_config_dict
from gopd_jax.learner.ahead import abstract_batches, abstract_rows
from gopd_jax.learner.learner import FrozenModel
from gopd_jax.learner.scoring import scoring_program
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import abstract_params
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.train.models import make_learner
from gopd_jax.train.prepare import prepare
from gopd_jax.train.run import run as train

ROOT = Path(__file__).parents[1]
TINY = {
    "math": ["tiny"],
    "code": ["tiny"],
    "multi_teacher": ["tiny"],
    "strong_to_weak": ["tiny"],
    "reward_correction": ["tiny"],
    "grpo": ["tiny", "tiny_code"],
    "sft": ["tiny", "tiny_math"],
    "self_distillation": ["tiny"],
    "steps": ["tiny"],
}
FULL = {
    "math": ["qwen3_4b", "qwen3_1_7b"],
    "code": ["qwen3_4b"],
    "multi_teacher": ["qwen3_4b"],
    "strong_to_weak": ["qwen3_1_7b", "qwen3_4b"],
    "reward_correction": ["qwen3_1_7b", "qwen3_1_7b_code"],
    "grpo": ["qwen3_4b_math", "qwen3_4b_code"],
    "sft": ["qwen3_4b"],
    "self_distillation": ["qwen3_4b"],
    "steps": [],
}
TINY_PAIRS = [(f, p) for f, presets in TINY.items() for p in presets]
# In the default run; tests/train runs the like of all of them with other models.
PREPARED = {("math", "tiny"), ("grpo", "tiny")}
FULL_PAIRS = [(f, p) for f, presets in FULL.items() for p in presets]
# Traced in the default run: one with a mixture as teacher and a reference, and one without either.
TRACED = {("strong_to_weak", "qwen3_1_7b"), ("sft", "qwen3_4b")}
QUICK = {
    "steps": 3,
    "rollout.prompts_per_step": 8,
    "rollout.slots": 8,
    "learner.rows_per_micro_batch": 8,
    "learner.warmup_steps": 0,
    "eval.prompts": 8,
    "eval.samples": 1,
    "eval.every": 0,
}
QWEN3_4B = ModelConfig("qwen3", 151936, 36, 2560, 32, 8, 128, 9728, max_positions=40960)
MODELS = {
    "Qwen/Qwen3-4B": QWEN3_4B,
    "Qwen/Qwen3-1.7B": ModelConfig(
        "qwen3", 151936, 28, 2048, 16, 8, 128, 6144, max_positions=40960
    ),
    "Qwen/Qwen3-30B-A3B-Instruct-2507": ModelConfig(
        "qwen3_moe",
        151936,
        48,
        2048,
        32,
        4,
        128,
        6144,
        rope_theta=1e7,
        tied_embeddings=False,
        max_positions=262144,
        experts=128,
        experts_per_token=8,
        moe_mlp_width=768,
    ),
}


def preset(file, name):
    return runpy.run_path(str(ROOT / f"configs/{file}.py"))["get_config"](name)


def test_every_preset_is_listed():
    files = {p.stem for p in (ROOT / "configs").glob("*.py")}
    assert files == set(TINY) == set(FULL)
    for file in files:
        with pytest.raises(ValueError, match="no such preset") as error:
            preset(file, "none")
        named = set(str(error.value).split("[")[1].rstrip("]").replace("'", "").split(", "))
        assert named == {*TINY[file], *FULL[file]}


@pytest.mark.parametrize(
    "file, name",
    [p if p in PREPARED else pytest.param(*p, marks=pytest.mark.slow) for p in TINY_PAIRS],
)
def test_tiny_presets_are_complete(file, name, tmp_path):
    """Everything that a run needs, short of parameters, is read and fits together."""
    config = preset(file, name)
    config.update_from_flattened_dict({"data.cache_dir": DATASETS})
    inputs = prepare(from_config_dict(config), str(tmp_path / "run"))
    assert set(inputs.teachers) == (set() if file == "grpo" else set(config.domains))


@pytest.mark.slow
@pytest.mark.parametrize("file, name", TINY_PAIRS)
def test_tiny_presets_run(file, name, tmp_path):
    config = preset(file, name)
    config.update_from_flattened_dict(QUICK | {"data.cache_dir": DATASETS})
    result = train(from_config_dict(config), str(tmp_path / "run"))
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3
    for domain in result["domains"].values():
        assert ("teacher" in domain["rows"]) == (file != "grpo")


@pytest.mark.parametrize("file, name", FULL_PAIRS)
def test_full_size_presets_have_the_papers_values(file, name):
    config = from_config_dict(preset(file, name))
    data, rollout, learner = config.data, config.rollout, config.learner
    longest = 8192 if name.endswith("4b_code") else 16384
    assert (data.max_prompt_tokens, rollout.max_response_tokens) == (2048, longest)
    batch = (rollout.prompts_per_step, rollout.samples_per_prompt, learner.learning_rate)
    if file == "grpo":
        assert batch == (128, 8, 1e-6)
        assert config.steps == (500 if name.endswith("math") else 300)
    else:
        assert batch == (1024, 1, 1e-5)
        assert config.steps == (100 if file in ("strong_to_weak", "reward_correction") else 50)
        assert learner.reward_scale == (1.0 if file == "self_distillation" else 1.25)
    adam = (learner.b1, learner.b2, learner.weight_decay, learner.clip_norm)
    assert adam == (0.9, 0.999, 0.01, 1.0)
    assert (rollout.temperature, rollout.top_p) == (1.0, 1.0)
    assert data.template_kwargs == {"enable_thinking": False}
    assert config.verifier.timeout_s == (10 if "code" in config.domains else 2)
    assert learner.schedule == "constant" and learner.warmup_steps == (2 if file == "sft" else 0)


@pytest.mark.parametrize(
    "file, name",
    [pytest.param(*p, marks=[pytest.mark.slow] * (p not in TRACED)) for p in FULL_PAIRS],
)
def test_full_size_presets_trace(file, name):
    """The scorers and the train step take abstract weights: nothing is allocated."""
    config = from_config_dict(preset(file, name))
    student = MODELS[config.student]
    learner = make_learner(config, student, ProgramTable(make_mesh()), jnp.bfloat16)
    logprobs = [] if config.method == "sft" else ["behaviour_logprobs"]
    if config.method == "gopd":
        teachers = {d.teacher for d in config.domains.values()}
        reference = config.reference or config.student
        logprobs += ["teacher_logprobs"]
        if config.learner.reward_scale != 1:
            logprobs += ["reference_logprobs"]
            teachers.add(reference)
        for path in teachers:
            scorer = frozen(path)
            function, _ = scoring_program(learner, scorer.config)
            for bucket in learner.buckets:
                rows = abstract_rows(learner, bucket)
                values = jax.eval_shape(function, scorer.params, *rows)
                assert values.shape == (bucket.rows, bucket.length)
    batches = abstract_batches(learner, logprobs)
    given, _ = learner.updating(learner.abstract_state(), batches)
    state, metrics, tokens = jax.eval_shape(*given)
    assert [t.logprobs.shape for t in tokens] == [b.tokens.shape for b in batches]
    assert np.isdtype(tokens[0].logprobs.dtype, "real floating") and metrics.loss.shape == ()
    assert jax.tree.structure(state.params) == jax.tree.structure(abstract_params(student))


def frozen(path):
    model = MODELS.get(path, QWEN3_4B)  # a folder that only the user has: Qwen3-4B after GRPO
    params = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape, jnp.bfloat16), abstract_params(model)
    )
    return FrozenModel(path, model, params)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config=configs/none.py"], "configs/none.py"),
        (
            ["--config=configs/math.py", "--config.learner.learning_rat=1"],
            "did you mean 'learning_rate'?",
        ),
        (
            ["--config=configs/math.py", "--config.learner.reward_scale=-1"],
            "reward_scale=-1.0: expected a number >= 0",
        ),
        (["--config=configs/math.py", "--config.mesh.tensor=3"], "tensor=3 does not fit 1 devices"),
    ],
)
def test_wrong_commands_end_in_one_line(arguments, message, tmp_path):
    command = [sys.executable, "-m", "gopd_jax.train", *arguments, f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert message in done.stderr.replace("\n", " ") and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
