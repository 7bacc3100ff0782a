# SPDX-License-Identifier: Apache-2.0
"""Rules of operators that mix whole dims: products, attention, norms, reductions, and reads at computed places."""

from __future__ import annotations

from fractions import Fraction

from omniconv.analysis.field import reads
from omniconv.analysis.field.layout import Field, plain, size_of
from omniconv.analysis.field.moves import sliced
from omniconv.analysis.field.rules import Call, rule
from omniconv.analysis.field.rules_windows import unbounded, windowed


@rule("_addmm_activation", "addbmm", "addmm", "addmv", "baddbmm", "bmm", "dot", "mm", "mv", "vdot", "matmul", "_int_mm")
def _product(call: Call) -> Field:
    """Σ over the last dim of one factor and the last but one of the other."""
    one, two = (call.fields(t) for t in [*call.tensors()][-2:])
    total = [call.field("self")] if call.name.startswith(("aten::add", "aten::badd", "aten::_addmm")) else []
    rows = one.reduced((len(one.dims) - 1,), call.why, keepdim=len(two.dims) > 1)
    columns = two.reduced((max(len(two.dims) - 2, 0),), call.why, keepdim=len(two.dims) > 1)
    if call.name == "aten::addbmm":
        rows, columns = rows.reduced((0,), call.why), columns.reduced((0,), call.why)
    return call.merged(rows, columns, *total)


@rule("linear", "mkldnn_linear")
def _linear(call: Call) -> Field:
    return call.merged(call.first.reduced((len(call.first.dims) - 1,), call.why, keepdim=True))


@rule("_scaled_dot_product_attention_math", "_scaled_dot_product_attention_math_for_mps",
      "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_efficient_attention",
      "_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu",
      "_scaled_dot_product_fused_attention_overrideable", "_native_multi_head_attention",
      "scaled_dot_product_attention")  # fmt: skip
def _attention(call: Call) -> Field:
    """Queries keep their places; each reads every key and value."""
    query, key, value = (call.field(name) for name in ("query", "key", "value"))
    last = len(query.dims) - 1
    heads = call.name == "aten::_native_multi_head_attention"
    parts = [query.reduced((last,), call.why, keepdim=True), key.reduced((last - 1, last), call.why, keepdim=True)]
    parts.append(value.reduced((last - 1, last) if heads else (last - 1,), call.why, keepdim=True))
    if not heads and call.get("attn_mask", "attn_bias") is not None:
        mask = call.field("attn_mask", "attn_bias")
        parts.append(mask.reduced((len(mask.dims) - 1,), call.why, keepdim=True))
    return call.merged(*parts)


@rule("_transformer_encoder_layer_fwd")
def _encoder_layer(call: Call) -> Field:
    return call.merged(call.first.reduced((2,), call.why, keepdim=True).mixed((1,), call.why))


@rule("mkldnn_rnn_layer")
def _recurrent_layer(call: Call) -> Field:
    return call.merged(call.field("input").reduced((2,), call.why, keepdim=True).mixed((0,), call.why))


@rule("_log_softmax", "_safe_softmax", "_softmax", "cummax", "cummin", "cumprod", "cumsum", "log_softmax",
      "logcumsumexp", "renorm", "softmax", "sort")  # fmt: skip
def _along_dim(call: Call) -> Field:
    return call.first.mixed(call.dims(), call.why)


@rule("_fused_rms_norm", "native_layer_norm", "rms_norm")
def _layer_norm(call: Call) -> Field:
    ndim = len(call.first.dims)
    return call.first.mixed(range(ndim - len(call["normalized_shape"]), ndim), call.why)


@rule("native_group_norm")
def _group_norm(call: Call) -> Field:
    return call.first.mixed(range(1, len(call.first.dims)), call.why)


