"""Verified reward of a program: run it in the sandbox, judge what comes back over here.

Comes in: a response and a JSON ground truth with at least one of
    {"entry_point": "f",                                        a name the program must define (optional)
     "tests": ["f(2) == 7", ...],                               each must be True
     "asserts": "assert f(2) == 7",                             source that must run through
     "stdin_stdout": {"inputs": ["2\\n"], "outputs": ["7\\n"]}}   stdout, compared line by line without outer blanks
Goes out: (reward, detail).

The judge and the program are two processes. Test source runs in the judge; names the tests do not define are `Remote`s whose
calls run in the program's process and come back by value, as exact builtin types. So the program sees the arguments of its
calls but no expected value and no comparison: exiting, printing, patching builtins or returning objects equal to everything
gains nothing. Objects that are no plain values stay over there, and never equal a plain value.
"""

import ast
import builtins
import importlib
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

from gopd_jax.rewards import sandbox, wire

MAX_OUTPUT_BYTES = 1 << 24
MAX_REPLY_BYTES = 1 << 23  # JSON grows about 25-fold when decoded
_FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_KEYS = ("entry_point", "tests", "asserts", "stdin_stdout")


def extract_program(response: str) -> str:
    """The last ```python (or unmarked) block of the response; without one, the whole response."""
    blocks = [body for language, body in _FENCE.findall(response) if language.lower() in ("", "python", "python3", "py")]
    return blocks[-1] if blocks else response


def check_ground_truth(ground_truth: str) -> None:
    """Raises ValueError saying what is wrong with the JSON test specification."""
    try:
        spec = json.loads(ground_truth)
    except (ValueError, TypeError) as error:
        raise ValueError(f"code ground truth {ground_truth!r:.80}: wanted JSON, got {error}") from error
    if not isinstance(spec, dict) or set(spec) - set(_KEYS) or not set(spec) & set(_KEYS[1:]):
        found = sorted(spec) if isinstance(spec, dict) else type(spec).__name__
        raise ValueError(
            f"code ground truth has {found}: wanted an object with one or more of {_KEYS[1:]}, entry_point optional"
        )
    if not str(spec.get("entry_point", "f")).isidentifier():
        raise ValueError(f"entry_point {spec['entry_point']!r}: wanted a Python name")
    tests, asserts = spec.get("tests", ["True"]), spec.get("asserts", "assert True")
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise ValueError(f"tests {tests!r:.80}: wanted a non-empty list of Python expressions")
    if not isinstance(asserts, str) or not asserts.strip():
        raise ValueError(f"asserts {asserts!r:.80}: wanted Python source")
    for source, mode in [(test, "eval") for test in tests] + [(asserts, "exec")]:
        try:
            compile(source.strip() if mode == "eval" else source, "test", mode)
        except (SyntaxError, ValueError) as error:
            raise ValueError(
                f"test {source!r:.80}: wanted Python {'expression' if mode == 'eval' else 'source'}: {error}"
            ) from None
    if not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(asserts))):
        raise ValueError(f"asserts {asserts!r:.80}: holds no assert, so every program would pass")
    pairs = spec.get("stdin_stdout", {"inputs": [""], "outputs": [""]})
    lists = [pairs.get(key) for key in ("inputs", "outputs")] if isinstance(pairs, dict) else [None]
    if (
        not all(isinstance(x, list) and x and all(isinstance(text, str) for text in x) for x in lists)
        or len(set(map(len, lists))) > 1
    ):
        raise ValueError(f"stdin_stdout {pairs!r:.80}: wanted inputs and outputs, non-empty lists of strings of one length")


class ProgramRaised:
    """Mixed into an exception of the program that comes up again in the judge, so that test source can catch it."""


