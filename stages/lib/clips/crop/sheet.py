"""The contact sheet: one page with the crop of every clip of a source drawn on the whole picture, for a quick look."""

import base64
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import jinja2
import numpy as np

from stages.lib.clips.fan import Fan

SIDE_PX = 168  # long side of a picture
QUALITY = 55  # of WebP, 0 to 100
LINE = {True: (0, 190, 255), False: (120, 220, 60)}  # BGR of the crop's outline, by whether it is uncertain


def picture(frames: Sequence[np.ndarray], fan: Fan) -> str:
    """First, middle and last of a clip's kept frames side by side, the crop drawn on them; of fewer than three, all of them.

    Args:
        frames: T x uint8 [H, W], whole pictures.

    Returns:
        A WebP image as a data URI.
    """
    places = np.unique([0, len(frames) // 2, len(frames) - 1])
    height, width = frames[0].shape
    scale = min(1.0, SIDE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    outline = cv2.findContours(np.pad(fan.mask, 1), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(-1, -1))[0]
    outline = [np.round((contour + fan.box[:2]) * scale).astype(np.int32) for contour in outline]
    small = [cv2.resize(frames[place], size, interpolation=cv2.INTER_AREA) for place in places]
    small = [cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) for image in small]
    for image in small:
        cv2.drawContours(image, outline, -1, LINE[bool(fan.uncertain)], 1, cv2.LINE_AA)
    data = cv2.imencode(".webp", np.hstack(small), [cv2.IMWRITE_WEBP_QUALITY, QUALITY])[1]
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def write(path: Path, source: str, clips: list[dict]) -> None:
    """Write the page: uncertain crops first, then the clips whose file says that names or dates stand in the picture, then the
    others, then the clips that were left out.

    Args:
        clips: the rows of clips.csv with `picture`, a data URI, empty for a clip without frames.
    """
    here = Path(__file__).parent
    pages = jinja2.Environment(loader=jinja2.FileSystemLoader(here), autoescape=True, undefined=jinja2.StrictUndefined,
                               trim_blocks=True, lstrip_blocks=True)
    left_out = [clip for clip in clips if clip["left_out"]]
    kept = [clip for clip in clips if not clip["left_out"]]
    sure = [clip for clip in kept if not clip["crop_uncertain"]]
    named = [clip for clip in sure if clip["burned_in"]]
    groups = [("uncertain", [clip for clip in kept if clip["crop_uncertain"]]), *([("burned_in", named)] if named else []),
              ("other", [clip for clip in sure if not clip["burned_in"]]), ("left_out", left_out)]
    page = pages.get_template("sheet.html.j2").render(source=source, groups=groups)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(page, encoding="utf-8", errors="backslashreplace")      # a file name that is no UTF-8
    os.replace(partial, path)
