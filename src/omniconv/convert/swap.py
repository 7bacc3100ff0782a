# SPDX-License-Identifier: Apache-2.0
"""``swap``: a model's convolutions for this library's layers, with the very same parameters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from omniconv.core.family import families
from omniconv.core.layer import ConvLayer

Rule = Callable[[nn.Module], nn.Module]

# A layer of one of these names that a family lists too is the same layer: signature, state dict and results.
NAMESPACES = ("torch.nn", "torchvision.ops")
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


@dataclass(frozen=True)
class Swap:
    """What was swapped, and what was not.

    Attributes:
        model: the model, changed in place; a new layer where the model itself was one.
        swapped: by qualified name, the class that stood there and the class that stands there now.
        left: by qualified name, why a convolution stayed as it was.
    """

    model: nn.Module
    swapped: Mapping[str, tuple[str, str]]
    left: Mapping[str, str]

    def __str__(self) -> str:
        said = [f"{len(self.swapped)} swapped, {len(self.left)} left"]
        said += [f"  {name or '(the model)'}: {old} → {new}" for name, (old, new) in self.swapped.items()]
        said += [f"  {name or '(the model)'} left: {why}" for name, why in self.left.items()]
        return "\n".join(said)


def replaceable() -> dict[type[nn.Module], type[ConvLayer]]:
    """The classes that are replaced without a rule, and by which: those that share their name with a family's layer."""
    spaces = [module for name in NAMESPACES if isinstance(module := sys.modules.get(name), ModuleType)]
    return {
        getattr(space, name): layer
        for space in spaces
        for family in families().values()
        for name in family.layers
        if isinstance(getattr(space, name, None), type)
        and issubclass(layer := getattr(family.part("layer"), name), ConvLayer)
    }


def swap(model: nn.Module, rules: Mapping[type[nn.Module], Rule] | None = None) -> Swap:
    """Replace every convolution of ``model`` by this library's layer with the same parameters.

    Parameters are handed over, not copied: names, values, gradients, devices, dtypes and flags stay, optimizers go on
    working, and a state dict loads as before. A module that stands in several places is swapped once. Swapped are
    modules whose class is exactly torch's (or torchvision's, where that is imported), and those with a rule. A subclass
    may compute something else, and a hook may hold on to the old module, so these stay and are reported.

    Args:
        model: changed in place, unless it is itself a convolution.
        rules: for other classes, exactly matched: a function from the module to its replacement, which must have the
            same state dict. ``Conv2d.from_torch(module, padding=…)`` builds one from a subclass that pads by itself.

    Raises:
        TypeError: ``model`` is no module, or a rule is none or returns none.
        ValueError: a replacement has another state dict. The model is then as it was.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 1))
        >>> print(swap(net))
        2 swapped, 0 left
          0: Conv2d → Conv2d
          2: Conv2d → Conv2d
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` (={type(model).__name__}) must be an nn.Module.")
    given: Mapping[Any, Any] = rules or {}
    for key, rule in given.items():
        if not (isinstance(key, type) and callable(rule)):
            raise TypeError(f"`rules` entry (={key!r}) must lead from a class to a function of a module.")
    known = replaceable()
    chosen: dict[int, nn.Module] = {}
    swapped: dict[str, tuple[str, str]] = {}
    left: dict[str, str] = {}
    for name, module in model.named_modules():
        if any(name.startswith(f"{outer}.") for outer in swapped):
            continue
        new, why = replacement(name, module, known, given)
        if new is not None:
            chosen[id(module)], swapped[name] = new, (type(module).__name__, type(new).__name__)
        elif why:
            left[name] = why
    for parent, name, new in list(_places(model, chosen)):
        parent.add_module(name, new)
    return Swap(chosen.get(id(model), model), swapped, left)


def _places(model: nn.Module, chosen: Mapping[int, nn.Module]) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Parent and name of every place, shared modules included, with what is to stand there."""
    for path, module in model.named_modules(remove_duplicate=False):
        outer, _, name = path.rpartition(".")
        if path and id(module) in chosen:
            yield model.get_submodule(outer), name, chosen[id(module)]


def replacement(
    name: str, module: nn.Module, known: Mapping[type, type[ConvLayer]], rules: Mapping[type[nn.Module], Rule]
) -> tuple[nn.Module | None, str]:
    """What replaces a module, or why a convolution is left as it is ("" where it is no convolution)."""
    rule = rules.get(type(module))
    if rule is not None:
        return _checked(name, module, rule(module)), ""
    why = refusal(module, known)
    if why or type(module) not in known:
        return None, why
    try:
        layer = known[type(module)].from_torch(module)
    except (TypeError, ValueError) as error:
        return None, str(error)
    for key, value in vars(module).items():
        if not key.startswith("_") and key not in vars(layer):
            setattr(layer, key, value)
    return layer, ""


def refusal(module: nn.Module, known: Mapping[type, type[ConvLayer]]) -> str:
    """Why a convolution is left as it is, or "" where it is not left, or is none."""
    kind = type(module)
    if kind not in known:
        base = next((k for k in known if isinstance(module, k)), None)
        if base is None:
            return ""
        if any(is_lazy(p) for p in module.parameters()):
            return "it has not seen its input yet; run the model once"
        return f"its class {kind.__name__} may compute something else than {base.__name__}; give a rule for it"
    if awaited(module):
        return "it has hooks, which may hold on to it; remove them first"
    if "forward" in vars(module):
        return "its forward was replaced on the instance; give a rule for it"
    held = {name for name, _ in (*module.named_parameters(), *module.named_buffers(), *module.named_children())}
    if held - {"weight", "bias"} or "weight" not in held:
        return f"it holds {', '.join(sorted(held)) or 'no weight'} where weight and bias are expected"
    return ""


def awaited(module: nn.Module) -> bool:
    """Whether someone waits for its calls, or for its state dict to be read or written."""
    return any(getattr(module, hooks, None) for hooks in _HOOKS)


def _checked(name: str, module: nn.Module, new: object) -> nn.Module:
    if not isinstance(new, nn.Module):
        raise TypeError(f"`rules` for {type(module).__name__} gave {type(new).__name__} for {name!r}; return a module.")
    before, after = module.state_dict().keys(), new.state_dict().keys()
    if before != after:
        raise ValueError(
            f"`rules` for {type(module).__name__} gave a module with entries {', '.join(after)} for {name!r}, "
            f"which had {', '.join(before)}; keep their names."
        )
    return new
