# SPDX-License-Identifier: Apache-2.0
"""fairseq's lightweight and dynamic convolutions as loops over their definitions, and numbers to try them on."""

from __future__ import annotations

import math

import torch


def whole(*shape):
    """Small whole numbers in float64: every sum of their products is exact."""
    return torch.randint(-3, 4, shape).double()


def reals(*shape):
    return torch.randn(shape, dtype=torch.float64)


def filled(layer):
    """The layer in float64 with small whole numbers for weights."""
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(whole(*parameter.shape))
    return layer


def heads_of(channels, heads, head_layout):
    """The head of each channel, counted out."""
    if head_layout == "interleaved":
        return [c % heads for c in range(channels)]
    return [h for h in range(heads) for _ in range(channels // heads)]


def looped(x, kernels, head_of, padding_l):
    """Σ_k w[head, k] x[t + k − padding_l] for x (n, c, t), one product at a time; outside x is 0."""
    n, channels, length = x.shape
    taps = kernels.shape[-1]
    y = torch.zeros_like(x)
    for b in range(n):
        for c in range(channels):
            for t in range(length):
                for k in range(taps):
                    at = t + k - padding_l
                    if 0 <= at < length:
                        y[b, c, t] += kernels[head_of[c], k] * x[b, c, at]
    return y


def softmax(row):
    powers = [math.exp(v - max(row)) for v in row]
    return [p / sum(powers) for p in powers]


def looped_dynamic(values, numbers, heads, padding_l, *, normalize=True, renorm=False):
    """fairseq's dynamic convolution, one product at a time: values (n, c, t), numbers (n, t, H·K) as predicted."""
    n, channels, length = values.shape
    taps = numbers.shape[2] // heads
    y = torch.zeros_like(values)
    for b in range(n):
        for t in range(length):
            inside = [0 <= t + k - padding_l < length for k in range(taps)]
            for c in range(channels):
                head = c // (channels // heads)
                row = numbers[b, t, head * taps : (head + 1) * taps].tolist()
                if normalize and renorm:
                    shares = iter(softmax([v for v, kept in zip(row, inside, strict=True) if kept]))
                    row = [next(shares) if kept else 0.0 for kept in inside]
                elif normalize:
                    row = softmax(row)
                y[b, c, t] = sum(row[k] * values[b, c, t + k - padding_l] for k in range(taps) if inside[k])
    return y
