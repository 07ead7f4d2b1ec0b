"""The preview command after its options are parsed: config -> points by domain -> table, picture.

In: the config of a run and the lambdas. Out: the table on stdout, preview.json and preview.png.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp

from gopd_jax.config import Config
from gopd_jax.evaluate.scores import Figures
from gopd_jax.learner.settings import ControlSettings
from gopd_jax.models.config import ModelConfig
from gopd_jax.objective.gopd import needs_reference
from gopd_jax.objective.shaping_settings import ShapingSettings
from gopd_jax.preview import picture
from gopd_jax.preview.points import Domain, Needed, Point, draw, needed
from gopd_jax.preview.table import line, table
from gopd_jax.rewards.settings import NONE
from gopd_jax.rewards.verifier import Verifier
from gopd_jax.rollout.memory import cache_part, weights_part
from gopd_jax.rollout.samplers import Samplers
from gopd_jax.runtime import provenance
from gopd_jax.runtime.compilation_cache import use_compilation_cache
from gopd_jax.runtime.files import check_output, replace_json
from gopd_jax.runtime.memory import check_fits, device_memory
from gopd_jax.runtime.mesh import compute_dtype, make_mesh
from gopd_jax.runtime.processes import start_processes
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.runtime.progress import Bar, result, result_width, say
from gopd_jax.train.checks import undone_if_refused
from gopd_jax.train.keys import evaluation_key
from gopd_jax.train.models import make_samplers
from gopd_jax.train.prepare import RunInputs, prepare
from gopd_jax.types import EncodedPrompt


def preview(
    config: Config, lambdas: Sequence[float], prompts: int, samples: int | None, out: str
) -> None:
    """Draws, scores and shows every lambda in every domain.

    Args:
        config: of the run that is previewed.
        lambdas: rising; 1 is added if it is missing.
        prompts: test prompts of each domain; 0 stands for all.
        samples: of each prompt; None stands for `config.eval.samples`.
        out: folder of the results.

    Raises:
        ValueError: before any work, with one sentence on what is wrong and what was expected.
    """
    start_processes()
    use_compilation_cache(config.compilation_cache)
    scales = sorted({1.0, *lambdas})
    config = _previewed(config, scales)
    if (epath.Path(out) / "run.json").exists():
        raise ValueError(f"--out={out}: this is the folder of a run; expected another folder")
    check_output("--out", epath.Path(out) / "preview.json")
    mesh, dtype = make_mesh(**dataclasses.asdict(config.mesh)), compute_dtype(config.compute_dtype)
    with undone_if_refused(out):
        inputs = prepare(config, out)
        groups = {n: needed(scales, t, inputs.reference) for n, t in inputs.teachers.items()}
        memory = device_memory(mesh)
        for of_domain in groups.values():
            for group in of_domain:
                _check_memory(config, group, inputs.models, mesh, dtype, memory)
        samplers = make_samplers(config, inputs, ProgramTable(mesh), dtype, memory)
    domains = {
        name: Domain(
            name,
            prompts=_first(inputs.test[name], prompts),
            samples=samples or config.eval.samples,
            max_tokens=config.rollout.max_response_tokens,
            kind=config.domains[name].reward,
            rule=config.eval.rule,
            key=evaluation_key(config.seed),
        )
        for name in groups
    }
    record = _beginning(config, inputs, domains, out)
    points = _draw_all(config, inputs, domains, groups, samplers, record, out)
    record["complete"] = True
    if jax.process_index() == 0:
        replace_json(epath.Path(out) / "preview.json", record)
        picture.draw(points, config.name, epath.Path(out) / "preview.png")
    result(table(record, result_width()), record)
    say(f"table and picture: {out}/preview.json, {out}/preview.png")


def _first(prompts: Sequence[EncodedPrompt], most: int) -> list[EncodedPrompt]:
    """The first prompts; 0 stands for all."""
    return [prompts[i] for i in range(min(most or len(prompts), len(prompts)))]


def _previewed(config: Config, scales: Sequence[float]) -> Config:
    """The config as far as the preview needs it: the reference is read if a lambda needs it, and
    what shapes or replaces advantages is at its default.

    Raises:
        ValueError: there is no optimum to preview, or nothing to score it by.
    """
    if config.method != "gopd":
        raise ValueError(
            f"config.method={config.method!r}: expected gopd, whose teachers and reference are "
            "previewed"
        )
    for name, domain in config.domains.items():
        if domain.reward == NONE:
            raise ValueError(
                f"config.domains.{name}.reward={NONE!r}: expected one that verifies answers, "
                "because a preview scores them"
            )
        if domain.prompts_teacher:
            own = "teacher_context" if domain.teacher_context else "teacher_template"
            raise ValueError(
                f"config.domains.{name}.{own}={getattr(domain, own)!r}: expected none, because a "
                "preview draws from teacher and reference after the same prompt"
            )
    scale = next(filter(needs_reference, scales), 1.0)
    domains = {n: dataclasses.replace(d, reward_scale=None) for n, d in config.domains.items()}
    learner = dataclasses.replace(config.learner, reward_scale=scale)
    plain = {"shaping": ShapingSettings(), "control": ControlSettings()}
    return dataclasses.replace(config, domains=domains, learner=learner, **plain)


def _check_memory(
    config: Config,
    group: Needed,
    models: dict[str, ModelConfig],
    mesh: jax.sharding.Mesh,
    dtype: jnp.dtype,
    memory: int | None,
) -> None:
    """Raises ValueError, with the arithmetic, if a device cannot hold the models and caches."""
    rollout, parts = config.rollout, []
    for path in group.paths:
        options, slots = rollout.options, rollout.slots
        tokens = config.data.max_prompt_tokens + rollout.max_response_tokens
        shape = {"slots": slots, "max_tokens": tokens, "dtype": dtype, "options": options}
        layout = rollout.layout == "gathered" or (rollout.layout == "auto" and mesh.size > 1)
        parts += [
            weights_part(models[path], mesh, dtype, options, f"model {path!r}", layout),
            cache_part(models[path], mesh, **shape, setting=f"config.rollout.slots={slots}"),
        ]
    check_fits(parts, mesh, memory)


def _beginning(
    config: Config, inputs: RunInputs, domains: dict[str, Domain], out: str
) -> dict[str, Any]:
    """What preview.json says before anything is drawn."""
    return {
        "complete": False,
        "out": out,
        "config": config.name,
        "seed": config.seed,
        "rule": dataclasses.asdict(config.eval.rule),
        "max_response_tokens": config.rollout.max_response_tokens,
        "domains": {
            name: {
                "teacher": inputs.teachers[name],
                "reference": inputs.reference,
                "prompts": len(domain.prompts),
                "samples": domain.samples,
                "lambdas": [],
            }
            for name, domain in domains.items()
        },
        "about": provenance.record(),
    }


def _draw_all(
    config: Config,
    inputs: RunInputs,
    domains: dict[str, Domain],
    groups: dict[str, list[Needed]],
    samplers: Samplers,
    record: dict[str, Any],
    out: str,
) -> dict[str, list[Figures]]:
    """Every point of every domain, also written to `record` and, as they come, to preview.json."""
    total = sum(len(group.scales) for of_domain in groups.values() for group in of_domain)
    found: dict[str, list[Figures]] = {}
    with (
        Verifier(**dataclasses.asdict(config.verifier)) as verify,
        Bar("preview", total, "lambdas") as bar,
    ):
        for name, domain in domains.items():
            at_one: Point | None = None
            found[name] = record["domains"][name]["lambdas"]
            for point in draw(
                domain, groups[name], inputs.models, samplers, verify, inputs.tokenizer
            ):
                at_one = at_one or point
                found[name].append(point.figures(at_one))
                say(f"{name}: {line(found[name][-1])}")
                found[name].sort(key=lambda figures: figures["lambda"])
                if jax.process_index() == 0:
                    replace_json(epath.Path(out) / "preview.json", record)
                bar.advance(1)
    return found
