# SPDX-License-Identifier: Apache-2.0
"""Arguments of steps and modules as plain values: numbers, texts, and lists and dictionaries of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import fx, nn

Encoded = Any
PLAIN = (bool, int, float, str, type(None))
HOMES = ("torch.nn.modules.", "omniconv.ops.", "omniconv.core.", "omniconv.convert.accelerate.")  # of layers
BASE = frozenset(vars(nn.Module()))
# By the name of the kind: the type, how it is told in plain values, and how it is made of them.
KINDS: Mapping[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "dtype": (torch.dtype, lambda value: str(value).removeprefix("torch."), lambda told: _of_torch(told, torch.dtype)),
    "memory_format": (
        torch.memory_format,
        lambda value: str(value).removeprefix("torch."),
        lambda told: _of_torch(told, torch.memory_format),
    ),
    "device": (torch.device, str, torch.device),
    "slice": (slice, lambda value: [value.start, value.stop, value.step], lambda told: slice(*told)),
    "ellipsis": (type(...), lambda value: 0, lambda told: ...),
}


def _of_torch(name: str, kind: type) -> Any:
    found = getattr(torch, name, None)
    if not isinstance(found, kind):
        raise ValueError(f"the file asks for torch.{name}, which is no {kind.__name__}.")  # noqa: TRY004  # of the file
    return found


def encoded(value: Any) -> Encoded:
    """An argument in plain values; a step is told by its name.

    Raises:
        ValueError: it is none of what a file can hold.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, tuple):
        return {"tuple": [encoded(one) for one in value]}
    if isinstance(value, list):
        return [encoded(one) for one in value]
    if isinstance(value, dict):
        return {"dict": [[encoded(key), encoded(one)] for key, one in value.items()]}
    for name, (kind, tell, _) in KINDS.items():
        if isinstance(value, kind):
            return {name: encoded(tell(value))}
    raise ValueError(f"a {type(value).__name__} (={value!r}) cannot be saved.")


def decoded(value: Encoded, nodes: Mapping[str, fx.Node]) -> Any:
    """The argument that ``encoded`` told.

    Raises:
        ValueError: it is of no kind that is known, or names a step that is not there.
    """
    if isinstance(value, list):
        return [decoded(one, nodes) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, told),) = value.items()
    if kind == "node" and told in nodes:
        return nodes[told]
    if kind == "tuple":
        return tuple(decoded(one, nodes) for one in told)
    if kind == "dict":
        return {decoded(key, nodes): decoded(one, nodes) for key, one in told}
    if kind not in KINDS:
        raise ValueError(f"the file holds a {kind} (={told!r}), which is not known.")
    return KINDS[kind][2](decoded(told, nodes))


def encoded_module(module: nn.Module) -> dict[str, Encoded]:
    """A layer of torch or of this library in plain values, without its tensors.

    Raises:
        ValueError: it is another's, or holds what a file cannot.
    """
    home, name = type(module).__module__, type(module).__qualname__
    told: dict[str, Encoded] = {"class": [home, name]}
    arguments = getattr(module, "arguments", None)
    if home.startswith("omniconv.") and arguments is not None:
        parts = arguments()
        return told | {"arguments": {key: _part(value) for key, value in parts.items()}}
    if not home.startswith(HOMES[0]):
        raise ValueError(f"a {name} of {home} cannot be saved; only layers of torch and of omniconv can.")
    own = {key: encoded(value) for key, value in vars(module).items() if key not in BASE}
    tensors = {
        key: [list(t.shape), encoded(t.dtype)] if t is not None else None
        for key, t in (*module._parameters.items(), *module._buffers.items())  # noqa: SLF001
    }
    children = {key: encoded_module(child) for key, child in module.named_children()}
    return told | {"own": own, "tensors": tensors, "buffers": [*module._buffers], "children": children}  # noqa: SLF001


def _part(value: Any) -> Encoded:
    return {"module": encoded_module(value)} if isinstance(value, nn.Module) else encoded(value)


def decoded_module(told: dict[str, Encoded]) -> nn.Module:
    """The layer that ``encoded_module`` told, its tensors empty.

    Raises:
        ValueError: its class is no layer of torch or of this library.
    """
    home, name = told["class"]
    kind = getattr(import_module(home), name, None) if home.startswith(HOMES) else None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"the file asks for {home}.{name}, which is no layer of torch or omniconv.")  # noqa: TRY004
    if "arguments" in told:
        make: Any = getattr(kind, getattr(kind, "maker", ""), kind)
        made: nn.Module = make(**{key: _whole(value) for key, value in told["arguments"].items()})
        return made.eval()
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    vars(module).update({key: decoded(value, {}) for key, value in told["own"].items()})
    for key, shape in told["tensors"].items():
        tensor = None if shape is None else torch.empty(shape[0], dtype=decoded(shape[1], {}))
        if key in told["buffers"]:
            module.register_buffer(key, tensor)
        else:
            parameter = None if tensor is None else nn.Parameter(tensor, requires_grad=False)
            module.register_parameter(key, parameter)
    for key, child in told["children"].items():
        module.add_module(key, decoded_module(child))
    return module.eval()


def _whole(value: Encoded) -> Any:
    if isinstance(value, dict) and "module" in value:
        return decoded_module(value["module"])
    return decoded(value, {})
