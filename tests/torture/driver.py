"""The train command, with its phases written down: `python -m tests.torture.driver FILE ARGS...`.

Wraps public methods so that each notes when its phase begins, then calls the command itself.
"""

import contextlib
import sys

from gopd_jax.runtime import checkpoint
from gopd_jax.runtime.checkpoint import Checkpoints
from gopd_jax.train import __main__ as command
from gopd_jax.train.clock import Clock
from gopd_jax.train.evaluations import Evaluator
from gopd_jax.train.step import Trainer
from tests.torture.phases import Writer

AFTER = {"rollout": "score", "score": "update", "update": "between"}


def write_down(note: Writer) -> None:
    """Wraps what a run is made of."""
    step, phase, student = Trainer.step, Clock.phase, Evaluator.student
    save, restore, manifest = Checkpoints.save, Checkpoints.restore, checkpoint.write_manifest

    now = 0  # the step

    def noted_step(self, state, requests, number, *rest):
        nonlocal now
        now = number
        note("rollout", number)
        return step(self, state, requests, number, *rest)

    @contextlib.contextmanager
    def noted_phase(self, name):
        with phase(self, name):
            yield
        if name in AFTER:
            note(AFTER[name], now)

    def noted_student(self, params, number, *rest):
        note("evaluation", number)
        student(self, params, number, *rest)
        note("between", number)

    def noted_save(self, number, *rest):
        note("save", number)
        save(self, number, *rest)

    def noted_manifest(folder):
        manifest(folder)
        note("saved", int(folder.name))

    def noted_restore(self, *rest):
        restored = restore(self, *rest)
        note("restored", 0 if restored is None else restored.step)
        return restored

    Trainer.step, Clock.phase, Evaluator.student = noted_step, noted_phase, noted_student
    Checkpoints.save, Checkpoints.restore = noted_save, noted_restore
    checkpoint.write_manifest = noted_manifest


if __name__ == "__main__":
    write_down(Writer(sys.argv[1]))
    sys.exit(command.main(sys.argv[2:]))
