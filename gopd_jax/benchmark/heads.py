"""The estimators' losses from hidden states and heads, beside the same from whole arrays.

In: the options of the command. Out: a record for each estimator: temporary memory, and seconds of
loss and gradient. With --topology nothing runs; the programs are compiled for a slice.
"""

import argparse
from collections.abc import Callable, Sequence
import statistics
import time
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from gopd_jax.benchmark.compiled import described_devices
from gopd_jax.benchmark.records import show
from gopd_jax.learner.exact import FrozenHeads, exact_predictions
from gopd_jax.models.logprobs import token_logprobs
from gopd_jax.objective.gopd import gopd_advantage
from gopd_jax.objective.loss import weighted_loss
from gopd_jax.objective.predictions import Predictions
from gopd_jax.objective.settings import Estimator, EstimatorSettings, LossSettings
from gopd_jax.runtime.mesh import RULES, compute_dtype, make_mesh
from gopd_jax.types import PackedBatch

WHOLE = "whole arrays"  # full, with the log-probs of all tokens and ids
NOT_SETTINGS = ("part", "json", "verbose")
Arrays = tuple[jax.Array, ...]


def benchmark(args: argparse.Namespace) -> None:
    """Prints a record for each estimator, and for the full loss from whole arrays.

    temporary_bytes: of one device, as the compiler plans it.
    seconds: median of loss and gradient to the student's hidden states and head; the programs take
        turns.

    Raises:
        ValueError: libtpu is not installed or does not know the slice, or --rows do not divide the
            tokens.
    """
    if args.tokens % args.rows:
        raise ValueError(f"--rows={args.rows}: expected a divisor of --tokens={args.tokens}")
    devices = described_devices(args.topology) if args.topology else None
    mesh = make_mesh(tensor=args.tensor, devices=devices)
    scale = 1.0 if args.no_reference else 1.25
    names = [*get_args(Estimator), WHOLE]
    losses = {name: _loss(name, scale, not args.no_reference) for name in names}
    given = _shapes(args, mesh)
    compiled, records = {}, {}
    with jax.set_mesh(mesh):
        out = given[0].sharding, given[1].sharding
        for name, loss in losses.items():
            program = jax.jit(jax.grad(loss, argnums=(0, 1)), out_shardings=out)
            compiled[name] = program.lower(*given).compile()
            memory = compiled[name].memory_analysis()
            records[name] = {"temporary_bytes": memory.temp_size_in_bytes}
        if not args.topology:
            for name, seconds in _seconds(compiled, _arrays(given), args.runs).items():
                records[name]["seconds"] = seconds
    for name, figures in records.items():
        settings = {k: v for k, v in vars(args).items() if k not in NOT_SETTINGS}
        show({"record": "head", "estimator": name, **figures, "settings": settings})


def _loss(name: str, scale: float, reference: bool) -> Callable[..., jax.Array]:
    """The loss of one micro-batch, of hidden states and heads of the models, and target ids."""
    if name == WHOLE:
        return lambda *given: _whole(*given, scale=scale, reference=reference)
    settings = LossSettings(estimator=EstimatorSettings(estimator=name))

    def loss(student, head, teacher, teachers_head, other, others_head, targets):
        batch = _batch(targets, scale)
        if name == "sampled":  # the teachers' log-probs are given
            zeros = jnp.zeros(targets.shape)
            batch = batch.replace(teacher_logprobs=zeros, reference_logprobs=zeros)
            predictions = Predictions(*token_logprobs(student, head, targets))
        else:
            batch = batch.replace(
                teacher_hidden=teacher, reference_hidden=other if reference else None
            )
            heads = FrozenHeads(
                (teachers_head,), np.zeros(1, np.int32), others_head if reference else None
            )
            options = {"num_ids": None, "frozen_head": False}
            predictions = exact_predictions(student, head, batch, heads, settings, **options)
        return weighted_loss(predictions, batch, settings, 1)[0]

    return loss


def _batch(targets: jax.Array, scale: float) -> PackedBatch:
    integers = jnp.zeros(targets.shape, jnp.int32)
    return PackedBatch(
        used=jnp.int32(1),
        domains=integers[:, 0],
        tokens=integers,
        positions=integers,
        segments=integers,
        targets=targets,
        weights=jnp.full(targets.shape, 1 / targets.size),
        reward_scale=jnp.full(targets.shape, scale),
        advantages=jnp.zeros(targets.shape),
    )


def _whole(*given: jax.Array, scale: float, reference: bool) -> jax.Array:
    """The full loss with arrays [R, S, V]."""

    def log_distribution(hidden, head):
        cast = head.astype(hidden.dtype)
        logits = jnp.einsum("rsd,vd->rsv", hidden, cast, preferred_element_type=jnp.float32)
        return jax.nn.log_softmax(logits)

    student, teacher = log_distribution(*given[:2]), log_distribution(*given[2:4])
    of_reference = log_distribution(*given[4:6]) if reference else None
    advantages = gopd_advantage(0.0, teacher, of_reference, scale)
    states = jnp.sum(jnp.exp(student) * (student - advantages), axis=-1)
    return jnp.mean(states)


def _shapes(args: argparse.Namespace, mesh: Mesh) -> Arrays:
    """Hidden states and head of student, teacher and reference, and target ids."""
    rows = NamedSharding(mesh, PartitionSpec(RULES["batch"]))
    table = NamedSharding(mesh, PartitionSpec(RULES["vocab"], RULES["embed"]))
    on_tpu = mesh.devices.flat[0].platform != "cpu"
    dtype = jnp.bfloat16 if on_tpu else compute_dtype("auto")
    size = args.rows, args.tokens // args.rows
    found = []
    for head_dtype in (jnp.float32, dtype, dtype):
        shapes = (
            ((*size, args.width), dtype, rows),
            ((args.vocabulary, args.width), head_dtype, table),
        )
        found += [jax.ShapeDtypeStruct(s, d, sharding=where) for s, d, where in shapes]
    return (*found, jax.ShapeDtypeStruct(size, jnp.int32, sharding=rows))


def _arrays(shapes: Sequence[jax.ShapeDtypeStruct]) -> Arrays:
    """Random numbers; logits have a standard deviation of 1."""
    rng = np.random.default_rng(0)
    arrays = []
    for shape in shapes:
        if shape.dtype == jnp.int32:
            x = rng.integers(0, shapes[1].shape[0], shape.shape, np.int32)
        else:
            x = rng.standard_normal(shape.shape, np.float32)
            x /= shape.shape[-1] ** 0.5 if len(shape.shape) == 2 else 1
        arrays.append(jax.device_put(x.astype(shape.dtype), shape.sharding))
    return tuple(arrays)


def _seconds(compiled: dict[str, Callable[..., Any]], given: Arrays, runs: int) -> dict[str, float]:
    """The median seconds of each program; all of them run in every turn, the first is a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in compiled}
    for turn in range(runs + 1):
        for name, run in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*given))
            seconds[name] += [time.perf_counter() - start] if turn else []
    return {name: statistics.median(each) for name, each in seconds.items()}
