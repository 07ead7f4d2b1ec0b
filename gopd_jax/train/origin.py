"""Where a run comes from: its models as paths and fingerprints, and the checkpoint it starts from.

In: the config and the fingerprints of what its paths lead to. Out: what run.json records when the
run starts. Restores no arrays.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import re

from gopd_jax.config import Config
from gopd_jax.models.exported import read_exported
from gopd_jax.models.huggingface import local_folder
from gopd_jax.runtime.checkpoint import saved_steps
from gopd_jax.runtime.files import JsonObject, absolute
from gopd_jax.runtime.manifest import MANIFEST, damage, has_manifest
from gopd_jax.runtime.run_folder import holds_run, read_run

# Fingerprints of the student that the run of a checkpoint must share.
SAME = {"vocabulary": "vocabulary", "architecture": "architecture of the student"}


@dataclasses.dataclass(frozen=True)
class StartingPoint:
    """The checkpoint of another run that a run starts from.

    run: absolute path of the other run's folder.
    step: of the checkpoint.
    manifest: sha256 of its manifest, which holds the sha256 of each of its files.
    """

    run: str
    step: int
    manifest: str


def check_reference(config: Config, roles: Mapping[str, str]) -> None:
    """Refuses an exported student that would become its own reference without a word.

    Args:
        roles: path of the model in each role.

    Raises:
        ValueError: a reference is needed, none is given, and the student was trained by gopd_jax.
    """
    if "reference" not in roles or config.reference:
        return
    if (made := read_exported(config.student)) is None:
        return
    before, student = made["reference"]["path"], config.student
    raise ValueError(
        f"config.reference='': the student {student!r} was trained by gopd_jax ({made['method']}) "
        f"with the reference or start {before!r}, and would now be its own reference; expected "
        f"--config.reference={before} to keep that one, or --config.reference={student} to take "
        "the student on purpose"
    )


def origin_of(
    config: Config, workdir: str, roles: Mapping[str, str], fingerprints: JsonObject
) -> JsonObject:
    """What run.json records when a run starts.

    Args:
        workdir: folder of the run.
        roles: path of the model in each role.
        fingerprints: of the run.

    Returns:
        "models": by role, the path as it was "given", its "folder", and the sha256 of its
        "weights"; "init_from": a `StartingPoint` as JSON, or None.

    Raises:
        ValueError: see `starting_point`.
    """
    given = dict(roles) | ({"reference": config.reference} if "reference" in roles else {})
    models = {
        role: {
            "given": given[role],
            "folder": str(local_folder(path).resolve()),
            "weights": fingerprints["weights"][role],
        }
        for role, path in roles.items()
    }
    point = starting_point(config, workdir, fingerprints)
    return {"models": models, "init_from": dataclasses.asdict(point) if point else None}


def starting_point(config: Config, workdir: str, fingerprints: JsonObject) -> StartingPoint | None:
    """The checkpoint that `config.init_from` names; None where it is empty.

    Once the run has a checkpoint of its own, what run.json says of it is returned and the other
    run's folder is not read any more. Before, the checkpoint must be the recorded one.

    Args:
        workdir: folder of the run that starts.
        fingerprints: of the run that starts.

    Raises:
        ValueError: there is no such checkpoint, it is damaged, it is of another student, or it is
            not the one that the run was started from.
    """
    if not config.init_from:
        return None
    recorded = (read_run(workdir) if holds_run(workdir) else {}).get("init_from")
    names = {f.name for f in dataclasses.fields(StartingPoint)}
    if recorded and not (isinstance(recorded, dict) and recorded.keys() == names):
        raise ValueError(
            f"{workdir}/run.json is damaged: expected a run, step and manifest as its 'init_from', "
            f"not {recorded!r}"
        )
    if recorded and saved_steps(workdir):
        return StartingPoint(**recorded)
    folder, step = _parts(config.init_from)
    run = read_run(folder)
    _check_same_student(config, run, fingerprints)
    if recorded:
        step = recorded["step"]
    point = _checkpoint(config.init_from, folder, step)
    if recorded and point.manifest != recorded["manifest"]:
        raise ValueError(
            f"config.init_from={config.init_from!r}: the checkpoint of step {point.step} is not "
            f"the one that {workdir} was started from; expected a manifest with the sha256 "
            f"{recorded['manifest']}, or another --workdir"
        )
    return point


def reference_line(config: Config, reference: str | None) -> str:
    """What the reference is, and why, for the opening lines.

    Args:
        reference: its path; None where no lambda needs one.
    """
    if not reference:
        return "not needed: every lambda is 1"
    if config.reference:
        return reference
    of = "the weights in the student's folder"
    return f"{reference} ({of}{', not the checkpoint' if config.init_from else ''})"


def start_line(point: JsonObject) -> str:
    """What the run takes from a checkpoint, for the opening lines."""
    return (
        f"step {point['step']} of {point['run']}: parameters and moments of the optimizer; prompts,"
        " draws and the learning rate begin at step 1"
    )


def _parts(init_from: str) -> tuple[str, int | None]:
    """The folder and the step of RUN or RUN@STEP."""
    found = re.fullmatch(r"(.+)@(\d+)", init_from)
    return (found[1], int(found[2])) if found else (init_from, None)


def _check_same_student(config: Config, run: JsonObject, fingerprints: JsonObject) -> None:
    where = f"config.init_from={config.init_from!r}"
    for kind, name in SAME.items():
        theirs, ours = run["fingerprints"].get(kind), fingerprints[kind]
        if isinstance(ours, dict):
            theirs, ours = (theirs or {}).get("student"), ours["student"]
        if theirs != ours:
            raise ValueError(
                f"{where}: the {name} of that run has another fingerprint than that of "
                f"config.student={config.student!r}; expected a run of the same student"
            )
    _check_same_adapter(config, run, fingerprints)
    clip, clipped = config.learner.clip_norm, run["config"].get("learner", {}).get("clip_norm")
    if bool(clip) != bool(clipped):
        raise ValueError(
            f"{where}: that run has learner.clip_norm={clipped}, this one {clip}; expected 0 in "
            "both or in neither, because the optimizer's state differs"
        )


def _check_same_adapter(config: Config, run: JsonObject, fingerprints: JsonObject) -> None:
    where = f"config.init_from={config.init_from!r}"
    theirs, ours = _trained(run["config"].get("lora", {})), _trained(vars(config.lora))
    if theirs != ours:
        raise ValueError(
            f"{where}: that run trained {theirs}, this one {ours}; expected the same, because a "
            "checkpoint holds nothing else"
        )
    before, now = (x.get("weights", {}).get("student") for x in (run["fingerprints"], fingerprints))
    if config.lora.rank and before != now:
        raise ValueError(
            f"{where}: the adapter of that run belongs to other weights than those of "
            f"config.student={config.student!r}; expected the same weights"
        )


def _trained(lora: JsonObject) -> str:
    if not lora.get("rank"):
        return "all parameters"
    return f"an adapter of rank {lora['rank']} on {', '.join(lora['targets'])}"


def _checkpoint(init_from: str, folder: str, step: int | None) -> StartingPoint:
    """The given step, or the newest; checked by its manifest."""
    where, steps = f"config.init_from={init_from!r}", saved_steps(folder)
    if not steps or (step is not None and step not in steps):
        which = "" if step is None else f" of step {step}"
        expected = f"one of the steps {steps}" if steps else "a run that has saved one"
        raise ValueError(f"{where}: there is no checkpoint{which}; expected {expected}")
    step = steps[-1] if step is None else step
    path = absolute(folder) / "checkpoints" / str(step)
    reason = damage(path) if has_manifest(path) else f"it has no {MANIFEST}"
    if reason:
        raise ValueError(
            f"{where}: the checkpoint of step {step} is damaged ({reason}); expected an intact "
            f"one, {folder} has the steps {steps}"
        )
    manifest = hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()
    return StartingPoint(str(absolute(folder)), step, manifest)
