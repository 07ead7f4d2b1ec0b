"""Orbax checkpoints of a run.

In a checkpoint: the train state on device (student parameters, optimizer, step) and, as JSON, what
the host needs to resume: the data iterator and the identity of the run. Never teacher or reference
weights.
"""

from etils import epath
import orbax.checkpoint as ocp

from gopd_jax.runtime.files import JsonObject
from gopd_jax.types import Params, TrainState


class Checkpoints:
    """Saves and restores `TrainState` and the host's state; saving runs in the background."""

    def __init__(self, workdir: str, keep: int):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, create=True
        )
        self._manager = ocp.CheckpointManager(_folder(workdir), options=options)

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, host: JsonObject) -> None:
        """Starts saving and returns; the state may be donated afterwards."""
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), host=ocp.args.JsonSave(host))
        self._manager.save(step, args=args, force=True)

    def restore(self, abstract_state: TrainState) -> tuple[TrainState, JsonObject]:
        """The latest checkpoint, each array with the sharding that `abstract_state` gives it."""
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state), host=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(self._manager.latest_step(), args=args)
        return restored.state, restored.host

    def close(self) -> None:
        """Waits for what is being saved."""
        self._manager.wait_until_finished()
        self._manager.close()


def restore_params(workdir: str, step: int | None, abstract_params: Params) -> tuple[int, Params]:
    """The student's parameters of one checkpoint, without its optimizer.

    Args:
        step: the step of the checkpoint; None takes the latest.
        abstract_params: shapes, dtypes and shardings.

    Returns:
        The step, and the parameters.

    Raises:
        ValueError: there is no checkpoint, or none of that step; lists those there are.
    """
    folder = _folder(workdir)
    options = ocp.CheckpointManagerOptions(create=False, read_only=True)
    with ocp.CheckpointManager(folder, options=options) as manager:
        steps = sorted(manager.all_steps()) if folder.exists() else []
        if not steps or (step is not None and step not in steps):
            which = "" if step is None else f" of step {step}"
            raise ValueError(f"{workdir!r} has no checkpoint{which}; there are: {steps}")
        step = steps[-1] if step is None else step
        restore = ocp.args.PyTreeRestore(
            item={"params": abstract_params},
            restore_args={"params": ocp.checkpoint_utils.construct_restore_args(abstract_params)},
            partial_restore=True,
        )
        restored = manager.restore(step, args=ocp.args.Composite(state=restore))
    return step, restored.state["params"]


def _folder(workdir: str) -> epath.Path:
    return epath.Path(workdir).absolute() / "checkpoints"
