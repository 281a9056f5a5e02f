"""How a stage runs: with the parameters that dvc.yaml declares for it, once at a time, and with one sentence where it stops.

A second run of the same stage stops at once and names the process that runs it. After a signal to stop, half-written files are
removed. A full disk, missing permissions and too little memory each have a sentence (faults.py). The last outputs stay whole,
since stages write new ones beside them (lib/clips/store.py).
"""

import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import dvc.api
from dvc.exceptions import DvcException
from dvc.scm import SCMError
from dvc.stage.exceptions import StageNotFound
from filelock import FileLock, Timeout

from stages.lib.params import UserError, checked, refuse_aliases, require
from stages.lib.running import faults, stopping

LOCKS = Path(".dvc/tmp/stages")
NO_GIT = "this folder is no git repository, and DVC works only in one; run `git init`"       # a download without .git


def run(
    main: Callable, stage: str, item: str | None = None, lower: str = "", pipeline: str = "dvc.yaml",
    later: Mapping[str, str | None] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Call `main` with the parameters that dvc.yaml declares for `stage`; what stops it becomes one line and exit status 1.

    Args:
        main: the stage's function. Its keyword arguments are the keys of the params block named like the stage, and the
            top-level parameters and blocks that the stage declares beside it (`seed`, `collection`, …).
        stage: the name in dvc.yaml, without the item of a `foreach`.
        item: the argument of `main` that is this item and comes from the command line: source, task.
        lower: the parameter that a user lowers where the memory is too small.
        pipeline: the file that describes the stage.
        later: stage that runs after this one → its item (None: it has none). Their blocks are checked, too, and their `plan`
            is called for each item, so that a mistake shows before the long work.
    """
    with one_sentence(lower, faults.UNCHANGED, faults.RESUMED):
        named = sys.argv[1:]
        require(bool(item) or not named, f"stages.{stage} takes no {' '.join(named)}; its parameters are in params.yaml, and "
                "`dvc exp run -S <key>=<value>` changes one for one run")
        require(not item or len(named) == 1, f"name one {item}: python -m stages.{stage} <{item}>")
        arguments = {item: named[0]} if item else {}
        shared = _declared("@".join([stage, *named]), pipeline)
        block = shared.pop(stage, {})
        whole = dvc.api.params_show().get(stage) if item else None
        if isinstance(whole, dict):                 # dvc.yaml lists the keys of these blocks, which hides one that is misspelt
            block |= {key: whole[key] for key in whole if key != f"{item}s"}
        arguments |= checked(main, shared, "", inspect.signature(main).parameters.keys() - shared.keys())
        arguments |= checked(main, block, stage, arguments)
        _check_blocks(later)
        with stopping.stoppable(), alone("_".join([stage, *named])):
            main(**arguments)


def run_tool(main: Callable, lower: str = "", **given: Any) -> None:
    """Call the `main` of a tool, which is no stage; what stops it becomes one line and exit status 1.

    Args:
        main: its keyword arguments are those given and, if there are others, top-level parameters and blocks of params.yaml.
        lower: what a user lowers where the memory is too small.
        given: from the command line.
    """
    with one_sentence(lower):
        wanted = inspect.signature(main).parameters.keys() - given.keys()
        main(**given, **(_of_workspace(main, wanted, given) if wanted else {}))


@contextmanager
def one_sentence(lower: str = "", failed: str = "", stopped: str = "") -> Iterator[None]:
    """What stops the block becomes one line and exit status 1, unless it is a mistake in the code.

    Args:
        lower: what a user lowers where the memory is too small.
        failed, stopped: what is there afterwards, in words; after a fault of the system, and after a signal to stop.
    """
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except (Exception, KeyboardInterrupt) as error:
        cause = faults.first_cause(error)
        if faults.without_memory(cause):
            stopping.end_soon()
        if meaning := faults.sentence(cause, lower):
            sys.exit("; ".join(filter(None, [f"error: {meaning}", stopped if meaning == faults.STOPPED else failed])))
        raise


def _check_blocks(stages: Mapping[str, str | None]) -> None:
    """Check the blocks of stages; a stage whose list of items is empty does not run, so its block may be anything.

    Args:
        stages: stage → its item; None: it has none.
    """
    whole, known = dvc.api.params_show() if stages else {}, {}
    for stage, item in stages.items():
        block, items = whole.get(stage, {}), f"{item}s"
        require(isinstance(block, dict), f"params.yaml: {stage} is {block!r:.200}; it must be a mapping")
        if block.get(items, True):
            own = known[stage] = {key: block[key] for key in block if key != items}
            checked(import_module(f"stages.{stage}").main, own, stage, {item, *whole} - own.keys())
    for stage, own in known.items():                                    # once all blocks are of the right types
        for name in whole[stage].get(f"{stages[stage]}s", []):
            _plan(import_module(f"stages.{stage}"), whole | own | {"task": name, "arch": whole["pretrain"]["arch"]})


def _plan(module: ModuleType, params: dict) -> None:
    """Let a stage divide the clips of one of its tasks, if they are there."""
    source = params["tasks"].get(params["task"], {}).get("source", params["task"])
    if Path("data/frames", source, "clips.csv").exists():
        module.plan(**{key: params[key] for key in inspect.signature(module.plan).parameters})


def _of_workspace(main: Callable, wanted: Collection[str], given: Collection[str]) -> dict:
    """The wanted arguments of `main`, from params.yaml as it is."""
    refuse_aliases()
    try:
        found = dvc.api.params_show()
    except SCMError:
        raise UserError(NO_GIT) from None
    except DvcException as error:
        raise UserError(f"params.yaml cannot be read ({error}); run this in the project's folder") from None
    return checked(main, {key: found[key] for key in wanted if key in found}, "", set(given))


def _declared(stage: str, pipeline: str) -> dict:
    """The parameters that the pipeline's file declares for the stage."""
    refuse_aliases()
    try:
        return dvc.api.params_show(stages=f"{pipeline}:{stage}")
    except SCMError:
        raise UserError(NO_GIT) from None
    except StageNotFound:
        raise UserError(f"{pipeline} has no stage {stage}; `dvc stage list` shows all, params.yaml lists their items") from None


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Hold the stage's lock; the system frees it when the process ends, however it ends.

    Of the processes that torchrun starts as one run only the first takes it.

    Raises:
        UserError: another process holds it.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    LOCKS.mkdir(parents=True, exist_ok=True)
    holder = LOCKS / f"{name}.json"
    try:
        with FileLock(LOCKS / f"{name}.lock", timeout=0):
            holder.write_text(json.dumps({"process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}))
            yield
    except Timeout:
        try:
            known = json.loads(holder.read_text())
            number, since = known["process"], known["since"]
            who = f"process {number} has run it since {since}; stop it with `kill {number}`, or wait"
        except (OSError, ValueError, KeyError):
            who = "another process runs it; wait until it ends"
        raise UserError(f"{name} is already running: {who}") from None
