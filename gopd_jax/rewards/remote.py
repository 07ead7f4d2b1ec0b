"""The judge's view of a program under test, which runs in the sandbox's process.

Comes in: a job for the fork server (`sandbox/fork_server.py`). Goes out: a `Program` to call into.
Its plain values come here by value; its other objects stay there and are `Remote`s here, held by
number. Nothing that a program does or returns runs code in this process.
"""

import builtins
from collections.abc import Callable
import copy
import importlib
import socket
from types import TracebackType
from typing import Any

from gopd_jax.rewards import wire
from gopd_jax.rewards.modules import COMMON_MODULES
from gopd_jax.rewards.sandbox.child import Job

MAX_REPLY_BYTES = 1 << 23  # JSON grows about 25-fold when decoded


class ProgramRaised:
    """Marks an exception of the program that is raised again here, so that tests can catch it."""


class Remote:
    """An object of the program, held by number.

    It compares only with other such objects, by the program's own rules.
    """

    def __init__(self, program: "Program", index: int):
        self._program, self._index = program, index

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._program.call(self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            # NumPy would trust an `__array_interface__`, whose address points into this process.
            raise AttributeError(name)
        return self._program.ask("getattr", self, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Remote":
        return self  # the object stays in the program's process

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


def _operator(name: str) -> Callable[[Remote, Any], Any]:
    def apply(self: Remote, other: Any) -> Any:
        if type(other) is not Remote:
            # Otherwise the program would decide `abs(f(2) - 7) < 1e-6`.
            return NotImplemented
        return self._program.ask("operator", self, other, name=name)

    return apply


for _name in ("lt", "le", "gt", "ge", "add", "sub", "mul", "truediv"):
    setattr(Remote, f"__{_name}__", _operator(_name))


class Program:
    """A program running in a child of the fork server; leaving the `with` block kills it.

    Args:
        control: socket to the fork server.
        job: the program.
        deadline: `time.monotonic` seconds; may be moved for each test.
        script_fds: stdin and stdout of a script.

    Attributes:
        failure: the detail of the verdict once the program has died, hung or sent an unreadable
            message, else None. It is final, whatever the test source made of the exception.
        keeps_changes: whether the test sees what a call changed in its arguments, even if the call
            also returned something; see `call`.
    """

    def __init__(
        self,
        control: socket.socket,
        job: Job,
        deadline: float,
        script_fds: tuple[int, ...] = (),
    ):
        self.failure: str | None = None
        self.keeps_changes = False
        self.deadline = deadline
        self._has_ended = False
        self._control = control
        self._callbacks: list[Callable[..., Any]] = []
        self._channel, child_end = socket.socketpair()
        self._channel.setblocking(False)
        with child_end:
            socket.send_fds(control, [b"\0"], [child_end.fileno(), *script_fds])
        wire.send(control.fileno(), job)

    def __enter__(self) -> "Program":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self, wait_s: float = 0.0) -> int | None:
        """Ends the program's process, which can do nothing about it.

        Args:
            wait_s: seconds that the process is given to end by itself.

        Returns:
            Its exit status, or minus the number of the signal that ended it; None if it had to be
            killed, or had been ended before.
        """
        if self._has_ended:
            return None
        self._has_ended = True
        self._channel.close()
        wire.send(self._control.fileno(), wait_s)
        return wire.receive(self._control.fileno())

    def receive(self) -> dict[str, Any]:
        """The program's next message.

        Raises:
            Exception: one that the program reports, which is then a `ProgramRaised` too.
            RuntimeError: if the program has failed, as `failure` says.
        """
        if self.failure:
            raise RuntimeError(self.failure)
        try:
            message = wire.receive(self._channel.fileno(), self.deadline, MAX_REPLY_BYTES)
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
            raise _raised(str(message["error"]), str(message.get("message", "")))
        return message

    def ask(self, op: str, *args: Any, **options: Any) -> Any:
        """Runs one of `child.py`'s operations on values and objects of the program."""
        self._send({"op": op, "args": [self._encode(value) for value in args], "options": options})
        while "callback" in (message := self.receive()):
            callback = self._callbacks[message["callback"]]
            self._send(self._encode(callback(*self._decode(message["args"]))))
        return self._decode(message.get("value"))

    def call(self, target: Remote, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Calls a function of the program, which gets copies of its arguments.

        If it returns None, what it changed in the lists, dicts and sets that it was given changes
        here too: it works in place. The changes of a call that returns a value are dropped, unless
        `keeps_changes`: otherwise `f(a) == a` would hold for a program that empties `a` and returns
        an empty list.
        """
        reply = self.ask("call", target, *args, *kwargs.values(), names=list(kwargs))
        if not isinstance(reply, list) or len(reply) != 2 or not isinstance(reply[1], tuple):
            raise self._fail("error: unreadable reply")
        if reply[0] is not None and not self.keeps_changes:
            return reply[0]
        for before, after in zip([*args, *kwargs.values()], reply[1], strict=False):
            is_mutable = type(before) is type(after) and type(before) in (list, dict, set)
            if is_mutable and before != after:
                before.clear()
                (before.extend if type(before) is list else before.update)(after)
        return reply[0]

    def _fail(self, detail: str) -> RuntimeError:
        self.failure = self.failure or detail
        return RuntimeError(self.failure)

    def _send(self, message: Any) -> None:
        if self.failure:
            raise RuntimeError(self.failure)
        try:
            wire.send(self._channel.fileno(), message, self.deadline)
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
                f"test passes a {type(value).__name__}: expected plain values, functions or the "
                "program's own objects"
            )
        self._callbacks.append(value)
        return {"function": len(self._callbacks) - 1}

    def _from_handle(self, name: str, body: Any) -> Any:
        if name == "module":  # the judge's own, never the program's patched one
            return importlib.import_module(body) if body in COMMON_MODULES else None
        return {"object": Remote}[name](self, int(body))


class Frozen:
    """A function of the program that cannot change its caller's arguments.

    The test source after a call still sees what it passed.
    """

    def __init__(self, target: Remote):
        self._target = target

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._target(*copy.deepcopy(args), **copy.deepcopy(kwargs))


def _raised(name: str, says: str) -> Exception:
    """An exception of the program: of the builtin type of that name, or else a RuntimeError."""
    kind = getattr(builtins, name, None)
    base = kind if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError
    try:
        return type(f"{name:.40}", (ProgramRaised, base), {})(says)
    except TypeError:  # UnicodeDecodeError and others require further arguments
        return type(f"{name:.40}", (ProgramRaised, RuntimeError), {})(says)
