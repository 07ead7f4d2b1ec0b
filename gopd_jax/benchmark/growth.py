"""How the cost of scoring and of updates grows while one thing grows at a time.

In: the values of each variable. Out: a record for each point, measured by `benchmark update` in a
process of its own, and for each variable the exponents of a fit; on request a picture. Does not
import JAX, so that the accelerator is free for the points.
"""

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import json
from pathlib import Path
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from gopd_jax.benchmark.records import rounded
from gopd_jax.runtime.progress import Bar, result, result_width
from gopd_jax.runtime.tables import aligned

VARIABLES = ("vocabulary", "length", "rollouts", "teachers")
VOCABULARY, LENGTH, ROLLOUTS = 8192, 256, 48  # of the points where something else grows
# The head of the largest vocabulary takes as long as all the rest of a sweep.
ROLLOUTS_OF_VOCABULARY = 12
# A row holds as many whole examples as fit into so many tokens, and one at least: the answers have
# one length, and rows of another length would leave a different share empty at each point.
ROW = 1280
ALL_OF_ONE_LENGTH = 2**30  # a mean so far above the limit that every answer reaches it
LINEAR = 1.05  # an exponent up to this one counts as linear: 1, and what timing is wrong by
ARCHITECTURE = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "attention_bias": False,
}
COPIED = ("rollouts", "response_tokens", "seconds_score", "seconds_update", "useful_flops")
COPIED += ("executed_over_useful", "attention_share_score", "attention_share_update")
COPIED += ("filled_share", "peak_gib", "temporary_bytes", "mfu", "device")

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Point:
    """What one process measures: `variable` has `value`, and everything else its base value."""

    variable: str
    value: int
    vocabulary: int = VOCABULARY
    length: int = LENGTH
    rollouts: int = ROLLOUTS
    teachers: int = 1


def benchmark(args: argparse.Namespace) -> None:
    """Measures every point, or reads them, then prints the fits and draws the picture.

    Raises:
        ValueError: a point failed, a file holds no points, or the picture cannot be written.
    """
    if args.picture and not (args.picture.endswith(".png") and Path(args.picture).parent.is_dir()):
        raise ValueError(f"--picture={args.picture}: expected FILE.png in a folder that exists")
    found = read(args.read) if args.read else _measure(args)
    fits = []
    for variable in VARIABLES:
        if points := [r for r in found if r["variable"] == variable]:
            fits.append(fit(points))
            result(_text(points, fits[-1]), rounded(fits[-1]))
    if args.picture:
        from gopd_jax.benchmark.growth_picture import draw  # matplotlib takes half a second

        draw(found, fits, args.picture)


