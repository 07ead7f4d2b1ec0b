"""What accelerators can do, by their published figures, and the devices of a slice described.

In: the name of a slice, such as "v6e:4x4", "h100:8" or "cpu:4". Out: a `Slice`, with devices that
programs can be compiled for. Allocates nothing on them.
"""

import dataclasses
import importlib.util
import math
import os
import re

import jax
from jax.experimental import topologies

from gopd_jax.runtime.memory import host_memory

GIB = 2**30
# Share of a device's memory that a plan leaves free: fragmentation, and what nobody counts.
SPARE = 0.05


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip.

    name: as in the name of a slice.
    kind: "tpu", "gpu" or "cpu".
    flops: bfloat16 operations per second; 0 where nothing is published.
    memory: bytes of one device that a program may use.
    bandwidth: bytes per second between memory and cores.
    network: bytes per second that a chip receives from its slice, all links together.
    devices: of one chip, as JAX shows them.
    """

    name: str
    kind: str
    flops: float
    memory: float
    bandwidth: float
    network: float
    devices: int = 1


# TPU: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, peak compute (bf16), HBM bandwidth,
# inter-chip interconnect; half of what is published as bidirectional. Memory: what libtpu 0.0.42
# lets a program use, from its error when there is too little. The compiler shows the two cores of a
# v4 chip as devices of their own, and so does JAX those of tpu7x.
# GPU: NVIDIA's data sheets of H100 SXM, H200 SXM, A100 80GB SXM and DGX B200: bf16 without
# sparsity, memory, memory bandwidth, NVLink, of which half is received.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", "tpu", 275e12, 15.25 * GIB, 1228e9, 300e9, devices=2),
        Chip("v5e", "tpu", 197e12, 15.75 * GIB, 819e9, 200e9),
        Chip("v5p", "tpu", 459e12, 95.74 * GIB, 2765e9, 600e9),
        Chip("v6e", "tpu", 918e12, 31.25 * GIB, 1638e9, 400e9),
        Chip("tpu7x", "tpu", 2307e12, 94.75 * GIB, 7380e9, 600e9, devices=2),
        Chip("a100", "gpu", 312e12, 80e9, 2039e9, 300e9),
        Chip("h100", "gpu", 989e12, 80e9, 3350e9, 450e9),
        Chip("h200", "gpu", 989e12, 141e9, 4800e9, 450e9),
        Chip("b200", "gpu", 2250e12, 180e9, 8000e9, 900e9),
    )
}
EXAMPLES = "v5e:4x4, v6e:4x4, v5p:2x2x4 or tpu7x:2x2x2 (TPU), h100:8 (GPU), cpu:4 (this machine)"
# What XLA asks of a GPU: cores, KiB of shared memory of a core and of a block, MiB of cache, GHz,
# compute capability, name.
GPUS = {
    "a100": (108, 164, 163, 40, 1.41, (8, 0), "NVIDIA A100-SXM4-80GB"),
    "h100": (132, 228, 227, 50, 1.98, (9, 0), "NVIDIA H100 80GB HBM3"),
    "h200": (132, 228, 227, 50, 1.98, (9, 0), "NVIDIA H200"),
    "b200": (148, 228, 227, 126, 1.965, (10, 0), "NVIDIA B200"),
}
# What a process that describes TPUs needs: there is no metadata server to ask, and several
# processes may describe them at once.
TPU_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """The devices that a run is planned for.

    name: as it was given.
    chips: their number.
    devices: described ones, which run nothing, except on CPU.
    """

    name: str
    chip: Chip
    chips: int
    devices: tuple[jax.Device, ...]

    @property
    def limit(self) -> int:
        """Bytes of one device that a run may use."""
        return round(self.chip.memory * (1 - SPARE))


def devices_of(name: str) -> int:
    """The number of devices of a slice, from its name alone.

    Raises:
        ValueError: not the name of a slice.
    """
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+){0,2})", name)
    kind = found[1] if found else ""
    sizes = [int(size) for size in found[2].split("x")] if found else []
    dimensions = {"tpu": (2, 3), "gpu": (1,), "cpu": (1,)}
    known = "cpu" if kind == "cpu" else CHIPS[kind].kind if kind in CHIPS else ""
    if not known or len(sizes) not in dimensions[known] or 0 in sizes:
        raise ValueError(f"--topology={name}: expected CHIP:SIZE, such as {EXAMPLES}")
    return math.prod(sizes) * (1 if known == "cpu" else CHIPS[kind].devices)


def describe(name: str, memory: float | None = None) -> Slice:
    """The slice of a name.

    Args:
        memory: bytes of one device, in place of the published figure.

    Raises:
        ValueError: not the name of a slice, or what describes it is not installed.
    """
    count, kind = devices_of(name), name.partition(":")[0]
    if kind == "cpu":
        chip = Chip("cpu", "cpu", 0, host_memory() / count, 0, 0)
        devices = jax.devices("cpu")
        if len(devices) < count:
            raise ValueError(
                f"--topology={name}: expected at most {len(devices)}, the CPU devices of this "
                "process"
            )
        devices = devices[:count]
    else:
        chip = CHIPS[kind]
        devices = _gpus(name, chip, count) if chip.kind == "gpu" else _tpus(name)
    if memory is not None:
        chip = dataclasses.replace(chip, memory=memory)
    return Slice(name, chip, count // chip.devices, tuple(devices))


def larger(name: str, times: int = 2) -> list[str]:
    """The next slices of the same TPU, each of twice the size; none of other chips."""
    kind, _, size = name.partition(":")
    if kind not in CHIPS or CHIPS[kind].kind != "tpu":
        return []
    sizes, found = [int(n) for n in size.split("x")], []
    for _ in range(times):
        sizes[sizes.index(min(sizes))] *= 2
        sizes.sort()
        found.append(f"{kind}:{'x'.join(map(str, sizes))}")
    return found


def _tpus(name: str) -> list[jax.Device]:
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"--topology={name}: expected libtpu, the compiler for TPUs, to be installed: "
            "pip install 'gopd_jax[tpu]', or pip install libtpu"
        )
    for variable, value in TPU_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except Exception as e:  # of the compiler's own types, which differ by version
        reason = " ".join(str(e).split())
        raise ValueError(
            f"--topology={name}: expected a slice that libtpu can describe, such as {EXAMPLES} "
            f"({reason:.200})"
        ) from e
    return list(description.devices)


def _gpus(name: str, chip: Chip, count: int) -> list[jax.Device]:
    """Described GPUs of one host; XLA chooses its kernels for them without measuring any."""
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        version = jax.__version__
        raise ValueError(
            f"--topology={name}: expected JAX's compiler for NVIDIA GPUs to be installed: pip "
            f"install --no-deps jax-cuda12-plugin=={version} jax-cuda12-pjrt=={version} "
            "nvidia-cuda-nvcc-cu12"
        )
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    text = _target_config(chip)
    description = topologies.get_topology_desc(
        platform="cuda", target_config=text, topology=f"1x1x{count}"
    )
    return list(description.devices)


def _target_config(chip: Chip) -> str:
    """What XLA is told of a GPU, as a text proto."""
    cores, shared, in_block, cache, clock, (major, minor), described = GPUS[chip.name]
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: {shared * 1024}
  shared_memory_per_block_optin: {in_block * 1024}
  core_count: {cores} fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {int(chip.bandwidth)} l2_cache_size: {cache * 2**20}
  clock_rate_ghz: {clock} device_memory_size: {int(chip.memory)}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 12 minor: 9 patch: 0 }}
device_description_str: "{described}"
"""
