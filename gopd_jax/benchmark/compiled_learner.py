"""The learner's programs, compiled for a TPU slice that is not here; libtpu must be installed.

In: the options of the command. Out: one record for each program, with its memory per device. Runs
nothing, and allocates nothing.
"""

import argparse

import jax

from gopd_jax.benchmark.compiled import described_devices
from gopd_jax.benchmark.records import show
from gopd_jax.benchmark.update import make_learner
from gopd_jax.benchmark.workload import settings_in_effect
from gopd_jax.learner.ahead import abstract_batches, abstract_rows
from gopd_jax.learner.learner import Learner
from gopd_jax.learner.scoring import scoring_program
from gopd_jax.models.config import load_config
from gopd_jax.models.decoder import abstract_params, param_shardings
from gopd_jax.runtime.mesh import make_mesh, with_shardings
from gopd_jax.runtime.programs import ProgramTable


def benchmark(args: argparse.Namespace) -> None:
    """Compiles the scorers and, for `update`, the train step, and prints a record for each.

    arguments_bytes, temporary_bytes, peak_bytes: of one device; the peak is arguments, results and
        temporaries together.
    at_once_bytes: most bytes of one device that the compiler finds in use at one time; at most the
        peak, because not all temporaries are in use together.
    host_bytes: temporaries in the memory of the host, for each device.

    Raises:
        ValueError: libtpu is not installed or does not know the slice.
    """
    model = load_config(args.model)
    devices = described_devices(args.topology)
    programs = ProgramTable(make_mesh(data=args.data, tensor=args.tensor, devices=devices))
    learner = make_learner(args, model, programs, args.prompts * args.samples_per_prompt)
    # Kernels ask the default device for its generation.
    with jax.default_device(programs.mesh.devices.flat[0]):
        compiled = _compile(learner, with_update=args.part == "update")
    for program, executable in zip(programs.programs, compiled, strict=True):
        memory = executable.memory_analysis()
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
                "rows": program.bucket,
                "topology": args.topology,
                "devices": programs.mesh.size,
                "attention": learner.kernels["packed attention"],
                "arguments_bytes": memory.argument_size_in_bytes,
                "temporary_bytes": memory.temp_size_in_bytes,
                "peak_bytes": peak_bytes,
                "at_once_bytes": memory.peak_memory_in_bytes,
                "host_bytes": memory.host_temp_size_in_bytes,
                "compile_seconds": program.compile_seconds,
                "settings": settings_in_effect(args),
            }
        )


def _compile(learner: Learner, with_update: bool) -> list[jax.stages.Compiled]:
    """The scorer for each length of rows, and the train step."""
    model, programs = learner.student, learner.programs
    shapes = jax.tree.map(lambda p: p.update(dtype=learner.dtype), abstract_params(model))
    params = with_shardings(shapes, param_shardings(model, learner.mesh))
    function, options = scoring_program(learner, model)
    compiled = []
    for bucket in learner.buckets:
        rows = abstract_rows(learner, bucket)
        size = f"{bucket.rows} x {bucket.length}"
        compiled.append(programs.compiled(function, params, *rows, **options, bucket=size))
    if with_update:
        logprobs = ("behaviour_logprobs", "teacher_logprobs", "reference_logprobs")
        batches = abstract_batches(learner, logprobs)
        given, options = learner.updating(learner.abstract_state(), batches)
        sizes = [f"{b.micro_batches} x {b.rows} x {b.length}" for b in learner.buckets]
        compiled.append(programs.compiled(*given, **options, bucket=" + ".join(sizes)))
    return compiled
