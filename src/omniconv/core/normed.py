# SPDX-License-Identifier: Apache-2.0
"""A batch norm and the activation behind it, in training: one step of autograd, two passes over the numbers a way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.utils.weak import WeakIdKeyDictionary

from .follow import Part, activation_code, hooked
from .native import TYPES, plain, through, watching
from .observe import current_listener
from .register import Plan  # noqa: F401  # which loads the library


@cache
def _operators() -> Any:
    operators = torch.ops.omniconv
    if not hasattr(operators, "batch_norm"):
        return None
    return operators.batch_norm.default._op, operators.batch_norm_backward.default._op  # noqa: SLF001


class Told(ABC):
    """How a tensor was computed, for a norm that computes its own step and that one's as one.

    It holds while nobody else can see the difference: the tensor and what it was computed from are as they were, and
    nobody waits for its gradient.
    """

    def __init__(self, output: Tensor, *sources: Tensor) -> None:
        self.sources = sources
        self._versions = [t._version for t in (output, *sources)]  # noqa: SLF001  # torch has no public name for it

    def holds(self, output: Tensor) -> bool:
        """Whether the step may be part of another."""
        if not torch.is_grad_enabled() or output._backward_hooks or output.retains_grad:  # noqa: SLF001
            return False
        return self._versions == [t._version for t in (output, *self.sources)]  # noqa: SLF001

    @abstractmethod
    def normed(self, norm: _WithActivation, output: Tensor) -> Tensor:
        """``norm`` and its activation of ``output``, whose gradients go to the sources."""


# Beside the tensors, not among their attributes, which are saved with them.
_told: WeakIdKeyDictionary = WeakIdKeyDictionary()


def tell(output: Tensor, told: Told) -> None:
    """Say how a tensor was computed, for as long as it lives."""
    _told[output] = told


class _WithActivation(nn.modules.batchnorm._BatchNorm):  # noqa: SLF001  # torch has no other base
    """A batch norm with an activation behind it; all else of it, its state dict too, is the norm's.

    In training on a CPU, float32 and bfloat16, both are one step: the input is kept, and nothing else of its size. Else
    each is called by itself. The step that an input comes from is part of it where somebody said which (``tell``).
    """

    activation: nn.Module | None

    def forward(self, input: Tensor) -> Tensor:
        if self._at_once(input):
            told: Told | None = _told.get(input)
            if told is not None and told.holds(input):
                return told.normed(self, input)
            return self._computed(input)
        output = super().forward(input)
        return output if self.activation is None else self.activation(output)

    def _at_once(self, input: Any) -> bool:
        if not self.training or is_dynamo_compiling() or _operators() is None or watching():
            return False
        tensors = (input, self.weight, self.bias, self._buffers.get("running_mean"), self._buffers.get("running_var"))
        if not plain(tensors) or current_listener() is not None or torch.is_autocast_enabled("cpu"):
            return False
        if input.dtype not in TYPES or input.dim() < 2 or input.numel() < 2 * input.shape[1]:
            return False
        if any(t is not None and (t.dtype is not input.dtype or not t.is_cpu) for t in tensors):
            return False
        if input.layout is not torch.strided or activation_code(self.activation) is None or hooked((self.activation,)):
            return False
        self._check_input_dim(input)
        return input.shape[1] == self.num_features and (input.is_contiguous() or input.movedim(1, -1).is_contiguous())

    def _computed(self, input: Tensor) -> Tensor:
        tensors: tuple[Tensor | None, ...] = (input, self.weight, self.bias)
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            found: Tensor = _Normed.apply(self, *tensors)
            return found
        return self.step(input)[0]

    def step(self, input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The output, and the mean and the variance of each channel, by which the running statistics are moved."""
        found: tuple[Tensor, Tensor, Tensor] = _operators()[0](input, self.weight, self.bias, self.eps, self.code())
        self._remember(input.numel() // input.shape[1], *found[1:])
        return found

    def code(self) -> int:
        """The number of its activation."""
        code = activation_code(self.activation)
        assert code is not None  # noqa: S101  # as it was asked before
        return code

    def _remember(self, count: int, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics by those of so many numbers, as torch does: the variance of one number fewer."""
        if not self.track_running_stats:
            return
        seen, running_mean, running_var = map(self._buffers.get, ("num_batches_tracked", "running_mean", "running_var"))
        if seen is not None:
            seen.add_(1)
        if running_mean is None or running_var is None:
            return
        share = self.momentum
        if share is None:
            share = 1.0 if seen is None else 1.0 / float(seen)
        running_mean.mul_(1 - share).add_(mean, alpha=share)
        running_var.mul_(1 - share).add_(variance, alpha=share * count / (count - 1))


class BatchNormActivation1d(_WithActivation, nn.BatchNorm1d):  # noqa: D101  # as its base
    __doc__ = _WithActivation.__doc__


class BatchNormActivation2d(_WithActivation, nn.BatchNorm2d):  # noqa: D101  # as its base
    __doc__ = _WithActivation.__doc__


class BatchNormActivation3d(_WithActivation, nn.BatchNorm3d):  # noqa: D101  # as its base
    __doc__ = _WithActivation.__doc__


LAYERS: dict[type, Any] = {
    nn.BatchNorm1d: BatchNormActivation1d,
    nn.BatchNorm2d: BatchNormActivation2d,
    nn.BatchNorm3d: BatchNormActivation3d,
}


def with_activation(norm: Any, activation: nn.Module | None) -> _WithActivation:
    """A layer with the very tensors of ``norm``, one of torch's, and ``activation`` behind it."""
    layer: _WithActivation = LAYERS[type(norm)](
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta"
    )
    for name, parameter in norm._parameters.items():  # noqa: SLF001
        layer.register_parameter(name, parameter)
    for name, buffer in norm._buffers.items():  # noqa: SLF001
        layer.register_buffer(name, buffer)
    layer.activation = activation
    return layer.train(norm.training)


def parts_of(layer: _WithActivation) -> tuple[nn.Module, nn.Module | None]:
    """The norm of torch's that a layer stands for, with its very tensors, and the activation behind it."""
    kind: Any = next(kind for kind, own in LAYERS.items() if type(layer) is own)
    norm = kind(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats, device="meta")
    norm._parameters.update(layer._parameters)  # noqa: SLF001
    norm._buffers.update(layer._buffers)  # noqa: SLF001
    return norm.train(layer.training), layer.activation


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, norm: _WithActivation, input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        output, mean, variance = norm.step(input)
        ctx.how = norm.eps, norm.code(), norm.activation
        ctx.save_for_backward(input, weight, bias, mean, variance)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (epsilon, code, activation), (grad,) = ctx.how, grads
        input, weight, bias, mean, variance = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() or not plain((grad, input, weight, bias)):

            def parts(*tensors: Any) -> Tensor:
                return normed_by_parts(activation, epsilon, *tensors[:3])

            found = through(parts, (input, weight, bias), None, grad, needed, graph=torch.is_grad_enabled())
            return None, *found
        gradients = _operators()[1](grad, input, weight, bias, mean, variance, epsilon, code)
        return None, *(
            gradient.to(input.dtype) if need else None for gradient, need in zip(gradients, needed, strict=True)
        )


def normed_by_parts(
    activation: Part, epsilon: float, input: Tensor, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """The norm and the activation, as torch computes them."""
    output = F.batch_norm(input, None, None, weight, bias, training=True, eps=epsilon)
    return output if activation is None else activation(output)
