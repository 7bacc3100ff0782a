# SPDX-License-Identifier: Apache-2.0
"""The functions of every family, loaded when first asked for. Argument order and names are those of torch.nn.functional."""

from typing import Any

from omniconv.core.family import families

_HOME = {name: family for family in families().values() for name in family.functions}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'omniconv.functional' has no attribute {name!r}")
    value = getattr(_HOME[name].part("layer"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
