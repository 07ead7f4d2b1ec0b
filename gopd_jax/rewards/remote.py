"""The judge's hand on a program: it runs in the sandbox's process, its values come here by value, its objects by number.

Comes in: a job (source and limits) for the fork server of `sandbox.py`. Goes out: a `Program` to call into, and `Remote`s, its
objects that are no plain values. Nothing that a program does or returns runs code in this process.
"""

import builtins
import copy
import importlib
import socket
from typing import Any

from gopd_jax.rewards import wire
from gopd_jax.rewards.sandbox import process as sandbox

MAX_REPLY_BYTES = 1 << 23  # JSON grows about 25-fold when decoded


class ProgramRaised:
    """Mixed into an exception of the program that comes up again in the judge, so that test source can catch it."""


class Remote:
    """An object of the program, held by number. Compares, by the program's own rules, with other such objects only."""

    def __init__(self, program: "Program", index: int):
        self._program, self._index = program, index

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._program.call(self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith(
            "__"
        ):  # numpy would believe an `__array_interface__` that points into this process
            raise AttributeError(name)
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
        return (
            self._program.ask("operator", self, other, name=name)
            if type(other) is Remote
            else NotImplemented
        )

    return apply


for _name in ("lt", "le", "gt", "ge", "add", "sub", "mul", "truediv"):
    setattr(Remote, f"__{_name}__", _operator(_name))


class Program:
    """A program running in a child of the fork server; leaving the `with` block kills it.

    `failure` is set once and for all when it died, hung or talked nonsense: whatever test source made of that does not count.
    """

    def __init__(
        self,
        control: int | socket.socket,
        job: dict[str, Any],
        deadline: float,
        script_fds: tuple[int, ...] = (),
    ):
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
            self._send(
                self._encode(self._callbacks[message["callback"]](*self._decode(message["args"])))
            )
        return self._decode(message.get("value"))

    def call(self, target: Remote, args: tuple, kwargs: dict[str, Any]) -> Any:
        reply = self.ask("call", target, *args, *kwargs.values(), names=list(kwargs))
        if not isinstance(reply, list) or len(reply) != 2 or not isinstance(reply[1], tuple):
            raise self._fail("error: unreadable reply")
        for before, after in zip([*args, *kwargs.values()], reply[1], strict=False):
            if (
                type(before) is type(after)
                and type(before) in (list, dict, set)
                and before != after
            ):
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


class Frozen:
    """A function of the program that cannot change its caller's arguments: what follows a call sees what was passed to it."""

    def __init__(self, target: Remote):
        self._target = target

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._target(*copy.deepcopy(args), **copy.deepcopy(kwargs))


def _raised(name: str) -> Exception:
    """An exception of the program: of the same builtin type where there is one, else a RuntimeError."""
    kind = getattr(builtins, name, None)
    base = kind if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError
    try:
        return type(f"{name:.40}", (ProgramRaised, base), {})()
    except TypeError:  # UnicodeDecodeError and the like want arguments
        return type(f"{name:.40}", (ProgramRaised, RuntimeError), {})()
