"""What one chip takes on slices of several sizes, with work in proportion to the chips."""

import json

from PIL import Image
import pytest
from test_benchmark import CONFIG

from gopd_jax.benchmark import compiled_learner
from gopd_jax.benchmark.__main__ import main
from gopd_jax.benchmark.slices_picture import draw


def record(topology, devices, program="train step", rows="1 x 16 x 64"):
    fields = ("arguments_bytes", "at_once_bytes", "peak_bytes", "received_bytes")
    given = {"program": program, "topology": topology, "devices": devices, "rows": rows}
    return given | {name: 10**9 * (i + 1) for i, name in enumerate(fields)}


def test_the_picture_is_of_the_last_program_of_each_slice(tmp_path):
    """A score of other rows is left out: its size, of another number of chips, is no tick."""
    records = [record(f"v5e:{n}x{n}", n * n, p) for n in (4, 8) for p in ("score", "train step")]
    draw(records, str(tmp_path / "slices.png"))
    draw([r for r in records if r["program"] == "train step"], str(tmp_path / "train.png"))
    with Image.open(tmp_path / "slices.png") as image:
        assert min(image.size) > 300
    assert (tmp_path / "slices.png").read_bytes() == (tmp_path / "train.png").read_bytes()


@pytest.mark.parametrize(
    "options, words",
    [
        (["--topology=v5e:4x4,v5e:4x6"], "v5e:4x6 has 24 chips; expected a multiple of the 16"),
        (["--topology=v5e:4x4", "--picture=here.txt"], "--picture=here.txt: expected FILE.png"),
        (["--picture=here.png"], "expected --topology, too"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, capsys, monkeypatch, options, words):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    chips = {"v5e:4x4": 16, "v5e:4x6": 24}
    monkeypatch.setattr(compiled_learner, "described_devices", lambda name: [None] * chips[name])
    try:
        status = main(["score", f"--model={tmp_path}", "--random-weights", *options])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2 and words in capsys.readouterr().err


GROWN = """
import sys

import jax

from gopd_jax.benchmark import compiled_learner
from gopd_jax.benchmark.__main__ import main

compiled_learner.described_devices = lambda name: jax.devices()[:int(name)]
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_chip_of_a_larger_slice_takes_what_one_of_a_smaller_takes(tmp_path, run_on_fake_devices):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    options = ["--random-weights", "--prompts=4", "--rows-per-micro-batch=2", "--json"]
    picture = tmp_path / "slices.png"
    given = ["update", f"--model={tmp_path}", "--topology=2,8", f"--picture={picture}", *options]
    lines = run_on_fake_devices(GROWN, *given).splitlines()
    steps = [r for r in map(json.loads, lines) if r["program"] == "train step"]
    assert [r["devices"] for r in steps] == [2, 8] and picture.exists()
    small, large = steps
    for name in ("prompts", "rows_per_micro_batch", "data"):
        assert large["settings"][name] == 4 * small["settings"][name]
    assert large["arguments_bytes"] == pytest.approx(small["arguments_bytes"], rel=0.01)
    assert large["peak_bytes"] == pytest.approx(small["peak_bytes"], rel=0.1)
    assert 0 < small["received_bytes"] < large["received_bytes"]
