"""Configuration: the paper's defaults, and every mistake refused with a sentence that helps."""

import dataclasses
from pathlib import Path

import pytest

from gopd_jax.config import Config, default, domain, from_config_dict, reference
from gopd_jax.runtime import schema


def make(**changes):
    """The smallest valid config, as a config file builds it.

    `changes` are by dotted name, with "__" in place of the dot.
    """
    config = default()
    config.name, config.student = "run", "student"
    config.domains.math = domain(
        train="train.jsonl", test="test.jsonl", reward="math", teacher="teacher"
    )
    with config.unlocked(), config.ignore_type():
        for name, value in changes.items():
            *parts, last = name.split("__")
            node = config
            for part in parts:
                node = node[part]
            node[last] = value
    return config


PAPER = {  # docs/method.md, G-OPD
    "method": "gopd",
    "reference": "",
    "steps": 50,
    "data": {"max_prompt_tokens": 2048, "template_kwargs": {"enable_thinking": False}},
    "rollout": {
        "prompts_per_step": 1024,
        "samples_per_prompt": 1,
        "max_response_tokens": 16384,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
    },
    "learner": {
        "reward_scale": 1.25,
        "updates_per_batch": 1,
        "learning_rate": 1e-5,
        "schedule": "constant",
        "warmup_steps": 0,
        "b1": 0.9,
        "b2": 0.999,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "clip_low": 0.2,
        "clip_high": 0.28,
        "dual_clip": 3.0,
        "importance_cap": 5.0,
    },
}


def test_defaults_are_the_papers_settings():
    config = from_config_dict(make())
    fields = dataclasses.asdict(config)
    for name, value in PAPER.items():
        found = fields[name]
        assert ({k: found[k] for k in value} if isinstance(value, dict) else found) == value
    assert config.reward_scales == {"math": 1.25}
    assert config.longest == 2048 + 16384


def test_config_dict_and_dataclass_agree():
    changes = {"learner__reward_scale": 1.5, "rollout__extra_stop_ids": (3, 4), "mesh__tensor": 2}
    config = from_config_dict(make(**changes))
    assert config.learner.reward_scale == 1.5
    assert config.rollout.extra_stop_ids == (3, 4)
    assert config.mesh.tensor == 2
    again = default()
    again.update(dataclasses.asdict(config))
    again.rollout.extra_stop_ids = config.rollout.extra_stop_ids
    with again.unlocked():
        again.domains.math = domain(**dataclasses.asdict(config.domains["math"]))
    assert from_config_dict(again) == config


def test_lambda_of_each_teacher():
    config = make(learner__reward_scale=1.1)
    for name, scale in (("code", 1.5), ("zero", 0.0), ("whole", 1)):
        config.domains[name] = domain(
            train="a", test="b", reward="code", teacher="c", reward_scale=scale
        )
    config = from_config_dict(config)
    assert config.reward_scales == {"math": 1.1, "code": 1.5, "zero": 0.0, "whole": 1.0}
    assert list(config.reward_scales) == list(config.domains)
    assert isinstance(config.domains["whole"].reward_scale, float)


def test_lambda_of_a_teacher_can_be_set_on_the_command_line():
    config = make()
    assert config.domains.math.reward_scale is None
    config.domains.math.reward_scale = 1.75  # what --config.domains.math.reward_scale=1.75 does
    assert from_config_dict(config).reward_scales == {"math": 1.75}


UNKNOWN = [
    (
        "learner__reward_scal",
        r"config\.learner\.reward_scal: no such field; did you mean 'reward_scale'\?"
        r" Known fields: .*aggregation",
    ),
    ("rollouts", r"config\.rollouts: no such field; did you mean 'rollout'\?"),
    (
        "domains__math__teachr",
        r"config\.domains\.math\.teachr: no such field; did you mean 'teacher'\?",
    ),
    ("mesh__zzzz", r"config\.mesh\.zzzz: no such field\. Known fields: data, fsdp, tensor"),
]


@pytest.mark.parametrize("name, message", UNKNOWN)
def test_unknown_fields_name_the_nearest(name, message):
    with pytest.raises(ValueError, match=message):
        from_config_dict(make(**{name: 1}))


def test_unknown_field_of_a_domain_is_found_in_the_config_file():
    message = r"domain\.suffix: no such field; did you mean 'prompt_suffix'\?"
    with pytest.raises(ValueError, match=message):
        domain(train="a", test="b", suffix="x")


