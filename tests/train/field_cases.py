"""Which fields the runs of these tests write: their conditions, and the check against the files."""

import json

from gopd_jax.train import file_fields
from gopd_jax.train.fields import names
from gopd_jax.train.metric_fields import METRICS

GOPD = {"policy", "teacher", "reference", "sampled", "passed"}
SCORED = GOPD | {"verified", "scored teacher"}
# Of each run that is checked; together they cover every condition but "stopped".
CONDITIONS = {
    "several teachers": SCORED,
    "grpo": {"policy", "sampled", "verified"},
    "sft on given responses": {"verified"},
    "not verified": GOPD | {"unverified", "compared"},
    "own reward": SCORED | {"own reward"},
}


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

    assert written("metrics.jsonl") == expected(METRICS, domains)
    assert written("evaluations.jsonl") == expected(file_fields.EVALUATIONS)
    assert written("samples.jsonl") == expected(file_fields.SAMPLES)
    summary = json.loads((workdir / "summary.json").read_text())
    assert set(summary) == expected(file_fields.SUMMARY)
    for domain in summary["domains"].values():
        assert set(domain) == expected(file_fields.SUMMARY_DOMAIN)
        for row in domain["rows"].values():
            assert set(row) == expected(file_fields.SUMMARY_ROW)
