"""Where results are kept for later runs."""

from pathlib import Path

import pytest

from gopd_jax.runtime.user_cache import cache_folder


@pytest.fixture
def environment(monkeypatch):
    def set_to(**values):
        for name in ("GOPD_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_to


@pytest.mark.parametrize(
    "values, folder",
    [
        ({"HOME": "/home/ada"}, "/home/ada/.cache/gopd_jax/things"),
        ({"HOME": "/home/ada", "GOPD_CACHE": ""}, "/home/ada/.cache/gopd_jax/things"),
        ({"HOME": "/home/ada", "XDG_CACHE_HOME": "/c"}, "/c/gopd_jax/things"),
        ({"HOME": "/home/ada", "XDG_CACHE_HOME": "c"}, "/home/ada/.cache/gopd_jax/things"),
        ({"GOPD_CACHE": "/d", "XDG_CACHE_HOME": "/c"}, "/d/things"),
        ({"GOPD_CACHE": "gs://bucket/d"}, "gs://bucket/d/things"),
    ],
)
def test_the_folder_of_the_user(environment, values, folder):
    environment(**values)
    assert str(cache_folder("things")) == folder


def test_it_can_be_switched_off(environment):
    environment(GOPD_CACHE="off")
    assert cache_folder("things") is None


def test_without_a_home_nothing_is_kept(environment, monkeypatch):
    environment()
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert cache_folder("things") is None
    assert Path("~").exists() is False
