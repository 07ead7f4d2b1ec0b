"""The fields of metrics.jsonl that exact estimators and `shaping` add; see `metric_fields`."""

from gopd_jax.train.fields import Field

SEVERAL = "several domains"

EXACT = (
    Field(
        "teacher_entropy",
        "nats per token",
        "Mean entropy of the teacher's distribution at the student's states",
        "exact",
        "near `entropy` at the end of a run with lambda 1",
        "far above `entropy`: the student has collapsed on a part of what the teacher says",
        SEVERAL,
    ),
    Field(
        "log_z",
        "nats per token",
        "Mean of log Z, Z = sum_v teacher(v)^lambda reference(v)^(1 - lambda): the value of the "
        "objective at its optimum",
        "exact",
        "0 at lambda 1, above 0 beyond it, below 0 between 0 and 1",
        split=SEVERAL,
    ),
)

SHAPING = (
    Field(
        "reward_scale",
        "",
        "Mean lambda of the trained tokens, after its schedule and its gate",
        "scaled",
        split=SEVERAL,
    ),
    Field(
        "shaping_gated",
        "share",
        "What the gate takes of lambda - 1, mean over tokens",
        "gated",
        "well below 1",
        "near 1, every token is trained as with lambda = 1: a larger `shaping.gate_tau`",
        SEVERAL,
    ),
    Field(
        "shaping_clipped",
        "share",
        "Tokens of which a log-ratio or the advantage is clipped",
        "clipped",
        "a few in a hundred",
        "most: the limit decides instead of the teacher; a larger `shaping.log_ratio_clip` or "
        "`shaping.advantage_clip`",
        SEVERAL,
    ),
    Field(
        "states_kept",
        "share",
        "Trained tokens whose state is learned from; every response keeps one at least",
        "selected",
        "`shaping.keep_states`, and more where responses are short",
        split=SEVERAL,
    ),
    Field(
        "forward_kl_states",
        "share",
        "States to whose loss the forward KL is added",
        "undecided",
        "a tenth or two",
        "0: a smaller `shaping.forward_kl_entropy`",
        SEVERAL,
    ),
    Field(
        "kl_trust_region",
        "nats per token",
        "Mean of r - 1 - log r, r = reference / student, which `shaping.kl_coefficient` weighs",
        "trust region",
        "rises, then stays flat",
        "grows without end: a larger `shaping.kl_coefficient`",
        SEVERAL,
    ),
)
