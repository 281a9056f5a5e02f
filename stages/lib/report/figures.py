"""Figures of the report as inline SVG. The page sets their colours, so that they follow its light and dark theme."""

import io
import math
import re

import matplotlib
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Placeholder colours: `_svg` replaces each by a CSS value of the page.
INK, LINE = "#010101", "#020202"
SERIES = [f"#0300{number:02x}" for number in range(1, 7)]
PAGE = {INK: "currentColor", LINE: "var(--line)"} | {c: f"var(--series-{n})" for n, c in enumerate(SERIES, start=1)}
LEGEND = 12  # most entries of a legend; with more classes, see the page's table of classes
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]  # one more than the colours, so that the pairs repeat after 42
DASHES = ["-", (0, (5, 2)), (0, (2, 2)), "-.", (0, (8, 2)), ":"]  # so that lines differ without colour, too

matplotlib.rcParams.update(
    {
        "svg.fonttype": "none",  # keep text as text: in the page's font, searchable, readable aloud
        "text.parse_math": False,  # a class name may hold a dollar sign
        "font.size": 10,
        "axes.edgecolor": LINE,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": LINE,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
        **dict.fromkeys(("xtick.color", "ytick.color"), LINE),
    }
)


def roc(curves: pd.DataFrame, auroc: dict[str, float], name: str) -> Markup:
    """ROC curves, one line per class.

    Args:
        curves: class, fpr, tpr.
        auroc: class → area under its curve, for the legend.
        name: of the figure; makes the ids in its SVG unique on the page.
    """
    figure, axes = _axes(3.7, 3.7)
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
    for number, (label, curve) in enumerate(curves.groupby("class", sort=False)):
        style = {"color": SERIES[number % len(SERIES)], "linestyle": DASHES[number % len(DASHES)]}
        axes.plot(curve["fpr"], curve["tpr"], label=f"{label} {auroc[label]:.3f}", **style)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    if len(auroc) <= LEGEND:
        axes.legend(loc="lower right", title="AUROC")
    return _svg(figure, name)


def losses(epochs: pd.DataFrame, kept: int) -> Markup:
    """Training and held-out loss over the epochs, with a line at the epoch whose weights were kept.

    Args:
        epochs: epoch, loss, held_out_loss (empty if nothing was held out).
        kept: the epoch whose weights were kept.
    """
    figure, axes = _axes(4.0, 2.9)
    marker = "o" if len(epochs) == 1 else None  # a line needs two points
    for number, (column, label) in enumerate({"loss": "training", "held_out_loss": "held-out clips"}.items()):
        style = {"color": SERIES[number], "linestyle": DASHES[number], "marker": marker}
        axes.plot(epochs["epoch"], epochs[column], label=label, **style)
    axes.axvline(kept, color=INK, linewidth=0.8, linestyle=DASHES[2], label=f"weights kept: epoch {kept}")
    axes.set(xlabel="epoch", ylabel="loss")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    return _svg(figure, "losses")


MEASURES = {"knn_accuracy": "kNN accuracy", "alignment": "alignment", "uniformity": "uniformity"}


def measures(epochs: pd.DataFrame) -> Markup:
    """kNN accuracy, alignment and uniformity over the epochs, a panel for each that was measured.

    Args:
        epochs: epoch and columns of MEASURES; NaN in epochs without a measurement. At least one value is not NaN.
    """
    known = [name for name in MEASURES if name in epochs and epochs[name].notna().any()]
    figure = Figure(figsize=(4.0, 0.6 + 1.15 * len(known)), layout="constrained")
    panels = figure.subplots(len(known), sharex=True, squeeze=False)[:, 0]
    for number, (axes, name) in enumerate(zip(panels, known, strict=True)):
        measured = epochs[epochs[name].notna()]
        axes.plot(measured["epoch"], measured[name], color=SERIES[number], marker="o", markersize=3)
        axes.set(ylabel=MEASURES[name])
    panels[-1].set(xlabel="epoch")
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    return _svg(figure, "measures")


