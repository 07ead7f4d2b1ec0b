"""The table of compiled programs: what counts as the same program, and what does not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.runtime.mesh import make_mesh, replicated
from gopd_jax.runtime.metrics import compilations
from gopd_jax.runtime.programs import ProgramTable

MESH = make_mesh(devices=jax.devices()[:1])


@dataclasses.dataclass(frozen=True)
class Scale:
    """Stands for a model or a setting that is bound to a function."""

    factor: float


def scaled(x, *, scale, shift=0.0):
    return scale.factor * x + shift


def plus_one(x):
    return x + 1


def array(shape=(3,), dtype=np.float32):
    return jax.device_put(jnp.ones(shape, dtype), replicated(MESH))


@pytest.fixture
def table():
    return ProgramTable(MESH)


def compile_in(table, function, *args, **given):
    given = {"name": "test", "out": lambda: replicated(MESH)} | given
    return table.compiled(function, *args, **given)


def test_the_same_function_and_shapes_are_found_again(table):
    program = compile_in(table, plus_one, array())
    np.testing.assert_array_equal(program(array()), np.full(3, 2.0))
    shape = jax.ShapeDtypeStruct((3,), np.float32, sharding=replicated(MESH))
    before = compilations()
    for same in (np.full(3, 5, np.float32), shape):
        assert compile_in(table, plus_one, same) is program
    assert compilations() == before
    assert len(table.programs) == 1


def test_the_name_plays_no_role(table):
    program = compile_in(table, plus_one, array(), name="decode", bucket="3 slots")
    assert compile_in(table, plus_one, array(), name="prefill", bucket="another") is program
    other = compile_in(table, jnp.negative, array(), name="decode", bucket="3 slots")
    assert other is not program
    np.testing.assert_array_equal(other(array()), -np.ones(3))
    assert [(p.name, p.bucket) for p in table.programs] == [("decode", "3 slots")] * 2


def test_out_is_asked_only_to_compile(table):
    compile_in(table, plus_one, array())

    def never():
        pytest.fail("the shardings were asked for although the program exists")

    compile_in(table, plus_one, array(), out=never)


@pytest.mark.parametrize(
    "other",
    [array((4,)), array((3, 1)), array(dtype=np.int32)],
    ids=["size", "rank", "dtype"],
)
def test_other_shapes_are_compiled_anew(table, other):
    program = compile_in(table, plus_one, array())
    another = compile_in(table, plus_one, other)
    assert another is not program and len(table.programs) == 2
    assert (another(other).shape, another(other).dtype) == (other.shape, other.dtype)


def test_another_structure_is_compiled_anew(table):
    def first(tree):
        return jax.tree.leaves(tree)[0]

    programs = {compile_in(table, first, tree) for tree in (array(), [array()], {"x": array()})}
    assert len(programs) == 3


def test_equal_partials_share_a_program(table):
    """Two objects that were made apart, as those of a sampler and a learner are."""
    bound = [functools.partial(scaled, scale=Scale(2.0), shift=1.0) for _ in range(2)]
    bound.append(functools.partial(scaled, shift=1.0, scale=Scale(2.0)))
    assert bound[0] != bound[1]
    program = compile_in(table, bound[0], array())
    for again in bound[1:]:
        assert compile_in(table, again, array()) is program
    np.testing.assert_array_equal(program(array()), np.full(3, 3.0))


@pytest.mark.parametrize(
    "other",
    [
        functools.partial(scaled, scale=Scale(3.0), shift=1.0),
        functools.partial(scaled, scale=Scale(2.0), shift=2.0),
        functools.partial(scaled, scale=Scale(2.0)),
    ],
    ids=["scale", "shift", "no shift"],
)
def test_another_bound_argument_is_another_program(table, other):
    program = compile_in(table, functools.partial(scaled, scale=Scale(2.0), shift=1.0), array())
    assert compile_in(table, other, array()) is not program
    np.testing.assert_array_equal(compile_in(table, other, array())(array()), other(np.ones(3)))


def test_positional_arguments_of_a_partial_count(table):
    one, two = (compile_in(table, functools.partial(jnp.add, n), array()) for n in (1.0, 2.0))
    assert one is not two
    np.testing.assert_array_equal(two(array()) - one(array()), np.ones(3))


def test_a_donated_argument_is_given_up(table):
    kept, donated = array(), array()
    compile_in(table, plus_one, kept)(kept)
    assert not kept.is_deleted()
    program = compile_in(table, plus_one, donated, donate=0)
    assert len(table.programs) == 2  # a program that takes its argument is another one
    program(donated)
    assert donated.is_deleted()


def test_what_a_program_cost_is_recorded(table):
    compile_in(table, plus_one, array(), name="decode", bucket="3 slots")
    (record,) = table.programs
    assert record.compile_seconds > 0 and record.temporary_bytes >= 0
    assert str(record) == f"decode 3 slots ({record.compile_seconds:.1f} s)"


def test_a_program_compiled_ahead_is_found(table):
    shape = jax.ShapeDtypeStruct((3,), np.float32, sharding=replicated(MESH))
    given = {"name": "decode", "bucket": "3 slots", "out": lambda: replicated(MESH), "donate": 0}
    table.compile_ahead(plus_one, shape, **given)
    table.compile_ahead(plus_one, shape, **given)
    assert table.programs == []  # nobody has used it
    program = compile_in(table, plus_one, array(), donate=0, out=lambda: pytest.fail("compiled"))
    np.testing.assert_array_equal(program(array()), np.full(3, 2.0))
    assert [(p.name, p.bucket) for p in table.programs] == [("decode", "3 slots")]
    assert compile_in(table, plus_one, shape, donate=0) is program and len(table.programs) == 1


def test_an_error_of_compiling_ahead_is_raised_by_whoever_needs_the_program(table):
    def refused(x):
        raise ValueError("this cannot be traced")

    shape = jax.ShapeDtypeStruct((3,), np.float32, sharding=replicated(MESH))
    table.compile_ahead(refused, shape, name="test", out=lambda: replicated(MESH))
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot be traced"):
            compile_in(table, refused, array())


ENDS_EARLY = """
import sys
import jax, jax.numpy as jnp
from gopd_jax.runtime.mesh import make_mesh, replicated
from gopd_jax.runtime.programs import ProgramTable

def slow(x):
    for _ in range(60):
        x = jnp.sort(jnp.tanh(x @ x))
    return x

table = ProgramTable(make_mesh())
whole = replicated(table.mesh)
x = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=whole)
table.compile_ahead(slow, x, name="slow", out=lambda: whole)
print("ends")
"""


def test_a_process_that_ends_while_a_program_compiles_ends_well(run_on_fake_devices):
    assert run_on_fake_devices(ENDS_EARLY, count=1) == "ends\n"
