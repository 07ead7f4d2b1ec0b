"""The fields of metrics.jsonl that exact estimators, `log.inspected` and `shaping` add."""

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

INSPECTED = (
    Field(
        "top_k_overlap",
        "share",
        "Share of the student's 16 most likely tokens that are among the teacher's 16, on some "
        "responses",
        "inspected",
        "rises: from about 0.7 to 0.9 in runs that work",
        "falls: student and teacher think differently, or the tokenizers do",
        SEVERAL,
    ),
    Field(
        "teacher_on_top_k",
        "share",
        "Probability that the teacher gives to the student's 16 most likely tokens",
        "inspected",
        "near 1",
        "well below 1: the student does not consider what the teacher would say",
        SEVERAL,
    ),
    Field(
        "entropy_gap",
        "nats per token",
        "Entropy of the student minus that of the teacher",
        "inspected",
        "approaches 0 with lambda 1, and a value below 0 beyond it",
        split=SEVERAL,
    ),
    Field(
        "implied_reward",
        "nats",
        "Mean of lambda (log teacher - log reference) of the drawn tokens",
        "inspected",
        "rises",
        "flat: the teacher's RL rewards nothing that the student does",
        SEVERAL,
    ),
    *(
        Field(
            f"{name}_by_position",
            unit,
            f"The mean of `{name}` in each bin of positions",
            "inspected",
            split=SEVERAL,
        )
        for name, unit in (
            ("top_k_overlap", "share"),
            ("teacher_on_top_k", "share"),
            ("teacher_entropy", "nats"),
            ("entropy_gap", "nats"),
            ("implied_reward", "nats"),
            ("log_z", "nats"),
        )
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
