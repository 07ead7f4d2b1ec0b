"""Operations counted by hand, and in the programs of the decoder and of the head."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.kernels.packed_attention import MEMBERS
from gopd_jax.learner.flops import (
    FORWARD,
    TRAINING,
    Flops,
    Passes,
    Work,
    block_elements,
    block_pairs,
    dense_pairs,
    flops,
    training_passes,
    useful_work,
)
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import Decoder, init_params
from gopd_jax.models.logprobs import token_logprobs

CONFIG = ModelConfig(
    family="qwen3", vocab_size=50, layers=3, width=8, heads=4, kv_heads=2, head_size=6, mlp_width=10
)
EXPERTS = dataclasses.replace(CONFIG, experts=5, experts_per_token=2, moe_mlp_width=7)


def test_a_forward_pass_by_hand():
    # Query and out have 8 x 24 elements, key and value 8 x 12, three MLP matrices 8 x 10.
    assert block_elements(CONFIG) == 2 * 192 + 2 * 96 + 240 == 816
    # The router has 8 x 5, three matrices of each of two experts 8 x 7.
    assert block_elements(EXPERTS) == 2 * 192 + 2 * 96 + 40 + 2 * 168 == 952
    found = flops(CONFIG, Work(tokens=11, pairs=13, predictions=4))
    # Of 3 layers; a pair costs 2 products of 2 * 6 operations in each of 4 heads.
    assert found == Flops(3 * 11 * 2 * 816, 3 * 13 * 4 * 2 * 2 * 6, 4 * 2 * 50 * 8)
    assert found.total == 53856 + 3744 + 3200
    assert found + found + found == flops(CONFIG, Work(11, 13, 4), TRAINING)


def test_useful_work_by_hand():
    # 3 tokens attend to 1 + 2 + 3 tokens, 5 tokens to 15.
    assert useful_work([2, 1], [1, 4]) == Work(tokens=8, pairs=6 + 15, predictions=5)


def test_a_prompt_is_needed_once():
    # The 3 tokens of the prompt attend to 6 tokens; 2 more to 4 and 5, 1 more to 4.
    found = useful_work([3, 3], [2, 1], [False, True])
    assert found == Work(tokens=6, pairs=6 + 4 + 5 + 4, predictions=3)


def test_dense_pairs_pad_queries_to_chunks():
    assert dense_pairs(rows=2, length=8, chunk=8) == 2 * 64
    assert dense_pairs(rows=2, length=9, chunk=8) == 2 * 16 * 9


def shared(*lengths):
    """A prefix, and the segments that share it."""
    return [MEMBERS + member for member, n in enumerate(lengths) for _ in range(n)]


@pytest.mark.parametrize(
    "row, blocks",
    [
        ([1, 1, 1, 1, 1, 1], 6),  # all on and below the diagonal
        ([1, 1, 2, 2, 3, 3], 3),  # each block a segment of its own: the diagonal
        ([1, 1, 1, 2, 2, 2], 5),  # the last block does not reach the first
        ([1, 1, 1, 1, 2, 0], 4),
        ([1, 1, 1, 0, 0, 0], 3),  # the last block is padding
        ([1, 2, 3, 3, 0, 0], 2),
        ([1, 1, 1], 3),  # the first block is padded
        ([0, 0, 0, 0, 0, 0], 0),
        (shared(2, 2, 2), 5),  # the third block sees the first, and not the second
        (shared(2, 4, 2), 8),  # two and one, two and three of one sample, and two of the other
        ([1, 1, *shared(1, 1, 2, 2)], 6),  # the others see the second block
        (shared(1, 2, 3), 6),
    ],
)
def test_block_pairs_by_hand(row, blocks):
    assert block_pairs(np.array([row]), block=2) == blocks * 4


def test_block_pairs_of_blocks_of_one_are_the_useful_ones():
    rows = np.array([[1, 1, 1, 2, 2, 0], [1, 2, 2, 2, 2, 2]])
    assert block_pairs(rows, 1) == useful_work([1, 1, 0, 2], [2, 1, 1, 3]).pairs
    assert block_pairs(rows, 6) == 2 * 36


# ---- Against the products in a program.


def products(jaxpr) -> float:
    """Operations of the matrix products in a jaxpr, loops as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            of_one = np.prod([equation.invars[0].aval.shape[i] for i in contracted])
            total += 2 * of_one * equation.outvars[0].aval.size
        if equation.primitive.name == "ragged_dot_general":
            # [m, k] by [E, k, n] in some order; for the gradient of the experts, [m, k] by [m, n].
            total += 2 * equation.invars[0].aval.size * equation.outvars[0].aval.shape[-1]
        times = equation.params.get("length", 1)
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                total += times * products(getattr(inner, "jaxpr", inner))
    return total


def dense(query_BTNH, key_BKSH, value_BKSH, mask):
    """Attention from each query to each key, masked by nothing: only its cost matters here."""
    B, T, N, H = query_BTNH.shape
    query_BTKGH = query_BTNH.reshape(B, T, key_BKSH.shape[1], -1, H)
    weights = jax.nn.softmax(jnp.einsum("btkgh,bksh->bkgts", query_BTKGH, key_BKSH))
    return jnp.einsum("bkgts,bksh->btkgh", weights, value_BKSH).reshape(B, T, N, H)


ROW = jnp.ones((2, 9), jnp.int32)
ROW_WORK = Work(tokens=18, pairs=2 * 9 * 9, predictions=0)


@pytest.mark.parametrize("remat", ["none", "block"])
@pytest.mark.parametrize("kernel, again", [(dense, 0), (jax.checkpoint(dense), 1)])
@pytest.mark.parametrize("config", [CONFIG, EXPERTS])
def test_the_passes_of_the_decoder_are_those_of_its_program(config, kernel, again, remat):
    decoder = Decoder(config, remat=remat, attention=kernel)
    params = init_params(config, jax.random.key(0))

    def loss(params):
        return jnp.sum(decoder.apply({"params": params}, ROW, ROW, ROW))

    assert products(jax.make_jaxpr(loss)(params).jaxpr) == flops(config, ROW_WORK, FORWARD).total
    passes = training_passes(
        config,
        block_again=remat != "none",
        attention_again=remat != "none",
        products_again=again,
        head_again=True,
    )
    assert products(jax.make_jaxpr(jax.grad(loss))(params).jaxpr) == pytest.approx(
        flops(config, ROW_WORK, passes).total
    )


def test_the_passes_of_the_head_are_those_of_its_program():
    hidden, head = jnp.ones((2, 9, CONFIG.width)), jnp.ones((CONFIG.vocab_size, CONFIG.width))

    def loss(hidden, head):
        return jnp.sum(token_logprobs(hidden, head, ROW)[0])

    found = products(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(hidden, head).jaxpr)
    passes = training_passes(
        CONFIG, block_again=True, attention_again=True, products_again=0, head_again=True
    )
    assert found == flops(CONFIG, Work(0, 0, 18), passes).total
    assert passes.head == 4 and Passes() == FORWARD