class Remote:
    """An object of the program, held by number. Compares, by the program's own rules, with other such objects only."""

    def __init__(self, program: "Program", index: int):
        self._program, self._index = program, index

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._program.call(self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return self._program.ask("getattr", self, name)

    def __getitem__(self, key: Any) -> Any:
        return self._program.ask("getitem", self, key)

    def __iter__(self) -> Any:
        items = self._program.ask("iter", self)
        return items if type(items) is Remote else iter(items)

    def __len__(self) -> int:
        return self._program.ask("len", self)

    def __str__(self) -> str:
        return self._program.ask("str", self)

    def __repr__(self) -> str:
        return self._program.ask("repr", self)

    def __next__(self) -> Any:
        return self._program.ask("next", self)

    def __bool__(self) -> bool:
        return self._program.ask("bool", self)

    def __eq__(self, other: Any) -> bool:
        return type(other) is Remote and self._program.ask("operator", self, other, name="eq")

    def __hash__(self) -> int:
        return self._index


def _operator(name: str) -> Any:
    def apply(self: Remote, other: Any) -> Any:
        # With a plain value on one side, `abs(f(2) - 7) < 1e-6` would be the program's to decide.
        return self._program.ask("operator", self, other, name=name) if type(other) is Remote else NotImplemented

    return apply


for _name in ("lt", "le", "gt", "ge", "add", "sub", "mul", "truediv"):
    setattr(Remote, f"__{_name}__", _operator(_name))


class Program:
    """A program running in a child of the fork server; leaving the `with` block kills it.

    `failure` is set once and for all when it died, hung or talked nonsense: whatever test source made of that does not count.
    """

    def __init__(self, control: int | socket.socket, job: dict[str, Any], deadline: float, script_fds: tuple[int, ...] = ()):
        self.failure: str | None = None
        self.deadline = deadline
        self._control, self._callbacks = control, []
        self._channel, child_end = socket.socketpair()
        self._channel.setblocking(False)
        with child_end:
            socket.send_fds(control, [b"\0"], [child_end.fileno(), *script_fds])
        wire.send(control.fileno(), job)

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: Any) -> None:
        self._channel.close()
        wire.send(self._control.fileno(), "end")
        wire.receive(self._control.fileno())  # "gone"

    def fileno(self) -> int:
        return self._channel.fileno()

    def _fail(self, detail: str) -> RuntimeError:
        self.failure = self.failure or detail
        return RuntimeError(self.failure)

    def receive(self) -> dict[str, Any]:
        """The program's next message; an error it reports is raised here."""
        if self.failure:
            raise RuntimeError(self.failure)
        try:
            message = wire.receive(self.fileno(), self.deadline, MAX_REPLY_BYTES)
        except TimeoutError:
            raise self._fail("timeout") from None
        except (EOFError, OSError):
            raise self._fail("error: program ended") from None
        except (ValueError, RecursionError):
            raise self._fail("error: unreadable reply") from None
        if not isinstance(message, dict):
            raise self._fail("error: unreadable reply")
        if message.get("error") == "MemoryError":
            raise self._fail("memory")
        if message.get("error") is not None:
            raise _raised(str(message["error"]))
        return message

    def ask(self, op: str, *args: Any, **options: Any) -> Any:
        self._send({"op": op, "args": [self._encode(value) for value in args], "options": options})
        while "callback" in (message := self.receive()):
            self._send(self._encode(self._callbacks[message["callback"]](*self._decode(message["args"]))))
        return self._decode(message.get("value"))

    def call(self, target: Remote, args: tuple, kwargs: dict[str, Any]) -> Any:
        reply = self.ask("call", target, *args, *kwargs.values(), names=list(kwargs))
        if not isinstance(reply, list) or len(reply) != 2 or not isinstance(reply[1], tuple):
            raise self._fail("error: unreadable reply")
        for before, after in zip([*args, *kwargs.values()], reply[1], strict=False):
            if type(before) is type(after) and type(before) in (list, dict, set) and before != after:
                before.clear()
                (before.extend if type(before) is list else before.update)(after)
        return reply[0]

    def _send(self, message: Any) -> None:
        if self.failure:
            raise RuntimeError(self.failure)
        try:
            wire.send(self.fileno(), message, self.deadline)
        except TimeoutError:
            raise self._fail("timeout") from None
        except OSError:
            raise self._fail("error: program ended") from None

    def _encode(self, value: Any) -> Any:
        return wire.encode(value, self._to_handle)

    def _decode(self, coded: Any) -> Any:
        try:
            return wire.decode(coded, self._from_handle)
        except Exception:
            raise self._fail("error: unreadable reply") from None

    def _to_handle(self, value: Any) -> dict[str, int]:
        if type(value) is Remote:
            return {"object": value._index}
        if not callable(value):
            raise TypeError(
                f"test passes a {type(value).__name__}: wanted plain values, functions or the program's own objects"
            )
        self._callbacks.append(value)
        return {"function": len(self._callbacks) - 1}

    def _from_handle(self, name: str, body: Any) -> Any:
        if name == "module":  # the judge's own, never the program's patched one
            return importlib.import_module(body) if body in sandbox.COMMON_MODULES else None
        return {"object": Remote}[name](self, int(body))


