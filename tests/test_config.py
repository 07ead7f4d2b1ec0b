"""Configuration: the paper's defaults, and every mistake refused with a sentence that helps."""

import dataclasses

import pytest

from gopd_jax.config import FREE_FIELDS, Config, default, differing_fields, domain, from_config_dict


def make(**changes):
    """The smallest valid config, as a config file builds it; `changes` by dotted name, "__" for the dot."""
    config = default()
    config.name, config.student = "run", "student"
    config.domains.math = domain(train="train.jsonl", test="test.jsonl", teacher="teacher")
    with config.unlocked(), config.ignore_type():
        for name, value in changes.items():
            *parts, last = name.split("__")
            node = config
            for part in parts:
                node = node[part]
            node[last] = value
    return config


def test_defaults_are_the_papers_settings():
    """Table of section 3 of the method: G-OPD."""
    config = from_config_dict(make())
    assert (config.method, config.steps, config.learner.updates_per_batch) == ("gopd", 50, 1)
    assert config.learner.reward_scale == config.reward_scale("math") == 1.25
    rollout = config.rollout
    assert (rollout.prompts_per_step, rollout.samples_per_prompt) == (1024, 1)
    assert (config.data.max_prompt_tokens, rollout.max_response_tokens) == (2048, 16384)
    assert (rollout.temperature, rollout.top_p, rollout.top_k) == (1.0, 1.0, 0)
    learner = config.learner
    assert (learner.learning_rate, learner.schedule, learner.warmup_steps) == (1e-5, "constant", 0)
    assert (learner.b1, learner.b2, learner.weight_decay, learner.clip_norm) == (
        0.9,
        0.999,
        0.01,
        1.0,
    )
    assert (learner.clip_low, learner.clip_high, learner.dual_clip, learner.importance_cap) == (
        0.2,
        0.28,
        3.0,
        5.0,
    )
    assert not config.data.enable_thinking and config.reference == ""
    assert config.row_length == config.longest == 2048 + 16384


def test_config_dict_and_dataclass_agree():
    config = from_config_dict(
        make(learner__reward_scale=1.5, rollout__extra_stop_ids=(3, 4), mesh__tensor=2)
    )
    assert (config.learner.reward_scale, config.rollout.extra_stop_ids, config.mesh.tensor) == (
        1.5,
        (3, 4),
        2,
    )
    again = default()
    again.update(dataclasses.asdict(config))
    again.rollout.extra_stop_ids = config.rollout.extra_stop_ids
    with again.unlocked():
        again.domains.math = domain(**dataclasses.asdict(config.domains["math"]))
    assert from_config_dict(again) == config


def test_lambda_of_each_teacher():
    config = make(learner__reward_scale=1.1)
    for name, scale in (("code", 1.5), ("zero", 0.0), ("whole", 1)):
        config.domains[name] = domain(train="a", test="b", teacher="c", reward_scale=scale)
    config = from_config_dict(config)
    assert [config.reward_scale(d) for d in ("math", "code", "zero", "whole")] == [
        1.1,
        1.5,
        0.0,
        1.0,
    ]
    assert isinstance(config.domains["whole"].reward_scale, float)


def test_lambda_of_a_teacher_can_be_set_on_the_command_line():
    config = make()
    assert config.domains.math.reward_scale is None
    config.domains.math.reward_scale = 1.75  # what --config.domains.math.reward_scale=1.75 does
    assert from_config_dict(config).reward_scale("math") == 1.75


UNKNOWN = [
    (
        "learner__reward_scal",
        r"config\.learner\.reward_scal: no such field; did you mean 'reward_scale'\?.*Known: .*aggregation",
    ),
    ("rollouts", r"config\.rollouts: no such field; did you mean 'rollout'\?"),
    (
        "domains__math__teachr",
        r"config\.domains\.math\.teachr: no such field; did you mean 'teacher'\?",
    ),
    ("mesh__zzzz", r"config\.mesh\.zzzz: no such field Known: data, fsdp, tensor"),
]


@pytest.mark.parametrize("name, message", UNKNOWN)
def test_unknown_fields_name_the_nearest(name, message):
    with pytest.raises(ValueError, match=message):
        from_config_dict(make(**{name: 1}))


