"""Read a network of this pipeline from its file, to predict or to export."""

from pathlib import Path

from stages.lib.networks import checkpoint
from stages.lib.networks.backbone import Backbone, Classifier
from stages.lib.networks.initial import load
from stages.lib.params import require

# Facts in the file of a fine-tuned network: its classes in order, and how clips were sampled and normalised for training.
NEEDED = {"task", "arch", "classes", "size_px", "mean", "std", "frame_rate_hz", "max_frames_per_clip", "assumed_frame_rate_hz"}


def restore(path: Path) -> tuple[Backbone | Classifier, dict]:
    """The network in evaluation mode, and the facts of the run. It has a classifier if the file names classes.

    Raises:
        UserError: the file is missing, was not written by this pipeline, or has other keys or shapes than the network.
    """
    facts, weights = checkpoint.facts(path), checkpoint.weights(path)
    require("arch" in facts, f"{path} does not name its architecture; remove it and run `dvc repro` to make it again")
    network = load(Backbone(facts["arch"]), weights, str(path))
    if "classes" in facts:
        network = _with_classifier(network, weights, facts["classes"], path)
    return network.eval(), facts


def restore_classifier(path: Path) -> tuple[Classifier, dict]:
    """As `restore`, but only for a fine-tuned network.

    Raises:
        UserError: as in `restore`; also for a backbone, or if one of the facts in NEEDED is missing.
    """
    absent = NEEDED - checkpoint.facts(path).keys()
    names = ", ".join(sorted(absent))
    require(not absent, f"{path} does not say {names}: it is not a fine-tuned network; `dvc repro` makes one")
    return restore(path)


def _with_classifier(backbone: Backbone, weights: dict, classes: list[str], path: Path) -> Classifier:
    start = backbone.classifier + "."
    head = {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}
    hidden = head.get("0.weight")       # of a head with a hidden layer
    network = Classifier(backbone, len(classes), None if hidden is None else len(hidden))
    wanted = {key: value.shape for key, value in network.linear.state_dict().items()}
    require({key: value.shape for key, value in head.items()} == wanted, f"{path}: {start}… must be one or "
            f"two layers, of {backbone.feature_width} features and {len(classes)} classes")
    network.linear.load_state_dict(head)
    return network
