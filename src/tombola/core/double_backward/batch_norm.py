"""BatchNorm by batch statistics whose gradient is differentiated in few passes over the activations."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def batch_norm(inputs: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Normalise (batch, channels, ...) by its own mean and variance in each channel, then scale and shift.

    The same values and gradients as torch's, whose kernels it runs; torch differentiates the gradient in dozens of
    passes, which take longer than the convolutions. weight, bias: (channels,).
    """
    if inputs.numel() == inputs.shape[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {inputs.shape}")
    output: Tensor = _Forward.apply(inputs, weight, bias, epsilon)
    return output


class _Forward(torch.autograd.Function):
    """y = γ x̂ + β, with x̂ = (x - mean) r and r = 1/sqrt(variance + ε)."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        output, mean, scale = torch.native_batch_norm(inputs, weight, bias, None, None, True, 0.0, epsilon)
        ctx.save_for_backward(inputs, weight, mean, scale)
        ctx.epsilon = epsilon
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (*_Backward.apply(gradients[0], *ctx.saved_tensors, ctx.epsilon), None)


class _Backward(torch.autograd.Function):
    """∂x = γ r (g - mean g - x̂ mean(g x̂)), ∂γ = Σ g x̂ and ∂β = Σ g, for the gradient g of y."""

    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, inputs: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        found = _gradients(gradient, inputs, weight, mean, scale, epsilon)
        ctx.save_for_backward(gradient, inputs, weight, mean, scale, *found[1:])
        ctx.epsilon = epsilon
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate Σ v ∂x + Σ p ∂γ + Σ q ∂β, with v, p and q from above, by g, x and γ."""
        gradient, inputs, weight, mean, scale, by_weight, by_bias = ctx.saved_tensors
        along, on_scaled, on_plain = above
        count = inputs.numel() // inputs.shape[1]
        # ∂x is linear and symmetric in g: differentiated by g along v, it is the same function of v.
        of_gradient, scaled, plain = _gradients(along, inputs, weight, mean, scale, ctx.epsilon)
        along_mean, along_scaled, mean_of, scaled_of = (sums / count for sums in (plain, scaled, by_bias, by_weight))
        product = _channel_means(along * gradient) - along_mean * mean_of
        factor = on_scaled * scale
        of_gradient = of_gradient.addcmul(inputs, _row(factor, inputs)).add_(_row(on_plain - mean * factor, inputs))
        # By x: through x̂, in Σ v ∂x and in Σ p ∂γ, and through the r that is a factor of ∂x.
        outer = weight * scale.square()
        on_inputs = -scale * (outer * (product - 3 * along_scaled * scaled_of) + factor * scaled_of)
        shift = outer * (along_mean * scaled_of + along_scaled * mean_of) - factor * mean_of - mean * on_inputs
        of_inputs = along * _row(-outer * scaled_of, inputs)
        of_inputs.addcmul_(gradient, _row(factor - outer * along_scaled, inputs))
        of_inputs.addcmul_(inputs, _row(on_inputs, inputs)).add_(_row(shift, inputs))
        of_weight = count * scale * (product - along_scaled * scaled_of)
        return of_gradient.to(gradient.dtype), of_inputs.to(inputs.dtype), of_weight, None, None, None


def _gradients(
    gradient: Tensor, inputs: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by x, γ and β, by torch's kernel."""
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        gradient, inputs, weight, None, None, mean, scale, True, epsilon, [True, True, True]
    )
    return found


def _channel_means(tensor: Tensor) -> Tensor:
    """Return the means over everything but the channels; over the batch first, which lies evenly in memory."""
    return tensor.mean(0).flatten(1).mean(1) if tensor.dim() > 2 else tensor.mean(0)


def _row(values: Tensor, like: Tensor) -> Tensor:
    """Lay (channels,) out as one sample of `like` lies in memory: arithmetic with it then runs along memory."""
    row = values.view(1, -1, *[1] * (like.dim() - 2)).expand(1, *like.shape[1:])
    return torch.empty_like(like[:1], dtype=values.dtype).copy_(row)
