"""The learner's programs, compiled for TPU slices that are not here; libtpu must be installed.

In: the options of the command. Out: one record for each program, with its memory per device. Runs
nothing, and allocates nothing.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
from gopd_jax.plan.hlo import collectives
from gopd_jax.runtime.mesh import make_mesh, with_shardings
from gopd_jax.runtime.programs import ProgramTable


def benchmark(args: argparse.Namespace) -> None:
    """Compiles the scorers and, for `update`, the train step, and prints a record for each.

    With several slices the work of a chip stays: prompts, rows of a micro-batch and the data axis
    are those of the first slice, and grow with the chips.

    arguments_bytes, temporary_bytes, peak_bytes: of one device; the peak is arguments, results and
        temporaries together.
    at_once_bytes: most bytes of one device that the compiler finds in use at one time; at most the
        peak, because not all temporaries are in use together.
    host_bytes: temporaries in the memory of the host, for each device.
    received_bytes: what one device receives from others in one run.

    Raises:
        ValueError: libtpu is not installed or does not know a slice, a slice does not have a
            multiple of the chips of the first one, or the picture cannot be written.
    """
    if args.picture and not (args.picture.endswith(".png") and Path(args.picture).parent.is_dir()):
        raise ValueError(f"--picture={args.picture}: expected FILE.png in a folder that exists")
    slices = {name: described_devices(name) for name in args.topology.split(",")}
    given = [_for_slice(args, name, slices) for name in slices]  # refuses before any is compiled
    records = []
    for options, devices in zip(given, slices.values(), strict=True):
        records += _records(options, devices)
    if args.picture:
        from gopd_jax.benchmark.slices_picture import draw  # matplotlib takes half a second

        draw(records, args.picture)


def _for_slice(
    args: argparse.Namespace, name: str, slices: Mapping[str, Sequence[jax.Device]]
) -> argparse.Namespace:
    """The options with which a chip of this slice has the work of a chip of the first one."""
    first, chips = len(next(iter(slices.values()))), len(slices[name])
    if chips % first:
        raise ValueError(
            f"--topology={args.topology}: {name} has {chips} chips; expected a multiple of the "
            f"{first} chips of the first slice"
        )
    grow = ("prompts", "rows_per_micro_batch", "data")
    grown = {field: getattr(args, field) * (chips // first) for field in grow}
    return argparse.Namespace(**vars(args) | {"topology": name} | grown)


def _records(args: argparse.Namespace, devices: Sequence[jax.Device]) -> list[dict[str, Any]]:
    """Compiles for one slice; prints and returns a record for each program."""
    model = load_config(args.model)
    programs = ProgramTable(make_mesh(data=args.data, tensor=args.tensor, devices=devices))
    learner = make_learner(args, model, programs, args.prompts * args.samples_per_prompt)
    # Kernels ask the default device for its generation.
    with jax.default_device(programs.mesh.devices.flat[0]):
        compiled = _compile(learner, with_update=args.part == "update")
    records = []
    for program, executable in zip(programs.programs, compiled, strict=True):
        memory = executable.memory_analysis()
        peak_bytes = (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
        )
        records.append(
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
                "received_bytes": collectives(executable.as_text(), programs.mesh.size).bytes,
                "compile_seconds": program.compile_seconds,
                "settings": settings_in_effect(args),
            }
        )
        show(records[-1])
    return records


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
