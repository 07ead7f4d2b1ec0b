"""Trackers: services that show the numbers of a run beside metrics.jsonl, which is the record.

In: the scalars of each step. Out: a run of Weights & Biases or of Trackio, and trackers.json in the
run's folder: the id of that run, how far it was given the numbers, and whether it was closed. A
tracker that was not closed, as after a kill, has lost what it held in memory. TensorBoard needs
none of this and has a module of its own.
"""

from collections.abc import Callable, Collection, Mapping
import contextlib
import dataclasses
import importlib.util
import os
import secrets
import sys
from types import TracebackType
from typing import Protocol, Self

from etils import epath
import jax

from gopd_jax.runtime.files import JsonObject, read_json, replace_json
from gopd_jax.runtime.progress import say

PROJECT = "gopd_jax"


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run at each start.

    id: the same at each start, so that the tracker continues its run.
    folder: of the run; empty if it is not a local one.
    config: settings and fingerprints, as JSON.
    """

    name: str
    id: str
    folder: str
    config: JsonObject


class Tracker(Protocol):
    """A run in a tracker; it may raise whatever the library raises."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the values of a step; steps never decrease within a start of the run."""

    def held(self) -> int | None:
        """Last step that the tracker holds of earlier starts, -1 for none; None if not known."""

    def close(self, failed: bool) -> None:
        """Ends the run, or this start of it; `failed` if it was stopped or has failed."""


class WeightsAndBiases:
    """A run of Weights & Biases; `WANDB_PROJECT`, `WANDB_MODE` and the like apply."""

    def __init__(self, run: TrackedRun):
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=run.id,
            resume="allow",
            config=run.config,
            allow_val_change=True,  # a resumed run may have other paths
            dir=run.folder or None,
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        # A step that the server has is dropped; a resumed run may give the scores of such a step.
        self._run.log(dict(values), step=max(step, self._run.step))

    def held(self) -> int | None:
        return self._run.step - 1  # offline, each start has a folder of its own, which begins at 0

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class Trackio:
    """A run of Trackio, which finds it by its name; `TRACKIO_SPACE_ID` and the like apply."""

    def __init__(self, run: TrackedRun):
        import trackio

        self._end = trackio.finish  # `Run.finish` would be called once more as Python ends
        with contextlib.redirect_stdout(sys.stderr):  # where all that training says goes
            self._run = trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", PROJECT),
                name=f"{run.name}-{run.id}",
                resume="allow",
                config=run.config,
                embed=False,
            )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def held(self) -> int | None:
        following = getattr(self._run, "_next_step", None)  # nothing public says it
        return None if following is None else following - 1

    def close(self, failed: bool) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self._end()


SERVICES: dict[str, Callable[[TrackedRun], Tracker]] = {
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}
HELP = {
    "wandb": "`wandb login` or WANDB_API_KEY, or WANDB_MODE=offline",
    "trackio": "the TRACKIO_ variables of the environment to be right",
}


def check_installed(names: Collection[str]) -> None:
    """Raises ValueError when the library of a tracker is not installed."""
    for name in SERVICES:
        if name in names and not _is_installed(name):
            raise ValueError(
                f"config.log.trackers={tuple(names)!r}: {name} is not installed; expected it from "
                f"`pip install {name}`, or only trackers that are installed"
            )


class Trackers:
    """The trackers of a run; a context manager that ends their runs.

    A tracker that raises an error is named once and then left alone: the run goes on, and its next
    start gives the tracker the metrics that it lacks.

    Args:
        workdir: the run's folder.
        names: of the trackers, as `LogSettings.trackers` has them.
    """

    def __init__(self, workdir: str, names: Collection[str] = ()):
        self.tensorboard = "tensorboard" in names
        on = jax.process_index() == 0
        self._workdir = workdir
        self._names = [name for name in SERVICES if name in names and on]
        self._started: dict[str, Tracker] = {}
        self._file = epath.Path(workdir) / "trackers.json"
        self._states: dict[str, JsonObject] = {}  # by tracker: what trackers.json says of it
        self._given_before: dict[tuple[str, str], int] = {}  # last step, by tracker and kind

    def start(self, name: str, config: JsonObject) -> None:
        """Begins or continues the run in each tracker.

        Args:
            name: of the run.
            config: settings and fingerprints.

        Raises:
            ValueError: a tracker cannot be started, for example without an account.
        """
        if not self._names:
            return
        self._states = read_json(self._file) if self._file.exists() else {}
        for tracker in self._names:
            new = {"id": secrets.token_hex(4), "closed": True, "given": {}}
            state = self._states.setdefault(tracker, new)
            folder = "" if "://" in self._workdir else os.path.abspath(self._workdir)
            run = TrackedRun(name, state["id"], folder, config)
            try:
                self._started[tracker] = started = SERVICES[tracker](run)
                held = None if state["closed"] else started.held()
            except Exception as e:  # of the library, whatever it is
                raise ValueError(
                    f"config.log.trackers: {tracker} cannot be started ({_reason(e)}); expected "
                    f"{HELP[tracker]}"
                ) from e
            for kind, step in state["given"].items():
                self._given_before[tracker, kind] = step if held is None else min(step, held)
            state["closed"] = False
        self.flush()

    def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Shows values of a step to each tracker that does not hold them from an earlier start.

        Args:
            kind: of values, such as "metrics"; within each, steps increase.
            step: of the run.
            values: by name.
        """
        for name, tracker in list(self._started.items()):
            if step <= self._given_before.get((name, kind), -1):
                continue
            try:
                tracker.scalars(step, values)
            except Exception as e:
                say(
                    f"warning: {name} failed at step {step} ({_reason(e)}); the run goes on "
                    "without it, metrics.jsonl has every step"
                )
                del self._started[name]
                self._end(name, tracker, failed=True)
            else:
                self._states[name]["given"][kind] = step

    def flush(self) -> None:
        """Writes down how far the trackers were given the numbers."""
        if self._started:
            replace_json(self._file, self._states)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, tracker in self._started.items():
            self._states[name]["closed"] = self._end(name, tracker, failed=error is not None)
        with contextlib.suppress(OSError):  # the next start then asks the trackers what they hold
            self.flush()
        self._started = {}

    def _end(self, name: str, tracker: Tracker, failed: bool) -> bool:
        try:
            tracker.close(failed)
        except Exception as e:
            say(f"warning: {name} could not be closed ({_reason(e)}); metrics.jsonl is complete")
            return False
        return True


def _is_installed(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    # A folder of that name in the current one is found as well, but without a file.
    return spec is not None and spec.origin is not None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