def plan(args: argparse.Namespace) -> list[Point]:
    """The points, variable after variable.

    All lengths share out the same number of response tokens, up to less than one answer.
    """
    points: list[Point] = []
    for variable in dict.fromkeys(args.vary):
        for value in getattr(args, variable):
            given = {variable: value}
            if variable == "length":
                given["rollouts"] = max(1, ROLLOUTS * LENGTH // value)
            elif variable == "vocabulary":
                given["rollouts"] = ROLLOUTS_OF_VOCABULARY
            points.append(Point(variable, value, **given))
    return points


def options(point: Point, prompt: int) -> list[str]:
    """What `benchmark update` is given for a point, model and runs apart."""
    example = prompt + point.length
    return [
        f"--prompts={point.rollouts}",
        f"--max-prompt-tokens={prompt}",
        f"--mean-response-tokens={ALL_OF_ONE_LENGTH}",
        f"--max-response-tokens={point.length}",
        f"--teachers={point.teachers}",
        f"--row-length={example * max(1, ROW // example)}",
    ]


def _measure(args: argparse.Namespace) -> list[Record]:
    architecture = ARCHITECTURE
    if args.model:
        architecture = json.loads((Path(args.model) / "config.json").read_text())
    points, found, given = plan(args), [], [f"--runs={args.runs}"]
    with Bar("growth", len(points), "points") as bar:
        for point in points:
            with tempfile.TemporaryDirectory() as folder:
                config = architecture | {"vocab_size": point.vocabulary}
                (Path(folder) / "config.json").write_text(json.dumps(config))
                median = _update(folder, given + options(point, args.max_prompt_tokens))
            if point is points[0]:  # the others need not measure the peak again
                given.append(f"--peak-flops={median['peak_flops']}")
            found.append(rounded(record(point, median)))
            result("", found[-1])
            seconds = f"{median['seconds_score']:.3g} + {median['seconds_update']:.3g} s"
            bar.advance(1, f"{point.variable}={point.value}: {seconds}")
    return found


def _update(folder: str, given: Sequence[str]) -> Record:
    """The medians of an update, measured in a process of its own."""
    command = [sys.executable, "-m", "gopd_jax.benchmark", "update", "--json", "--random-weights"]
    command += [f"--model={folder}", *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [""])[-1].removeprefix("error: ")
        raise ValueError(
            f"{' '.join(command[1:])}: exit status {done.returncode}, expected 0: {said}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def record(point: Point, median: Mapping[str, Any]) -> Record:
    """A point as it is printed: what an update reports, and its cost per response token."""
    tokens = median["response_tokens"]
    copied = {name: median[name] for name in COPIED}
    per_token = {
        "score_us_per_token": 1e6 * median["seconds_score"] / tokens,
        "update_us_per_token": 1e6 * median["seconds_update"] / tokens,
        "useful_flops_per_token": median["useful_flops"] / tokens,
    }
    return (
        {"record": "point", "variable": point.variable, "value": point.value} | copied | per_token
    )


def read(files: Sequence[str]) -> list[Record]:
    """The points in JSON lines that this command printed.

    Raises:
        ValueError: there is no such file, a line is no JSON object, or there is no point.
    """
    found = []
    for file in files:
        if not Path(file).exists() or Path(file).is_dir():
            raise ValueError(f"--read={file}: no such file, expected JSON lines of growth --json")
        for number, line in enumerate(Path(file).read_text().splitlines(), start=1):
            try:
                found += [r for r in [json.loads(line)] if r["record"] == "point"]
            except (ValueError, TypeError, KeyError) as e:
                raise ValueError(
                    f"{file}:{number}: expected a line that benchmark growth --json printed"
                ) from e
    if not found:
        raise ValueError(f"--read={files[0]}: no points, expected what growth --json printed")
    return sorted(found, key=lambda r: (r["variable"], r["value"]))


def costs(points: Sequence[Record]) -> dict[str, np.ndarray]:
    """What may grow, by name, at the points of one variable.

    Where lengths differ, seconds and operations are those of one answer: all points have the same
    response tokens, so that their sum would stay the same if the cost of an answer were linear.
    """
    each = points[0]["variable"] == "length"
    answers = np.array([p["rollouts"] if each else 1 for p in points])

    def of(name: str) -> np.ndarray:
        return np.array([p[name] for p in points], float)

    found = {"useful_flops": of("useful_flops") / answers, "memory": of("peak_gib")}
    for part in ("score", "update"):
        seconds = of(f"seconds_{part}") / answers
        found[part] = seconds
        found[f"{part}_without_attention"] = seconds * (1 - of(f"attention_share_{part}"))
    return found


def fit(points: Sequence[Record]) -> Record:
    """How the costs of one variable grow.

    Args:
        points: of one variable, in the order of its values; two at least.

    Returns:
        A record. exponent_NAME is the slope b of the least-squares fit log cost = a + b log value.
        last_exponent_NAME is that of the two largest values, where what does not grow at all weighs
        least. at_most_linear: of scoring and update, without the share that attention has in the
        executed operations, no exponent of a fit is above `LINEAR`.
    """
    values = np.array([p["value"] for p in points], float)
    out: Record = {"record": "growth", "variable": points[0]["variable"]}
    out["values"] = [p["value"] for p in points]
    for prefix, chosen in (("", slice(None)), ("last_", slice(-2, None))):
        for name, cost in costs(points).items():
            slope = np.polyfit(np.log(values[chosen]), np.log(cost[chosen]), 1)[0]
            out[f"{prefix}exponent_{name}"] = float(slope)
    judged = [out[f"exponent_{part}_without_attention"] for part in ("score", "update")]
    return out | {"at_most_linear": max(judged) <= LINEAR}


def _text(points: Sequence[Record], fitted: Record) -> str:
    """The table of one variable, and what its fits say."""
    columns = {
        "score s": lambda p: f"{p['seconds_score']:.3g}",
        "update s": lambda p: f"{p['seconds_update']:.3g}",
        "score us/token": lambda p: f"{p['score_us_per_token']:.0f}",
        "update us/token": lambda p: f"{p['update_us_per_token']:.0f}",
        "MFLOP/token": lambda p: f"{p['useful_flops_per_token'] / 1e6:.1f}",
        "attention": lambda p: f"{p['attention_share_update']:.0%}",
        "filled": lambda p: f"{p['filled_share']:.0%}",
        "peak GiB": lambda p: f"{p['peak_gib']:.2f}",
    }
    rows = [[fitted["variable"], *columns]]
    rows += [[f"{p['value']:,}", *(text(p) for text in columns.values())] for p in points]
    lines, _ = aligned(rows, result_width(), ("filled", "MFLOP/token", "attention"))
    per = " of one answer" if fitted["variable"] == "length" else ""
    score, update = (fitted[f"exponent_{part}"] for part in ("score", "update"))
    lines.append(f"exponents of the seconds{per}: score {score:.2f}, update {update:.2f}")
    score, update = (fitted[f"exponent_{part}_without_attention"] for part in ("score", "update"))
    verdict = "at most linear" if fitted["at_most_linear"] else "more than linear"
    lines.append(f"without attention: score {score:.2f}, update {update:.2f}, {verdict}")
    return "\n".join(lines) + "\n"
