"""Verified reward of a program: runs it in the sandbox and judges what comes back.

Comes in: a response and a JSON ground truth (`spec.py`). Goes out: the fields of a `Verdict`, with
the test that failed as its feedback.

The judge and the program are two processes. Test source runs in the judge; the names under test are
`Remote`s, whose calls run in the program's process and come back by value, as exact builtin types.
Every other name of a test, a module's for instance, is the judge's own. The program sees the
arguments of its calls but no expected value and no comparison, so it gains nothing by exiting,
printing, patching builtins, or returning objects that equal everything. Objects that are no plain
values stay in its process and never equal a plain value.
"""

from collections.abc import Callable
import copy
import importlib
import json
import math
import os
from pathlib import Path
import re
import reprlib
import select
import shutil
import socket
import tempfile
import time
import traceback
from typing import Any

from gopd_jax.rewards import compare, wire
from gopd_jax.rewards.modules import MODULES
from gopd_jax.rewards.remote import Frozen, Program, ProgramRaised, Remote
from gopd_jax.rewards.sandbox.child import Job
from gopd_jax.rewards.sandbox.fork_server import fork_server
from gopd_jax.rewards.spec import (
    Spec,
    case_values,
    check_ground_truth,
    free_names,
    names_under_test,
    time_limit,
)

__all__ = ["CodeJudge", "PACKAGE", "check_ground_truth", "extract_program"]

MAX_OUTPUT_BYTES = 1 << 24
FEEDBACK_LIMIT = 1000  # characters
PACKAGE = Path(os.path.abspath(__file__)).parents[1]  # gopd_jax, which no program may read
# Possessive repetitions, so that no text takes more than linear time.
_OPENING = re.compile(r"^[ \t]*+```[ \t]*+(\w*+)[^\n]*+\n", re.MULTILINE)
_CLOSING = re.compile(r"^[ \t]*+```[ \t]*+$", re.MULTILINE)


class _Failed(Exception):
    """A test that does not hold; str() says which."""


def extract_program(response: str) -> str:
    """The last ```python (or unmarked) block of the response; without one, the whole response."""
    program, end = response, 0
    while opening := _OPENING.search(response, end):
        closing = _CLOSING.search(response, opening.end())
        if closing is None:  # nor does any later block have an end
            break
        if opening[1].lower() in ("", "python", "python3", "py"):
            program = response[opening.end() : closing.start()]
        end = closing.end()
    return program


