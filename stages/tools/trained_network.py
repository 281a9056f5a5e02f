"""A network of this pipeline back from its file, to predict with or to export."""

from pathlib import Path

from stages.lib.networks import checkpoint
from stages.lib.networks.backbone import Backbone, Classifier
from stages.lib.networks.initial import load
from stages.lib.params import require

# What the file of a fine-tuned network has to say: its classes in order, and how a clip becomes what it was trained on.
NEEDED = {"task", "arch", "classes", "size_px", "mean", "std", "frame_rate_hz", "max_frames_per_clip", "assumed_frame_rate_hz"}


def restore(path: Path) -> tuple[Backbone | Classifier, dict]:
    """The network in evaluation mode, with its classifier if the file names classes, and the facts of the run.

    Raises:
        UserError: no such file, not ours, or its keys and shapes are not just those of the network.
    """
    facts, weights = checkpoint.facts(path), checkpoint.weights(path)
    require("arch" in facts, f"{path} does not say which architecture it is; `dvc repro` makes it anew")
    network = load(Backbone(facts["arch"]), weights, str(path))
    if "classes" in facts:
        network = _with_classifier(network, weights, facts["classes"], path)
    return network.eval(), facts


def restore_classifier(path: Path) -> tuple[Classifier, dict]:
    """As `restore`, a fine-tuned network only.

    Raises:
        UserError: also for a backbone, and for facts that miss one of NEEDED.
    """
    absent = NEEDED - checkpoint.facts(path).keys()
    require(not absent, f"{path} does not say {', '.join(sorted(absent))}: it is no fine-tuned network; `dvc repro` makes one")
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
