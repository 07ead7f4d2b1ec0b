"""Orbax checkpoints of a run and the contract that a resumed run must keep.

In a checkpoint: the train state on device (student parameters, optimizer, step) and, as JSON, what the host needs to go on
(data iterator) and the identity of the run: config, fingerprints of models, tokenizer, template and data. Beside the
checkpoints, run.json: the identity once more, with versions and git commit of each start. Never teacher or reference weights.
"""

import dataclasses
import json
from typing import Any

from etils import epath
import jax
import orbax.checkpoint as ocp

from gopd_jax.config import Config, differing_fields
from gopd_jax.types import TrainState


class Checkpoints:
    """Saves and restores `TrainState` and the host state; saving runs in the background."""

    def __init__(self, workdir: str, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True, create=True)
        self._manager = ocp.CheckpointManager(epath.Path(workdir).absolute() / "checkpoints", options=options)

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, host: dict[str, Any]) -> None:
        """Starts saving and returns; the state may be donated afterwards."""
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), host=ocp.args.JsonSave(host))
        self._manager.save(step, args=args, force=True)

    def restore(self, abstract_state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The latest checkpoint, each array with the sharding that `abstract_state` gives it."""
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state), host=ocp.args.JsonRestore())
        restored = self._manager.restore(self._manager.latest_step(), args=args)
        return restored.state, restored.host

    def close(self) -> None:
        """Waits for what is being saved."""
        self._manager.wait_until_finished()
        self._manager.close()


def run_identity(config: Config, fingerprints: dict[str, Any]) -> dict[str, Any]:
    """What makes a run this run, as JSON reads it back: config, and fingerprints of models, tokenizer, template and data."""
    return json.loads(json.dumps({"config": dataclasses.asdict(config), "fingerprints": fingerprints}))


def start_or_resume(workdir: str, identity: dict[str, Any], about: dict[str, Any]) -> bool:
    """Writes run.json for a new run, or checks that an old one is the same run. Returns whether there was one.

    Args:
        identity: what `run_identity` returned.
        about: versions, git commit, command: recorded for each start, not compared.

    Raises:
        ValueError: the folder holds another run; lists every differing field.
    """
    path = epath.Path(workdir) / "run.json"
    if not path.exists():
        if jax.process_index() == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, identity | {"starts": [about]})
        return False
    old = json.loads(path.read_text())
    refuse_another_run(workdir, old, identity)
    if jax.process_index() == 0:
        _write(path, old | {"starts": [*old["starts"], about]})
    return True


def refuse_another_run(workdir: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raises ValueError with every field in which two identities differ, if any makes it another run."""
    lines = differing_fields(old["config"], new["config"])
    lines += differing_fields(old["fingerprints"], new["fingerprints"], "fingerprint of ")
    if lines:
        raise ValueError(
            f"{workdir} holds another run; resuming it with this command would mix two. Differing:\n  "
            + "\n  ".join(lines)
            + "\nUse another --workdir, or the old values."
        )


def _write(path: epath.Path, content: dict[str, Any]) -> None:
    """Replaces the file at once, so that a kill never leaves half of it."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


def read_run_config(workdir: str) -> dict[str, Any]:
    """The config that a run was started with.

    Raises:
        ValueError: no run in that folder.
    """
    path = epath.Path(workdir) / "run.json"
    if not path.exists():
        raise ValueError(f"{workdir!r} holds no run: {path} does not exist (a folder that gopd_jax.train wrote is wanted)")
    return json.loads(path.read_text())["config"]


def restore_params(workdir: str, step: int | None, abstract_params: Any) -> tuple[int, Any]:
    """The student's parameters of one checkpoint (None: the latest), with the shardings in `abstract_params`.

    Raises:
        ValueError: no checkpoint, or none of that step; lists those there are.
    """
    folder = epath.Path(workdir).absolute() / "checkpoints"
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(create=False, read_only=True)) as manager:
        steps = sorted(manager.all_steps()) if folder.exists() else []
        if not steps or (step is not None and step not in steps):
            raise ValueError(f"{workdir!r} has no checkpoint{'' if step is None else f' of step {step}'}; there are: {steps}")
        step = steps[-1] if step is None else step
        restore = ocp.args.PyTreeRestore(
            item={"params": abstract_params},
            restore_args={"params": ocp.checkpoint_utils.construct_restore_args(abstract_params)},
            partial_restore=True,
        )
        restored = manager.restore(step, args=ocp.args.Composite(state=restore))
    return step, restored.state["params"]
