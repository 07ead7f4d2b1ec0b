"""The compilation cache: where it is, what is found in it, and that trouble with it is no error."""

import os
from pathlib import Path
import subprocess
import sys

import jax
import pytest

from gopd_jax.runtime import compilation_cache
from gopd_jax.runtime.compilation_cache import machine, use_compilation_cache, where

ROOT = Path(__file__).parents[2]
# Prints where the cache is, what was taken from it, and a result to the bit.
PROGRAM = """
import sys
from gopd_jax.runtime.compilation_cache import use_compilation_cache, where
use_compilation_cache(*sys.argv[1:])
import jax, numpy as np
from gopd_jax.runtime.metrics import compilations, compilations_cached
x = np.arange(300, dtype=np.float32).reshape(10, 30) / 7
y = jax.jit(lambda x: jax.nn.softmax(x @ x.T).sum(0))(x)
print(where(), compilations(), compilations_cached(), np.asarray(y).tobytes().hex())
"""


def start(*arguments, **environment):
    environment = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} | environment
    given = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMP", "GOPD_CACHE"))}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        cwd=ROOT,
        env=given | {"JAX_PLATFORMS": "cpu"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Folder, number of programs, number of those from the cache, result; and what was said."""
    out, said = process.communicate(timeout=100)
    assert process.returncode == 0, said
    folder, made, cached, result = out.split()
    return (folder, int(made), int(cached), result), said


@pytest.mark.slow
def test_a_second_process_finds_the_programs_and_a_damaged_one_is_replaced(tmp_path):
    # Two that write at the same time do not disturb one another.
    (first, said), (other, also) = map(finish, [start(tmp_path) for _ in range(2)])
    folder, made, _, result = first
    assert said == also == "" and other[3] == result
    assert folder == str(tmp_path / machine()) and made > 0
    assert finish(start(tmp_path)) == ((folder, made, made, result), "")

    entries = list(Path(folder).glob("*-cache"))
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:-20])
    (_, _, cached, again), said = finish(start(tmp_path))
    assert again == result and cached == 0
    lines = said.splitlines()
    assert len(lines) == len(entries) == made
    assert all(line.startswith("warning: compilation cache: damaged entry of") for line in lines)

    # JAX writes the time of use last; a process that was killed before has left none.
    killed = entries[0].with_name(entries[0].name.removesuffix("-cache") + "-atime")
    killed.unlink()
    assert finish(start(tmp_path)) == ((folder, made, made - 1, result), "")
    assert finish(start(tmp_path)) == ((folder, made, made, result), "")


@pytest.mark.slow
def test_the_variables_of_jax_win_then_gopd_cache_then_the_setting(tmp_path):
    given, moved, jaxs = (tmp_path / name for name in ("given", "moved", "jax"))
    processes = [
        start(GOPD_CACHE=str(moved)),
        start(given, GOPD_CACHE=str(moved)),
        start("off", GOPD_CACHE=str(moved)),
        start(given, GOPD_CACHE="off"),
        start("off", GOPD_CACHE="off", JAX_COMPILATION_CACHE_DIR=str(jaxs)),
        start(given, JAX_ENABLE_COMPILATION_CACHE="false"),
        start(XDG_CACHE_HOME=str(tmp_path)),
    ]
    assert [finish(p)[0][0] for p in processes] == [
        str(moved / "compiled" / machine()),
        str(given / machine()),
        "off",
        "off",
        str(jaxs),
        "off",
        str(tmp_path / "gopd_jax/compiled" / machine()),
    ]


@pytest.fixture
def own_settings(monkeypatch):
    """JAX's settings of the cache, put back after the test, and no variable that decides them."""
    monkeypatch.delenv("GOPD_CACHE")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    names = (
        "jax_compilation_cache_dir",
        "jax_compilation_cache_max_size",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_enable_xla_caches",
    )
    old = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in old.items():
        jax.config.update(name, value)


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path, capsys, own_settings):
    (tmp_path / "file").write_text("")
    use_compilation_cache(str(tmp_path / "file"))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("warning: compilation cache ")
    assert str(tmp_path / "file") in said and where() == "off"


def test_the_folder_is_limited(tmp_path, own_settings):
    use_compilation_cache(str(tmp_path))
    assert where() == str(tmp_path / machine())
    assert jax.config.jax_compilation_cache_max_size == compilation_cache.MAX_BYTES


def test_machines_with_other_processors_or_cores_do_not_share_programs(monkeypatch):
    names, here = {machine()}, len(os.sched_getaffinity(0))
    for cores in (set(range(here + 1)), set(range(here + 64))):
        machine.cache_clear()
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: cores)
        names.add(machine())
    text = Path("/proc/cpuinfo").read_text()
    fewer = text.replace(" avx2", "").replace(" asimd", "")
    assert fewer != text
    machine.cache_clear()
    monkeypatch.setattr(Path, "read_text", lambda _: fewer)
    names.add(machine())
    machine.cache_clear()
    assert len(names) == 4
