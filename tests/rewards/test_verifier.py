"""The verifier: order, cache, several workers, errors, and that no process outlives the trainer."""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

from processes import children, descendants, wait_until_gone
import pytest

from gopd_jax.rewards import verifier, wire
from gopd_jax.rewards.verifier import Verdict, Verifier, check_ground_truth
from gopd_jax.rewards.worker_handle import WorkerHandle

ROOT = Path(__file__).parents[2]
CODE = json.dumps({"tests": ["f() == 1"]})


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order(workers):
    right = [i % 3 == 0 for i in range(30)]
    items = [
        ("math", rf"\boxed{{{i}}}", str(i if ok else i + 1))
        if i % 2
        else ("code", f"def f(): return {int(ok)} # {i}", CODE)
        for i, ok in enumerate(right)
    ]
    with Verifier(workers=workers) as verify:
        assert [verdict.reward for verdict in verify(items)] == [float(ok) for ok in right]
        assert verify([]) == []


def test_equal_items_are_verified_once(monkeypatch):
    calls = []

    def worker(self, response, ground_truth):
        calls.append(response)
        return 1.0, f"{response} {ground_truth}"

    def details(*items):
        return [verdict.detail for verdict in verify(items)]

    monkeypatch.setattr(WorkerHandle, "__call__", worker)
    monkeypatch.setattr(verifier, "CACHE_SIZE", 2)
    a, b, other_truth, other_kind = (
        ("math", "a", "1"),
        ("math", "b", "1"),
        ("math", "a", "2"),
        ("code", "a", "1"),
    )
    with Verifier() as verify:
        assert details(a, b, a) == ["a 1", "b 1", "a 1"] and calls == ["a", "b"]
        assert details(b, a) == ["b 1", "a 1"] and calls == ["a", "b"]
        assert details(other_truth, other_kind)[0] == "a 2"  # these are other items
        assert calls == ["a", "b", "a", "a"]
        details(other_truth, other_kind)
        assert calls == ["a", "b", "a", "a"]
        details(b)  # was forgotten: the cache holds two items
        assert calls == ["a", "b", "a", "a", "b"]
        details(other_kind, b)  # are the two items it holds now
        assert calls == ["a", "b", "a", "a", "b"]
        details(other_truth)  # was forgotten
        assert calls == ["a", "b", "a", "a", "b", "a"]


def test_unknown_kinds_and_bad_settings():
    with pytest.raises(ValueError, match="'maths'.*'code', 'math'.*nearest: 'math'"):
        check_ground_truth("maths", "1")
    with Verifier() as verify, pytest.raises(ValueError, match="nearest: 'code'"):
        verify([("coding", "", "")])
    with pytest.raises(ValueError, match="workers=-1"):
        Verifier(workers=-1)


def test_a_killed_worker_is_replaced():
    before = children(os.getpid())
    with Verifier() as verify:
        verify([("math", r"\boxed{1}", "1")])
        (worker,) = children(os.getpid()) - before
        os.kill(worker, signal.SIGKILL)
        assert not wait_until_gone({worker}, 5.0)
        assert verify([("math", r"\boxed{2}", "2")]) == [Verdict(1.0, "correct")]


@pytest.mark.parametrize(
    "kills, verdict", [(1, (1.0, "correct")), (2, (0.0, "error: worker died"))]
)
def test_an_answer_whose_worker_is_killed_is_judged_once_more(monkeypatch, kills, verdict):
    """The worker is killed while it judges; after the second time the answer counts as wrong."""
    before, send, killed = children(os.getpid()), wire.send, []

    def sent(fd, message, *deadline):
        send(fd, message, *deadline)
        if len(killed) < kills:
            killed.extend(children(os.getpid()) - before)
            os.kill(killed[-1], signal.SIGKILL)

    monkeypatch.setattr(wire, "send", sent)
    slow = "def f():\n    for i in range(10**7): pass\n    return 1"
    with Verifier() as verify:
        assert verify([("code", slow, CODE)]) == [Verdict(*verdict)]
    assert len(killed) == kills


def test_a_worker_that_is_killed_while_it_starts_is_started_again(monkeypatch):
    before, receive, killed = children(os.getpid()), wire.receive, []

    def received(fd, *limits):
        if not killed:
            killed.extend(children(os.getpid()) - before)
            os.kill(killed[-1], signal.SIGKILL)
        return receive(fd, *limits)

    monkeypatch.setattr(wire, "receive", received)
    with Verifier() as verify:
        assert verify([("math", r"\boxed{2}", "2")]) == [Verdict(1.0, "correct")]
    assert len(killed) == 1


def test_close_leaves_no_process():
    before = descendants(os.getpid())
    with Verifier(workers=2) as verify:
        verify(
            [("math", rf"\boxed{{{i}}}", "1") for i in range(4)]
            + [("code", f"def f(): return {i}", CODE) for i in range(4)]
        )
        mine = descendants(os.getpid()) - before
        assert len(mine) >= 4
    assert not wait_until_gone(mine, 5.0)
    with pytest.raises(ValueError, match="closed"):
        verify([("math", r"\boxed{1}", "1")])


TRAINER = f"""
import sys
from gopd_jax.rewards.verifier import Verifier
verify = Verifier(timeout_s=2.0)
verify([("math", r"\\boxed{{1}}", "1"), ("code", "def f(): return 1", {CODE!r})])
print("ready", flush=True)
if sys.argv[1] == "busy":
    verify([("code", "while True: pass", {CODE!r})])
input()
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_a_killed_trainer_leaves_no_process(state):
    with subprocess.Popen(
        [sys.executable, "-c", TRAINER, state],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.3)
        below = descendants(process.pid)
        assert len(below) >= 4  # two workers, Math-Verify's child, the fork server
        process.kill()
    assert not wait_until_gone(below, 6.0)


def test_workers_import_neither_jax_nor_other_large_packages():
    program = """
import sys, gopd_jax.rewards.verifier, gopd_jax.rewards.worker
print([name for name in ("jax", "pydantic", "sympy", "numpy") if name in sys.modules])
"""
    command = [sys.executable, "-c", program]
    assert subprocess.check_output(command, text=True, cwd=ROOT) == "[]\n"
