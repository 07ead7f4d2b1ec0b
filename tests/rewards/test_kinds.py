"""The table of kinds agrees with the choices that the settings offer."""

from typing import get_args

from gopd_jax.rewards.kinds import KINDS
from gopd_jax.rewards.settings import RewardKind


def test_the_settings_offer_the_kinds_of_the_table():
    assert get_args(RewardKind) == tuple(KINDS)
