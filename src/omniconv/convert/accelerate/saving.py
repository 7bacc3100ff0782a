# SPDX-License-Identifier: Apache-2.0
"""Accelerated networks as files: steps, numbers and weights, which ``torch.load(…, weights_only=True)`` reads.

No code is in a file, and none is run but operators of torch's that compute tensors from tensors and numbers, and the
layers of torch and of this library. What reads or writes files, or reaches the memory of a tensor, is refused.
"""

from __future__ import annotations

import inspect
import math
import operator
import os
from pathlib import Path
from types import BuiltinFunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from omniconv import __version__
from omniconv.report.files import write_by

from . import layout
from .encoding import decoded, decoded_module, encoded, encoded_module
from .replayed import Replayed

FORMAT, VERSION = "omniconv accelerated network", 1
# Where functions of steps are looked for; of torch's own only those of tensors, which are no Python.
PLACES: dict[str, Any] = {
    "operator": operator,
    "math": math,
    "torch.nn.functional": F,
    "torch._C._nn": torch._C._nn,  # noqa: SLF001  # where torch keeps gelu and the like
    "omniconv.convert.accelerate.layout": layout,
}
# Methods of tensors beside operators
METHODS = {
    *("bfloat16", "bool", "byte", "char", "double", "float", "half", "int", "long", "short", "cpu", "type"),
    *("dim", "ndimension", "nelement", "numel", "size", "stride"),
}
CALL = getattr(operator, "call", None)  # of Python 3.11, which would call whatever it is given
GETATTR, ASSERT = "getattr", "torch._assert"
PARAMETERS: tuple[Any, ...] = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.KEYWORD_ONLY,
    inspect.Parameter.VAR_KEYWORD,
)


def saved(network: nn.Module, signature: inspect.Signature, report: dict[str, Any]) -> dict[str, Any]:
    """An accelerated network as plain values and tensors.

    Raises:
        ValueError: it has a part that only its own code computes.
    """
    if not isinstance(network, Replayed):
        raise ValueError(  # noqa: TRY004  # the caller gave no type
            "the network runs as it was, or has modules that were not looked into, which only their own code computes: "
            "report.refused and report.opaque say which; accelerate it where it is loaded."
        )
    graph = network.graph
    steps, modules = [], {}
    for node in graph.graph.nodes:
        target = node.target
        if node.op == "call_module":
            modules[str(target)] = encoded_module(graph.get_submodule(str(target)))
        elif node.op == "call_function":
            target = _name_of(target)
        steps.append([node.name, node.op, str(target), encoded(node.args), encoded(node.kwargs)])
    given = signature.parameters.values()
    parameters = [[p.name, int(p.kind), [] if p.default is p.empty else [encoded(p.default)]] for p in given]
    return {
        "format": FORMAT,
        "version": VERSION,
        "omniconv": __version__,
        "signature": parameters,
        "steps": steps,
        "modules": modules,
        "state": {name: tensor.detach() for name, tensor in _tensors(graph).items()},
        "report": report,
    }


def _tensors(graph: fx.GraphModule) -> dict[str, torch.Tensor]:
    """Of every module, whether its state dict has them or not."""
    return dict(graph.named_parameters(remove_duplicate=False)) | dict(graph.named_buffers(remove_duplicate=False))


def write(path: str | os.PathLike[str], content: dict[str, Any], *, overwrite: bool = False) -> None:
    """Write what ``saved`` returned.

    Raises:
        FileExistsError: there is such a file, and it is not to be overwritten.
    """
    write_by(Path(path), lambda part: torch.save(content, part), overwrite=overwrite)


def load(path: str | os.PathLike[str]) -> Any:
    """An accelerated network from a file that its ``save`` wrote; none of the code that it was made from is needed.

    Args:
        path: of the file.

    Returns:
        The network, an :class:`Accelerated`, whose ``report`` is a dictionary.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, or a newer version's.

    Example:
        >>> import torch, tempfile, os
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> x = torch.randn(1, 3, 8, 8)
        >>> fast = omniconv.accelerate(net, x, seconds=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fast.save(os.path.join(folder, "net.pt"))
        ...     again = omniconv.load(os.path.join(folder, "net.pt"))
        >>> torch.equal(again(x), fast(x))
        True
    """
    from .accelerated import Accelerated

    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"`path` (={str(path)!r}) is no accelerated network; use a file that its `save` wrote.")
    if content["version"] > VERSION:
        raise ValueError(f"`path` (={str(path)!r}) was written by omniconv {content['omniconv']}; update omniconv.")
    parameters = [_parameter(*told) for told in content["signature"]]
    return Accelerated(Replayed(_graph(content)), content["report"], inspect.Signature(parameters))


