"""What a device must hold at least, and the sentence when it cannot."""

import jax
import numpy as np
import pytest

from gopd_jax.runtime.memory import (
    Part,
    check_fits,
    device_bytes,
    device_memory,
    host_memory,
    in_words,
)
from gopd_jax.runtime.mesh import batch_sharding, make_mesh

PARTS = [
    Part("rollout cache", "3 slots x 2 x 4 bytes", 24, "config.rollout.slots=3"),
    Part("student", "5 parameters x 16 bytes", 80, "student 'base'"),
]


def test_the_largest_part_is_named_with_its_arithmetic():
    mesh = make_mesh(devices=jax.devices()[:1])
    check_fits(PARTS, mesh, 104)
    check_fits(PARTS, mesh, None)
    expected = (
        r"student 'base': the student needs 5 parameters x 16 bytes = 80 bytes on each of 1 "
        r"device\(s\), and the whole at least 104 bytes \(rollout cache 24 bytes\): expected at "
        r"most 103 bytes, the memory of a device"
    )
    with pytest.raises(ValueError, match=expected):
        check_fits(PARTS, mesh, 103)


def test_the_memory_of_a_cpu_device_is_that_of_the_machine():
    mesh = make_mesh(devices=jax.devices()[:1])
    assert device_memory(mesh) * jax.local_device_count() <= host_memory()
    assert 2**28 < host_memory() < 2**50


def test_bytes_are_those_of_one_device():
    sharding = batch_sharding(make_mesh(devices=jax.devices()[:1]))
    shapes = [jax.ShapeDtypeStruct((6, 4), d, sharding=sharding) for d in (np.float32, np.int8)]
    assert device_bytes(shapes) == 6 * 4 * 5


@pytest.mark.parametrize(
    "count, words",
    [(0, "0 bytes"), (999, "999 bytes"), (25_300_000_000, "25.3 GB"), (10**15, "1 PB")],
)
def test_bytes_in_words(count, words):
    assert in_words(count) == words