def test_unknown_field_of_a_domain_is_found_in_the_config_file():
    with pytest.raises(
        ValueError, match=r"DomainSettings\.suffix: no such field; did you mean 'prompt_suffix'\?"
    ):
        domain(train="a", test="b", suffix="x")


WRONG_TYPE = [
    ("steps", 1.5, r"config\.steps=1\.5: wanted int, not float"),
    ("steps", True, r"config\.steps=True: wanted int, not bool"),
    (
        "learner__learning_rate",
        "1e-5",
        r"config\.learner\.learning_rate='1e-5': wanted float, not str",
    ),
    ("learner__remat", 1, r"config\.learner\.remat=1: wanted bool, not int"),
    ("student", None, r"config\.student=None: wanted str, not NoneType"),
    ("learner", 3, r"config\.learner=3: wanted fields of LearnerSettings"),
    ("rollout__extra_stop_ids", 3, r"config\.rollout\.extra_stop_ids=3: wanted a tuple"),
    (
        "rollout__extra_stop_ids",
        ("a",),
        r"config\.rollout\.extra_stop_ids='a': wanted int, not str",
    ),
    (
        "domains__math__reward_scale",
        "x",
        r"config\.domains\.math\.reward_scale='x': wanted float, not str",
    ),
]


@pytest.mark.parametrize("name, value, message", WRONG_TYPE)
def test_wrong_types(name, value, message):
    with pytest.raises(ValueError, match=message):
        from_config_dict(make(**{name: value}))


def test_whole_numbers_are_numbers():
    assert from_config_dict(make(learner__reward_scale=1)).learner.reward_scale == 1.0


WRONG_VALUE = [
    ({"method": "ppo"}, r"config\.method='ppo': wanted one of \['gopd', 'grpo', 'sft'\]"),
    ({"compute_dtype": "float16"}, r"config\.compute_dtype='float16': wanted one of"),
    (
        {"learner__aggregation": "mean"},
        r"config\.learner\.aggregation='mean': wanted one of \['token-mean'",
    ),
    (
        {"learner__truncation": "cut"},
        r"config\.learner\.truncation='cut': wanted one of \['keep', 'mask', 'drop'\]",
    ),
    (
        {"learner__schedule": "step"},
        r"config\.learner\.schedule='step': wanted one of \['constant', 'cosine', 'linear'\]",
    ),
    ({"steps": 0}, r"config\.steps=0: wanted a number >= 1"),
    ({"learner__reward_scale": -0.5}, r"config\.learner\.reward_scale=-0\.5: wanted a number >= 0"),
    (
        {"learner__reward_scale": float("nan")},
        r"config\.learner\.reward_scale=nan: wanted a number >= 0",
    ),
    ({"learner__dual_clip": 0.5}, r"config\.learner\.dual_clip=0\.5: wanted a number >= 1"),
    ({"rollout__slots": 0}, r"config\.rollout\.slots=0: wanted a number >= 1"),
    (
        {"rollout__slots": 2, "rollout__samples_per_prompt": 3},
        r"samples_per_prompt=3: wanted at most config\.rollout\.slots=2",
    ),
    (
        {"rollout__slots": 2, "eval__samples": 4},
        r"config\.eval\.samples=4: wanted at most config\.rollout\.slots=2",
    ),
    (
        {"rollout__kv_cache": "int4"},
        r"rollout kv_cache='int4': wanted one of \['compute', 'int8'\]",
    ),
    ({"rollout__steps_per_dispatch": 0}, r"rollout steps_per_dispatch=0: wanted a number >= 1"),
    ({"rollout__top_p": 0.0}, r"top_p=0\.0: wanted a number in \(0, 1\]"),
    ({"eval__temperature": -1.0}, r"temperature=-1\.0: wanted a number >= 0"),
    ({"name": ""}, r"config\.name and config\.student must be set"),
    ({"student": ""}, r"config\.name and config\.student must be set"),
    ({"domains": {}}, r"config\.domains is empty"),
    ({"domains__math__train": ""}, r"config\.domains\.math\.train must be set"),
    ({"domains__math__test": ""}, r"config\.domains\.math: test or held_out must be set"),
    (
        {"domains__math__held_out": 0.1},
        r"config\.domains\.math\.held_out=0\.1: has a test of its own, .*; wanted one of the two",
    ),
    (
        {"domains__math__test": "", "domains__math__held_out": 1.5},
        r"held_out=1\.5: wanted a share below 1, or a whole number",
    ),
    (
        {"domains__math__min_difficulty": -1.0},
        r"config\.domains\.math\.min_difficulty=-1\.0: wanted a number >= 0",
    ),
    (
        {"domains__math__teacher": ""},
        r"config\.domains\.math has no teacher: method gopd wants one for every domain",
    ),
    (
        {"domains__math__reward_scale": -1.0},
        r"config\.domains\.math\.reward_scale=-1\.0: wanted a number >= 0",
    ),
    ({"domains__math__share": 0.0}, r"config\.domains\.math\.share=0\.0: wanted a number > 0"),
    (
        {"learner__warmup_steps": 50},
        r"config\.learner\.warmup_steps=50: wanted fewer than the 50 updates of the run",
    ),
    ({"method": "grpo"}, r"config\.rollout\.samples_per_prompt=1: wanted >= 2.*grpo"),
    (
        {"learner__updates_per_batch": 3},
        r"config\.learner\.updates_per_batch=3 does not divide 1024 rollouts",
    ),
    (
        {"learner__row_length": 18431},
        r"config\.learner\.row_length=18431: wanted >= 18432 \(prompt \+ response limit\), or 0",
    ),
]


