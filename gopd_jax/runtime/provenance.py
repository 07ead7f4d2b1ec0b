"""What a run was made with: versions, devices, git commit, command line."""

from importlib import metadata
import pathlib
import platform
import subprocess
import sys
import time

import jax

import gopd_jax
from gopd_jax.runtime import compilation_cache
from gopd_jax.runtime.files import JsonObject

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "transformers",
    "tensorflow-datasets",
    "grain",
    "math-verify",
)


def record() -> JsonObject:
    """A JSON record of this start."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "gopd_jax": gopd_jax.__version__,
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changed": _git("status", "--porcelain", "--untracked-files=no") not in ("", None),
        "python": platform.python_version(),
        "packages": {p: metadata.version(p) for p in PACKAGES},
        "devices": [str(d.device_kind) for d in jax.devices()],
        "processes": jax.process_count(),
        "compilation_cache": compilation_cache.where(),
    }


def _git(*args: str) -> str | None:
    try:
        out = subprocess.run(
            ["git", "-C", str(pathlib.Path(gopd_jax.__file__).parent), *args],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() if out.returncode == 0 else None
