"""A disk that is full, for this process: no file grows beyond a size, TensorStore's included."""

from collections.abc import Iterator
import contextlib
import resource


@contextlib.contextmanager
def full_at(size: int) -> Iterator[None]:
    """Within this context, writing more than `size` bytes to one file fails with an OSError."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
