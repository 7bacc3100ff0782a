# SPDX-License-Identifier: Apache-2.0
"""Work beside the products: activations, norms, pooling, softmax, resizing. Counted in operations, apart from MACs.

One operation is one number computed from one or two others, whatever the function; moving a number is none.

================================================ ==================================================================
pointwise (add, relu, gelu, where, …)            1 an output element and operator
sum, mean, max, argmax, cumsum, sort, …          1 an input element
variance                                         4: the mean 1, the deviation, its square and their sum 3
softmax                                          5: maximum, difference, exponential, sum, quotient
norm with statistics of the data                 6: mean and variance 4, difference and quotient 2; 2 more if affine
batch norm with stored statistics                2: a scale and a shift
pooling                                          1 a tap and output element
linear and cubic resizing, grid sampling         2 a tap and output element
losses                                           3 an input element
================================================ ==================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import ceil, prod

import torch

from omniconv.analysis.profiling.aten_call import AtenCall

Count = Callable[[AtenCall], int]


def other_ops_of(call: AtenCall) -> int | None:
    """The operations of a call; 0 where it only moves numbers, None where no rule knows it."""
    if call.func.is_view or torch.Tag.inplace_view in call.func.tags:
        return 0
    namespace, _, name = call.name.partition("::")
    if namespace != "aten":
        return None
    name = name.removesuffix("_")
    if name in _MOVES:
        return 0
    if name in _RULES:
        return _RULES[name](call)
    if _tagged(name, torch.Tag.pointwise) or torch.Tag.pointwise in call.func.tags:
        return call.out_elements
    return call.in_elements if _tagged(name, torch.Tag.reduction) else None


@cache
def _tagged(name: str, tag: torch.Tag) -> bool:
    """Whether any overload of an operator, or of its functional form, carries the tag."""
    packet = getattr(torch.ops.aten, name, None)
    return packet is not None and any(tag in getattr(packet, overload).tags for overload in packet.overloads())


def _per_input(times: int) -> Count:
    return lambda call: times * call.in_elements


def _per_output(times: int) -> Count:
    return lambda call: times * call.out_elements


def _batch_norm(call: AtenCall) -> int:
    found = call.arguments
    training = found.get("training", call.name == "aten::_batch_norm_with_update")
    if "no_training" in call.name or "no_update" in call.name:
        training = False
    return _norm(call) if training else 2 * call.in_elements


def _norm(call: AtenCall) -> int:
    return (6 if call.arguments.get("weight") is None else 8) * call.in_elements


def _pool(call: AtenCall) -> int:
    kernel, axes = call.arguments["kernel_size"], int(call.name.partition("pool")[2][0])
    return call.out_elements * (kernel[0] ** axes if len(kernel) == 1 else prod(kernel))


def _adaptive_pool(call: AtenCall) -> int:
    """Each output sums its own window, from ⌊j·i/p⌋ to ⌈(j+1)·i/p⌉."""
    sizes = call.arguments["output_size"]
    lead, axes = call.inputs[0].shape[: -len(sizes)], call.inputs[0].shape[-len(sizes) :]
    windows = (sum(-(-(j + 1) * i // p) - j * i // p for j in range(p)) for i, p in zip(axes, sizes, strict=True))
    return prod(lead) * prod(windows)


def _resize(radius: int) -> Count:
    """Taps of a filter of ``radius``, wider where it averages many."""

    def count(call: AtenCall) -> int:
        source, target = call.inputs[0].shape[2:], call.outputs[0].shape[2:]
        stretch = call.name.endswith("_aa")
        taps = [
            ceil(2 * radius * max(i / p, 1.0)) if stretch and p else 2 * radius
            for i, p in zip(source, target, strict=True)
        ]
        return 2 * call.out_elements * prod(taps)

    return count


def _grid_sample(call: AtenCall) -> int:
    axes = len(call.inputs[0].shape) - 2
    taps = {0: 2, 1: 0, 2: 4}[call.arguments["interpolation_mode"]]
    return 2 * call.out_elements * taps**axes


def _embedding_bag(call: AtenCall) -> int:
    return call.arguments["indices"].numel() * call.shape("weight")[1]


def _pairs(call: AtenCall) -> int:
    return 3 * call.out_elements * call.inputs[0].shape[-1]


def _sources(call: AtenCall) -> int:
    """Additions into indexed places: one an element that is added."""
    return call.inputs[-1].numel() if call.arguments.get("accumulate", True) else 0


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MOVES = _names(
    """
    _chunk_cat _conj_physical _copy_from _efficientzerotensor _lazy_clone
    _new_zeros_with_same_feature_meta
    _pack_padded_sequence _pad_packed_sequence _pin_memory _reshape_copy _resize_output _stack _to_copy _to_dense
    _unsafe_index _unsafe_masked_index _unsafe_view affine_grid_generator alias_copy arange as_strided_copy
    as_strided_scatter bernoulli blackman_window block_diag cat cauchy channel_shuffle clone complex
    constant_pad_nd copy
    detach_copy diag_embed diagonal_copy diagonal_scatter embedding empty empty_like empty_permuted empty_strided
    expand_copy exponential eye fill flip from_file full full_like gather geometric hamming_window hann_window im2col
    index index_copy index_fill index_select kaiser_window lift lift_fresh_copy linspace log_normal logspace
    masked_fill masked_scatter masked_select max_unpool2d max_unpool3d multinomial narrow_copy new_empty
    new_empty_strided new_full new_ones new_zeros nonzero nonzero_static normal ones ones_like permute_copy
    pixel_shuffle pixel_unshuffle poisson put rand rand_like randint randint_like randn randn_like random randperm range
    record_stream reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d
    replication_pad2d replication_pad3d resize resize_as roll rot90 scalar_tensor scatter select_copy select_scatter set
    slice_copy slice_scatter split_copy split_with_sizes_copy squeeze_copy stack t_copy take to_mkldnn
    transpose_copy tril tril_indices triu triu_indices unbind_copy unfold_copy uniform unsafe_split
    unsafe_split_with_sizes unsqueeze_copy upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d view_as_complex_copy
    view_as_real_copy view_copy zero zeros zeros_like
    """
)

_EACH_OUTPUT = _names(
    """
    _add_relu _prelu_kernel copysign floor_divide gelu hardswish heaviside log_sigmoid_forward mish polar
    rrelu_with_noise rsub where xlogy
    """
)
_EACH_INPUT = _names(
    """
    _aminmax _cummax_helper _cummin_helper _is_all_true _is_any_true _logcumsumexp _unique _unique2 bincount
    bucketize count_nonzero cummax cummin cumprod cumsum dist equal histc kthvalue logcumsumexp median mode
    nanmedian searchsorted sort topk trace unique_consecutive unique_dim
    """
)
_BATCH_NORMS = _names(
    """
    native_batch_norm cudnn_batch_norm miopen_batch_norm _batch_norm_with_update _batch_norm_no_update
    _native_batch_norm_legit _native_batch_norm_legit_functional _native_batch_norm_legit_no_training
    """
)
_POOLS = _names(
    """
    avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool1d_with_indices
    max_pool2d_with_indices max_pool3d_with_indices mkldnn_max_pool2d mkldnn_max_pool3d
    fractional_max_pool2d fractional_max_pool3d
    """
)
_ADAPTIVE_POOLS = _names(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d mkldnn_adaptive_avg_pool2d
    """
)
_LOSSES = _names(
    """
    binary_cross_entropy binary_cross_entropy_with_logits huber_loss mse_loss multi_margin_loss
    multilabel_margin_loss_forward nll_loss2d_forward nll_loss_forward smooth_l1_loss soft_margin_loss
    """
)
_ADDED_AT_INDICES = _names(
    "_index_put_impl _unsafe_index_put index_add index_put scatter_add scatter_reduce index_reduce"
)

