"""The fields of metrics.jsonl, by group: one line of the file is one step.

Declarations alone, for `fields`. The numbers are made in `objective.diagnostics`,
`train.rollout_metrics` and `train.step_log`.
"""

from gopd_jax.train.fields import Field
from gopd_jax.train.shaping_fields import EXACT, INSPECTED, SHAPING

BY_DOMAIN, IF_SEVERAL = "domains", "several domains"

ROLLOUTS = (
    Field("step", "", "The step, from 1"),
    Field(
        "reward",
        "share",
        "Mean reward of the verified rollouts; gopd and sft do not learn from it",
        "verified",
        "rises; with gopd it follows the teacher's score",
        "look at samples.jsonl, and at `truncated`",
        BY_DOMAIN,
    ),
    Field(
        "reward_low",
        "share",
        "Lower end of the 95% interval of `reward`, clustered by prompt",
        "verified",
        split=BY_DOMAIN,
    ),
    Field("reward_high", "share", "Its upper end", "verified", split=BY_DOMAIN),
    Field(
        "reward_NAME/DOMAIN",
        "yours",
        "Mean of the number NAME that your reward function returns beside the reward",
        "own reward",
    ),
    Field(
        "reward_stopped/DOMAIN",
        "rollouts",
        "Verifications that were stopped at `verifier.timeout_s` or `verifier.memory_mb`",
        "stopped",
        "absent: none was stopped",
        "raise the limits, or look at what the answers hold",
    ),
    Field("verified", "rollouts", "Rollouts that were verified; `log.rewards` limits them"),
    Field(
        "response_length",
        "tokens",
        "Mean length of a response, its stop token included",
        healthy="steady, or near the teacher's",
        otherwise='see "When responses grow too long" in running.md',
        split=BY_DOMAIN,
    ),
    Field("response_length_max", "tokens", "Length of the longest response"),
    Field(
        "truncated",
        "share",
        "Responses cut at `rollout.max_response_tokens`",
        healthy="steady and small",
        otherwise='see "When responses grow too long" in running.md',
        split=BY_DOMAIN,
    ),
    Field("truncated_count", "rollouts", "Number of them"),
    Field(
        "repetition_rate",
        "share",
        "Responses that end in a loop: the last 16 tokens or more are at least 4 copies of one "
        "n-gram, n <= 128",
        healthy="0, or steady",
        otherwise="`learner.truncation=mask`, a smaller lambda or `learner.learning_rate`",
        split=BY_DOMAIN,
    ),
    Field("rollout_tokens", "tokens", "Response tokens of the step"),
    Field(
        "teacher_prompts_cut",
        "share",
        "Responses whose teacher reads its {student_answer} or {feedback} without the end",
        "shown answers",
        "0",
        "a larger `data.max_teacher_prompt_tokens`",
    ),
)

