# SPDX-License-Identifier: Apache-2.0
"""The reference networks in a table: parameters, multiply-adds and receptive fields as they are counted here.

python benchmarks/reference_networks.py [NAME ...]
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import torch

import omniconv
from omniconv import models
from omniconv.models.catalogue import NETWORKS

if TYPE_CHECKING:
    from omniconv.analysis.field.receptive_field import ReceptiveField
    from omniconv.analysis.profiling.result import Profile

HEAD = ("network", "paper", "parameters", "multiply-adds", "published", "named as", "receptive field", "stride")


def is_encoder(name: str) -> bool:
    """Whether it reads tokens instead of an image."""
    return name.endswith("_encoder")


def counted(name: str) -> tuple[Profile, ReceptiveField]:
    """What a network costs and sees on an input of the catalogue's size; tensors without data are enough for both."""
    size, tokens = NETWORKS[name].size, is_encoder(name)
    model = models.create(name).eval().to("meta")
    x = torch.empty((1, size) if tokens else (1, 3, size, size), dtype=torch.long if tokens else None, device="meta")
    field = omniconv.receptive_field(model, x, layers=False, axes=(1,) if tokens else None)
    return omniconv.profile(model, x, receptive_field=False), field


def input_text(name: str) -> str:
    """The input that it is counted on."""
    size = NETWORKS[name].size
    return f"{size} tokens" if is_encoder(name) else f"{size}×{size}"


def field_text(name: str, field: ReceptiveField) -> tuple[str, str]:
    """The size of a receptive field, with what is besides it, and its stride."""
    size, _, rest = str(field).partition(", stride ")
    return size.replace("image", "sequence") if is_encoder(name) else size, rest.partition(",")[0]


def row(name: str) -> tuple[str, ...]:
    """One network's line."""
    network, (found, field) = NETWORKS[name], counted(name)
    return (
        f"`{name}`",
        network.paper,
        f"{found.params:,}",
        f"{found.macs:,} at {input_text(name)}",
        network.published,
        network.names,
        *field_text(name, field),
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
