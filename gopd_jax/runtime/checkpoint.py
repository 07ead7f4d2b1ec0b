"""Orbax checkpoints of a run.

In a checkpoint: the train state on device (student parameters, optimizer, step) and, as JSON, what
the host needs to resume: the data iterator and the identity of the run. Never teacher or reference
weights. When it is committed, a manifest of its files is added; before it is restored, the manifest
is checked. A damaged checkpoint is named and set aside, and the one before it is used.
"""

import concurrent.futures
import contextlib
import dataclasses
import logging

from absl import logging as absl_logging
from etils import epath
import jax
import orbax.checkpoint as ocp

from gopd_jax.runtime.files import JsonObject, absolute, is_remote
from gopd_jax.runtime.manifest import (
    damage,
    has_manifest,
    set_aside,
    were_set_aside,
    write_manifest,
)
from gopd_jax.runtime.processes import agree
from gopd_jax.runtime.progress import say
from gopd_jax.types import Params, TrainState

# A checkpoint that fails to restore because of these is not damaged.
NO_DAMAGE = (MemoryError, jax.errors.JaxRuntimeError)
WRITE_ERRORS = (OSError, ValueError)  # TensorStore raises ValueError for a full disk


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint held: the step it was saved after, the train state, the host's state."""

    step: int
    state: TrainState
    host: JsonObject


class Checkpoints:
    """Saves and restores `TrainState` and the host's state; saving runs in the background.

    The last checkpoint known to be good (its manifest is written, or it was restored) is kept until
    a newer one is known to be good, so that with `keep=1` there are two for a time.
    """

    def __init__(self, workdir: str, keep: int):
        self._folder, self._keep = _folder(workdir), keep
        absl_logging.get_absl_logger().addFilter(_says_no_error_twice)
        options = ocp.CheckpointManagerOptions(
            # When a step is saved, the manifest of the one before it is written, and that one is
            # among the last two.
            max_to_keep=max(keep, 2),
            enable_async_checkpointing=True,
            create=True,
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint manifest")
        self._manifest: concurrent.futures.Future[None] | None = None
        self._saving = 0  # the step whose manifest is to be written
        self._good: int | None = None  # the last step known to be good
        self._failed = False

    def save(self, step: int, state: TrainState, host: JsonObject) -> None:
        """Starts saving and returns; the state may be donated afterwards.

        Raises:
            OSError: this checkpoint or the one before it cannot be written. What was saved earlier
                is as it was.
        """
        self._finish()
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), host=ocp.args.JsonSave(host))
        try:
            self._manager.save(step, args=args, force=True)
        except WRITE_ERRORS as e:
            raise self._failure(step, e) from e
        self._add_manifest(step)

    def check(self) -> None:
        """Raises OSError, as `save` does, if the last save is known to have failed."""
        if self._manifest is not None and self._manifest.done():
            self._finish()

    def restore(self, abstract_state: TrainState) -> Restored | None:
        """The latest intact checkpoint, each array with the sharding `abstract_state` gives it.

        Damaged ones that are newer are named and set aside. A checkpoint without a manifest (the
        run was killed before it was written) is intact if Orbax can restore it.

        Returns:
            What it held; None if the run has no checkpoint yet.

        Raises:
            ValueError: every checkpoint is damaged.
        """
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state), host=ocp.args.JsonRestore()
        )
        while (step := self._newest_undamaged()) is not None:
            checked = has_manifest(self._folder / str(step))
            error = None
            try:
                restored = self._manager.restore(step, args=args)
            except NO_DAMAGE:
                raise
            except Exception as e:  # Orbax raises Exception itself for an array it cannot read
                error = e
            if not agree(error is not None):  # the first host decides for all
                if error is not None:
                    raise _not_restored(step, error) from error
                self._good = step
                if not checked:
                    self._add_manifest(step)
                return Restored(step, restored.state, restored.host)
            if checked:  # nothing has changed since it was saved: the reason lies elsewhere
                raise _not_restored(step, error) from error
            self._set_aside(step, f"it has no manifest, and restoring it fails: {_brief(error)}")
        return None

    def close(self) -> None:
        """Waits for what is being saved.

        Raises:
            OSError: it cannot be written. What was saved earlier is as it was.
        """
        try:
            self._finish()
            steps = sorted(self._manager.all_steps())
            if steps and steps[-1] == self._good:
                for step in steps[: -self._keep]:
                    self._manager.delete(step)
        finally:
            self._thread.shutdown()
            with contextlib.suppress(*(WRITE_ERRORS if self._failed else ())):  # said already
                self._manager.close()

    def _newest_undamaged(self) -> int | None:
        """The newest step that its manifest, if it has one, agrees with; sets aside newer ones."""
        self._manager.reload()
        while (step := self._manager.latest_step()) is not None:
            if not (reason := damage(self._folder / str(step))):
                return step
            self._set_aside(step, reason)
        if names := were_set_aside(self._folder):
            raise ValueError(
                f"no checkpoint in {str(self._folder)!r} is intact; damaged and set aside: "
                f"{', '.join(names)}. Expected at least one: put a copy back, or use another "
                "--workdir"
            )
        return None

    def _set_aside(self, step: int, reason: str) -> None:
        if jax.process_index() == 0:
            path = set_aside(self._folder / str(step))
            say(
                f"warning: the checkpoint of step {step} is damaged ({reason}); it is kept as "
                f"{path}, and an earlier one is used"
            )
        agree(True)  # the others wait for the new name
        self._manager.reload()

    def _add_manifest(self, step: int) -> None:
        """Writes a step's manifest in the background, as soon as the step is committed."""
        self._saving = step
        self._manifest = self._thread.submit(self._write_manifest, step)

    def _write_manifest(self, step: int) -> None:
        self._manager.wait_until_finished()
        write_manifest(self._folder / str(step))

    def _finish(self) -> None:
        """Waits until the last checkpoint is committed and has its manifest."""
        manifest, self._manifest = self._manifest, None
        if manifest is None:
            return
        try:
            manifest.result()
        except WRITE_ERRORS as e:
            raise self._failure(self._saving, e) from e
        self._good = self._saving

    def _failure(self, step: int, error: Exception) -> OSError:
        self._failed = True
        since = "the start" if self._good is None else f"step {self._good}, which is intact"
        return OSError(
            f"the checkpoint of step {step} cannot be written to {str(self._folder)!r} "
            f"({_brief(error)}); the same command resumes from {since}"
        )


