"""Evaluations of models as they were loaded, kept for other runs: teachers, and students at step 0.

In: everything that decides the numbers of an evaluation, as JSON. Out: the evaluation, if one with
the very same inputs was made before. Each is a file of `runtime.user_cache`, named by the sha256 of
its inputs; a damaged one is named and left out. Not for reward functions of the user: they may
import and ask what no fingerprint covers.
"""

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
from importlib import metadata
import json
import math
import os
from pathlib import Path
import platform
import time
import uuid

from etils import epath
import jax
import numpy as np

import gopd_jax
from gopd_jax.config import Config
from gopd_jax.data.encode import identities
from gopd_jax.evaluate.held_out import Evaluation
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.runtime.files import JsonObject, read_json
from gopd_jax.runtime.processes import agree
from gopd_jax.runtime.progress import say
from gopd_jax.runtime.user_cache import cache_folder
from gopd_jax.train.prepare import RunInputs
from gopd_jax.types import EncodedPrompt

# The rooms, and modules of this one, whose code an evaluation runs through.
CODE = ("types.py", "data", "evaluate", "kernels", "models", "rewards", "rollout", "runtime")
CODE += ("train/evaluations.py", "train/keys.py")
PACKAGES = ("jax", "jaxlib", "numpy", "flax", "transformers", "tokenizers")
PACKAGES += ("math-verify", "latex2sympy2-extended", "sympy")  # judge mathematics


def inputs_of(
    config: Config,
    inputs: RunInputs,
    role: str,
    domain: str,
    prompts: Sequence[EncodedPrompt],
    sampler: RolloutEngine,
) -> JsonObject:
    """What decides the numbers of a model's evaluation, as JSON reads it back.

    Some of it changes at most the last bit (slots, devices, versions). It is here all the same, so
    that a cached evaluation is the one that the run would have made.

    Args:
        role: of the model, as the fingerprints name it.
        prompts: the test prompts of the domain.
        sampler: draws the samples of the run's models.
    """
    fingerprints = inputs.fingerprints
    what = {
        "weights": fingerprints["weights"][role],
        "architecture": fingerprints["architecture"][role],
        "vocabulary": fingerprints["vocabulary"],
        "stop_ids": sampler.stop_ids,
        "num_ids": sampler.num_ids,
        "data": fingerprints["data"][f"{domain}/test"],
        "prompts": _prompts(prompts, config.eval.prompts),
        "samples": config.eval.samples,
        "rule": dataclasses.asdict(config.eval.rule),
        "limits": [sampler.max_prompt_tokens, sampler.max_response_tokens],
        "seed": config.seed,
        "reward": config.domains[domain].reward,
        "verifier": [config.verifier.timeout_s, config.verifier.memory_mb],
        "dtype": str(np.dtype(sampler.dtype)),
        "engine": dataclasses.asdict(sampler.options),
        "slots": sampler.slots,
        "mesh": dict(sampler.mesh.shape),
        "code": _code(),
        "machine": _machine(),
    }
    return json.loads(json.dumps(what))


def load(what: JsonObject) -> Evaluation | None:
    """The evaluation with these inputs; None if there is none. Every host gets the first one's."""
    start = time.perf_counter()
    path = _path(what)
    found = _read(path, what) if path is not None and jax.process_index() == 0 else None
    if not agree(found is not None):
        return None
    count = what["prompts"]["count"]
    values = [*found.by_prompt, found.tokens, found.truncated] if found else [0.0] * (count + 2)
    values = agree(values)
    if found is None:  # on another host
        *rewards, tokens, truncated = (float(value) for value in values)
        found = Evaluation(tuple(rewards), what["samples"], int(tokens), truncated, 0.0)
    return dataclasses.replace(found, seconds=time.perf_counter() - start)


def store(what: JsonObject, result: Evaluation) -> None:
    """Keeps an evaluation; warns where it cannot be written."""
    path = _path(what)
    if path is None or jax.process_index() > 0:
        return
    values = dataclasses.asdict(result) | {"by_prompt": list(result.by_prompt)}
    content = {"inputs": what, "result": values, "sha256": _sha256(values)}
    temporary = path.with_name(f"{path.stem}-{uuid.uuid4().hex}.tmp")  # runs may share the folder
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content) + "\n")
        temporary.replace(path)
    except OSError as e:
        say(f"warning: {path} cannot be written ({e.strerror or e}): the evaluation is not cached")


def _path(what: JsonObject) -> epath.Path | None:
    folder = cache_folder("evaluations")
    return None if folder is None else folder / f"{_sha256(what)}.json"


def _read(path: epath.Path, what: JsonObject) -> Evaluation | None:
    try:
        if not path.exists():
            return None
        content = read_json(path, inputs=dict, result=dict, sha256=str)
        result = content["result"]
        if content["inputs"] != what or content["sha256"] != _sha256(result):
            raise ValueError(f"{path} is damaged: expected the sha256 that it holds")
        found = Evaluation(**result | {"by_prompt": tuple(result["by_prompt"])})
        if len(found.by_prompt) != what["prompts"]["count"] or not math.isfinite(found.mean):
            raise ValueError(f"{path} is damaged: expected a number for each prompt")
    except (OSError, ValueError, TypeError, KeyError) as e:
        say(f"warning: {e}; the cached evaluation is ignored")
        return None
    return found


def _prompts(prompts: Sequence[EncodedPrompt], most: int) -> JsonObject:
    """Number and sha256 of the prompts that are used: ids, which seed the samples, and tokens."""
    digest, count = hashlib.sha256(), min(most or len(prompts), len(prompts))
    for identity, _ in zip(identities(prompts), range(count), strict=False):
        tokens = np.asarray(identity.tokens, np.int32)
        digest.update(json.dumps([identity.prompt_id, len(tokens)]).encode() + tokens.tobytes())
    return {"count": count, "sha256": digest.hexdigest()}


@functools.cache
def _code() -> str:
    """sha256 of the code that makes an evaluation."""
    root, digest = Path(gopd_jax.__file__).parent, hashlib.sha256()
    for part in CODE:
        path = root / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _machine() -> JsonObject:
    """What else decides the rounding of a sum, and how programs of a model are run."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
        "processor": _processor(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "matmul_precision": jax.config.jax_default_matmul_precision,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """Name, instructions and usable cores of the CPU: XLA compiles for the first two."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        kept = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    except OSError:
        kept = [platform.processor()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return _sha256([platform.machine(), kept, cores])


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
