"""A worker process: what it needs before JAX is imported, and one arm after the other.

Importing this module must not import JAX, which reads the environment and the number of cores when
it is imported.
"""

import multiprocessing
from multiprocessing.queues import Queue
import os
import threading

from absl import logging

from gopd_jax.reproduce.arms import Arm, Size
from gopd_jax.reproduce.folder import ArmScores, arm_folder
from gopd_jax.runtime import progress


def start_worker(cores: "Queue[int | None]", compiled: str) -> None:
    """Prepares a new process.

    Args:
        cores: gives each process a core to itself, or None for all of them.
        compiled: folder of compiled programs, shared by the processes.
    """
    if (core := cores.get()) is not None:
        os.sched_setaffinity(0, {core})
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.set_verbosity(logging.ERROR)  # Orbax warns that it opens a finished run read-only


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, as after kill -9."""
    multiprocessing.parent_process().join()
    os._exit(1)  # what is trained is saved


def run_quietly(arm: Arm, seed: int, out: str, size: Size) -> ArmScores:
    """`work.run` with its progress in log.txt: several processes would talk over one another.

    Raises:
        RuntimeError: the arm failed; names the log.
    """
    from gopd_jax.reproduce import work  # imports JAX, see above

    folder = arm_folder(arm.name, seed, out)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log.txt", "a") as file:
        progress.console.file = file
        try:
            return work.run(arm, seed, out, size)
        except Exception as error:
            raise RuntimeError(
                f"arm {arm.name}, seed {seed}: {error!r}; its log is {folder}/log.txt"
            ) from error
