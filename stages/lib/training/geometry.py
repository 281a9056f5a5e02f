"""Geometry of semantic views: for each pixel of a view, the point of the frame that it shows.

Points are [B, H, W, 2], 0…1 from left and top. A fan is a piece of a ring: apex_x, apex_y, half_angle, near, far, in sides of
the square frame (stages/lib/clips/fan.py).
"""

import torch

LINEAR = 0.01  # half angle of a linear probe, as in stages/lib/clips/fan.py
EDGE = 0.03    # tissue this far outside the fan is still shown, as a fraction of the fan's width and depth


def cropped(boxes: torch.Tensor, flips: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The points that the pixels of a crop show after it was resized to the frame's size."""
    across, down = ((torch.arange(points, device=boxes.device) + 0.5) / points for points in (size[1], size[0]))
    across = torch.where(flips[:, None], across.flip(0), across)                                # B x W
    x = (boxes[:, :1] + boxes[:, 2:3] * across) / size[1]
    y = (boxes[:, 1:2] + boxes[:, 3:] * down) / size[0]
    return torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)


def affine(points: torch.Tensor, rotation: torch.Tensor, shear: torch.Tensor) -> torch.Tensor:
    """The points of the frame before rotation and shear, for points after it; angles [B] as in torchvision."""
    x, y = (points - 0.5).unbind(-1)
    cos, sin, tan = (value[:, None, None] for value in (rotation.cos(), rotation.sin(), shear.tan()))
    x, y = cos * x + sin * y, cos * y - sin * x
    return torch.stack([x + tan * y, y], -1) + 0.5


def other_fan(fan: torch.Tensor, opening: torch.Tensor, changed: torch.Tensor, convex: torch.Tensor) -> torch.Tensor:
    """The fan [B, 5] as another probe shows it, of the same size and at the same place in the square.

    Args:
        fan: apex_x, apex_y, half_angle, near, far, in sides of the square.
        opening: factor of the half angle, [B].
        changed: whether linear becomes convex, or convex linear, [B]; the width at half depth stays.
        convex: half angle of the convex probe that replaces a linear one, [B].
    """
    apex_x, apex_y, angle, near, far = fan.unbind(1)
    depth, arc = far - near, angle * (near + far) / 2
    other = torch.where(changed, torch.where(angle > 2 * LINEAR, LINEAR, convex), angle)
    near = torch.where(changed, (arc / other - depth / 2).clamp(min=0.02), near)
    wide = (other * opening).clamp(max=1.4)
    scale = _extent(angle, fan[:, 3], far) / _extent(wide, near, near + depth)
    near, depth = near * scale, depth * scale
    middle = apex_y + (fan[:, 3] * angle.cos() + far) / 2
    other = torch.stack([apex_x, middle - (near * wide.cos() + near + depth) / 2, wide, near, near + depth], 1)
    return torch.where((changed | (opening != 1))[:, None], other, fan)    # as it is to the last bit, for `as_shown`


def _extent(angle: torch.Tensor, near: torch.Tensor, far: torch.Tensor) -> torch.Tensor:
    """The longer side of the box around a fan."""
    return torch.maximum(2 * far * angle.sin(), far - near * angle.cos())


def as_shown(points: torch.Tensor, fan: torch.Tensor, shown_fan: torch.Tensor, depth_scale: torch.Tensor) -> torch.Tensor:
    """The points of a frame with `fan` that correspond to points of a view with `shown_fan`, both [B, 5].

    Points correspond if they have the same beam (as a fraction of the half angle) and the same depth (as a fraction of the
    depth shown, times depth_scale [B]). Points outside the shown fan get a place outside the frame, which is black.
    """
    apex_x, apex_y, angle, near, far = shown_fan[:, :, None, None].unbind(1)
    across, along = points[..., 0] - apex_x, points[..., 1] - apex_y
    beam = torch.atan2(across, along) / angle
    shown = (torch.hypot(across, along) - near) / (far - near)
    depth = shown * depth_scale[:, None, None]
    inside = (beam.abs() <= 1 + EDGE) & (shown >= -EDGE) & (torch.maximum(shown, depth) <= 1 + EDGE)
    apex_x, apex_y, angle, near, far = fan[:, :, None, None].unbind(1)
    reach = near + depth * (far - near)
    found = torch.stack([apex_x + reach * (beam * angle).sin(), apex_y + reach * (beam * angle).cos()], -1)
    same = (fan == shown_fan).all(1) & (depth_scale == 1)
    known = fan.isfinite().all(1) & ~same
    return torch.where(known[:, None, None, None], torch.where(inside[..., None], found, 2.0), points)