WRONG_TYPE = [
    ("steps", 1.5, r"config\.steps=1\.5: expected an integer"),
    ("steps", True, r"config\.steps=True: expected an integer"),
    ("learner__learning_rate", "1e-5", r"config\.learner\.learning_rate='1e-5': expected a number"),
    ("learner__remat", True, r"config\.learner\.remat=True: expected one of 'none', 'attention'"),
    ("student", None, r"config\.student=None: expected a string"),
    ("learner", 3, r"config\.learner=3: expected the fields of LearnerSettings"),
    ("rollout__extra_stop_ids", 3, r"config\.rollout\.extra_stop_ids=3: expected a tuple"),
    ("log__trackers", ("mlflow",), "'mlflow': expected one of 'tensorboard', 'wandb' or 'trackio'"),
    (
        "rollout__extra_stop_ids",
        ("a",),
        r"config\.rollout\.extra_stop_ids\.0='a': expected an integer",
    ),
    (
        "domains__math__reward_scale",
        "x",
        r"config\.domains\.math\.reward_scale='x': expected a number",
    ),
]


@pytest.mark.parametrize("name, value, message", WRONG_TYPE)
def test_wrong_types(name, value, message):
    with pytest.raises(ValueError, match=message):
        from_config_dict(make(**{name: value}))


def test_whole_numbers_are_numbers():
    assert from_config_dict(make(learner__reward_scale=1)).learner.reward_scale == 1.0


# Field, value, and the rest of the message that begins with "config.FIELD=VALUE: expected".
WRONG_VALUE = [
    ("method", "ppo", "one of 'gopd', 'grpo' or 'sft'"),
    ("compute_dtype", "float16", "one of 'auto', 'float32' or 'bfloat16'"),
    ("steps", 0, "a number >= 1"),
    ("seed", -1, "a number >= 0"),
    ("seed", 2**32, "a number < 4294967296"),
    ("learner.aggregation", "mean", "one of 'token-mean', "),
    ("learner.truncation", "cut", "one of 'keep', 'mask' or 'drop'"),
    ("learner.schedule", "step", "one of 'constant', 'cosine' or 'linear'"),
    ("learner.reward_scale", -0.5, "a number >= 0"),
    ("learner.reward_scale", float("nan"), "a finite number"),
    ("learner.dual_clip", 0.5, "a number >= 1"),
    ("learner.learning_rate", float("inf"), "a finite number"),
    ("learner.clip_norm", float("inf"), "a finite number"),
    ("learner.clip_low", 2.0, "a number <= 1"),
    ("learner.b1", 2.0, "a number < 1"),
    ("learner.b2", 1.0, "a number < 1"),
    ("learner.b2", -1.0, "a number >= 0"),
    ("rollout.temperature", float("inf"), "a finite number"),
    ("rollout.prompts_per_step", 2**31, "a number < 2147483648"),
    ("learner.warmup_steps", 50, "fewer than the 50 updates of the run"),
    ("learner.updates_per_batch", 3, "a divisor of the 1024 rollouts of a step"),
    ("learner.row_length", 18431, ">= 18432 (prompt + response limit), or 0"),
    ("rollout.slots", 0, "a number >= 1"),
    ("rollout.kv_cache", "int4", "one of 'compute' or 'int8'"),
    ("rollout.steps_per_dispatch", 0, "a number >= 1"),
    ("rollout.top_p", 0.0, "a number > 0"),
    ("rollout.top_p", 1.5, "a number <= 1"),
    ("eval.temperature", -1.0, "a number >= 0"),
    ("domains.math.min_difficulty", -1.0, "a number >= 0"),
    ("domains.math.reward_scale", -1.0, "a number >= 0"),
    ("domains.math.share", 0.0, "a number > 0"),
    (
        "domains.math.reward",
        "mth",
        "'math', 'code', 'none', or 'package.module:function'; nearest: 'math'",
    ),
    ("domains.math.reward", "my rewards:f", "'math', 'code', 'none', or 'package.module:"),
    ("domains.math.reward", "rewards:f:g", "'math', 'code', 'none', or 'package.module:"),
    ("domains.math.held_out", 0.1, "no other test set"),
    ("shaping.keep_states", 0.0, "a number > 0"),
    ("shaping.return_discount", 1.5, "a number <= 1"),
    ("shaping.box_cox", -1.0, "a number >= 0"),
    ("shaping.task_reward_form", "mean", "one of 'normalised' or 'centred'"),
    ("shaping.keep_states", 0.1, "1.0 with objective.estimator='sampled', which does not read"),
    ("shaping.forward_kl", 1.0, "0.0 with objective.estimator='sampled', which does not read"),
]


@pytest.mark.parametrize("field, value, expected", WRONG_VALUE)
def test_wrong_values(field, value, expected):
    with pytest.raises(ValueError) as error:
        from_config_dict(make(**{field.replace(".", "__"): value}))
    assert str(error.value).startswith(f"config.{field}={value!r}: expected {expected}")


