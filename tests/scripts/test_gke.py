"""The JobSet that tpu_scripts/gke.sh prints, and the command that it has in its pods."""

import os
from pathlib import Path
import subprocess

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GIVEN = ["--name=tiny", "--bucket=bucket", "--image=registry/gopd:1"]
ARGUMENTS = ["--config=math", "--config.data.template_kwargs.x={'a': \"b & $HOME\"}"]


def gke(*options: str, status: int = 0) -> str:
    command = ["bash", str(ROOT / "tpu_scripts/gke.sh"), *GIVEN, *options, "--", *ARGUMENTS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stdout or done.stderr


def job(*options: str) -> dict:
    """What the manifest says of the job of the slice."""
    (slice_,) = yaml.safe_load(gke(*options))["spec"]["replicatedJobs"]
    assert slice_["replicas"] == 1
    return slice_["template"]["spec"]


@pytest.mark.parametrize(
    ("topology", "accelerator", "hosts", "chips"),
    [
        ("v5e:1x1", "tpu-v5-lite-podslice", 1, 1),
        ("v5e:2x2", "tpu-v5-lite-podslice", 1, 4),
        ("v5e:2x4", "tpu-v5-lite-podslice", 1, 8),
        ("v5e:8x8", "tpu-v5-lite-podslice", 16, 4),
        ("v6e:4x4", "tpu-v6e-slice", 4, 4),
        ("v6e:16x16", "tpu-v6e-slice", 64, 4),
        ("v5p:2x2x1", "tpu-v5p-slice", 1, 4),
        ("v5p:2x2x2", "tpu-v5p-slice", 2, 4),
        ("v5p:2x2x4", "tpu-v5p-slice", 4, 4),
        ("v4:4x4x4", "tpu-v4-podslice", 16, 4),
    ],
)
def test_there_is_a_pod_for_each_host(topology, accelerator, hosts, chips):
    spec = job(f"--topology={topology}")
    assert (spec["parallelism"], spec["completions"]) == (hosts, hosts)
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": chips}
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology.partition(":")[2],
        "cloud.google.com/gke-spot": "true",
    }
    assert f"GOPD_PROCESSES={hosts} " in container["command"][2]


def test_failures_restart_all_pods_and_bad_input_none():
    manifest = yaml.safe_load(gke("--topology=v6e:4x4", "--queue=team"))
    assert manifest["kind"] == "JobSet" and manifest["metadata"]["name"] == "tiny"
    assert manifest["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "team"}
    policy = manifest["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0
    assert policy["rules"] == [
        {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]
    spec = job("--topology=v6e:4x4")
    assert spec["backoffLimit"] == 0 and spec["template"]["spec"]["restartPolicy"] == "Never"
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 3]}}


def test_on_demand_and_without_queue():
    options = ["--topology=v6e:4x4", "--spot=false", "--account=trainer"]
    pod = job(*options)["template"]["spec"]
    assert "cloud.google.com/gke-spot" not in pod["nodeSelector"] and pod["tolerations"] == []
    assert pod["serviceAccountName"] == "trainer"
    assert yaml.safe_load(gke(*options))["metadata"]["labels"] == {}


def test_the_command_of_a_pod_finds_process_0(tmp_path):
    """Runs the container's command, with a python that prints what it is given."""
    (container,) = job("--topology=v6e:4x4")["template"]["spec"]["containers"]
    (tmp_path / "python").write_text(
        '#!/bin/sh\necho "$GOPD_COORDINATOR $GOPD_PROCESSES $GOPD_PROCESS"\nprintf "%s\\n" "$@"\n'
    )
    (tmp_path / "python").chmod(0o755)
    names = [f"tiny-slice-0-{i}.tiny" for i in range(4)]
    told = {"TPU_WORKER_HOSTNAMES": ",".join(names), "TPU_WORKER_ID": "2"}
    environment = os.environ | told | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [*container["command"], *container["args"]]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    first, *arguments = said.stdout.splitlines()
    assert first == "tiny-slice-0-0.tiny:8476 4 2"
    assert arguments == ["-m", "gopd_jax.train", *ARGUMENTS, "--workdir=gs://bucket/tiny/run"]


@pytest.mark.parametrize("topology", ["v9:4x4", "v6e", "v6e:4", "v6e:0x4", "v5p:1x3x3", "v5e:3x3"])
def test_a_wrong_topology_is_one_sentence(topology):
    said = gke(f"--topology={topology}", status=2)
    assert said.startswith(f"error: --topology={topology}: expected ") and said.count("\n") == 1
