# SPDX-License-Identifier: Apache-2.0
"""The reference networks in a table: parameters, multiply-adds and receptive fields as they are counted here.

python benchmarks/reference_networks.py [NAME ...]
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch

import omniconv
from omniconv import models
from omniconv.models.catalogue import NETWORKS

HEAD = ("network", "paper", "parameters", "multiply-adds", "published", "named as", "receptive field", "stride")


def row(name: str) -> tuple[str, ...]:
    """One network's line; a field for images alone."""
    network, model = NETWORKS[name], models.create(name).eval()
    tokens = name.endswith("_encoder")
    x = torch.randint(2, 100, (1, network.size)) if tokens else torch.randn(1, 3, network.size, network.size)
    counted: Any = omniconv.profile(model, x)
    params = sum(parameter.numel() for parameter in model.parameters())
    field, stride = "", ""
    if not tokens:
        said = str(omniconv.receptive_field(model, x)).splitlines()[0]
        field, _, rest = said.partition(", stride ")
        stride = rest.partition(",")[0]
    size = f"{network.size} tokens" if tokens else f"{network.size}×{network.size}"
    return (
        f"`{name}`",
        network.paper,
        f"{params:,}",
        f"{counted.macs:,} at {size}",
        network.published,
        network.names,
        field,
        stride,
    )


def main(arguments: list[str]) -> int:
    """Print the table, line by line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks, of omniconv.models.list(); all by default")
    names = parser.parse_args(arguments).names or models.list()
    unknown = [name for name in names if name not in NETWORKS]
    if unknown:
        parser.error(f"there is no network {unknown[0]!r}; there are {', '.join(models.list())}")
    print(f"| {' | '.join(HEAD)} |\n{'|---' * len(HEAD)}|")
    for name in names:
        print(f"| {' | '.join(row(name))} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
