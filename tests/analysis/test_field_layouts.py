# SPDX-License-Identifier: Apache-2.0
"""Elements on the move: patches, windows, shuffles, joins and writes in place keep or lose their field rightly."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from omniconv.analysis.field.receptive_field import receptive_field

MAP = (1, 4, 32, 32)


class Call(nn.Module):
    def __init__(self, function, *layers):
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs):
        return self.function(*inputs, *self.layers)


def conv(k=3, s=1, d=1, **more):
    return nn.Conv2d(4, 4, k, s, d * (k - 1) // 2, d, **more)


def field(function, *layers, shape=MAP, **options):
    return receptive_field(Call(function, *layers), shape, **options)


def focus(x, c):
    return c(torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)[:, ::4])


def patchify(x, linear):
    patches = x.view(1, 4, 8, 4, 8, 4).permute(0, 2, 4, 3, 5, 1).reshape(1, 64, 64)
    return linear(patches).mT.unflatten(2, (8, 8))


def window_attention(x, size, shift):
    n, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1)
    shifted = torch.roll(x, (-shift, -shift), (1, 2)) if shift else x
    tokens = shifted.view(n, h // size, size, w // size, size, c).transpose(2, 3).reshape(-1, size * size, c)
    seen = (tokens @ tokens.mT).softmax(-1) @ tokens
    seen = seen.view(n, h // size, w // size, size, size, c).transpose(2, 3).reshape(n, h, w, c)
    back = torch.roll(seen, (shift, shift), (1, 2)) if shift else seen
    return (x + back).permute(0, 3, 1, 2)


def zero_inserted(x, c):
    room = x.new_zeros(1, 4, 64, 64)
    room[..., ::2, ::2] = x
    return c(room)


def two_halves(x, c):
    out = torch.empty_like(x)
    out[:, :2] = c(x)[:, :2]
    out[:, 2:] = x[:, 2:]
    return out


def temporal_shift(x):
    out = torch.zeros_like(x)
    out[:, :1, :-1] = x[:, :1, 1:]
    out[:, 1:2, 1:] = x[:, 1:2, :-1]
    out[:, 2:] = x[:, 2:]
    return out


def in_pieces(x, c):
    padded = F.pad(x, (0, 0, 1, 1))
    return torch.cat([c(padded[:, :, :18]), c(padded[:, :, 16:])], 2)


def unfolded(x):
    columns = F.unfold(x, 5, dilation=2, padding=4, stride=2)
    return columns.view(1, 4, 25, 256).mean(2).view(1, 4, 16, 16)


def sliding(x):
    return x.unfold(2, 5, 3).mean(-1)


def folded(x):
    return F.fold(F.unfold(x, 3, padding=1), (32, 32), 3, padding=1)


def interleaved(x, a, b):
    both = torch.stack([a(x), b(x)], 3)
    return both.flatten(2, 3)


def first_in_place(x, c):
    y = c(x)
    y.mul_(2).relu_()
    y[:, 0].add_(1)
    return y


def written_through_a_view(x, c):
    y = torch.zeros(1, 4, 32 * 32)
    y.view(1, 4, 32, 32).copy_(c(x))
    return y.view(1, 4, 32, 32)


def transposed_view(x, c):
    y = torch.zeros(1, 4, 32, 32)
    y.transpose(2, 3).copy_(c(x))
    return y


LOCAL = {
    "focus": (focus, [nn.Conv2d(4, 4, 3, padding=1)], "6×6, stride 2, start -2"),
    "patches": (patchify, [nn.Linear(64, 5)], "4×4, stride 4, start 0"),
    "windows": (lambda x: window_attention(x, 4, 0), [], "4×4, stride 1, start 0"),
    "unshuffle, shuffle": (
        lambda x, c: F.pixel_shuffle(c(F.pixel_unshuffle(x, 2)), 2),
        [nn.Conv2d(16, 16, 3, padding=1)],
        "6×6, stride 1, start -2",
    ),
    "unshuffle, depthwise": (
        lambda x, c: F.pixel_shuffle(c(F.pixel_unshuffle(x, 2)), 2),
        [nn.Conv2d(16, 16, 3, padding=1, groups=16)],
        "5×5, stride 1, start -2",
    ),
    "channel shuffle": (lambda x, c: F.channel_shuffle(c(x), 2), [conv()], "3×3, stride 1, start -1"),
    "shuffle": (lambda x, c: c(F.pixel_shuffle(x, 2)), [nn.Conv2d(1, 1, 3, padding=1)], "2×2, stride 1/2, start -1"),
    "repeat_interleave": (
        lambda x, c: c(x.repeat_interleave(2, 2).repeat_interleave(2, 3)),
        [conv()],
        "2×2, stride 1/2, start -1",
    ),
    "expanded": (
        lambda x, c: c(x[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2).reshape(1, 4, 64, 64)),
        [conv()],
        "2×2, stride 1/2, start -1",
    ),
    "zeros inserted": (zero_inserted, [conv()], "2×2 (by phase 1/2), stride 1/2, start 0"),
    "written halves": (two_halves, [conv()], "3×3, stride 1, start -1"),
    "temporal shift": (temporal_shift, [], "3×1, stride 1, start -1×0"),
    "in pieces": (in_pieces, [nn.Conv2d(4, 4, 3, padding=(0, 1))], "3×3, stride 1, start -1"),
    "unfold": (unfolded, [], "9×9, stride 2, start -4"),
    "windows of a tensor": (sliding, [], "5×1, stride 3×1, start 0"),
    "fold": (folded, [], "5×5, stride 1, start -2"),
    "interleaved rows": (interleaved, [conv(), conv(5)], "5×5, stride 1/2×1, start -2"),
    "in place": (first_in_place, [conv()], "3×3, stride 1, start -1"),
    "written through a view": (written_through_a_view, [conv()], "3×3, stride 1, start -1"),
    "written transposed": (transposed_view, [nn.Conv2d(4, 4, (3, 5), padding=(1, 2))], "3×5, stride 1, start -1×-2"),
    "crop": (lambda x, c: c(x)[:, :, 2:-2, 3:], [conv(s=2)], "3×3, stride 2, start 3×5"),
    "mirrored": (lambda x, c: c(x.flip(3)).flip(3), [conv()], "3×3, stride 1, start -1"),
    "channels last": (
        lambda x, c: c(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        [nn.Linear(4, 4)],
        "1×1, stride 1, start 0",
    ),
    "einsum": (lambda x: torch.einsum("nchw,oc->nohw", x, torch.ones(2, 4)), [], "1×1, stride 1, start 0"),
    "circular": (lambda x, c: c(x), [conv(padding_mode="circular")], "3×3, stride 1, start -1"),
    "reflect": (lambda x, c: c(x), [conv(padding_mode="reflect")], "3×3, stride 1, start -1"),
    "Lp pooling": (lambda x, c: c(x), [nn.LPPool2d(2, 3, 2)], "3×3, stride 2, start 0"),
    "local response": (lambda x, c: c(x), [nn.LocalResponseNorm(3)], "1×1, stride 1, start 0"),
    "bicubic": (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), [], "4×4, stride 1/2, start -2"),
    "bicubic, shrunk": (
        lambda x: F.interpolate(x, scale_factor=0.5, mode="bicubic", antialias=True),
        [],
        "8×8, stride 2, start -3",
    ),
    "area": (lambda x: F.interpolate(x, size=(8, 16), mode="area"), [], "4×2, stride 4×2, start 0"),
}


@pytest.mark.parametrize(("function", "layers", "expected"), LOCAL.values(), ids=LOCAL)
def test_local(function, layers, expected):
    assert str(field(function, *layers)) == expected


def test_windows_shift_and_join():
    found = field(lambda x: window_attention(window_attention(x, 4, 0), 8, 4))
    assert found.is_global == (False, False)
    assert [found.interval(0, j) for j in (4, 11, 12)] == [(4, 11), (4, 11), (12, 19)]
    assert any("wraps around" in note for note in found.notes)


def test_attention_along_one_axis():
    def per_row(x):
        rows = x.permute(0, 2, 3, 1)
        return F.scaled_dot_product_attention(rows, rows, rows).permute(0, 3, 1, 2)

    found = field(per_row)
    assert found.is_global == (False, True)


def test_borders_of_circular_padding_are_said():
    circular, reflect = (receptive_field(conv(padding_mode=mode), MAP) for mode in ("circular", "reflect"))
    assert any("borders hold positions from elsewhere" in note for note in circular.notes)
    assert reflect.notes == ()


def test_tokens_and_a_class_token():
    def vit(x, patch, attend):
        tokens = patch(x).flatten(2).mT
        tokens = torch.cat([torch.zeros(1, 1, 8), tokens], 1)
        return attend(tokens)[:, 0]

    found = field(vit, nn.Conv2d(4, 8, 4, 4), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    assert found.is_global == (True, True)
    assert (found.size, found.stride) == ((4, 4), (4, 4))


def test_positions_lost_are_said():
    found = field(lambda x, c: c(x)[:, :, 3, 5], conv())
    assert (found.size, found.start, found.is_global) == ((3, 3), (2, 4), (False, False))
    assert len([note for note in found.notes if "no positions along axis" in note]) == 2


def test_no_dependence_is_said():
    found = field(lambda x: torch.ones(1, 4, 8, 8))
    assert (found.size, found.start, found.stride) == ((0, 0), (None, None), (0, 0))
    assert len(found.notes) == 2


def test_one_place_spread_over_all_is_global():
    assert field(lambda x: x + x[:, :, 3:4]).is_global == (True, False)
    assert field(lambda x: x + x.transpose(2, 3)).is_global == (True, True)
    assert field(lambda x: x + x.flip(2)).is_global == (True, False)
    assert field(lambda x: torch.cat([x, x[:, :, ::2]], 2)).is_global == (True, False)


def test_a_kernel_from_the_input():
    def dynamic(x, c):
        kernel = c(x).mean((2, 3)).view(4, 1, 1, 1).expand(4, 1, 3, 3)
        return F.conv2d(x, kernel, padding=1, groups=4)

    found = field(dynamic, conv(5))
    assert (found.is_global, found.size) == ((True, True), (3, 3))


def test_recurrence_step_by_step():
    def steps(x, cell):
        state, out = torch.zeros(1, 4), []
        for t in range(x.shape[2]):
            state = cell(x[:, :, t], state)
            out.append(state)
        return torch.stack(out, 2)

    found = receptive_field(Call(steps, nn.GRUCell(4, 4)), (1, 4, 6))
    assert found.size == (6,)
    assert found.notes


def test_embedded_tokens():
    ids = torch.zeros(1, 16, dtype=torch.long)
    model = Call(lambda t, e, c: c(e(t).mT), nn.Embedding(10, 4), nn.Conv1d(4, 4, 5, padding=2))
    assert str(receptive_field(model, ids, axes=(1,))) == "5, stride 1, start -2"


def test_unpooling_keeps_its_base():
    def around(x, c):
        small, places = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(c(small), places, 2)

    found = field(around, conv())
    assert (found.size, found.stride) == ((6, 6), (1, 1))
    assert found.unbounded == (True, True)


def test_adaptive_pooling_says_that_it_holds_for_this_size():
    found = field(lambda x: F.adaptive_avg_pool2d(x, (5, 32)))
    assert (found.stride, found.size) == ((Fraction(32, 5), 1), (8, 1))
    assert found.notes == ("`_adaptive_avg_pool2d` pools 32 positions to 5: the field holds for this input size",)
