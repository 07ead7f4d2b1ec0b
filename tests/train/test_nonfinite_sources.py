"""Where NaN and infinity may come from: each ends a command with its status and in one sentence.

Nothing that is not finite is saved. docs/reliability.md lists them with what the step itself finds.
"""

import math
import shutil

import jax
import jax.numpy as jnp
from loop_cases import ROOT, SETTINGS, small
from model_folders import EMBEDDING, NORM, spoiled
import pytest

from gopd_jax import expo, tiny
from gopd_jax.cli import BAD_INPUT, NON_FINITE
from gopd_jax.export.__main__ import main as export_main
from gopd_jax.models.config import load_config
from gopd_jax.rewards import verifier
from gopd_jax.runtime.checkpoint import Checkpoints
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.train.__main__ import main
from gopd_jax.train.models import make_learner
from gopd_jax.train.run import run

FEW = SETTINGS | {
    "steps": 1,
    "eval.prompts": 4,
    "eval.every": 0,
    "checkpoint.every": 1,
}
OVERFLOW = 3.4e38  # finite in float32, infinite in bfloat16
TILDE = 101  # the last id, which no prompt holds


def train(workdir, config="math", **changes):
    """The command in this process; `changes` have "__" in place of dots."""
    fields = FEW | {name.replace("__", "."): value for name, value in changes.items()}
    options = [f"--config.{name}={value}" for name, value in fields.items()]
    return main([f"--config={ROOT / f'configs/{config}.py'}", *options, f"--workdir={workdir}"])


def checkpoints_of(workdir):
    folder = workdir / "checkpoints"
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


# ---- Settings and files: refused before any work, exit status 2.

REFUSED = {
    "learning rate": ({"learner__learning_rate": math.inf}, "learning_rate=inf: expected"),
    "lambda": ({"learner__reward_scale": math.inf}, "reward_scale=inf: expected"),
    "lambda of a domain": ({"domains__math__reward_scale": math.nan}, "reward_scale=nan: expected"),
    "decay of Adam": ({"learner__b2": 1.0}, "b2=1.0: expected"),
    "temperature": ({"rollout__temperature": math.nan}, "temperature=nan: expected"),
}


@pytest.mark.parametrize("changes, words", REFUSED.values(), ids=REFUSED)
def test_a_setting_is_refused(changes, words, tmp_path, capsys):
    assert train(tmp_path / "run", **changes) == BAD_INPUT
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and words in said
    assert not (tmp_path / "run").exists()


# Role; model, tensor and number; compute dtype.
WEIGHTS = {
    "student, NaN": ("student", "base", EMBEDDING, math.nan, "float32"),
    "teacher, NaN": ("domains__math__teacher", "math_teacher", EMBEDDING, math.nan, "float32"),
    "reference, inf": ("reference", "base", NORM, -math.inf, "float32"),
    "teacher, too large": ("domains__math__teacher", "math_teacher", NORM, OVERFLOW, "bfloat16"),
}


@pytest.mark.parametrize("role, model, tensor, value, dtype", WEIGHTS.values(), ids=WEIGHTS)
def test_a_weight_is_refused(role, model, tensor, value, dtype, tmp_path, capsys):
    folder = spoiled(tmp_path / "model", model, tensor, value)
    assert train(tmp_path / "run", compute_dtype=dtype, **{role: folder}) == BAD_INPUT
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"error: {folder}: tensor {tensor} is not finite: expected neither NaN nor inf"
    assert not checkpoints_of(tmp_path / "run")


@pytest.mark.parametrize("field", ["ground_truth", "answer"])
def test_a_row_is_refused(field, tmp_path, capsys):
    (tmp_path / "train.jsonl").write_text(f'{{"prompt": "1+1", "{field}": NaN}}\n')
    assert train(tmp_path / "run", domains__math__train=tmp_path / "train.jsonl") == BAD_INPUT
    assert f"train.jsonl:1: {field} must be a string, not nan" in capsys.readouterr().err
    assert not checkpoints_of(tmp_path / "run")


# ---- What a run computes: exit status 3, and nothing is saved.


def ends(workdir, capsys, words, **changes):
    assert train(workdir, **changes) == NON_FINITE
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and words in said
    assert not checkpoints_of(workdir) and not (workdir / "summary.json").exists()


