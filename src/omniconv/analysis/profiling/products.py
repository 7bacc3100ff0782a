# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds of what is no convolution: matrix products, attention, recurrent layers.

An operator without a rule here is looked up in ``torch.utils.flop_counter``, which users extend too with
``register_flop_formula``; its FLOPs are halved.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from torch import Tensor
from torch.utils.flop_counter import flop_registry

from omniconv.analysis.profiling.aten_call import AtenCall, Shape, Work

# Per hidden unit and step of an LSTM (gate sums and activations, two products and a sum, tanh, the output's product),
# a GRU and a plain recurrent layer, by the number of gates.
CELL_OPS = {4: 17, 3: 14, 1: 3}


def product_of(call: AtenCall, *, weighted: bool) -> Work | None:
    """The multiply-adds of a call, or None where it is no product.

    Args:
        call: the call.
        weighted: whether one operand is a parameter, which makes a product a linear layer.
    """
    name = call.name.removeprefix("aten::").removesuffix("_") if call.name.startswith("aten::") else call.name
    if name in _MATRICES:
        b, m, k, n, biased = _MATRICES[name](call)
        return Work(
            "linear" if weighted else "matmul",
            macs=b * m * k * n,
            bias_adds=biased * m * n * (1 if name == "addbmm" else b),
            bytes=call.bytes,
            channels=(k, n),
            sizes=((m,), (m,)),
            batch=b,
        )
    if name in _OTHERS:
        return _OTHERS[name](call)
    formula = flop_registry.get(call.func.overloadpacket)
    if formula is None:
        return None
    args, kwargs = call.as_called()
    flops = formula(*args, **kwargs, out_val=call.result)
    return Work(_kind_of(name, weighted=weighted), macs=flops // 2, bytes=call.bytes)


def _kind_of(name: str, *, weighted: bool) -> str:
    for word in ("convolution", "attention"):
        if word in name:
            return word
    return "linear" if weighted else "matmul"


def _rows(first: Shape, second: Shape, *, biased: int = 0) -> tuple[int, int, int, int, int]:
    return 1, first[0], first[1], second[1], biased


def _batches(first: Shape, second: Shape, *, biased: int = 0) -> tuple[int, int, int, int, int]:
    return first[0], first[1], first[2], second[2], biased


def _adds(call: AtenCall) -> int:
    """Whether the first argument is really added: ``beta`` 0 leaves it out."""
    return int(call.arguments.get("beta", 1) != 0)


def _linear(call: AtenCall) -> tuple[int, int, int, int, int]:
    *rows, k = call.shape("input" if "input" in call.arguments else "self")
    return 1, prod(rows), k, call.shape("weight")[0], int(call.arguments["bias"] is not None)


_MATRICES: dict[str, Callable[[AtenCall], tuple[int, int, int, int, int]]] = {
    "mm": lambda c: _rows(c.shape("self"), c.shape("mat2")),
    "addmm": lambda c: _rows(c.shape("mat1"), c.shape("mat2"), biased=_adds(c)),
    "_addmm_activation": lambda c: _rows(c.shape("mat1"), c.shape("mat2"), biased=_adds(c)),
    "_int_mm": lambda c: _rows(c.shape("self"), c.shape("mat2")),
    "_weight_int8pack_mm": lambda c: _rows(c.shape("self"), c.shape("mat2")[::-1]),
    "bmm": lambda c: _batches(c.shape("self"), c.shape("mat2")),
    "baddbmm": lambda c: _batches(c.shape("batch1"), c.shape("batch2"), biased=_adds(c)),
    "addbmm": lambda c: _batches(c.shape("batch1"), c.shape("batch2"), biased=_adds(c)),
    "mv": lambda c: _rows(c.shape("self"), (0, 1)),
    "addmv": lambda c: _rows(c.shape("mat"), (0, 1), biased=_adds(c)),
    "dot": lambda c: _rows((1, *c.shape("self")), (0, 1)),
    "vdot": lambda c: _rows((1, *c.shape("self")), (0, 1)),
    "linear": _linear,
    "mkldnn_linear": _linear,
}


def _attention(call: AtenCall) -> Work:
    """Queries times keys, and weights times values; a causal mask is not taken off, as the kernels compute under it."""
    n, h, queries, d = call.shape("query")
    keys, width = call.shape("key")[2], call.shape("value")[3]
    pairs = n * h * queries * keys
    return Work(
        "attention", macs=pairs * (d + width), other_ops=5 * pairs, bytes=call.bytes, channels=(d, width), batch=n
    )


def _projected_attention(n: int, queries: int, keys: int, width: int, heads: int) -> tuple[int, int, int]:
    """MACs, bias adds and softmax operations of attention with its four square projections."""
    pairs = n * queries * keys
    rows = n * (2 * queries + 2 * keys)
    return rows * width**2 + 2 * pairs * width, rows * width, 5 * heads * pairs


def _whole_attention(call: AtenCall) -> Work:
    n, queries, width = call.shape("query")
    macs, adds, ops = _projected_attention(n, queries, call.shape("key")[1], width, call.arguments["num_head"])
    return Work("attention", macs=macs, bias_adds=adds, other_ops=ops, bytes=call.bytes, channels=(width, width))


def _encoder_layer(call: AtenCall) -> Work:
    n, length, width = call.shape("src")
    macs, adds, ops = _projected_attention(n, length, length, width, call.arguments["num_heads"])
    hidden = call.shape("ffn_weight_1")[0]
    rows = n * length
    return Work(
        "attention",
        macs=macs + 2 * rows * width * hidden,
        bias_adds=adds + rows * (hidden + width),
        other_ops=ops + rows * (hidden + 2 * width + 16 * width),  # the activation, two additions and two norms
        bytes=call.bytes,
        channels=(width, width),
    )


def _recurrent(call: AtenCall) -> Work:
    """Every matrix of weights meets every step of every sequence once."""
    found = call.arguments
    weights: list[Tensor] = found.get("weight") or [found[f"weight{i}"] for i in range(2)]
    *steps, width = call.shape("input")
    hidden = found["hidden_size"]
    macs = prod(steps) * sum(w.numel() for w in weights if w.dim() == 2)
    gates = max(weights[0].shape[0] // hidden, 1)
    cells = sum(w.dim() == 2 for w in weights) // (3 if found.get("proj_size") else 2)
    ops = prod(steps) * hidden * cells * CELL_OPS.get(gates, 3)
    return Work("recurrent", macs=macs, other_ops=ops, bytes=call.bytes, channels=(width, call.outputs[0].shape[-1]))


def _trilinear(call: AtenCall) -> Work:
    """``nn.Bilinear``: the outer product of both inputs, then its product with the weight."""
    rows = prod(call.shape("i1")[:-1])
    o, first, second = call.shape("i2")
    return Work("linear", macs=rows * o * first * second, other_ops=rows * first * second, bytes=call.bytes)


def _backward(call: AtenCall) -> Work:
    """Each gradient takes the products of the forward pass; torch's own formula errs on the weight's in groups."""
    found, weight = call.arguments, call.shape("weight")
    to_input, to_weight, to_bias = found["output_mask"]
    n, *_ = call.shape("input")
    *_, scatters, _, _, _ = found.values()  # … dilation, whether it is transposed, output_padding, groups, output_mask
    positions = prod(call.shape("input" if scatters else "grad_output")[2:])
    return Work(
        "convolution",
        macs=(to_input + to_weight) * n * positions * prod(weight),
        bias_adds=to_bias * prod(call.shape("grad_output")),
        bytes=call.bytes,
    )


_OTHERS: dict[str, Callable[[AtenCall], Work]] = {
    "convolution_backward": _backward,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    "_native_multi_head_attention": _whole_attention,
    "_transformer_encoder_layer_fwd": _encoder_layer,
    "mkldnn_rnn_layer": _recurrent,
    "_cudnn_rnn": _recurrent,
    "miopen_rnn": _recurrent,
    "_trilinear": _trilinear,
}
