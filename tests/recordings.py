"""Clips in the forms that scanners and archives deliver, written for the tests."""

from fractions import Fraction

import av
import numpy as np


def speckle(count, height=48, width=64, seed=0):
    """Smooth patches that change from frame to frame: T x uint8 [H, W], from 20 to 230."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 230, (count, height // 8, width // 8))
    return list(coarse.repeat(8, 1).repeat(8, 2).astype(np.uint8))


def write_av(path, frames, fps=10, codec="ffv1", pix_fmt="yuv420p", options=None, change=None, stamps=None):
    """Frames [H, W] or [H, W, 3] as a video, by PyAV.

    Args:
        change: called with the stream before the first frame, to set its aspect ratio, rotation …
        stamps: time stamp of each frame, in frames; None: 0, 1, 2 …
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if change:
            change(stream)
        for number, image in enumerate(frames):
            kind = "gray" if image.ndim == 2 else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=kind).reformat(format=pix_fmt)
            frame.pts = stamps[number] if stamps else number
            frame.time_base = 1 / Fraction(fps).limit_denominator(1001)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