TOKENS = (
    Field(
        "tokens_trained",
        "tokens",
        "Tokens with a weight in the loss; every mean of this group is over them",
        healthy="`rollout_tokens`, or less with `learner.truncation`",
        otherwise="0: the step changed nothing, and the other fields of this group are missing",
        split=IF_SEVERAL,
    ),
    Field("student_logprob", "nats", "Mean of log student", split=IF_SEVERAL),
    Field(
        "entropy",
        "nats per token",
        "Mean entropy of the student's distribution",
        healthy="falls slowly",
        otherwise="near 0 in the first tenth of the run: `learner.learning_rate` is too high",
        split=IF_SEVERAL,
    ),
    Field(
        "reverse_kl_teacher",
        "nats per token",
        "mean(log student - log teacher) of the sampled tokens, an estimate of KL(student, "
        "teacher)",
        "teacher",
        "above 0 at step 1, falls, then stays flat; with lambda above 1 it ends above 0 and may "
        "rise again slowly",
        "flat from the start: the teacher has nothing new, or `domains.NAME.teacher` is the wrong "
        "folder",
        IF_SEVERAL,
    ),
    Field(
        "kl_reference",
        "nats per token",
        "mean(log student - log reference) of the sampled tokens; a token of a domain whose "
        "lambda is 1 counts as 0",
        "reference",
        "rises, then stays flat",
        "grows without end: lambda or `learner.learning_rate` is too high",
        IF_SEVERAL,
    ),
    Field(
        "advantage_mean",
        "nats",
        "Mean of A = lambda (log teacher - log reference) - (log student - log reference); with "
        "grpo, of the standardised reward; with sft 1",
        healthy="approaches 0 from below at lambda = 1, and a positive constant above",
        split=IF_SEVERAL,
    ),
    Field("advantage_abs", "nats", "Mean of |A|: how strong the signal is", split=IF_SEVERAL),
    Field(
        "advantage_std",
        "nats",
        "Standard deviation of A over the trained tokens",
        healthy="falls: at the goal A is the same for all tokens of a state",
        split=IF_SEVERAL,
    ),
    Field("advantage_positive", "share", "Tokens that the update makes likelier", split=IF_SEVERAL),
    Field(
        "advantage_min",
        "nats",
        "Smallest A of a token",
        healthy="tens of nats on few tokens",
        otherwise="hundreds: one model gives a token almost no probability; look at samples.jsonl",
        split=IF_SEVERAL,
    ),
    Field("advantage_max", "nats", "Largest A of a token", split=IF_SEVERAL),
    Field(
        "clip_fraction",
        "share",
        "Tokens whose ratio student / old is clipped",
        healthy="0 with `learner.updates_per_batch` = 1, else small",
        otherwise="fewer updates per batch, or a smaller `learner.learning_rate`",
        split=IF_SEVERAL,
    ),
    Field(
        "importance_mean",
        "",
        "Mean of w = min(exp(log student - log behaviour), `learner.importance_cap`)",
        "policy",
        "1",
        "as for `sampler_gap`",
        IF_SEVERAL,
    ),
    Field("importance_min", "", "Smallest w of a token", "policy", split=IF_SEVERAL),
    Field("importance_max", "", "Largest w of a token", "policy", split=IF_SEVERAL),
    Field(
        "importance_capped",
        "share",
        "Tokens whose w is at the cap",
        "policy",
        "0",
        "above 0.01: as for `sampler_gap`",
        IF_SEVERAL,
    ),
    Field(
        "sampler_gap",
        "nats per token",
        "mean |log student - log behaviour|, both under the sampling rule, over the tokens that "
        "the rule allows in the learner; missing where it allows none. With top-k, top-p or a "
        "temperature, one token in 16 is compared",
        "policy",
        "1e-6 in float32, 0.003 to 0.01 in bfloat16",
        "int8 rollouts, or the sampler and the learner do not see the same distribution: no later "
        "number means anything",
        IF_SEVERAL,
    ),
    Field(
        "sampler_outside",
        "share",
        "Drawn tokens that fall outside of the learner's top-k or top-p, of those compared",
        "policy",
        "0; a small share with top-k or top-p in bfloat16",
        "as for `sampler_gap`",
        IF_SEVERAL,
    ),
)

POSITIONS = (
    Field(
        "tokens_by_position",
        "tokens",
        "List: trained tokens of each bin",
        healthy="reaches as far as responses do",
        split=IF_SEVERAL,
    ),
    Field("advantage_mean_by_position", "nats", "List: mean of A in each bin", split=IF_SEVERAL),
    Field(
        "advantage_abs_by_position",
        "nats",
        "List: mean of |A| in each bin",
        healthy="fades with depth",
        otherwise="grows at the end: the signal is about length, not content",
        split=IF_SEVERAL,
    ),
    Field(
        "reverse_kl_teacher_by_position",
        "nats per token",
        "List: `reverse_kl_teacher` of each bin",
        "teacher",
        split=IF_SEVERAL,
    ),
)

OPTIMIZER = (
    Field("loss", "", "The loss, mean over the updates of the step; near 0 for gopd"),
    Field(
        "grad_norm",
        "",
        "Norm of the gradient before clipping, mean over the updates",
        healthy="steady after the first steps",
        otherwise="single peaks are clipped at `learner.clip_norm`; growth: a smaller "
        "`learner.learning_rate`",
    ),
    Field(
        "grad_noise",
        "share",
        "Share of the squared gradient norm that comes from which samples were drawn, estimated "
        "from the micro-batches (arXiv 1812.06162, appendix A.1)",
        "noise",
        healthy="rises towards 1 near the goal; a single step may leave [0, 1]",
        otherwise="near 1 from the start: more samples in a step, or an `objective.estimator` with "
        "less variance",
    ),
    Field("learning_rate", "", "Of the first update of the step"),
    Field(
        "packing_filled",
        "share",
        "Tokens of the packed rows of updates that are not padding",
        healthy="0.98 in the run of `make train`",
        otherwise="a `learner.row_length` of several usual responses; in a small trial, a smaller "
        "`data.max_prompt_tokens` and `learner.rows_per_micro_batch`",
    ),
    Field(
        "attention_useful",
        "share",
        "Attention scores of updates that are needed: of a token with itself and the earlier ones "
        "of its own example, within a prompt once for all of its samples; the others fill up "
        "blocks, or are those of a prompt that is computed again",
        healthy="near 1 when examples have hundreds of tokens; with short ones attention is cheap",
    ),
    Field(
        "useful_flops",
        "operations",
        "Matrix products of scoring and updates, counted once for each real token, and once for a "
        "prompt with several samples: forward passes, two more for a gradient, causal attention, "
        "the head where a response is predicted",
    ),
    Field(
        "flops_useful",
        "share",
        "`useful_flops` / operations that are run, with padding, masked scores, recomputation, and "
        "prompts that are computed again",
        healthy="0.86 in the run of `make train`, 0.8 with rematerialisation",
        otherwise="see `packing_filled` and `learner.remat`; with several samples of a prompt, "
        "`learner.share_prompts` and a longer `learner.row_length`",
    ),
)

