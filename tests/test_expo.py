"""ExPO: weights are extrapolated element by element and written as a folder like any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax import expo, tiny
from gopd_jax.models.config import load_config
from gopd_jax.models.huggingface import load_params

HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def weights(path):
    return load_params(path, load_config(str(path)), jnp.float32, HERE)


def run(out, *options):
    teachers = [f"--teacher={tiny.model(name)}" for name in ("math_teacher", "code_teacher")]
    return expo.main(
        [f"--student={tiny.model('base')}", *teachers, f"--out={out}", "--dtype=float32", *options]
    )


@pytest.mark.parametrize("alpha", [0.5, 0.0, -1.0])
def test_weights_are_extrapolated_from_the_average_of_the_teachers(tmp_path, alpha):
    assert run(tmp_path / "out", f"--alpha={alpha}") == 0
    names = ("base", "math_teacher", "code_teacher")
    student, math, code = (weights(tiny.model(name)) for name in names)

    def extrapolated(start, a, b):
        mean = (np.asarray(a, np.float64) + np.asarray(b)) / 2
        return mean + alpha * (mean - np.asarray(start, np.float64))

    expected = jax.tree.map(extrapolated, student, math, code)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        weights(tmp_path / "out"),
        expected,
    )


@pytest.mark.parametrize(
    "student, teacher, options, message",
    [
        ("base", "large_base", [], "another architecture"),
        ("base", "nowhere", [], "nowhere"),
        ("base", "base", ["--alpha=nan"], "--alpha=nan: expected a finite number"),
    ],
)
def test_bad_input_ends_in_one_line_and_writes_nothing(
    tmp_path, capsys, student, teacher, options, message
):
    student, teacher = (
        str(tmp_path / name) if name == "nowhere" else tiny.model(name)
        for name in (student, teacher)
    )
    out = tmp_path / "out"
    command = [f"--student={student}", f"--teacher={teacher}", f"--out={out}", *options]
    assert expo.main(command) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and message in said
    assert not out.exists()


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert run(tmp_path) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and str(tmp_path) in said
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
