"""Starting and agreeing: one process on a laptop, one per host on a slice or cluster."""

from collections.abc import Callable
import json
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.typing import ArrayLike
import numpy as np

from gopd_jax.runtime import watch
from gopd_jax.runtime.errors import brief
from gopd_jax.runtime.files import JsonObject
from gopd_jax.runtime.joining import (
    DETECT,
    EXPECTED,
    Place,
    find_place,
    is_detected,
    join_seconds,
    meet,
)
from gopd_jax.runtime.progress import speak_as
from gopd_jax.runtime.store import Store

# JAX watches too, but more slowly: what `watch` says comes first.
HEARTBEAT_SECONDS, SHUTDOWN_SECONDS = 60, 60


def start_processes(place: Place | None = None) -> None:
    """Joins the other processes of the run, if there are any.

    They are found from `place`, from GOPD_COORDINATOR, GOPD_PROCESSES and GOPD_PROCESS, or, with
    GOPD_DISTRIBUTED=1, by JAX from the TPU slice, Slurm or Open MPI. Must be called before JAX is
    used.

    Raises:
        ValueError: what is given is wrong or incomplete, or the others cannot be met in time.
    """
    place, detect, seconds = place or find_place({}), is_detected(), join_seconds()
    if not detect if place is None else place.processes == 1:
        return
    # JAX would take SIGTERM for itself; `stopping` answers it.
    jax.config.update("jax_enable_preemption_service", False)
    if place is None:
        cluster = "a TPU slice, Slurm or Open MPI, which say where they are"
        _initialize(f"{DETECT}=1", f"{cluster}. Elsewhere: {EXPECTED}", seconds)
    else:
        _initialize_at(place, seconds)
    speak_as(jax.process_index(), jax.process_count())
    if jax.process_count() > 1:
        watch.start(jax.process_index(), jax.process_count())


def _initialize_at(place: Place, seconds: int) -> None:
    store = None
    if place.process == 0:
        store = Store(place.processes, HEARTBEAT_SECONDS, SHUTDOWN_SECONDS)
    try:
        port = meet(place, seconds, store.port if store else 0)
        with watch.service_of(store):
            _initialize(
                f"--coordinator={place.coordinator}",
                "all ports between the hosts to be open",
                seconds,
                coordinator_address=f"{place.coordinator.rpartition(':')[0]}:{port}",
                num_processes=place.processes,
                process_id=place.process,
                cluster_detection_method="deactivate",
            )
    except BaseException:
        if store is not None:
            store.shutdown()
        raise


def _initialize(said: str, expected: str, seconds: int, **options: Any) -> None:
    try:
        jax.distributed.initialize(
            **options,
            initialization_timeout=seconds,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError) as e:
        raise ValueError(
            f"{said}: JAX cannot join the processes ({brief(e)}); expected {expected}"
        ) from e


def agree(value: ArrayLike) -> ArrayLike:
    """The first host's value, on every host.

    For decisions that depend on clocks or signals and must not differ between hosts.
    """
    if jax.process_count() == 1:
        return value
    value = np.asarray(value)
    # As bytes, because JAX would make float32 of float64.
    raw = np.frombuffer(value.tobytes(), np.uint8)
    raw = np.asarray(multihost_utils.broadcast_one_to_all(raw), np.uint8)
    return np.frombuffer(raw.tobytes(), value.dtype).reshape(value.shape)


def of_first(make: Callable[[], JsonObject]) -> JsonObject:
    """What `make` returns on the first host, on every host; only the first calls it.

    For what is read from or written to the folder of a run.
    """
    if jax.process_count() == 1:
        return make()
    text = json.dumps(make()).encode() if jax.process_index() == 0 else b""
    length = int(agree(len(text)))
    return json.loads(bytes(agree(np.frombuffer(text.ljust(length), np.uint8))))


def which_hosts(flag: bool) -> list[int]:
    """The numbers of the hosts on which `flag` is true, on every host; waits for all of them."""
    if jax.process_count() == 1:
        return [0] if flag else []
    flags = multihost_utils.process_allgather(np.asarray(flag, np.int32))
    return np.flatnonzero(flags).tolist()


def fetch(x: jax.Array) -> np.ndarray:
    """An array as numpy on every host, however it is sharded."""
    whole = x.is_fully_addressable or x.is_fully_replicated
    return np.asarray(x if whole else multihost_utils.process_allgather(x, tiled=True))