EXPERTS = (
    Field(
        "expert_load_max",
        "",
        "Tokens of the busiest expert / tokens of an expert on average; mean over layers",
        "mixture",
        "near that of step 1: no loss balances the experts",
        "grows: the experts' devices wait for the busiest; a smaller `learner.learning_rate`",
    ),
    Field(
        "experts_unused",
        "share",
        "Experts that no token of the updates went to; mean over layers",
        "mixture",
        "near 0 with thousands of tokens",
        "grows: the router collapses; a smaller `learner.learning_rate`",
    ),
    Field(
        "router_entropy",
        "nats per token",
        "Mean entropy of the router's probabilities over all experts; mean over tokens and layers",
        "mixture",
        "steady",
        "falls towards 0: as for `experts_unused`",
    ),
)

SPEED = (
    Field(
        "seconds",
        "s",
        "Wall clock from the end of the step before, or the start, to the end of this one: the sum "
        "of all `seconds_` fields",
    ),
    Field("seconds_data", "s", "The prompts of the step, as far as they were not read ahead"),
    Field("seconds_weight_sync", "s", "The student's weights for the sampler; 0 for sft"),
    Field("seconds_rollout", "s", "Sampling, or reading given responses; their texts"),
    Field(
        "seconds_verify",
        "s",
        "Waiting for the verifier, which works beside the step: grpo waits for this step's "
        "rewards, others, to log them, for those of the step before",
        healthy="near 0",
        otherwise="more `verifier.workers`, or a smaller `log.rewards`",
    ),
    Field(
        "seconds_score",
        "s",
        "Teachers and reference, as far as they have not scored while others were drawn, which "
        "counts as `seconds_rollout`; packing",
        healthy="less than rollouts when responses are long",
    ),
    Field(
        "seconds_update",
        "s",
        "Train step; beside it, the log of the step before and the prompts of the next",
    ),
    Field(
        "seconds_checkpoint",
        "s",
        "The checkpoint after the step before, with the log: what is not done in the background",
    ),
    Field(
        "seconds_evaluation",
        "s",
        "The evaluation after the step before; in step 1 those of the start and of the teachers",
    ),
    Field(
        "seconds_other",
        "s",
        "In none of these",
        healthy="below 1% of `seconds`",
        otherwise="please report it",
    ),
    Field(
        "tokens_per_second",
        "1/s",
        "`rollout_tokens` / (`seconds` - `seconds_checkpoint` - `seconds_evaluation`)",
    ),
    Field(
        "compilations",
        "programs",
        "Made ready by this process so far: compiled, or loaded from the compilation cache",
        healthy="constant after the first steps",
        otherwise="a shape changes: please report it",
    ),
    Field(
        "compilations_cached",
        "programs",
        "Those of them that came from the compilation cache, which takes a tenth of the time",
        healthy="all but a few small ones, from the second run on",
        otherwise="`compilation_cache`; run.json says where the cache was",
    ),
    Field(
        "slot_utilisation",
        "share",
        "Slot steps that drew a token",
        "sampled",
        "0.91 in the run of `make train`",
        "fewer `rollout.slots`, or more prompts in a step",
    ),
    Field("decode_steps", "steps", "Decode steps of the sampler", "sampled"),
    Field(
        "prefill_tokens", "tokens", "Prompt tokens that were prefilled, padding left out", "sampled"
    ),
)

GROUPS = {
    "Rollouts and rewards": ROLLOUTS,
    "Trained tokens": TOKENS,
    "Exact estimators": EXACT,
    "Inspected responses": INSPECTED,
    "Shaping": SHAPING,
    "By position": POSITIONS,
    "Optimizer and packing": OPTIMIZER,
    "Experts": EXPERTS,
    "Speed": SPEED,
}
METRICS = tuple(field for group in GROUPS.values() for field in group)
