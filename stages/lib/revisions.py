"""Parameters and files of other revisions (commits, branches, experiments), as git and DVC keep them."""

import functools
import os

import dvc.api
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.experiments.serialize import ExpState
from dvc.scm import NoSCM, SCMError
from dvc.utils.serialize import parse_yaml

from stages.lib.params import UserError, require

LOCKS = ("dvc.lock", "data/dvc.lock")


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
        raise UserError(f"{path} cannot be read from {revision} ({error}); `dvc exp show` lists the experiments") from None


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
        name, revision, state (done, running, queued, failed), params, metrics, and `lock`: the stages of its dvc.lock files,
        which say what made the metrics, where params.yaml may have been edited since.

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
    lock = {}
    for path in LOCKS if outcome == "done" else ():
        try:
            lock |= parse_yaml(read(path, state.rev), path).get("stages", {})
        except UserError:
            continue            # a revision from before the file was there, or without any run
    return {"name": name, "revision": state.rev, "state": outcome, "params": params, "metrics": metrics, "lock": lock}
