# SPDX-License-Identifier: Apache-2.0
"""Every way to write and to run a model: modes, dtypes, devices, calls by function, operators that nobody knows."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

import omniconv


def profiled(model, input, **options):
    return omniconv.profile(model, input, **({"receptive_field": False} | options))


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(2), nn.Linear(64, 5))


SMALL_MACS = 64 * 4 * 27 + 4 * 64 * 5


class Calls(nn.Module):
    """Anything as the forward of a module."""

    def __init__(self, run, **children):
        super().__init__()
        self.run = run
        for name, child in children.items():
            self.register_module(name, child)

    def forward(self, *args, **kwargs):
        return self.run(self, *args, **kwargs)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad], ids=lambda m: m.__name__)
def test_grad_modes(mode):
    model = small()
    with mode():
        found = profiled(model, torch.randn(1, 3, 8, 8))
        expected = [("0", "standard"), ("1", "other"), ("3", "linear")]
    assert (found.macs, found.params, found.status) == (SMALL_MACS, 112 + 325, "complete")
    assert [(row.name, row.family) for row in found.rows] == expected
    assert [row.params for row in found.rows] == [112, 0, 325]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_dtypes(dtype):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(2), nn.Linear(64, 5)).to(dtype)
    found = profiled(model, torch.zeros(2, 3, 8, 8, dtype=dtype))
    whole = profiled(model.to(torch.float32), (2, 3, 8, 8))
    assert found.macs == whole.macs == 2 * SMALL_MACS
    assert found.bytes * 4 == whole.bytes * dtype.itemsize


def test_a_shape_becomes_an_input_of_the_models_dtype():
    seen = []
    model = Calls(lambda self, x: seen.append(x) or self.conv(x), conv=nn.Conv2d(3, 4, 3).bfloat16())
    profiled(model, (1, 3, 8, 8))
    profiled(model, [1, 3, 8, 8])
    assert [x.dtype for x in seen] == [torch.bfloat16] * 2
    assert torch.equal(*seen)
    assert seen[0].std() > 0.5


def test_autocast_keeps_parameters_with_their_layers():
    with torch.autocast("cpu", torch.bfloat16):
        found = profiled(small(), (1, 3, 8, 8))
    assert {row.name: row.params for row in found.rows if row.macs} == {"0": 112, "3": 325}
    assert found.macs == SMALL_MACS


def test_arguments_by_position_and_by_name():
    model = Calls(lambda self, x, scale, skip=None: self.conv(x) * scale + skip, conv=nn.Conv2d(3, 4, 1))
    x, skip = torch.randn(1, 3, 4, 4), torch.randn(1, 4, 4, 4)
    by_position = profiled(model, (x, 2.0, skip))
    by_name = profiled(model, {"x": (1, 3, 4, 4), "scale": 2.0, "skip": (1, 4, 4, 4)})
    assert by_position.to_dict() == by_name.to_dict()
    assert profiled(model, ((1, 3, 4, 4), 2.0, (1, 4, 4, 4))).to_dict() == by_name.to_dict()
    assert by_name.macs == 16 * 12


def test_meta_models_count_like_real_ones():
    model = nn.Sequential(small(), nn.LSTM(5, 7, 2, batch_first=True))
    real = profiled(model, (2, 3, 8, 8))
    assert profiled(model.to("meta"), (2, 3, 8, 8)).macs == real.macs
    assert real.macs == 2 * SMALL_MACS + 2 * 4 * 4 * (7 * 5 + 7 * 7 + 2 * 7 * 7)


def test_control_flow_that_depends_on_data():
    def run(self, x):
        steps = 0
        while x.abs().max() > 1e-3 and steps < 5:
            x, steps = self.conv(x) * 0.1, steps + 1
        return x

    model = Calls(run, conv=nn.Conv2d(3, 3, 1, bias=False))
    assert profiled(model, torch.zeros(1, 3, 4, 4)).macs == 0
    found = profiled(model, torch.ones(1, 3, 4, 4), receptive_field=True)
    products = [row for row in found.rows if row.macs]
    assert [row.label for row in products] == ["conv", *(f"conv #{i}" for i in range(2, len(products) + 1))]
    assert 1 < len(products) <= 5


def test_a_module_called_twice_and_a_weight_that_is_shared():
    one, two = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
    two.weight = one.weight
    found = profiled(nn.Sequential(one, one, two), (1, 3, 8, 8))
    assert [(row.name, row.call) for row in found.rows] == [("0", 1), ("0", 2), ("2", 1)]
    assert [(row.params, row.shared_params) for row in found.rows] == [(84, 0), (0, 84), (3, 81)]
    assert found.params == 87
    assert "shared" in found.rows[1].note


def test_functions_belong_to_the_innermost_module_that_ran_them():
    inner = Calls(lambda self, x: F.conv2d(F.conv2d(x, self.first.weight), self.first.weight), first=nn.Conv2d(4, 4, 1))
    outer = Calls(lambda self, x: self.inner(x) + F.conv2d(x, torch.ones(2, 4, 1, 1)).sum(), inner=inner)
    found = profiled(outer, (1, 4, 5, 5))
    assert [(row.name, row.channels) for row in found.rows if row.macs] == [
        ("inner", (4, 4)),
        ("inner", (4, 4)),
        ("", (4, 2)),
    ]
    assert found.rows[0].module == "Calls"
    assert found.rows[0].params == 16
    assert found.not_run == ()


def test_modules_that_did_not_run():
    model = Calls(lambda self, x: self.used(x), used=nn.Conv2d(3, 4, 1), spare=small())
    found = profiled(model, (1, 3, 4, 4))
    assert found.not_run == ("spare.0", "spare.3")
    assert found.coverage == {"counted": 1, "partial": 0, "unavailable": 2}
    assert found.params == 16 + 437
    assert "spare.0" in repr(found)


def test_compiled_models_are_seen_as_written():
    compiled = torch.compile(small(), backend="eager")
    compiled(torch.randn(1, 3, 8, 8))
    found = profiled(compiled, (1, 3, 8, 8))
    assert found.macs == SMALL_MACS
    assert [row.name for row in found.rows if row.macs] == ["_orig_mod.0", "_orig_mod.3"]


def test_scripted_traced_and_checkpointed_models():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(small())
        traced = torch.jit.trace(small(), torch.randn(1, 3, 8, 8))
        models = (scripted, traced, Calls(lambda self, x: checkpoint(self.net, x, use_reentrant=False), net=small()))
        for model in models:
            assert profiled(model, (1, 3, 8, 8)).macs == SMALL_MACS


def test_exported_programs():
    program = torch.export.export(small(), (torch.randn(1, 3, 8, 8),))
    assert profiled(program.module(), (1, 3, 8, 8)).macs == SMALL_MACS


def test_transforms_inside_a_model():
    weight = torch.randn(4, 3, 3, 3)
    by_vmap = Calls(lambda self, x: torch.vmap(lambda one: omniconv.functional.conv2d(one[None], weight))(x))
    assert profiled(by_vmap, (5, 3, 8, 8)).macs == 5 * 36 * 4 * 27
    by_grad = Calls(lambda self, x: torch.func.grad(lambda y: self.conv(y).sum())(x), conv=nn.Conv2d(3, 4, 3))
    found = profiled(by_grad, (1, 3, 8, 8))
    assert {name for row in found.rows for name, _ in row.operators} >= {"aten::convolution_backward"}
    assert found.macs == 2 * 36 * 4 * 27


def test_jagged_sequences():
    def run(self, x):
        ragged = torch.nested.nested_tensor([x[0, :2], x[1]], layout=torch.jagged)
        return self.layer(ragged).values()

    found = profiled(Calls(run, layer=nn.Linear(4, 5)), (2, 3, 4))
    assert (found.macs, found.status) == ((2 + 3) * 4 * 5, "complete")


def test_tensors_without_data():
    with FakeTensorMode():
        model = small()
        assert profiled(model, torch.empty(1, 3, 8, 8)).macs == SMALL_MACS


def test_branches_by_torch_cond():
    def run(self, x):
        return torch.cond(x.sum() > 0, lambda y: y @ y, lambda y: y + 1, (x,))

    assert profiled(Calls(run), torch.ones(3, 3)).macs == 27
    assert profiled(Calls(run), -torch.ones(3, 3)).macs == 0


@pytest.mark.parametrize("grad", [True, False])
def test_attention_and_recurrence(grad):
    d, h, length, n = 8, 2, 6, 3
    projected, pairs = 4 * n * length * d * d, 2 * n * length * length * d
    attention = nn.MultiheadAttention(d, h, batch_first=True).eval()
    layer = nn.TransformerEncoderLayer(d, h, 16, batch_first=True).eval()
    x = torch.randn(n, length, d)
    with torch.set_grad_enabled(grad):
        assert profiled(attention, (x, x, x)).macs == projected + pairs
        assert profiled(layer, x).macs == projected + pairs + 2 * n * length * d * 16
        assert profiled(Calls(lambda self, q: F.scaled_dot_product_attention(q, q, q)), (n, h, length, 4)).macs == pairs
        for kind, gates in ((nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)):
            found = profiled(kind(d, 5, 2, bidirectional=True, batch_first=True), x)
            assert found.macs == n * length * 2 * gates * 5 * (d + 5 + 10 + 5)
            assert found.status == "complete"


def flop_counter(model, *args):
    with FlopCounterMode(display=False) as counter:
        model(*args)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (Calls(lambda self, a, b: torch.einsum("nik,nkj->nij", a, b)), [(2, 3, 4), (2, 4, 5)]),
        (Calls(lambda self, a, b: a @ b), [(2, 1, 3, 4), (5, 4, 6)]),
        (Calls(lambda self, a, b: torch.baddbmm(torch.ones(3, 5), a, b)), [(2, 3, 4), (2, 4, 5)]),
        (nn.Sequential(nn.Conv3d(2, 4, 3), nn.ConvTranspose3d(4, 2, 2, 2, groups=2)), [(1, 2, 5, 6, 7)]),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), [(2, 5, 8)]),
        (nn.Bilinear(3, 4, 5, bias=False), [(2, 3), (2, 4)]),
    ],
    ids=["einsum", "broadcast", "baddbmm", "conv3d", "encoder", "bilinear"],
)
def test_half_of_torchs_own_count(model, shapes):
    inputs = tuple(torch.randn(shape) for shape in shapes)
    expected = flop_counter(model, *inputs) // 2
    if isinstance(model, nn.Bilinear):
        assert expected == 0  # torch does not count it
        expected = 2 * 5 * 3 * 4
    assert profiled(model, inputs).macs == expected > 0


def test_vectors():
    model = Calls(lambda self, a, v: (a @ v) @ v.new_ones(3) + torch.addmv(v.new_ones(3), a, v).sum())
    found = profiled(model, ((3, 4), (4,)))
    assert (found.macs, found.bias_adds) == (12 + 3 + 12, 3)


@pytest.fixture(scope="module")
def operators():
    library = torch.library.Library("profile_test", "DEF")
    library.define("mystery(Tensor x) -> Tensor")
    library.impl("mystery", lambda x: x.clone(), "CompositeExplicitAutograd")
    library.define("product(Tensor a, Tensor b) -> Tensor")
    library.impl("product", torch.mm, "CompositeExplicitAutograd")
    yield torch.ops.profile_test
    flop_registry.pop(torch.ops.profile_test.product, None)
    library._destroy()


def test_what_nobody_knows_is_named(operators):
    def run(self, x):
        return (
            torch.cdist(operators.mystery(operators.mystery(self.conv(x)))[0, 0], x[0, 0])
            + torch.fft.rfft(x).abs().sum()
        )

    found = profiled(Calls(run, conv=nn.Conv2d(3, 3, 1)), (1, 3, 4, 4))
    in_place = profiled(Calls(lambda self, x: torch._foreach_add_([x], 1.0) and x), (1, 3, 4, 4))
    assert in_place.uncounted == {"aten::_foreach_add_": 1}
    assert found.status == "partial"
    assert found.uncounted == {"profile_test::mystery": 2, "aten::_fft_r2c": 1}
    assert found.coverage == {"counted": 1, "partial": 1, "unavailable": 0}
    assert "profile_test.mystery ×2 not counted" in repr(found)
    assert "≥" in repr(found)
    assert found.to_dict()["status"] == "partial"


def test_formulas_given_to_torch_are_used(operators):
    model = Calls(lambda self, a, b: operators.product(a, b))
    assert profiled(model, ((3, 4), (4, 5))).status == "partial"
    register_flop_formula(operators.product)(lambda a, b, *_, out_shape=None, **__: 2 * a[0] * a[1] * b[1])
    found = profiled(model, ((3, 4), (4, 5)))
    assert (found.macs, found.status) == (60, "complete")


def test_deformable_convolution_by_torchvisions_name():
    library = torch.library.Library("torchvision", "FRAGMENT")
    if not hasattr(torch.ops.torchvision, "deform_conv2d"):
        library.define(
            "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, int stride_h, "
            "int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, int groups, int offset_groups, "
            "bool use_mask) -> Tensor"
        )
        library.impl(
            "deform_conv2d", lambda x, w, *_: x.new_zeros(len(x), len(w), *x.shape[2:]), "CompositeExplicitAutograd"
        )

    def run(self, x):
        offset = self.offset(x)
        weight = self.conv.weight
        mask, bias = x.new_ones(1, 9, 20, 24), x.new_zeros(32)
        return torch.ops.torchvision.deform_conv2d(x, weight, offset, mask, bias, 1, 1, 1, 1, 1, 1, 1, 1, False)

    offset, conv = nn.Conv2d(16, 18, 3, padding=1, bias=False), nn.Conv2d(16, 32, 3, bias=False)
    found = profiled(Calls(run, offset=offset, conv=conv), (1, 16, 20, 24))
    library._destroy()
    assert found.macs == 3_456_000
    assert found.sampling == 20 * 24 * 9 * 16 * 4
    assert found.rows[-1].family == "deformable"
    assert found.rows[-1].params == 4608


@pytest.mark.parametrize(
    ("model", "input", "error", "text"),
    [
        (nn.Conv2d, (1, 3, 8, 8), TypeError, r"`model` \(=Conv2d\) must be an nn.Module"),
        (lambda x: x, (1, 3, 8, 8), TypeError, r"`model` \(=function\) must be an nn.Module"),
        (small(), 3, TypeError, r"`input` \(=3\) must be a tensor, a shape"),
        (small(), None, TypeError, r"`input` \(=None\) must be"),
        (small(), "1,3,8,8", TypeError, r"`input` \(='1,3,8,8'\) must be"),
        (small(), (), ValueError, r"`input` \(=\(\)\) must hold"),
        (
            small(),
            (1, 3, -8, 8),
            ValueError,
            r"`input` shape \(=\(1, 3, -8, 8\)\) must have sizes of 0 or more; use \(1, 3, 8, 8\)",
        ),
        (small(), {1: torch.ones(1)}, TypeError, r"`input` key \(=1\)"),
    ],
)
def test_refuses(model, input, error, text):
    with pytest.raises(error, match=text):
        omniconv.profile(model, input)


@pytest.mark.parametrize(("depth", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_refuses_a_depth(depth, error):
    with pytest.raises(error, match="`depth`"):
        omniconv.profile(small(), (1, 3, 8, 8), depth=depth)


def test_refuses_to_time_what_has_no_data():
    with pytest.raises(ValueError, match=r"`time` \(=True\) needs data"):
        omniconv.profile(small().to("meta"), (1, 3, 8, 8), time=True)


def test_a_models_own_error_comes_through():
    with pytest.raises(RuntimeError, match="to have 3 channels, but got 5"):
        omniconv.profile(small(), (1, 5, 8, 8))
