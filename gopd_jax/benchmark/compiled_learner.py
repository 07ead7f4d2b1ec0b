"""The learner's programs, compiled for a TPU slice that is not here; libtpu must be installed.

In: the options of the command. Out: one record for each program, with its memory per device. Runs
nothing, and allocates nothing.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from gopd_jax.benchmark.compiled import described_devices
from gopd_jax.benchmark.records import show
from gopd_jax.benchmark.update import make_learner
from gopd_jax.benchmark.workload import settings_in_effect
from gopd_jax.learner.learner import FrozenModel, Learner, Packed
from gopd_jax.models.config import load_config
from gopd_jax.models.decoder import abstract_params, param_shardings
from gopd_jax.runtime.mesh import batch_sharding, make_mesh, replicated, with_shardings
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.types import PackedBatch, Tree


class DescribedPrograms(ProgramTable):
    """Programs for devices that are only described: they take shapes and return shapes.

    memory: of each program, by name, as its compiler accounts for it.
    """

    def __init__(self, mesh: Mesh):
        super().__init__(mesh)
        self.memory: dict[str, jax.stages.CompiledMemoryStats] = {}

    def compiled(self, function: Callable, *args: Tree, name: str, **options: Any) -> Callable:
        # Kernels ask the default device for its generation.
        with jax.default_device(self.mesh.devices.flat[0]):
            program = super().compiled(function, *args, name=name, **options)
        self.memory[name] = program.memory_analysis()
        return lambda *args: with_shardings(
            jax.eval_shape(function, *args), program.output_shardings
        )


def benchmark(args: argparse.Namespace) -> None:
    """Compiles a scorer and, for `update`, the train step, and prints a record for each.

    arguments_bytes, temporary_bytes, peak_bytes: of one device; the peak is arguments, results and
        temporaries together.

    Raises:
        ValueError: libtpu is not installed or does not know the slice.
    """
    model = load_config(args.model)
    devices = described_devices(args.topology)
    programs = DescribedPrograms(make_mesh(data=args.data, tensor=args.tensor, devices=devices))
    learner = make_learner(args, model, programs, args.prompts * args.samples_per_prompt)
    batch = _abstract_batch(learner)
    count = batch.tokens.shape[0]
    packed = Packed(batch, {}, filled=1.0, used=count, domain_M=np.zeros(count, np.int32))
    params = with_shardings(
        jax.tree.map(
            lambda p: jax.ShapeDtypeStruct(p.shape, learner.dtype), abstract_params(model)
        ),
        param_shardings(model, programs.mesh),
    )
    domain = next(iter(learner.reward_scales))  # every domain's scorer is the same program
    scored = learner.score(packed, {domain: FrozenModel("teacher", model, params)}, None, None)
    if args.part == "update":
        reference = dict(reference_logprobs=scored.teacher_logprobs)
        learner.update(learner.abstract_state(), scored.replace(**reference))
    for program in programs.programs:
        memory = programs.memory[program.name]
        peak_bytes = (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
        )
        show(
            {
                "record": "compiled",
                "program": program.name,
                "topology": args.topology,
                "devices": programs.mesh.size,
                "attention": learner.kernels["packed attention"],
                "batch": "{} x {} x {}".format(*batch.tokens.shape),
                "arguments_bytes": memory.argument_size_in_bytes,
                "temporary_bytes": memory.temp_size_in_bytes,
                "peak_bytes": peak_bytes,
                "compile_seconds": program.compile_seconds,
                "settings": settings_in_effect(args),
            }
        )


def _abstract_batch(learner: Learner) -> PackedBatch:
    mesh, shape = learner.programs.mesh, learner.shape
    size = (learner.micro_batches, shape.rows, shape.row_length)
    rows = batch_sharding(mesh, leading=1)
    integers, numbers = (
        jax.ShapeDtypeStruct(size, dtype, sharding=rows) for dtype in (jnp.int32, jnp.float32)
    )
    return PackedBatch(
        used=jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh)),
        domains=jax.ShapeDtypeStruct(size[:2], jnp.int32, sharding=rows),
        **dict.fromkeys(("tokens", "positions", "segments", "targets"), integers),
        **dict.fromkeys(("weights", "reward_scale", "advantages"), numbers),
        behaviour_logprobs=numbers,
    )