def pair_weights(pairs: pd.DataFrame) -> Markup:
    """The weights of pairs: their distribution by source, and weight against the distance between the pair's frames.

    Args:
        pairs: source, weight, frame_distance: a line per pair.
    """
    figure = Figure(figsize=(4.0, 4.6), layout="constrained")
    above, below = figure.subplots(2)
    for number, (source, part) in enumerate(pairs.groupby("source")):
        style = {"color": SERIES[number % len(SERIES)], "linestyle": DASHES[number % len(DASHES)]}
        above.ecdf(part["weight"], label=source, **style)
        below.plot(part["frame_distance"], part["weight"], ".", color=style["color"], markersize=3)
    above.set(xlabel="weight of a pair", ylabel="fraction of pairs below")
    below.set(xlabel="frames between the frames of a pair", ylabel="weight")
    above.legend(loc="lower right")
    return _svg(figure, "pair_weights")


def scatter(marks: pd.DataFrame, groups: list[str], name: str) -> Markup:
    """Points without axes, a colour and a marker for each group; the marker is open where `right` is false.

    Args:
        marks: x, y, group, right.
        groups: in the order of the legend.
        name: of the figure; makes the ids in its SVG unique on the page.
    """
    figure, axes = _axes(3.7, 3.5 + 0.19 * math.ceil(len(groups) / 2))
    for number, group in enumerate(groups):
        part = marks[marks["group"] == group]
        style = {"color": SERIES[number % len(SERIES)], "marker": MARKERS[number % len(MARKERS)], "markersize": 4.5}
        for right, fill, label in ((True, "full", group), (False, "none", None)):
            drawn = part[part["right"] == right]
            axes.plot(drawn["x"], drawn["y"], linestyle="none", fillstyle=fill, label=label, **style)
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[["top", "right"]].set_visible(True)
    figure.legend(loc="outside lower center", ncols=2)
    return _svg(figure, name)


def frame_distances(pairs: pd.DataFrame) -> Markup:
    """The distance between the frames of a pair, by source.

    Args:
        pairs: source, frame_distance: a line per pair.
    """
    figure, axes = _axes(4.0, 2.6)
    for number, (source, part) in enumerate(pairs.groupby("source")):
        style = {"color": SERIES[number % len(SERIES)], "linestyle": DASHES[number % len(DASHES)]}
        axes.ecdf(part["frame_distance"], label=source, **style)
    axes.set(xlabel="frames between the frames of a pair", ylabel="fraction of pairs below")
    axes.legend(loc="lower right")
    return _svg(figure, "frame_distances")


def negative_distances(recorded: pd.DataFrame, epochs: pd.DataFrame) -> Markup:
    """The distance from the anchor to the negatives of the same clip, and the window that the curriculum set.

    Args:
        recorded: epoch, mean, low, high of the distance, as fractions of the clip.
        epochs: epoch, negative_low, negative_high: the window at the end of each epoch; NaN before negatives are used.
    """
    figure, axes = _axes(4.0, 2.9)
    done = epochs["epoch"] + 1      # the window belongs to the end of an epoch; the pairs come from its whole course
    axes.fill_between(done, epochs["negative_low"], epochs["negative_high"], color=LINE, linewidth=0, label="window set")
    axes.vlines(recorded["epoch"] + 0.5, recorded["low"], recorded["high"], color=SERIES[0], label="5 to 95 % of clips")
    axes.plot(recorded["epoch"] + 0.5, recorded["mean"], "o", color=SERIES[0], markersize=4, label="mean")
    axes.set(xlabel="epochs done", ylabel="distance / length of the clip", ylim=(0, None))
    axes.set(xlim=(0, done.max()))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    return _svg(figure, "negative_distances")


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure, size in inches. Narrow figures keep a readable text size on a phone."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure, name: str) -> Markup:
    """The figure as an <svg> element, without XML header and metadata, and with ids that are unique on the page."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    for colour, value in PAGE.items():
        svg = svg.replace(colour, value)
    return Markup(svg)
