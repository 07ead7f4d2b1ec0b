"""What one watches in a G-OPD run, gathered inside the train step; every metric carries its reduction (sum, max or min)."""

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

# Bin b of the positions in a response holds 2**b to 2**(b + 1) - 1 (bin 0: 0 and 1), the last one everything from there on:
# the signal fades with depth over powers of the length, and 16 bins reach 32,768.
POSITION_BINS = 16


@struct.dataclass
class Diagnostics:
    """Partial reductions over tokens that are trained on, one slot for each domain: every value is [domains].

    `sums` are divided by sums["tokens"] at the end; `largest` and `smallest` are maxima and minima. `by_position` holds sums
    for each bin of positions in the response, [domains, POSITION_BINS], divided by its own "tokens".
    """

    sums: dict[str, jax.Array]
    largest: dict[str, jax.Array]
    smallest: dict[str, jax.Array]
    by_position: dict[str, jax.Array]

    def emptied(self) -> "Diagnostics":
        """Of no token at all: what reductions of this structure (arrays or shapes) begin with."""

        def filled(tree, value):
            return jax.tree.map(lambda x: jnp.full(x.shape, value, x.dtype), tree)

        zeros, lowest, highest = (
            filled(self.sums, 0.0),
            filled(self.largest, -jnp.inf),
            filled(self.smallest, jnp.inf),
        )
        return Diagnostics(zeros, lowest, highest, filled(self.by_position, 0.0))

    def merge(self, other: "Diagnostics") -> "Diagnostics":
        """Joins the reductions of two micro-batches."""
        return Diagnostics(
            jax.tree.map(jnp.add, self.sums, other.sums),
            jax.tree.map(jnp.maximum, self.largest, other.largest),
            jax.tree.map(jnp.minimum, self.smallest, other.smallest),
            jax.tree.map(jnp.add, self.by_position, other.by_position),
        )

    def finish(self, domains: list[str]) -> dict[str, float | list[float]]:
        """Plain numbers on the host: `name` over all domains and, with several domains, `name/domain` for each.

        `tokens_by_position` and `NAME_by_position`, the means, are lists: one number for each bin up to the last that holds a
        token (an empty bin before it has mean 0).
        """
        sums, largest, smallest, bins = jax.tree.map(
            np.asarray, (self.sums, self.largest, self.smallest, self.by_position)
        )
        out: dict[str, float | list[float]] = {}
        slices = [("", slice(None))] + [
            (f"/{d}", slice(i, i + 1)) for i, d in enumerate(domains) if len(domains) > 1
        ]
        for suffix, part in slices:
            tokens = sums["tokens"][part].sum()
            out[f"tokens_trained{suffix}"] = float(tokens)
            if tokens == 0:
                continue
            out |= {
                f"{k}{suffix}": float(v[part].sum() / tokens)
                for k, v in sums.items()
                if k != "tokens"
            }
            out |= {f"{k}{suffix}": float(v[part].max()) for k, v in largest.items()}
            out |= {f"{k}{suffix}": float(v[part].min()) for k, v in smallest.items()}
            counts = bins["tokens"][part].sum(0)
            counts = counts[: np.flatnonzero(counts)[-1] + 1]
            for k, v in bins.items():
                values = v[part].sum(0)[: len(counts)] / (
                    1 if k == "tokens" else np.maximum(counts, 1)
                )
                out[f"{k}_by_position{suffix}"] = values.tolist()
        return out


def response_positions(trained_RS: jax.Array) -> jax.Array:
    """Position of each trained token within its response, from 0: how many trained tokens stand right before it.

    A response is trained on as a whole or not at all, and what follows its last token is not (there is nothing to predict), so
    a run of trained tokens is one response. Elsewhere the number means nothing.
    """
    index = jnp.arange(trained_RS.shape[1], dtype=jnp.int32)
    before = jax.lax.cummax(
        jnp.where(trained_RS, -1, index), axis=1
    )  # the last token that is not trained on
    return index - before - 1


def token_diagnostics(
    domains_R: jax.Array,
    num_domains: int,
    trained_RS: jax.Array,
    *,
    logprobs: jax.Array,
    advantages: jax.Array,
    entropy: jax.Array,
    clipped: jax.Array,
    importance: jax.Array | None,
    importance_cap: float,
    behaviour_logprobs: jax.Array | None,
    sampler_logprobs: jax.Array,
    teacher_logprobs: jax.Array | None,
    reference_logprobs: jax.Array | None,
    reward_scale: jax.Array,
) -> Diagnostics:
    """Reduces the token arrays [R, S] of one micro-batch, by the domain of each row.

    reverse_kl_teacher = mean(log student - log teacher) and kl_reference = mean(log student - log reference) are the sampled
    estimates, in nats per token; kl_reference counts as 0 where lambda = 1: the reference was not run there. sampler_gap =
    mean |log student - log behaviour|, both of the distribution drawn from: the student as the learner computes it
    (`sampler_logprobs`) against the student in the sampler. Advantages and reverse_kl_teacher also by `response_positions`.
    """
    per_token = {
        "tokens": jnp.ones_like(logprobs),
        "student_logprob": logprobs,
        "entropy": entropy,
        "advantage_mean": advantages,
        "advantage_abs": jnp.abs(advantages),
        "advantage_positive": (advantages > 0).astype(jnp.float32),
        "clip_fraction": clipped.astype(jnp.float32),
    }
    extreme = {"advantage": advantages}
    if teacher_logprobs is not None:
        per_token["reverse_kl_teacher"] = logprobs - teacher_logprobs
    if reference_logprobs is not None:
        per_token["kl_reference"] = jnp.where(reward_scale == 1, 0.0, logprobs - reference_logprobs)
    if importance is not None:
        per_token["importance_mean"] = importance
        per_token["importance_capped"] = (importance >= importance_cap).astype(jnp.float32)
        per_token["sampler_gap"] = jnp.abs(sampler_logprobs - behaviour_logprobs)
        extreme["importance"] = importance

    in_domain_RD = jax.nn.one_hot(domains_R, num_domains)
    keep = (in_domain_RD > 0)[:, :, None] & trained_RS[:, None, :]  # [R, domains, S]

    def reduce(x_RS, reduction, empty):
        return reduction(jnp.where(keep, x_RS[:, None, :], empty), axis=(0, 2))

    bins_RS = jnp.minimum(
        31 - jax.lax.clz(response_positions(trained_RS) | 1), POSITION_BINS - 1
    )  # floor(log2), exactly
    in_bin = trained_RS[:, None, :] & (
        bins_RS[:, None, :] == jnp.arange(POSITION_BINS)[:, None]
    )  # [R, bins, S]

    def reduce_bins(x_RS):
        of_rows = jnp.sum(jnp.where(in_bin, x_RS[:, None, :], 0.0), axis=2)
        return jnp.sum(jnp.where((in_domain_RD > 0)[:, :, None], of_rows[:, None, :], 0.0), axis=0)

    binned = ("tokens", "advantage_mean", "advantage_abs", "reverse_kl_teacher")
    return Diagnostics(
        {k: reduce(v, jnp.sum, 0.0) for k, v in per_token.items()},
        {f"{k}_max": reduce(v, jnp.max, -jnp.inf) for k, v in extreme.items()},
        {f"{k}_min": reduce(v, jnp.min, jnp.inf) for k, v in extreme.items()},
        {k: reduce_bins(per_token[k]) for k in binned if k in per_token},
    )
