"""What makes a run this run, and what it needs to resume: config, fingerprints, host state.

A run folder that holds another run than the one a command asks for is refused.
"""

from collections.abc import Sequence
import dataclasses
import fnmatch
import json

import jax

from gopd_jax.config import Config
from gopd_jax.data.stream import PromptStream
from gopd_jax.learner.settings import ControlSettings, SelfTeacherSettings
from gopd_jax.models.settings import NO_LORA
from gopd_jax.objective.settings import EstimatorSettings
from gopd_jax.objective.shaping_settings import SHAPING
from gopd_jax.runtime.checkpoint import saved_steps
from gopd_jax.runtime.files import JsonObject
from gopd_jax.runtime.processes import of_first, which_hosts
from gopd_jax.runtime.run_folder import holds_run, read_run, write_run

# Fields that may differ when a run is resumed: they change what is shown or kept, or how the work
# is laid out, and not what is computed. Paths are among them because the fingerprints of what they
# lead to are compared; and steps, because a run may go on (`going_on`).
FREE_FIELDS = (
    "check",
    "checkpoint",
    "compilation_cache",
    "log",
    "mesh",
    "data.cache_dir",
    "learner.park_frozen",
    "learner.park_optimizer",
    "eval.teachers",
    "eval.cache",
    "name",
    "steps",
    "verifier.workers",
    "rollout.layout",
    "rollout.slots",
    "rollout.steps_per_dispatch",
    "rollout.prefill_tokens",
    "student",
    "reference",
    "domains.*.teacher",
    "domains.*.train",
    "domains.*.test",
)
# What the settings are in runs that were started before there were these: no checkpoint to start
# from, no adapter, the sampled estimator, no shaping, no control, and teachers that stay.
BEFORE = {
    "init_from": "",
    "lora": json.loads(json.dumps(dataclasses.asdict(NO_LORA))),
    "objective": dataclasses.asdict(EstimatorSettings()),
    "shaping": dataclasses.asdict(SHAPING),
    "control": dataclasses.asdict(ControlSettings()),
    "self_teacher": dataclasses.asdict(SelfTeacherSettings()),
}
BEFORE_OF_DOMAINS = {"teacher_template": ""}  # likewise, of each domain
# Fields that the hosts of one run may be given differently: paths, of which the content is
# compared, and what the first host's alone decides.
OF_A_HOST = (
    "compilation_cache",
    "data.cache_dir",
    "verifier.workers",
    "student",
    "reference",
    "domains.*.teacher",
    "domains.*.train",
    "domains.*.test",
)


@dataclasses.dataclass
class HostState:
    """The host's part of a checkpoint.

    stream: the prompts of the next steps.
    identity: what `run_identity` returned.
    seconds: of training, over all starts of the run; without evaluations and checkpoints.
    """

    stream: PromptStream
    identity: JsonObject
    seconds: float = 0.0

    def to_json(self) -> JsonObject:
        return {
            "stream": self.stream.get_state(),
            "seconds": self.seconds,
            "identity": self.identity,
        }

    def restore(self, workdir: str, saved: JsonObject) -> None:
        """Goes back to where `to_json` was called; ValueError if that was in another run."""
        refuse_another_run(workdir, saved["identity"], self.identity)
        self.stream.set_state(saved["stream"])
        self.seconds = saved["seconds"]


def run_identity(config: Config, fingerprints: JsonObject) -> JsonObject:
    """What makes a run this run: its config, and fingerprints of models, tokenizer, template, data.

    Returned as JSON reads it back, so that it can be compared with what a file holds.
    """
    identity = {"config": dataclasses.asdict(config), "fingerprints": fingerprints}
    return json.loads(json.dumps(identity))


def start_or_resume(
    workdir: str, identity: JsonObject, start: JsonObject, origin: JsonObject | None = None
) -> bool:
    """Writes run.json for a new run, or checks that the folder holds the same run.

    Args:
        identity: what `run_identity` returned.
        start: versions, git commit, command: recorded for each start, never compared.
        origin: what `RunInputs.origin` holds: recorded when the run starts, never compared.

    Returns:
        Whether there was a run.

    Raises:
        ValueError: the folder holds another run, and every field that differs is listed; or
            run.json is damaged, or missing where there are checkpoints.
    """
    old = check_same_run(workdir, identity)
    resumed = old is not None
    old = (origin or {}) | (old or identity | {"starts": []})
    old["config"] |= {"steps": identity["config"]["steps"]}
    if jax.process_index() == 0:
        write_run(workdir, old | {"starts": [*old["starts"], start]})
    return resumed


def check_same_command(identity: JsonObject) -> None:
    """Checks that the hosts of a run are given the same one; waits for all of them.

    Raises:
        ValueError: config or fingerprints of some host are not those of the first; on that host
            it says what differs.
    """
    first = of_first(lambda: identity)
    lines = differing_fields(first["config"], identity["config"], free=OF_A_HOST)
    content = first["fingerprints"], identity["fingerprints"]
    lines += differing_fields(*content, "fingerprint of ")
    others = which_hosts(bool(lines))
    if lines:
        raise ValueError(
            "this process is given another run than process 0 (process 0 -> this one): "
            f"{'; '.join(lines)}; expected the same command, models and data for all"
        )
    if others:
        raise ValueError(
            f"process {others[0]} is given another run than the others; its own output says how: "
            "expected the same command, models and data for all"
        )


def check_same_run(workdir: str, identity: JsonObject) -> JsonObject | None:
    """The content of run.json, or None for a new run; writes nothing.

    Raises:
        ValueError: see `start_or_resume`.
    """
    if not holds_run(workdir):
        return None
    old = read_run(workdir)
    refuse_another_run(workdir, old, identity)
    return old


def refuse_another_run(workdir: str, old: JsonObject, new: JsonObject) -> None:
    """Raises ValueError with every field in which two identities differ, if there is one.

    Kinds of fingerprints that the old one lacks as a whole are not compared: it was written before
    they were recorded.
    """
    before, now = old["fingerprints"], new["fingerprints"]
    config = BEFORE | old["config"]
    domains = config.get("domains", {})
    config["domains"] = {name: BEFORE_OF_DOMAINS | domain for name, domain in domains.items()}
    settings = differing_fields(config, new["config"])
    content = differing_fields(
        before, {kind: now[kind] for kind in now if kind in before}, "fingerprint of "
    )
    if lines := settings + content:
        use = "Use another --workdir, or the old values."
        if not content and not new["config"]["init_from"] and saved_steps(workdir):
            use += (
                " To go on from its last checkpoint with the new values: another --workdir and "
                f"--config.init_from={workdir}"
            )
        raise ValueError(
            f"{workdir} holds another run; resuming it with this command would mix two. "
            "Differing:\n  " + "\n  ".join(lines) + f"\n{use}"
        )


def differing_fields(
    old: JsonObject, new: JsonObject, prefix: str = "", free: Sequence[str] = FREE_FIELDS
) -> list[str]:
    """Lines "field: old -> new" for two nested dicts; `free`, with wildcards, is left out."""
    lines = []
    for key in sorted(set(old) | set(new)):
        field = f"{prefix}{key}"
        if any(fnmatch.fnmatchcase(field, name) for name in free):
            continue
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differing_fields(a, b, f"{field}.", free)
        elif a != b:
            lines.append(f"{field}: {a!r} -> {b!r}")
    return lines
