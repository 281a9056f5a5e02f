"""Read the files of a run; a file that is missing or broken becomes one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.lib.clips import store
from stages.lib.params import UserError, require


def read(path: str | Path, reader: Callable[[Any], Any] = store.table, command: str = "dvc repro") -> Any:
    """What `reader` makes of the file.

    Args:
        command: what makes the file again, for the sentence that the user reads.

    Raises:
        UserError: the file is missing, empty or broken.
    """
    require(Path(path).exists(), f"{path} is missing; run `{command}` to make it")
    try:
        return reader(path)
    except (ValueError, EOFError) as error:  # of pandas and NumPy, for an empty or broken file
        raise UserError(f"{path} cannot be read ({error}); remove it and run `{command}` to make it again") from None
