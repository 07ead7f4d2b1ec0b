"""A run whose model, prompts and workdir are on an object store, killed and resumed there."""

import os
from pathlib import Path
import signal
import subprocess
import sys

from loop_cases import ROOT, SETTINGS
import pytest
from same_run import differences
from test_resume import uninterrupted, wait_for  # noqa: F401

from gopd_jax import tiny

sys.path.append(str(Path(__file__).parents[1] / "stand_ins"))
import bucket  # noqa: E402
from remote import served  # noqa: E402

STUDENT = "gs://bucket/models/base"
PARTS = ("evaluations.jsonl", "metrics.jsonl", "run.json", "samples.jsonl")


def downloaded(buckets: bucket.Buckets, prefix: str, folder: Path) -> Path:
    """A local folder with the objects below `prefix`; the student is named as in the local run."""
    for found in buckets.list("bucket", prefix):
        file = folder / found.key.removeprefix(prefix)
        file.parent.mkdir(parents=True, exist_ok=True)
        content = buckets.get("bucket", found.key)
        if file.parent.name == "host":
            content = content.replace(STUDENT.encode(), tiny.model("base").encode())
        file.write_bytes(content)
    return folder


@pytest.mark.slow
def test_a_run_on_an_object_store_is_the_local_one_also_when_killed(
    uninterrupted,  # noqa: F811
    tmp_path,
):
    buckets = bucket.Buckets(tmp_path / "buckets")
    for file in Path(tiny.model("base")).iterdir():
        buckets.put("bucket", f"models/base/{file.name}", file.read_bytes())
    command = [sys.executable, "-m", "gopd_jax.train", "--config=configs/math.py"]
    command += ["--workdir=gs://bucket/run", f"--config.student={STUDENT}"]
    command += [f"--config.{k}={v}" for k, v in SETTINGS.items()]
    with served(tmp_path / "buckets") as environment:
        environment = os.environ | environment | {"GOPD_CACHE": str(tmp_path / "cache")}

        def start() -> subprocess.Popen:
            pipe = subprocess.PIPE
            return subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True
            )

        def has_gone_on() -> bool:
            """Whether step 2 is saved, and step 3 done, which has no checkpoint of its own."""
            if not any(buckets.list("bucket", "run/checkpoints/2/commit_success")):
                return False
            return buckets.get("bucket", "run/metrics.jsonl").count(b"\n") >= 3

        first = start()
        wait_for(first, has_gone_on)
        first.send_signal(signal.SIGKILL)
        said_first, _ = first.communicate()
        second = start()
        said, _ = second.communicate(timeout=400)
        assert second.returncode == 0, said

    assert f"read {STUDENT}: " in said_first and "read gs://" not in said  # once
    assert "resumed gs://bucket/run at step " in said
    run = downloaded(buckets, "run/", tmp_path / "run")
    assert differences(run, uninterrupted, {6}) == []
    assert {p.name for p in run.iterdir()} == {
        *PARTS,
        *("checkpoints", "curves.png", "summary.json", "tensorboard"),
    }
    assert not [p for p in run.rglob("*") if p.suffix == ".tmp"]
    assert len(list((run / "tensorboard").iterdir())) == 2  # one of each start
    assert not (ROOT / "gs:").exists()
