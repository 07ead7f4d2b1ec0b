"""Top-k and top-p without a sort: the smallest logit that a sampling rule keeps, found exactly.

In: logits. Out: one threshold for each row. `models.heads` makes log-probs of it, and
`rollout.sampling` draws. A token is kept if its logit, divided by the temperature, is at least the
threshold.

A small K of top-k needs one pass over the logits: the K groups of tokens with the largest maxima
hold the K largest tokens.

In general, a threshold is the largest t for which the tokens at or above t weigh enough: K of them,
or a probability of p. It is bracketed, and the bracket is cut, over the bits of the float32
numbers. A cut reads every token once, and halving would take up to 32 of them. Shortcuts leave
about eight: a first bracket comes from a sample of the tokens, cuts are made where the weight of
the ends puts the threshold, and a bracket that holds few tokens is finished on copies of these.
They change how long the search takes, and never what it finds.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gopd_jax.models.settings import SamplingRule

GROUP = 16  # tokens of a group; a group gives its largest and its smallest token in the bracket
STRIDE = 32  # one token in so many makes the sample that the first bracket comes from
ROUGH = 4  # tokens of the sample in a bracket that is narrow enough
FEW = 32  # tokens in a bracket that is finished on copies
LARGEST_K = 256  # a larger K of top-k is found by the search
LEAST_VOCABULARY = 2048  # a smaller one is searched without the shortcuts

Weigh = Callable[[jax.Array], jax.Array]


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
    smallest_B = jnp.full(B, -jnp.inf)
    if 0 < rule.top_k < V:
        if rule.top_k <= min(LARGEST_K, V // GROUP):
            smallest_B = _kth_largest(scaled_BV, rule.top_k)
        else:
            goal_B = jnp.full(B, rule.top_k, jnp.float32)
            count = _Bracket(*_ends(scaled_BV), jnp.full(B, V, jnp.float32), jnp.zeros(B))
            smallest_B = _search(scaled_BV, jnp.ones_like, goal_B, count)
    if rule.top_p < 1:
        largest_B1 = jnp.max(scaled_BV, axis=-1, keepdims=True)
        masses_BV = jnp.exp(scaled_BV - largest_B1)
        masses_BV = jnp.where(scaled_BV >= smallest_B[:, None], masses_BV, 0.0)
        total_B = jnp.sum(masses_BV, axis=-1)
        zeros_B = jnp.zeros(B)
        mass = _Bracket(_key(zeros_B), _key(zeros_B + 1) + 1, total_B, zeros_B)
        least_B = _search(masses_BV, lambda x: x, rule.top_p * total_B, mass)
        kept_BV = (masses_BV >= least_B[:, None]) & (scaled_BV >= smallest_B[:, None])
        smallest_B = jnp.min(jnp.where(kept_BV, scaled_BV, jnp.inf), axis=-1)
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


def _kth_largest(values_BV: jax.Array, k: int) -> jax.Array:
    """The k-th largest value of each row, float32 [B], where k is at most V / GROUP.

    The k groups with the largest maxima hold k values that are at least their smallest maximum, and
    all values above it: the k-th largest of these groups is that of the row.
    """
    B, V = values_BV.shape
    whole = V // GROUP * GROUP
    grouped_BnG = values_BV[:, :whole].reshape(B, GROUP, -1)
    _, best_Bk = jax.lax.top_k(jnp.max(grouped_BnG, axis=1), k)
    members_BC = jnp.take_along_axis(grouped_BnG, best_Bk[:, None], axis=2).reshape(B, -1)
    members_BC = jnp.concatenate([members_BC, values_BV[:, whole:]], axis=-1)
    return jax.lax.top_k(members_BC, k)[0][:, -1]


# ---- The search.


def _search(values_BV: jax.Array, weigh: Weigh, goal_B: jax.Array, bracket: _Bracket) -> jax.Array:
    """The largest value for which the tokens at or above it weigh at least the goal.

    Args:
        values_BV: what tokens are ordered by, float32.
        weigh: the weight of a token with a given value; never falls with the value.
        goal_B: not more than the weight of all tokens.
        bracket: one that holds all of them.

    Returns:
        float32 [B]: this value, or a smaller one with no token in between.
    """
    if values_BV.shape[1] < LEAST_VOCABULARY:
        return _value(_narrow(values_BV, weigh, goal_B, bracket, 1).low)
    bracket = _first(values_BV, weigh, goal_B, bracket)
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
        low, high = bracket.low, bracket.high
        middle_B = (low >> 1) + (high >> 1) + (low & high & 1)  # low + high may overflow
        if tokens > 1:  # among a handful, a guess is no better than the middle
            guess_B = _guess(weigh, goal_B, bracket, middle_B)
            # It can be far off: every third step takes the middle, whatever the values are.
            middle_B = jnp.where(i % 3 == 2, middle_B, guess_B)
        middle_B = jnp.where(is_open(bracket), middle_B, low)
        return i + 1, _cut(values_BV, weigh, goal_B, bracket, middle_B)

    return jax.lax.while_loop(lambda c: jnp.any(is_open(c[1])), step, (0, bracket))[1]


def _guess(weigh: Weigh, goal_B: jax.Array, bracket: _Bracket, middle_B: jax.Array) -> jax.Array:
    """A key inside each bracket, close to the goal if the weight is spread evenly over it."""
    low_B, high_B = _value(bracket.low), _value(bracket.high)
    between_B = bracket.low_weight - bracket.high_weight
    share_B = (bracket.low_weight - goal_B) / between_B
    # Aims beyond the goal by the error to expect, so that the longer side is cut off.
    error_B = jax.lax.rsqrt(jnp.maximum(between_B / weigh(low_B), 4.0))
    share_B += jnp.where(share_B < 0.5, error_B, -error_B)
    guess_B = low_B + (high_B - low_B) * share_B
    key_B = jnp.clip(_key(guess_B), bracket.low + 1, bracket.high - 1)
    return jnp.where(jnp.isfinite(guess_B), key_B, middle_B)


def _cut(
    values_BV: jax.Array, weigh: Weigh, goal_B: jax.Array, bracket: _Bracket, keys_B: jax.Array
) -> _Bracket:
    """The bracket with one end moved to the key, if the key is inside."""
    at_B = _value(keys_B)[:, None]
    weight_B = jnp.sum(jnp.where(values_BV >= at_B, weigh(values_BV), 0.0), axis=-1)
    inside_B = (keys_B > bracket.low) & (keys_B < bracket.high)
    enough_B = weight_B >= goal_B
    up_B, down_B = inside_B & enough_B, inside_B & ~enough_B
    return _Bracket(
        jnp.where(up_B, keys_B, bracket.low),
        jnp.where(down_B, keys_B, bracket.high),
        jnp.where(up_B, weight_B, bracket.low_weight),
        jnp.where(down_B, weight_B, bracket.high_weight),
    )


def _first(values_BV: jax.Array, weigh: Weigh, goal_B: jax.Array, bracket: _Bracket) -> _Bracket:
    """A narrower bracket: what a sample of the tokens suggests, confirmed by all tokens."""
    sample_BS = values_BV[:, ::STRIDE]
    weights_BS = weigh(sample_BS)
    total_B = jnp.sum(weights_BS, axis=-1)
    # Below and above the threshold, the lighter part says more about the error of the sample.
    share_B = goal_B / bracket.low_weight
    start = bracket._replace(low_weight=total_B)
    near_B = _narrow(sample_BS, weigh, share_B * total_B, start, ROUGH).low
    above_BS = sample_BS >= _value(near_B)[:, None]
    squares_B = jnp.minimum(
        jnp.sum(jnp.where(above_BS, weights_BS**2, 0.0), axis=-1),
        jnp.sum(jnp.where(above_BS, 0.0, weights_BS**2), axis=-1),
    )
    margin_B = 3 * jnp.sqrt(squares_B) + weigh(_value(near_B))
    low_B = _narrow(sample_BS, weigh, share_B * total_B + margin_B, start, ROUGH).low
    high_B = _narrow(sample_BS, weigh, share_B * total_B - margin_B, start, ROUGH).high
    bracket = _cut(values_BV, weigh, goal_B, bracket, low_B)
    return _cut(values_BV, weigh, goal_B, bracket, high_B)


def _finish(values_BV: jax.Array, weigh: Weigh, goal_B: jax.Array, bracket: _Bracket) -> _Bracket:
    """Closes each bracket that has at most two tokens in any group."""
    B, V = values_BV.shape
    low_B1, high_B1 = _value(bracket.low)[:, None], _value(bracket.high)[:, None]
    whole = V // GROUP * GROUP
    grouped_BnG = values_BV[:, :whole].reshape(B, GROUP, -1)
    inside_BnG = (grouped_BnG >= low_B1[..., None]) & (grouped_BnG < high_B1[..., None])
    largest_BG = jnp.max(jnp.where(inside_BnG, grouped_BnG, -jnp.inf), axis=1)
    smallest_BG = jnp.min(jnp.where(inside_BnG, grouped_BnG, jnp.inf), axis=1)
    # A group of one token has it twice.
    smallest_BG = jnp.where(smallest_BG < largest_BG, smallest_BG, -jnp.inf)
    copies_BC = jnp.concatenate([largest_BG, smallest_BG, values_BV[:, whole:]], axis=-1)
    inside_BC = (copies_BC >= low_B1) & (copies_BC < high_B1) & (copies_BC > -jnp.inf)
    weights_BC = jnp.where(inside_BC, weigh(copies_BC), 0.0)
    between_B = bracket.low_weight - bracket.high_weight
    missing_B = jnp.abs(between_B - jnp.sum(weights_BC, axis=-1))
    complete_B = missing_B < 0.5 * weigh(low_B1[:, 0])

    copies_BC = jnp.where(inside_BC, copies_BC, -jnp.inf)

    def weigh_copies(copies):
        return jnp.where(copies > -jnp.inf, weigh(copies), 0.0)

    start = bracket._replace(low_weight=between_B, high_weight=jnp.zeros_like(between_B))
    found = _narrow(copies_BC, weigh_copies, goal_B - bracket.high_weight, start, 1)
    return bracket._replace(
        low=jnp.where(complete_B, found.low, bracket.low),
        high=jnp.where(complete_B, found.low + 1, bracket.high),
    )


# ---- Keys: integers in the order of the float32 numbers.


def _key(values: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _value(keys: jax.Array) -> jax.Array:
    bits = jnp.where(keys < 0, keys ^ 0x7FFFFFFF, keys)
    # Compilers may compare a subnormal number as if it were 0.
    bits = jnp.where(bits & 0x7F800000 == 0, 0, bits)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _ends(values_BV: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys of the smallest value, and of one above the largest."""
    return _key(jnp.min(values_BV, axis=-1)), _key(jnp.max(values_BV, axis=-1)) + 1
