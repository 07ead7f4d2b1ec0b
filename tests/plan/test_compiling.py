"""What the compiler says, kept and found again; its refusals."""

import jax
import jax.numpy as jnp
import pytest

from gopd_jax.plan.compiling import Compiled, Compiler
from gopd_jax.runtime.mesh import make_mesh, replicated
from gopd_jax.runtime.rehearsal import Rehearsal

REFUSALS = {
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(40.5G) exceeds available HBM (31.25G).": 40.5 * 2**30,
    "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 21.25G of 15.75G hbm. "
    "Exceeded hbm capacity by 5.50G.": 21.25 * 2**30,
    "RESOURCE_EXHAUSTED: no number": 0,
}


def double(x):
    return 2 * x


@pytest.fixture
def call():
    """A program of one array of 400 bytes."""
    mesh = make_mesh(devices=jax.devices()[:1])
    table = Rehearsal(mesh)
    shape = jax.ShapeDtypeStruct((100,), jnp.float32, sharding=replicated(mesh))
    result = table.compiled(double, shape, name="double", out=lambda: replicated(mesh))(shape)
    assert (result.shape, result.dtype) == ((100,), jnp.float32)
    assert result.sharding == replicated(mesh)
    (found,) = table.calls.values()
    return found


def test_a_result_is_found_again(call, monkeypatch, tmp_path):
    monkeypatch.setenv("GOPD_CACHE", str(tmp_path))
    compiler = Compiler("cpu:1", jobs=1)
    first = compiler([call])[call.key]
    assert (first.arguments, first.results, first.taken_over, first.refused) == (400, 400, 0, "")
    assert first.collectives.by_kind == {} and first.peak == 800 + first.temporaries

    def fail(*args, **kwargs):
        raise AssertionError("compiled again")

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    assert compiler([call])[call.key] == first
    with pytest.raises(AssertionError, match="compiled again"):
        Compiler("cpu:1", fast=True)([call])
    with pytest.raises(AssertionError, match="compiled again"):
        compiler.on("cpu:2")([call])


@pytest.mark.parametrize(("text", "needed"), REFUSALS.items())
def test_too_little_memory_is_a_result(call, monkeypatch, text, needed):
    def refuse(*args, **kwargs):
        raise jax.errors.JaxRuntimeError(text)

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    found = Compiler("cpu:1", keep=False).one(call)
    assert found.peak == found.needed == needed
    assert found.refused.startswith("RESOURCE_EXHAUSTED")


def test_another_error_is_one(call, monkeypatch):
    def fail(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        Compiler("cpu:1", keep=False).one(call)


def test_a_rehearsal_notes_what_is_asked_for(call):
    mesh = call.mesh
    table, shape = Rehearsal(mesh), call.args[0]
    with table.asked() as outer:
        table.compile_ahead(double, shape, name="double", out=lambda: replicated(mesh))
        with table.asked() as inner:
            table.compiled(double, shape, name="again", out=lambda: replicated(mesh))
    assert [c.name for c in outer] == [c.name for c in inner] == ["double"]
    assert list(table.calls) == [call.key]
    assert Compiled(arguments=3, results=2, taken_over=1, temporaries=5).peak == 9
