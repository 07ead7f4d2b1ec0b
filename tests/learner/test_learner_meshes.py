"""Loss, gradients, scores and distances on eight devices are those of one, for every mesh axis."""

from pathlib import Path

import pytest

CASES = Path(__file__).with_name("mesh_cases.py").read_text()
EIGHT = [f"{axis}=8" for axis in ("data", "fsdp", "tensor", "context", "expert")]
TOGETHER = ["fsdp=2,context=2,tensor=2", "data=2,context=4", "expert=2,context=2,tensor=2"]


@pytest.mark.slow
@pytest.mark.parametrize("meshes", [EIGHT[:3], EIGHT[3:], TOGETHER], ids=" ".join)
@pytest.mark.parametrize("case", ["dense", "moe"])
def test_eight_devices_learn_what_one_does(run_on_fake_devices, case, meshes):
    """float32, relative 1e-5: shared prompts, padding, rows of both lengths, a sampling rule."""
    lines = run_on_fake_devices(CASES, case, *meshes).splitlines()
    assert [line.split()[:2] for line in lines] == [[mesh, "same"] for mesh in meshes]
