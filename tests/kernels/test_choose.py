"""Which kernel is chosen by name and platform, what is refused, and what is printed."""

import types
import typing

import jax
import pytest

from gopd_jax.kernels import (
    decode_attention,
    grouped_matmul,
    grouped_matmul_gpu,
    grouped_matmul_tpu,
    packed_attention_gpu,
    packed_attention_tpu,
    packed_attention_xla,
)
from gopd_jax.kernels.choose import (
    DECODE_ATTENTION,
    PACKED_ATTENTION,
    choose_decode_attention,
    choose_grouped_matmul,
    choose_packed_attention,
)
from gopd_jax.kernels.decode_attention_gpu import pallas_gpu
from gopd_jax.kernels.decode_attention_tpu import pallas_tpu
from gopd_jax.learner.settings import PackingSettings
from gopd_jax.rollout.settings import EngineOptions


def decode(name, platform, quantized=False, block_sizes=(128, 256)):
    return choose_decode_attention(name, platform, quantized=quantized, block_sizes=block_sizes)


@pytest.mark.parametrize(
    "name, platform, kernel, skips",
    [
        ("auto", "cpu", decode_attention.xla_cpu, False),
        ("auto", "gpu", decode_attention.xla_gpu, False),
        ("auto", "tpu", decode_attention.xla, False),
        ("xla", "cpu", decode_attention.xla_cpu, False),
        ("xla", "tpu", decode_attention.xla, False),
        ("pallas_tpu", "tpu", pallas_tpu, True),
        ("pallas_gpu", "gpu", pallas_gpu, True),
    ],
)
def test_decode_attention_by_name_and_platform(name, platform, kernel, skips):
    choice = decode(name, platform)
    assert choice.kernel is kernel
    assert choice.skips == skips
    assert choice.name == ("xla" if name == "auto" else name)
    assert ("requested" == choice.why) == (name != "auto")
    assert str(choice) == f"{choice.name} on {platform}: {choice.why}"


def test_the_tpu_kernel_reads_int8_and_any_block():
    assert decode("pallas_tpu", "tpu", quantized=True, block_sizes=(128, 8)).kernel is pallas_tpu


@pytest.mark.parametrize(
    "name, platform, kernel",
    [
        ("auto", "cpu", packed_attention_xla.xla_cpu),
        ("auto", "gpu", packed_attention_xla.xla),
        ("auto", "tpu", packed_attention_tpu.pallas_tpu),
        ("xla", "tpu", packed_attention_xla.xla),
        ("pallas_tpu", "tpu", packed_attention_tpu.pallas_tpu),
        ("pallas_gpu", "gpu", packed_attention_gpu.pallas_gpu),
    ],
)
def test_packed_attention_by_name_and_platform(name, platform, kernel):
    choice = choose_packed_attention(name, platform)
    assert choice.kernel is kernel
    assert ("requested" == choice.why) == (name != "auto")


def test_packed_attention_that_cannot_be_used():
    message = (
        r"^packed attention kernel='pallas_tpu' runs on tpu, the devices here are gpu: "
        r"expected one of \['auto', 'xla', 'pallas_gpu'\]$"
    )
    with pytest.raises(ValueError, match=message):
        choose_packed_attention("pallas_tpu", "gpu")


def test_auto_says_why_it_does_not_take_the_kernel_for_gpus():
    assert "pallas_gpu is used on request" in choose_packed_attention("auto", "gpu").why


def gpus(monkeypatch, *capabilities):
    devices = [
        types.SimpleNamespace(device_kind="Some GPU", compute_capability=c) for c in capabilities
    ]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)


@pytest.mark.parametrize("capabilities", [("7.5",), ("9.0", "7.5"), ("gfx942",)])
def test_a_gpu_that_the_kernel_does_not_compile_for(capabilities, monkeypatch):
    gpus(monkeypatch, *capabilities)
    message = (
        rf"^packed attention kernel='pallas_gpu': Some GPU has compute capability "
        rf"{capabilities[-1]}, expected an NVIDIA GPU with 8.0 or more, or kernel='xla'$"
    )
    with pytest.raises(ValueError, match=message):
        choose_packed_attention("pallas_gpu", "gpu")
    choose_packed_attention("auto", "gpu")


@pytest.mark.parametrize("capability", ["8.0", "10.0"])
def test_gpus_that_the_kernel_compiles_for(capability, monkeypatch):
    gpus(monkeypatch, capability)
    assert choose_packed_attention("pallas_gpu", "gpu").name == "pallas_gpu"


