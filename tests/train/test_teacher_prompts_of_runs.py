"""A teacher with a chat template of its own: what it reads, is scored on, and what is refused."""

import dataclasses
import json
import shutil

from loop_cases import small
import numpy as np
import pytest

from gopd_jax import tiny
from gopd_jax.data.teacher_prompts import as_asked
from gopd_jax.runtime.run_folder import read_run
from gopd_jax.train.identity import check_same_run, run_identity, start_or_resume
from gopd_jax.train.prepare import prepare
from gopd_jax.train.run import run

# What the embedded template writes, with a word before the question.
OWN = "{% for m in messages %}<|user|>sum {{ m['content'] }}<|end|>{% endfor %}<|assistant|>"


@pytest.fixture
def teacher(tmp_path):
    """A copy of the embedded teacher with another template; and the template as a file."""
    folder = shutil.copytree(tiny.model("math_teacher"), tmp_path / "teacher")
    (folder / "chat_template.jinja").write_text(OWN)
    (tmp_path / "own.jinja").write_text(OWN)
    return {"domains.math.teacher": str(folder)}


def read_by(inputs, side="train", count=3):
    """What student and teacher read of the first prompts."""
    prompts = [getattr(inputs, side)["math"][i] for i in range(count)]
    decode = inputs.tokenizer.tokenizer.decode
    return [
        (decode(p.tokens), None if p.teacher_tokens is None else decode(p.teacher_tokens))
        for p in prompts
    ]


@pytest.mark.parametrize("template", ["own", "own.jinja"])
@pytest.mark.parametrize("context", ["", "={ground_truth}"])
def test_it_reads_its_own_template_in_training_and_on_held_out_prompts(
    teacher, tmp_path, monkeypatch, template, context, capsys
):
    monkeypatch.chdir(tmp_path)
    changes = {"domains.math.teacher_template": template, "data.max_teacher_prompt_tokens": 24}
    changes |= {"domains.math.teacher_context": context, "data.max_prompt_tokens": 16}
    inputs = prepare(small(**teacher, **changes), str(tmp_path / "run"))
    for side, shown in (("train", bool(context)), ("test", False)):
        sources = [inputs.train, inputs.test][side == "test"]["math"]
        for source, (ours, theirs) in zip(sources, read_by(inputs, side), strict=False):
            question = source.source.messages[0]["content"]
            assert ours == f"<|user|>{question}<|end|><|assistant|>"
            hint = f"={source.source.ground_truth}" if shown else ""
            assert theirs == f"<|user|>sum {question}{hint}<|end|><|assistant|>"
    test = inputs.test["math"]
    for asked, plain in zip(as_asked(test), test, strict=False):
        np.testing.assert_array_equal(asked.tokens, plain.teacher_tokens)
        break
    assert "was made for other chats" not in capsys.readouterr().err


def test_without_the_setting_the_students_template_is_used_and_said(teacher, tmp_path, capsys):
    inputs = prepare(small(**teacher), str(tmp_path / "run"))
    assert {theirs for _, theirs in read_by(inputs)} == {None}
    assert "was made for other chats" in capsys.readouterr().err
    assert "teacher_templates" not in inputs.fingerprints
    test = inputs.test["math"]
    np.testing.assert_array_equal(as_asked(test)[0].tokens, test[0].tokens)


def test_the_content_of_the_template_belongs_to_the_run(teacher, tmp_path):
    changes = {"domains.math.teacher_template": str(tmp_path / "own.jinja")}
    config = small(**teacher, **changes, **{"data.max_prompt_tokens": 16})
    workdir = str(tmp_path / "run")
    inputs = prepare(config, workdir)
    start_or_resume(workdir, run_identity(config, inputs.fingerprints), {})
    (tmp_path / "own.jinja").write_text(OWN.replace("sum", "add"))
    with pytest.raises(ValueError, match=r"fingerprint of teacher_templates\.math"):
        prepare(config, workdir)


def test_a_run_from_before_there_was_the_setting_goes_on(tmp_path):
    identity = run_identity(small(), {"weights": {"student": "ab"}})
    start_or_resume(str(tmp_path), identity, {})
    old = read_run(str(tmp_path))
    del old["config"]["domains"]["math"]["teacher_template"]
    (tmp_path / "run.json").write_text(json.dumps(old))
    assert check_same_run(str(tmp_path), identity) is not None
    changed = run_identity(small(**{"domains.math.teacher_template": "own"}), {})
    with pytest.raises(ValueError, match=r"domains\.math\.teacher_template: '' -> 'own'"):
        check_same_run(str(tmp_path), changed)


@pytest.mark.parametrize("name", ["teacher_template", "teacher_context"])
def test_teachers_of_sft_answer_the_students_prompts(name):
    message = rf"config\.domains\.math\.{name}='own': expected none with method 'sft'"
    with pytest.raises(ValueError, match=message):
        small(method="sft", **{f"domains.math.{name}": "own"})


@pytest.mark.slow
def test_a_run_whose_teacher_has_its_own_template(teacher, tmp_path):
    """The student learns after its own prompts, and the teacher is scored after its own, too."""
    template = {"domains.math.teacher_template": "own", "data.max_prompt_tokens": 16}
    few = {"steps": 2, "eval.every": 0, "eval.prompts": 64, "log.samples_every": 1}
    scores = {}
    for name, changes in (("own", template), ("plain", {"data.max_prompt_tokens": 16})):
        config = small(**teacher, **few, **changes, **{"check.before_training": True})
        config = dataclasses.replace(
            config,
            check=dataclasses.replace(config.check, accept="teacher_better,teacher_template"),
        )
        rows = run(config, str(tmp_path / name))["domains"]["math"]["rows"]
        scores[name] = rows["teacher"]["mean"], rows["student before"]["mean"]
        checks = json.loads((tmp_path / name / "checks.json").read_text())["checks"]
        (found,) = (c for c in checks if c["name"] == "teacher_template" and "teacher" in c["of"])
        assert found["state"] == ("not checked" if name == "own" else "accepted")
    assert scores["own"][0] != scores["plain"][0]  # a word that the teacher has never read
    assert scores["own"][1] == scores["plain"][1]
    for line in (tmp_path / "own" / "samples.jsonl").read_text().splitlines():
        sample = json.loads(line)
        assert sample["teacher_prompt"] == sample["prompt"].replace("<|user|>", "<|user|>sum ")
