"""Every block of commands in the documents: `sh` blocks run in a clone and do what they say; the others name what exists."""

import re
from importlib.util import find_spec
from typing import NamedTuple

import pandas as pd
import pytest
import yaml
from project import ROOT, files, started

DOCUMENTS = [name for name in files() if re.fullmatch(r"README\.md|docs/.*\.md|data/raw/README\.md", name)]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
STAGES = {name for path in ("dvc.yaml", "data/dvc.yaml") for name in yaml.safe_load((ROOT / path).read_text())["stages"]}
RUN, SHOWN = ("sh",), ("console", "bash")           # run by the tests; only looked at: real clips, a GPU, a server, hours
LANGUAGES = (*RUN, *SHOWN, "python", "mermaid", "yaml", "csv")


class Block(NamedTuple):
    document: str
    line: int
    language: str
    text: str


def blocks():
    """All fenced blocks, in the order of a reader."""
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        for found in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
            yield Block(document, text[: found.start()].count("\n") + 1, found[2], found[3])


BLOCKS = list(blocks())
COMMANDS = [block for block in BLOCKS if block.language in (*RUN, *SHOWN)]
RECIPES = [block for block in BLOCKS if block.language in RUN]


def name(block: Block) -> str:
    return f"{block.document}:{block.line}"


