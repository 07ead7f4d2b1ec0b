"""The numbers of a learner on one device, and on eight for several meshes.

python mesh_cases.py CASE MESH...: raises unless every mesh gives the numbers of one device. A mesh
is written like fsdp=2,context=4.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
from model_cases import CASES, random_params
import numpy as np
from step_cases import make_config, make_examples, make_requests, make_samples, of_tokens

from gopd_jax.kernels import choose
from gopd_jax.kernels.packed_attention import MEMBERS
from gopd_jax.kernels.packed_attention_xla import Xla
from gopd_jax.learner import packing
from gopd_jax.learner.distance import distances
from gopd_jax.learner.learner import FrozenModel
from gopd_jax.learner.scoring import with_scores
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.train import models
from gopd_jax.types import Rollout, SampleKey

# Eight devices divide everything.
MODELS = {
    "dense": dataclasses.replace(CASES["qwen3_tied"], heads=8, kv_heads=8, head_size=8),
    "moe": dataclasses.replace(CASES["qwen3_moe_untied"], heads=8, kv_heads=8, experts=8),
}
DOMAINS = ("code", "math")
CLOSE = 1e-5
ROWS, LENGTH = 8, 128


def examples_of():
    """Samples that share prompts, eight long ones, and five short ones beside which none fits."""
    alone = make_examples(8, 1, 1, (60, 60), (40, 40)) + make_examples(5, 1, 2, (19, 20), (10, 12))
    rest = [dataclasses.replace(e, key=SampleKey("q", i), domain=1) for i, e in enumerate(alone)]
    return make_samples(3, 6, (20, 60), (1, 40)) + rest


def rollouts_of(model):
    rng, found = np.random.default_rng(1), []
    for i, request in enumerate(make_requests([1, 8, 5, 3, 6], max_tokens=13)):
        tokens = rng.integers(1, model.vocab_size, 13 - 2 * i, dtype=np.int32)
        found.append(Rollout(request, tokens, np.zeros(len(tokens), np.float32), "stop"))
    return found


def numbers(model, config, mesh):
    """Everything that a learner computes in one step, by name."""
    learner = models.make_learner(config, model, ProgramTable(mesh), jnp.float32)
    assert [b.length for b in learner.buckets] == [LENGTH, LENGTH // 4]
    place = lambda seed: jax.device_put(random_params(model, seed), learner.param_shardings)  # noqa: E731
    frozen = {name: FrozenModel(name, model, place(i)) for i, name in enumerate(DOMAINS, 1)}
    reference = FrozenModel("reference", model, place(3))
    scored = with_scores(learner, examples_of(), frozen, reference)
    packed = learner.pack(scored)
    assert all(packed.used)
    segments = [np.asarray(batch.segments) for batch in packed.batches]
    assert any((x % MEMBERS).any() for x in segments) and all((x == 0).any() for x in segments)
    found = distances(learner, place(0), frozen["code"], rollouts_of(model))
    state, metrics, tokens = learner.update(learner.start(place(0)), packed)
    # The first moment after one update is the gradient, times a constant.
    moments = {
        jax.tree_util.keystr(path): x
        for path, x in jax.tree_util.tree_leaves_with_path(state.opt_state)
    }
    first = {name: x for name, x in moments.items() if ".mu" in name}
    assert len(first) == len(jax.tree.leaves(state.params))
    return jax.device_get(
        first
        | {f"score {e.key}": [e.teacher_logprobs, e.reference_logprobs] for e in scored}
        | {f"logprob {e.key}": of_tokens([t.logprobs for t in tokens], packed, e) for e in scored}
        | {f"distance {i}": list(values.values()) for i, values in enumerate(found)}
        | {f"diagnostic {k}": x for k, x in metrics.diagnostics.finish(DOMAINS).items()}
        | {"loss": metrics.loss, "gradient norm": metrics.grad_norm, "applied": metrics.applied}
    )


def error(name, found, expected):
    """The relative error; that of diagnostics, means of log-probs that may cancel, is absolute."""
    least = 1.0 if name.startswith("diagnostic") else 1e-3
    found, expected = (
        np.concatenate([np.ravel(a) for a in x]) if isinstance(x, list) else np.ravel(x)
        for x in (found, expected)
    )
    return np.linalg.norm(np.float64(found) - expected) / max(np.linalg.norm(expected), least)


def main(case, *sizes):
    packing.LEAST = 32
    # Blocks that are shorter than the pieces of a row.
    choose.PACKED_ATTENTION["xla"].on["cpu"] = Xla(block=8, widths=(4, 2, 1))
    config = make_config(
        DOMAINS,
        reward_scale=1.25,
        rows_per_micro_batch=ROWS,
        row_length=LENGTH,
        samples_per_prompt=6,
        temperature=0.8,
        top_p=0.9,
        max_prompt_tokens=60,
        max_response_tokens=40,
    )
    model = MODELS[case]
    expected = numbers(model, config, make_mesh(devices=jax.devices()[:1]))
    assert "diagnostic sampler_gap/math" in expected
    same = True
    for text in sizes:
        given = {name: int(size) for name, size in (x.split("=") for x in text.split(","))}
        found = numbers(model, config, make_mesh(**({"fsdp": 1} | given)))
        assert found.keys() == expected.keys()
        far = {n: e for n, x in expected.items() if not (e := error(n, found[n], x)) < CLOSE}
        print(text, "differs:" if far else "same", far or "", flush=True)
        same &= not far
    assert same


if __name__ == "__main__":
    main(*sys.argv[1:])
