"""A picture of a preview: score, length, entropy and log Z by lambda, a row for each domain."""

from collections.abc import Mapping, Sequence
import os

from matplotlib.axes import Axes

from gopd_jax.evaluate.scores import Figures
from gopd_jax.runtime.figures import COLOURS, finish, panels, save

BLUE, RED = COLOURS[:2]


def draw(points: Mapping[str, Sequence[Figures]], name: str, path: str | os.PathLike) -> None:
    """Draws the points of each domain.

    Args:
        points: by domain, rising by lambda.
        name: of the config.
        path: the PNG file.
    """
    title = f"{name}: teacher^lambda reference^(1 - lambda), sampled"
    figure, axes = panels(len(points), 4, (14, 0.6 + 2.9 * len(points)), title)
    for row, (domain, found) in enumerate(points.items()):
        score, length, entropy, log_z = axes[4 * row : 4 * row + 4]
        _scores(score, found)
        finish(score, f"{domain}: % right", "lambda")
        for axis, field, label in (
            (length, "tokens", "response length, tokens"),
            (entropy, "entropy", "entropy, nats per token"),
            (log_z, "log_z", "log Z, nats per token"),
        ):
            axis.plot(_scales(found), [p[field] for p in found], color=BLUE, marker="o", ms=4)
            finish(axis, label, "lambda")
    save(figure, path)


def _scores(axis: Axes, found: Sequence[Figures]) -> None:
    """Scores with their intervals, and that of lambda 1 with those of the differences to it."""
    mean = [100 * p["mean"] for p in found]
    below = [100 * (p["mean"] - p["low"]) for p in found]
    above = [100 * (p["high"] - p["mean"]) for p in found]
    axis.errorbar(_scales(found), mean, (below, above), color=BLUE, marker="o", ms=4, alpha=0.6)
    at_one = next(100 * p["mean"] for p in found if p["lambda"] == 1)
    axis.axhline(at_one, color=RED, linestyle="--", linewidth=1, label="lambda 1")
    pairs = [(p["difference"]["low"], p["difference"]["high"]) for p in found]
    low, high = ([at_one + 100 * pair[side] for pair in pairs] for side in (0, 1))
    label = "95% interval of the difference to lambda 1"
    axis.fill_between(_scales(found), low, high, color=RED, alpha=0.2, linewidth=0, label=label)


def _scales(found: Sequence[Figures]) -> list[float]:
    return [p["lambda"] for p in found]
