"""What a step computes, reads and receives on one device: from shapes and assumed lengths.

In: a rehearsed run, what the compiler says of its programs, and assumptions. Out: a `Load` for each
part of a step. The rows are those that the learner would pack, and the schedule is that of the
slots; only the lengths of the responses are made up.
"""

from collections.abc import Hashable, Mapping, Sequence
import dataclasses
import heapq
import itertools
import math

import jax
import numpy as np

from gopd_jax.learner.example import Example
from gopd_jax.learner.flops import Flops, Work, flops
from gopd_jax.learner.operations import score_cost, update_cost
from gopd_jax.learner.packing import fill, members_of, plan
from gopd_jax.models.config import ModelConfig
from gopd_jax.objective.gopd import needs_reference
from gopd_jax.plan.chips import Slice
from gopd_jax.plan.compiling import Compiled
from gopd_jax.plan.phases import Planned
from gopd_jax.plan.rehearsed import RehearsedRun
from gopd_jax.rollout.cache import blocks_for
from gopd_jax.rollout.scheduler import chunk_width
from gopd_jax.rollout.weights import abstract_weights
from gopd_jax.runtime.memory import device_bytes
from gopd_jax.runtime.mesh import RULES
from gopd_jax.types import PackedBatch, SampleKey

MOST_STEPS = 256  # of decode that are counted with one number of columns


@dataclasses.dataclass(frozen=True)
class Assumed:
    """What a plan cannot know.

    prompt_tokens, response_tokens: means. Lengths of responses are those of an exponential
        distribution that is cut at the limit.
    mfu: share of the peak that matrix products reach in prefill, scoring and updates.
    hbm: share of the memory bandwidth that decoding reaches.
    ici: share of the network's bandwidth that collectives reach.
    """

    prompt_tokens: int
    response_tokens: int
    mfu: float
    hbm: float
    ici: float


@dataclasses.dataclass(frozen=True)
class Load:
    """A part of a step, on one device.

    runs: of its program, or steps of decode.
    flops: operations, with padding and recomputation.
    memory: bytes that its memory reads and writes at least.
    network: bytes that it receives from other devices.
    """

    name: str
    runs: int
    flops: float
    memory: float
    network: float

    def floor(self, where: Slice) -> float:
        """Seconds at the published figures."""
        return self.seconds(where, Assumed(0, 0, 1.0, 1.0, 1.0))

    def seconds(self, where: Slice, assumed: Assumed) -> float:
        """Seconds at assumed shares of the published figures; the slowest of the three decides."""
        chip, share = where.chip, where.chip.devices
        if not chip.flops:
            return 0.0
        return share * max(
            self.flops / (chip.flops * assumed.mfu),
            self.memory / (chip.bandwidth * assumed.hbm),
            self.network / (chip.network * assumed.ici),
        )


def response_lengths(count: int, mean: int, limit: int) -> np.ndarray:
    """int [count], the quantiles of an exponential distribution cut at `limit`, shuffled."""
    if mean >= limit:
        return np.full(count, limit)
    quantiles = -np.log1p(-(np.arange(count) + 0.5) / count)
    low, high = 0.0, 1e3 * limit
    for _ in range(60):
        scale = (low + high) / 2
        if np.clip(scale * quantiles, 1, limit).mean() < mean:
            low = scale
        else:
            high = scale
    lengths = np.clip(np.rint(high * quantiles), 1, limit).astype(int)
    return np.random.default_rng(0).permutation(lengths)


def loads(run: RehearsedRun, compiled: Mapping[Hashable, Compiled], assumed: Assumed) -> list[Load]:
    """The parts of a step, in their order."""
    config, prompt = run.config, assumed.prompt_tokens
    count, limit = config.rollouts_per_step, config.rollout.max_response_tokens
    lengths = response_lengths(count, assumed.response_tokens, limit)
    with jax.set_mesh(run.learner.mesh):  # how the head is cut depends on the platform
        drawn = _rollout(run, compiled, lengths, prompt) if config.method != "sft" else []
        return [*drawn, *_learning(run, compiled, _examples(run, lengths, prompt))]


# ---- Rollout.


