# SPDX-License-Identifier: Apache-2.0
"""A network with faster layers for training: the same parameters and the same sums, no step folded into weights."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from omniconv.analysis.timing import interleaved
from omniconv.convert.swap import awaited, swap
from omniconv.core.chain import Link, Rewrite
from omniconv.core.family import families
from omniconv.core.follow import activation_code, hooked
from omniconv.core.keeping import KeptMemory
from omniconv.core.layer import ConvLayer, PlannedLayer
from omniconv.core.normed import LAYERS, parts_of, with_activation

from .proof import ROUNDINGS, TIMES, Distance, distance, widened
from .report import Entry, Report

SEED = 20170412
TRIALS = 5
NEAR = 1e-3  # as a share of each number
LEAST_LENGTH = 1e-3  # of a gradient, of those of all parameters in the mean
# By the name of layers that drop, the chance that they do: torch's, torchvision's and timm's.
CHANCES = {
    "Dropout": ("p",),
    "AlphaDropout": ("p",),
    "FeatureAlphaDropout": ("p",),
    "StochasticDepth": ("p",),
    "DropPath": ("drop_prob",),
}
WHY = {
    "convolution": "the same convolution with the very same parameters",
    "norm": "the same statistics of the batch, then the same operations in the same order, in two passes",
    "linear": "the same sums of the same products with the very same parameters",
}
HOW = {
    "convolution": "compiled kernels forward and backward",
    "norm": "norm and activation are one step of autograd, a pointwise convolution before them, if there is one, too",
    "linear": "where it is large, map and activation are one step of autograd, of compiled kernels and torch's BLAS",
}


def for_training(
    own: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], seconds: float, *, verify: bool
) -> tuple[nn.Module, Report]:
    """``own``, a copy of the model, in training, and what is to be said of it.

    Raises:
        ValueError: the model does not take the example.
    """
    own.train()
    for takes in (True, False):  # a forward may read what is between a norm and the activation that it took along
        network, changes, left = exchanged(copy.deepcopy(own), takes=takes)
        whole, wrong = _proved(own, network, args, kwargs) if changes and verify else ({}, "")
        if not wrong or all(len(entry.steps) == 1 for entry in changes):
            break
    said: dict[str, Any] = {"left": left}
    if not changes:
        return own, Report(refused="there is nothing in it that could be faster", **said)
    if wrong:
        return own, Report(refused=f"the whole was not proved: {wrong}", whole=whole, **said)
    network._kept_memory = KeptMemory()  # type: ignore[assignment]  # noqa: SLF001  # a module takes any attribute
    times = {}
    if seconds > 0:
        steps = {"before": _step(own, args, kwargs), "after": _step(network, args, kwargs)}
        times = interleaved(steps, seconds=seconds, settle_seconds=0.02)
    return network, Report(tuple(changes), whole=whole, times=times, **said)


def _said(name: str, found: Distance) -> str:
    return f"{name}: {found.ours:.1e}, allowed {found.allowed:.1e}"


def _proved(
    own: nn.Module, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[dict[str, Distance], str]:
    """How far a step is, and what is wrong with it, or ""."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            whole = compared(own, network, args, kwargs)
        except _ExampleError as error:
            raise ValueError(f"`example_input` is not what the model takes: {error}") from error
        except _CopyError as error:
            return {}, f"the faster one raised {error}"
    return whole, next((_said(name, found) for name, found in whole.items() if not found.holds), "")


