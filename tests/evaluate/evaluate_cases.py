"""The evaluate command on the embedded base model, and what it leaves in a folder."""

import json
from pathlib import Path

from gopd_jax import tiny
from gopd_jax.data import embedded as tasks
from gopd_jax.evaluate.__main__ import main

ROOT = Path(__file__).parents[2]
BASE = tiny.model("base")
MATH, CODE = [list(tasks.records(kind, "test"))[:6] for kind in ("math", "code")]
LONG = {"prompt_id": "long", "prompt": "1+" * 300, "ground_truth": "300"}
OPTIONS = [
    "--samples-per-prompt=4",
    "--max-response-tokens=24",
    "--max-prompt-tokens=40",
    "--prompt-suffix=",
    "--slots=8",
    "--seed=3",
    "--verifier-workers=1",
]


def write_rows(path, rows):
    """Writes rows as JSON lines; a row that is a string is written as it is."""
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def command(folder, *options, suite=None, out="out"):
    """Runs the command, on sums.jsonl and lines.jsonl of a folder; returns the exit status."""
    suite = suite or f"{folder}/sums.jsonl,{folder}/lines.jsonl"
    try:
        return main([f"--model={BASE}", f"--suite={suite}", f"--out={folder}/{out}", *options])
    except SystemExit as e:  # raised by argparse
        return e.code


def samples(folder, out="out"):
    """The records of the samples, by (prompt id, sample id)."""
    text = (folder / out / "samples.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    by_key = {(r["prompt_id"], r["sample_id"]): r for r in records}
    assert len(by_key) == len(records)
    return by_key


def results(folder, out="out"):
    return json.loads((folder / out / "results.json").read_text())
