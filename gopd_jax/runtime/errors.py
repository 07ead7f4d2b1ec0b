"""What ends a command with an exit status of its own."""

from collections.abc import Iterator
import contextlib
import signal


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


class Stopped(BaseException):
    """The command was asked to stop by a signal; str() is a sentence on what became of its work.

    Commands end with exit status 128 + the number of the signal.

    Args:
        number: of the signal.
        message: what follows "stopped by SIGTERM" or "stopped by Ctrl-C".
    """

    def __init__(self, number: int, message: str = ""):
        super().__init__(number, message)
        self.number, self.message = number, message

    def __str__(self) -> str:
        by = "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number).name
        return f"stopped by {by}{self.message}"
