"""Top-k and top-p without a sort: the smallest logit that a sampling rule keeps, found exactly.

In: logits. Out: one threshold for each row. `models.heads` makes log-probs of it, and
`rollout.sampling` draws. A token is kept if its logit, divided by the temperature, is at least the
threshold.

A threshold is the largest t for which the tokens at or above t weigh enough: K of them, or a
probability of p. It is bracketed, and the bracket is cut, over the bits of the float32 numbers. A
pass over all tokens weighs what is at or above three values, and leaves a quarter of the bracket.
About six passes leave a handful of tokens. These are copied, and the rest of the search reads the
copies.

The first bracket and the copies change how long the search takes, and never what it finds.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gopd_jax.models.settings import SamplingRule

# A pass reduces groups of so many tokens first. XLA on CPU then makes one loop of comparison and
# reduction, which it does up to 32 terms, and three sums at once fit into the registers.
GROUP = 16
CUTS = 3  # values that one pass compares with
ROUGH = 4  # maxima of groups in a bracket that is narrow enough
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
    B, V = scaled_BV.shape
    largest_B = jnp.max(scaled_BV, axis=-1)
    smallest_B = jnp.full(B, -jnp.inf)
    if 0 < rule.top_k < V:
        goal_B = jnp.full(B, rule.top_k, jnp.float32)
        bracket = _around_kth(scaled_BV, largest_B, rule.top_k)
        smallest_B = _search(scaled_BV, jnp.ones_like, goal_B, bracket)
    if rule.top_p < 1:
        masses_BV = jnp.exp(scaled_BV - largest_B[:, None])
        masses_BV = jnp.where(scaled_BV >= smallest_B[:, None], masses_BV, 0.0)
        total_B = jnp.sum(masses_BV, axis=-1)
        # Tokens below `low` weigh less than 1 - p together; the factor leaves room for rounding.
        low_B = _key(0.999 * (1 - rule.top_p) / V * total_B)
        bracket = _Bracket(low_B, _key(jnp.ones(B)) + 1, total_B, jnp.zeros(B))
        least_B = _search(masses_BV, lambda x: x, rule.top_p * total_B, bracket)
        kept_BV = (masses_BV >= least_B[:, None]) & (scaled_BV >= smallest_B[:, None])
        smallest_B = _smallest(jnp.where(kept_BV, scaled_BV, jnp.inf))
    return smallest_B


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


def _around_kth(values_BV: jax.Array, largest_B: jax.Array, k: int) -> _Bracket:
    """A bracket of the k-th largest value of each row."""
    B, V = values_BV.shape
    high_B, none_B = _key(largest_B) + 1, jnp.zeros(B)
    bracket = _Bracket(_key(_smallest(values_BV)), high_B, none_B + V, none_B)
    if k > V // GROUP:
        return bracket
    # The k-th largest maximum of a group is not above it, and close to it if k is small.
    grouped_BnG, _ = _grouped(values_BV)
    (maxima_BG,) = _reduce([grouped_BnG], [-jnp.inf], [_larger])
    of_maxima = bracket._replace(low=_key(jnp.min(maxima_BG, -1)), low_weight=none_B + V // GROUP)
    low_B = _narrow(maxima_BG, jnp.ones_like, none_B + k, of_maxima, ROUGH).low
    keys_BT = _cuts(bracket._replace(low=low_B), 0).at[:, 0].set(low_B)
    return _cut(values_BV, jnp.ones_like, none_B + k, bracket, keys_BT)


# ---- The search.


def _search(values_BV: jax.Array, weigh: Weigh, goal_B: jax.Array, bracket: _Bracket) -> jax.Array:
    """The largest value for which the tokens at or above it weigh at least the goal.

    Args:
        values_BV: what tokens are ordered by, float32.
        weigh: the weight of a token with a given value; never falls with the value.
        goal_B: not more than the weight of all tokens.
        bracket: one that holds this value.

    Returns:
        float32 [B]: this value, or a smaller one with no token in between.
    """
    if values_BV.shape[1] >= LEAST_VOCABULARY:
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
    between_B = bracket.low_weight - bracket.high_weight
    weights_BC = jnp.where(inside_BC, weigh(copies_BC), 0.0)
    missing_B = jnp.abs(between_B - jnp.sum(weights_BC, axis=-1))
    complete_B = missing_B < 0.5 * weigh(low_B1[:, 0])

    # The ends move to the tokens inside, so that a bracket around one value closes.
    least_B = jnp.min(jnp.where(inside_BC, copies_BC, jnp.inf), axis=-1)
    most_B = jnp.max(jnp.where(inside_BC, copies_BC, -jnp.inf), axis=-1)
    bracket = bracket._replace(
        low=jnp.where(least_B <= most_B, _key(least_B), bracket.low),
        high=jnp.where(least_B <= most_B, _key(most_B) + 1, bracket.high),
    )
    copies_BC = jnp.where(inside_BC, copies_BC, -jnp.inf)
    start = bracket._replace(low_weight=between_B, high_weight=jnp.zeros_like(between_B))
    found = _narrow(copies_BC, weigh, goal_B - bracket.high_weight, start, 1)
    return bracket._replace(
        low=jnp.where(complete_B, found.low, bracket.low),
        high=jnp.where(complete_B, found.low + 1, bracket.high),
    )


# ---- Passes over all tokens.


def _weight_above(values_BV: jax.Array, weigh: Weigh, at_BT: jax.Array) -> jax.Array:
    """What the tokens at or above each of the values weigh, float32 [B, CUTS]."""
    B = len(values_BV)

    def above(part, t):
        at = at_BT[:, t].reshape(B, *[1] * (part.ndim - 1))
        return jnp.where(part >= at, weigh(part), 0.0)

    grouped_BnG, rest_Br = _grouped(values_BV)
    sums = _reduce([above(grouped_BnG, t) for t in range(CUTS)], [0.0] * CUTS, [jnp.add] * CUTS)
    rests = [jnp.sum(above(rest_Br, t), axis=-1) for t in range(CUTS)]
    return jnp.stack([jnp.sum(s, axis=-1) + r for s, r in zip(sums, rests, strict=True)], axis=-1)


def _smallest(values_BV: jax.Array) -> jax.Array:
    grouped_BnG, rest_Br = _grouped(values_BV)
    (minima_BG,) = _reduce([grouped_BnG], [jnp.inf], [_smaller])
    return jnp.min(jnp.concatenate([minima_BG, rest_Br], axis=-1), axis=-1)


def _grouped(values_BV: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The tokens by group, [B, GROUP, V // GROUP], and those that are left over."""
    B, V = values_BV.shape
    whole = V // GROUP * GROUP
    return values_BV[:, :whole].reshape(B, GROUP, -1), values_BV[:, whole:]


def _reduce(
    arrays: Sequence[jax.Array], starts: Sequence[float], functions: Sequence[Combine]
) -> Sequence[jax.Array]:
    """Reduces each of the arrays [B, n, G] over its groups, in one loop: [B, G]."""

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
