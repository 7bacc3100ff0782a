# SPDX-License-Identifier: Apache-2.0
"""A convolutional autoencoder: strided convolutions down, transposed ones back up.

Masci et al., Stacked Convolutional Auto-Encoders, 2011; transposed convolutions as in Zeiler et al., Deconvolutional
Networks, 2010, with 4×4 kernels and a stride of 2, whose taps overlap evenly (Odena et al., Deconvolution and
Checkerboard Artifacts, 2016).
"""

from __future__ import annotations

from torch import Tensor, nn

from omniconv.nn import Conv2d, ConvTranspose2d

from .drawing import draw_for_relu


class ConvAutoencoder(nn.Module):
    """An encoder and its mirror image; each level halves, and doubles, the size."""

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        inputs = channels
        for width in widths:
            down += [Conv2d(inputs, width, 3, 2, 1), nn.ReLU()]
            inputs = width
        outputs = (channels, *widths[:-1])
        for width, output in zip(reversed(widths), reversed(outputs), strict=True):
            up += [ConvTranspose2d(width, output, 4, 2, 1), nn.ReLU()]
        self.encoder = nn.Sequential(*down)
        self.decoder = nn.Sequential(*up[:-1], nn.Sigmoid())
        self.multiple = 1 << len(widths)
        draw_for_relu(self)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to the same, with numbers between 0 and 1."""
        for size in x.shape[2:]:
            if size % self.multiple:
                raise ValueError(f"`x` size (={size}) must be a multiple of {self.multiple}.")
        return self.decoder(self.encoder(x))


def conv_autoencoder(channels: int = 3, widths: tuple[int, ...] = (32, 64, 128)) -> ConvAutoencoder:
    """An autoencoder of images of ``channels`` channels, a level for each of ``widths``."""
    return ConvAutoencoder(channels, widths)
