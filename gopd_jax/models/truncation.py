"""Top-k and top-p without a sort: the smallest logit that a sampling rule keeps, found exactly.

In: logits. Out: one threshold for each row. `models.heads` makes log-probs of it, and
`rollout.sampling` draws. A token is kept if its logit, divided by the temperature, is at least the
threshold.

A threshold is the largest t for which the tokens at or above t weigh enough: K of them, or a
probability of p. It is bracketed, and the bracket is cut, over the bits of the float32 numbers. A
pass over all tokens weighs what is at or above three values, and leaves a quarter of the bracket.
A sample of the tokens, or the largest ones of groups, tells where the first cuts go. About four
passes leave a handful of tokens. These are copied, and the rest of the search reads the copies.

The first cuts and the copies change how long the search takes, and never what it finds.
"""

from collections.abc import Callable, Sequence
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gopd_jax.models.settings import SamplingRule

# A pass reduces groups of so many tokens first. XLA on CPU then makes one loop of comparison and
# reduction, which it does up to 32 terms, and three sums at once fit into the registers.
GROUP = 16
CUTS = 3  # values that one pass compares with
STRIDE = 16  # one token in so many makes the sample that the first cuts come from
FEW = 32  # tokens in a bracket that is finished on copies
LEAST_VOCABULARY = 2048  # a smaller one is searched without copies

Weigh = Callable[[jax.Array], jax.Array]
Combine = Callable[[jax.Array, jax.Array], jax.Array]


class _Bracket(NamedTuple):
    """low is small enough and high is too large; keys int32 [B], with what weighs at or above."""

    low: jax.Array
    high: jax.Array
    low_weight: jax.Array
    high_weight: jax.Array


def threshold(scaled_BV: jax.Array, rule: SamplingRule) -> jax.Array:
    """The smallest logit that top-k and top-p keep, in each row.

    top-k comes first, and top-p then counts the probabilities of what top-k has kept. Both keep
    every token that ties with the last one.

    Args:
        scaled_BV: float32 logits, divided by the temperature; -inf for ids that are never drawn.
        rule: its top-k and top-p are read.

    Returns:
        float32 [B], without gradient; -inf if everything is kept.
    """
    scaled_BV = jax.lax.stop_gradient(scaled_BV)  # a loop has no backward pass
    smallest_B = _top_k(scaled_BV, rule.top_k)
    if rule.top_p == 1:
        return smallest_B
    masses_BV, least_B = _top_p(scaled_BV, smallest_B, rule.top_p)
    kept_BV = (masses_BV >= least_B[:, None]) & (scaled_BV >= smallest_B[:, None])
    return _smallest(jnp.where(kept_BV, scaled_BV, jnp.inf))


def masses(scaled_BV: jax.Array, rule: SamplingRule) -> tuple[jax.Array, jax.Array]:
    """What `threshold` keeps, as masses exp(logit - the largest logit), for those who sum them up.

    Args:
        scaled_BV, rule: as those of `threshold`.

    Returns:
        float32 [B, V] masses, and float32 [B]: a token is drawn if its mass is at least this number
        and above 0.
    """
    return _top_p(scaled_BV, _top_k(scaled_BV, rule.top_k), rule.top_p)


def kept_mass(logits_BV: jax.Array, rule: SamplingRule) -> tuple[jax.Array, jax.Array]:
    """What a sampling rule keeps of each row, in two numbers.

    The log-prob of a token that the rule draws from is

        logit / temperature - log_mass    if logit / temperature >= threshold, otherwise -inf

    Divide in the same program: another may round the quotient of the last kept token differently.

    Args:
        logits_BV: any float dtype; -inf for ids that are never drawn.
        rule: the sampling rule; its temperature is above 0.

    Returns:
        float32 [B] thresholds, and float32 [B] log-sum-exps of the kept logits / temperature.
    """
    scaled_BV = logits_BV.astype(jnp.float32) / rule.temperature
    smallest_B = threshold(scaled_BV, rule)
    kept_BV = jnp.where(scaled_BV >= smallest_B[:, None], scaled_BV, -jnp.inf)
    return smallest_B, jax.nn.logsumexp(kept_BV, axis=-1)


