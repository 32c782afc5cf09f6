"""Convolution whose gradient is differentiated by convolutions of the same kind as its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Shape:
    """How a convolution goes over its inputs; one number for each axis of an image."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int

    def run(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Convolve."""
        still = [0] * len(self.stride)
        return torch.convolution(
            inputs, weight, bias, self.stride, self.padding, self.dilation, False, still, self.groups
        )

    def gradients(
        self, gradient: Tensor, inputs: Tensor, weight: Tensor, asked: Sequence[bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients by inputs, weight and bias that are asked for, from that of the output."""
        still = [0] * len(self.stride)
        found: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
            gradient, inputs, weight, [weight.shape[0]], self.stride, self.padding, self.dilation, False, still,
            self.groups, list(asked),
        )  # fmt: skip
        return found


def convolution(inputs: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape) -> Tensor:
    """Convolve (batch, channels, ...) with (channels out, channels / groups, ...).

    The same values and gradients as torch's, whose kernels it runs; torch differentiates the weight's gradient by
    convolutions whose kernels are as large as the images.
    """
    output: Tensor = _Forward.apply(inputs, weight, bias, shape)
    return output


class _Forward(torch.autograd.Function):
    """y = x * w + b."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.shape = shape
        return shape.run(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        asked = ctx.needs_input_grad[:3]
        return (*_Backward.apply(gradients[0], *ctx.saved_tensors, ctx.shape, asked), None)


class _Backward(torch.autograd.Function):
    """∂x, ∂w and ∂b of the gradient g of y; ∂x is linear in g and w, ∂w in g and x."""

    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, inputs: Tensor, weight: Tensor, shape: Shape, asked: Sequence[bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gradient, inputs, weight)
        ctx.shape = shape
        return shape.gradients(gradient, inputs, weight, asked)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *above: Tensor | None) -> tuple[Tensor | None, ...]:
        """Differentiate Σ v ∂x + Σ u ∂w + Σ q ∂b, with v, u and q from above, by g, x and w."""
        gradient, inputs, weight = ctx.saved_tensors
        along, on_weight, on_bias = above
        of_gradient = torch.zeros_like(gradient)
        if along is not None:
            of_gradient = ctx.shape.run(along, weight)
        if on_weight is not None:
            of_gradient = of_gradient + ctx.shape.run(inputs, on_weight)
        if on_bias is not None:
            of_gradient = of_gradient + on_bias.view(-1, *[1] * (gradient.dim() - 2))
        # Σ u ∂w is the convolution's value with u for w, weighed by g; so is Σ v ∂x with v for x.
        asked = (on_weight is not None, along is not None, False)
        of_inputs, of_weight, _ = ctx.shape.gradients(
            gradient, inputs if along is None else along, weight if on_weight is None else on_weight, asked
        )
        return of_gradient, of_inputs, of_weight, None, None
