"""What models say over the whole vocabulary, block by block, against whole arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.models import head_blocks
from gopd_jax.models.head_pass import STUDENT
from gopd_jax.models.logprobs import statistics
from tests.models.statistics_cases import ASKED, NUM_IDS, make, naive, with_gradient

R, S = 3, 10


def _total(found, asked, wanted):
    """A sum of all that has a gradient, each with weights of its own."""
    rng = np.random.default_rng(1)
    parts = with_gradient(found, asked)
    weights = [np.where(wanted, rng.normal(size=wanted.shape), 0).astype(np.float32) for _ in parts]
    # What is not wanted is 0 or, in whole arrays, anything.
    return sum(jnp.sum(w * jnp.where(wanted, x, 0)) for w, x in zip(weights, parts, strict=True))


@pytest.fixture(params=[(30, 64), (7, 20)], ids="{0[0]} x {0[1]}".format)
def logits_at_once(request, monkeypatch):
    """Chunks of so many tokens, blocks of so many ids; the last of each may be partly empty."""
    tokens, ids = request.param
    monkeypatch.setattr(head_blocks, "chunk_tokens", lambda _: tokens)
    monkeypatch.setattr(head_blocks, "CPU_LOGIT_ELEMENTS", tokens * ids * 3)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", ASKED)
def test_values_and_gradients_are_those_of_whole_arrays(logits_at_once, name, which):
    asked = ASKED[name]
    models, targets, wanted, scale = make(R, S)

    def ours(student, head):
        of_models = models | {STUDENT: (student, head)}
        found = statistics(
            of_models,
            targets,
            wanted,
            asked,
            scale_RS=scale,
            which=jnp.int32(which),
            num_ids=NUM_IDS,
        )
        tree = found.logprobs, found.means, found.norms, found.candidates, found.jensen_shannon
        return _total(tree, asked, wanted), tree

    def whole(student, head):
        found = naive(models | {STUDENT: (student, head)}, targets, asked, scale, which)
        return _total(found, asked, wanted), found

    def run(function):
        return jax.jit(jax.value_and_grad(function, argnums=(0, 1), has_aux=True))(*models[STUDENT])

    (total, found), gradients = run(ours)
    (right_total, right), right_gradients = run(whole)
    np.testing.assert_allclose(total, right_total, rtol=1e-5)
    assert jax.tree.structure(found) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True):
        there = wanted.reshape(*wanted.shape, *[1] * (b.ndim - 2))
        np.testing.assert_allclose(a, np.where(there, b, 0), atol=2e-5)
    np.testing.assert_array_equal(gradients[1][NUM_IDS:], 0)
    for a, b in zip(gradients, right_gradients, strict=True):
        b = np.nan_to_num(b)  # of the rows without an id
        assert np.abs(b).max() > 0.01
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_a_shorter_head_needs_to_know_how_many_ids_there_are():
    models, targets, wanted, scale = make(R, S)
    with pytest.raises(ValueError, match="a head of 59 ids beside one of 64: expected num_ids"):
        statistics(models, targets, wanted, ASKED["means"], scale_RS=scale, which=jnp.int32(0))


ON_EIGHT = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from gopd_jax.kernels.context import balanced, in_order
from gopd_jax.models import head_blocks
from gopd_jax.models.head_pass import STUDENT
from gopd_jax.models.logprobs import statistics
from gopd_jax.runtime.mesh import RULES, make_mesh
from tests.models.statistics_cases import ASKED, NUM_IDS, make, with_gradient

head_blocks.chunk_tokens = lambda _: 7
head_blocks.CPU_LOGIT_ELEMENTS = 3 * 7 * 20  # blocks of 20 ids
models, targets, wanted, scale = make(8, 16)

def run(mesh, asked):
    def total(student, head, others, targets, wanted, scale):
        ordered = jax.tree.map(balanced, (targets, wanted, scale))
        states = {name: (balanced(x), *heads) for name, (x, *heads) in others.items()}
        of_models = states | {STUDENT: (balanced(student), head)}
        found = statistics(of_models, *ordered[:2], asked, scale_RS=ordered[2],
                           which=jnp.int32(1), num_ids=NUM_IDS)
        tree = found.logprobs, found.means, found.norms, found.candidates, found.jensen_shannon
        tree = jax.tree.map(in_order, tree)
        parts = with_gradient(tree, asked)
        return sum(jnp.sum((i + 1) * x) for i, x in enumerate(parts)), tree

    def placed(x, spec):
        return jax.device_put(x, NamedSharding(mesh, spec))

    rows, table = PartitionSpec(RULES["batch"]), PartitionSpec(RULES["vocab"], RULES["embed"])
    others = {n: (placed(x, rows), *heads) for n, (x, *heads) in models.items() if n != STUDENT}
    student, head = models[STUDENT]
    given = placed(student, rows), placed(head, table), others
    with jax.set_mesh(mesh):
        program = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
        of_tokens = (placed(x, rows) for x in (targets, wanted, scale))
        return jax.device_get(program(*given, *of_tokens))

alone = make_mesh(devices=jax.devices()[:1])
meshes = make_mesh(2, 2, 2), make_mesh(1, 8, 1), make_mesh(1, 4, 1, context=2)
for name, asked in ASKED.items():
    one = run(alone, asked)
    for mesh in meshes:
        for a, b in zip(jax.tree.leaves(run(mesh, asked)), jax.tree.leaves(one), strict=True):
            assert np.linalg.norm(a - b) <= 1e-5 * max(1, np.linalg.norm(b)), (name, mesh)
print("equal")
"""


@pytest.mark.slow
def test_many_devices_find_what_one_does(run_on_fake_devices):
    """With the vocabulary split, the width split, and rows split along their length."""
    assert run_on_fake_devices(ON_EIGHT).split() == ["equal"]