WRONG_TOGETHER = [
    ({"method": "grpo"}, r"config\.rollout\.samples_per_prompt=1: expected >= 2 for grpo"),
    ({"name": ""}, r"config\.name and config\.student must be set"),
    ({"student": ""}, r"config\.name and config\.student must be set"),
    ({"domains": {}}, r"config\.domains is empty"),
    (
        {"domains__math__reward": ""},
        r"config\.domains\.math\.reward must be set: expected 'math', 'code', 'none', or 'package",
    ),
    (
        {"method": "grpo", "rollout__samples_per_prompt": 2, "domains__math__reward": "none"},
        r"config\.domains\.math\.reward='none': expected one that verifies answers",
    ),
    ({"domains__math__train": ""}, r"config\.domains\.math\.train must be set"),
    ({"domains__math": {"test": "a"}}, r"config\.domains\.math\.train must be set"),
    ({"domains__math__test": ""}, r"config\.domains\.math: test or held_out must be set"),
    (
        {"domains__math__held_out": 0.1},
        r"config\.domains\.math\.held_out=0\.1: expected no other test set, but .*set one of",
    ),
    (
        {"domains__math__test": "", "domains__math__held_out": 1.5},
        r"held_out=1\.5: expected a share below 1, or a whole number",
    ),
    (
        {"domains__math__teacher": ""},
        r"config\.domains\.math\.teacher must be set: method gopd needs a teacher for every domain",
    ),
    (
        {"objective__estimator": "full", "shaping__box_cox": 5.0},
        r"config\.shaping\.box_cox=5\.0: expected 0\.0 with .*'full', whose loss has no advantage",
    ),
    (
        {"objective__estimator": "full", "shaping__gate_tau": 1.0},
        r"config\.shaping\.gate_tau=1\.0: expected 0\.0 with .*'full', whose loss has no",
    ),
    (
        {"objective__estimator": "jsd", "shaping__forward_kl": 1.0},
        r"config\.shaping\.forward_kl=1\.0: expected 0\.0 with .*'jsd', which has a forward KL",
    ),
    (
        {"learner__reward_scale": 1.0, "shaping__gate_tau": 1.0},
        r"config\.shaping\.gate_tau=1\.0: expected 0\.0 with lambda 1 in every domain",
    ),
    (
        {"learner__truncation": "mask", "shaping__truncation_penalty": 0.5},
        r"config\.shaping\.truncation_penalty=0\.5: expected 0\.0 with learner\.truncation='mask'",
    ),
    (
        {"method": "sft", "shaping__truncation_penalty": 0.5},
        r"config\.shaping\.truncation_penalty=0\.5: expected 0\.0 with method 'sft'",
    ),
    (
        {"method": "sft", "shaping__kl_coefficient": 0.5},
        r"config\.shaping\.kl_coefficient=0\.5: expected 0\.0 with method 'sft', which it does not",
    ),
    (
        {"shaping__task_reward": 0.5},
        r"config\.rollout\.samples_per_prompt=1: expected >= 2 for shaping\.task_reward",
    ),
    (
        {"shaping__task_reward": 0.5, "domains__math__reward": "none"},
        r"math\.reward='none': expected one that .*, because shaping\.task_reward=0\.5",
    ),
]


@pytest.mark.parametrize("changes, message", WRONG_TOGETHER)
def test_values_that_do_not_go_together(changes, message):
    with pytest.raises(ValueError, match=message):
        from_config_dict(make(**changes))


JUST_ALLOWED = [
    {"learner__warmup_steps": 99, "learner__updates_per_batch": 2, "learner__row_length": 18432},
    {"method": "grpo", "rollout__samples_per_prompt": 2, "domains__math__teacher": ""},
    {"method": "sft", "domains__math__teacher": "", "learner__reward_scale": 0.0},
    {"method": "sft", "shaping__prefix_limit": 100, "shaping__position_half_life": 50},
    {"objective__estimator": "full", "shaping__keep_states": 0.1, "shaping__forward_kl": 1.0},
    {"objective__estimator": "sampled_baseline", "shaping__box_cox": 5.0},
    {"learner__reward_scale": 1.0, "shaping__gate_tau": 1.0, "shaping__reward_scale_steps": 5},
]


@pytest.mark.parametrize("changes", JUST_ALLOWED)
def test_what_is_just_allowed(changes):
    from_config_dict(make(**changes))


def test_config_cannot_be_changed_afterwards():
    config = from_config_dict(make())
    assert isinstance(config, Config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 3


def test_the_reference_in_the_documentation_is_current():
    page = Path(__file__).parents[1] / "docs" / "configuration.md"
    made_by = "python -m gopd_jax.config > docs/configuration.md"
    assert page.read_text(encoding="utf-8") == reference() + "\n", f"write it anew: {made_by}"


def test_the_reference_shows_every_setting_with_a_meaning():
    text, fields = reference(), list(schema.reference(Config))
    assert len(fields) > 50
    assert {"seed", "rollout.top_p", "domains.NAME.teacher"} <= {f.name for f in fields}
    for field in fields:
        assert f"\n- `{field.name}` ({field.kind}; default {field.default}): " in text
        assert field.meaning.endswith("."), field.name
