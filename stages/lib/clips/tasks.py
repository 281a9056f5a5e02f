"""Evaluation tasks: the clips of a source, and the column of its clip table that holds the class.

A block of `tasks` in params.yaml, with the keys that Task takes:

    covid_blues_severity:
      source: covid_blues
      target: severity
      classes:
        mild: ["0.0", "1.0"]
        severe: ["2.0", "3.0"]
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import yaml

from stages.lib.clips import store
from stages.lib.params import Names, from_params, require

Value = str | int | float       # of a class, as YAML reads it


class Task:
    """A task: which clips, and which class each of them has.

    Args:
        task: the name of its block.
        classes: in order: class → its values in the column `target`; or a list of classes, each with its own name as value.
        source: whose clips; default: the source with the name of the task.
        target: the column of the source's clip table that holds the values.
        subsets: parts of the source; [] for all.
        stratify: another column, by whose values the folds are divided; tasks of a source that name the same column share
            their folds. Default: the classes of the task.
        external: outside tests, blocks {source, target, classes, subsets}: the network for use predicts their clips once.
            Their classes are classes of the task; without `classes` they have the same values as in the task.

    Raises:
        UserError: a mistake in the block.
    """

    def __init__(
        self, task: str, classes: dict | list, source: str = "", target: str = "label",
        subsets: Names = (), stratify: str = "", external: list[dict] = (),
    ):  # fmt: skip
        self.name, self.source, self.target, self.stratify = task, source or task, target, stratify
        self.subsets, place = list(subsets), f"params.yaml: tasks.{task}.classes"
        _require_values(classes, place)
        require(len(classes) >= 2, f"{place} is {classes}; name two classes or more")
        pairs = classes.items() if isinstance(classes, dict) else zip(classes, classes, strict=True)
        self.values = {str(label): values if isinstance(values, list) else [values] for label, values in pairs}
        for label, values in self.values.items():
            require(len(values) > 0, f"{place}.{label} is empty; name one value or more")
            _require_values(values, f"{place}.{label}")
        self.external = [self._outside(number, block) for number, block in enumerate(external)]

    @property
    def classes(self) -> list[str]:
        """The classes in order."""
        return list(self.values)

    def _outside(self, number: int, block: dict) -> "Task":
        """The outside test of a block of `external`, as a task with the same classes in the same order."""
        place = f"{self.name}.external.{number}"
        outside = from_params(Task, {"classes": self.values} | block, f"tasks.{place}", task=place)
        require(bool(block.get("source")), f"params.yaml: tasks.{place}.source is missing")
        require(outside.source != self.source, f"params.yaml: tasks.{place}.source is {outside.source}, the task's own source; "
                "an outside test needs another one")
        strange = sorted(set(outside.values) - set(self.values))
        require(not strange, f"params.yaml: tasks.{place}.classes names {', '.join(strange)}; the task has the classes "
                f"{', '.join(self.values)}")
        outside.values = {label: outside.values[label] for label in self.values if label in outside.values}
        return outside

    def clips(self) -> pd.DataFrame:
        """The clip table of the source, with the class in `label` and a reason in `left_out` for each clip that is not used.

        The column `stratum` holds what the folds divide evenly; it is empty for clips that are in no fold.

        Raises:
            UserError: the table has no such column, or a class has no clip.
        """
        path = Path("data/frames", self.source, "clips.csv")
        clips, found = store.table(path), pd.read_csv(path, dtype=str, keep_default_na=False)
        for key in ("target", "stratify"):
            column = getattr(self, key)
            require(not column or column in found, f"params.yaml: tasks.{self.name}.{key} is {column}; {path} has no such "
                    f"column, choose from {', '.join(found)}")
        value = found[self.target].str.strip()
        label = pd.Series("", index=clips.index)
        for name, values in self.values.items():
            chosen = pd.concat([_equal(value, one) for one in values], axis=1).any(axis=1)
            twice = value[chosen & (label != "")].unique()
            require(not len(twice), f"params.yaml: tasks.{self.name}.classes: {', '.join(twice)} belongs to two classes")
            label = label.mask(chosen, name)
        wrong = [name for name in self.subsets if name not in set(clips["subset"])]
        known = ", ".join(sorted(set(clips["subset"]) - {""}))
        known = f"choose from {known}" if known else "its clips have no subset, write []"
        require(not wrong, f"params.yaml: tasks.{self.name}.subsets names {', '.join(wrong)}, which is no subset of "
                f"{self.source}; {known}")
        outside = ~clips["subset"].isin(self.subsets or clips["subset"])
        stratum = found[self.stratify].str.strip().replace("", "missing") if self.stratify else label
        clips["stratum"] = stratum.where((clips["left_out"] == "") & ~outside, "")
        reasons = [(label == "", f"{self.target} " + value.replace("", "missing") + " is no class of the task"),
                   (outside, "subset " + clips["subset"] + " is no part of the task")]
        for applies, reason in reasons:
            clips["left_out"] = clips["left_out"].mask((clips["left_out"] == "") & applies, reason)
        clips["label"] = label.where(label != "", value)
        self.require_all(clips)
        return clips

    def require_all(self, clips: pd.DataFrame) -> None:
        """Raise UserError if a class of the task has no clip."""
        used = clips["label"][clips["left_out"] == ""]
        absent = [name for name in self.classes if name not in set(used)]
        path = Path("data/frames", self.source, "clips.csv")
        column = set(store.table(path)[self.target].astype(str)) - {""}
        require(not absent, f"task {self.name}: no clip of class {', '.join(absent)} in {path}; take it out of "
                f"tasks.{self.name}.classes, correct its values or add clips (the column {self.target} has "
                f"{', '.join(sorted(column)[:10]) or 'only empty fields'})")


def read_task(name: str, tasks: dict) -> Task:
    """The task of a name.

    Args:
        tasks: the block `tasks` of params.yaml.

    Raises:
        UserError: no such block, or a mistake in it.
    """
    require(name in tasks, f"params.yaml: finetune.tasks or segment.tasks names {name!r}, but there is no block tasks.{name}; "
            + (f"choose from {', '.join(tasks)}, or add it" if tasks else "add it"))
    return from_params(Task, tasks[name], f"tasks.{name}", task=name)


def groups(clips: pd.DataFrame) -> pd.Series:
    """What folds keep whole: the column `group` (copies.py) if there is one, else the patient, else the clip."""
    if "group" in clips:
        return clips["group"]
    return clips["patient"].where(clips["patient"] != "", "clip " + clips["clip"])


def _require_values(values: Iterable, place: str) -> None:
    """Raise UserError for a value that YAML does not read as text or number, and for one that is there twice.

    Args:
        values: classes or values of a class; a list among the latter's is an error, too.
        place: the key of params.yaml that holds them.
    """
    for value in values:
        require(isinstance(value, Value) and not isinstance(value, bool), f"{place} holds {_as_yaml(value)}, which YAML reads "
                'neither as text nor as a number; write it as the clip table has it, in quotes: "yes", "no", "1"')
    texts = [str(value) for value in values]
    twice = sorted({text for text in texts if texts.count(text) > 1})
    zeros = ', or in quotes where zeros count: "001"' if any(not isinstance(value, str) for value in values) else ""
    require(not twice, f"{place} names {', '.join(twice)} more than once; write it once{zeros}")


def _as_yaml(value: object) -> str:
    """A value as params.yaml may have it, on one line: null, true, 2020-01-01."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def _equal(column: pd.Series, value: Value) -> pd.Series:
    """Which fields hold the value: a text as it is written, a number in any spelling (2 = 2.0)."""
    return column == value if isinstance(value, str) else pd.to_numeric(column, errors="coerce") == value
