"""Whether a folder holds the run that a command asks for: what is compared, and what is free."""

import dataclasses
import fnmatch
import json
import re
import shutil

from loop_cases import small
import pytest

from gopd_jax import tiny
from gopd_jax.config import Config
from gopd_jax.runtime import schema
from gopd_jax.runtime.run_folder import read_run
from gopd_jax.train.identity import (
    FREE_FIELDS,
    HostState,
    differing_fields,
    run_identity,
    start_or_resume,
)
from gopd_jax.train.prepare import prepare

FINGERPRINTS = {"weights": {"student": "ab", "teacher of math": "cd"}, "template": "ef"}

FREE_CHANGES = {  # one for each entry of FREE_FIELDS
    "name": "other",
    "steps": 7,
    "check.accept": "stop_ids",
    "checkpoint.every": 3,
    "compilation_cache": "off",
    "learner.park_frozen": True,
    "learner.park_optimizer": True,
    "eval.teachers": False,
    "eval.cache": False,
    "log.samples": 0,
    "mesh.tensor": 4,
    "rollout.layout": "gathered",
    "rollout.slots": 8,
    "rollout.steps_per_dispatch": 8,
    "rollout.prefill_tokens": 8,
    "data.cache_dir": "/cache",
    "verifier.workers": 3,
    "student": "elsewhere",
    "reference": "elsewhere",
    "domains.math.teacher": "elsewhere",
    "domains.math.train": "elsewhere",
    "domains.math.test": "elsewhere",
}


def fields_of(**changes):
    return dataclasses.asdict(small(**changes))


def covers(free, name):
    """Whether an entry of FREE_FIELDS frees the setting `name` or the group that it is in."""
    return fnmatch.fnmatchcase(name, free) or name.startswith(f"{free}.")


# ---- Differences.


def test_every_free_field_is_a_setting_and_no_other_setting_is_free():
    names = {field.name for field in schema.reference(Config)}
    for free in FREE_FIELDS:
        assert any(covers(free, name) for name in names), free
    freed = {name for name in names if any(covers(free, name) for free in FREE_FIELDS)}
    whole_groups = {
        name for name in names if name.startswith(("check.", "checkpoint.", "log.", "mesh."))
    }
    assert freed == whole_groups | {name.replace(".math.", ".NAME.") for name in FREE_CHANGES}


def test_free_fields_may_differ():
    for free in FREE_FIELDS:
        assert sum(covers(free, name) for name in FREE_CHANGES) == 1, free
    old, new = fields_of(), fields_of(**FREE_CHANGES)
    assert old != new
    assert differing_fields(old, new) == []


def test_other_fields_may_not():
    old = fields_of()
    new = fields_of(
        **{
            "rollout.temperature": 0.5,
            "learner.reward_scale": 1.5,
            "seed": 1,
            "domains.math.prompt_suffix": "!",
        }
    )
    assert differing_fields(old, new) == [
        "domains.math.prompt_suffix: '' -> '!'",
        "learner.reward_scale: 1.25 -> 1.5",
        "rollout.temperature: 1.0 -> 0.5",
        "seed: 0 -> 1",
    ]


def test_a_new_domain_is_a_difference():
    old, new = fields_of(), fields_of()
    new["domains"]["code"] = new["domains"]["math"]
    (line,) = differing_fields(old, new)
    assert line.startswith("domains.code: None -> {")


# ---- run.json.


def test_a_run_starts_and_resumes(tmp_path):
    workdir = str(tmp_path / "run")
    identity = run_identity(small(**{"rollout.extra_stop_ids": (3, 4)}), FINGERPRINTS)
    assert identity == json.loads(json.dumps(identity))
    assert not start_or_resume(workdir, identity, {"git_commit": "a"})
    assert start_or_resume(workdir, identity, {"git_commit": "b"})
    run = read_run(workdir)
    assert run["starts"] == [{"git_commit": "a"}, {"git_commit": "b"}]
    assert {k: run[k] for k in identity} == identity


REFUSED = [
    ({"learner.learning_rate": 2e-3}, {}, r"learner\.learning_rate: 0\.001 -> 0\.002"),
    ({}, {"template": "xx"}, r"fingerprint of template: 'ef' -> 'xx'"),
    (
        {},
        {"weights": {"student": "ab", "teacher of math": "xx"}},
        r"fingerprint of weights\.teacher of math: 'cd' -> 'xx'",
    ),
]