def saved_steps(workdir: str) -> list[int]:
    """The steps of a run's checkpoints, ascending; those that were set aside are left out."""
    folder = _folder(workdir)
    if not folder.exists():
        return []
    names = [path.name for path in folder.iterdir() if path.name.isdigit()]
    if is_remote(folder):  # without renaming, a step that is not complete lacks a mark
        names = [n for n in names if ocp.utils.is_checkpoint_finalized(folder / n)]
    return sorted(map(int, names))


def restore_state(workdir: str, step: int, abstract_state: TrainState) -> TrainState:
    """The train state of one checkpoint, without the host's state. Changes no file.

    Args:
        workdir: folder of the run.
        step: step of the checkpoint; whether it is damaged is not checked.
        abstract_state: shapes, dtypes and shardings.

    Raises:
        ValueError: it cannot be restored into these shapes.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            return checkpointer.restore(_folder(workdir) / str(step) / "state", abstract_state)
        except NO_DAMAGE:
            raise
        except Exception as e:
            raise _not_restored(step, e) from e


def restore_params(workdir: str, step: int | None, abstract_params: Params) -> tuple[int, Params]:
    """The student's parameters of one checkpoint, without its optimizer. Changes no file.

    Args:
        step: the step of the checkpoint; None takes the latest that is intact, and names newer
            ones.
        abstract_params: shapes, dtypes and shardings.

    Returns:
        The step, and the parameters.

    Raises:
        ValueError: there is no checkpoint, or none of that step, or it is damaged; lists those
            there are.
    """
    folder = _folder(workdir)
    options = ocp.CheckpointManagerOptions(create=False, read_only=True)
    with ocp.CheckpointManager(folder, options=options) as manager:
        steps = sorted(manager.all_steps()) if folder.exists() else []
        if not steps or (step is not None and step not in steps):
            which = "" if step is None else f" of step {step}"
            expected = f"one of {steps}" if steps else "a run that has saved one"
            raise ValueError(f"{workdir!r} has no checkpoint{which}: expected {expected}")
        restore = ocp.args.PyTreeRestore(
            item={"params": abstract_params},
            restore_args={"params": ocp.checkpoint_utils.construct_restore_args(abstract_params)},
            partial_restore=True,
        )
        for candidate in reversed(steps) if step is None else [step]:
            reason = damage(folder / str(candidate))
            if not reason:
                try:
                    args = ocp.args.Composite(state=restore)
                    restored = manager.restore(candidate, args=args)
                    return candidate, restored.state["params"]
                except NO_DAMAGE:
                    raise
                except Exception as e:
                    if has_manifest(folder / str(candidate)):
                        raise _not_restored(candidate, e) from e
                    reason = f"it has no manifest, and restoring it fails: {_brief(e)}"
            damaged = f"the checkpoint of step {candidate} is damaged ({reason})"
            if step is not None:
                raise ValueError(f"{damaged}; {workdir!r} has the steps {steps}")
            say(f"warning: {damaged}; an earlier one is used")
    raise ValueError(f"no checkpoint of {workdir!r} is intact; damaged are the steps {steps}")


def _not_restored(step: int, error: Exception) -> ValueError:
    return ValueError(
        f"the checkpoint of step {step} is intact but cannot be restored ({_brief(error)})"
    )


def _brief(error: Exception) -> str:
    """The first line of an error: Orbax and TensorStore add pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else repr(error)
    return text if len(text) <= 200 else f"{text[:60]} ... {text[-120:]}"


def _says_no_error_twice(record: logging.LogRecord) -> bool:
    """Whether to log a record: Orbax logs the traceback of each error that it also raises."""
    return not (record.exc_info and "orbax" in record.pathname)


def _folder(workdir: str) -> epath.Path:
    return absolute(workdir) / "checkpoints"