class CodeJudge:
    """Judges programs (`kinds.Judge`) and owns the fork server that runs them.

    Args:
        memory_mb: address space in MiB that one program may use on top of the interpreter's.
    """

    def __init__(self, memory_mb: int):
        self._directory = tempfile.mkdtemp(prefix="gopd_code_")
        self._control, server_end = socket.socketpair()
        if os.fork() == 0:  # cheap and safe: the worker is small and single-threaded
            self._control.close()
            os.chdir(self._directory)
            for fd in range(3, server_end.fileno()):
                _close(fd)
            try:
                fork_server(server_end, memory_mb, hidden=str(PACKAGE))
            finally:
                # The server outlives the worker, even a killed one.
                shutil.rmtree(self._directory, ignore_errors=True)
                os._exit(0)
        server_end.close()
        self.guards: dict[str, bool] = wire.receive(self._control.fileno())

    def time_limit(self, ground_truth: str, timeout_s: float) -> float:
        """Seconds an answer may take, see `spec.time_limit`."""
        return time_limit(json.loads(ground_truth), timeout_s)

    def __call__(
        self, response: str, ground_truth: str, deadline: float
    ) -> tuple[float, str, dict[str, float], str]:
        """Returns the fields of a `Verdict`: reward 1 if every part of the ground truth holds."""
        spec = json.loads(ground_truth)
        job: Job = {
            "program": extract_program(response),
            "prelude": spec.get("prelude", ""),
            "script": False,
            "cpu_s": math.ceil(max(0.0, deadline - time.monotonic())) + 1,
            "hidden_paths": ["", str(PACKAGE.parent)],
        }
        detail, feedback = "correct", ""
        if spec.keys() & {"tests", "asserts", "check", "functions"}:
            detail, feedback = self._test_functions(job, spec, deadline)
        pairs = spec.get("stdin_stdout", {"inputs": [], "outputs": []})
        script: Job = {**job, "script": True}
        for stdin, expected in zip(pairs["inputs"], pairs["outputs"], strict=True):
            if detail == "correct":
                tolerance, test_deadline = pairs.get("tolerance", 0.0), _sooner(deadline, spec)
                given = stdin, expected, tolerance, test_deadline
                detail, feedback = self._test_script(script, *given)
        return float(detail == "correct"), detail, {}, feedback[:FEEDBACK_LIMIT]

    def _test_functions(self, job: Job, spec: Spec, deadline: float) -> tuple[str, str]:
        """The detail and the feedback of the tests that call the program's names."""
        with Program(self._control, job, _sooner(deadline, spec)) as program:
            try:
                program.receive()  # the program's top level has run
                found = _run_tests(program, spec, deadline), ""
            except _Failed as failed:
                found = "wrong", f"failed: {failed}"
            except AssertionError as error:
                if isinstance(error, ProgramRaised):
                    found = "error: AssertionError", _described(error)
                else:
                    found = "wrong", _failed_assert(error, spec)
            except MemoryError:
                found = "memory", ""
            except Exception as error:
                found = f"error: {type(error).__name__}", _described(error)
            return (program.failure, "") if program.failure else found

    def _test_script(
        self, job: Job, stdin: str, expected: str, tolerance: float, deadline: float
    ) -> tuple[str, str]:
        """The detail and the feedback of one run of the program as a script."""
        read_end, write_end = os.pipe()
        input_fd = os.memfd_create("stdin")
        os.write(input_fd, stdin.encode())
        os.lseek(input_fd, 0, os.SEEK_SET)
        try:
            with Program(self._control, job, deadline, (input_fd, write_end)) as program:
                os.close(write_end)
                output, detail = _read_output(read_end, deadline)
                if detail:
                    return detail, ""
                try:
                    program.receive()
                except Exception as error:
                    # A script may end by os._exit, which reports nothing: its output decides.
                    if program.failure != "error: program ended":
                        if program.failure:
                            return program.failure, ""
                        return f"error: {type(error).__name__}", _described(error)
                # The kernel's word, unlike the program's report.
                status = program.end(max(0.0, deadline - time.monotonic()))
                if status is None:
                    return "timeout", ""
                if status:
                    how = f"exit status {status}" if status > 0 else f"signal {-status}"
                    return f"error: {how}", ""
        finally:
            os.close(read_end)
            os.close(input_fd)
        if compare.same_output(output, expected, tolerance):
            return "correct", ""
        what = f"the output is {_short(output)}, expected {_short(expected)}"
        return "wrong", f"failed: with the input {_short(stdin)} {what}"


def _sooner(deadline: float, spec: Spec) -> float:
    """The deadline of a test that begins now."""
    return min(deadline, time.monotonic() + spec.get("seconds", math.inf))


def _described(error: Exception) -> str:
    says = _said(error)
    return f"{type(error).__name__}: {says}" if says else type(error).__name__


def _said(error: Exception) -> str:
    """What an exception says, without quotes around the text of a KeyError."""
    if not error.args:
        return ""
    return error.args[0] if type(error.args[0]) is str else _short(error.args[0])


