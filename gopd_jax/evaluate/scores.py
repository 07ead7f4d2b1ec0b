"""The figures of an evaluation: samples with verdicts in, plain numbers with intervals out, and the comparison of two of them.

What results.json holds is made here. The verifier is only asked which wrong answers of a vote are the same one.
"""

from collections import Counter
import json
from pathlib import Path
from typing import Any

import numpy as np

from gopd_jax.evaluate.grading import vote
from gopd_jax.evaluate.statistics import Estimate, accuracy, difference, ks_up_to, pass_at_k
from gopd_jax.evaluate.suites import Benchmark
from gopd_jax.rewards.verifier import Verifier


def score(
    benchmarks: list[Benchmark],
    records: list[dict[str, Any]],
    skipped: dict[str, str],
    verify: Verifier,
) -> dict[str, Any]:
    """The figures of every benchmark and of their averages."""
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_prompt.setdefault(record["prompt_id"], []).append(record)
    scores = {b.name: _score_one(b, by_prompt, skipped, verify) for b in benchmarks}
    averages = {
        label: accuracy([_values(scores[name]) for name in names]).to_json() | {"benchmarks": names}
        for label, names in averaged(scores).items()
    }
    return {"benchmarks": scores, "averages": averages}


def _score_one(
    benchmark: Benchmark,
    by_prompt: dict[str, list[dict[str, Any]]],
    skipped: dict[str, str],
    verify: Verifier,
) -> dict[str, Any]:
    drawn = [p.prompt_id for p in benchmark.prompts if p.prompt_id not in skipped]
    k, counts = (
        benchmark.samples,
        {name: sum(int(r["reward"]) for r in by_prompt[name]) for name in drawn},
    )
    result = {
        "reward": benchmark.reward,
        "samples": k,
        "problems": len(drawn),
        "skipped": len(benchmark.prompts) - len(drawn),
        "by_problem": {
            name: {"score": counts[name] / k, "problem": benchmark.hashes[name]} for name in drawn
        },
    }
    if not drawn:
        return result
    ours = [r for name in drawn for r in by_prompt[name]]
    result["avg"] = accuracy([_values(result)]).to_json()
    result["pass"] = {
        str(i): accuracy([[pass_at_k(k, c, i) for c in counts.values()]]).to_json()
        for i in ks_up_to(k)
    }
    if benchmark.reward == "math":
        votes = []
        for name in drawn:
            wrong = [
                r["answer"] for r in by_prompt[name] if not r["reward"] and r["answer"] is not None
            ]
            votes.append(vote(counts[name], wrong, verify))
        result["majority"] = accuracy([votes]).to_json()
    result["mean_tokens"] = float(np.mean([r["tokens"] for r in ours]))
    result["truncated"] = float(np.mean([r["finish_reason"] == "length" for r in ours]))
    result["verdicts"] = dict(Counter(r["verdict"].partition(":")[0] for r in ours))
    return result


def averaged(scores: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """The averages that are of interest, with the benchmarks of each: those of a kind, and all where there are two kinds."""
    names = [name for name, s in scores.items() if s["problems"]]
    kinds = {kind: [n for n in names if scores[n]["reward"] == kind] for kind in ("math", "code")}
    groups = {f"{kind} average": of_kind for kind, of_kind in kinds.items() if len(of_kind) > 1}
    return groups | ({"average of all": names} if all(kinds.values()) else {})


def _values(result: dict[str, Any]) -> list[float]:
    return [problem["score"] for problem in result["by_problem"].values()]


def read_results(folder: str) -> dict[str, Any]:
    """results.json of a finished evaluation; ValueError where there is none."""
    path = Path(folder) / "results.json"
    try:
        results = json.loads(path.read_text())
        complete = results["complete"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{path}: wanted the results of an evaluation ({e!r})") from e
    if not complete:
        raise ValueError(
            f"{path}: this evaluation was stopped before its end: wanted a finished one"
        )
    return results


def check_comparable(
    benchmarks: list[Benchmark], skipped: dict[str, str], other: dict[str, Any], folder: str
) -> None:
    """Raises ValueError unless `other` scored the same problems."""
    for b in benchmarks:
        if b.name not in other["benchmarks"]:
            raise ValueError(
                f"--compare={folder} has no {b.name}: wanted the same benchmarks, it has {list(other['benchmarks'])}"
            )
        ours = {p.prompt_id: b.hashes[p.prompt_id] for p in b.prompts if p.prompt_id not in skipped}
        theirs = {
            name: problem["problem"]
            for name, problem in other["benchmarks"][b.name]["by_problem"].items()
        }
        differing = sorted(
            name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
        )
        if differing:
            raise ValueError(
                f"--compare={folder}: {len(differing)} problems of {b.name} differ, or were scored on one side only, the first "
                f"{differing[0]!r}: wanted the same problems and limits"
            )


def compare(results: dict[str, Any], other: dict[str, Any], folder: str) -> dict[str, Any]:
    """Differences, results - other, by benchmark and on average."""
    ours, theirs = results["benchmarks"], other["benchmarks"]
    groups = {name: [name] for name in ours if ours[name]["problems"]} | averaged(ours)

    def paired(names: list[str]) -> Estimate:
        sides = [(ours[n]["by_problem"], theirs[n]["by_problem"]) for n in names]
        return difference(
            [([a[i]["score"] for i in a], [b[i]["score"] for i in a]) for a, b in sides]
        )

    return {"with": folder, "model": other["model"]} | {
        "differences": {label: paired(names).to_json() for label, names in groups.items()}
    }
