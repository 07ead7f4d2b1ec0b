"""Figures that the samples of the embedded model do not show."""

from gopd_jax.evaluate.scores import score
from gopd_jax.evaluate.suites import Benchmark
from gopd_jax.rewards.verifier import Verdict
from gopd_jax.types import Prompt


def test_verdicts_of_one_kind_are_counted_together():
    details = ["error: NameError", "error: TypeError", "timeout", "correct"]
    names = [str(i) for i in range(len(details))]
    prompts = tuple(Prompt(name, (), "b", "") for name in names)
    benchmark = Benchmark("b", "b", "code", 1, prompts, dict.fromkeys(names, "h"))
    same = {"tokens": 1, "finish_reason": "stop", "answer": "x"}
    records = [
        same | {"prompt_id": name, "reward": float(detail == "correct"), "verdict": detail}
        for name, detail in zip(names, details, strict=True)
    ]
    scores = score([benchmark], records, {}, lambda items: [Verdict(0.0, "wrong")])
    assert scores["benchmarks"]["b"]["verdicts"] == {"error": 2, "timeout": 1, "correct": 1}
