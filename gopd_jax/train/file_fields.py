"""The fields of evaluations.jsonl, samples.jsonl and summary.json.

Declarations alone, for `fields`. They are written by `train.evaluations`, `train.step_log` and
`train.summary`.
"""

from gopd_jax.train.fields import Field

EVALUATIONS = (
    Field("step", "", "The step after which the model was evaluated; 0 is the start"),
    Field("model", "", '"student", or "teacher"; a teacher is evaluated once'),
    Field("domain", "", "The domain of the prompts"),
    Field(
        "mean",
        "share",
        "avg@k: mean reward over prompts and samples",
        "verified",
        "the student rises towards, with lambda above 1 beyond, its teacher",
        'see "Choosing lambda" in running.md',
    ),
    Field("low", "share", "Lower end of its 95% interval, clustered by prompt", "verified"),
    Field("high", "share", "Upper end", "verified"),
    Field("by_prompt", "share", "List: mean reward of each prompt, in their order", "verified"),
    Field(
        "kl",
        "nats per token",
        "Exact KL(student, teacher), mean over the tokens of a prompt's samples, then over prompts",
        "compared",
        "falls",
        "as for `reverse_kl_teacher`",
    ),
    Field("kl_low", "nats per token", "Lower end of its 95% interval", "compared"),
    Field("kl_high", "nats per token", "Upper end", "compared"),
    Field("kl_by_prompt", "nats per token", "List: the KL of each prompt", "unverified"),
    Field(
        "top1_overlap",
        "share",
        "Tokens at which the likeliest token of both models is the same; null without a teacher",
        "unverified",
        "rises",
    ),
    Field("entropy", "nats per token", "Of the student, mean over tokens", "unverified"),
    Field("prompts", "prompts", "Their number", "unverified"),
    Field("mean_tokens", "tokens", "Mean length of a response", "unverified"),
    Field("samples", "samples", "k, the samples of each prompt: `eval.samples`"),
    Field("tokens", "tokens", "Response tokens drawn"),
    Field("truncated", "share", "Responses cut at the limit"),
    Field("seconds", "s", "Wall clock of the evaluation"),
    Field("cached", "", "Whether it is a teacher's that another run has made: see running.md"),
)

SAMPLES = (
    Field("step", "", "The step that learned from it"),
    Field("prompt_id", "", "Of the prompt"),
    Field("sample_id", "", "Which of the prompt's samples, from 0"),
    Field("domain", "", "Of the prompt"),
    Field("prompt", "", "The prompt as the student reads it"),
    Field("teacher_prompt", "", "The prompt as the teacher reads it", "shown more"),
    Field("response", "", "The text of the response, without special tokens"),
    Field("ground_truth", "", "Of the row; empty without one"),
    Field("reward", "share", "Null where it was not verified"),
    Field("verdict", "", 'Such as "correct", "wrong", "timeout", "judged", "not verified"'),
    Field("reward_metrics", "yours", "The named numbers of your reward function", "own reward"),
    Field("finish_reason", "", '"stop", or "length" at the limit'),
    Field("tokens", "", "List: the text of each token, the stop token included"),
    Field("behaviour_logprobs", "nats", "List: of the distribution each token was drawn from"),
    Field("student_logprobs", "nats", "List: by the student before the step"),
    Field("teacher_logprobs", "nats", "List: by the domain's teacher", "teacher"),
    Field("reference_logprobs", "nats", "List; only in domains with a lambda not 1", "reference"),
    Field("advantages", "nats", "List: A of each token"),
)

SUMMARY = (
    Field("name", "", "`name` of the config"),
    Field("method", "", "`method` of the config"),
    Field("steps", "steps", "Steps of the run"),
    Field("seed", "", "`seed` of the config"),
    Field("domains", "", "Object: the fields of each domain, below"),
    Field("rollout_tokens", "tokens", "Response tokens of all steps"),
    Field(
        "training_seconds",
        "s",
        "Of all steps, over all starts, without evaluations and checkpoints",
    ),
    Field(
        "findings",
        "",
        "List: what deserves attention in the metrics, the most serious first; objects with level "
        "(bad, look or note), title, text and todo",
        healthy="empty",
    ),
    Field("fingerprints", "", "Object: sha256 of weights, vocabulary, template, data, and more"),
)

SUMMARY_DOMAIN = (
    Field("prompts", "prompts", "Held-out prompts of the last evaluation"),
    Field("samples", "samples", "k, the samples of each"),
    Field(
        "test_prompts_in_train",
        "prompts",
        "Test prompts that are also trained on",
        healthy="0",
        otherwise="the score is not that of held-out prompts; `python -m gopd_jax.data TRAIN TEST` "
        "shows them",
    ),
    Field("rows", "", 'Object: "student before", "teacher" and "student after", below'),
    Field("reward_scale", "", "lambda of the domain", "teacher"),
    Field(
        "student_minus_teacher",
        "share",
        "Object with mean, low and high: the difference, paired by prompt",
        "scored teacher",
    ),
    Field(
        "passed_teacher",
        "",
        '"yes" or "no" where the interval excludes 0, else "unclear"; "not measured" where answers '
        "are not verified, or without `eval.teachers`",
        "passed",
    ),
    Field("not_measured", "", "What is not said, in words", "unverified"),
    Field("kl_change", "nats per token", "Change of the KL, paired by prompt", "compared"),
    Field("kl_change_low", "nats per token", "Lower end of its 95% interval", "compared"),
    Field("kl_change_high", "nats per token", "Upper end", "compared"),
)

SUMMARY_ROW = (
    Field("mean", "share", "Score, as in evaluations.jsonl", "verified"),
    Field("low", "share", "Lower end of its 95% interval", "verified"),
    Field("high", "share", "Upper end", "verified"),
    Field("kl", "nats per token", "As in evaluations.jsonl", "compared"),
    Field("kl_low", "nats per token", "Lower end of its 95% interval", "compared"),
    Field("kl_high", "nats per token", "Upper end", "compared"),
    Field("top1_overlap", "share", "As in evaluations.jsonl", "unverified"),
    Field("entropy", "nats per token", "As in evaluations.jsonl", "unverified"),
    Field("tokens", "tokens", "Response tokens drawn"),
    Field("mean_tokens", "tokens", "Mean length of a response"),
    Field("truncated", "share", "Responses cut at the limit"),
    Field("seconds", "s", "Wall clock of the evaluation"),
)
