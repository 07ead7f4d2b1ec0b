"""Verified reward of a program: run it in the sandbox, judge what comes back over here.

Comes in: a response and a JSON ground truth, see `spec.py`. Goes out: (reward, detail).

The judge and the program are two processes. Test source runs in the judge; names the tests do not define are `Remote`s whose
calls run in the program's process and come back by value, as exact builtin types. So the program sees the arguments of its
calls but no expected value and no comparison: exiting, printing, patching builtins or returning objects equal to everything
gains nothing. Objects that are no plain values stay over there, and never equal a plain value.
"""

import ast
import builtins
import copy
import json
import math
import os
import re
import select
import shutil
import socket
import tempfile
import time
from typing import Any

from gopd_jax.rewards import compare, wire
from gopd_jax.rewards.remote import Frozen, Program, ProgramRaised, Remote
from gopd_jax.rewards.sandbox import process as sandbox
from gopd_jax.rewards.spec import check_ground_truth, test_seconds, values

__all__ = ["Judge", "check_ground_truth", "extract_program"]

MAX_OUTPUT_BYTES = 1 << 24
_FENCE = re.compile(
    r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL
)
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def extract_program(response: str) -> str:
    """The last ```python (or unmarked) block of the response; without one, the whole response."""
    blocks = [
        body
        for language, body in _FENCE.findall(response)
        if language.lower() in ("", "python", "python3", "py")
    ]
    return blocks[-1] if blocks else response


class Judge:
    """Called with (response, ground_truth, deadline), returns (reward, detail). Owns the fork server."""

    def __init__(self, memory_mb: int):
        self._directory = tempfile.mkdtemp(prefix="gopd_code_")
        self._control, server_end = socket.socketpair()
        if os.fork() == 0:  # this process is the worker: light, one thread
            self._control.close()
            os.chdir(self._directory)
            for fd in range(3, server_end.fileno()):
                _close(fd)
            try:
                sandbox.fork_server(server_end, memory_mb, hidden=_PACKAGE)
            finally:
                shutil.rmtree(
                    self._directory, ignore_errors=True
                )  # the server outlives the worker, killed or not
                os._exit(0)
        server_end.close()
        self.guards = wire.receive(self._control.fileno())

    def seconds(self, ground_truth: str, timeout_s: float) -> float:
        """What an answer to it may take, see `spec.test_seconds`."""
        return test_seconds(json.loads(ground_truth), timeout_s)

    def __call__(self, response: str, ground_truth: str, deadline: float) -> tuple[float, str]:
        spec = json.loads(ground_truth)
        cpu_s = math.ceil(max(0.0, deadline - time.monotonic())) + 1
        own_path = os.path.dirname(_PACKAGE)
        job = {
            "program": extract_program(response),
            "script": False,
            "cpu_s": cpu_s,
            "hidden_paths": ["", own_path],
        }
        job["prelude"] = spec.get("prelude", "")
        detail = "correct"
        if spec.keys() & {"tests", "asserts", "check", "functions"}:
            detail = self._functions(job, spec, deadline)
        pairs = spec.get("stdin_stdout", {"inputs": [], "outputs": []})
        for stdin, wanted in zip(pairs["inputs"], pairs["outputs"], strict=True):
            if detail == "correct":
                soon = _sooner(deadline, spec)
                detail = self._script(
                    {**job, "script": True}, stdin, wanted, pairs.get("tolerance", 0.0), soon
                )
        return float(detail == "correct"), detail

    def _functions(self, job: dict[str, Any], spec: dict[str, Any], deadline: float) -> str:
        with Program(self._control, job, _sooner(deadline, spec)) as program:
            try:
                program.receive()  # the program has been read and its top level run
                passed = _run_tests(program, spec, deadline)
            except AssertionError as error:
                passed = program.failure or (
                    "error: AssertionError" if isinstance(error, ProgramRaised) else "wrong"
                )
            except MemoryError:
                passed = program.failure or "memory"
            except Exception as error:
                passed = program.failure or f"error: {type(error).__name__}"
            return program.failure or passed

    def _script(
        self, job: dict[str, Any], stdin: str, wanted: str, tolerance: float, deadline: float
    ) -> str:
        read_end, write_end = os.pipe()
        input_fd = os.memfd_create("stdin")
        os.write(input_fd, stdin.encode())
        os.lseek(input_fd, 0, os.SEEK_SET)
        try:
            with Program(self._control, job, deadline, (input_fd, write_end)) as program:
                os.close(write_end)
                output, detail = _read_output(read_end, deadline)
                if detail:
                    return detail
                try:
                    program.receive()
                except (
                    Exception
                ) as error:  # os._exit says nothing, and need not: the output decides
                    if program.failure != "error: program ended":
                        return program.failure or f"error: {type(error).__name__}"
        finally:
            os.close(read_end)
            os.close(input_fd)
        return "correct" if compare.same_output(output, wanted, tolerance) else "wrong"


