"""The scripts of tpu_scripts/ in a stand-in cloud: a run, preemptions, reboots, and its end."""

import json
import sys

from cloud import PLACE, SECONDS, Cloud
import pytest

# Shapes and steps are those of the loop's tests, which have compiled the programs.
SETTINGS = {
    "steps": 6,
    "rollout.prompts_per_step": 16,
    "rollout.slots": 16,
    "learner.rows_per_micro_batch": 8,
    "eval.prompts": 32,
    "eval.during_prompts": 8,
    "eval.every": 6,
    "eval.samples": 1,
    "checkpoint.every": 1,
}
# Instead of Python: notes how it is started, and ends with the next status of the file `statuses`.
FAKE = """#!/bin/bash
here={folder}
place="${{GOPD_PROCESS:-one}} of ${{GOPD_PROCESSES:-one}} at ${{GOPD_COORDINATOR:-home}}"
echo "$place: $*" >> $here/starts
echo "the fake has run as $HOME"
trap 'exit 143' TERM
# A run that goes on where it was; it does not end as long as there is a file `endless`.
while [ -e $here/endless ]; do
  echo $(($(tail -n 1 $here/steps) + 1)) >> $here/steps && sleep 0.05
done
status=$(head -n 1 $here/statuses) && sed -i 1d $here/statuses
exit ${{status:-0}}
"""


@pytest.fixture
def make_cloud(tmp_path):
    made = []

    def make(**variables):
        made.append(Cloud(tmp_path / "cloud", **variables))
        return made[-1]

    yield make
    for cloud in made:
        cloud.close()


@pytest.fixture
def fake(tmp_path, make_cloud):
    """A cloud of `hosts` per slice whose hosts run `FAKE`, with the exit statuses given."""

    def make(*statuses, hosts=1):
        program = tmp_path / "fake"
        program.write_text(FAKE.format(folder=tmp_path))
        program.chmod(0o755)
        (tmp_path / "statuses").write_text("".join(f"{s}\n" for s in statuses))
        return make_cloud(GOPD_PYTHON=str(program), STAND_IN_HOSTS=str(hosts))

    return make


def starts(folder) -> list[str]:
    file = folder / "starts"
    return file.read_text().splitlines() if file.exists() else []


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def preempted(cloud, is_on_its_way, then=lambda: None) -> None:
    """Watches a run to its end, whose slice is preempted on its way; `then` is done at once."""
    watch = cloud.start("watch.sh", "--interval=0.2")
    cloud.wait(is_on_its_way)
    cloud.wait(lambda: (cloud.folder / "vms/1-0/booted").exists())  # before the run ends
    cloud.happens("preempt")
    then()
    said, _ = watch.communicate(timeout=SECONDS)
    assert watch.returncode == 0, said + cloud.said()
    assert "\nthe run has ended: exit status 0;" in said
    seen = {line.split()[1] for line in said.splitlines() if "Z " in line}
    assert "NONE" in seen and seen & {"SUSPENDED", "ACTIVE/PREEMPTED"}
    assert not (cloud.folder / "slices/tiny.json").exists()
    assert "== boot" in cloud.run("logs.sh", "--boot")


def test_a_preempted_slice_is_replaced_and_goes_on(fake, tmp_path):
    cloud = fake(hosts=2)
    steps = tmp_path / "steps"
    steps.write_text("0\n")
    (tmp_path / "endless").touch()
    cloud.run("create.sh", "--", "--config=math")

    def let_it_end():
        before = len(steps.read_text().splitlines())
        cloud.wait(lambda: len(steps.read_text().splitlines()) > before + 3)
        (tmp_path / "endless").unlink()

    preempted(cloud, lambda: len(steps.read_text().splitlines()) > 3, let_it_end)
    assert sorted(p.name for p in (cloud.folder / "vms").iterdir()) == ["1-0", "1-1", "2-0", "2-1"]
    assert len(starts(tmp_path)) == 4


