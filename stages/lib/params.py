"""Parameters of a stage: read what dvc.yaml declares, check it against the stage's main(), call it."""

import functools
import inspect
import os
import sys
import types
import typing
from collections.abc import Callable

import dvc.api
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.experiments.serialize import ExpState
from dvc.scm import NoSCM, SCMError
from dvc.stage.exceptions import StageNotFound
from dvc.utils.serialize import parse_yaml

KINDS = {int: "a whole number", float: "a number", str: "a text", list: "a list", dict: "a mapping", types.NoneType: "null"}


class UserError(Exception):
    """A mistake of the user's: one sentence that names the file or parameter and what to do about it."""


def run(main: Callable, stage: str, item: str | None = None) -> None:
    """Call `main` with the parameters that dvc.yaml declares for `stage`; a UserError becomes one line and exit status 1.

    Args:
        main: the stage's function. Its keyword arguments are the keys of the params block named like the stage, and the
            top-level parameters and blocks that the stage declares beside it (`seed`, `collection`, …).
        stage: the name in dvc.yaml, without the item of a `foreach`.
        item: the argument of `main` that is this item and comes from the command line: source, task.
    """
    try:
        arguments = {}
        if item:
            require(len(sys.argv) == 2, f"say which {item}: python -m stages.{stage} <{item}>")
            arguments = {item: sys.argv[1]}
        declared = _declared("@".join([stage, *arguments.values()]))
        values = declared.pop(stage, {})
        names = {key: f"{stage}.{key}" for key in values} | {key: key for key in declared}
        main(**checked(main, values | declared | arguments, names))
    except UserError as error:
        sys.exit(f"error: {error}")


def show() -> dict:
    """All parameters of the workspace, for a tool that is no stage."""
    try:
        return dvc.api.params_show()
    except (DvcException, SCMError) as error:
        raise UserError(f"params.yaml cannot be read ({error}); run this in the project's folder") from None


def committed() -> dict | None:
    """All parameters as the commit that is checked out has them; None where there is none: outside git, or before the first."""
    try:
        return dvc.api.params_show(rev="HEAD")
    except (DvcException, SCMError):
        return None


def read(path: str, revision: str) -> str:
    """The text of a file that git or DVC keeps, as a revision (commit, branch, experiment) has it.

    Args:
        revision: or `workspace`, for the file as it is.

    Raises:
        UserError: no such revision, no such file in it, or not in the cache.
    """
    try:
        return _files(revision).read_text(path, encoding="utf-8")
    except (DvcException, SCMError, OSError) as error:
        raise UserError(f"{path} cannot be had from {revision} ({error}); `dvc exp show` lists the experiments") from None


@functools.cache
def _files(revision: str) -> dvc.api.DVCFileSystem:
    """The files of a revision. A copy in which the queue or --temp runs a stage knows no branch and no experiment; the
    repository that it was copied from, DVC_ROOT, knows them.
    """
    if revision == "workspace":
        return dvc.api.DVCFileSystem()
    return dvc.api.DVCFileSystem(os.environ.get("DVC_ROOT"), rev=revision)


def experiments(revisions: list[str], all_commits: bool) -> list[dict]:
    """All experiments, the workspace first, then each commit that some derive from: its own results, then theirs.

    Args:
        revisions: commits, branches, tags; none: HEAD and every commit that has experiments.
        all_commits: every commit of the branch, too.

    Returns:
        name, revision, state (done, running, queued, failed), params, metrics, and `lock`: the stages of its dvc.lock, which
        say what made the metrics, where params.yaml may have been edited since.

    Raises:
        UserError: no DVC project, no git, no commit, an unknown revision.
    """
    try:
        with Repo() as repo:
            require(not isinstance(repo.scm, NoSCM) and not repo.scm.no_commits, "experiments need git and a first commit")
            queue = repo.experiments.celery_queue
            waiting = [*queue.iter_queued(), *queue.iter_active(), *(failed.entry for failed in queue.iter_failed())]
            known = [repo.scm.get_rev(), *repo.experiments.ls(all_commits=True), *(entry.baseline_rev for entry in waiting)]
            bases = list(dict.fromkeys(revisions or known))
            states = repo.experiments.show(revs=bases, all_commits=all_commits)
    except (DvcException, SCMError) as error:
        raise UserError(f"the experiments cannot be listed: {error}") from None
    found = []
    for state in states:
        found.append(_experiment(state, state.name or state.rev[:7], "done"))
        for run in state.experiments or []:
            outcome = run.executor.state if run.executor else "success"
            found.append(_experiment(run.revs[0], run.name or run.revs[0].rev[:7], outcome.replace("success", "done")))
    return [found[0] | {"name": "workspace"}, *found[1:]]


def _experiment(state: ExpState, name: str, outcome: str) -> dict:
    """What `experiments` returns of one."""
    data = state.data
    params = data.params.get("params.yaml", {}).get("data", {}) if data else {}
    metrics = data.metrics.get("reports/metrics.json", {}).get("data", {}) if data and outcome == "done" else {}
    try:
        lock = parse_yaml(read("dvc.lock", state.rev), "dvc.lock").get("stages", {}) if outcome == "done" else {}
    except UserError:
        lock = {}
    return {"name": name, "revision": state.rev, "state": outcome, "params": params, "metrics": metrics, "lock": lock}


def _declared(stage: str) -> dict:
    """The parameters that dvc.yaml declares for the stage."""
    try:
        return dvc.api.params_show(stages=stage)
    except StageNotFound:
        raise UserError(f"dvc.yaml has no stage {stage}; `dvc stage list` shows all, params.yaml lists their items") from None


def checked(function: Callable, values: dict, names: dict[str, str]) -> dict:
    """Return `values` if they are just the keyword arguments of `function`, each of its annotated type.

    Args:
        function: a function or class with annotated arguments.
        values: argument → value.
        names: argument → its full name in params.yaml, for the sentence that the user reads.

    Raises:
        UserError: an unknown key, a missing key, or a value of another type.
    """
    expected = {
        key: parameter.annotation
        for key, parameter in inspect.signature(function).parameters.items()
        if key in values or parameter.default is parameter.empty
    }
    for key in values.keys() - expected.keys():
        raise UserError(f"params.yaml: {names.get(key, key)} is not a parameter; choose from {', '.join(sorted(expected))}")
    for key in expected.keys() - values.keys():
        raise UserError(f"params.yaml: {key} is missing ({function.__module__} needs it)")
    for key, value in values.items():
        if not _is_a(value, expected[key]):
            kinds = " or ".join(KINDS.get(kind, str(kind)) for kind in typing.get_args(expected[key]) or [expected[key]])
            raise UserError(f"params.yaml: {names.get(key, key)} is {value!r}; it must be {kinds}")
    return values


def _is_a(value, annotation) -> bool:
    """Whether a YAML value has the annotated type; whole numbers are also numbers, truth values are not."""
    if annotation is inspect.Parameter.empty:
        return True
    if isinstance(annotation, types.UnionType):
        return any(_is_a(value, choice) for choice in typing.get_args(annotation))
    kind = typing.get_origin(annotation) or annotation
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def require(condition: bool, sentence: str) -> None:
    """Raise UserError(sentence) unless the condition holds."""
    if not condition:
        raise UserError(sentence)