def _raised(name: str) -> Exception:
    """An exception of the program: of the same builtin type where there is one, else a RuntimeError."""
    kind = getattr(builtins, name, None)
    base = kind if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError
    try:
        return type(f"{name:.40}", (ProgramRaised, base), {})()
    except TypeError:  # UnicodeDecodeError and the like want arguments
        return type(f"{name:.40}", (ProgramRaised, RuntimeError), {})()


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
                shutil.rmtree(self._directory, ignore_errors=True)  # the server outlives the worker, killed or not
                os._exit(0)
        server_end.close()
        self.guards = wire.receive(self._control.fileno())

    def __call__(self, response: str, ground_truth: str, deadline: float) -> tuple[float, str]:
        spec = json.loads(ground_truth)
        cpu_s = math.ceil(max(0.0, deadline - time.monotonic())) + 1
        own_path = os.path.dirname(_PACKAGE)
        job = {"program": extract_program(response), "script": False, "cpu_s": cpu_s, "hidden_paths": ["", own_path]}
        detail = "correct"
        if "tests" in spec or "asserts" in spec:
            detail = self._functions(job, spec, deadline)
        pairs = spec.get("stdin_stdout", {"inputs": [], "outputs": []})
        for stdin, wanted in zip(pairs["inputs"], pairs["outputs"], strict=True):
            if detail == "correct":
                detail = self._script({**job, "script": True}, stdin, wanted, deadline)
        return float(detail == "correct"), detail

    def _functions(self, job: dict[str, Any], spec: dict[str, Any], deadline: float) -> str:
        with Program(self._control, job, deadline) as program:
            try:
                program.receive()  # the program has been read and its top level run
                passed = _run_tests(program, spec)
            except AssertionError as error:
                passed = program.failure or ("error: AssertionError" if isinstance(error, ProgramRaised) else "wrong")
            except MemoryError:
                passed = program.failure or "memory"
            except Exception as error:
                passed = program.failure or f"error: {type(error).__name__}"
            return program.failure or passed

    def _script(self, job: dict[str, Any], stdin: str, wanted: str, deadline: float) -> str:
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
                except Exception as error:  # os._exit says nothing, and need not: the output decides
                    if program.failure != "error: program ended":
                        return program.failure or f"error: {type(error).__name__}"
        finally:
            os.close(read_end)
            os.close(input_fd)
        return "correct" if _lines(output) == _lines(wanted) else "wrong"


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass


def _run_tests(program: Program, spec: dict[str, Any]) -> str:
    """Run the test source here, against the program over there. Raises what the tests raise."""
    tests, asserts = [test.strip() for test in spec.get("tests", [])], spec.get("asserts", "")
    trees = [ast.parse(test, mode="eval") for test in tests] + [ast.parse(asserts)]
    names = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names = {name for name in names if not hasattr(builtins, name)} | (
        {spec["entry_point"]} if "entry_point" in spec else set()
    )
    namespace = {"__name__": "tests"}
    for name in sorted(names):
        found, value = program.ask("lookup", name)
        if found:
            namespace[name] = value
        elif name == spec.get("entry_point"):
            return f"error: no {name}"
    for test in tests:
        if eval(test, namespace) is not True:
            return "wrong"
    exec(asserts, namespace)
    return "correct"


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


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]
