"""Messages between the processes of `gopd_jax.rewards`, and plain Python values as JSON.

A message is a 4-byte length and JSON, so that nothing that arrives can run code, whoever sent it.
`send` and `receive` never wait past a deadline (`time.monotonic` seconds). `encode` and `decode`
carry builtin values between a program under test and the judge. Decoding makes exact builtin types
only, so that no class of the program, with its own `__eq__`, reaches a comparison.
"""

from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
import json
import os
import select
import struct
import time
from typing import Any

MAX_BYTES = 1 << 26


def _wait(fd: int, event: int, deadline: float | None) -> None:
    poll = select.poll()
    poll.register(fd, event)
    wait_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
    if not poll.poll(wait_ms):
        raise TimeoutError


def send(fd: int, message: Any, deadline: float | None = None) -> None:
    """Writes one message.

    Args:
        fd: file descriptor; with a deadline it must be non-blocking.
        message: anything `json.dumps` takes.
        deadline: `time.monotonic` seconds; None waits forever.

    Raises:
        TimeoutError: if the deadline passes.
        OSError: if the peer is gone.
    """
    payload = json.dumps(message).encode()
    left = memoryview(struct.pack("!I", len(payload)) + payload)
    while left:
        _wait(fd, select.POLLOUT, deadline)
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            continue


def receive(fd: int, deadline: float | None = None, max_bytes: int = MAX_BYTES) -> Any:
    """Reads one message.

    Args:
        fd: file descriptor.
        deadline: `time.monotonic` seconds; None waits forever.
        max_bytes: the longest message that is accepted.

    Raises:
        TimeoutError: if the deadline passes.
        EOFError: if the peer is gone.
        ValueError: for a message that is too long or not JSON.
    """
    (size,) = struct.unpack("!I", _read(fd, 4, deadline))
    if size > max_bytes:
        raise ValueError(f"message of {size} bytes: expected at most {max_bytes}")
    return json.loads(_read(fd, size, deadline))


def _read(fd: int, size: int, deadline: float | None) -> bytes:
    """Exactly `size` bytes."""
    chunks = []
    while size:
        _wait(fd, select.POLLIN, deadline)
        try:
            chunk = os.read(fd, min(size, 1 << 20))
        except BlockingIOError:
            continue
        except ConnectionError:
            chunk = b""
        if not chunk:
            raise EOFError
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def encode(value: Any, other: Callable[[Any], Any]) -> Any:
    """Returns `value` as JSON.

    Args:
        value: any value. Subclasses of builtin types become the builtin type.
        other: encodes a value of any other type, as {name: body}.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        return {"int": int.__format__(value, "x")}
    if isinstance(value, float):
        return {"float": float.hex(value)}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, complex):
        return {"complex": [float.hex(value.real), float.hex(value.imag)]}
    if isinstance(value, bytes):
        return {"bytes": bytes.hex(value)}
    if isinstance(value, list):
        return [encode(item, other) for item in list.__iter__(value)]
    if isinstance(value, dict):
        return {"dict": [[encode(k, other), encode(v, other)] for k, v in dict.items(value)]}
    for name, kind in _COLLECTIONS.items():
        if isinstance(value, kind):
            return {name: [encode(item, other) for item in kind.__iter__(value)]}
    if type(value) is Fraction:
        return {"Fraction": [f"{value.numerator:x}", f"{value.denominator:x}"]}
    if type(value) is Decimal:
        return {"Decimal": str(value)}
    return other(value)


_COLLECTIONS = {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}

_DECODERS: dict[str, Callable[[Any, Callable[[str, Any], Any]], Any]] = {
    "int": lambda text, _: int(text, 16),
    "float": lambda text, _: float.fromhex(text),
    "complex": lambda parts, _: complex(*map(float.fromhex, parts)),
    "bytes": lambda text, _: bytes.fromhex(text),
    "tuple": lambda items, other: tuple(decode(item, other) for item in items),
    "set": lambda items, other: {decode(item, other) for item in items},
    "frozenset": lambda items, other: frozenset(decode(item, other) for item in items),
    "deque": lambda items, other: deque(decode(item, other) for item in items),
    "dict": lambda items, other: {decode(k, other): decode(v, other) for k, v in items},
    # By its parts: Fraction("1e999999999") would hang.
    "Fraction": lambda parts, _: Fraction(*(int(part, 16) for part in parts)),
    "Decimal": lambda text, _: Decimal(text),
}


def decode(coded: Any, other: Callable[[str, Any], Any]) -> Any:
    """Returns the value that `encode` was given.

    Args:
        coded: JSON.
        other: decodes (name, body) of what `encode`'s `other` made.
    """
    if isinstance(coded, list):
        return [decode(item, other) for item in coded]
    if not isinstance(coded, dict):
        return coded
    ((name, body),) = coded.items()
    return _DECODERS[name](body, other) if name in _DECODERS else other(name, body)