def _sooner(deadline: float, spec: dict[str, Any]) -> float:
    """The deadline of a test that begins now."""
    return min(deadline, time.monotonic() + spec.get("seconds", math.inf))


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass


def _run_tests(program: Program, spec: dict[str, Any], deadline: float) -> str:
    """Run the test source here, against the program over there. Raises what the tests raise."""
    tests, asserts, check = (
        [test.strip() for test in spec.get("tests", [])],
        spec.get("asserts", ""),
        spec.get("check", ""),
    )
    trees = [ast.parse(test, mode="eval") for test in tests] + [
        ast.parse(asserts),
        ast.parse(check),
    ]
    names = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names = {name for name in names if not hasattr(builtins, name)} | (
        {spec["entry_point"]} if "entry_point" in spec else set()
    )
    namespace = {"__name__": "tests"}
    for name in sorted(names):
        found, value = program.ask("lookup", name)
        if found:
            namespace[name] = (
                Frozen(value) if spec.get("copies") and type(value) is Remote else value
            )
        elif name == spec.get("entry_point"):
            return f"error: no {name}"
    if "numpy" in asserts + check:
        _strict_allclose()
    for test in tests:
        if eval(test, namespace) is not True:
            return "wrong"
    exec(asserts, namespace)
    if check:
        candidate = namespace[spec["entry_point"]]
        exec(check, namespace)
        namespace["check"](Frozen(candidate) if type(candidate) is Remote else candidate)
    return _run_functions(program, spec, deadline) if "functions" in spec else "correct"


def _run_functions(program: Program, spec: dict[str, Any], deadline: float) -> str:
    cases = spec["functions"]
    owner, _, name = cases["name"].rpartition(".")
    inputs, outputs = values(cases, "inputs"), values(cases, "outputs")
    reference = None
    if "reference" in cases:
        namespace: dict[str, Any] = {"__name__": "reference"}
        exec(cases["reference"], namespace)
        reference = namespace[name]
    method = _find(program, owner, name)
    if method is None:
        return f"error: no {name}"
    for i, arguments in enumerate(inputs):
        program.deadline = _sooner(deadline, spec)
        wanted = (
            reference(*copy.deepcopy(arguments)) if reference else outputs[i] if outputs else None
        )
        got = method()(
            *copy.deepcopy(arguments)
        )  # copies: a program that sorts its list must not change ours
        if not compare.fits(got, wanted, arguments, cases):
            return "wrong"
    return "correct"


def _find(program: Program, owner: str, name: str) -> Any:
    """What gives the function under test, for each call anew; None if the program has no such function."""
    has_class, solution = program.ask("lookup", "Solution")
    has_function, function = program.ask("lookup", name)
    if type(function) is Remote and has_function and not (owner and has_class):
        return lambda: function
    if type(solution) is Remote and has_class:
        return lambda: getattr(solution(), name)
    return None


def _strict_allclose() -> None:
    """EvalPlus' test source compares by numpy.allclose, to which an empty list is close to every number: here shapes count."""
    import numpy as np

    if not hasattr(np.allclose, "of_any_shape"):
        of_any_shape = np.allclose

        def allclose(a: Any, b: Any, *args: Any, **kwargs: Any) -> bool:
            return np.shape(a) == np.shape(b) and of_any_shape(a, b, *args, **kwargs)

        allclose.of_any_shape = of_any_shape
        np.allclose = allclose


def _read_output(fd: int, deadline: float) -> tuple[str, str | None]:
    """Everything written until the program ends, and None or what went wrong."""
    chunks, size = [], 0
    while True:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return "", "timeout"
        chunk = os.read(fd, 1 << 16)
        if not chunk:
            return b"".join(chunks).decode(errors="replace"), None
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_OUTPUT_BYTES:
            return "", f"error: output above {MAX_OUTPUT_BYTES >> 20} MiB"
