# SPDX-License-Identifier: Apache-2.0
"""The functions of every family, loaded when first asked for; torch.nn.functional's names and argument order."""

from typing import Any

from omniconv.core.family import families

_HOME = {name: family for family in families().values() for name in family.functions}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'omniconv.functional' has no attribute {name!r}")
    value = getattr(_HOME[name].part("layer"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_HOME)
