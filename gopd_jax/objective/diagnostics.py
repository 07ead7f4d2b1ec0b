"""What is watched in a G-OPD run, reduced inside the train step.

In: token arrays of one micro-batch. Out: partial sums, maxima and minima by domain, which merge
over micro-batches and updates and become plain numbers on the host.
"""

from collections.abc import Sequence

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from gopd_jax.objective.gopd import needs_reference
from gopd_jax.objective.predictions import Exact

# Bin b of the positions in a response holds 2**b to 2**(b + 1) - 1; bin 0 holds 0 and 1, and the
# last bin everything from its start on. The signal fades with depth over powers of the length, and
# 16 bins reach 32,768.
POSITION_BINS = 16


@struct.dataclass
class Diagnostics:
    """Partial reductions over the trained tokens, one slot per domain: each value is [domains].

    sums: divided by sums["tokens"] at the end, those of the sampler by sums["sampler_checked"].
    largest, smallest: maxima and minima.
    by_position: sums for each bin of positions in the response, [domains, POSITION_BINS], divided
        by its own "tokens".
    """

    sums: dict[str, jax.Array]
    largest: dict[str, jax.Array]
    smallest: dict[str, jax.Array]
    by_position: dict[str, jax.Array]

    def emptied(self) -> "Diagnostics":
        """The reduction of no tokens, with this structure: where accumulation begins."""

        def filled(tree, value):
            return jax.tree.map(lambda x: jnp.full(x.shape, value, x.dtype), tree)

        return Diagnostics(
            filled(self.sums, 0.0),
            filled(self.largest, -jnp.inf),
            filled(self.smallest, jnp.inf),
            filled(self.by_position, 0.0),
        )

    def merge(self, other: "Diagnostics") -> "Diagnostics":
        """Joins the reductions of two micro-batches."""
        return Diagnostics(
            jax.tree.map(jnp.add, self.sums, other.sums),
            jax.tree.map(jnp.maximum, self.largest, other.largest),
            jax.tree.map(jnp.minimum, self.smallest, other.smallest),
            jax.tree.map(jnp.add, self.by_position, other.by_position),
        )

    def finish(self, domains: Sequence[str]) -> dict[str, float | list[float]]:
        """Plain numbers on the host.

        Returns:
            `name` over all domains and, with several domains, `name/domain` for each.
            `tokens_by_position` and `NAME_by_position`, the means, are lists with one number for
            each bin up to the last that holds a token; an empty bin before it has mean 0.
        """
        sums, largest, smallest, bins = jax.tree.map(
            np.asarray, (self.sums, self.largest, self.smallest, self.by_position)
        )
        out: dict[str, float | list[float]] = {}
        slices = [("", slice(None))]
        if len(domains) > 1:
            slices += [(f"/{d}", slice(i, i + 1)) for i, d in enumerate(domains)]
        for suffix, part in slices:
            tokens = sums["tokens"][part].sum()
            out[f"tokens_trained{suffix}"] = float(tokens)
            if tokens == 0:
                continue
            of_part = {k: v[part].sum() for k, v in sums.items() if k != "tokens"}
            among = dict.fromkeys(of_part, tokens)
            if (checked := of_part.pop("sampler_checked", None)) is not None:
                among["sampler_outside"] = checked
                among["sampler_gap"] = checked - of_part["sampler_outside"]
            means = {k: float(x / among[k]) for k, x in of_part.items() if among[k]}
            variance = means.pop("advantage_square") - means["advantage_mean"] ** 2
            means["advantage_std"] = max(variance, 0.0) ** 0.5
            out |= {f"{k}{suffix}": mean for k, mean in means.items()}
            out |= {f"{k}{suffix}": float(v[part].max()) for k, v in largest.items()}
            out |= {f"{k}{suffix}": float(v[part].min()) for k, v in smallest.items()}
            counts = bins["tokens"][part].sum(0)
            counts = counts[: np.flatnonzero(counts)[-1] + 1]
            for k, v in bins.items():
                values = v[part].sum(0)[: len(counts)]
                values = values / (1 if k == "tokens" else np.maximum(counts, 1))
                out[f"{k}_by_position{suffix}"] = values.tolist()
        return out


def response_positions(trained_RS: jax.Array) -> jax.Array:
    """Position of each trained token within its response, from 0.

    A response is trained on as a whole or not at all, and the place after its last token predicts
    nothing, so a run of trained tokens is one response. The number means nothing elsewhere.
    """
    index = jnp.arange(trained_RS.shape[1], dtype=jnp.int32)
    last_untrained = jax.lax.cummax(jnp.where(trained_RS, -1, index), axis=1)
    return index - last_untrained - 1


def position_bins(tokens: int) -> np.ndarray:
    """The bin of each position of a response of this many tokens, int [tokens]."""
    bins = np.log2(np.maximum(np.arange(tokens), 1)).astype(int)
    return np.minimum(bins, POSITION_BINS - 1)


@struct.dataclass
class TokenRecord:
    """What the loss knew of each token of a micro-batch: float32 [R, S], nats unless stated.

    logprobs, entropy: of the student.
    advantages: those that the loss used.
    clipped: bool, where a clip removed the gradient.
    reward_scale: lambda.
    importance: importance weights, or None.
    behaviour_logprobs: what the sampler said of the tokens, or None.
    sampler_logprobs: the student's as the learner computes it, under the sampling rule; NaN where
        not known. None where the rule is the plain distribution.
    teacher_logprobs, reference_logprobs: of the drawn tokens, or None.
    exact: over the whole vocabulary, or None.
    shaping: what the shaping of advantage and loss has found, by the name of its mean.
    reference_everywhere: whether the reference was run where lambda is 1, too.
    """

    logprobs: jax.Array
    advantages: jax.Array
    entropy: jax.Array
    clipped: jax.Array
    reward_scale: jax.Array
    importance: jax.Array | None = None
    behaviour_logprobs: jax.Array | None = None
    sampler_logprobs: jax.Array | None = None
    teacher_logprobs: jax.Array | None = None
    reference_logprobs: jax.Array | None = None
    exact: Exact | None = None
    shaping: dict[str, jax.Array] = struct.field(default_factory=dict)
    reference_everywhere: bool = struct.field(pytree_node=False, default=False)


