"""Every arm with every seed, spread over processes; then the tables and pictures.

In: which arms, how many seeds, how large. Out: the folder that the command's --help describes.
What is there already is not run again.
"""

from collections.abc import Mapping, Sequence
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
from pathlib import Path
import platform
import time
from typing import TextIO

from gopd_jax.reproduce import pictures, tables, worker
from gopd_jax.reproduce.arms import Arm, Size, chosen
from gopd_jax.reproduce.folder import ArmScores, read_scores
from gopd_jax.runtime import provenance
from gopd_jax.runtime.files import (
    JsonObject,
    check_output,
    read_json,
    replace_json,
    replace_text,
)
from gopd_jax.runtime.progress import Bar

Task = tuple[Arm, int]  # an arm and a seed


def reproduce(out: str, seeds: int, groups: Sequence[str], jobs: int, size: Size) -> JsonObject:
    """Runs what is missing, then writes the tables and pictures; returns the results.

    Args:
        out: folder of the experiment.
        seeds: number of seeds.
        groups: the tables to make, of `arms.GROUPS`.
        jobs: number of processes.
        size: how much is run.

    Raises:
        ValueError: an unknown group, or `out` holds an experiment of another size.
    """
    arms = chosen(groups)
    folder = Path(out)
    check_output("--out", folder / "size.json")
    tasks = [(arm, seed) for seed in range(seeds) for arm in arms]
    scores = {(arm.name, seed): read_scores(arm.name, seed, out) for arm, seed in tasks}
    _check_same_size(folder / "size.json", size)
    start = time.perf_counter()
    scores = _run_all(tasks, scores, str(folder.resolve()), jobs, size)
    results = tables.summarise(scores, arms, groups, seeds)
    results["about"] = provenance.record() | {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "compilation_cache": f"{folder.resolve()}/compiled",  # of the workers
        "size": dataclasses.asdict(size),
        "seconds_of_this_start": round(time.perf_counter() - start),
        "seconds_of_all_arms": round(sum(s["seconds"] for s in scores.values())),
    }
    replace_json(folder / "results.json", results)
    drawn = pictures.draw(results, folder)
    replace_text(folder / "results.md", tables.markdown(results, drawn))
    return results


def _check_same_size(path: Path, size: Size) -> None:
    """An experiment has one size; seeds and groups may be added to it."""
    text = json.dumps(dataclasses.asdict(size))
    if path.exists() and (old := read_json(path)) != json.loads(text):
        raise ValueError(
            f"--out={path.parent} holds an experiment of another size ({old}, now {text}): "
            "expected another --out"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text + "\n")


def _run_all(
    tasks: Sequence[Task],
    done: Mapping[tuple[str, int], ArmScores | None],
    out: str,
    jobs: int,
    size: Size,
) -> dict[tuple[str, int], ArmScores]:
    """Scores by (arm name, seed); `done` has those that are there.

    Seeds follow one another; an arm starts when what it needs is there and a process is free.
    """
    scores = {name: kept for name, kept in done.items() if kept}
    waiting = [(arm, seed) for arm, seed in tasks if (arm.name, seed) not in scores]
    running: dict[concurrent.futures.Future[ArmScores], Task] = {}
    with (
        _worker_pool(jobs, out) as pool,
        Bar("reproduce", len(tasks), "arms", done=len(scores)) as bar,
        open(Path(out) / "arms.jsonl", "a") as log,
    ):
        try:
            while waiting or running:
                ready = [(a, s) for a, s in waiting if all((n, s) in scores for n in a.needs)]
                for arm, seed in ready[: jobs - len(running)]:
                    waiting.remove((arm, seed))
                    running[pool.submit(worker.run_quietly, arm, seed, out, size)] = arm, seed
                finished, _ = concurrent.futures.wait(running, return_when="FIRST_COMPLETED")
                for future in finished:
                    arm, seed = running.pop(future)
                    scores[arm.name, seed] = future.result()
                    bar.advance(1, _log(scores[arm.name, seed], log))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():  # a run that is trained is saved
                process.terminate()
            raise
    return scores


def _worker_pool(jobs: int, out: str) -> concurrent.futures.ProcessPoolExecutor:
    """Processes with one core each; a single one has them all."""
    # Spawned: a forked process would inherit JAX, imported already and with running threads.
    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    for core in sorted(os.sched_getaffinity(0))[:jobs] if jobs > 1 else [None]:
        cores.put(core)
    return concurrent.futures.ProcessPoolExecutor(
        jobs, context, worker.start_worker, (cores, f"{out}/compiled")
    )


def _log(scores: ArmScores, log: TextIO) -> str:
    """Writes a line about a finished arm to arms.jsonl; returns the note of the progress bar."""
    means = {
        domain: round(100 * sum(d["by_prompt"]) / len(d["by_prompt"]), 2)
        for domain, d in scores["domains"].items()
    }
    line = {"arm": scores["arm"], "seed": scores["seed"], "score": means}
    log.write(json.dumps(line | {"seconds": scores["seconds"]}) + "\n")
    log.flush()
    shown = ", ".join(f"{domain} {mean}" for domain, mean in means.items())
    return f"{scores['arm']}, seed {scores['seed']}: {shown}"