def _failed_assert(error: AssertionError, spec: Spec) -> str:
    """Which line of the test source does not hold, and what it says."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [(f.filename, f.lineno) for f in frames if f.filename in ("asserts", "check")]
    if not where:
        return f"failed: {_said(error)}"
    source, number = where[-1]
    line = spec[source].split("\n")[number - 1].strip()
    return f"failed: {line} {_said(error)}".rstrip()


class _Short(reprlib.Repr):
    """Values as texts that are not long, and without asking the program."""

    def __init__(self):
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 120

    def repr_Remote(self, value: Remote, level: int) -> str:  # noqa: N802 (a type's name)
        return "an object"


def _short(value: Any) -> str:
    try:
        return _Short().repr(value)
    except ValueError:  # an int of thousands of digits
        return "a long number"


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass


def _run_tests(program: Program, spec: Spec, deadline: float) -> str:
    """Runs the test source in this process, against the program in the other.

    Raises:
        _Failed: a test does not hold.
        Exception: whatever the tests raise, an AssertionError above all.
    """
    tests = [test.strip() for test in spec.get("tests", [])]
    asserts, check = spec.get("asserts", ""), spec.get("check", "")
    under_test = names_under_test(spec)
    used = free_names([*tests, asserts, check])
    namespace: dict[str, Any] = {"__name__": "tests"}
    for name in sorted(used & MODULES.keys()):
        namespace[name] = importlib.import_module(MODULES[name])
    program.keeps_changes = spec.get("copies") is False
    for name in sorted(under_test):
        found, value = program.ask("lookup", name)
        if found:
            is_frozen = spec.get("copies") and type(value) is Remote
            namespace[name] = Frozen(value) if is_frozen else value
        elif name == spec.get("entry_point"):
            return f"error: no {name}"
    if "numpy" in asserts + check or "numpy" in map(MODULES.get, used):
        _make_allclose_compare_shapes()
    for test in tests:
        if eval(test, namespace) is not True:
            raise _Failed(test)
    exec(compile(asserts, "asserts", "exec"), namespace)
    if check:
        candidate = namespace[spec["entry_point"]]
        exec(compile(check, "check", "exec"), namespace)
        namespace["check"](Frozen(candidate) if type(candidate) is Remote else candidate)
    return _run_cases(program, spec, deadline) if "functions" in spec else "correct"


def _run_cases(program: Program, spec: Spec, deadline: float) -> str:
    """The detail of the cases of "functions"; raises _Failed for one that does not hold."""
    cases = spec["functions"]
    owner, _, name = cases["name"].rpartition(".")
    inputs, outputs = case_values(cases, "inputs"), case_values(cases, "outputs")
    reference = None
    if "reference" in cases:
        namespace: dict[str, Any] = {"__name__": "reference"}
        exec(cases["reference"], namespace)
        reference = namespace[name]
    function_of_case = _find(program, owner, name)
    if function_of_case is None:
        return f"error: no {name}"
    for i, arguments in enumerate(inputs):
        program.deadline = _sooner(deadline, spec)
        # Copies: a program that sorts the list it is given must not change ours.
        if reference:
            expected = reference(*copy.deepcopy(arguments))
        else:
            expected = outputs[i] if outputs else None
        got = function_of_case()(*copy.deepcopy(arguments))
        if not compare.fits(got, expected, arguments, cases):
            call = f"{name}({', '.join(map(_short, arguments))})"
            raise _Failed(f"{call} is {_short(got)}, expected {_short(expected)}")
    return "correct"


def _find(program: Program, owner: str, name: str) -> Callable[[], Any] | None:
    """Returns what gives the function under test, for each case anew.

    The program may define the function at its top level or in a class Solution, whichever the data
    set names; None if it does neither.
    """
    has_class, solution = program.ask("lookup", "Solution")
    has_function, function = program.ask("lookup", name)
    if type(function) is Remote and has_function and not (owner and has_class):
        return lambda: function
    if type(solution) is Remote and has_class:
        return lambda: getattr(solution(), name)
    return None


def _make_allclose_compare_shapes() -> None:
    """Makes numpy.allclose compare shapes.

    EvalPlus' test source compares by numpy.allclose, which finds an empty list close to any number.
    """
    import numpy as np  # costs 0.1 s, and few test specifications need it

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
