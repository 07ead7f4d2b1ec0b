"""Landlock: what programs may read, each version of the interface, the project's own folder."""

import json
from pathlib import Path
import subprocess
import sys

import pytest

from gopd_jax.rewards.sandbox import landlock
from gopd_jax.rewards.verifier import Verdict, Verifier

ROOT = Path(__file__).parents[3]
NEEDS_INSTALLATION = """
import sqlite3, json.tool, colorsys, numpy
def f():
    return [len('ab'), json.dumps({}), numpy.mean([2, 4])]
"""
RESTRICTED = """
import os, pathlib, sys
from gopd_jax.rewards.sandbox import landlock
folder = pathlib.Path(sys.argv[1])
ruleset = landlock.rules([str(folder / "in"), str(folder / "absent")], int(sys.argv[2]))
assert ruleset is not None and landlock.restrict(ruleset) and (folder / "in/a").read_text() == "x"
for path, mode in (("b", "r"), ("in/c", "w"), ("in/a", "w")):
    try:
        open(folder / path, mode)
    except PermissionError:
        continue
    os._exit(1)
"""


@pytest.mark.skipif(landlock.version() < 1, reason="needs Landlock: Linux 5.13 or newer")
def test_programs_can_use_what_they_need():
    """The Python installation stays readable: its modules, and installed packages."""
    spec = {"asserts": "assert f() == [2, '{}', 3.0]"}
    with Verifier(timeout_s=5.0) as verify:
        verdicts = verify([("code", NEEDS_INSTALLATION, json.dumps(spec))])
    assert verdicts == [Verdict(1.0, "correct")]


@pytest.mark.parametrize("abi", range(1, landlock.version() + 1))
def test_every_version_of_landlock(abi, tmp_path):
    """Older kernels know fewer rights; they refuse those that they know all the same."""
    (tmp_path / "in").mkdir()
    for name in ("in/a", "b"):
        (tmp_path / name).write_text("x")
    command = [sys.executable, "-c", RESTRICTED, str(tmp_path), str(abi)]
    subprocess.run(command, check=True, cwd=ROOT)


def test_the_projects_own_folder_is_cut_out_of_a_readable_one(tmp_path, monkeypatch):
    for name in ("site-packages/gopd_jax/data", "site-packages/numpy", "site-packages/other"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(landlock.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(landlock.sys, "path", [])
    found = landlock.readable(str(tmp_path / "site-packages/gopd_jax"))
    mine = sorted(path for path in found if path.startswith(str(tmp_path)))
    assert mine == [str(tmp_path / "site-packages/numpy"), str(tmp_path / "site-packages/other")]
