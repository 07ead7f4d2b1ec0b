"""What is installed: files of a wheel, the console command, the lock file, the choice of JAX."""

import os
from pathlib import Path
import re
import shutil
import site
import subprocess
import sys
import venv
import zipfile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
import pytest

import gopd_jax
from gopd_jax.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("configs", "gopd_jax")
BUILT_FROM_FILES = ("LICENSE", "README.md", "pyproject.toml", "requirements.txt", "setup.py")
ACCELERATORS = ("cuda12", "cuda13", "tpu")


# ---- The wheel.


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of a copy of this checkout, so that nothing is written beside the sources."""
    source = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in BUILT_FROM_FILES:
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command += [f"--wheel-dir={source / 'dist'}", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (source / "dist").glob("*.whl")
    return path


def test_a_wheel_has_every_file_of_the_package_and_the_configs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [p for p in (ROOT / "gopd_jax").rglob("*") if p.is_file()]
    expected = {str(p.relative_to(ROOT)) for p in files if "__pycache__" not in p.parts}
    expected |= {f"gopd_jax/configs/{p.name}" for p in (ROOT / "configs").glob("*.py")}
    assert packed == expected
    assert "gopd_jax/report/web/page.js" in packed  # not only Python: the report's page and models
    assert "gopd_jax/tiny/models/base/model.safetensors" in packed


def test_a_wheel_has_the_console_command_and_the_bounds(wheel):
    with zipfile.ZipFile(wheel) as archive:
        read = {Path(n).name: archive.read(n).decode() for n in archive.namelist() if "info/" in n}
    assert "gopd = gopd_jax.__main__:main" in read["entry_points.txt"]
    needed = re.findall(r"^Requires-Dist: (.*)$", read["METADATA"], re.MULTILINE)
    always = {str(r) for r in map(Requirement, needed) if r.marker is None}
    assert always == {str(r) for r in bounds("requirements.txt")}
    extras = re.findall(r"^Provides-Extra: (.*)$", read["METADATA"], re.MULTILINE)
    assert sorted(extras) == sorted(ACCELERATORS)


@pytest.mark.slow
def test_an_installed_wheel_trains_and_reports_in_an_empty_folder(wheel, tmp_path):
    """A new environment has the wheel; its dependencies are those of this environment."""
    venv.create(tmp_path / "venv", with_pip=False)
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    python, gopd = (tmp_path / "venv" / "bin" / name for name in ("python", "gopd"))
    install = [sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, str(wheel)], check=True, timeout=300)
    folder = tmp_path / "empty"
    folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"JAX_PLATFORMS": "cpu"}

    def run(*arguments):
        command = [str(gopd), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    where = [str(python), "-c", "import gopd_jax; print(gopd_jax.__file__)"]
    loaded = subprocess.run(where, cwd=folder, env=environment, capture_output=True, text=True)
    assert loaded.stdout.strip() == str(packages / "gopd_jax" / "__init__.py")
    assert all(f"  {name} " in run("--help") for name in COMMANDS)
    for name in COMMANDS:
        assert f"gopd {name}" in run(name, "--help")
    assert str(packages / "gopd_jax" / "configs" / "math.py") in run(
        "train", "--config=math", "--help"
    )
    run("train", "--config=math", "--config.steps=2", "--config.eval.prompts=64")
    assert "math_tiny: finished" in run("report", "runs/math_tiny")
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "runs"]


def test_the_version_is_the_same_everywhere(wheel):
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert wheel.name.split("-")[1] == cited.group(1) == gopd_jax.__version__


# ---- The lock file.


def lines(path):
    text = (line.split("#")[0].strip() for line in (ROOT / path).read_text().splitlines())
    return [line for line in text if line]


def bounds(path):
    return [Requirement(line) for line in lines(path) if not line.startswith("-r ")]


def test_the_lock_file_pins_what_is_bounded_to_a_version_within_the_bounds():
    pins = {}
    for line in lines("requirements.lock"):
        name, version = re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups()
        assert pins.setdefault(canonicalize_name(name), version) == version
    for requirement in bounds("requirements.txt") + bounds("tests/requirements.txt"):
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}, locked: {version}"


def test_every_requirement_has_a_lower_bound():
    for requirement in bounds("requirements.txt") + bounds("tests/requirements.txt"):
        assert {s.operator for s in requirement.specifier} & {">=", "=="}, requirement


# ---- The choice of JAX.


@pytest.fixture
def device(tmp_path):
    """Runs scripts/device.sh on a machine that has what it is told, and returns (out, err)."""

    def run(chosen="", gpus="", driver="", pci=None, **environment):
        tools = tmp_path / "bin"
        tools.mkdir()
        if driver or gpus:
            reply = f'case $1 in *name) printf "{gpus}" ;; *) printf "{driver}" ;; esac'
            fails = f"\nexit {0 if driver else 9}\n"
            (tools / "nvidia-smi").write_text(f"#!/bin/sh\n{reply}{fails}")
            (tools / "nvidia-smi").chmod(0o755)
        for number, (vendor, model) in enumerate(pci or []):
            folder = tmp_path / f"sys/bus/pci/devices/{number}"
            folder.mkdir(parents=True)
            (folder / "vendor").write_text(f"{vendor}\n")
            (folder / "device").write_text(f"{model}\n")
        path = f"{tools}:/usr/bin:/bin"
        command = [str(ROOT / "scripts" / "device.sh"), chosen, str(tmp_path)]
        done = subprocess.run(
            command, env={"PATH": path} | environment, capture_output=True, text=True
        )
        assert done.returncode == (2 if done.stderr else 0)
        return done.stdout.strip() or done.stderr.strip()

    return run


H100 = r"NVIDIA H100\nNVIDIA H100\n"
TPU, NETWORK = ("0x1ae0", "0x0063"), ("0x1ae0", "0x0042")
CASES = {
    "nothing": ({}, "cpu cpu no NVIDIA GPU and no TPU were found"),
    "two GPUs": (
        {"gpus": H100, "driver": r"580.65.06\n580.65.06\n", "pci": [TPU]},
        "cuda13 cuda,cpu nvidia-smi lists 2 x NVIDIA H100, driver 580.65.06",
    ),
    "older driver": (
        {"gpus": "Tesla T4", "driver": "550.54.14"},
        "cuda12 cuda,cpu nvidia-smi lists 1 x Tesla T4, driver 550.54.14 is below the 580 of CUDA "
        "13",
    ),
    "no driver": (
        {"gpus": "NVIDIA-SMI has failed"},
        "cpu cpu no NVIDIA GPU and no TPU were found",
    ),
    "TPU": ({"pci": [NETWORK, TPU]}, "tpu tpu,cpu a TPU is on the PCI bus"),
    "Google's network card": ({"pci": [NETWORK]}, "cpu cpu no NVIDIA GPU and no TPU were found"),
    "the environment": (
        {"gpus": H100, "driver": "580.1", "JAX_PLATFORMS": "cpu"},
        "cpu cpu JAX_PLATFORMS=cpu",
    ),
    "DEVICE before the environment": (
        {"chosen": "tpu", "JAX_PLATFORMS": "cpu"},
        "tpu tpu,cpu DEVICE=tpu",
    ),
    "cuda by the driver": (
        {"chosen": "cuda", "gpus": H100, "driver": "580.1"},
        "cuda13 cuda,cpu DEVICE=cuda, driver 580.1",
    ),
    "cuda without a driver": (
        {"chosen": "cuda"},
        "cuda13 cuda,cpu DEVICE=cuda, the version of the driver is unknown",
    ),
    "cuda12": ({"chosen": "cuda12"}, "cuda12 cuda,cpu DEVICE=cuda12"),
    "unknown": (
        {"chosen": "rocm"},
        "error: DEVICE=rocm: expected cpu, cuda, cuda12, cuda13 or tpu",
    ),
}


@pytest.mark.parametrize("machine, said", CASES.values(), ids=CASES)
def test_the_device_is_what_the_machine_has(device, machine, said):
    assert device(**machine) == said


@pytest.mark.parametrize("name", ["cpu", *ACCELERATORS])
def test_make_train_installs_and_uses_that_jax(name, tmp_path):
    """In a copy of the Makefile: make -n says what it would run."""
    for file in ("Makefile", "requirements.txt", "requirements.lock"):
        shutil.copy(ROOT / file, tmp_path)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    command = ["make", "-n", "train", f"DEVICE={name}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    extra = "" if name == "cpu" else f' "jax[{name}]"'
    install = f"--constraint requirements.lock -r requirements.txt{extra}"
    assert install in done.stdout
    platforms = {"cpu": "cpu", "tpu": "tpu,cpu"}.get(name, "cuda,cpu")
    assert f"JAX_PLATFORMS={platforms} .venv/bin/python -m gopd_jax.train" in done.stdout
    assert f'echo "== device: {name} (DEVICE={name})"' in done.stdout
    assert ("JAX found only the CPU" in done.stdout) == (name != "cpu")


def test_make_train_ends_where_jax_has_no_such_device(tmp_path):
    """The packages of JAX for CUDA are as if installed; there is no GPU."""
    for file in ("Makefile", "requirements.txt", "requirements.lock"):
        shutil.copy(ROOT / file, tmp_path)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (tmp_path / ".venv" / "installed-cuda13").touch()
    command = ["make", "--no-print-directory", "train", "DEVICE=cuda13"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stdout.splitlines() == ["== device: cuda13 (DEVICE=cuda13)"]
    assert done.stderr.startswith(
        "error: cuda13: JAX found only the CPU; expected a working driver"
    )