def _top_k(values_BV: jax.Array, k: int) -> jax.Array:
    """The k-th largest value of each row, or a smaller one with none in between; 0 keeps all."""
    B, V = values_BV.shape
    if not 0 < k < V:
        return jnp.full(B, -jnp.inf)
    goal_B, none_B = jnp.full(B, k, jnp.float32), jnp.zeros(B)
    high_B = _key(jnp.max(values_BV, axis=-1)) + 1
    if k > V // GROUP:
        bracket = _Bracket(_key(_smallest(values_BV)), high_B, none_B + V, none_B)
        return _search(values_BV, jnp.ones_like, goal_B, bracket)
    # The k-th largest maximum of a group is not above it, and not far below if k is small.
    grouped_BnG, _ = _grouped(values_BV)
    (maxima_BG,) = _reduce([grouped_BnG], [-jnp.inf], [_larger])
    low_B = _key(jnp.min(maxima_BG, axis=-1))
    of_maxima = _Bracket(low_B, high_B, none_B + V // GROUP, none_B)
    near = _narrow(maxima_BG, jnp.ones_like, goal_B, of_maxima, 4)
    keys_BT = near.low[:, None] + (near.high - near.low)[:, None] * jnp.array([0, 4, 8])
    bracket = _Bracket(jnp.full(B, _key(jnp.float32(-jnp.inf))), high_B, none_B + V, none_B)
    bracket = _cut(values_BV, jnp.ones_like, goal_B, bracket, keys_BT)
    return _search(values_BV, jnp.ones_like, goal_B, bracket, guess=False)


def _top_p(scaled_BV: jax.Array, smallest_B: jax.Array, p: float) -> tuple[jax.Array, jax.Array]:
    """Masses of the logits from `smallest` on, 0 for the others, and the smallest mass kept."""
    B, V = scaled_BV.shape
    masses_BV = jnp.exp(scaled_BV - jnp.max(scaled_BV, axis=-1, keepdims=True))
    masses_BV = jnp.where(scaled_BV >= smallest_B[:, None], masses_BV, 0.0)
    none_B = jnp.zeros(B)
    if p == 1:
        return masses_BV, none_B
    total_B = jnp.sum(masses_BV, axis=-1)
    # Tokens below this weigh less than 1 - p together; the factor leaves room for rounding.
    low_B = _key(0.999 * (1 - p) / V * total_B)
    bracket = _Bracket(low_B, _key(none_B + 1) + 1, total_B, none_B)
    return masses_BV, _search(masses_BV, lambda x: x, p * total_B, bracket)


# ---- The search.


def _search(
    values_BV: jax.Array, weigh: Weigh, goal_B: jax.Array, bracket: _Bracket, *, guess: bool = True
) -> jax.Array:
    """The largest value for which the tokens at or above it weigh at least the goal.

    Args:
        values_BV: what tokens are ordered by, float32.
        weigh: the weight of a token with a given value; never falls with the value.
        goal_B: not more than the weight of all tokens.
        bracket: one that holds this value.
        guess: whether a sample of the tokens may tell where.

    Returns:
        float32 [B]: this value, or a smaller one with no token in between.
    """
    if values_BV.shape[1] >= LEAST_VOCABULARY:
        if guess:
            keys_BT = _guess(values_BV, weigh, goal_B, bracket)
            bracket = _cut(values_BV, weigh, goal_B, bracket, keys_BT)
        bracket = _narrow(values_BV, weigh, goal_B, bracket, FEW)
        bracket = _finish(values_BV, weigh, goal_B, bracket)
    return _value(_narrow(values_BV, weigh, goal_B, bracket, 1).low)


def _narrow(
    values_BV: jax.Array, weigh: Weigh, goal_B: jax.Array, bracket: _Bracket, tokens: int
) -> _Bracket:
    """Cuts the brackets until none holds more than so many tokens, or more than one value."""

    def is_open(bracket):
        between_B = bracket.low_weight - bracket.high_weight
        # Each weighs as much as the lowest, at least. The half leaves room for rounded sums.
        many_B = between_B >= (tokens + 0.5) * weigh(_value(bracket.low))
        exact_B = bracket.low_weight == goal_B
        return many_B & ~exact_B & (bracket.high > bracket.low + 1)

    def step(carry):
        i, bracket = carry
        keys_BT = jnp.where(is_open(bracket)[:, None], _cuts(bracket, i), bracket.low[:, None])
        return i + 1, _cut(values_BV, weigh, goal_B, bracket, keys_BT)

    return jax.lax.while_loop(lambda c: jnp.any(is_open(c[1])), step, (0, bracket))[1]


def _cuts(bracket: _Bracket, i: jax.Array | int) -> jax.Array:
    """Where the i-th pass cuts each bracket into equal parts: keys, int32 [B, CUTS]."""
    low_B1, high_B1 = bracket.low[:, None], bracket.high[:, None]
    parts, nth_T = CUTS + 1, jnp.arange(1, CUTS + 1)
    part_B1 = jnp.maximum(high_B1 // parts - low_B1 // parts, 1)  # high - low may overflow
    keys_BT = low_B1 + nth_T * part_B1
    # Keys are evenly spaced in the logarithm of the values, and most of them lie around 0.
    values_BT = _value(low_B1) + (_value(high_B1) - _value(low_B1)) * (nth_T / parts)
    by_value_BT = (low_B1 < 0) & (high_B1 > 0) & (i % 2 == 0) & jnp.isfinite(values_BT)
    return jnp.where(by_value_BT, _key(values_BT), keys_BT)


def _guess(values_BV: jax.Array, weigh: Weigh, goal_B: jax.Array, bracket: _Bracket) -> jax.Array:
    """Keys int32 [B, CUTS], probably close and on both sides, from a sample of the tokens."""
    sample_BS = values_BV[:, ::STRIDE]
    share = sample_BS.shape[1] / values_BV.shape[1]
    total_B = jnp.sum(weigh(sample_BS), axis=-1)
    # The lighter of the parts above and below says more: chance has less to add or to leave out.
    above_B, below_B = share * goal_B, share * (bracket.low_weight - goal_B)
    lighter_B = jnp.minimum(above_B, below_B)
    part_B = jnp.where(above_B < below_B, above_B, total_B - below_B)
    start = bracket._replace(low_weight=total_B)
    near = _narrow(sample_BS, weigh, part_B, start, math.isqrt(sample_BS.shape[1]))
    low_B, high_B = _value(near.low), _value(near.high)
    between_B = near.low_weight - near.high_weight
    middle_B = (near.low_weight - part_B) / between_B
    error_B = jnp.sqrt(lighter_B * weigh(low_B)) / between_B  # standard deviation of the middle
    places_BT = middle_B[:, None] + error_B[:, None] * jnp.array([-3.0, 0.0, 3.0])
    return _key(low_B[:, None] + (high_B - low_B)[:, None] * places_BT)


def _cut(
    values_BV: jax.Array, weigh: Weigh, goal_B: jax.Array, bracket: _Bracket, keys_BT: jax.Array
) -> _Bracket:
    """The brackets, with the ends moved to those keys that are inside."""
    weights_BT = _weight_above(values_BV, weigh, _value(keys_BT))
    inside_BT = (keys_BT > bracket.low[:, None]) & (keys_BT < bracket.high[:, None])
    enough_BT = weights_BT >= goal_B[:, None]
    up_BT, down_BT = inside_BT & enough_BT, inside_BT & ~enough_BT

    def nearest(reduce, where_BT, new_BT, old_B):
        return reduce(jnp.where(where_BT, new_BT, old_B[:, None]), axis=-1)

    return _Bracket(
        nearest(jnp.max, up_BT, keys_BT, bracket.low),
        nearest(jnp.min, down_BT, keys_BT, bracket.high),
        nearest(jnp.min, up_BT, weights_BT, bracket.low_weight),
        nearest(jnp.max, down_BT, weights_BT, bracket.high_weight),
    )


def _finish(values_BV: jax.Array, weigh: Weigh, goal_B: jax.Array, bracket: _Bracket) -> _Bracket:
    """Closes each bracket that has at most two tokens in any group, and tightens the others."""
    low_B1, high_B1 = _value(bracket.low)[:, None], _value(bracket.high)[:, None]
    grouped_BnG, rest_Br = _grouped(values_BV)
    below_BnG = jnp.where(grouped_BnG < high_B1[..., None], grouped_BnG, -jnp.inf)
    above_BnG = jnp.where(grouped_BnG >= low_B1[..., None], grouped_BnG, jnp.inf)
    largest_BG, smallest_BG = _reduce(
        [below_BnG, above_BnG], [-jnp.inf, jnp.inf], [jnp.maximum, jnp.minimum]
    )
    # A group with one token inside has it twice.
    smallest_BG = jnp.where(smallest_BG < largest_BG, smallest_BG, -jnp.inf)
    copies_BC = jnp.concatenate([largest_BG, smallest_BG, rest_Br], axis=-1)
    inside_BC = (copies_BC >= low_B1) & (copies_BC < high_B1) & (copies_BC > -jnp.inf)
    copies_BC = jnp.where(inside_BC, copies_BC, -jnp.inf)
    weight_B, least_B, most_B = _fold(
        [
            jnp.where(inside_BC, weigh(copies_BC), 0.0),
            jnp.where(inside_BC, copies_BC, jnp.inf),
            copies_BC,
        ],
        [0.0, jnp.inf, -jnp.inf],
        [jnp.add, jnp.minimum, jnp.maximum],
    )
    between_B = bracket.low_weight - bracket.high_weight
    complete_B = jnp.abs(between_B - weight_B) < 0.5 * weigh(low_B1[:, 0])

    # The ends move to the tokens inside, so that a bracket around one value closes.
    bracket = bracket._replace(
        low=jnp.where(least_B <= most_B, _key(least_B), bracket.low),
        high=jnp.where(least_B <= most_B, _key(most_B) + 1, bracket.high),
    )
    start = bracket._replace(low_weight=between_B, high_weight=jnp.zeros_like(between_B))
    found = _narrow(copies_BC, weigh, goal_B - bracket.high_weight, start, 1)
    return bracket._replace(
        low=jnp.where(complete_B, found.low, bracket.low),
        high=jnp.where(complete_B, found.low + 1, bracket.high),
    )


# ---- Passes over all tokens.


def _weight_above(values_BV: jax.Array, weigh: Weigh, at_BT: jax.Array) -> jax.Array:
    """What the tokens at or above each of the values weigh, float32 [B, CUTS]."""
    weights_BV = weigh(values_BV)
    above = [jnp.where(values_BV >= at_BT[:, t, None], weights_BV, 0.0) for t in range(CUTS)]
    return jnp.stack(_fold(above, [0.0] * CUTS, [jnp.add] * CUTS), axis=-1)


def _smallest(values_BV: jax.Array) -> jax.Array:
    return _fold([values_BV], [jnp.inf], [_smaller])[0]


def _fold(
    arrays: Sequence[jax.Array], starts: Sequence[float], functions: Sequence[Combine]
) -> Sequence[jax.Array]:
    """Reduces the rows of the arrays [B, V], each with its function: [B] for each.

    The groups are reduced in groups in their turn, so that no sum has many terms to round.
    """
    while arrays[0].shape[1] > GROUP:
        grouped, rests = zip(*map(_grouped, arrays), strict=True)
        by_group = _reduce(grouped, starts, functions)
        arrays = [jnp.concatenate(x, axis=-1) for x in zip(by_group, rests, strict=True)]
    return _reduce(arrays, starts, functions)


def _grouped(values_BV: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The tokens by group, [B, GROUP, V // GROUP], and those that are left over."""
    B, V = values_BV.shape
    whole = V // GROUP * GROUP
    return values_BV[:, :whole].reshape(B, GROUP, -1), values_BV[:, whole:]


def _reduce(
    arrays: Sequence[jax.Array], starts: Sequence[float], functions: Sequence[Combine]
) -> Sequence[jax.Array]:
    """Reduces the second axis of the arrays, each with its function, in one loop."""

    def together(left, right):
        return [f(a, b) for f, a, b in zip(functions, left, right, strict=True)]

    return jax.lax.reduce(list(arrays), [jnp.float32(s) for s in starts], together, (1,))


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where(a > b, a, b)


def _smaller(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where(a < b, a, b)


# ---- Keys: integers in the order of the float32 numbers.


def _key(values: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _value(keys: jax.Array) -> jax.Array:
    bits = jnp.where(keys < 0, keys ^ 0x7FFFFFFF, keys)
    # Compilers may compare a subnormal number as if it were 0.
    bits = jnp.where(bits & 0x7F800000 == 0, 0, bits)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
