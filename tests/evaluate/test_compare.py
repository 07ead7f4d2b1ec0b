"""--compare: differences paired by problem, of evaluations of the same problems only."""

import json
import shutil

from evaluate_cases import BASE, OPTIONS, command, results
import pytest

from gopd_jax.evaluate.statistics import difference


def ties(found):
    """The differences between evaluations that agree on every problem."""
    zeros = {name: [0.0] * s["problems"] for name, s in found["benchmarks"].items()}
    groups = {name: [name] for name in zeros} | {"average of all": list(zeros)}
    return {
        label: difference([(zeros[n], zeros[n]) for n in names]).to_json()
        for label, names in groups.items()
    }


def test_compare_is_the_paired_difference(copy, capsys):
    assert command(copy, *OPTIONS, "--seed=4", f"--compare={copy}/out", out="new") == 0
    table, comparison = capsys.readouterr().out, results(copy, "new")["comparison"]

    def scores(out, name):
        return [p["score"] for p in results(copy, out)["benchmarks"][name]["by_problem"].values()]

    pairs = {name: (scores("new", name), scores("out", name)) for name in ("sums", "lines")}
    expected = {name: difference([pair]).to_json() for name, pair in pairs.items()}
    expected["average of all"] = difference(list(pairs.values())).to_json()
    assert comparison["differences"] == expected
    assert pairs["sums"][0] != pairs["sums"][1]
    assert f"difference to {BASE} ({copy}/out), in points, paired by problem" in table
    d = expected["sums"]
    assert f"{100 * d['mean']:+8.2f}  [{100 * d['low']:+.2f}, {100 * d['high']:+.2f}]" in table


def test_a_finished_evaluation_is_compared_without_drawing(copy, no_weights, capsys):
    before = results(copy)
    assert command(copy, *OPTIONS, f"--compare={copy}/out") == 0
    after = results(copy)
    assert after.pop("comparison")["differences"] == ties(before)
    assert (after["benchmarks"], after["drawn"]) == (before["benchmarks"], before["drawn"])


def test_compare_pairs_by_problem_whatever_the_order(copy, no_weights, capsys):
    """With the problems of the other evaluation in reverse order, the differences are still 0."""
    shutil.copytree(copy / "out", copy / "reversed")
    said = results(copy)
    for s in said["benchmarks"].values():
        s["by_problem"] = dict(reversed(s["by_problem"].items()))
    (copy / "reversed" / "results.json").write_text(json.dumps(said))
    assert command(copy, *OPTIONS, f"--compare={copy}/reversed") == 0
    assert results(copy)["comparison"]["differences"] == ties(said)


def drop_a_benchmark(said):
    del said["benchmarks"]["lines"]


def drop_a_problem(said):
    said["benchmarks"]["sums"]["by_problem"].popitem()


def change_a_problem(said):
    next(iter(said["benchmarks"]["lines"]["by_problem"].values())).update(problem="x")


@pytest.mark.parametrize(
    "change, words",
    [
        (drop_a_benchmark, "has no lines: expected the same benchmarks, it has ['sums']"),
        (drop_a_problem, "1 problems of sums differ, or were scored on one side"),
        (change_a_problem, "1 problems of lines"),
        (lambda said: said.update(complete=False), "this evaluation was stopped before its end"),
        (lambda said: said.clear(), "expected the results of an evaluation (KeyError"),
    ],
)
def test_compare_refuses_other_problems(copy, no_weights, capsys, change, words):
    said = results(copy)
    change(said)
    (copy / "other").mkdir()
    (copy / "other" / "results.json").write_text(json.dumps(said))
    assert command(copy, *OPTIONS, f"--compare={copy}/other", out="new") == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert not (copy / "new").exists()
