"""What the sources share: which files are clips, in which order, and the table that `clips(folder)` returns."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from stages.lib.clips import lists
from stages.lib.clips.readers.several import holds_several
from stages.lib.params import UserError, require

COLUMNS = ["clip", "path", "patient", "label", "subset", "fps", "left_out"]
IMAGES = set(".apng .avif .bmp .jfif .jp2 .jpe .jpeg .jpg .pgm .png .pnm .ppm .tif .tiff .webp".split())
FORMULA = re.compile(r"[=@+-][^(|!]*[(|!]")              # what a spreadsheet would compute or start
UNKNOWN = set("nan none null n/a na <na> #n/a n.a. unknown anon anonymous anonymised anonymized - ?".split())  # name no patient
NOTES = set(".csv .db .dvc .html .ini .json .md .pdf .txt .xlsx .xml .yaml".split())


def is_image(path: Path) -> bool:
    """Whether the file name ends like a still image's, in small or capital letters, and the file holds no more than one."""
    return path.suffix.lower() in IMAGES and not holds_several(path)


def natural(path: Path) -> tuple:
    """Sort key by which `frame` comes before `frame 2`, and this before `Frame 10`, whatever their suffixes."""
    texts = (path.parent / path.stem).as_posix(), path.suffix
    parts = [[int(part) if part.isdecimal() else part.casefold() for part in re.split(r"(\d+)", text)] for text in texts]
    return *parts, path.as_posix()


def images(folder: Path) -> list[Path]:
    """The image files directly in `folder`, in natural order, no hidden ones; none where there is no such folder."""
    there = (path for path in folder.glob("*") if not path.name.startswith("."))
    return sorted((path for path in there if is_image(path) and path.is_file()), key=natural)


def files(folder: Path) -> list[Path]:
    """The files directly in `folder` that can be meant as clips, in natural order: no notes, no hidden ones."""
    there = (path for path in folder.glob("*") if path.is_file() and not path.name.startswith(".") and not _is_note(path))
    return sorted(there, key=natural)


def recordings(folder: Path) -> list[Path]:
    """Everything at or below `folder` that is meant as a clip.

    Returns:
        Files that hold a clip; folders that hold images, `folder` itself included; and files of any other kind but notes,
        tables and licences, links back to a folder above, and folders that may not be read: those are no clips, but the user
        must hear of them.
    """
    found = []

    def locked(error: OSError) -> None:
        found.extend([Path(error.filename)] if isinstance(error, PermissionError) else [])

    for place, folders, names in os.walk(folder, onerror=locked, followlinks=True):
        kept = [name for name in folders if not name.startswith(".") and Path(place, name) != folder / "crops"]
        below = [Path(place, name) for name in kept]    # crops/ holds the masks that crops.csv names
        back = [_leads_back(path) for path in below]
        folders[:] = [path.name for path, leads in zip(below, back, strict=True) if not leads]
        found += [path for path, leads in zip(below, back, strict=True) if leads]
        files = [Path(place, name) for name in names if not name.startswith(".")]
        found += [Path(place)] if any(map(is_image, files)) else []
        found += [path for path in files if not is_image(path) and not _is_note(path)]
    return sorted(found, key=natural)


def by_class(folder: Path, labels: tuple[str, ...]) -> Iterator[tuple[Path, str, str]]:
    """Clips in folders named like the labels; images directly in a label's folder are clips of one frame.

    Returns:
        (path, label, reason to leave it out or '') of each; a clip elsewhere below `folder` has the label ''.
    """
    for path in recordings(folder):
        place = path.relative_to(folder).parts
        label = place[0] if place and place[0] in labels else ""
        reason = "" if label else f"label unknown: not in one of the folders {', '.join(labels)}"
        inside = images(path) if len(place) < 2 and may_be_read(path) and path.is_dir() else []
        for clip in inside or [path]:
            yield clip, label, reason


def listed(tables: list[Path], folder: Path, labels: dict[str, str]) -> list[tuple[Path, str, str]]:
    """Images of `folder` with the labels that lists of lines `file,number` give them.

    Args:
        tables: csv files without a header.
        labels: number → label.

    Returns:
        (path, label, reason to leave it out or '') of every image that is listed or there.

    Raises:
        UserError: there are images, and a list is missing or no such csv.
    """
    there = files(folder)
    found = []
    for path in tables if there else []:
        try:
            entries = pd.read_csv(path, names=["file", "number"], dtype=str, keep_default_na=False)
        except (FileNotFoundError, ValueError) as error:
            raise UserError(f"{path} must name the labels, in lines `file,number` ({error})") from None
        for name, number in zip(entries["file"].str.strip(), entries["number"].str.strip(), strict=True):
            reason = "" if number in labels else f"label {number!r} in {path.name} is none of {', '.join(labels)}"
            found.append((folder / name, labels.get(number, ""), reason))
    known = {path for path, _, _ in found}
    return found + [(path, "", f"label unknown: no line in {tables[0].name}") for path in there if path not in known]