@pytest.mark.slow
def test_a_run_goes_on_after_a_preemption(make_cloud):
    """The real command: created, watched, preempted, deleted, created again, resumed, ended."""
    cloud = make_cloud(GOPD_PYTHON=sys.executable, JAX_PLATFORMS="cpu")
    run = cloud.run_folder / "run"
    settings = [f"--config.{k}={v}" for k, v in SETTINGS.items()]
    cloud.run("create.sh", "--", "--config=math", f"--workdir={run}", *settings)
    preempted(cloud, (run / "checkpoints/2").exists)
    assert sorted(p.name for p in (cloud.folder / "vms").iterdir()) == ["1-0", "2-0"]
    first, second = json.loads((run / "run.json").read_text())["starts"]
    assert first["saved_step"] == 0 and 2 <= second["saved_step"] < SETTINGS["steps"]
    steps = [m["step"] for m in read(run / "metrics.jsonl")]
    assert steps == [*range(1, SETTINGS["steps"] + 1)]
    assert json.loads((run / "summary.json").read_text())["steps"] == SETTINGS["steps"]
    assert "resum" in cloud.run("logs.sh")


def test_every_host_is_told_its_place_and_ends_once(fake, tmp_path):
    cloud = fake(hosts=4)
    cloud.run("create.sh", "--", "--config=a b.py", "--config.steps=3")
    cloud.wait((cloud.run_folder / "ended").exists)
    cloud.wait(lambda: len(starts(tmp_path)) == 4)
    arguments = "-m gopd_jax.train --config=a b.py --config.steps=3 --workdir=gs://bucket/tiny/run"
    assert sorted(starts(tmp_path)) == [
        f"{i} of 4 at 127.0.0.1:8476: {arguments}" for i in range(4)
    ]
    assert (cloud.run_folder / "ended").read_text() == "exit status 0\n"
    log = cloud.run_folder / "logs/worker-3.log"
    cloud.wait(lambda: log.exists() and "the fake has run as /root" in log.read_text())
    assert "the fake has run as /root" in cloud.run("logs.sh", "--worker=3")


def test_a_failure_starts_again_on_the_host_and_bad_input_does_not(fake, tmp_path):
    cloud = fake(1, 4, 137, 2, 0)
    cloud.run("create.sh", "--", "--config=math")
    cloud.wait((cloud.run_folder / "ended").exists)
    assert len(starts(tmp_path)) == 4 and starts(tmp_path)[0].startswith("one of one at home")
    said = cloud.run("watch.sh", "--interval=0.1", status=1)
    assert "the run has ended: exit status 2" in said
    assert not (cloud.folder / "slices/tiny.json").exists()


def test_a_reboot_goes_on_and_an_ended_run_stays_ended(fake, tmp_path):
    cloud = fake()
    (tmp_path / "endless").touch()
    cloud.run("create.sh", "--", "--config=math")
    cloud.wait(lambda: len(starts(tmp_path)) == 1)
    cloud.happens("reboot")
    cloud.wait(lambda: len(starts(tmp_path)) == 2)
    cloud.run("stop.sh")
    cloud.wait((cloud.run_folder / "ended").exists)
    cloud.happens("reboot")
    cloud.wait((cloud.folder / "vms/1-0/booted").exists)
    assert "nothing is started" in (cloud.folder / "vms/1-0/opt/boot.log").read_text()
    said = cloud.run("watch.sh", "--interval=0.1", "--keep", status=1)
    assert "the run has ended: stopped by stop.sh" in said and len(starts(tmp_path)) == 2
    assert "ERROR: ALREADY_EXISTS" in cloud.run("create.sh", "--", "--config=math", status=1)
    cloud.run("delete.sh")
    cloud.run("create.sh", "--", "--config=math")
    cloud.wait(lambda: len(starts(tmp_path)) == 3)