@pytest.mark.parametrize("changes, fingerprints, message", REFUSED)
def test_another_run_is_refused_and_the_folder_kept(tmp_path, changes, fingerprints, message):
    workdir = str(tmp_path / "run")
    start_or_resume(workdir, run_identity(small(), FINGERPRINTS), {"git_commit": "a"})
    before = read_run(workdir)
    other = run_identity(small(**changes), FINGERPRINTS | fingerprints)
    with pytest.raises(ValueError, match=message):
        start_or_resume(workdir, other, {"git_commit": "b"})
    assert read_run(workdir) == before


def test_a_folder_of_another_format_is_refused(tmp_path):
    identity = run_identity(small(), FINGERPRINTS)
    (tmp_path / "run.json").write_text(json.dumps(identity | {"starts": []}))
    with pytest.raises(ValueError, match="is a run folder of format 1, .* reads format 3"):
        start_or_resume(str(tmp_path), identity, {})


def test_kinds_of_fingerprints_that_an_older_run_lacks_are_not_compared(tmp_path):
    old = run_identity(small(), {"template": "ef"})
    start_or_resume(str(tmp_path), old, {})
    new = run_identity(small(), {"template": "ef", "stop_ids": {"student": [1]}})
    assert start_or_resume(str(tmp_path), new, {})
    lost = run_identity(small(), {"stop_ids": {"student": [1]}})
    with pytest.raises(ValueError, match="fingerprint of template: 'ef' -> None"):
        start_or_resume(str(tmp_path), lost, {})


# Entry of a model's file, a new value, the fingerprint that changes.
DECIDES = {
    "stop ids": ("generation_config.json", "eos_token_id", [1, 5], "stop_ids"),
    "rope": (
        "config.json",
        "rope_parameters",
        {"rope_theta": 5e5, "rope_type": "default"},
        "architecture",
    ),
    "norm": ("config.json", "rms_norm_eps", 1e-5, "architecture"),
}


@pytest.fixture(scope="module")
def run_of_copies(tmp_path_factory):
    """A run of copies of the embedded models, and its config."""
    folder = tmp_path_factory.mktemp("copies")
    paths = {
        role: str(shutil.copytree(tiny.model(name), folder / role.rpartition(".")[2]))
        for role, name in {"student": "base", "domains.math.teacher": "math_teacher"}.items()
    }
    config = small(**paths)
    identity = run_identity(config, prepare(config, str(folder / "run")).fingerprints)
    start_or_resume(str(folder / "run"), identity, {})
    return folder, config


@pytest.mark.parametrize("role, named", [("student", "student"), ("teacher", "teacher of math")])
@pytest.mark.parametrize("file, entry, value, kind", DECIDES.values(), ids=DECIDES)
def test_a_changed_model_file_is_refused(run_of_copies, role, named, file, entry, value, kind):
    folder, config = run_of_copies
    path = folder / role / file
    before = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(before) | {entry: value}))
        with pytest.raises(ValueError, match=f"fingerprint of {kind}.{named}: "):
            prepare(config, str(folder / "run"))
        identity = run_identity(config, prepare(config, str(folder / "new")).fingerprints)
    finally:
        path.write_text(before)
    with pytest.raises(ValueError, match=f"fingerprint of {kind}.{named}: ") as error:
        start_or_resume(str(folder / "run"), identity, {})
    assert set(re.findall(r"fingerprint of (\w+)", str(error.value))) == {kind}


# ---- The host's part of a checkpoint.


class Stream:
    """In place of a `PromptStream`: it only has a state."""

    def __init__(self, state):
        self.state = state

    def get_state(self):
        return self.state

    def set_state(self, state):
        self.state = state


def test_the_hosts_state_comes_back():
    identity = run_identity(small(), FINGERPRINTS)
    saved = json.loads(json.dumps(HostState(Stream({"next": 7}), identity, 12.5).to_json()))
    host = HostState(Stream({"next": 0}), identity)
    host.restore("runs/x", saved)
    assert host.stream.state == {"next": 7}
    assert host.seconds == 12.5


def test_the_hosts_state_of_another_run_is_refused():
    saved = HostState(Stream({}), run_identity(small(seed=1), FINGERPRINTS)).to_json()
    host = HostState(Stream({}), run_identity(small(), FINGERPRINTS))
    with pytest.raises(ValueError, match="runs/x holds another run.*\n.*seed: 1 -> 0"):
        host.restore("runs/x", saved)
