"""The evaluate command with a reward function of the user, on rows without ground truths."""

from evaluate_cases import OPTIONS, command, results, samples, write_rows
import pytest

JUDGE = """
def length(record, answer):
    return {"reward": min(1.0, len(answer) / record["long"]), "words": len(answer.split())}
"""


def test_a_reward_function_judges_every_benchmark(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judge.py").write_text(JUDGE)
    rows = [{"prompt_id": f"p{i}", "prompt": f"{i}+{i}", "long": 30 + i} for i in range(3)]
    write_rows(tmp_path / "sums.jsonl", rows)
    options = [*OPTIONS, "--samples-per-prompt=2", "--reward=judge:length"]
    assert command(tmp_path, *options, suite="sums.jsonl") == 0
    found, records = results(tmp_path)["benchmarks"]["sums"], samples(tmp_path)
    by_prompt = {row["prompt_id"]: [] for row in rows}
    for (name, _), r in records.items():
        expected = min(1.0, len(r["text"]) / (30 + int(name[1])))
        assert (r["reward"], r["verdict"], r["answer"]) == (expected, "judged", r["text"])
        assert r["reward_metrics"] == {"words": len(r["text"].split())}
        by_prompt[name].append(r["reward"])
    scores = {name: problem["score"] for name, problem in found["by_problem"].items()}
    assert scores == {name: pytest.approx(sum(r) / 2) for name, r in by_prompt.items()}
    assert found["reward"] == "judge:length" and "pass" not in found
    assert "means of sums: words" in capsys.readouterr().out
    (tmp_path / "judge.py").write_text(JUDGE + "# edited\n")
    assert command(tmp_path, *options, suite="sums.jsonl") == 2
    assert "reward_sources is" in capsys.readouterr().err