def _parameter(name: str, kind: int, default: list[Any]) -> inspect.Parameter:
    parameter = inspect.Parameter(name, PARAMETERS[kind])
    return parameter.replace(default=decoded(default[0], {})) if default else parameter


def _graph(content: dict[str, Any]) -> fx.GraphModule:
    root = nn.Module()
    for name, module in content["modules"].items():
        _put(root, name, decoded_module(module))
    steps = fx.Graph()
    made: dict[str, fx.Node] = {}
    fetched = [name for _, op, name, _, _ in content["steps"] if op == "get_attr"]
    for name in fetched:
        where, _, last = name.rpartition(".")
        _holder(root, where).register_buffer(last, content["state"][name])
    for name, op, target, args, kwargs in content["steps"]:
        called = _function(target) if op == "call_function" else _method(target) if op == "call_method" else target
        given: Any = decoded(args, made)
        if op == "output":
            steps.output(given[0])
        else:
            made[name] = steps.create_node(op, called, given, decoded(kwargs, made), name=name)
    graph = fx.GraphModule(root, steps)
    for name, tensor in content["state"].items():
        _set(graph, name, tensor)
    return graph.eval()


def _holder(root: nn.Module, path: str) -> nn.Module:
    for name in filter(None, path.split(".")):
        if name not in root._modules:  # noqa: SLF001
            root.add_module(name, nn.Module())
        root = root._modules[name]  # type: ignore[assignment]  # noqa: SLF001
    return root


def _put(root: nn.Module, path: str, module: nn.Module) -> None:
    where, _, name = path.rpartition(".")
    _holder(root, where).add_module(name, module)


def _set(graph: nn.Module, path: str, tensor: torch.Tensor) -> None:
    where, _, name = path.rpartition(".")
    module = graph.get_submodule(where)
    if name in module._parameters:  # noqa: SLF001
        setattr(module, name, nn.Parameter(tensor, requires_grad=False))
    else:
        module._buffers[name] = tensor  # noqa: SLF001


def _name_of(function: Any) -> str:
    if function in (getattr, _attribute):
        return GETATTR
    if function is torch._assert:  # noqa: SLF001  # public, as the name of what it does
        return ASSERT
    name = str(getattr(function, "__name__", function))
    if _of_torch(name) is function:
        return f"torch.{name}"
    for place, home in PLACES.items():
        for own, value in vars(home).items():
            if value is function and _function(f"{place}.{own}") is function:
                return f"{place}.{own}"
    raise ValueError(f"a step calls {name} of {getattr(function, '__module__', None)}, which no file can hold.")


def _of_torch(name: str) -> Any:
    found = getattr(torch, name, None)
    own = isinstance(found, BuiltinFunctionType) and hasattr(torch._C._VariableFunctions, name)  # noqa: SLF001
    return found if own and _computes(name) else None


def _computes(name: str) -> bool:
    """Whether torch has an operator of this name, in each form from tensors and numbers to others."""
    schemas = torch._C._jit_get_schemas_for_operator(f"aten::{name}")  # noqa: SLF001
    named = {(str(argument.type), argument.name) for schema in schemas for argument in schema.arguments}
    return bool(schemas) and not any(kind in ("Storage", "Stream") or own == "filename" for kind, own in named)


def _function(name: str) -> Any:
    if name == GETATTR:
        return _attribute
    if name == ASSERT:
        return torch._assert  # noqa: SLF001
    place, _, last = name.rpartition(".")
    found = _of_torch(last) if place == "torch" else getattr(PLACES.get(place), last, None)
    if last.startswith("_") or not inspect.isroutine(found) or found is CALL or not _is_own(place, found):
        raise ValueError(f"the file asks for {name}, which is no function that an accelerated network calls.")
    return found


def _is_own(place: str, function: Any) -> bool:
    """Whether a function of Python is not merely imported where it stands."""
    return not inspect.isfunction(function) or function.__module__ in (place, "torch.functional")


def _attribute(value: Any, name: str) -> Any:
    if name.startswith("_"):
        raise ValueError(f"the file asks for the attribute {name!r}, which no accelerated network reads.")
    found = getattr(value, name)
    if callable(found):
        raise ValueError(f"the file asks for the attribute {name!r}, which is a method; call it.")  # noqa: TRY004
    return found


def _method(name: str) -> str:
    own = hasattr(torch.Tensor, name) and (name in METHODS or _computes(name))
    if name.startswith("_") or not own:
        raise ValueError(f"the file asks for the method {name!r}, which is none of a tensor that a network calls.")
    return name
