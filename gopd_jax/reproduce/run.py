"""Every arm with every seed, over processes: what is missing is run, then the tables and pictures are written.

In: which arms, how many seeds, how large. Out: the folder that `__main__.py` describes.
"""

from collections.abc import Sequence
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
from pathlib import Path
import platform
import time
from typing import Any

from gopd_jax.reproduce import arms, pictures, tables, work
from gopd_jax.runtime.progress import Bar
from gopd_jax.runtime.provenance import about


def reproduce(
    out: str, seeds: int, groups: Sequence[str], jobs: int, size: work.Size
) -> dict[str, Any]:
    """Runs what is missing, then writes the tables and pictures; returns the results.

    Raises:
        ValueError: an unknown group, or `out` holds an experiment of another size.
    """
    chosen = arms.chosen(tuple(groups))
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    _check_same(folder / "size.json", size)
    start = time.perf_counter()
    scores = _run_all(chosen, seeds, str(folder.resolve()), jobs, size)
    results = tables.summarise(scores, chosen, groups, seeds)
    results["about"] = about() | {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "size": dataclasses.asdict(size),
    }
    results["about"]["seconds_of_this_start"] = round(time.perf_counter() - start)
    results["about"]["seconds_of_all_arms"] = round(sum(s["seconds"] for s in scores.values()))
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    drawn = pictures.draw(results, folder)
    (folder / "results.md").write_text(tables.markdown(results, drawn))
    return results


def _check_same(path: Path, size: work.Size) -> None:
    """An experiment has one size; more seeds or groups may be added to it."""
    mine = json.loads(json.dumps(dataclasses.asdict(size)))
    if path.exists() and (there := json.loads(path.read_text())) != mine:
        raise ValueError(
            f"--out={path.parent} holds an experiment of another size ({there}, now {mine}): wanted another --out"
        )
    path.write_text(json.dumps(mine) + "\n")


def _run_all(
    chosen: list[arms.Arm], seeds: int, out: str, jobs: int, size: work.Size
) -> dict[tuple[str, int], dict[str, Any]]:
    """Scores by (arm, seed). Seed after seed; an arm starts when what it needs is there and a process is free."""
    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    for core in sorted(os.sched_getaffinity(0))[:jobs] if jobs > 1 else [None]:
        cores.put(core)
    waiting = [(arm, seed) for seed in range(seeds) for arm in chosen]
    total = len(waiting)
    scores = {(a.name, s): kept for a, s in waiting if (kept := work.finished(a, s, out))}
    waiting = [(arm, seed) for arm, seed in waiting if (arm.name, seed) not in scores]
    running: dict[concurrent.futures.Future, tuple[arms.Arm, int]] = {}
    pool = concurrent.futures.ProcessPoolExecutor(
        jobs, context, work.start_worker, (cores, f"{out}/compiled")
    )
    with (
        pool,
        Bar("reproduce", total, "arms", done=len(scores)) as bar,
        open(Path(out) / "arms.jsonl", "a") as log,
    ):
        try:
            while waiting or running:
                ready = [(a, s) for a, s in waiting if all((n, s) in scores for n in a.needs)]
                for arm, seed in ready[: jobs - len(running)]:
                    waiting.remove((arm, seed))
                    running[pool.submit(work.run_quietly, arm, seed, out, size)] = arm, seed
                done, _ = concurrent.futures.wait(running, return_when="FIRST_COMPLETED")
                for future in done:
                    arm, seed = running.pop(future)
                    scores[arm.name, seed] = result = future.result()
                    means = {
                        d: round(100 * sum(v["by_prompt"]) / len(v["by_prompt"]), 2)
                        for d, v in result["domains"].items()
                    }
                    log.write(
                        json.dumps(
                            {
                                "arm": arm.name,
                                "seed": seed,
                                "score": means,
                                "seconds": result["seconds"],
                            }
                        )
                        + "\n"
                    )
                    log.flush()
                    bar.advance(
                        1,
                        f"{arm.name}, seed {seed}: "
                        + ", ".join(f"{d} {v}" for d, v in means.items()),
                    )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return scores
