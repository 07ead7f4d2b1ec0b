"""The fields of metrics.jsonl that `shaping` adds; see `metric_fields`."""

from gopd_jax.train.fields import Field

SEVERAL = "several domains"

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