@pytest.mark.parametrize("changes, message", WRONG_VALUE)
def test_wrong_values_and_combinations(changes, message):
    with pytest.raises(ValueError, match=message):
        from_config_dict(make(**changes))


def test_what_is_just_allowed():
    from_config_dict(
        make(learner__warmup_steps=99, learner__updates_per_batch=2, learner__row_length=18432)
    )
    from_config_dict(make(method="grpo", rollout__samples_per_prompt=2, domains__math__teacher=""))
    from_config_dict(make(method="sft", domains__math__teacher="", learner__reward_scale=0.0))


def test_missing_fields_are_named():
    with pytest.raises(ValueError, match=r"config\.domains\.math\.train must be set"):
        from_config_dict(make(domains__math={"test": "a"}))


def test_differing_fields_leaves_out_what_may_differ():
    old = dataclasses.asdict(from_config_dict(make()))
    free = {
        "name": "other",
        "checkpoint__every": 3,
        "log__samples": 0,
        "mesh__tensor": 4,
        "rollout__slots": 8,
        "rollout__steps_per_dispatch": 8,
        "rollout__prefill_tokens": 8,
        "data__cache_dir": "/cache",
        "verifier__workers": 3,
        "student": "elsewhere",
        "reference": "elsewhere",
        "domains__math__teacher": "elsewhere",
        "domains__math__train": "elsewhere",
        "domains__math__test": "elsewhere",
    }
    assert len(free) == len(FREE_FIELDS)
    assert differing_fields(old, dataclasses.asdict(from_config_dict(make(**free)))) == []
    new = make(
        rollout__temperature=0.5,
        learner__reward_scale=1.5,
        seed=1,
        domains__math__prompt_suffix="!",
    )
    assert differing_fields(old, dataclasses.asdict(from_config_dict(new))) == [
        "domains.math.prompt_suffix: '' -> '!'",
        "learner.reward_scale: 1.25 -> 1.5",
        "rollout.temperature: 1.0 -> 0.5",
        "seed: 0 -> 1",
    ]
    new.domains.code = domain(train="a", test="b", teacher="c")
    assert any(
        line.startswith("domains.code: None -> {")
        for line in differing_fields(old, dataclasses.asdict(from_config_dict(new)))
    )


def test_free_fields_exist():
    fields = dataclasses.asdict(from_config_dict(make()))
    for name in FREE_FIELDS:
        node = fields
        for part in name.replace("*", "math").split("."):
            node = node[part]


def test_config_cannot_be_changed_afterwards():
    config = from_config_dict(make())
    assert isinstance(config, Config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 3
