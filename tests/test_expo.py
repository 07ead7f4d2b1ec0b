"""ExPO: weights extrapolated element by element, written as a folder like any other."""

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
    student, math, code = (
        weights(tiny.model(name)) for name in ("base", "math_teacher", "code_teacher")
    )
    mean = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) + np.asarray(b)) / 2, math, code)
    wanted = jax.tree.map(lambda m, s: m + alpha * (m - np.asarray(s, np.float64)), mean, student)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), weights(tmp_path / "out"), wanted
    )


def test_wrong_commands_end_in_one_line_and_write_nothing(tmp_path, capsys):
    def refused(message, *options):
        assert expo.main([f"--out={tmp_path / 'out'}", *options]) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
        assert not (tmp_path / "out").exists()

    base, large = tiny.model("base"), tiny.model("large_base")
    refused("another architecture", f"--student={base}", f"--teacher={large}")
    refused("nowhere", f"--student={base}", f"--teacher={tmp_path / 'nowhere'}")
    refused("wanted a finite number", f"--student={base}", f"--teacher={base}", "--alpha=nan")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    assert run(tmp_path / "full") == 2
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["file"]
