"""Starting, agreeing, sharing work: one process on a laptop, one per host on a slice or cluster."""

from collections.abc import Callable, Sequence
import json
import pickle
from typing import Any, TypeVar

import jax
from jax._src import distributed  # as in `watch`: `jax.process_count` would take the devices
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

TOLD = "gopd_jax/told/"  # begins keys in the store of JAX's coordination service

Item, Result = TypeVar("Item"), TypeVar("Result")


def start_processes(place: Place | None = None) -> None:
    """Joins the other processes of the run, if there are any.

    They are found from `place`, from GOPD_COORDINATOR, GOPD_PROCESSES and GOPD_PROCESS, or by JAX
    from the TPU slice, Slurm or Open MPI (see `joining.is_detected`); before JAX is used.

    Raises:
        ValueError: what is given is wrong or incomplete, or the others cannot be met in time.
    """
    place, seconds = place or find_place({}), join_seconds()
    if not is_detected() if place is None else place.processes == 1:
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


def share(items: Sequence[Item]) -> Sequence[Item]:
    """What this host does of work that the hosts share: every so many of the items."""
    state = distributed.global_state
    return items[state.process_id or 0 :: state.num_processes or 1]


def together(work: Callable[[], Result]) -> list[Result]:
    """What `work` returns on each host, in their order, on every host; waits for all of them.

    Raises:
        Exception: what `work` raises, on the host itself; a ValueError that says so on the others.
    """
    if (distributed.global_state.num_processes or 1) == 1:
        return [work()]
    error = None
    try:
        mine = pickle.dumps((work(), ""))
    except Exception as e:
        error, mine = e, pickle.dumps((None, brief(e)))
    gather = multihost_utils.process_allgather
    sizes = np.ravel(gather(np.int32(len(mine))))
    parts = gather(np.frombuffer(mine.ljust(sizes.max(), b"\0"), np.uint8))
    found = [pickle.loads(part[:size].tobytes()) for part, size in zip(parts, sizes, strict=True)]
    if error is not None:
        raise error
    for number, (_, failed) in enumerate(found):
        if failed:
            raise ValueError(f"process {number} of {len(found)}: {failed}")
    return [result for result, _ in found]


def shared(
    work: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]
) -> list[Result]:
    """`work(items)`, a result for each item, of which each host does its `share`.

    Raises:
        Exception: as `together` does.
    """
    parts = together(lambda: list(work(share(items))))
    results: list[Any] = [None] * len(items)
    for number, part in enumerate(parts):
        results[number :: len(parts)] = part
    return results


def told_to_first(name: str, value: JsonObject, seconds: float) -> list[JsonObject]:
    """On the first host, the values of all, in their order; on the others an empty list.

    For threads: no device waits for it, and neither do the others.

    Args:
        name: the same on every host, and used once.
        value: of this host.
        seconds: to wait for each of the others.

    Raises:
        OSError: another host has not told its value in time.
    """
    state = distributed.global_state
    if (state.num_processes or 1) == 1:
        return [value]
    if state.process_id:
        state.client.key_value_set(f"{TOLD}{name}/{state.process_id}", json.dumps(value))
        return []
    told = [value]
    for other in range(1, state.num_processes):
        try:
            text = state.client.blocking_key_value_get(f"{TOLD}{name}/{other}", int(1000 * seconds))
        except jax.errors.JaxRuntimeError as e:
            raise OSError(f"{name}: nothing of process {other} within {seconds:g} s") from e
        told.append(json.loads(text))
    return told


def fetch(x: jax.Array) -> np.ndarray:
    """An array as numpy on every host, however it is sharded."""
    whole = x.is_fully_addressable or x.is_fully_replicated
    return np.asarray(x if whole else multihost_utils.process_allgather(x, tiled=True))
