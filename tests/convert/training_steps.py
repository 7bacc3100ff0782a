# SPDX-License-Identifier: Apache-2.0
"""A pointwise convolution with a norm behind it, and a step of its training."""

import torch
from torch import nn

import omniconv
from omniconv.ops.conv import normed

CONVS = nn.Conv1d, nn.Conv2d, nn.Conv3d
NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d


def block(dim=2, inputs=5, outputs=19, activation=nn.ReLU6, **how):
    torch.manual_seed(3)
    net = nn.Sequential(CONVS[dim - 1](inputs, outputs, 1, bias=False), NORMS[dim - 1](outputs, **how))
    if how.get("affine", True):
        nn.init.uniform_(net[1].weight, -2, 2)
        nn.init.uniform_(net[1].bias, -2, 2)
    if activation is not None:
        net.append(activation())
    return net.train()


def picture(sizes, channels=5, batch=2, last=True):
    x = torch.randn(batch, channels, *sizes, generator=torch.Generator().manual_seed(5)) + 0.5
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x


def taken(net, x):
    return omniconv.accelerate(net, x, training=True, seconds=0, verify=False)


def counted(monkeypatch):
    """One more element for each convolution and norm that are computed as one step."""
    found, right = [], normed._Normed.apply
    monkeypatch.setattr(normed._Normed, "apply", lambda *given: found.append(1) or right(*given))
    return found


def step(net, x, grad):
    """The output, the gradients by name, and the buffers."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    net.zero_grad()
    output = net(x)
    output.backward(grad.to(output.dtype))
    found = {"output": output.detach(), "input": x.grad} | {n: p.grad for n, p in net.named_parameters()}
    return found | {name: buffer.clone() for name, buffer in net.named_buffers()}
