"""Frames with a heat map over them, as a video of a clip or as a sheet of its frames."""

import math
from pathlib import Path

import cv2
import numpy as np

from stages.lib.params import require

TILE_PX = 320
LINE_PX = 20
STRENGTH = 0.6      # weight of the colour where the map is 1; where it is 0, the frame is unchanged
COLOURS = cv2.COLORMAP_VIRIDIS  # perceptually uniform, and readable for the colour-blind


def blend(frame: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The frame with the map over it: uint8 [H, W, 3] (blue, green, red).

    Args:
        frame: uint8 [H, W].
        heat: 0…1, [H, W].
    """
    grey = cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)
    colour = cv2.applyColorMap((255 * heat).astype(np.uint8), COLOURS)
    weight = STRENGTH * heat[:, :, None]
    return (grey * (1 - weight) + colour * weight).round().astype(np.uint8)


def panel(frame: np.ndarray, heat: np.ndarray, lines: list[str]) -> np.ndarray:
    """The frame, to its right the frame with the map over it, and lines of text below: uint8 [H, W, 3] (blue, green, red).

    Args:
        frame: uint8 [S, S].
        heat: 0…1, [S, S].
        lines: of text.
    """
    size = (TILE_PX, TILE_PX)
    frame, heat = (cv2.resize(part, size, interpolation=cv2.INTER_LINEAR) for part in (frame, heat.astype(np.float32)))
    text = np.zeros((LINE_PX * (len(lines) + 1), 2 * TILE_PX, 3), np.uint8)
    for number, line in enumerate(lines, 1):
        cv2.putText(text, line, (8, LINE_PX * number), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return np.vstack([np.hstack([cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR), blend(frame, heat)]), text])


def write_video(path: Path, panels: list[np.ndarray], frame_rate_hz: float) -> None:
    """Write the panels as an mp4 file."""
    height, width = panels[0].shape[:2]
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), frame_rate_hz, (width, height))
    require(video.isOpened(), f"{path} cannot be written")
    for picture in panels:
        video.write(picture)
    video.release()


def write_sheet(path: Path, panels: list[np.ndarray]) -> None:
    """Write the panels as one picture, in rows and columns."""
    columns = math.ceil(math.sqrt(len(panels)))
    panels = panels + [np.zeros_like(panels[0])] * (-len(panels) % columns)
    rows = [np.hstack(panels[start : start + columns]) for start in range(0, len(panels), columns)]
    require(cv2.imwrite(str(path), np.vstack(rows)), f"{path} cannot be written")
