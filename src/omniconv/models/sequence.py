# SPDX-License-Identifier: Apache-2.0
"""Encoders of lightweight and of dynamic convolutions, at the sizes of IWSLT'14; fairseq's weights load.

Wu et al., Pay Less Attention with Lightweight and Dynamic Convolutions, 2019: seven layers, in each a gated linear
map, a convolution whose kernels grow from 3 to 31 and are shared by four heads, and a linear map, then two wider ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniconv.nn import DynamicConv1d, LightweightConv1d, Linear

WIDTH, WIDER, HEADS, KERNELS = 512, 1024, 4, (3, 7, 15, 31, 31, 31, 31)
# fairseq's names of a dynamic convolution's weights, and ours
NAMES = {"conv.weight_linear.weight": "conv.predictor.weight", "conv.conv_bias": "conv.bias"}

Convolution = Callable[[int], nn.Module]  # of so many taps, over (n, c, l)


class Layer(nn.Module):
    """A convolution between linear maps, then two linear maps; to the input of each half its output is added."""

    def __init__(self, conv: nn.Module, dropout: float) -> None:
        super().__init__()
        self.linear1 = Linear(WIDTH, 2 * WIDTH)
        self.conv = conv
        self.linear2 = Linear(WIDTH, WIDTH)
        self.fc1 = Linear(WIDTH, WIDER)
        self.fc2 = Linear(WIDER, WIDTH)
        self.layer_norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.dropout = nn.Dropout(dropout)
        for linear in (self.linear1, self.linear2, self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        """(n, l, c) to the same; ``padded`` (n, l, 1) tells places that hold nothing."""
        y = F.glu(self.linear1(x), -1).masked_fill(padded, 0)
        y = self.conv(y.transpose(1, 2)).transpose(1, 2)
        x = self.layer_norms[0](x + self.dropout(self.linear2(y)))
        y = self.fc2(F.relu(self.fc1(x)))
        return self.layer_norms[1](x + self.dropout(y))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for theirs, ours in NAMES.items():
            if prefix + theirs in state_dict:
                state_dict[prefix + ours] = state_dict.pop(prefix + theirs)
        for name, dims in (("conv.weight", 2), ("conv.predictor.weight", 3)):
            weight = state_dict.get(prefix + name)
            if (
                isinstance(weight, Tensor) and weight.dim() != dims
            ):  # (h, 1, k) there, (h, k) here; (h·k, c), (h·k, c, 1)
                state_dict[prefix + name] = weight.squeeze(1) if dims == 2 else weight.unsqueeze(2)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def sinusoids(length: int, like: Tensor) -> Tensor:
    """(length, c) numbers that tell places apart: sines, then cosines, of falling frequency (as tensor2tensor has)."""
    half = WIDTH // 2
    steps = torch.arange(half, device=like.device) * (-math.log(10000) / (half - 1))
    angles = torch.arange(length, device=like.device)[:, None] * steps.exp()
    return torch.cat([angles.sin(), angles.cos()], 1).to(like.dtype)


class Encoder(nn.Module):
    """Tokens to vectors; places of the token ``padding`` hold nothing and are counted by no sentence."""

    def __init__(self, tokens: int, conv: Convolution, dropout: float, padding: int) -> None:
        super().__init__()
        if not 0 <= padding < tokens:
            raise ValueError(f"`padding` (={padding}) must be one of the `tokens` (={tokens}): 0 to {tokens - 1}.")
        self.padding = padding
        self.embed_tokens = nn.Embedding(tokens, WIDTH, padding)
        nn.init.normal_(self.embed_tokens.weight, 0, WIDTH**-0.5)
        with torch.no_grad():
            self.embed_tokens.weight[padding] = 0
        self.layers = nn.ModuleList([Layer(conv(taps), dropout) for taps in KERNELS])
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, l) whole numbers to (n, l, 512)."""
        padded = tokens == self.padding
        x = math.sqrt(WIDTH) * self.embed_tokens(tokens)
        # fairseq counts places from the padding's number on, and gives those that hold nothing zeros
        places = torch.cumsum(~padded, 1) * ~padded + self.padding
        table = sinusoids(tokens.shape[1] + self.padding + 1, x)
        x = self.dropout(x + table[places].masked_fill(padded[..., None], 0))
        for layer in self.layers:
            x = layer(x, padded[..., None])
        return x


def lightconv_encoder(tokens: int = 8848, dropout: float = 0.1, padding: int = 1) -> Encoder:
    """The lightweight encoder of ``lightconv_iwslt_de_en``."""

    def conv(taps: int) -> nn.Module:
        return LightweightConv1d(WIDTH, taps, heads=HEADS, dropout=dropout)

    return Encoder(tokens, conv, dropout, padding)


def dynamicconv_encoder(tokens: int = 8848, dropout: float = 0.1, padding: int = 1) -> Encoder:
    """The same with dynamic convolutions."""

    def conv(taps: int) -> nn.Module:
        return DynamicConv1d(WIDTH, taps, heads=HEADS, dropout=dropout)

    return Encoder(tokens, conv, dropout, padding)
