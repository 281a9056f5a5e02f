"""What the report's page and the two cards are made of: colours, citations, what was changed, numbers in Markdown."""

import json
import re
import subprocess
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
import torchvision
import yaml
from test_report import AUDIT, CLASSES, FINETUNE, NASTY, edit, parameters, run

from stages import report
from stages.lib.networks import checkpoint
from stages.lib.networks.backbone import Backbone, Classifier
from stages.lib.report import provenance
from stages.lib.report.page import code, linked

__all__ = ["run"]  # the fixture
STAGES = Path(report.__file__).parent
CSS = (STAGES / "lib/report/page/style.css").read_text(encoding="utf-8")
COLOURS = {name: pair for name, *pair in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", CSS)}


def contrast(one: str, two: str) -> float:
    """The ratio of WCAG 2.2, from its definition of relative luminance."""
    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted([luminance(one), luminance(two)])
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_the_colours_have_the_contrast_of_wcag_aa(theme):
    """4.5 for text, 3 for the lines of a figure, on each paper that they are used on."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    pairs = [(text, paper, 4.5) for text in ("ink", "soft", "accent") for paper in ("paper", "raised")]
    pairs += [("caution", "caution-paper", 4.5), *((f"series-{number}", "paper", 3) for number in range(1, 7))]
    for text, paper, least in pairs:
        assert contrast(COLOURS[text][theme], COLOURS[paper][theme]) >= least, (text, paper)


@pytest.mark.parametrize("path", sorted(STAGES.glob("sources/*.py")), ids=lambda path: path.stem)
def test_every_source_says_what_it_is_whose_and_under_which_licence(path):
    source = import_module(f"stages.sources.{path.stem}")
    assert len(source.TITLE) > 10 and len(source.LICENCE) > 2 and len(source.CITATION) > 20
    own = source.CITATION.startswith("not stated")                       # the clips are the user's: custom, and copies of it
    assert source.LINK.startswith("https://") and re.search(r"\b20[0-3]\d\b", source.CITATION) or own


@pytest.mark.parametrize("path", sorted(STAGES.glob("methods/*.py")), ids=lambda path: path.stem)
def test_every_method_names_its_paper(path):
    document = " ".join(import_module(f"stages.methods.{path.stem}").__doc__.split())
    assert re.search(r"\([A-Z]\w+ .*20[0-3]\d, arXiv \d{4}\.\d{5}\)", document)
    assert 'href="https://arxiv.org/abs/' in linked(document)


def test_citations_become_links_and_markup_stays_text():
    text = linked("A <b>, doi 10.1000/x_1-2.3. B, arXiv 2011.13066; doi 10.5/a, and C")
    links = ["https://doi.org/10.1000/x_1-2.3", "https://arxiv.org/abs/2011.13066", "https://doi.org/10.5/a"]
    assert re.findall(r'href="([^"]+)"', text) == links
    assert "&lt;b&gt;" in text
    assert code("a|b`c\nd") == "`a\\|b'c d`"


def repository(folder: Path, values: dict) -> None:
    """A git and DVC project whose only commit has these parameters."""
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    for command in (("git", "init", "--quiet"), ("dvc", "init", "--quiet"), ("git", "add", "--all"),
                    ("git", *identity, "commit", "--quiet", "--message", "first")):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)


def test_changed_parameters_are_found_against_the_commit_not_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert provenance.changes({"seed": 0}) is None
    repository(tmp_path, {"seed": 0, "views": {"scale": [0.8, 1.0], "rate": 3e-05}, "gone": 1})
    Path("params.yaml").write_text("seed: 1\n")  # as `dvc exp run -S seed=1` leaves it
    now = provenance.flat({"seed": 1, "views": {"scale": [0.8, 1.0], "rate": 0.00003, "new": None}})
    assert provenance.changes(now) == {"seed": (1, 0)}
    assert provenance.changes(now | {"views.scale": [0.7, 1.0], "views.extra": 2}) == {
        "seed": (1, 0), "views.scale": ([0.7, 1.0], [0.8, 1.0]), "views.extra": (2, None)}


def test_the_page_and_the_cards_name_the_checkpoint_as_dvc_does_and_are_the_same_in_every_run(run):
    """Else a clean clone would not stay clean: dvc.lock holds the md5 of each of them."""
    names = [*report.PAGES, *report.numbers({})]
    report.main(**parameters())
    first = [Path(name).read_bytes() for name in names]
    subprocess.run(("dvc", "init", "--quiet", "--no-scm"), check=True)
    subprocess.run(("dvc", "add", "--quiet", "models/pretrained.safetensors"), check=True)
    md5 = yaml.safe_load(Path("models/pretrained.safetensors.dvc").read_text())["outs"][0]["md5"]
    assert all(md5 in Path(name).read_text(encoding="utf-8") for name in ("reports/report.html", "models/README.md"))
    report.main(**parameters())
    assert first == [Path(name).read_bytes() for name in names]


def test_the_page_lists_the_changed_parameters(run, monkeypatch):
    def section():
        report.main(**parameters())
        page = Path("reports/report.html").read_text(encoding="utf-8")
        return page[page.index('<section id="run"') : page.index('<section id="scores"')]

    assert "there is no commit to compare with" in section()
    same = parameters()
    same["report"] = {name: same.pop(name) for name in ("bootstrap_samples", "confidence", "worst_clips", "tsne", "baselines")}
    monkeypatch.setattr("stages.lib.revisions.committed", lambda: same)
    assert "None: all parameters below" in section()
    other = {"size_px": 224, "sources": ["butterfly", "<i>"]}
    monkeypatch.setattr("stages.lib.revisions.committed", lambda: same | {"extract_frames": same["extract_frames"] | other})
    rows = re.findall(r"<code>(extract_frames.\w+)</code></th><td[^>]*>([^<]*)</td><td[^>]*>([^<]*)</td>", section())
    assert rows == [("extract_frames.sources", "butterfly", "butterfly, &lt;i&gt;"), ("extract_frames.size_px", "64", "224")]


def table(markdown: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, its head first; every row as wide as the head."""
    part = markdown[markdown.index(f"\n## {heading}\n") :]
    lines = re.search(r"(?:^\|.*\|$\n)+", part, re.MULTILINE)[0].splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert set(cells[1]) == {"---"} and len({len(row) for row in cells}) == 1
    return [cells[0], *cells[2:]]


def test_the_model_card_holds_the_numbers_of_the_metrics(run):
    report.main(**parameters())
    card = Path("models/README.md").read_text(encoding="utf-8")
    metrics = json.loads(Path("reports/scores.json").read_text())
    sections = ["Model details", "Intended use", "Out-of-scope use", "Training data", "Evaluation data and protocol", "Metrics",
                "Results per class", "Limitations and biases", "How to load it", "Licence and citation"]
    assert re.findall(r"^## (.+)$", card, re.MULTILINE) == sections
    rows = {row[0]: row for row in table(card, "Metrics")[1:]}
    assert list(rows) == [f"`{task}`" for task in CLASSES]
    for task, classes in CLASSES.items():
        numbers = metrics[task]
        low, high = (f"{100 * numbers[f'balanced_accuracy_{end}']:.1f}" for end in ("low", "high"))
        assert rows[f"`{task}`"] == [f"`{task}`", f"{100 * numbers['balanced_accuracy']:.1f}", f"{low}–{high}",
                                     f"{100 / len(classes):.1f}", f"{100 * numbers['highest_floor']:.1f}",
                                     f"{100 * numbers['accuracy']:.1f}",
                                     f"{100 * numbers['macro_f1']:.1f}", f"{numbers['auroc']:.3f}",
                                     f"{100 * numbers['published_protocol_accuracy']:.1f}"]
    per_class = table(card, "Results per class")[1:]
    assert [row[:2] for row in per_class] == [[f"`{task}`", f"`{name}`"] for task in CLASSES for name in CLASSES[task]]
    frames = pd.read_csv("reports/predictions/gallbladder.csv")
    clips = frames.groupby("clip").agg({"label": "first", "p_normal": "mean", "p_malignant": "mean"})
    found = clips["p_normal"] < clips["p_malignant"]
    recall = 100 * found[clips["label"] == "malignant"].mean()
    assert per_class[-1][2:5] == [str((clips["label"] == "malignant").sum()),
                                  f"{100 * (clips['label'] == 'malignant')[found].mean():.1f}", f"{recall:.1f}"]
    for sentence in ("not for diagnosis", "All clips of this run are simulated", "20 phantom (simulated) clips (200 frames)",
                     "arXiv 2002.05709", "torch.nn.Linear(512, 3)", "40 clips of 25 patients", "--task pocus clip.mp4"):
        assert sentence in card
    assert card.count("```") == 2 and card.endswith("\n") and "\n\n\n" not in card


@pytest.mark.parametrize(("arch", "hidden_width"), [("resnet18", 8), ("mnasnet0_5", None), ("maxvit_t", None)])
def test_the_lines_of_the_model_card_load_both_networks(run, arch, hidden_width):
    """MNASNet's weights need metadata that safetensors does not keep; MaxViT's own classifier has no bias."""
    network = Classifier(Backbone(arch), len(CLASSES["pocus"]), hidden_width)
    checkpoint.write(network.backbone.network.state_dict(), checkpoint.facts() | {"arch": arch})
    checkpoint.write(network.weights(), {}, checkpoint.finetuned("pocus"))
    report.main(**parameters(finetune=FINETUNE | {"head": {"hidden_width": hidden_width, "dropout": 0.0}}))
    card = Path("models/README.md").read_text(encoding="utf-8")
    assert card.count("```") == 2 and "\n\n\n" not in card
    first, second = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1].split("\n\n")
    loaded = {"torchvision": torchvision, "safetensors": safetensors, "torch": torch}
    for lines, wanted in ((first, network.backbone.network.state_dict()), (second, network.weights())):
        exec(lines, loaded)
        assert all(torch.equal(loaded["network"].state_dict()[key], value) for key, value in wanted.items())