@rule("_batch_norm_no_update", "_batch_norm_with_update", "_native_batch_norm_legit", "native_batch_norm",
      "_native_batch_norm_legit_no_training", "batch_norm", "cudnn_batch_norm", "miopen_batch_norm")  # fmt: skip
def _batch_norm(call: Call) -> Field:
    """Pointwise with stored statistics; with its own, a norm over everything but channels."""
    if call.get("training") or "with_update" in call.name:
        return call.first.mixed([d for d in range(len(call.first.dims)) if d != 1], call.why)
    return call.first


@rule("all", "amax", "amin", "aminmax", "any", "argmax", "argmin", "count_nonzero", "kthvalue", "linalg_vector_norm",
      "logsumexp", "max", "mean", "median", "min", "mode", "nanmean", "nanmedian", "nansum", "norm", "prod", "std",
      "std_mean", "sum", "var", "var_mean")  # fmt: skip
def _reduction(call: Call) -> Field:
    return call.first.reduced(call.dims(), call.why, keepdim=bool(call.get("keepdim")))


@rule("_fft_c2c", "_fft_c2r", "_fft_r2c", "topk")
def _resized_by_mixing(call: Call) -> Field:
    field = call.first.collapsed(call.dims(), call.why)
    return field.with_dims([plain(n) if d in call.dims() else field.dims[d] for d, n in enumerate(call.shape)])


@rule("glu")
def _glu(call: Call) -> Field:
    d = call.dim()
    half = call.shape[d]
    return call.merged(*(sliced(call.first, d, start, 1, half, call.why) for start in (0, half)))


@rule("embedding")
def _embedding(call: Call) -> Field:
    """Rows of a table: the places of the indices and a new last dim."""
    indices, weight = call.field("indices"), call.field("weight")
    return call.merged(indices.with_dims([*indices.dims, ()]), weight.reduced((0,), call.why))


@rule("index", "index_select", "gather", "_unsafe_index")
def _indexing(call: Call) -> Field:
    """Reads at places known only at run time; a dim that keeps its size keeps its places as the base."""
    field, shape = call.first, call.shape
    given = call.get("index", "indices")
    if isinstance(given, (list, tuple)):
        dims = [d for d, index in enumerate(given) if index is not None]
        indices = [call.fields(index) for index in given if index is not None]
    else:
        dims, indices = [call.dim()], [call.fields(given)]
    axes = field.axes_in(dims)
    ways = [f if f.shape == shape else f.reduced(range(len(f.dims)), call.why) for f in indices]
    if len(field.dims) == len(shape):
        found = field.with_dims([d if size_of(d) == n else plain(n) for d, n in zip(field.dims, shape, strict=True)])
    else:
        rest = [dim for d, dim in enumerate(field.dims) if d not in dims]
        new = len(shape) - len(rest)
        at = dims[0] if dims == list(range(dims[0], dims[-1] + 1)) else 0
        found = field.with_dims([*rest[:at], *map(plain, shape[at : at + new]), *rest[at:]])
    result = call.merged(found, *ways)
    return unbounded(result, axes, call.why) if axes else result


@rule("grid_sampler_2d", "grid_sampler_3d", "_grid_sampler_2d_cpu_fallback", "cudnn_grid_sampler")
def _grid_sampling(call: Call) -> Field:
    """Reads where the grid points; the base is the place of the same relative position."""
    field, grid = call.first, call.field("grid")
    sizes = zip(field.shape[2:], call.shape[2:], strict=True)
    base = windowed(field, [reads.nearest(Fraction(*pair)) for pair in sizes], call.shape[2:], call.why)
    grid = grid.reduced((len(grid.dims) - 1,), call.why)
    result = call.merged(base, grid.with_dims([grid.dims[0], (), *grid.dims[1:]]))
    return unbounded(result, base.axes_in(range(2, len(base.dims))), call.why)


@rule("affine_grid_generator")
def _affine_grid(call: Call) -> Field:
    return call.merged(call.first.reduced(range(3), call.why))
