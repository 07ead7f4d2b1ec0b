"""A run with a mixture of experts as student, teacher and reference, on one device and on eight."""

from pathlib import Path

from field_cases import check_fields
from model_folders import mixture
import numpy as np
import pytest

PROGRAM = """
import sys
from loop_cases import small
from gopd_jax.train.run import run
workdir, student, teacher, *sizes = sys.argv[1:]
changes = {"steps": 2, "eval.prompts": 8, "eval.every": 0, "rollout.max_response_tokens": 24}
changes |= {"student": student, "domains.math.teacher": teacher}
changes |= dict(zip(("mesh.data", "mesh.fsdp", "mesh.expert", "mesh.tensor"), map(int, sizes)))
run(small(**changes), workdir)
"""


@pytest.mark.slow
def test_a_run_on_eight_devices_is_that_on_one(tmp_path, lines, run_on_fake_devices):
    """Two steps and the evaluations of student and teacher, with split experts."""
    folders = [mixture(tmp_path / f"model{seed}", seed) for seed in range(2)]
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})" + PROGRAM
    run_on_fake_devices(program, tmp_path / "one", *folders, count=1)
    one = lines(tmp_path / "one", "metrics.jsonl")
    assert len(one) == 2
    check_fields(tmp_path / "one", "mixture")
    for number, sizes in enumerate([(1, 1, 8, 1), (1, 2, 2, 2)]):
        workdir = tmp_path / f"eight{number}"
        run_on_fake_devices(program, workdir, *folders, *sizes)
        for record, expected in zip(lines(workdir, "metrics.jsonl"), one, strict=True):
            assert record.keys() == expected.keys()
            for name in (
                *("loss", "grad_norm", "entropy", "reverse_kl_teacher", "response_length"),
                *("expert_load_max", "experts_unused", "router_entropy", "rollout_tokens"),
            ):
                np.testing.assert_allclose(
                    record[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name
                )
        scores = [
            [line["by_prompt"] for line in lines(folder, "evaluations.jsonl")]
            for folder in (tmp_path / "one", workdir)
        ]
        assert scores[0] == scores[1]
