# SPDX-License-Identifier: Apache-2.0
"""Every convolution that deep learning uses: layers that are exact, explained and measured."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "accelerate": "convert.accelerate.accelerated",
    "bench": "analysis.benchmark.bench",
    "compare": "analysis.comparison.compare",
    "cost": "analysis.cost",
    "dilate": "convert.dilate",
    "doctor": "analysis.doctor",
    "effective_receptive_field": "analysis.field.effective",
    "explain": "analysis.explanation.explain",
    "families": "analysis.catalogue",
    "functional": "functional",
    "load": "convert.accelerate.saving",
    "models": "models",
    "nn": "nn",
    "profile": "analysis.profiling.profile",
    "receptive_field": "analysis.field.receptive_field",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'omniconv' has no attribute {name!r}")
    module = import_module(f"omniconv.{_HOME[name]}")
    value = module if name == _HOME[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(["__version__", *_HOME])
