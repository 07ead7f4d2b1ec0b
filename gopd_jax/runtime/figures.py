"""The common look of the pictures that the commands draw: colours, axes, file format.

Uses no pyplot: a `Figure` of its own needs neither a display nor a choice of backend.
"""

import io
import os

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gopd_jax.runtime.files import replace_bytes

COLOURS = ("#1f6f8b", "#c8553d", "#588157", "#6d597a", "#b08900")


def panels(
    rows: int, columns: int, size: tuple[float, float], title: str, font_size: int = 11, **kwargs
) -> tuple[Figure, list[Axes]]:
    """A figure with `rows` x `columns` axes, row after row.

    Args:
        size: width and height in inches.
        title: of the whole figure.
        kwargs: passed to `Figure.subplots`.
    """
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **kwargs)
    figure.suptitle(title, fontsize=font_size)
    return figure, list(axes.flat)


def finish(axis: Axes, title: str, x_label: str = "") -> None:
    """Title, grid and, if anything has a label, a legend; called when everything is drawn."""
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel(x_label, fontsize=9)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, frameon=False)


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Writes the figure as PNG, to a local path or gs://."""
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png")
    replace_bytes(path, content.getvalue())