@pytest.mark.slow
def test_a_student_that_overflows_in_the_dtype_of_the_sampler(tmp_path, capsys):
    """Its parameters are float32 and finite; its decode weights are not."""
    student = spoiled(tmp_path / "model", "base", NORM, OVERFLOW)
    ends(
        tmp_path / "run",
        capsys,
        "evaluate student at step 0: math: the log-probs drawn for prompt",
        student=student,
        compute_dtype="bfloat16",
        learner__reward_scale=1.0,  # without a reference, which would be refused as it is read
    )


@pytest.mark.slow
def test_a_teacher_that_overflows_as_it_answers(tmp_path, capsys):
    """Its logit of one id is infinite, so that the log-probs of all others are -inf."""
    teacher = spoiled(tmp_path / "model", "math_teacher", EMBEDDING, OVERFLOW / 2, TILDE)
    words = "evaluate teacher: math: the log-probs drawn for prompt"
    ends(tmp_path / "run", capsys, words, domains__math__teacher=teacher)


@pytest.mark.slow
def test_advantages_that_overflow(tmp_path, capsys):
    words = "the advantages are not finite, prompts 'math"
    ends(tmp_path / "run", capsys, words, learner__reward_scale=1e38)
    assert (tmp_path / "run" / "nonfinite_step_1.jsonl").exists()


@pytest.mark.slow
def test_an_update_that_overflows_is_not_saved(tmp_path, capsys):
    """Loss and gradient are finite, the parameters after the update are not."""
    words = "step 1: the update made params/"
    ends(tmp_path / "run", capsys, words, learner__learning_rate=3e38, learner__weight_decay=1e3)


def test_a_reward_that_is_no_number(tmp_path, capsys, monkeypatch):
    class Judge:
        def __init__(self, *_):
            pass

        def __call__(self, *_):
            return math.nan, "wrong"

        def close(self):
            pass

    monkeypatch.setattr(verifier, "WorkerHandle", Judge)
    ends(tmp_path / "run", capsys, "a judge gave the reward nan ('wrong')", config="grpo")


# ---- Checkpoints.


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of one step whose config asks for two more, and its config."""
    workdir = tmp_path_factory.mktemp("finished")
    config = small(**FEW)
    run(config, str(workdir))
    (workdir / "summary.json").unlink()
    return workdir, config


def spoil_checkpoint(workdir, config, part):
    """Saves the state again with NaN in the last array of a part of it."""
    programs = ProgramTable(make_mesh(devices=jax.devices()[:1]))
    learner = make_learner(config, load_config(config.student), programs, jnp.float32)
    checkpoints = Checkpoints(str(workdir), 3)
    saved = checkpoints.restore(learner.abstract_state())
    leaves, structure = jax.tree.flatten(getattr(saved.state, part))
    largest = max(range(len(leaves)), key=lambda i: leaves[i].size)
    leaves[largest] = leaves[largest].at[0].set(jnp.nan)
    state = saved.state.replace(**{part: jax.tree.unflatten(structure, leaves)})
    checkpoints.close()
    shutil.rmtree(workdir / "checkpoints" / str(saved.step))
    checkpoints = Checkpoints(str(workdir), 3)
    checkpoints.save(saved.step, state, saved.host)
    checkpoints.close()


@pytest.mark.parametrize("part", ["params", "opt_state"])
def test_a_checkpoint_is_refused(part, finished, tmp_path, capsys):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    spoil_checkpoint(workdir, finished[1], part)
    before = checkpoints_of(workdir)
    assert train(workdir) == BAD_INPUT
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"the checkpoint of step 1 is not finite in {part}/" in said
    assert checkpoints_of(workdir) == before and not (workdir / "summary.json").exists()
    out = tmp_path / "exported"
    status = export_main([f"--workdir={workdir}", f"--out={out}"])
    assert (status, out.exists()) == ((BAD_INPUT, False) if part == "params" else (0, True))


# ---- Other commands.


def test_weights_that_overflow_are_not_written(tmp_path, capsys):
    models = [f"--student={tiny.model('base')}", f"--teacher={tiny.model('math_teacher')}"]
    assert expo.main([*models, "--alpha=1e39", f"--out={tmp_path / 'out'}"]) == BAD_INPUT
    said = capsys.readouterr().err.splitlines()[-1]
    assert "tensor model.embed_tokens.weight is not finite in bfloat16" in said
    assert not (tmp_path / "out").exists()
