"""Command: runs the tests that docs/reliability.md names, and says which of its rows hold.

    python -m tests.faults [--slow] [--json]

Each row of a table in docs/reliability.md describes a fault and names its tests in the last column:
in backticks, FILE (all of it), FILE::TEST, or FILE::START... (every test whose name begins so),
relative to tests/. "the same" stands for the tests of the row above. A row passes if all of its
tests pass. Tests marked `slow` are run with --slow only.

Exit status: 0 if every row passes, else 1.
"""

import argparse
import ast
import contextlib
import dataclasses
import json
from pathlib import Path
import re
import sys

import pytest

TESTS = Path(__file__).parent
DOCUMENT = TESTS.parent / "docs" / "reliability.md"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table: its section, its fault, and the names of its tests."""

    section: str
    fault: str
    names: tuple[str, ...]


@dataclasses.dataclass
class Result:
    """What became of the tests of a row; `seconds` is the time that they took."""

    row: Row
    passed: int = 0
    failed: tuple[str, ...] = ()
    skipped: int = 0
    slow: int = 0
    unknown: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def outcome(self) -> str:
        if self.failed or self.unknown:
            return "FAILED"
        if self.passed:
            return "passed"
        return "slow" if self.slow else "skipped"


def read_rows(text: str) -> list[Row]:
    """The rows of the tables in a document whose last column is "test"."""
    rows: list[Row] = []
    section, is_table = "", False
    for line in text.splitlines():
        if line.startswith("#"):
            section, is_table = line.lstrip("# "), False
        if not line.startswith("|"):
            is_table = False
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
        if cells[-1] == "test":
            is_table = True
        elif is_table and not set(cells[-1]) <= set("-:"):
            above = rows[-1].names if "the same" in cells[-1] else ()
            names = [n for n in re.findall(r"`([^`]+)`", cells[-1]) if is_test(n)]
            rows.append(Row(section, cells[0], (*above, *names)))
    return rows


def is_test(name: str) -> bool:
    """Whether a name in the last column is one of tests; others are helpers of theirs."""
    return Path(name.partition("::")[0]).name.startswith("test_")


def selects(name: str, test: str) -> bool:
    """Whether a name of the document selects a test, given as FILE::TEST or FILE::TEST[CASE]."""
    if name.endswith("..."):
        return test.startswith(name.removesuffix("..."))
    return test == name or test.startswith((f"{name}::", f"{name}["))


def written_tests() -> set[str]:
    """FILE::TEST of every test function under tests/, without running or importing any."""
    return {
        f"{path.relative_to(TESTS).as_posix()}::{node.name}"
        for path in TESTS.rglob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test")
    }


class Runner:
    """A plugin of pytest: keeps the tests that some row names, and what became of them."""

    def __init__(self, names: set[str], slow: bool):
        self._names, self._slow = names, slow
        self.slow: set[str] = set()
        self.outcomes: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        kept = []
        for item in items:
            test = in_tests(item.nodeid)
            if not any(selects(name, test) for name in self._names):
                continue
            if item.get_closest_marker("slow") and not self._slow:
                self.slow.add(test)
            else:
                kept.append(item)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = in_tests(report.nodeid)
        self.seconds[test] = self.seconds.get(test, 0.0) + report.duration
        if report.outcome != "passed" or report.when == "call":
            if self.outcomes.get(test) != "failed":
                self.outcomes[test] = report.outcome


def in_tests(node: str) -> str:
    return node.removeprefix(f"{TESTS.name}/")


def run(rows: list[Row], slow: bool) -> list[Result]:
    """Runs every test that a row names, once, and returns what became of each row."""
    names = {name for row in rows for name in row.names}
    files = sorted({name.partition("::")[0] for name in names})
    there = [str(TESTS / file) for file in files if (TESTS / file).is_file()]
    runner = Runner(names, slow)
    # `-m ""` lifts the default, which leaves slow tests out before they can be counted.
    arguments = [f"--rootdir={TESTS.parent}", "-m", "", "-q", "-p", "no:cacheprovider", *there]
    if there:
        with contextlib.redirect_stdout(sys.stderr):
            pytest.main(arguments, plugins=[runner])
    return [_result(row, runner) for row in rows]


def _result(row: Row, runner: Runner) -> Result:
    tests = {t for t in runner.outcomes if any(selects(name, t) for name in row.names)}
    slow = {t for t in runner.slow if any(selects(name, t) for name in row.names)}
    found = tests | slow
    by = {kind: [t for t in tests if runner.outcomes[t] == kind] for kind in ("passed", "skipped")}
    return Result(
        row,
        passed=len(by["passed"]),
        failed=tuple(sorted(t for t in tests if runner.outcomes[t] == "failed")),
        skipped=len(by["skipped"]),
        slow=len(slow),
        # A row without any name has no test either.
        unknown=tuple(n for n in row.names if not any(selects(n, t) for t in found))
        if row.names
        else ("no test",),
        seconds=sum(runner.seconds[t] for t in tests),
    )


def text(results: list[Result]) -> str:
    """The table, a line for each row, and the counts."""
    lines, section = [], None
    for result in results:
        if result.row.section != section:
            section = result.row.section
            lines += ["", section]
        note = f", {result.slow} slow ones not run (--slow)" if result.slow else ""
        lines.append(
            f"  {result.outcome:8}{result.seconds:8.1f} s  {result.row.fault:.80} "
            f"({result.passed} tests{note})"
        )
        lines += [f"      no such test: {name}" for name in result.unknown]
        lines += [f"      failed: {name}" for name in result.failed]
    counts = {o: sum(r.outcome == o for r in results) for o in ("passed", "FAILED")}
    others = len(results) - sum(counts.values())
    lines += [
        "",
        f"{len(results)} rows: {counts['passed']} passed, {counts['FAILED']} failed, "
        f"{others} not run",
    ]
    return "\n".join(lines)


def record(result: Result) -> dict[str, object]:
    return dataclasses.asdict(result) | {"outcome": result.outcome}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--slow", action="store_true", help="run tests marked slow too")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    args = parser.parse_args(argv)
    results = run(read_rows(DOCUMENT.read_text()), args.slow)
    print(json.dumps([record(r) for r in results], indent=2) if args.json else text(results))
    return int(any(r.outcome == "FAILED" for r in results))


if __name__ == "__main__":
    sys.exit(main())
