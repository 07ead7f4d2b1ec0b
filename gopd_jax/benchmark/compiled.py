"""The decode program, compiled for a TPU slice that is not here; libtpu must be installed.

In: the options of the command. Out: one record of bytes and memory per device. Runs nothing.
"""

import argparse
import functools
import time
from typing import Any

import jax
from jax.experimental import topologies
import numpy as np

from gopd_jax.benchmark.workload import make_engine, settings_in_effect
from gopd_jax.generate.options import sampling_rule
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.settings import SamplingRule
from gopd_jax.rollout.cache import SlotCache
from gopd_jax.rollout.device_programs import merge
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.rollout.scheduler import Scheduler
from gopd_jax.rollout.weights import abstract_weights
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.types import Params

# The compiler counts on-chip prefetches several times unless it is told to spend no effort on them.
QUICKLY = {"exec_time_optimization_effort": -1.0}


def compile_for_topology(args: argparse.Namespace, model: ModelConfig) -> dict[str, Any]:
    """Compiles one dispatch with a full cache for the TPU slice --topology.

    Returns:
        A record; its bytes are those of one device.
        weight_bytes, cache_bytes: weights and the whole cache, each read once per step at least.
        bytes_per_step: what one step reads and writes by the compiler's count, and its share of the
            merge that ends a dispatch. The compiler counts a loop once. It counts the whole
            embedding table for the lookup of a few rows, which is subtracted. The bytes come from a
            compilation without effort, the memory from a full one.
        over_floor: bytes_per_step over weight_bytes + cache_bytes.

    Raises:
        ValueError: libtpu is not installed or does not know the slice.
    """
    devices = described_devices(args.topology)
    mesh = make_mesh(data=args.data, tensor=args.tensor, devices=devices)
    engine = make_engine(args, model, mesh, args.max_prompt_tokens, model.vocab_size)
    start = time.perf_counter()
    int8, gathered = args.weights == "int8", engine.layout.gathered
    weights = abstract_weights(model, mesh, engine.dtype, int8, gathered)
    cache = engine.caches.abstract(args.slots)
    # Kernels ask the default device for its generation.
    with jax.set_mesh(mesh), jax.default_device(devices[0]):
        decode, merging = _lowered(engine, sampling_rule(args), weights, cache)
        decode_bytes = decode.compile(compiler_options=QUICKLY).cost_analysis()["bytes accessed"]
        merge_bytes = merging.compile(compiler_options=QUICKLY).cost_analysis()["bytes accessed"]
        memory = decode.compile().memory_analysis()

    rows_read = args.slots / engine.shards / model.vocab_size  # share of the embedding table
    table_bytes = _device_bytes(weights["embedding"]) * (1 - rows_read)
    step_bytes = decode_bytes - table_bytes - merge_bytes + merge_bytes / args.steps_per_dispatch
    weight_bytes, cache_bytes = (
        sum(map(_device_bytes, jax.tree.leaves(tree))) for tree in (weights, cache)
    )
    peak_bytes = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    counted = not engine.kernel.skips  # what a Pallas kernel reads is not in the compiler's count
    return {
        "record": "compiled",
        "topology": args.topology,
        "devices": len(devices),
        "kernel": str(engine.kernel),
        "layout": str(engine.layout),
        "slots": args.slots,
        "columns": sum(engine.sizes),
        "weight_bytes": weight_bytes,
        "cache_bytes": cache_bytes,
        "bytes_per_step": step_bytes if counted else None,
        "over_floor": step_bytes / (weight_bytes + cache_bytes) if counted else None,
        "merge_bytes": merge_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": peak_bytes,
        "compile_seconds": time.perf_counter() - start,
        "settings": settings_in_effect(args),
    }


def described_devices(topology: str) -> list[jax.Device]:
    """The devices of a TPU slice that is not here.

    Raises:
        ValueError: libtpu is not installed or does not know the slice.
    """
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except RuntimeError as e:
        raise ValueError(
            f"--topology={topology}: expected a slice that libtpu can describe, such as v5e:8x8, "
            f"and libtpu to be installed ({e})"
        ) from e
    return list(description.devices)


def _lowered(
    engine: RolloutEngine, rule: SamplingRule, weights: Params, cache: SlotCache
) -> tuple[jax.stages.Lowered, jax.stages.Lowered]:
    """The decode program, and by itself the merge that ends it."""
    shardings = engine.decode_shardings(cache, len(cache.blocks))
    table = Scheduler([], engine.slots, engine.shards, engine.longest_chunk).table()
    decode = jax.jit(
        engine.decode_function(rule, "threefry2x32"),
        donate_argnums=(1, 2),
        out_shardings=shardings,
    )
    merging = jax.jit(
        functools.partial(merge, shards=engine.shards),
        donate_argnums=0,
        out_shardings=shardings[0],
    )
    key_data, exit_at = np.zeros(2, np.uint32), np.int32(0)
    return (
        decode.lower(weights, cache.blocks, cache.fresh, table, key_data, exit_at),
        merging.lower(cache.blocks, cache.fresh, table, np.int32(1)),
    )


def _device_bytes(x: jax.ShapeDtypeStruct) -> int:
    return int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize
