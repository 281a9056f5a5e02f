"""What the page says about pretraining: losses, measures of the features, pictures of pairs."""

import pandas as pd

from stages.lib.networks import checkpoint
from stages.lib.report import figures, pair_sheet
from stages.lib.report.files import read
from stages.lib.report.results import defined


def summary(pictured: bool) -> dict:
    """The values that the templates need about pretraining.

    Args:
        pictured: show pictures of pairs.

    Returns:
        facts: the header of the checkpoint.
        pretrained: the scores of the kept weights; those that are undefined are left out.
        epochs: how many epochs ran.
        losses, measures: figures; `measures` is '' if the features were never measured.
        last_measures: those of the last epoch that was measured, by name.
        pairs: see `pair_sheet.section`.

    Raises:
        UserError: a file is missing or cannot be read.
    """
    epochs, facts = read("reports/pretrain.csv", pd.read_csv), checkpoint.facts()
    measured = epochs.filter(["knn_accuracy", "alignment", "uniformity"]).dropna(how="all")
    scores = {name: facts[name] for name in ("held_out_loss", "epoch", "knn_accuracy") if name in facts}
    return {
        "facts": facts,
        "pretrained": defined(scores),
        "epochs": len(epochs),
        "losses": figures.losses(epochs, facts["epoch"]),
        "measures": figures.measures(measured.assign(epoch=epochs["epoch"])) if len(measured) else "",
        "last_measures": defined(dict(measured.iloc[-1])) if len(measured) else {},
        "pairs": pair_sheet.section(epochs, pictured),
    }
