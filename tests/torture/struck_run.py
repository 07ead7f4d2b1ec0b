"""One start of a run: waits for its moment, strikes it, and looks at what it leaves behind."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import time

from tests.rewards.processes import alive, children, descendants, wait_until_gone
from tests.torture.phases import Event, Reader
from tests.torture.plan import KILL_ALL, KILL_MAIN, KILL_WORKERS, Strike

ROOT = Path(__file__).parents[2]
WAIT_S = 240.0  # for a moment to come, or for the end of a run; a start takes 10 to 50 s
LEAVE_S = 10.0  # processes of a run that has ended may take this long to end themselves


class Failed(Exception):
    """A run did what it must not; the message says what."""


class StruckRun:
    """The process of a start, in a process group of its own.

    Args:
        folder: gets its output and the record of its phases.
        number: of the start, in the names of these files.
        arguments: of the train command.
    """

    def __init__(self, folder: Path, number: int, arguments: list[str]):
        self._output = folder / f"output_{number}.txt"
        phases = folder / f"phases_{number}.jsonl"
        self.phases = Reader(phases)
        command = [sys.executable, "-m", "tests.torture.driver", str(phases), *arguments]
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(self, phase: str, step: int | None = None) -> Event:
        """Waits until a phase begins, of a step or of any; `Failed` if the run ends before."""
        deadline, seen = time.monotonic() + WAIT_S, 0
        while True:
            ended = self._process.poll() is not None
            events = self.phases.update()
            for event in events[seen:]:
                if event.phase == phase and step in (None, event.step):
                    return event
            seen = len(events)
            if ended:
                raise Failed(f"ended with {self._process.returncode} before {phase} {step or ''}")
            if time.monotonic() > deadline:
                raise Failed(f"{phase} {step or ''} did not come in {WAIT_S:.0f} s")
            time.sleep(0.001)

    def strike(self, strike: Strike) -> tuple[float, set[int]]:
        """Sends the signal; returns when it did, and the processes that must end by themselves."""
        main = self._process.pid
        below, moment = descendants(main), time.monotonic()
        if strike.signal == KILL_ALL:
            os.killpg(main, signal.SIGKILL)
            _kill(below)  # workers have sessions of their own
        elif strike.signal == KILL_MAIN:
            os.kill(main, signal.SIGKILL)
        elif strike.signal == KILL_WORKERS:
            workers = self._workers()
            below = set().union(*(descendants(worker) for worker in workers))
            moment = time.monotonic()
            _kill(workers)
        elif strike.signal == "SIGSTOP":
            os.killpg(main, signal.SIGSTOP)
            time.sleep(strike.stopped_s)
            os.killpg(main, signal.SIGCONT)
            below = set()
        else:
            os.killpg(main, getattr(signal, strike.signal))
        return moment, below

    def _workers(self) -> set[int]:
        """The verifier workers; waits until there is one, if the run has only just started."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if workers := {p for p in children(self._process.pid) if _is_worker(p)}:
                return workers
            time.sleep(0.001)
        raise Failed("has no verifier worker to kill")

    def wait(self) -> int:
        """The exit status."""
        try:
            return self._process.wait(WAIT_S)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"did not end in {WAIT_S:.0f} s") from error

    def last_line(self) -> str:
        """The last line of its output."""
        lines = [line.strip() for line in self._output.read_text().splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def close(self) -> None:
        """Kills what still runs."""
        if self._process.poll() is None:
            below = descendants(self._process.pid)
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            _kill(alive(below))


def seconds_until_gone(pids: set[int]) -> float | None:
    """How long processes take to end by themselves; None if some do not, and kills those."""
    start = time.monotonic()
    if left := wait_until_gone(pids, LEAVE_S):
        _kill(left)
        return None
    return time.monotonic() - start


def _kill(pids: set[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _is_worker(pid: int) -> bool:
    try:
        return b"gopd_jax.rewards.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
