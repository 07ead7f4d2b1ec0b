"""A run that goes on beyond the steps it was started with.

The same command with a larger `steps` continues in the same folder. The learning rate of the steps
to come is that of a run of the new length; what was done stays as it is.
"""

from etils import epath
import jax
import optax

from gopd_jax.config import Config
from gopd_jax.runtime.checkpoint import saved_steps
from gopd_jax.runtime.files import JsonObject
from gopd_jax.runtime.run_folder import holds_run, read_run, read_summary


def check_steps(workdir: str, old: JsonObject | None, steps: int) -> None:
    """Checks that a run may go on to `steps`.

    Args:
        workdir: folder of the run.
        old: the content of its run.json; None for a new run.
        steps: of the command.

    Raises:
        ValueError: it has more steps than that, is finished and has lost its last checkpoint, or
            its run.json is damaged.
    """
    if old is None:
        return
    before = old["config"].get("steps")
    if not isinstance(before, int):
        raise ValueError(
            f"{workdir}/run.json is damaged: expected a whole number as 'steps' of its config, not "
            f"{before!r}"
        )
    if steps < before:
        raise ValueError(
            f"config.steps={steps}: expected at least {before}, the steps of the run in {workdir}; "
            "a run can be given more steps, not fewer"
        )
    done = read_summary(workdir)
    if done and done["steps"] < steps and done["steps"] not in saved_steps(workdir):
        raise ValueError(
            f"config.steps={steps}: {workdir} is finished, but its checkpoint of step "
            f"{done['steps']} is not there; expected it, to go on from"
        )


def steps_before(workdir: str) -> int | None:
    """The steps that a run was last started with; None for a new run."""
    return read_run(workdir)["config"]["steps"] if holds_run(workdir) else None


def set_summary_aside(workdir: str) -> None:
    """Renames the summary of an earlier end to summary_step_N.json, if there is one."""
    if jax.process_index() == 0 and (done := read_summary(workdir)):
        folder = epath.Path(workdir)
        (folder / "summary.json").rename(folder / f"summary_step_{done['steps']}.json")


def announcement(config: Config, schedule: optax.Schedule, before: int, done: int) -> str:
    """What more steps mean for the learning rate, in one line.

    Args:
        schedule: learning rate by update, of the new length.
        before: steps of the run until now.
        done: steps that are done.
    """
    learner = config.learner
    if learner.schedule == "constant":
        rate = "the learning rate is constant, so that nothing else changes"
    else:
        next_rate = float(schedule(done * learner.updates_per_batch))
        rate = (
            f"the learning rate ({learner.schedule}) is from now on that of a run of "
            f"{config.steps} steps: {next_rate:.3g} at step {done + 1}"
        )
    return f"going on to step {config.steps}, the run was to end at {before}: {rate}"
