# SPDX-License-Identifier: Apache-2.0
"""``PlannedLayer``: a checked plan under torch's attributes. ``ConvLayer``: with one weight and one bias."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .problem import ConvProblem
from .register import Plan

if TYPE_CHECKING:
    from typing_extensions import Self

_NUMBERS = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
    "transposed",
    "output_padding",
)


class PlannedLayer(nn.Module):
    """A module whose numbers are one problem, whatever weights it has. A subclass sets ``dim`` and makes the weights.

    The attributes of a torch convolution (``in_channels`` to ``padding_mode``) stand under the same names, as the user
    gave them, so that code that reads a torch layer reads this one. They cannot be set: the plan was made for them.
    """

    dim: ClassVar[int]
    bias: nn.Parameter | None

    def __init__(self, problem: ConvProblem, padding: Any) -> None:
        super().__init__()
        self.in_channels = problem.in_channels
        self.out_channels = problem.out_channels
        self.kernel_size = problem.kernel_size
        self.stride = problem.stride
        self.padding = padding if isinstance(padding, str) else _as_given(problem)
        self.dilation = problem.dilation
        self.groups = problem.groups
        self.padding_mode = problem.padding_mode
        self.transposed = problem.transposed
        self.output_padding = problem.output_padding or (0,) * problem.dim
        self.plan = Plan(problem)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _NUMBERS and "plan" in self.__dict__ and value != getattr(self, name):
            raise AttributeError(
                f"`{name}` (={value!r}) must stay {getattr(self, name)!r}, which the layer was planned for; use a new "
                "layer."
            )
        super().__setattr__(name, value)

    @property
    def problem(self) -> ConvProblem:
        """The numbers of this layer, without an input size."""
        return self.plan.problem

    def arguments(self) -> dict[str, Any]:
        """What the class is called with for a layer like this one, modules included; its tensors are not."""
        names = inspect.signature(type(self)).parameters.keys() - {"device", "dtype"}
        found = {name: getattr(self, name) for name in names}
        return found | {name: found[name] is not None for name in names if name.endswith("bias")}

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        if any(entry != (0, 0) for entry in self.problem.padding):
            parts.append(f"padding={self.padding!r}")
        if any(d != 1 for d in self.dilation):
            parts.append(f"dilation={self.dilation}")
        if any(self.output_padding):
            parts.append(f"output_padding={self.output_padding}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join(parts)


class ConvLayer(PlannedLayer):
    """Base of the layers with one weight and one bias. A subclass builds its problem and calls ``super().__init__``."""

    weight: nn.Parameter
    tells: Callable[..., None] | None = None  # a norm behind it how its output was computed

    def __init__(
        self,
        problem: ConvProblem,
        weight_shape: tuple[int, ...],
        padding: Any,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(problem, padding)
        self.weight = nn.Parameter(torch.empty(weight_shape, device=device, dtype=dtype))
        if problem.bias:
            self.bias = nn.Parameter(torch.empty(problem.out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    @classmethod
    def from_torch(cls, module: nn.Module, **changes: Any) -> Self:
        """A layer with the numbers and the very parameters of ``module``: nothing is copied, and both train as one.

        Args:
            module: a layer that has this class's arguments as attributes, as torch's layer of the same name does.
            changes: arguments to give instead, such as ``padding=((0, 1), (0, 1))`` where the module pads by itself.

        Raises:
            ValueError: the weights do not have the shape that the arguments ask for, or the module has a number that
                this class takes no argument for and has otherwise.
        """
        names = inspect.signature(cls).parameters.keys() - {"device", "dtype"}
        arguments = {name: getattr(module, name) for name in names if hasattr(module, name)}
        layer = cls(**(arguments | {"bias": module.bias is not None, "device": "meta"} | changes))
        for name in (name for name in _NUMBERS if name not in names and hasattr(module, name)):
            given, own = getattr(module, name), getattr(layer, name)
            if given != own and (given,) * layer.dim != own:
                raise ValueError(
                    f"`{name}` (={given!r}) of {type(module).__name__} must be {own!r} in {cls.__name__}; use a layer "
                    "that takes it."
                )
        weight: Any = module.weight
        if weight.shape != layer.weight.shape:
            raise ValueError(f"`weight` shape (={tuple(weight.shape)}) must be {tuple(layer.weight.shape)}.")
        layer.weight = weight
        layer.bias = module.bias  # type: ignore[assignment]  # a parameter or None, which only this module knows
        return layer.train(module.training)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        plan = self.__dict__.get("plan") if name == "bias" else None
        if plan is not None and plan.problem.bias != (value is not None):  # a norm folded in brings a bias
            self.plan = Plan(replace(plan.problem, bias=value is not None))

    def reset_parameters(self) -> None:
        """Draw weight and bias uniformly within 1/sqrt(fan-in), as torch does for its convolutions."""
        draw(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        own = self._parameters
        try:  # half a microsecond each is saved where nothing stands in for the parameters
            weight, bias = own["weight"], own["bias"]
        except KeyError:
            weight, bias = self.weight, self.bias
        output = self.plan(input, weight, bias)
        if self.tells is not None:
            self.tells(self, input, weight, output)
        return output


def draw(weight: Tensor, bias: Tensor | None) -> None:
    """Draw ``weight`` and ``bias`` uniformly within 1/sqrt(fan-in), where the fan-in is what one filter of it reads."""
    fan_in = math.prod(weight.shape[1:])
    bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
    nn.init.uniform_(weight, -bound, bound)
    if bias is not None:
        nn.init.uniform_(bias, -bound, bound)


def _as_given(problem: ConvProblem) -> tuple[Any, ...]:
    """Padding as torch stores it, one number per axis, or the pairs and rules where one number does not do."""
    if all(not isinstance(entry, str) and entry[0] == entry[1] for entry in problem.padding):
        return tuple(entry[0] for entry in problem.padding)
    return problem.padding
