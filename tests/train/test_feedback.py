"""What teachers read of answers: in their own domains alone, each answer with its own verdict."""

from loop_cases import small
import numpy as np

from gopd_jax import tiny
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.rewards.verifier import Verdict
from gopd_jax.train.feedback import as_read, showing
from gopd_jax.types import EncodedPrompt, Prompt, Request, Rollout

TELLS = {
    "domains.math.teacher_context": " {feedback}",
    "domains.code.teacher_context": " {student_answer}",
    "data.max_teacher_prompt_tokens": 60,
}


def config(**changes):
    return small("configs/multi_teacher.py", **(TELLS | changes))


def rollout(tokenizer, domain, question, answer):
    prompt = Prompt(f"{domain}/0", ({"role": "user", "content": question},), domain, "1")
    tokens = tokenizer.encode_prompt(prompt.messages)
    ids = np.asarray(tokenizer.tokenizer(answer, add_special_tokens=False)["input_ids"], np.int32)
    request = Request(EncodedPrompt(prompt, tokens), 0, len(ids))
    return Rollout(request, ids, np.zeros(len(ids), np.float32), "length")


def test_domains_that_show_something():
    assert showing(config()) == {"math", "code"}
    assert showing(config(), "feedback") == {"math"}
    assert showing(config(**{"domains.math.teacher_context": " {ground_truth}"})) == {"code"}
    assert showing(small("configs/grpo.py", **{"domains.math.teacher_context": "{feedback}"})) == (
        set()
    )


def test_each_teacher_reads_what_its_domain_shows_and_the_order_stays():
    tokenizer = ChatTokenizer.load(tiny.model("base"))
    answers = [("math", "1+1", "2"), ("code", "f(0)=1", "f=0"), ("math", "2+2", "5")]
    rollouts = [rollout(tokenizer, *a) for a in answers]
    verdicts = [Verdict(1.0, "correct"), None, Verdict(0.0, "wrong", feedback="f(2)=7")]
    readers = dict.fromkeys(("math", "code"), tokenizer)
    read, cut = as_read(config(), readers, rollouts, verdicts)
    assert cut == 0
    told = [tokenizer.decode(r.request.prompt.teacher_tokens) for r in read]
    assert told == ["1+1 correct", "f(0)=1 f=0", "2+2 f(2)=7"]
    for before, after in zip(rollouts, read, strict=True):
        assert before.request.key == after.request.key
        np.testing.assert_array_equal(before.tokens, after.tokens)
        np.testing.assert_array_equal(before.request.prompt.tokens, after.request.prompt.tokens)


def test_a_domain_that_shows_nothing_stays_as_it_is_and_what_is_cut_is_counted():
    tokenizer = ChatTokenizer.load(tiny.model("base"))
    rollouts = [rollout(tokenizer, d, "1+1", "f=lambda x:x") for d in ("math", "code", "code")]
    own = {"domains.math.teacher_context": "", "data.max_teacher_prompt_tokens": 12}
    readers = dict.fromkeys(("math", "code"), tokenizer)
    read, cut = as_read(config(**own), readers, rollouts, [None] * 3)
    assert read[0] is rollouts[0] and cut == 2
    assert all(len(r.request.prompt.teacher_tokens) == 12 for r in read[1:])
    own["domains.math.teacher_context"] = " {student_answer}"
    assert as_read(config(**own), readers, rollouts, [None] * 3)[1] == 3