def test_every_block_says_its_language_and_every_fence_is_closed():
    assert {block.language for block in BLOCKS} <= set(LANGUAGES)
    for document in DOCUMENTS:
        fences = re.findall(r"^ *```", (ROOT / document).read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * sum(block.document == document for block in BLOCKS), document


def known(key: str) -> bool:
    """Whether params.yaml has the key."""
    block = PARAMS
    for part in key.split("."):
        if not isinstance(block, dict) or part not in block:
            return False
        block = block[part]
    return True


def settings(text: str) -> dict[str, list[str]]:
    """What `-S key=value` names: key → its values, those of a list or of several experiments one by one."""
    found = {}
    for key, value in re.findall(r"(?:-S|--set-param) ['\"]?([\w.]+)=([^\s'\"`]+)", text):
        if "$" not in value:
            found.setdefault(key, []).extend(filter(None, re.split(r"[\[\],]", value)))
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_parameters_in_the_text_exist(document):
    """Also those in sentences: `finetune.seeds`, `methods.<name>.keep`."""
    text = (ROOT / document).read_text(encoding="utf-8")
    assert not [key for key in settings(text) if not known(key)]
    tops = "|".join(key for key, value in PARAMS.items() if isinstance(value, dict))
    keys = re.findall(rf"`((?:{tops})(?:\.[a-z_0-9]+)+)`", text)
    assert not [key for key in keys if not known(key) and key.rpartition(".")[2] not in ("csv", "html", "npy", "py")]


@pytest.mark.parametrize("block", COMMANDS, ids=name)
def test_what_the_commands_name_exists(block):
    """Modules, files, stages, targets of make, methods, sources and tasks."""
    text = re.sub(r"(^|\s)# .*", "", block.text)
    modules = re.findall(r"(?:python3?|-m torch.distributed.run .*|torchrun .*) -m ([\w.]+)", text)
    assert not [module for module in modules if find_spec(module) is None]
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert set(re.findall(r"\bmake (\w+)", text)) <= set(targets)
    stages = re.findall(r"dvc (?:repro|commit)((?: [a-z_@0-9]+)*)", text)
    assert {stage.partition("@")[0] for words in stages for stage in words.split()} <= STAGES
    assert not [path for path in re.findall(r"\b(?:stages|tests|docs)/[\w/.]+", text) if not (ROOT / path).exists()]
    values = settings(text)
    assert set(values.get("pretrain.method", [])) <= {path.stem for path in ROOT.glob("stages/methods/*.py")}
    sources = {path.stem for path in ROOT.glob("stages/sources/*.py")}
    assert set(values.get("extract_frames.sources", [])) | set(values.get("assemble_us4.sources", [])) <= sources
    assert set(values.get("finetune.tasks", [])) | set(values.get("segment.tasks", [])) <= set(PARAMS["tasks"])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_and_headings(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, heading = target.partition("#")
        if "://" in target:
            continue
        found = (ROOT / document).parent / path if path else ROOT / document
        assert found.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles], target


# What a recipe claims beside that it runs: a check of the clone and of what it printed, for each line that begins so.

def compared(project, said):
    assert re.search(r"\d (?:workspace|\(workspace\))", said) and "McNemar" in said


def on_the_leaderboard(project, said):
    listed = pd.read_csv(project.folder / "reports/leaderboard.csv")
    names = re.findall(r"^ *\S+ +([\w-]+)$", project.run("dvc exp list --name-only"), re.MULTILINE)
    assert set(names) <= set(", ".join(listed["experiments"]).split(", "))
    assert project.read("reports/leaderboard.html").startswith("<!doctype html>")


def predicted(project, said):
    folder = project.folder / "reports/predict/pocus"
    clips = [path for path in (project.folder / "data/phantom/pocus/videos/convex").rglob("*") if path.is_file()]
    table = pd.read_csv(folder / "clips.csv")
    assert len(table) == len(clips) and all((folder / overlay).is_file() for overlay in table["overlay"])


def differing(project, said):
    assert re.search(r"pocus\.(?:balanced_accuracy|frame_accuracy|auroc)", said)


def page_of(experiment, holds):
    def check(project, said):
        assert re.search(holds, project.read(f"reports/{experiment}.html"))
    return check


def table_of(pattern):
    """A table of experiments, with this in it and no column cut off."""
    def check(project, said):
        table = said[said.index("──") : said.rindex("──")]
        assert re.search(pattern, table) and "…" not in table and max(map(len, table.splitlines())) <= 80, table
    return check


def plotted(project, said):
    page = project.read("dvc_plots/index.html")
    for title in ("Pretraining loss", "Held-out features", "Confusion matrix", "ROC", "Scores per class"):
        assert f'"text": "{title}' in page


def queued(project, said):
    assert "queued" not in project.run("dvc exp show --no-pager").lower()


def seeds_spread(project, said):
    assert "pocus.balanced_accuracy_seed_sd" in said


def finished(project, said):
    """The experiment that the block names is there and has another result than the workspace."""
    [name] = re.findall(r"Reproduced experiment\(s\): (\S+)|Ran experiment\(s\): (\S+)", said)
    assert project.run(f"dvc metrics diff workspace {''.join(name)}")


def exported(project, said):
    assert (project.folder / "models/pretrained.onnx").stat().st_size > 1e6


def put_back(project, said):
    assert "up to date" in project.run("dvc status") and project.run("dvc metrics diff") == ""


def says(pattern):
    def check(project, said):
        assert re.search(pattern, said)
    return check


CLAIMS = {
    "python -m stages.tools.compare": compared,
    "python -m stages.tools.leaderboard": on_the_leaderboard,
    "python -m stages.tools.predict": predicted,
    "python -m stages.tools.export": exported,
    "python -m tests.benchmarks.throughput --help": says("--sizes"),
    "dvc metrics diff workspace uscl": differing,
    "dvc params diff": says("pretrain.method .*uscl"),
    "dvc metrics diff workspace random": differing,
    "dvc metrics diff workspace three_seeds": seeds_spread,
    "dvc get -f . reports/report.html --rev against_random": page_of("against_random", r"pocus</th><td[^>]*>random</td>"),
    "dvc get -f . reports/report.html --rev lesions": page_of("lesions", r'id="segmentation"'),
    "dvc exp show --no-pager --drop '.*' --keep '(Experiment|pretrain.method": table_of(r"\[uscl\] .* uscl "),
    "dvc plots diff": plotted,
    "dvc dag": says("pretrain"),
    "dvc exp run --run-all": queued,
    "dvc exp run --temp -n semantic": finished,
    "dvc exp run --temp -n two_divisions": finished,
    "git checkout params.yaml dvc.lock": put_back,
}
BEFORE = {"git checkout params.yaml dvc.lock": "dvc exp apply random"}      # what a recipe takes for granted


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A finished run. One task is enough for the recipes, and keeps the test short."""
    project = started(tmp_path_factory.mktemp("recipes"))
    project.change(finetune__tasks=["pocus"], report__bootstrap_samples=100)
    project.run("dvc repro")
    project.commit("Results of one task")
    return project


def lines(block: Block, known_lines: dict) -> list:
    return [value for start, value in known_lines.items() if any(line.startswith(start) for line in block.text.splitlines())]


@pytest.mark.recipes
@pytest.mark.parametrize("block", RECIPES, ids=name)
def test_a_recipe_does_what_it_says_and_leaves_the_folder_as_it_was(clone, block):
    checks = lines(block, CLAIMS)
    assert checks, "say in CLAIMS what this block claims"
    for command in lines(block, BEFORE):
        clone.run(command)
    said = clone.run(block.text)
    for check in checks:
        check(clone, said)
    assert clone.run("git status --short") == ""
    assert clone.run("dvc diff") == ""


def test_every_claim_has_a_recipe():
    starts = [line for block in RECIPES for line in block.text.splitlines()]
    assert not [start for start in (*CLAIMS, *BEFORE) if not any(line.startswith(start) for line in starts)]