@pytest.mark.parametrize(
    "name, platform, kernel",
    [
        ("auto", "cpu", grouped_matmul.xla),
        ("auto", "gpu", grouped_matmul_gpu.pallas_gpu),
        ("auto", "tpu", grouped_matmul_tpu.pallas_tpu),
        ("xla", "cpu", grouped_matmul.xla),
        ("xla", "gpu", grouped_matmul.xla),
        ("xla", "tpu", grouped_matmul.xla),
    ],
)
def test_grouped_matmul_by_name_and_platform(name, platform, kernel):
    choice = choose_grouped_matmul(name, platform)
    assert (choice.kernel, choice.platform) == (kernel, platform)
    assert ("requested" == choice.why) == (name != "auto")


@pytest.mark.parametrize("capability", ["7.5", "gfx942"])
def test_a_gpu_without_a_kernel_for_experts_is_told_that_the_product_is_dense(
    capability, monkeypatch
):
    gpus(monkeypatch, capability)
    choice = choose_grouped_matmul("auto", "gpu")
    assert choice.kernel is grouped_matmul.xla and choice.why.startswith("dense: every row")


@pytest.mark.parametrize(
    "name, platform, options, message",
    [
        (
            "cuda",
            "gpu",
            {},
            r"kernel='cuda': expected one of \['auto', 'xla', 'pallas_tpu', 'pallas_gpu'\]",
        ),
        (
            "pallas_tpu",
            "gpu",
            {},
            r"kernel='pallas_tpu' runs on tpu, the devices here are gpu: expected one of "
            r"\['auto', 'xla', 'pallas_gpu'\]",
        ),
        ("pallas_gpu", "tpu", {}, r"kernel='pallas_gpu' runs on gpu, the devices here are tpu"),
        (
            "pallas_tpu",
            "cpu",
            {},
            r"kernel='pallas_tpu' runs on tpu, the devices here are cpu: expected one of "
            r"\['auto', 'xla'\]",
        ),
        (
            "pallas_gpu",
            "gpu",
            {"quantized": True},
            r"kernel='pallas_gpu' does not read an int8 cache",
        ),
        (
            "pallas_gpu",
            "gpu",
            {"block_sizes": (128, 128, 40)},
            r"a cache block has 40 columns, expected a multiple of 128",
        ),
    ],
)
def test_decode_attention_that_cannot_be_used(name, platform, options, message):
    with pytest.raises(ValueError, match=f"^decode attention .*{message}"):
        decode(name, platform, **options)


@pytest.mark.parametrize(
    "choose, operation, names",
    [
        (
            choose_packed_attention,
            "packed attention",
            "'auto', 'xla', 'pallas_tpu', 'pallas_gpu'",
        ),
        (choose_grouped_matmul, "grouped matmul", "'auto', 'xla', 'pallas_tpu', 'pallas_gpu'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_choices(choose, operation, names):
    message = rf"^{operation} kernel='magic': expected one of \[{names}\]$"
    with pytest.raises(ValueError, match=message):
        choose("magic", "cpu")


def test_settings_and_table_name_the_same_decode_kernels():
    declared = typing.get_args(typing.get_type_hints(EngineOptions)["kernel"])
    assert declared == ("auto", *DECODE_ATTENTION)


def test_settings_and_table_name_the_same_packed_kernels():
    declared = typing.get_args(typing.get_type_hints(PackingSettings)["attention"])
    assert declared == ("auto", *PACKED_ATTENTION)


ONCE = """
import contextlib, io
from gopd_jax.kernels.choose import choose_decode_attention, choose_grouped_matmul
from gopd_jax.runtime.progress import tell
tell(details=True)
said = io.StringIO()
with contextlib.redirect_stderr(said):
    for _ in range(3):
        choose_grouped_matmul("xla", "tpu")
        choose_decode_attention("auto", "cpu", quantized=False, block_sizes=(128,))
        choose_decode_attention("xla", "cpu", quantized=True, block_sizes=(64,))
print(said.getvalue())
"""


def test_each_choice_is_printed_once_per_process(run_on_fake_devices):
    lines = run_on_fake_devices(ONCE, count=1).strip().splitlines()
    assert lines[0] == "grouped matmul: xla on tpu: requested"
    assert lines[1].startswith("decode attention: xla on cpu: it runs everywhere")
    assert lines[2:] == ["decode attention: xla on cpu: requested"]