def _rollout(
    run: RehearsedRun,
    compiled: Mapping[Hashable, Compiled],
    lengths: np.ndarray,
    prompt: int,
) -> list[Load]:
    engine, devices, model = run.sampler, run.learner.mesh.size, run.sampler.config
    int8 = engine.options.weights == "int8"
    whole = device_bytes(abstract_weights(model, engine.mesh, engine.dtype, int8))
    weights = 2 * whole if engine.layout.gathered else whole  # written where they are gathered
    read = _param_bytes(model, 4) / devices
    sync = Load("weight sync", 1, 0, read + weights, _network(run, compiled, "weights"))
    prompts = run.config.rollout.prompts_per_step
    width = min(prompt, engine.longest_chunk)
    chunks = -(-prompt // engine.longest_chunk)
    padded = chunks * chunk_width(width, engine.longest_chunk)
    done = flops(model, Work(prompts * padded, prompts * padded * padded, 0)).total
    rows = max(1, engine.options.prefill_tokens // padded) * engine.shards
    batches = -(-prompts // min(rows, engine.slots)) * chunks
    prefill = Load(
        "prefill",
        batches,
        done / devices,
        batches * weights,
        batches * _network(run, compiled, "prefill"),
    )
    return [sync, prefill, _decode(run, compiled, lengths, prompt, weights)]


def _decode(
    run: RehearsedRun,
    compiled: Mapping[Hashable, Compiled],
    lengths: np.ndarray,
    prompt: int,
    weights: int,
) -> Load:
    engine, devices = run.sampler, run.learner.mesh.size
    cache = device_bytes(engine.caches.abstract(engine.slots).blocks)
    column = cache / (engine.slots * sum(engine.sizes))  # of one slot, on one device
    steps, moved, work = 0, 0.0, Work(0, 0, 0)
    for count, width, active, filled, longest in schedule(lengths, engine.slots, engine.widths):
        n = blocks_for(engine.sizes, prompt + longest + engine.options.steps_per_dispatch)
        live = width * sum(engine.sizes[:n])
        if engine.kernel.skips:
            live = active * prompt + filled
        steps += count
        moved += count * (weights + live * column)
        work += Work(count * width, count * live, count * width)
    done = flops(engine.config, work).total / devices
    # What is not in the loop over tokens, whose turns the compiler does not know, is run once for a
    # dispatch.
    found = [compiled[p.call.key].collectives for p in _programs(run) if p.call.name == "decode"]
    in_loop = any(c is not None and c.at_least for c in found)
    runs = steps if in_loop else -(-steps // engine.options.steps_per_dispatch)
    return Load("decode", steps, done, moved, runs * _network(run, compiled, "decode"))


def schedule(
    lengths: Sequence[int] | np.ndarray, slots: int, widths: Sequence[int]
) -> list[tuple[int, int, int, int, int]]:
    """The steps of decode that draw responses of these lengths, in this order.

    A slot that is done takes the next response at once; when none is left, the cache is narrowed.

    Args:
        lengths: tokens of each response.
        slots: drawn at the same time.
        widths: numbers of slots that the cache may have.

    Returns:
        Steps in which the same slots draw: their number, slots of the cache, slots that draw, all
        response tokens in their cache, and those of the longest.
    """
    waiting = [int(n) for n in lengths][::-1]
    ends: list[tuple[int, int]] = []  # step at which a slot is done, and when it began
    now, found = 0, []
    while waiting or ends:
        while waiting and len(ends) < slots:
            heapq.heappush(ends, (now + waiting.pop(), now))
        active = len(ends)
        width = slots if waiting else min((w for w in widths if w >= active), default=slots)
        upto = ends[0][0]
        begun = [begin for _, begin in ends]
        while now < upto:
            count = min(MOST_STEPS, upto - now)
            middle = now + count // 2
            filled = active * middle - sum(begun)
            found.append((count, width, active, filled, middle - min(begun)))
            now += count
        while ends and ends[0][0] <= now:
            heapq.heappop(ends)
    return found


# ---- Scoring and the update.


def _examples(run: RehearsedRun, lengths: np.ndarray, prompt: int) -> list[Example]:
    samples, domains = run.config.rollout.samples_per_prompt, len(run.config.domains)
    return [
        Example(
            SampleKey(f"{i // samples:08d}", i % samples),
            i // samples % domains,
            np.full(prompt, i // samples, np.int32),
            np.zeros(length, np.int32),
            1.0,
        )
        for i, length in enumerate(lengths)
    ]


def _learning(
    run: RehearsedRun, compiled: Mapping[Hashable, Compiled], examples: list[Example]
) -> list[Load]:
    """Scoring by role, and the updates of a step."""
    learner, config, devices = run.learner, run.config, run.learner.mesh.size
    updates = config.learner.updates_per_batch
    part = examples[: len(examples) // updates]
    by_role: dict[str, list[tuple[ModelConfig, Flops, str]]] = {}
    trained, used = Flops(0, 0, 0), 0
    for bucket, rows in zip(
        learner.buckets, plan(part, learner.buckets, learner.sharing), strict=True
    ):
        for start in range(0, len(rows), bucket.rows):
            micro = rows[start : start + bucket.rows]
            members = list(members_of(micro))
            if not members:
                continue
            arrays, _ = fill(micro, bucket.rows, bucket.length, ())
            segments, wanted = arrays["segments"], arrays["weights"] > 0
            used += 1
            batch = PackedBatch(**_nothing(), used=np.int32(1), segments=segments[None])
            batch = batch.replace(weights=arrays["weights"][None])
            trained += update_cost(
                learner.decoder(learner.student, config.learner.remat),
                members,
                [batch],
                learner.devices,
            ).executed
            size = f"{bucket.rows} x {bucket.length}"
            for role, model in _scorers(run, members[0].domain):
                decoder = learner.decoder(model)
                cost = score_cost(decoder, members, segments, wanted, learner.devices)
                by_role.setdefault(role, []).append((model, cost.executed, size))
    scored = [
        _score_load(run, compiled, role, several * updates) for role, several in by_role.items()
    ]
    steps = [p for p in _programs(run) if p.call.name == "train step"]
    slots = sum(b.micro_batches for b in learner.buckets)
    network = max((_received(compiled, p) for p in steps), default=0) * used / slots
    update = Load(
        "update",
        updates,
        updates * trained.total / devices,
        updates * _update_bytes(run, used),
        updates * network,
    )
    return [*scored, update]


def _scorers(run: RehearsedRun, domain: int) -> list[tuple[str, ModelConfig]]:
    """The models that score the examples of a domain, by role."""
    config = run.config
    if config.method != "gopd":
        return []
    name = list(config.domains)[domain]
    found = [(f"teacher of {name}", run.models[config.domains[name].teacher])]
    if needs_reference(config.reward_scales[name]) or config.shaping.reference_everywhere:
        found.append(("reference", run.models[config.reference or config.student]))
    return found


def _score_load(
    run: RehearsedRun,
    compiled: Mapping[Hashable, Compiled],
    role: str,
    micros: list[tuple[ModelConfig, Flops, str]],
) -> Load:
    devices = run.learner.mesh.size
    model = micros[0][0]
    by_size = {
        p.size: _received(compiled, p)
        for p in _programs(run)
        if p.call.name == "score" and role in p.role
    }
    return Load(
        f"score, {role}",
        len(micros),
        sum(f.total for _, f, _ in micros) / devices,
        len(micros) * _gathered(run, model),
        sum(by_size.get(size, 0) for _, _, size in micros),
    )


def _gathered(run: RehearsedRun, model: ModelConfig) -> float:
    """Bytes to read the weights of a model once, and to write them where they are gathered."""
    mesh, size = run.learner.mesh, np.dtype(run.learner.dtype).itemsize
    held = _param_bytes(model, size) / mesh.shape["tensor"]
    return held * (2 if _split(run) > 1 else 1)


def _split(run: RehearsedRun) -> int:
    """Devices that the width of a matrix is split over."""
    return math.prod(run.learner.mesh.shape[axis] for axis in RULES["embed"])


def _update_bytes(run: RehearsedRun, used: int) -> float:
    """Weights in each pass, gradients added up, and the optimizer: seven numbers a parameter."""
    model = run.learner.student
    passes = 2 if run.config.learner.remat == "none" else 3
    shard = device_bytes(run.learner.abstract_state().params)
    return used * (passes * _gathered(run, model) + 2 * shard) + 7 * shard


def _param_bytes(model: ModelConfig, itemsize: int) -> int:
    return model.num_params * itemsize


# ---- Traffic.


def _programs(run: RehearsedRun) -> list[Planned]:
    return list(itertools.chain.from_iterable(phase.programs for phase in run.phases))


def _received(compiled: Mapping[Hashable, Compiled], planned: Planned) -> int:
    found = compiled[planned.call.key].collectives
    return found.bytes if found else 0


def _network(run: RehearsedRun, compiled: Mapping[Hashable, Compiled], name: str) -> int:
    """Bytes that a device receives in one run of the student's program of this name."""
    found = [p for p in _programs(run) if p.call.name == name and p.role == "student"]
    return max((_received(compiled, p) for p in found), default=0)


def _nothing() -> dict[str, None]:
    """Fields of a batch that its cost does not depend on."""
    skipped = {"used", "segments"}
    return {f.name: None for f in dataclasses.fields(PackedBatch) if f.name not in skipped}
