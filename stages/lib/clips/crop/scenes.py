"""Frames of a clip that show something else than the rest of it: title slides, credits, an empty first frame."""

from collections.abc import Sequence

import cv2
import numpy as np
from scipy.sparse.csgraph import connected_components

from stages.lib.clips.fan import DARK

SIDE_PX = 32  # frames are compared at this size
ALIKE = 0.4  # correlation from which on two frames belong to one scene; views of one fan mostly have 0.6 and more
FOREIGN = 0.2  # below it a scene is foreign even if it moves: the least between scenes of one fan in real clips is 0.27
STATIC = 0.02  # mean difference of a scene's frames, in standard deviations of their grey values, below which it is a slide


def odd(frames: Sequence[np.ndarray]) -> tuple[int, ...]:
    """Numbers of the frames that show something else than most of the clip.

    Frames that correlate, directly or over others, are one scene. The largest scene is the clip if it has half of the frames
    that are not black. Another scene is odd if it hardly correlates with the clip, or if it is a slide: at least two frames
    of one picture that correlate little with it.

    Args:
        frames: T x uint8 [H, W].
    """
    lit = [number for number, frame in enumerate(frames) if frame.max() > DARK]
    if len(lit) < 3:
        return ()
    small = [cv2.resize(frames[number], (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA).ravel() for number in lit]
    small = np.array(small, np.float64)                                         # T x pixels
    centred = small - small.mean(axis=1, keepdims=True)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True) + 1e-9            # an even frame correlates with none
    alike = centred @ centred.T                                                 # T x T
    _, scene = connected_components(alike > ALIKE, directed=False)
    main = scene == np.bincount(scene).argmax()
    if 2 * main.sum() < len(lit):
        return ()
    found = []
    for number in np.unique(scene[~main]):
        inside = scene == number
        apart = np.abs(small[inside] - small[inside].mean(axis=0)).mean()
        slide = inside.sum() > 1 and apart < STATIC * small[inside].std()
        if slide or alike[np.ix_(inside, main)].max() < FOREIGN:
            found += [lit[place] for place in np.flatnonzero(inside)]
    return tuple(sorted(found))
