"""The sections of the page, in their order."""

TITLES = {  # of stages/lib/report/page/sections/<name>.html.j2
    "run": "What was run",
    "scores": "Scores",
    "scanner": "How much of this is the scanner?",
    "segmentation": "Segmentation of lesions",
    "confusion": "Confusion matrices",
    "roc": "ROC curves",
    "patients": "Per patient",
    "pairs": "Pairs as the method saw them",
    "pretraining": "Pretraining",
    "features": "Features of held-out clips in two dimensions",
    "grad_cam": "Where the network looked",
    "us4": "Clips used and left out",
    "licences": "Data, licences and citations",
    "limits": "Limits",
}
NEEDED = {"segmentation": "segmented", "pairs": "pairs", "features": "feature_maps", "grad_cam": "explained"}


def filled(values: dict) -> dict[str, str]:
    """The sections that have something to show: name → title.

    Args:
        values: what the templates get. NEEDED names the value without which a section is left out.
    """
    return {name: title for name, title in TITLES.items() if name not in NEEDED or values[NEEDED[name]]}