def test_the_data_card_holds_the_numbers_of_the_audit(run):
    rows = [("butterfly", "held_out", "", "", "", "", 4, 30, 0, "Reg 4"),
            ("butterfly", "left_out", "looks like an evaluation clip", f"{NASTY}|`", "pocus/x.mp4", 0.2, 1, 0, 0, "a|b 1"),
            ("butterfly", "frames_dropped", "all-black frames", "c.mp4", "", "", 1, 7, 0, "Cov 1")]
    edit("reports/us4_audit.csv", lambda table: pd.concat([table, pd.DataFrame(rows, columns=AUDIT)]))
    report.main(**parameters(finetune=FINETUNE | {"tasks": ["pocus"]}, collection="raw"))
    card = Path("reports/data_card.md").read_text(encoding="utf-8")
    assert table(card, "Composition")[1:] == [["`butterfly`", "20", "200", "3", "4", "30", "unknown", "3"]]
    left_out = [["`butterfly`", "`looks like an evaluation clip`", "1"], ["`butterfly`", "`no video`", "2"]]
    assert table(card, "Exclusions")[1:] == left_out
    assert table(card, "Labels")[1:] == [["`butterfly`", "`Cov 8, Reg 12`"]]
    for sentence in ("All-black frames were dropped: 7.", "0 clips are the same file as one, 1 look like one", "64 × 64 px"):
        assert sentence in card
    assert "simulated" not in card and "<script" not in card and "\n\n\n" not in card and card.endswith("\n")


def test_the_licences_of_the_sources_that_were_used_are_on_the_page(run):
    report.main(**parameters())
    page = Path("reports/report.html").read_text(encoding="utf-8")
    section = page[page.index('<section id="licences"') : page.index('<section id="limits"')]
    rows = re.findall(r'<th scope="row">(\w+)</th>[^\n]*<td data-label="Licence">([^\n]*?)</td>', section)
    assert [name for name, _ in rows] == ["butterfly", "pocus", "gallbladder"]
    for name, licence in rows:
        assert licence == import_module(f"stages.sources.{name}").LICENCE
    assert "phantoms, simulated by this project" in section and "arxiv.org/abs/2002.05709" in section
    report.main(**parameters(collection="raw", views={"pipeline": "semantic"}))
    page = Path("reports/report.html").read_text(encoding="utf-8")
    assert "phantoms, simulated by this project" not in page and "arxiv.org/abs/2504.07904" in page
