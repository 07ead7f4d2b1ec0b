"""The sharding table: what it gives, and the sentence it gives when it cannot."""

import jax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
from model_cases import CASES
import numpy as np
import pytest

from gopd_jax.models.decoder import abstract_params, logical_axes
from gopd_jax.runtime import mesh as meshes
from gopd_jax.runtime.mesh import (
    AXES,
    DECODE_RULES,
    batch_sharding,
    make_mesh,
    rows_multiple,
    shardings,
)

MESH = AbstractMesh((2, 2, 2), AXES, axis_types=(AxisType.Auto,) * 3)
DEVICE = jax.devices()[:1]


def _shard(shape, *axes, **rules):
    tree = {"layers": {"kernel": jax.ShapeDtypeStruct(shape, np.float32)}}
    return shardings(MESH, tree, {"layers": {"kernel": PartitionSpec(*axes)}}, **rules)["layers"][
        "kernel"
    ].spec


def test_rules_for_training_and_for_decode():
    assert _shard((3, 4, 6, 8), "layers", "embed", "heads", "head_size") == PartitionSpec(
        None, "fsdp", "tensor", None
    )
    assert _shard((3, 4, 6), "layers", "embed", "mlp", rules=DECODE_RULES) == PartitionSpec(
        None, None, "tensor"
    )
    assert _shard((4, 5), "batch") == PartitionSpec(("data", "fsdp"), None)
    assert batch_sharding(MESH, leading=1).spec == PartitionSpec(None, ("data", "fsdp"))
    assert rows_multiple(MESH) == 4


def test_every_parameter_of_a_model_is_spread():
    config = CASES["qwen3_untied"]
    placed = shardings(MESH, abstract_params(config), logical_axes(config))
    for path, sharding in jax.tree_util.tree_leaves_with_path(placed):
        assert ("fsdp" in sharding.spec) == (path[-1].key != "scale"), path


@pytest.mark.parametrize(
    "shape, axes, message",
    [
        (
            (4, 5),
            ("embed", "mlp"),
            r"layers/kernel: axis 'mlp' of size 5 does not divide over \('tensor',\) \(2 ways\)",
        ),
        (
            (6, 4),
            ("batch", None),
            r"layers/kernel: axis 'batch' of size 6 does not divide over \('data', 'fsdp'\) \(4 ways\)",
        ),
        (
            (4, 4),
            ("embed", "pages"),
            r"layers/kernel: unknown logical axis 'pages'; known: \['batch', 'embed'",
        ),
        (
            (4, 4),
            ("heads", "vocab"),
            r"layers/kernel: two of its axes \('heads', 'vocab'\) map to the same mesh axis \('tensor',\)",
        ),
        (
            (4, 4),
            ("batch", "embed"),
            r"layers/kernel: two of its axes .* map to the same mesh axis",
        ),
    ],
)
def test_errors_name_the_parameter(shape, axes, message):
    with pytest.raises(ValueError, match=message):
        _shard(shape, *axes)


def test_make_mesh_fills_the_free_axis():
    for free in AXES:
        mesh = make_mesh(**({"data": 1, "fsdp": 1, "tensor": 1} | {free: -1}), devices=DEVICE)
        assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize("sizes", [(2, 1, 1), (-1, -1, 1), (-1, 2, 1), (0, -1, 1), (-2, -2, 1)])
def test_make_mesh_says_what_does_not_fit(sizes):
    data, fsdp, tensor = sizes
    with pytest.raises(
        ValueError,
        match=rf"mesh data={data} fsdp={fsdp} tensor={tensor} does not fit 1 devices.*may be -1",
    ):
        make_mesh(data, fsdp, tensor, devices=DEVICE)


def test_constrain_without_a_mesh_is_the_identity():
    x = np.ones(3)
    assert meshes.constrain(x, ("batch",)) is x
