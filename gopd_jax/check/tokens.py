"""Checks of tokenizers and chat templates: what all models of a run must read and write alike.

In: the student's tokenizer, those of other roles, prompts of the run. Out: outcomes. The student's
tokenizer writes every prompt and ends every answer; a model that was trained with others reads
chats that it has not seen.
"""

from collections.abc import Mapping, Sequence
import hashlib

from gopd_jax.check.outcome import Outcome, measured
from gopd_jax.data.encode import chat_of
from gopd_jax.data.messages import Chat, with_suffix
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.types import EncodedPrompt

SHOWN = 24  # characters from the first difference on
OTHER_TEMPLATE = "take a teacher that was trained with the student's chat template"


def chats_of(prompts: Sequence[EncodedPrompt], suffix: str) -> list[Chat]:
    """The chats of prompts, as `data.encode` gives them to the template."""
    return [chat_of(p.source, with_suffix(p.source.messages, suffix)) for p in prompts]


def round_trip(tokenizer: ChatTokenizer, domain: str, prompts: Sequence[EncodedPrompt]) -> Outcome:
    """Whether encode, decode, encode of the run's prompts gives the same ids.

    Where it does not, the text that the verifier and samples.jsonl show is not what models read.
    """
    texts = [tokenizer.decode(p.tokens, skip_special_tokens=False) for p in prompts]
    again = tokenizer.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    pairs = zip(prompts, again, strict=True)
    wrong = [p.source.prompt_id for p, ids in pairs if list(ids) != p.tokens.tolist()]
    saw = f"{len(prompts)} prompts, the first that differs is {wrong[0]!r}" if wrong else ""
    return measured(
        "round_trip",
        domain,
        len(wrong),
        bound=0,
        unit=f"of {len(prompts)} prompts",
        saw=saw,
        todo="repair the student's tokenizer",
    )


def generation_prompt(tokenizer: ChatTokenizer, domain: str, chats: Sequence[Chat]) -> Outcome:
    """Whether the template ends a prompt with the beginning of the assistant's message."""
    texts = [(tokenizer.render(c), tokenizer.render(c, generation_prompt=False)) for c in chats]
    ends = [whole[len(part) :] if whole.startswith(part) else "" for whole, part in texts]
    shortest = min(ends, key=len, default="")
    return measured(
        "generation_prompt",
        domain,
        len(shortest),
        bound=1,
        least=True,
        unit="characters",
        saw=f"it ends with {shortest[:SHOWN]!r}" if shortest else "nothing is added to the chat",
        todo="give the student's template the text that begins an answer (add_generation_prompt)",
    )


def teacher_template(
    student: ChatTokenizer, other: ChatTokenizer, role: str, chats: Sequence[Chat]
) -> Outcome:
    """Whether a model's own chat template renders the run's prompts as the student's does.

    Others measured +0.29 nats per token of bias for a teacher that was prompted with another
    template (tinker-cookbook, issue 796).
    """
    wrong, saw = 0, ""
    if student.template_fingerprint != other.template_fingerprint:
        for chat in chats:
            ours, theirs = _rendered(student, chat), _rendered(other, chat)
            if ours == theirs:
                continue
            wrong += 1
            saw = saw or _difference(chat, ours, theirs)
    return measured(
        "teacher_template",
        role,
        wrong,
        bound=0,
        unit=f"of {len(chats)} prompts",
        saw=saw,
        todo=OTHER_TEMPLATE,
    )


def stop_ids(student: ChatTokenizer, other: ChatTokenizer, role: str) -> Outcome:
    """Whether a model ends its answers with the ids that the student does."""
    ours, theirs = set(student.stop_ids), set(other.stop_ids)
    saw = f"its are {sorted(theirs)}, the student's {sorted(ours)}" if ours != theirs else ""
    return measured(
        "stop_ids",
        role,
        len(ours ^ theirs),
        bound=0,
        unit="ids",
        saw=saw,
        todo="name the missing ones in --config.rollout.extra_stop_ids, or in "
        "generation_config.json of the model that lacks them",
    )


def token_strings(
    student: ChatTokenizer, other: ChatTokenizer, role: str, embeddings: int
) -> Outcome:
    """Whether every id stands for the same text; rows of the model beyond them are padding.

    Args:
        embeddings: of the other model.
    """
    wrong: list[str] = []
    if _kind(student) != _kind(other):
        ours, theirs = _strings(student), _strings(other)
        wrong = [
            f"id {i} is {ours.get(i)!r} for the student and {theirs.get(i)!r} for it"
            for i in sorted(ours.keys() | theirs.keys())
            if ours.get(i) != theirs.get(i)
        ]
    padding = embeddings - student.num_ids
    without = f"{padding} rows stand for no id" if padding else ""
    if padding < 0:
        wrong.append(f"it has {embeddings} rows for {student.num_ids} ids")
    return measured(
        "token_strings",
        role,
        len(wrong),
        bound=0,
        unit=f"of {student.num_ids} ids",
        saw=wrong[0] if wrong else without,
        todo="take a model with the student's vocabulary",
    )


def _rendered(tokenizer: ChatTokenizer, chat: Chat) -> str:
    try:
        return tokenizer.render(chat)
    except ValueError as error:
        return f"an error ({error})"


def _difference(chat: Chat, ours: str, theirs: str) -> str:
    pairs = zip(ours, theirs, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
    return (
        f"the first is {chat.name}: its template writes {theirs[at : at + SHOWN]!r} from character "
        f"{at} on, the student's {ours[at : at + SHOWN]!r}"
    )


def _kind(tokenizer: ChatTokenizer) -> str:
    """What decides the text of each id: equal tokenizers need no comparison."""
    backend = getattr(tokenizer.tokenizer, "backend_tokenizer", None)
    text = tokenizer.path if backend is None else backend.to_str()
    return hashlib.sha256(text.encode()).hexdigest()


def _strings(tokenizer: ChatTokenizer) -> Mapping[int, str]:
    ids = sorted(tokenizer.tokenizer.get_vocab().values())
    texts = tokenizer.tokenizer.batch_decode(
        [[i] for i in ids], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return dict(zip(ids, texts, strict=True))
