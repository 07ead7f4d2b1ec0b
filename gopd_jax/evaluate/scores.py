"""The figures of an evaluation, and the comparison of two evaluations.

In: samples with verdicts. Out: plain numbers with intervals, the content of results.json. The
verifier is only asked which wrong answers of a vote are the same one.
"""

from collections import Counter
from collections.abc import Sequence
import json
from pathlib import Path
from typing import Any

import numpy as np

from gopd_jax.evaluate.statistics import Estimate, accuracy, difference, ks_up_to, pass_at_k
from gopd_jax.evaluate.suites import Benchmark
from gopd_jax.evaluate.vote import vote
from gopd_jax.rewards.verifier import Verifier

Figures = dict[str, Any]  # plain numbers, lists and dicts, as JSON holds them


def score(
    benchmarks: Sequence[Benchmark],
    records: Sequence[Figures],
    skipped: dict[str, str],
    verify: Verifier,
) -> Figures:
    """Computes the figures of every benchmark and of their averages.

    Args:
        benchmarks: the problems.
        records: one for each sample, with its verdict.
        skipped: by prompt id, why a problem was not drawn.
        verify: compares wrong answers.
    """
    by_prompt: dict[str, list[Figures]] = {}
    for record in records:
        by_prompt.setdefault(record["prompt_id"], []).append(record)
    scores = {b.name: _score_one(b, by_prompt, skipped, verify) for b in benchmarks}
    averages = {
        label: accuracy([_problem_scores(scores[n]) for n in names]).to_json()
        | {"benchmarks": names}
        for label, names in _average_groups(scores).items()
    }
    return {"benchmarks": scores, "averages": averages}


def _score_one(
    benchmark: Benchmark,
    by_prompt: dict[str, list[Figures]],
    skipped: dict[str, str],
    verify: Verifier,
) -> Figures:
    drawn = [p.prompt_id for p in benchmark.prompts if p.prompt_id not in skipped]
    k = benchmark.samples
    ours = [r for name in drawn for r in by_prompt[name]]
    rewards = {name: sum(r["reward"] for r in by_prompt[name]) for name in drawn}
    result: Figures = {
        "reward": benchmark.reward,
        "samples": k,
        "problems": len(drawn),
        "skipped": len(benchmark.prompts) - len(drawn),
        "by_problem": {
            name: {"score": rewards[name] / k, "problem": benchmark.hashes[name]} for name in drawn
        },
    }
    if not drawn:
        return result
    result["avg"] = accuracy([_problem_scores(result)]).to_json()
    correct = {name: int(total) for name, total in rewards.items()}
    # A graded reward says how good a sample is, not whether it is right.
    if all(r["reward"] in (0, 1) for r in ours):
        result["pass"] = {
            str(i): accuracy([[pass_at_k(k, c, i) for c in correct.values()]]).to_json()
            for i in ks_up_to(k)
        }
    if benchmark.reward == "math":
        votes = [vote(correct[name], _wrong_answers(by_prompt[name]), verify) for name in drawn]
        result["majority"] = accuracy([votes]).to_json()
    result["mean_tokens"] = float(np.mean([r["tokens"] for r in ours]))
    result["truncated"] = float(np.mean([r["finish_reason"] == "length" for r in ours]))
    if metrics := _mean_metrics(ours):
        result["reward_metrics"] = metrics
    result["verdicts"] = dict(Counter(r["verdict"].partition(":")[0] for r in ours))
    return result


def _mean_metrics(records: Sequence[Figures]) -> dict[str, float]:
    """The mean of each number that a reward function of the user has named."""
    named: dict[str, list[float]] = {}
    for record in records:
        for name, number in record.get("reward_metrics", {}).items():
            named.setdefault(name, []).append(number)
    return {name: float(np.mean(numbers)) for name, numbers in named.items()}


def _wrong_answers(records: Sequence[Figures]) -> list[str]:
    return [r["answer"] for r in records if not r["reward"] and r["answer"] is not None]


def _average_groups(scores: dict[str, Figures]) -> dict[str, list[str]]:
    """The averages that are shown, with the benchmarks of each.

    They are one for each kind of verification with several benchmarks, and one over all benchmarks
    if there are several kinds.
    """
    names = [name for name, s in scores.items() if s["problems"]]
    kinds = dict.fromkeys(["math", "code", *(scores[n]["reward"] for n in names)])
    by_kind = {kind: [n for n in names if scores[n]["reward"] == kind] for kind in kinds}
    groups = {f"{kind} average": of_kind for kind, of_kind in by_kind.items() if len(of_kind) > 1}
    several = sum(map(bool, by_kind.values())) > 1
    return groups | ({"average of all": names} if several else {})


def _problem_scores(result: Figures) -> list[float]:
    return [problem["score"] for problem in result["by_problem"].values()]


# ---- Comparison with an earlier evaluation.


def read_results(folder: str) -> Figures:
    """Reads the results.json of a finished evaluation.

    Raises:
        ValueError: there is none, or the evaluation was not finished.
    """
    path = Path(folder) / "results.json"
    try:
        results = json.loads(path.read_text())
        complete = results["complete"]
        if complete:
            _ = results["model"], [b["by_problem"].items() for b in results["benchmarks"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"{path}: expected the results of an evaluation ({e!r})") from e
    if not complete:
        raise ValueError(
            f"{path}: this evaluation was stopped before its end: expected a finished one"
        )
    return results


def check_comparable(
    benchmarks: Sequence[Benchmark], skipped: dict[str, str], other: Figures, folder: str
) -> None:
    """Checks that `other`, the results in `folder`, scored the same problems.

    Raises:
        ValueError: names the benchmark and the first problem that differs.
    """
    for b in benchmarks:
        if b.name not in other["benchmarks"]:
            raise ValueError(
                f"--compare={folder} has no {b.name}: expected the same benchmarks, it has "
                f"{list(other['benchmarks'])}"
            )
        ours = {p.prompt_id: b.hashes[p.prompt_id] for p in b.prompts if p.prompt_id not in skipped}
        theirs = {
            name: problem["problem"]
            for name, problem in other["benchmarks"][b.name]["by_problem"].items()
        }
        every = ours.keys() | theirs.keys()
        differing = sorted(name for name in every if ours.get(name) != theirs.get(name))
        if differing:
            raise ValueError(
                f"--compare={folder}: {len(differing)} problems of {b.name} differ, or were scored "
                f"on one side only, the first {differing[0]!r}: expected the same problems and "
                "limits"
            )


def compare(results: Figures, other: Figures, folder: str) -> Figures:
    """Computes the differences results - other, for each benchmark and average.

    Args:
        results: of this evaluation.
        other: of the earlier one, which passed `check_comparable`.
        folder: of the earlier one, to name it.
    """
    ours, theirs = results["benchmarks"], other["benchmarks"]
    groups = {name: [name] for name in ours if ours[name]["problems"]} | _average_groups(ours)

    def paired(names: list[str]) -> Estimate:
        sides = [(ours[n]["by_problem"], theirs[n]["by_problem"]) for n in names]
        return difference(
            [([a[i]["score"] for i in a], [b[i]["score"] for i in a]) for a, b in sides]
        )

    differences = {label: paired(names).to_json() for label, names in groups.items()}
    return {"with": folder, "model": other["model"], "differences": differences}