def exchanged(network: nn.Module, *, takes: bool = True) -> tuple[nn.Module, list[Entry], dict[str, str]]:
    """Put faster layers into ``network``, which keeps its state dict; it, what was put, and why a convolution was left.

    A batch norm or a linear map ``takes`` the activation behind it along where an ``nn.Sequential`` says that nothing
    else reads it. One that stands in several places is exchanged by one layer. Convolutions tell norms behind them how
    they were computed, where a family says that a norm can make use of it.
    """
    swapped = swap(network)
    network = swapped.model
    same = WHY["convolution"], HOW["convolution"]
    entries = [Entry((name,), new, *same) for name, (_, new) in swapped.swapped.items()]
    places = Counter(id(module) for parent in network.modules() for module in _steps(parent).values())
    made: dict[int, nn.Module | None] = {}
    for path, parent in list(network.named_modules()):
        if isinstance(parent, PlannedLayer):  # whose norm is part of its own call
            continue
        for name, module in _steps(parent).items():
            kind = "norm" if type(module) in LAYERS else "linear" if type(module) is nn.Linear else ""
            if not kind or awaited(module) or hooked((module,)):
                continue
            activation = _behind(parent, name) if takes and places[id(module)] == 1 else ""
            if id(module) not in made:
                own = parent.get_submodule(activation) if activation else None
                made[id(module)] = with_activation(module, own) if kind == "norm" else _linear(module, own)
            layer = made[id(module)]
            if layer is None:
                continue
            _hand_over(module, layer)
            parent.add_module(name, layer)
            if activation:
                parent.add_module(activation, nn.Identity())
            steps = tuple(f"{path}.{step}" if path else step for step in (name, activation) if step)
            entries.append(Entry(steps, type(layer).__name__, WHY[kind], HOW[kind]))
    _let_tell(network)
    return network, entries, dict(swapped.left)


def _steps(parent: nn.Module) -> dict[str, nn.Module]:
    """Its modules by name, those too that stand in several places."""
    return {name: module for name, module in parent._modules.items() if module is not None}  # noqa: SLF001


def _linear(module: nn.Module, activation: nn.Module | None) -> nn.Module | None:
    """A layer of this library with the very parameters of ``module``, and ``activation`` behind it."""
    for family in families().values():
        offer = family.part("rewrites").rewrite([Link(module, activation)]) if family.rewrites else ""
        if isinstance(offer, Rewrite):
            return offer.module.train(module.training)
    return None


def _hand_over(module: nn.Module, layer: nn.Module) -> None:
    """What others wrote to ``module``."""
    for name, value in vars(module).items():
        if name not in vars(layer):
            setattr(layer, name, value)


def _behind(parent: nn.Module, name: str) -> str:
    """The name of the activation that alone reads a step of a sequence, or ""."""
    if not isinstance(parent, nn.Sequential) or type(parent).forward is not nn.Sequential.forward:
        return ""
    following = dict(pairwise(_steps(parent))).get(name, "")
    activation = _steps(parent).get(following)
    return following if activation_code(activation) and not hooked((activation,)) else ""


def _let_tell(network: nn.Module) -> None:
    offers = [getattr(family.part("rewrites"), "telling", None) for family in families().values() if family.rewrites]
    for layer in network.modules():
        if isinstance(layer, ConvLayer):
            for tells in filter(None, (offer(layer) for offer in offers if offer)):
                layer.tells = tells


def apart(network: nn.Module) -> None:
    """Put the layers of torch that it was made from in the places of those for training, activations behind them."""
    for parent in list(network.modules()):
        for name, layer in _steps(parent).items():
            if type(layer) in LAYERS.values():
                plain, activation = parts_of(layer)  # type: ignore[arg-type]  # as its type says
            elif isinstance(layer, nn.Linear) and type(layer).__module__.startswith("omniconv."):
                plain, activation = _torchs_linear(layer), layer.activation  # type: ignore[assignment]  # as ours has it
            else:
                continue
            following = dict(pairwise(_steps(parent))).get(name, "")
            if activation is None:
                parent.add_module(name, plain)
            elif isinstance(parent, nn.Sequential) and type(_steps(parent).get(following)) is nn.Identity:
                parent.add_module(name, plain)
                parent.add_module(following, activation)
            elif isinstance(activation, nn.Module):
                parent.add_module(name, nn.Sequential(plain, activation))


def _torchs_linear(layer: nn.Linear) -> nn.Linear:
    plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    plain.weight, plain.bias = layer.weight, layer.bias
    return plain.train(layer.training)


class _ExampleError(Exception):
    """The model does not take the example."""


class _CopyError(Exception):
    """The copy with faster layers does not take what the model does."""


