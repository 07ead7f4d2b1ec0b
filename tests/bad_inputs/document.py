"""Command: writes the section "Bad input" of docs/reliability.md from the cases.

python -m tests.bad_inputs.document
"""

import importlib
import itertools
from pathlib import Path
import sys

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))  # as pytest does

from cases import CASES, Case  # noqa: E402

DOCUMENT = FOLDER.parents[1] / "docs" / "reliability.md"
HEADING = "## Bad input\n"
TEST = "bad_inputs/test_bad_inputs.py::test_one_line"
ABOUT = f"""
Each row is a case of `bad_inputs/`. The command ends with exit status 2 and one line on stderr,
"error: " and a sentence with the words shown here. What was in the working folder is as it was, and
nothing is added. `python -m tests.bad_inputs.document` writes this section from the cases; each
test is `{TEST}[ID]`.
"""

for module in sorted(FOLDER.glob("bad_*.py")):
    importlib.import_module(module.stem)


def table() -> str:
    """The section without its heading: a table for each command."""
    lines = [ABOUT.strip()]
    by_command = sorted(CASES.items(), key=lambda item: item[1].command)
    for command, cases in itertools.groupby(by_command, lambda item: item[1].command):
        lines += ["", f"### {command}", "", "| fault | what it says | test |", "|---|---|---|"]
        lines += [_row(name, case) for name, case in cases]
    return "\n".join(lines)


def _row(name: str, case: Case) -> str:
    # A backslash before | keeps it in its cell; the sentences hold no backtick.
    says = " ... ".join(" ".join(part.split()) for part in case.says).replace("|", "\\|")
    return f"| {case.fault} | {says} | `{TEST}[{name}]` |"


def main() -> None:
    before, _, rest = DOCUMENT.read_text().partition(HEADING)
    _, mark, after = rest.partition("\n## ")
    section = f"{HEADING}\n{table()}\n"
    DOCUMENT.write_text(before.rstrip() + "\n\n" + section + (mark and f"{mark}{after}"))


if __name__ == "__main__":
    main()
