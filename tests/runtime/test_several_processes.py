"""Two processes: what they agree on, and how they end when one of them is gone."""

import concurrent.futures
import os
from pathlib import Path
import re
import socket
import subprocess
import sys

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, signal, sys, time
from gopd_jax import cli

def work(process, at, what):
    from gopd_jax.runtime import processes, watch
    from gopd_jax.runtime.joining import Place
    watch.SILENT, watch.GRACE = 4.0, 1.0
    processes.start_processes(Place(at, 2, process))
    if what == "agree":
        import numpy as np
        values = np.array([0.1, 1 / 3, 2**24 + 1])
        assert processes.agree(values + process).tolist() == values.tolist()
        assert processes.of_first(lambda: {"a": process, "b": "\u00e9"}) == {"a": 0, "b": "\u00e9"}
        assert processes.which_hosts(process == 1) == [1]
        assert processes.which_hosts(False) == []
        told = processes.told_to_first("a", {"of": process}, 60)
        assert told == [[{"of": 0}, {"of": 1}], []][process]
        assert processes.together(lambda: "ab"[: process + 1]) == ["a", "ab"]
        done = []
        assert processes.shared(lambda x: [done.append(i) or -i for i in x], range(5)) == [
            0, -1, -2, -3, -4
        ]
        assert done == [[0, 2, 4], [1, 3]][process]
        assert processes.shared(list, "a") == ["a"]
        try:
            processes.shared(lambda x: [1 // (i - 3) for i in x], range(5))
        except Exception as error:
            said = str(error)
        expected = "integer division or modulo by zero"
        assert said == ("process 1 of 2: " if process == 0 else "") + expected, said
        return
    who, how = what.split()
    if process == int(who):
        time.sleep(1)
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise {"mistaken": ValueError, "broken": KeyError}[how]("a reason of its own")
    time.sleep(60)

sys.exit(cli.run(work, int(sys.argv[1]), *sys.argv[2:]))
"""


def outcome(what: str) -> list[tuple[int, str]]:
    """Exit status and stderr of both processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{free.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(i), at, what],
            env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in started]
    return [(p.returncode, text) for p, text in zip(started, said, strict=True)]


def test_processes_agree_on_every_bit():
    for status, said in outcome("agree"):
        assert status == 0, said


CASES = {
    "0 killed": (-9, "no sign of life for 4 s"),
    "1 killed": (-9, "no sign of life for 4 s"),
    "0 mistaken": (2, "it has ended \\(a reason of its own\\)"),
    "1 broken": (1, "it has ended \\('a reason of its own'\\)"),
}


def test_when_one_is_gone_the_other_says_so_and_ends():
    with concurrent.futures.ThreadPoolExecutor(len(CASES)) as threads:
        outcomes = list(threads.map(outcome, CASES))
    for (what, (status, reason)), found in zip(CASES.items(), outcomes, strict=True):
        gone = int(what[0])
        assert found[gone][0] == status, what
        ended, said = found[1 - gone]
        (line,) = [x for x in said.splitlines() if x and not x.startswith("waiting up to")]
        begin = f"process {1 - gone}: error: process {gone} of 2 on host .* is gone \\({reason}; .*"
        assert ended == 4 and re.fullmatch(begin + "resumes from the last checkpoint", line)