def compared(own: nn.Module, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Distance]:
    """How far a training step is from float64: outputs with what the step leaves in buffers, and gradients.

    Where rounding moves a number across the bend of an activation, gradients jump, in the original as in the copy but
    not in the same places. What is wrong is so at every input; so of some inputs, the first the ones given and the
    others near them, the one counts where gradients are nearest to what is allowed.
    """
    found = [_compared(own, network, args, kwargs)]
    for trial in range(1, TRIALS):
        if found[-1][1].holds:
            break
        found.append(_compared(own, network, *_near((args, kwargs), trial)))
    nearest = min((gradients for _, gradients in found), key=lambda one: one.ours / one.allowed)
    return {"outputs and statistics": found[0][0], "gradients, of their lengths": nearest}


def _compared(own: nn.Module, network: nn.Module, args: Any, kwargs: Any) -> tuple[Distance, Distance]:
    own, twin, network = (_without_chance(copy.deepcopy(one)) for one in (own, own, network))
    theirs = _trained(own, args, kwargs)
    exact = _trained(twin.double(), *widened((args, kwargs)))
    try:
        ours = _trained(network, args, kwargs)
    except _ExampleError as error:
        raise _CopyError(str(error)) from error
    far = _altogether(exact[1], theirs[1]), _altogether(exact[1], ours[1])
    eps = max((torch.finfo(gradient.dtype).eps for gradient in theirs[1].values()), default=0.0)
    gradients = Distance(far[1], far[0], TIMES * far[0] + ROUNDINGS * eps, 1.0)
    return distance(exact[::2], theirs[::2], ours[::2]), gradients


def _near(values: Any, trial: int) -> Any:
    """The floating tensors of ``values``, each number moved by up to a share of itself."""
    chance = torch.Generator().manual_seed(SEED + trial)

    def moved(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return leaf
        shares = 1 + NEAR * (2 * torch.rand(leaf.shape, generator=chance) - 1)
        return leaf.detach() * shares.to(leaf)

    return pytree.tree_map(moved, values)


def _altogether(exact: dict[str, Tensor], found: dict[str, Tensor]) -> float:
    """The root of the mean of the squares, over parameters, of each distance in shares of the gradient's length."""
    if exact.keys() != found.keys():
        return float("inf")
    lengths = torch.stack([gradient.double().norm() for gradient in exact.values()])
    least = LEAST_LENGTH * lengths.square().mean().sqrt()  # that of a bias before a norm is 0
    far = torch.stack([(found[name].double() - gradient).norm() for name, gradient in exact.items()])
    shares = far / lengths.clamp(min=float(least))
    return float(shares.square().mean().sqrt().nan_to_num(nan=float("inf")))


def _without_chance(model: nn.Module) -> nn.Module:
    """The model, which drops nothing: what it would drop in float64 is drawn otherwise."""
    for module in model.modules():
        for name in CHANCES.get(type(module).__name__.rstrip("123d"), ()):
            setattr(module, name, 0.0)
    return model


def _trained(model: nn.Module, args: Any, kwargs: Any) -> Any:
    torch.manual_seed(SEED)
    try:
        output = model(*_own(args), **_own(kwargs))
    except Exception as error:
        raise _ExampleError(f"{type(error).__name__}: {error}") from error
    if not any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in pytree.tree_leaves(output)):
        raise _ExampleError("nothing that it returns has a gradient")
    _loss(output).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    return pytree.tree_map(_apart, (output, gradients, buffers))


def _loss(output: Any) -> Tensor:
    """A sum in which every number of the output has a weight of its own."""
    tensors = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
    weights = [torch.linspace(-1, 1, leaf.numel(), dtype=leaf.dtype, device=leaf.device) for leaf in tensors]
    return torch.stack([(leaf.flatten() * weight).sum() for leaf, weight in zip(tensors, weights, strict=True)]).sum()


def _step(model: nn.Module, args: Any, kwargs: Any) -> Callable[[], None]:
    model = copy.deepcopy(model)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        _loss(model(*_own(args), **_own(kwargs))).backward()

    return step


def _own(values: Any) -> Any:
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, values)


def _apart(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
