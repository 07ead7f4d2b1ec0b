import os
from pathlib import Path
import signal
import subprocess
import sys

import jax
import pytest

ROOT = Path(__file__).parents[1]


# Tests neither read nor write the user's folder; those of the cache name a folder of their own.
os.environ["GOPD_CACHE"] = "off"

# A shell that starts the tests in the background has them, and what they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    """Compiles quickly in the default run; the long tests, and XLA_FLAGS="", run as users do.

    Most seconds of the tests go to compiling small programs that run once. XLA's own passes stay as
    they are; LLVM's are left out.
    """
    if config.option.markexpr == "not slow":
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.fixture
def run_on_fake_devices():
    """Runs a Python program in a process that sees `count` CPU devices, and returns its stdout.

    The test fails with the program's output when the program does.
    """

    def run(program: str, *args: object, count: int = 8) -> str:
        devices = f"--xla_force_host_platform_device_count={count}"
        paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        env = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {devices}",
            "PYTHONPATH": os.pathsep.join(paths),
        }
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, args)],
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """A folder of this test run, the same for all of its workers."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def shared_compilations(shared_folder):
    """Keeps compiled programs on disk for the whole test run, and for processes that it starts."""
    folder = str(shared_folder / "compiled")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
