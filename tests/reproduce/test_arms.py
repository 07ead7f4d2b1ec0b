"""The arms of the paper's tables: each can be made, after what it needs, and is shown somewhere."""

import pytest

from gopd_jax.reproduce import arms, shown, work
from gopd_jax.reproduce.folder import model_folder


def test_every_arm_makes_a_config_and_stands_after_what_it_needs(tmp_path):
    seen = set()
    for arm in arms.chosen(arms.GROUPS):
        assert set(arm.needs) <= seen, arm.name
        seen.add(arm.name)
        if arm.kind in ("given", "expo", "optimum"):
            continue
        config = work.to_config(arm, 3, str(tmp_path), arms.Size())
        assert config.method == arm.kind and config.seed == 3
        assert config.student == model_folder(arm.student, 3, str(tmp_path))
        if arm.kind == "gopd":
            assert config.learner.reward_scale == dict(arm.settings)["learner.reward_scale"]
        teachers = [model_folder(t, 3, str(tmp_path)) for t in arm.teachers] or [""]
        expected = dict(zip(arm.domains, teachers, strict=True))
        assert {name: d.teacher for name, d in config.domains.items()} == expected
    assert seen == set(arms.ARMS)


def test_only_the_corrected_arm_has_another_reference():
    references = {arm.name: arm.reference for arm in arms.ARMS.values() if arm.reference}
    assert references == {"corrected_large": "large_base"}


def test_tables_and_claims_name_arms_that_exist():
    in_tables = {row.arm for _, rows in shown.TABLES.values() for row in rows}
    compared = {name for claim in shown.CLAIMS for name in (claim.above, claim.below)}
    assert compared <= set(arms.ARMS)
    assert in_tables == set(arms.ARMS), "an arm that no table shows"
    assert set(shown.TABLES) == set(arms.GROUPS)


def test_an_unknown_group_is_named_with_the_choices():
    with pytest.raises(ValueError, match="table9: expected some of table2"):
        arms.chosen(("table2", "table9"))
