"""Which kernel runs an operation: the tables of kernels, and the functions that choose from them.

In: a name from the settings, or "auto", and the platform of the devices. Out: a `Choice`, which is
printed once per process if --verbose is given. A new kernel is a function with the interface of its
operation, and one row in a table here. Does not run kernels.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Generic, TypeVar

import jax

from gopd_jax.kernels import (
    decode_attention,
    grouped_matmul,
    grouped_matmul_gpu,
    grouped_matmul_tpu,
    packed_attention_gpu,
    packed_attention_tpu,
    packed_attention_xla,
)
from gopd_jax.kernels.decode_attention import DecodeAttention
from gopd_jax.kernels.decode_attention_gpu import COLUMNS as GPU_COLUMNS
from gopd_jax.kernels.decode_attention_gpu import pallas_gpu
from gopd_jax.kernels.decode_attention_tpu import pallas_tpu
from gopd_jax.kernels.grouped_matmul import GroupedMatmul
from gopd_jax.kernels.packed_attention import PackedAttention
from gopd_jax.runtime.progress import detail

Kernel = TypeVar("Kernel", bound=PackedAttention | DecodeAttention | GroupedMatmul)

FALLBACK = "xla"  # every table has this row, and it runs on every platform


@dataclasses.dataclass(frozen=True)
class Row(Generic[Kernel]):
    """One kernel of an operation.

    anywhere: the function for every platform that `on` does not list; None if there is none.
    on: the functions for particular platforms.
    auto_on: platforms where "auto" chooses it; on all others, "auto" chooses "xla".
    why_auto: the reason that is given when "auto" chooses it.
    why_on: the reason on particular platforms, where it is another.
    capability: the least CUDA compute capability that it compiles for; () if it asks for none.
        "auto" does not choose it for an older GPU, or one that is not from NVIDIA.

    The other fields are for decode attention.

    skips: it reads no column of an idle slot, so a narrower cache would not make it faster.
    reads_int8: it reads int8 blocks.
    columns: the number of columns of a block has to be a multiple of this.
    """

    anywhere: Kernel | None = None
    on: Mapping[str, Kernel] = dataclasses.field(default_factory=dict)
    auto_on: tuple[str, ...] = ()
    why_auto: str = ""
    why_on: Mapping[str, str] = dataclasses.field(default_factory=dict)
    capability: tuple[int, ...] = ()
    skips: bool = False
    reads_int8: bool = True
    columns: int = 1

    def function(self, platform: str) -> Kernel | None:
        """The function for a platform; None if the kernel does not run there."""
        return self.on.get(platform, self.anywhere)


@dataclasses.dataclass(frozen=True)
class Choice(Generic[Kernel]):
    """A chosen kernel; str() gives its name, the platform and the reason.

    skips: see `Row`.
    """

    kernel: Kernel
    name: str
    platform: str
    why: str
    skips: bool = False

    def __str__(self) -> str:
        return f"{self.name} on {self.platform}: {self.why}"


PACKED_ATTENTION: Mapping[str, Row[PackedAttention]] = {
    "xla": Row(
        packed_attention_xla.xla,
        on={"cpu": packed_attention_xla.xla_cpu},
        why_auto="it runs everywhere; pallas_gpu is used on request until measured on a GPU",
    ),
    "pallas_tpu": Row(
        on={"tpu": packed_attention_tpu.pallas_tpu},
        auto_on=("tpu",),
        why_auto="it skips what segments and causality exclude; compiled for TPU, not measured",
    ),
    "pallas_gpu": Row(on={"gpu": packed_attention_gpu.pallas_gpu}, capability=(8, 0)),
}

DECODE_ATTENTION: Mapping[str, Row[DecodeAttention]] = {
    "xla": Row(
        decode_attention.xla,
        on={"cpu": decode_attention.xla_cpu, "gpu": decode_attention.xla_gpu},
        why_auto="it runs everywhere; the Pallas kernels are used on request until measured",
    ),
    "pallas_tpu": Row(on={"tpu": pallas_tpu}, skips=True),
    "pallas_gpu": Row(on={"gpu": pallas_gpu}, skips=True, reads_int8=False, columns=GPU_COLUMNS),
}

GROUPED_MATMUL: Mapping[str, Row[GroupedMatmul]] = {
    "xla": Row(
        grouped_matmul.xla,
        why_auto="it runs everywhere",
        why_on={"gpu": "dense: every row is multiplied by every expert; no other kernel runs here"},
    ),
    "pallas_tpu": Row(
        on={"tpu": grouped_matmul_tpu.pallas_tpu},
        auto_on=("tpu",),
        why_auto="xla is dense in the gradient of the experts; compiled for TPU, not measured",
    ),
    "pallas_gpu": Row(
        on={"gpu": grouped_matmul_gpu.pallas_gpu},
        auto_on=("gpu",),
        why_auto="xla is dense, it multiplies every row by every expert; not measured",
        capability=(8, 0),
    ),
}


def choose_packed_attention(name: str, platform: str) -> Choice[PackedAttention]:
    """The kernel for attention among packed sequences.

    Args:
        name: a row of `PACKED_ATTENTION`, or "auto".
        platform: of the devices, such as "cpu", "gpu" or "tpu".

    Raises:
        ValueError: an unknown name, or a kernel that does not run on the platform.
    """
    choice = _choose("packed attention", PACKED_ATTENTION, name, platform)
    return _announce("packed attention", choice)


def choose_grouped_matmul(name: str, platform: str) -> Choice[GroupedMatmul]:
    """The kernel for the matrix products of a mixture of experts.

    Args:
        name: a row of `GROUPED_MATMUL`, or "auto".
        platform: of the devices, such as "cpu", "gpu" or "tpu".

    Raises:
        ValueError: an unknown name, or a kernel that does not run on the platform.
    """
    choice = _choose("grouped matmul", GROUPED_MATMUL, name, platform)
    return _announce("grouped matmul", choice)


def matmul_of(experts: int, platform: str) -> GroupedMatmul:
    """The kernel for a model with so many experts; a dense one, 0, calls none."""
    return choose_grouped_matmul("auto", platform).kernel if experts else grouped_matmul.xla


def choose_decode_attention(
    name: str, platform: str, *, quantized: bool, block_sizes: Sequence[int]
) -> Choice[DecodeAttention]:
    """The kernel for decode attention.

    Args:
        name: a row of `DECODE_ATTENTION`, or "auto".
        platform: of the devices, such as "cpu", "gpu" or "tpu".
        quantized: the cache is int8.
        block_sizes: number of columns of each block of the cache.

    Raises:
        ValueError: an unknown name, a kernel that does not run on the platform, or one that cannot
            read the cache.
    """
    operation = "decode attention"
    choice = _choose(operation, DECODE_ATTENTION, name, platform)
    row = DECODE_ATTENTION[choice.name]
    if quantized and not row.reads_int8:
        raise ValueError(
            f"{operation} kernel={name!r} does not read an int8 cache: expected a floating-point "
            f"cache, or kernel={FALLBACK!r}"
        )
    if odd := [size for size in block_sizes if size % row.columns]:
        raise ValueError(
            f"{operation} kernel={name!r}: a cache block has {odd[0]} columns, expected a multiple "
            f"of {row.columns} (so the limits of prompt and response have to add up to one), or "
            f"kernel={FALLBACK!r}"
        )
    return _announce(operation, choice)


def _choose(
    operation: str, table: Mapping[str, Row[Kernel]], name: str, platform: str
) -> Choice[Kernel]:
    if name != "auto" and name not in table:
        raise ValueError(f"{operation} kernel={name!r}: expected one of {['auto', *table]}")
    chosen, why = name, "requested"
    if name == "auto":
        fit = (n for n, row in table.items() if platform in row.auto_on and not _too_old(row))
        chosen = next(fit, FALLBACK)
        why = table[chosen].why_on.get(platform, table[chosen].why_auto)
    row = table[chosen]
    kernel = row.function(platform)
    if kernel is None:
        here = ["auto", *(n for n, other in table.items() if other.function(platform))]
        raise ValueError(
            f"{operation} kernel={name!r} runs on {', '.join(row.on)}, the devices here are "
            f"{platform}: expected one of {here}"
        )
    if old := _too_old(row):
        raise ValueError(
            f"{operation} kernel={name!r}: {old}, expected an NVIDIA GPU with "
            f"{'.'.join(map(str, row.capability))} or more, or kernel={FALLBACK!r}"
        )
    return Choice(kernel, chosen, platform, why, row.skips)


def _too_old(row: Row[Kernel]) -> str:
    """What is wrong with a GPU of this process for the kernel; "" if nothing, or no GPU."""
    for device in jax.local_devices() if row.capability else ():
        has = getattr(device, "compute_capability", "")
        numbers = has.split(".")
        ours = all(map(str.isdigit, numbers)) and tuple(map(int, numbers)) >= row.capability
        if has and not ours:
            return f"{device.device_kind} has compute capability {has}"
    return ""


def _announce(operation: str, choice: Choice[Kernel]) -> Choice[Kernel]:
    _say_once(f"{operation}: {choice}")
    return choice


@functools.cache
def _say_once(line: str) -> None:
    """Prints a detail once per process, however many engines and learners make the same choice."""
    detail(line)
