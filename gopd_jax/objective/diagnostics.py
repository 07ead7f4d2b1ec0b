"""What one watches in a G-OPD run, gathered inside the train step; every metric carries its reduction (sum, max or min)."""

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np


@struct.dataclass
class Diagnostics:
    """Partial reductions over tokens that are trained on, one slot for each domain: every value is [domains].

    `sums` are divided by sums["tokens"] at the end; `largest` and `smallest` are maxima and minima.
    """

    sums: dict[str, jax.Array]
    largest: dict[str, jax.Array]
    smallest: dict[str, jax.Array]

    def merge(self, other: "Diagnostics") -> "Diagnostics":
        """Joins the reductions of two micro-batches."""
        return Diagnostics(
            jax.tree.map(jnp.add, self.sums, other.sums),
            jax.tree.map(jnp.maximum, self.largest, other.largest),
            jax.tree.map(jnp.minimum, self.smallest, other.smallest),
        )

    def finish(self, domains: list[str]) -> dict[str, float]:
        """Plain numbers on the host: `name` over all domains and, with several domains, `name/domain` for each."""
        sums, largest, smallest = jax.tree.map(np.asarray, (self.sums, self.largest, self.smallest))
        out: dict[str, float] = {}
        slices = [("", slice(None))] + [(f"/{d}", slice(i, i + 1)) for i, d in enumerate(domains) if len(domains) > 1]
        for suffix, part in slices:
            tokens = sums["tokens"][part].sum()
            out[f"tokens_trained{suffix}"] = float(tokens)
            if tokens == 0:
                continue
            out |= {f"{k}{suffix}": float(v[part].sum() / tokens) for k, v in sums.items() if k != "tokens"}
            out |= {f"{k}{suffix}": float(v[part].max()) for k, v in largest.items()}
            out |= {f"{k}{suffix}": float(v[part].min()) for k, v in smallest.items()}
        return out


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
    (`sampler_logprobs`) against the student in the sampler.
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

    return Diagnostics(
        {k: reduce(v, jnp.sum, 0.0) for k, v in per_token.items()},
        {f"{k}_max": reduce(v, jnp.max, -jnp.inf) for k, v in extreme.items()},
        {f"{k}_min": reduce(v, jnp.min, jnp.inf) for k, v in extreme.items()},
    )
