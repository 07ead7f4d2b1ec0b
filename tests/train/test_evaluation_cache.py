"""Evaluations of models as loaded, kept for other runs: the same numbers, or made anew."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
from loop_cases import small
import pytest

from gopd_jax.evaluate.held_out import Evaluation
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.train import curves, evaluation_cache, evaluations
from gopd_jax.train.evaluation_cache import inputs_of, load, store
from gopd_jax.train.models import make_samplers
from gopd_jax.train.prepare import prepare
from gopd_jax.train.run import run

WHAT = {"weights": "w", "seed": 0, "samples": 2, "prompts": {"count": 3, "sha256": "p"}}
RESULT = Evaluation((0.1 + 0.2, 1.0, 0.0), samples=2, tokens=40, truncated=1 / 3, seconds=1.5)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GOPD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evaluations"


@pytest.fixture
def entry(folder) -> Path:
    store(WHAT, RESULT)
    (path,) = folder.iterdir()
    return path


def without_seconds(found):
    return dataclasses.replace(found, seconds=0.0)


def test_what_is_kept_is_found_to_the_bit(entry):
    assert without_seconds(load(WHAT)) == without_seconds(RESULT)
    assert load(WHAT).seconds != RESULT.seconds  # those of this run
    for other in ({"seed": 1}, {"weights": "v"}, {"prompts": {"count": 3, "sha256": "q"}}):
        assert load(WHAT | other) is None


def changed(**fields):
    return lambda content: json.dumps(content | fields)


def with_result(**fields):
    return lambda content: json.dumps(content | {"result": content["result"] | fields})


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: "",
        lambda content: json.dumps(content)[:-20],
        lambda content: json.dumps([content]),
        changed(inputs=WHAT | {"seed": 7}),
        changed(result=None),
        with_result(tokens=41),
        with_result(by_prompt=[1.0, 1.0, 1.0]),
    ],
)
def test_a_damaged_one_is_named_and_made_anew(entry, damage, capsys):
    entry.write_text(damage(json.loads(entry.read_text())))
    assert load(WHAT) is None
    said = capsys.readouterr().err
    assert f"warning: {entry} is damaged: expected" in said and "is ignored" in said
    store(WHAT, RESULT)
    assert load(WHAT) is not None and not capsys.readouterr().err


def test_of_other_prompts_under_the_right_sha256(entry, capsys):
    store(WHAT, dataclasses.replace(RESULT, by_prompt=(1.0,)))
    assert load(WHAT) is None
    assert "expected a number for each prompt" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_costs_a_warning(folder, capsys):
    folder.parent.write_text("")  # a file where a folder belongs
    store(WHAT, RESULT)
    assert "cannot be written" in capsys.readouterr().err
    assert load(WHAT) is None


def test_switched_off(folder, monkeypatch):
    monkeypatch.setenv("GOPD_CACHE", "off")
    store(WHAT, RESULT)
    assert load(WHAT) is None and not folder.exists()


@pytest.mark.slow
def test_every_setting_that_decides_a_number_counts(tmp_path, monkeypatch):
    base = small()
    inputs = prepare(base, str(tmp_path))
    model = inputs.models[inputs.teachers["math"]]

    def key(dtype=jnp.float32, inputs=inputs, **changes):
        config = small(**changes)
        programs = ProgramTable(make_mesh())
        sampler = make_samplers(config, inputs, programs, dtype)[model]
        return inputs_of(config, inputs, "teacher of math", "math", inputs.test["math"], sampler)

    first = key()
    other_learning = {"steps": 9, "learner.learning_rate": 0.5, "rollout.temperature": 0.5}
    assert key() == first == key(**other_learning, **{"eval.every": 1, "checkpoint.every": 7})
    weights = {"weights": inputs.fingerprints["weights"] | {"teacher of math": "other"}}
    data = {"data": inputs.fingerprints["data"] | {"math/test": "other"}}
    others = [
        {"seed": 1},
        {"eval.samples": 2},
        {"eval.prompts": 31},
        {"eval.temperature": 0.5},
        {"eval.top_k": 3},
        {"eval.top_p": 0.9},
        {"rollout.max_response_tokens": 19},
        {"rollout.kv_cache": "int8"},
        {"rollout.weights": "int8"},
        {"verifier.timeout_s": 1.0},
        {"domains.math.reward": "code"},
        {"dtype": jnp.bfloat16},
        *(
            {"inputs": dataclasses.replace(inputs, fingerprints=inputs.fingerprints | part)}
            for part in (weights, data, {"vocabulary": "other"})
        ),
    ]
    keys = [first, *(key(**changes) for changes in others)]
    monkeypatch.setattr(evaluation_cache.metadata, "version", lambda _: "0")
    keys.append(key())
    texts = [json.dumps(k) for k in keys]
    assert len(set(texts)) == len(texts)


QUICK = {"steps": 1, "eval.prompts": 8, "eval.every": 0}


@pytest.mark.slow
def test_a_second_run_takes_what_does_not_change_from_the_cache(
    folder, tmp_path, lines, monkeypatch, capsys
):
    made = []
    real = evaluations.evaluate

    def evaluate(*args, name, **how):
        made.append(name)
        return real(*args, name=name, **how)

    monkeypatch.setattr(evaluations, "evaluate", evaluate)
    monkeypatch.setattr(curves, "draw", lambda *_: None)  # takes time

    def records(name, file):
        text = (tmp_path / name / file).read_text()
        return [json.loads(line) for line in text.splitlines()]

    first, second = (run(small(**QUICK), str(tmp_path / name)) for name in ("a", "b"))
    assert made.count("evaluate teacher: math") == 1
    assert made.count("evaluate student at step 0: math") == 1 and len(made) == 4
    said = capsys.readouterr().err
    assert "evaluate teacher: math: from the cache" in said
    assert "evaluate student: math: from the cache" in said
    for name, cached in (("a", False), ("b", True)):
        found = {(e["model"], e["step"]): e["cached"] for e in records(name, "evaluations.jsonl")}
        assert found == {("student", 0): cached, ("student", 1): False, ("teacher", 0): cached}
    for file in ("evaluations.jsonl", "metrics.jsonl"):
        assert lines(tmp_path / "a", file) == lines(tmp_path / "b", file)
    for result in (first, second):
        result["domains"]["math"]["rows"]["teacher"].pop("seconds")
    assert (
        first["domains"]["math"]["rows"]["teacher"] == second["domains"]["math"]["rows"]["teacher"]
    )

    (step,) = records("a", "metrics.jsonl")
    laps = {key: step[key] for key in step if key.startswith("seconds_")}
    assert sum(laps.values()) == pytest.approx(step["seconds"])
    of_evaluations = sum(e["seconds"] for e in records("a", "evaluations.jsonl")[:2])
    assert laps["seconds_evaluation"] > of_evaluations > 0 and laps["seconds_data"] > 0
    training = step["seconds"] - laps["seconds_evaluation"] - laps["seconds_checkpoint"]
    assert step["tokens_per_second"] == pytest.approx(step["rollout_tokens"] / training)
    assert first["training_seconds"] == pytest.approx(training, abs=0.051)

    monkeypatch.setattr(evaluations, "evaluate", real)
    run(small(**QUICK, **{"eval.cache": False}), str(tmp_path / "c"))
    assert not any(e["cached"] for e in records("c", "evaluations.jsonl"))
    assert lines(tmp_path / "c", "evaluations.jsonl") == lines(tmp_path / "a", "evaluations.jsonl")

    run(small(**QUICK, init_from=str(tmp_path / "a")), str(tmp_path / "d"))
    found = {(e["model"], e["step"]): e["cached"] for e in records("d", "evaluations.jsonl")}
    assert not found["student", 0] and found["teacher", 0]  # its weights are those of a checkpoint


@pytest.mark.slow
def test_a_run_that_leaves_teachers_out_says_so(tmp_path, lines, monkeypatch, capsys):
    monkeypatch.setattr(curves, "draw", lambda *_: None)
    domain = run(small(**QUICK, **{"eval.teachers": False}), str(tmp_path))["domains"]["math"]
    assert {e["model"] for e in lines(tmp_path, "evaluations.jsonl")} == {"student"}
    assert domain["passed_teacher"] == "not measured" and domain["reward_scale"] == 1.25
    assert list(domain["rows"]) == ["student before", "student after"]
    assert "student_minus_teacher" not in domain
    assert "Not measured: the teacher (config.eval.teachers)" in capsys.readouterr().out