def row(
    folder: Path,
    path: Path,
    label: str,
    patient: str = "",
    subset: str = "",
    left_out: str = "",
    clip: str = "",
    fps: float = float("nan"),
) -> dict:
    """A line of the table; `clip`, the id, is the path below `folder` if not given."""
    if not left_out and not may_be_read(path):
        there = os.path.exists(path)
        left_out = f"{'it' if there else 'the file is missing, or its folder'} may not be read"
    if not left_out and "\r" in str(path):
        left_out = "its name holds a line break, by which tables would end a line: rename it"
    if not left_out and _leads_back(path):
        left_out = "a link back to a folder above it"
    clip = clip or path.relative_to(folder).as_posix()
    return dict(zip(COLUMNS, (clip, path.as_posix(), patient, label, subset, fps, left_out), strict=True))


def may_be_read(path: Path) -> bool:
    """Whether a path is a file that may be read, or a folder whose files may be listed and opened."""
    return os.access(path, os.R_OK | os.X_OK if os.path.isdir(path) else os.R_OK)


def table(rows: list[dict], folder: Path, layout: str) -> pd.DataFrame:
    """The rows as a table sorted by clip id. A file that is listed twice is a clip once, or, where the lines differ, no clip.

    A name that a spreadsheet would take for a formula gets a ' in front, since the names go into tables that people open there.
    Prints a sentence about patients, and one about labels, that are likely the same under two spellings, and one about patients
    that are likely an empty field.

    Args:
        rows: what `row` returned, in any order.
        folder: the source's folder, for the sentence that the user reads.
        layout: what should lie in it.

    Raises:
        UserError: there is no such folder, no clip in it, or two clips with one id.
    """
    state = "no folder" if os.path.lexists(folder) else "missing"           # a file, or a link that leads nowhere
    require(folder.is_dir(), f"{folder} is {state}: put the data set there, or link it: {layout}")
    there = [" ".join(path.name.split())[:60] for path in sorted(folder.iterdir(), key=natural)]
    more = f" and {len(there) - 5} more" if len(there) > 5 else ""
    require(bool(rows), f"{folder} should hold {layout}; it holds {', '.join(there[:5]) or 'nothing'}{more}")
    clips = pd.DataFrame(rows).sort_values("clip", kind="stable", ignore_index=True)
    names = clips.columns.difference(["path", "masks", "fps"])
    clips[names] = clips[names].map(lambda name: f"'{name}" if FORMULA.match(str(name)) else name)
    clips["left_out"] = clips["left_out"].mask(clips["left_out"] == "", _listed_again(clips))
    unknown = clips["patient"].str.casefold().isin(UNKNOWN)
    if unknown.any():
        names = ", ".join(sorted(set(clips["patient"][unknown])))
        print(f"{folder}: {unknown.sum()} clips have the patient {names}, which counts as unknown: each is a patient of its "
              "own")
    clips["patient"] = clips["patient"].mask(unknown, "")
    kept = clips[clips["left_out"] == ""]
    double = kept[kept["clip"].duplicated(keep=False)]["path"].tolist()
    require(not double, f"{' and '.join(double[:2])} have the same clip id; in {folder} each clip needs an id of its own")
    for column in ("patient", "label"):
        alike = ["; ".join(names) for names in lists.spellings(clips[column])]
        if alike:
            more = f" and {len(alike) - 5} more" if len(alike) > 5 else ""
            print(f"{folder}: these {column}s differ only in capitals, blanks, leading zeros, '.0' or how a letter is encoded, "
                  f"and count as different: {' | '.join(alike[:5])}{more}; write them alike if they are the same")
    return clips


def _listed_again(clips: pd.DataFrame) -> pd.Series:
    """A reason to leave out lines that list the same file again; all of its lines where they differ in patient or label."""
    file = clips["path"].map(os.path.realpath)
    reasons = pd.Series("", clips.index).mask(file.duplicated(), "the same file is listed twice: the first line stays")
    for column in ("patient", "label"):
        values = clips[column].groupby(file)
        named = file.map(values.agg(lambda names: " and ".join(sorted(map(repr, set(names))))))
        several = values.transform("nunique") > 1
        reasons = reasons.mask(several, f"one file with {column} " + named + ": which is right is unknown")
    return reasons


def _leads_back(path: Path) -> bool:
    """Whether a path is a link to one of the folders that it lies in."""
    return path.is_symlink() and os.path.realpath(path) in {os.path.realpath(parent) for parent in path.absolute().parents}


def _is_note(path: Path) -> bool:
    return path.suffix.lower() in NOTES or path.stem.upper() in {"LICENSE", "LICENCE", "README", "CITATION", "ICON\r"}
