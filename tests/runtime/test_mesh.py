"""The sharding table: the shardings it gives, and its errors."""

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
    row_layout,
    rows_multiple,
    shardings,
)

MESH = AbstractMesh((2, 2, 1, 1, 2), AXES, axis_types=(AxisType.Auto,) * 5)
EMBED, BATCH = ("fsdp", "expert", "context"), ("data", "fsdp", "expert")
DEVICE = jax.devices()[:1]


def spec_of(shape, *axes, **rules):
    """The PartitionSpec of one parameter "layers/kernel"."""
    tree = {"layers": {"kernel": jax.ShapeDtypeStruct(shape, np.float32)}}
    logical = {"layers": {"kernel": PartitionSpec(*axes)}}
    return shardings(MESH, tree, logical, **rules)["layers"]["kernel"].spec


TRAIN, DECODE = {}, {"rules": DECODE_RULES}


@pytest.mark.parametrize(
    "shape, axes, rules, expected",
    [
        ((3, 4, 6, 8), "layers embed heads head_size", TRAIN, (None, EMBED, "tensor", None)),
        ((3, 4, 6), "layers embed mlp", DECODE, (None, None, "tensor")),
        ((4, 5), "batch", TRAIN, (BATCH, None)),
    ],
)
def test_rules_for_training_and_for_decode(shape, axes, rules, expected):
    assert spec_of(shape, *axes.split(), **rules) == PartitionSpec(*expected)


def test_rows_are_spread_over_data_fsdp_and_expert():
    assert batch_sharding(MESH, leading=1).spec == PartitionSpec(None, BATCH)
    assert rows_multiple(MESH) == 4


@pytest.mark.parametrize(
    "sizes, layout",
    [
        ((1, 16, 1, 1, 1), (16, 1, 1)),
        ((1, 16, 1, 16, 1), (16, 16, 32)),
        ((1, 16, 1, 1, 16), (16, 16, 16)),
        ((2, 2, 3, 2, 3), (12, 6, 12)),
    ],
)
def test_rows_follow_the_mesh(sizes, layout):
    """16 rows on 16 devices and on 256: the devices that hold a row together, and its length."""
    assert row_layout(AbstractMesh(sizes, AXES, axis_types=MESH.axis_types)) == layout


def test_tokens_are_split_as_far_as_the_mesh_divides_them():
    mesh = AbstractMesh((1, 2, 1, 2, 2), AXES, axis_types=MESH.axis_types)

    def spec(*shape):
        with jax.sharding.use_abstract_mesh(mesh):
            traced = jax.make_jaxpr(lambda x: meshes.constrain(x, ("batch", "between")))(
                jax.ShapeDtypeStruct(shape, np.float32)
            )
        return traced.eqns[0].params["sharding"].spec

    assert spec(4, 8) == PartitionSpec(("data", "fsdp", "expert"), ("context", "tensor"))
    assert spec(4, 6) == PartitionSpec(("data", "fsdp", "expert"), "context")
    assert spec(1, 3) in (PartitionSpec("data", None), PartitionSpec("data"))


def test_every_parameter_of_a_model_is_sharded():
    config = CASES["qwen3_untied"]
    tree = shardings(MESH, abstract_params(config), logical_axes(config))
    for path, sharding in jax.tree_util.tree_leaves_with_path(tree):
        assert (EMBED in sharding.spec) == (path[-1].key != "scale"), path


@pytest.mark.parametrize(
    "shape, axes, message",
    [
        (
            (4, 5),
            ("embed", "mlp"),
            r"axis 'mlp' of size 5 does not divide over \('tensor',\) \(2 ways\)",
        ),
        (
            (6, 4),
            ("batch", None),
            r"axis 'batch' of size 6 does not divide over \('data', 'fsdp', 'expert'\) \(4 ways\)",
        ),
        ((4, 4), ("embed", "pages"), r"unknown logical axis 'pages'; known: \['batch', 'between'"),
        (
            (4, 4),
            ("heads", "vocab"),
            r"two of its axes \('heads', 'vocab'\) map to the same mesh axis \('tensor',\)",
        ),
        ((4, 4), ("batch", "embed"), r"two of its axes .* map to the same mesh axis"),
    ],
)
def test_errors_name_the_parameter(shape, axes, message):
    with pytest.raises(ValueError, match=f"layers/kernel: {message}"):
        spec_of(shape, *axes)


def test_make_mesh_fills_the_free_axis():
    ones = dict.fromkeys(AXES, 1)
    for free in AXES:
        mesh = make_mesh(**(ones | {free: -1}), devices=DEVICE)
        assert dict(mesh.shape) == ones


@pytest.mark.parametrize("sizes", [(2, 1, 1), (-1, -1, 1), (-1, 2, 1), (0, -1, 1), (-2, -2, 1)])
def test_make_mesh_says_what_does_not_fit(sizes):
    data, fsdp, tensor = sizes
    asked = f"mesh data={data} fsdp={fsdp} expert=1 context=1 tensor={tensor}"
    with pytest.raises(ValueError, match=f"{asked} does not fit 1 devices.*may be -1"):
        make_mesh(data, fsdp, tensor, devices=DEVICE)


def test_constrain_without_a_mesh_is_the_identity():
    x = np.ones(3)
    assert meshes.constrain(x, ("batch",)) is x
