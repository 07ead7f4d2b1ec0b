"""Which fields the runs of these tests write: their conditions, and the check against the files."""

import json

from gopd_jax.train import file_fields
from gopd_jax.train.fields import names
from gopd_jax.train.metric_fields import METRICS

GOPD = {"policy", "teacher", "reference", "sampled", "passed"}
SHAPED = ("scaled", "gated", "clipped", "selected", "undecided", "trust region")
SCORED = GOPD | {"verified", "scored teacher"}
# Of each run that is checked; together they cover every condition but "stopped".
CONDITIONS = {
    "several teachers": SCORED,
    "grpo": {"policy", "sampled", "verified"},
    "sft on given responses": {"verified"},
    "not verified": GOPD | {"unverified", "compared", "noise"},
    "own reward": SCORED | {"own reward", "shown more", "shown answers"},
    "mixture": SCORED | {"mixture"},
    "shaped": SCORED | {"exact", "inspected", *SHAPED},
}


def _same(found, declared):
    assert found == declared, f"also {found - declared}, missing {declared - found}"


def check_fields(workdir, run, domains=("math",), named=""):
    """Compares what a run has written with what is declared, in both directions.

    Args:
        run: a key of `CONDITIONS`.
        named: the number that the reward function returns beside the reward.
    """
    given = CONDITIONS[run]

    def expected(fields, domains=()):
        return {n.replace("NAME", named) for n in names(fields, given, domains)}

    def written(file):
        return {k for line in (workdir / file).read_text().splitlines() for k in json.loads(line)}

    _same(written("metrics.jsonl"), expected(METRICS, domains))
    _same(written("evaluations.jsonl"), expected(file_fields.EVALUATIONS))
    _same(written("samples.jsonl"), expected(file_fields.SAMPLES))
    summary = json.loads((workdir / "summary.json").read_text())
    _same(set(summary), expected(file_fields.SUMMARY))
    for domain in summary["domains"].values():
        _same(set(domain), expected(file_fields.SUMMARY_DOMAIN))
        for row in domain["rows"].values():
            _same(set(row), expected(file_fields.SUMMARY_ROW))
