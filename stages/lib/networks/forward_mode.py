"""Forward-mode differentiation of a forward pass that was recorded: cheaper than torch's own, and as exact.

Torch's formulas repeat every convolution of the forward pass and split batch norm into a dozen passes over memory. Here the
outputs of convolutions are reused, and the tangent of batch norm is one call of its backward kernel.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

# torch itself compiles the formulas of forward_ad in a way that it calls deprecated
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)


class Recorded(TorchFunctionMode):
    """Records the outputs of the convolutions that run inside it."""

    def __init__(self):
        super().__init__()
        self.outputs = []

    def __torch_function__(self, function, types, arguments=(), options=None):
        output = function(*arguments, **options or {})
        if function is torch.conv2d:
            self.outputs.append((output.detach(), output._version))
        return output


@contextmanager
def tangents(recorded: Recorded) -> Iterator[None]:
    """A level of forward mode: dual tensors (`forward_ad.make_dual`) can go through the recorded network.

    The same convolutions must run in the same order on the same values, with batch norm in training mode.
    """
    with torch.no_grad(), forward_ad.dual_level(), _Tangents(recorded):
        yield


class _Tangents(TorchFunctionMode):
    def __init__(self, recorded: Recorded):
        super().__init__()
        self.outputs = iter(recorded.outputs)

    def __torch_function__(self, function, types, arguments=(), options=None):
        own = {torch.conv2d: self.convolution, F.batch_norm: self.batch_norm}
        return own.get(function, function)(*arguments, **options or {})

    def convolution(self, image, weight, bias=None, *geometry):
        """d(x ∗ w + b) = dx ∗ w + x ∗ dw + db, beside the recorded value."""
        (image, d_image), (weight, d_weight) = (forward_ad.unpack_dual(part) for part in (image, weight))
        bias, d_bias = (None, None) if bias is None else forward_ad.unpack_dual(bias)
        output, version = next(self.outputs)
        if output._version != version:      # an in-place operation has overwritten it since
            output = torch.conv2d(image, weight, bias, *geometry)
        tangent = torch.conv2d(image, d_weight, d_bias, *geometry)
        if d_image is not None:
            tangent += torch.conv2d(d_image, weight, None, *geometry)
        return forward_ad.make_dual(output, tangent)

    def batch_norm(self, image, mean, variance, weight, bias, training, momentum, eps):
        """dy = J dx + dγ x̂ + dβ. J is symmetric in each channel, so the backward kernel, which gives Jᵀ dx, also gives J dx."""
        (image, d_image), (weight, d_weight), (bias, d_bias) = (forward_ad.unpack_dual(part) for part in (image, weight, bias))
        output, batch_mean, inverse_deviation = torch.native_batch_norm(
            image, weight, bias, mean, variance, training, momentum, eps
        )
        saved = mean, variance, batch_mean, inverse_deviation, training, eps, [True, False, False]
        d_image = d_image.contiguous(memory_format=_format(image))
        through = torch.ops.aten.native_batch_norm_backward(d_image, image, weight, *saved)
        affine = torch.native_batch_norm(image, d_weight, d_bias, None, None, True, 0.0, eps)
        return forward_ad.make_dual(output, affine[0].add_(through[0]))


def _format(image: torch.Tensor) -> torch.memory_format:
    last = image.dim() == 4 and image.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