def test_the_watcher_asks_for_a_slice_where_there_is_none(fake, tmp_path):
    cloud = fake()
    cloud.run("create.sh", "--", "--config=math")
    cloud.wait((cloud.run_folder / "ended").exists)
    (cloud.run_folder / "ended").unlink()
    cloud.run("delete.sh")
    said = cloud.run("watch.sh", "--interval=0.1")
    assert "NONE" in said and len(starts(tmp_path)) == 2


def test_files_are_laid_beside_the_code(fake, tmp_path):
    cloud = fake()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.py").write_text("x = 1\n")
    (tmp_path / "mine/environment").write_text("export GOPD_PROCESSES='of the file'\n")
    options = [f"--files={tmp_path / 'mine'}", "--", "--config=config.py"]
    cloud.run("create.sh", *options)
    cloud.wait((cloud.run_folder / "ended").exists)
    assert starts(tmp_path)[0].startswith("one of of the file at home: -m gopd_jax.train")
    code = cloud.folder / "vms/1-0/opt/code"
    assert (code / "config.py").read_text() == "x = 1\n"
    assert {"gopd_jax", "configs", "requirements.lock"} <= {p.name for p in code.iterdir()}


def test_a_command_runs_on_all_hosts(fake):
    cloud = fake(hosts=2)
    cloud.run("create.sh", "--", "--config=math")
    assert "one two\none two\n" in cloud.run("run_all.sh", "--", "echo", "one two")


SCRIPTS = ["create.sh", "watch.sh", "run_all.sh", "logs.sh", "stop.sh", "delete.sh"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_prints_what_a_run_does_and_does_nothing(script, fake):
    cloud = fake()
    rest = {"create.sh": ["--", "--config=math"], "run_all.sh": ["--", "true"]}.get(script, [])
    said = cloud.run(script, "--dry-run", *rest)
    assert not (cloud.folder / "calls").exists()
    printed = [line.split() for line in said.splitlines() if line.startswith("gcloud ")]
    assert printed and all("--zone=z" in words for words in printed if words[1] == "compute")
    if script == "create.sh":
        cloud.run(script, *rest)
        expected = [" ".join(w[1:3] if w[1] == "storage" else w[3:5]) for w in printed]
        assert cloud.calls()[: len(expected)] == expected


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_nothing(script, fake):
    said = fake().run(script, "--help", place=[])
    assert f"tpu_scripts/{script} --name=math-4b" in said and "--dry-run" in said
    assert "shellcheck" not in said


def test_settings_come_from_a_file_and_options_win(fake, tmp_path):
    file = tmp_path / "mine.env"
    lines = ["name=tiny", "project=p", "zone=z", "bucket=gs://bucket/", "type=v5litepod-16"]
    file.write_text("\n".join([*lines, "spot=false", ""]))
    given = [f"--settings={file}", "--dry-run", "--zone=y", "--service-account=me", "--wait=6h"]
    said = fake().run("create.sh", *given, "--", "--config=math", place=[])
    (create,) = [line for line in said.splitlines() if "queued-resources create" in line]
    words = create.split()
    assert {
        "--zone=y",
        "--accelerator-type=v5litepod-16",
        "--runtime-version=v2-alpha-tpuv5-lite",
        "--service-account=me",
        "--valid-until-duration=6h",
        "--metadata=gopd-root=gs://bucket/tiny",
    } <= set(words)
    assert "--spot" not in words


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--nme=a"], "error: --nme=a: unknown; expected one of name project"),
        (["--force"], "error: --force: expected --NAME=VALUE or one of keep"),
        (["--name=A_b"], "error: --name=A_b: expected a-z"),
        (["--spot=yes"], "error: --spot=yes: expected true or false"),
        (["--bucket="], "error: --bucket is not set"),
        (["--settings=/none"], "error: --settings=/none: expected a file"),
    ],
)
def test_a_wrong_setting_is_one_sentence(options, expected, fake):
    said = fake().run("watch.sh", *PLACE, *options, status=2, place=[])
    assert said.startswith(expected) and len(said.splitlines()) == 1
