"""Text that fits a terminal: tables that leave columns out, sentences broken between words."""

from collections.abc import Sequence
import textwrap

GAP = "  "  # between two columns


def aligned(
    rows: Sequence[Sequence[str]], width: int | None, optional: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The lines of a table: names to the left, figures to the right, as wide as their widest cell.

    Args:
        rows: the cells; the first row is the head. A row may end early.
        width: columns of the terminal; None sets no limit.
        optional: titles of columns that are left out in this order until the table fits.

    Returns:
        The lines, and the titles that were left out.
    """
    left_out: list[str] = []
    while True:
        shown = [i for i, title in enumerate(rows[0]) if title not in left_out]
        sizes = {i: max(len(row[i]) for row in rows if i < len(row)) for i in shown}
        total = sum(sizes.values()) + len(GAP) * (len(shown) - 1)
        if width is None or total <= width or len(left_out) == len(optional):
            break
        left_out.append(optional[len(left_out)])
    lines = []
    for row in rows:
        name, *figures = ((row[i], sizes[i]) for i in shown if i < len(row))
        cells = [name[0].ljust(name[1]), *(text.rjust(size) for text, size in figures)]
        lines.append(GAP.join(cells).rstrip())
    return lines, left_out


def folded(text: str, width: int | None) -> str:
    """The text with lines broken between words where they are too long, and indented from there.

    Words are kept whole, so that a path can be copied; None sets no limit.
    """
    lines = []
    for line in text.split("\n"):
        if width is None or len(line) <= width:
            lines.append(line)
            continue
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        lines += textwrap.wrap(
            line,
            width,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)
