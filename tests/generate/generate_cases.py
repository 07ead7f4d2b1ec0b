"""The generate command on the embedded base model, and what it leaves in a folder."""

import json

import numpy as np

from gopd_jax import tiny
from gopd_jax.generate.__main__ import main

BASE = tiny.model("base")
ROWS = [
    {"prompt": "437+885"},
    {
        "prompt_id": "code",
        "messages": [{"role": "user", "content": "f(0,0)=12;f(1,0)=15;f(0,1)=16"}],
    },
    {"prompt_id": "short", "prompt": "900-123", "max_response_tokens": 3},
]
LIMITS = {"line-1": 24, "code": 24, "short": 3}
OPTIONS = [
    "--samples-per-prompt=3",
    "--max-response-tokens=24",
    "--slots=4",
    "--seed=7",
    "--temperature=0.9",
    "--top-p=0.95",
]


def write_rows(path, rows):
    """Writes rows as JSON lines; a row that is a string is written as it is."""
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
    path.write_bytes(text.encode(errors="surrogateescape"))
    return path


def command(folder, *options):
    """Runs the command on prompts.jsonl and out.jsonl of a folder; returns the exit status."""
    files = [f"--prompt-file={folder}/prompts.jsonl", f"--out={folder}/out.jsonl"]
    try:
        return main([f"--model={BASE}", *files, *options])
    except SystemExit as e:  # raised by argparse
        return e.code


def lines(folder):
    return (folder / "out.jsonl").read_bytes().splitlines(keepends=True)


def samples(folder):
    """The records of the samples, by (prompt id, sample id)."""
    records = [json.loads(line) for line in lines(folder)]
    by_key = {(r["prompt_id"], r["sample_id"]): r for r in records}
    assert len(by_key) == len(records)
    return by_key


def summary(folder):
    return json.loads((folder / "out.summary.json").read_text())


def assert_same(actual, expected):
    """The same samples; log-probs up to rounding, because other slots are other programs."""
    assert actual.keys() == expected.keys()
    for key, record in actual.items():
        a, b = record.copy(), expected[key].copy()
        np.testing.assert_allclose(
            a.pop("logprobs"), b.pop("logprobs"), atol=2e-5, err_msg=str(key)
        )
        assert a == b
