"""The command: plans a config for one slice, or for several, and says what it found."""

import argparse
from collections.abc import Sequence

from gopd_jax.config import Config
from gopd_jax.plan import picture, text
from gopd_jax.plan.architectures import architectures, ids_of
from gopd_jax.plan.chips import describe, devices_of
from gopd_jax.plan.compiling import Compiler
from gopd_jax.plan.make import Plan, Planner
from gopd_jax.plan.remedies import Remedy, find_remedy
from gopd_jax.plan.work import Assumed
from gopd_jax.runtime.files import check_output
from gopd_jax.runtime.progress import result, result_width, say
from gopd_jax.train.prepare import roles_of

PROMPT_SHARE, RESPONSE_SHARE = 8, 4  # means are this part of the limits where none is given


def plan_all(config: Config, names: Sequence[str], options: argparse.Namespace) -> None:
    """Plans a config for each slice; prints the tables, and with several one table in the end.

    Raises:
        ValueError: not the name of a slice, a model that cannot be found, a mesh that does not fit.
    """
    for name in names:
        devices_of(name)  # before any of them is compiled
    if options.picture:
        check_output("--picture", options.picture)
    models, notes = architectures(roles_of(config))
    ids = ids_of(config)
    if ids[0] is None:
        notes.append("as many token ids as the student's vocabulary has, without a tokenizer")
    rows = []
    for name in names:
        where = describe(name, options.memory and 1e9 * options.memory)
        fast = options.fast and where.chip.kind == "tpu"
        compiler = Compiler(name, fast, options.jobs, keep=not options.no_cache)
        planner = Planner(where, models, compiler, _assumed(config, options), ids, options.all)
        plan, remedy, tried = _one(planner, config, notes, options)
        rows.append((plan, remedy))
        shown = text.report(plan, notes, fast, options.all, result_width())
        if not plan.fits and not options.no_remedy:
            shown += "\n" + text.remedy_text(remedy, tried)
        made = text.record(
            plan, remedy, tried, config=config.name, assumed=notes, fast=fast, all=options.all
        )
        result(shown, made)
        if options.picture and len(names) == 1:
            picture.draw(remedy.plan if remedy else plan, options.picture)
            say(f"memory by phase is in {options.picture}")
    if len(rows) > 1:
        result("\n" + text.sweep(rows, result_width()), {"record": "sweep", "slices": list(names)})


def _one(
    planner: Planner, config: Config, notes: Sequence[str], options: argparse.Namespace
) -> tuple[Plan, Remedy | None, tuple[str, ...]]:
    plan = planner.plan(planner.rehearsed(config))
    if plan.fits or options.no_remedy:
        return plan, None, ()
    return plan, *find_remedy(planner, plan)


def _assumed(config: Config, options: argparse.Namespace) -> Assumed:
    prompt, response = config.data.max_prompt_tokens, config.rollout.max_response_tokens
    return Assumed(
        min(prompt, options.prompt_tokens or max(1, prompt // PROMPT_SHARE)),
        min(response, options.response_tokens or max(1, response // RESPONSE_SHARE)),
        options.mfu,
        options.hbm_share,
        options.network_share,
    )