def token_diagnostics(
    record: TokenRecord,
    domains_R: jax.Array,
    num_domains: int,
    trained_RS: jax.Array,
    importance_cap: float,
) -> Diagnostics:
    """Reduces what is known of each token of one micro-batch by the domain of its row.

        reverse_kl_teacher = mean(log student - log teacher)
        kl_reference       = mean(log student - log reference)
        sampler_gap        = mean |log student - log behaviour|
        sampler_outside    = share of tokens that the rule would not draw from the student

    The KL estimates are those of the sampled tokens, in nats per token, or exact where the record
    has the whole vocabulary; `kl_reference` counts as 0 where the reference was not run, because
    neither lambda nor shaping needs it. `sampler_gap` compares the student in the learner with the
    student in the sampler, both under the sampling rule; a token whose log-prob is NaN is not
    compared. A drawn token may lie just outside of the learner's top-k or top-p, where the log-prob
    is -inf: it counts in `sampler_outside`, and `sampler_gap` is over the others. Advantages and
    `reverse_kl_teacher` are also reduced by position.
    """
    logprobs, exact = record.logprobs, record.exact
    per_token = {
        "tokens": jnp.ones_like(logprobs),
        "student_logprob": logprobs,
        "entropy": record.entropy,
        "advantage_mean": record.advantages,
        "advantage_abs": jnp.abs(record.advantages),
        "advantage_square": jnp.square(record.advantages),
        "advantage_positive": (record.advantages > 0).astype(jnp.float32),
        "clip_fraction": record.clipped.astype(jnp.float32),
    }
    extreme = {"advantage": record.advantages}
    if record.teacher_logprobs is not None:
        per_token["reverse_kl_teacher"] = logprobs - record.teacher_logprobs
    if record.reference_logprobs is not None:
        per_token["kl_reference"] = logprobs - record.reference_logprobs
    if exact is not None:
        per_token["reverse_kl_teacher"] = exact.own - exact.teacher
        per_token["teacher_entropy"] = exact.teacher_entropy
        per_token["log_z"] = exact.log_z
        if exact.reference is not None:
            per_token["kl_reference"] = exact.own - exact.reference
    if "kl_reference" in per_token:
        of_all = per_token["kl_reference"]
        needed = needs_reference(record.reward_scale)
        kept = of_all if record.reference_everywhere else jnp.where(needed, of_all, 0.0)
        per_token["kl_reference"] = kept
    per_token |= record.shaping
    if record.importance is not None:
        per_token["importance_mean"] = record.importance
        per_token["importance_capped"] = (record.importance >= importance_cap).astype(jnp.float32)
        ruled = logprobs if record.sampler_logprobs is None else record.sampler_logprobs
        checked, outside = ~jnp.isnan(ruled), jnp.isneginf(ruled)
        gap = jnp.abs(ruled - record.behaviour_logprobs)
        per_token["sampler_checked"] = checked.astype(jnp.float32)
        per_token["sampler_gap"] = jnp.where(checked & ~outside, gap, 0.0)
        per_token["sampler_outside"] = outside.astype(jnp.float32)
        extreme["importance"] = record.importance
    return _reduce(domains_R, num_domains, trained_RS, per_token, extreme)


def _reduce(
    domains_R: jax.Array,
    num_domains: int,
    trained_RS: jax.Array,
    per_token: dict[str, jax.Array],
    extreme: dict[str, jax.Array],
) -> Diagnostics:
    """Sums of `per_token`, extremes of `extreme`, by domain; some of the sums also by position."""
    in_domain_RD = jax.nn.one_hot(domains_R, num_domains)
    keep = (in_domain_RD > 0)[:, :, None] & trained_RS[:, None, :]  # [R, domains, S]

    def reduce(x_RS, reduction, empty):
        return reduction(jnp.where(keep, x_RS[:, None, :], empty), axis=(0, 2))

    position_RS = response_positions(trained_RS)
    bins_RS = 31 - jax.lax.clz(position_RS | 1)  # floor(log2), exactly
    bins_RS = jnp.minimum(bins_RS, POSITION_BINS - 1)
    of_bin = bins_RS[:, None, :] == jnp.arange(POSITION_BINS)[:, None]
    in_bin = trained_RS[:, None, :] & of_bin  # [R, bins, S]

    def reduce_bins(x_RS):
        of_rows = jnp.sum(jnp.where(in_bin, x_RS[:, None, :], 0.0), axis=2)
        of_domains = jnp.where((in_domain_RD > 0)[:, :, None], of_rows[:, None, :], 0.0)
        return jnp.sum(of_domains, axis=0)

    binned = ("tokens", "advantage_mean", "advantage_abs", "reverse_kl_teacher")
    return Diagnostics(
        sums={k: reduce(v, jnp.sum, 0.0) for k, v in per_token.items()},
        largest={f"{k}_max": reduce(v, jnp.max, -jnp.inf) for k, v in extreme.items()},
        smallest={f"{k}_min": reduce(v, jnp.min, jnp.inf) for k, v in extreme.items()},
        by_position={k: reduce_bins(per_token[k]) for k in binned if k in per_token},
    )
