"""What deserves attention in a run, said at the terminal as it goes on and at its end.

In: the config and metrics.jsonl. Out: lines. The checks are those of the report.
"""

import dataclasses

import jax

from gopd_jax.config import Config
from gopd_jax.report import findings
from gopd_jax.report.checks import Finding
from gopd_jax.report.read import read_training
from gopd_jax.runtime.files import JsonObject
from gopd_jax.train.summary import finding_line


class Verdicts:
    """The findings of a run so far; a grave one is said once, when it is first found.

    Args:
        workdir: the run's folder.
    """

    def __init__(self, workdir: str, config: Config):
        self._workdir, self._config = workdir, dataclasses.asdict(config)
        self._said: set[str] = set()

    def grave(self) -> str:
        """Lines on what puts the result in doubt and has not been said; on the first host only."""
        if jax.process_index() != 0:
            return ""
        new = [f for f in self._findings() if f.level == "bad" and f.title not in self._said]
        self._said |= {f.title for f in new}
        return "\n".join(finding_line(dataclasses.asdict(finding)) for finding in new)

    def to_json(self) -> list[JsonObject]:
        """All findings, the most serious first, as summary.json holds them."""
        return [dataclasses.asdict(finding) for finding in self._findings()]

    def _findings(self) -> list[Finding]:
        return findings.of_checks(findings.of_training(read_training(self._workdir, self._config)))
