"""The verifier itself: order, cache, several workers, errors, and that nothing of it outlives the trainer."""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

from gopd_jax.rewards import verifier as rewards
from gopd_jax.rewards.verifier import Verdict, Verifier, check_ground_truth

CODE = json.dumps({"tests": ["f() == 1"]})


def descendants(root: int) -> set[int]:
    """Every process below `root`, from /proc."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, before = {root}, set()
    while found != before:
        before, found = found, found | {pid for pid, parent in parents.items() if parent in found}
    return found - {root}


def alive(pids: set[int]) -> set[int]:
    states = {}
    for pid in pids:
        try:
            states[pid] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
    return {pid for pid, state in states.items() if state != "Z"}


def wait_until_gone(pids: set[int], seconds: float) -> set[int]:
    end = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < end:
        time.sleep(0.05)
    return alive(pids)


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
        return Verdict(1.0, f"{response} {ground_truth}")

    monkeypatch.setattr(rewards._Worker, "__call__", worker)
    monkeypatch.setattr(rewards, "CACHE_SIZE", 2)
    with Verifier() as verify:
        details = [
            verdict.detail
            for verdict in verify([("math", "a", "1"), ("math", "b", "1"), ("math", "a", "1")])
        ]
        assert details == ["a 1", "b 1", "a 1"] and calls == ["a", "b"]
        assert [verdict.detail for verdict in verify([("math", "b", "1"), ("math", "a", "1")])] == [
            "b 1",
            "a 1",
        ]
        assert calls == ["a", "b"]
        assert (
            verify([("math", "a", "2"), ("code", "a", "1")])[0].detail == "a 2"
        )  # another truth or kind: another item
        assert calls == ["a", "b", "a", "a"] and len(verify._cache) == 2
        verify([("math", "b", "1")])  # forgotten, the cache holds two
        assert calls == ["a", "b", "a", "a", "b"]


def test_unknown_kinds_and_bad_settings():
    with pytest.raises(ValueError, match="'maths'.*'code', 'math'.*nearest: 'math'"):
        check_ground_truth("maths", "1")
    with Verifier() as verify, pytest.raises(ValueError, match="nearest: 'code'"):
        verify([("coding", "", "")])
    with pytest.raises(ValueError, match="workers=-1"):
        Verifier(workers=-1)


def test_a_killed_worker_is_replaced():
    with Verifier() as verify:
        verify([("math", r"\boxed{1}", "1")])
        os.kill(verify._slots[0]["math"]._process.pid, signal.SIGKILL)
        verify._slots[0]["math"]._process.wait()
        assert verify([("math", r"\boxed{2}", "2")]) == [Verdict(0.0, "error: worker died")]
        assert verify([("math", r"\boxed{3}", "3")]) == [Verdict(1.0, "correct")]


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


@pytest.mark.parametrize("busy", [False, True])
def test_a_killed_trainer_leaves_no_process(busy):
    trainer = f"""
from gopd_jax.rewards import Verifier
verify = Verifier(timeout_s=2.0)
verify([("math", r"\\boxed{{1}}", "1"), ("code", "def f(): return 1", {CODE!r})])
print("ready", flush=True)
if {busy}:
    verify([("code", "while True: pass", {CODE!r})])
input()
"""
    command = [sys.executable, "-c", trainer]
    environment = {**os.environ, "PYTHONPATH": str(Path(rewards.__file__).parents[2])}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.3)
        below = descendants(process.pid)
        assert len(below) >= 4  # two workers, Math-Verify's child, the fork server
        process.kill()
    assert not wait_until_gone(below, 6.0)


def test_neither_this_package_nor_its_workers_import_jax():
    check = "import sys, gopd_jax.rewards._worker; print([m for m in ('jax', 'sympy', 'numpy') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(Path(rewards.__file__).parents[2])}
    assert (
        subprocess.run(
            [sys.executable, "-c", check], capture_output=True, text=True, env=environment
        ).stdout
        == "[]\n"
    )
