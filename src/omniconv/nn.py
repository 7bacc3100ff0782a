# SPDX-License-Identifier: Apache-2.0
"""The layers of every family, loaded when first asked for. Argument order and names are those of torch.nn."""

from typing import Any

from omniconv.core.family import families

_HOME = {name: family for family in families().values() for name in family.layers}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'omniconv.nn' has no attribute {name!r}")
    value = getattr(_HOME[name].part("layer"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
