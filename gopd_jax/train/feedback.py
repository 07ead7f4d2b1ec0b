"""Rollouts as their teachers read them: after a prompt that shows the answer, or its verdict.

In: rollouts and the verdicts on them. Out: the same rollouts, each with a prompt of its own for the
teacher, in the domains whose `teacher_context` asks for it.
"""

from collections.abc import Mapping, Sequence
import dataclasses

from gopd_jax.config import Config
from gopd_jax.data.settings import FEEDBACK, STUDENT_ANSWER
from gopd_jax.data.teacher_prompts import show_answers
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.rewards.verifier import Verdict
from gopd_jax.types import Rollout


def showing(config: Config, field: str = "") -> set[str]:
    """The domains whose teachers read something of the answers: `field`, or anything."""
    if config.method != "gopd":
        return set()
    shown = {name: domain.shown_of_answers for name, domain in config.domains.items()}
    return {name for name, fields in shown.items() if (field in fields if field else fields)}


def as_read(
    config: Config,
    readers: Mapping[str, ChatTokenizer],
    rollouts: Sequence[Rollout],
    verdicts: Sequence[Verdict | None],
) -> tuple[list[Rollout], int]:
    """The rollouts with what their teachers read, and for how many of them a text had to be cut.

    Args:
        readers: by domain, what writes the prompts of its teacher; see `RunInputs`.
        rollouts: of all domains.
        verdicts: of each rollout; None is allowed where the teacher reads no feedback.
    """
    out, cut = list(rollouts), 0
    limit = config.data.max_teacher_prompt_tokens or config.data.max_prompt_tokens
    for name in sorted(showing(config)):
        domain, tokenizer = config.domains[name], readers[name]
        here = [i for i, r in enumerate(rollouts) if r.request.prompt.source.domain == name]
        said = {
            STUDENT_ANSWER: lambda i, decode=tokenizer.decode: decode(rollouts[i].tokens),
            FEEDBACK: lambda i: verdicts[i].in_words,
        }
        shown = [{field: said[field](i) for field in domain.shown_of_answers} for i in here]
        prompts, were_cut = show_answers(
            [rollouts[i].request.prompt for i in here],
            shown,
            tokenizer,
            domain.prompt_suffix,
            domain.teacher_context,
            limit,
        )
        cut += sum(were_cut)
        for i, prompt in zip(here, prompts, strict=True):
            request = dataclasses.replace(rollouts[i].request, prompt=prompt)
            out[i] = dataclasses.replace(rollouts[i], request=request)
    return out, cut
