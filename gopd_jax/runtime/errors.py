"""Errors that end a run with an exit status of their own."""

from collections.abc import Iterator
import contextlib


class NonFiniteError(Exception):
    """A number that decides the run is NaN or infinite; nothing was learned from it or saved.

    The message says where it was found: the step, the model, the prompts. Commands end with exit
    status 3.
    """


def brief(error: Exception, limit: int = 160) -> str:
    """The message of another library's error as part of a sentence of ours: one line, not long."""
    text = " ".join(str(error).split()) or repr(error)
    return text if len(text) <= limit else f"{text[:limit]} ..."


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Puts `what` was being done before the message of a `NonFiniteError`."""
    try:
        yield
    except NonFiniteError as error:
        raise NonFiniteError(f"{what}: {error}") from error
