"""What the fields of a run's files mean: the reference of metrics, docs/metrics.md.

Declarations alone: `metric_fields` has those of metrics.jsonl, `file_fields` those of the other
files, `metrics_page` prints the reference. A test compares the declarations with what runs write.
"""

from collections.abc import Collection, Iterator
import dataclasses
from typing import Literal

# Which runs write a field. A run is described by the conditions that hold for it.
When = Literal[
    "always",
    "policy",
    "teacher",
    "reference",
    "verified",
    "unverified",
    "compared",
    "scored teacher",
    "passed",
    "sampled",
    "own reward",
    "shown more",
    "shown answers",
    "stopped",
    "mixture",
    "exact",
    "inspected",
    "noise",
    "scaled",
    "gated",
    "clipped",
    "selected",
    "undecided",
    "trust region",
]
WHEN: dict[When, str] = {
    "always": "",
    "policy": "`method` is gopd or grpo",
    "teacher": "`method` is gopd, and `control.kind` does not replace the advantages",
    "reference": "the same, and a lambda is not 1",
    "verified": "answers are verified: a `reward` that is not none",
    "unverified": "`domains.NAME.reward` is none",
    "compared": "`domains.NAME.reward` is none, and the domain has a teacher",
    "scored teacher": "answers are verified, and the domain has a teacher",
    "passed": "the domain has a teacher, or its answers are not verified",
    "sampled": "tokens were drawn: not for sft on given responses",
    "own reward": "the reward function of a domain returns named numbers",
    "shown more": "`domains.NAME.teacher_context` or `teacher_template` is set, for method gopd",
    "shown answers": "a `teacher_context` shows {student_answer} or {feedback}",
    "stopped": "answers ran into the limits of the verifier",
    "mixture": "the student is a mixture of experts",
    "exact": "`objective.estimator` is not sampled, or as those of `log.inspected`",
    "inspected": "`log.inspected` is set, in the steps whose responses are written",
    "noise": "the run has one domain, and several micro-batches in an update",
    "scaled": "`shaping.reward_scale_steps` or `shaping.gate_tau` is set",
    "gated": "`shaping.gate_tau` is set",
    "clipped": "`shaping.log_ratio_clip` or `shaping.advantage_clip` is set",
    "selected": "`shaping.keep_states` is below 1",
    "undecided": "`shaping.forward_kl` is set",
    "trust region": "`shaping.kl_coefficient` is set, or what it goes to",
}
# How a number is split by domain: NAME/DOMAIN beside NAME.
Split = Literal["", "domains", "several domains"]


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a line of a file.

    name: of the field. NAME in capitals stands for a name of the user's.
    unit: of the number; "share" is a number in [0, 1].
    meaning: with its formula; a sentence without its full stop.
    when: which runs write it.
    healthy, otherwise: what is to be seen, and what to do where it is not.
    split: "domains": NAME/DOMAIN is written too; "several domains": if there are several.
    """

    name: str
    unit: str
    meaning: str
    when: When = "always"
    healthy: str = ""
    otherwise: str = ""
    split: Split = ""


def names(
    fields: Collection[Field], conditions: Collection[When], domains: Collection[str] = ()
) -> Iterator[str]:
    """The fields that a run writes for which `conditions` hold ("always" need not be given)."""
    for field in fields:
        if field.when != "always" and field.when not in conditions:
            continue
        if "/" not in field.name:
            yield field.name
        else:
            yield from (field.name.replace("DOMAIN", domain) for domain in domains)
        if field.split == "domains" or (field.split and len(domains) > 1):
            yield from (f"{field.name}/{domain}" for domain in domains)


def entry(field: Field) -> str:
    """A field as an item of a Markdown list."""
    several = " with several domains" if field.split == "several domains" else ""
    suffix = f", `{field.name}/DOMAIN`{several}" if field.split else ""
    unit = f" ({field.unit})" if field.unit else ""
    parts = [f"- `{field.name}`{suffix}{unit}: {field.meaning}."]
    if WHEN[field.when]:
        parts.append(f"Written if {WHEN[field.when]}.")
    if field.healthy:
        parts.append(f"Healthy: {field.healthy}.")
    if field.otherwise:
        parts.append(f"Otherwise: {field.otherwise}.")
    return " ".join(parts)