_RULES: dict[str, Count] = {
    **dict.fromkeys(_EACH_OUTPUT, _per_output(1)),
    **dict.fromkeys(_EACH_INPUT, _per_input(1)),
    **dict.fromkeys(_BATCH_NORMS, _batch_norm),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_ADAPTIVE_POOLS, _adaptive_pool),
    **dict.fromkeys(_LOSSES, _per_input(3)),
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax", "_masked_softmax"), _per_input(5)),
    **dict.fromkeys(("var", "std", "var_mean", "std_mean", "logsumexp"), _per_input(4)),
    **dict.fromkeys(("native_layer_norm", "native_group_norm"), _norm),
    **dict.fromkeys(("_fused_rms_norm", "renorm", "embedding_renorm"), _per_input(4)),
    **dict.fromkeys(("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"), _resize(1)),
    **dict.fromkeys(("upsample_bicubic2d", "_upsample_bicubic2d_aa"), _resize(2)),
    "_upsample_bilinear2d_aa": _resize(1),
    **dict.fromkeys(("grid_sampler_2d", "grid_sampler_3d", "_grid_sampler_2d_cpu_fallback"), _grid_sample),
    **dict.fromkeys(("_embedding_bag", "_embedding_bag_forward_only"), _embedding_bag),
    **dict.fromkeys(("_cdist_forward", "_euclidean_dist", "_pdist_forward"), _pairs),
    **dict.fromkeys(_ADDED_AT_INDICES, _sources),
    "addr": _per_output(2),
    "col2im": _per_input(1),
    "glu": _per_output(2),
    "native_dropout": _per_output(2),
    "_masked_scale": _per_output(2),
    "_thnn_fused_lstm_cell": lambda call: 17 * call.out_elements,
    "_thnn_fused_gru_cell": lambda call: 14 * call.out_elements,
    "_weight_norm_interface": _per_input(4),
}
