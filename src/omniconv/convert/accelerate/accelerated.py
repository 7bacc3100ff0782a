# SPDX-License-Identifier: Apache-2.0
"""``accelerate``: a trained network made faster, proved to give the same outputs."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from .finding import ORDERS, Finding
from .kept import tensors_of
from .report import Report
from .saving import saved, write
from .training import apart, for_training

LAYOUTS = ("auto", *ORDERS)


class Accelerated(nn.Module):
    """A network made faster, for inference; called as the network that it was made from.

    Attributes:
        network: what runs.
        report: what was changed, and what was not.
    """

    def __init__(self, network: nn.Module, report: Report | dict[str, Any], signature: inspect.Signature) -> None:
        super().__init__()
        self.network, self.report = network, report
        self.__signature__ = signature
        super().train(mode=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.network(*args, **kwargs)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the network to a file, which :func:`omniconv.load` reads without the code that it was made from.

        Args:
            path: of the file.
            overwrite: whether a file that is there may be lost.

        Raises:
            ValueError: it has a part that only its own code computes; ``report.opaque`` names it.
            FileExistsError: there is such a file.
        """
        report = self.report if isinstance(self.report, dict) else self.report.to_dict()
        write(path, saved(self.network, self.__signature__, report), overwrite=overwrite)

    def train(self, mode: bool = True) -> Accelerated:
        """Raise if training is asked for: norms are part of the weights here."""
        if mode:
            raise RuntimeError(
                "an accelerated network computes inference only: its norms are part of its weights. Train the network "
                "it was made from and accelerate that again, or use accelerate(model, …, training=True)."
            )
        return self


def accelerate(
    model: nn.Module,
    example_input: Any,
    *,
    training: bool = False,
    layout: str = "auto",
    seconds: float = 1.0,
    verify: bool = True,
) -> Any:
    """A copy of ``model`` that gives the same outputs faster, for inference; or one that trains faster.

    Batch norms, and factors and shifts of channels, become part of the weights before them. A convolution with its
    bias, activation and what is added, a depthwise with a pointwise one, and an inverted residual are each one call;
    weights are packed once; the whole network computes in one layout. What cannot be done exactly is left as it is,
    with the reason. Each change is proved against float64 on the example, the whole on random inputs and other sizes
    too.

    For training no step is folded into another's weights: convolutions, and batch norms with the activations behind
    them, are exchanged for layers that compute the same forward and backward. Outputs, gradients and running
    statistics of a step with the example are proved.

    Args:
        model: any module; it is copied, and computes as in ``eval()``.
        example_input: what the model is called with: a tensor, a tuple of positional arguments, or a dictionary of
            named ones. Others of its kind, of another size or batch, are computed right as well.
        training: whether the copy is to be trained.
        layout: ``"channels last"``, ``"in order"``, or ``"auto"``: whichever is faster with the example.
        seconds: how long to time, before and after; 0 leaves times out, and the layout is then channels last.
        verify: whether to prove the changes and the whole.

    Returns:
        A module with the same signature, whose ``report`` says what was changed and what was not. For training it is
        of the model's class, in ``train()``, with the model's state dict; make the optimizer of its parameters.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: the model does not take the example, or has not seen its input yet, or ``layout`` is none of the
            three; ``training`` with a layout, or of a model that has a ``report`` of its own.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()).eval()
        >>> fast = accelerate(net, torch.randn(1, 3, 32, 32), seconds=0)
        >>> len(fast.report.changes)
        1
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` (={type(model).__name__}) must be an nn.Module.")
    if layout not in LAYOUTS:
        raise ValueError(f"`layout` (={layout!r}) must be one of {', '.join(map(repr, LAYOUTS))}.")
    lazy = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if is_lazy(tensor)]
    if lazy:
        raise ValueError(f"`model` has not seen its input yet ({', '.join(lazy)}); run it once.")
    args, kwargs = _arguments(example_input)
    if training:
        if layout != "auto":
            raise ValueError(f"`layout` (={layout!r}) is of inference; convert the model and what it is trained on.")
        if hasattr(model, "report"):
            raise ValueError("`model` has an attribute `report`, where training=True puts its own; rename it.")
        with torch.inference_mode(mode=False), torch.enable_grad():
            trained, said = for_training(_copied(model), args, kwargs, seconds, verify=verify)
        trained.report = said  # type: ignore[assignment]  # a module takes any attribute
        return trained
    with torch.inference_mode(mode=False):  # whose tensors count no changes
        network, report = Finding(_for_inference(model), args, kwargs, layout, seconds, verify=verify).run()
    return Accelerated(network, report, inspect.signature(model.forward))


def _copied(model: nn.Module) -> nn.Module:
    """A copy; tensors that were computed, such as norms of weights, are copied as they are."""
    computed = {id(tensor): tensor.detach().clone() for tensor in tensors_of(model) if not tensor.is_leaf}
    return copy.deepcopy(model, computed)


def _for_inference(model: nn.Module) -> nn.Module:
    own = _copied(model).eval()
    apart(own)
    for parameter in own.parameters():
        if parameter.is_leaf:  # a script's are not
            parameter.requires_grad_(False)
    return own


def _arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example), {}) if isinstance(example, tuple | list) else ((example,), {})
