# SPDX-License-Identifier: Apache-2.0
"""The networks of this package: where each stands, its paper, what that counts, and whose names its parameters have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        file: the module of this package that makes it.
        paper: who, and when.
        params, macs: exactly, with the classes of its paper and an image of ``size`` by ``size``, or ``size`` tokens;
            multiply-adds of convolutions and linear maps.
        published: what its paper or its reference code counts, and which of the two does; "" where neither does.
        names: whose names its parameters have; "" where there is no reference code.
        size: of the input.
    """

    file: str
    paper: str
    params: int
    macs: int
    published: str = ""
    names: str = ""
    size: int = 224


_TORCHVISION, _DRN, _FAIRSEQ = "torchvision", "fyu/drn", "fairseq"
_RESNET, _DEEPLAB = "He et al., 2015", "Chen et al., 2017"
_FCN, _YU, _WU = "Long et al., 2015", "Yu et al., 2017", "Wu et al., 2019"
_VGG = "wkentaro/pytorch-fcn"

NETWORKS = {
    "conv_autoencoder": Network("autoencoder", "Masci et al., 2011", 258_723, 28_672_000, size=64),
    "convnext_tiny": Network(
        "convnext", "Liu et al., 2022", 28_589_128, 4_455_531_264, "28,589,128; 4.456 G (torchvision)", _TORCHVISION
    ),
    "deeplabv3_resnet50": Network(
        "segmentation", _DEEPLAB, 39_638_869, 31_310_548_992, "42,004,074 with aux (torchvision)", _TORCHVISION
    ),
    "deformable_resnet50": Network("deformable", "Dai et al., 2017; Zhu et al., 2019", 26_428_295, 4_278_172_160),
    "drn_a_50": Network("drn", _YU, 25_557_032, 19_079_364_608, "25.6 M (code)", _DRN),
    "drn_c_26": Network("drn", _YU, 21_126_584, 16_971_239_424, "21.1 M (code)", _DRN),
    "drn_c_42": Network("drn", _YU, 31_234_744, 25_063_624_704, "31.2 M (code)", _DRN),
    "drn_d_22": Network("drn", _YU, 16_393_752, 13_034_229_760, "16.4 M (code)", _DRN),
    "drn_d_38": Network("drn", _YU, 26_501_912, 21_126_615_040, "26.5 M (code)", _DRN),
    "drn_d_54": Network("drn", _YU, 35_809_176, 28_486_832_128, "35.8 M (code)", _DRN),
    "dynamicconv_encoder": Network("sequence", _WU, 17_716_224, 396_794_880, names=_FAIRSEQ, size=30),
    "effnet": Network("effnet", "Freeman et al., 2018", 112_746, 5_601_792, size=32),
    "efficientnet_b0": Network(
        "efficientnet", "Tan & Le, 2019", 5_288_548, 385_814_752, "5,288,548; 0.386 G (torchvision)", _TORCHVISION
    ),
    "fcn32s": Network("fcn", _FCN, 136_152_917, 62_787_564_288, names=_VGG),
    "fcn8s": Network("fcn", _FCN, 134_489_759, 62_860_657_728, names=_VGG),
    "fcn_resnet50": Network(
        "segmentation", _FCN, 32_957_013, 26_484_498_432, "35,322,218 with aux (torchvision)", _TORCHVISION
    ),
    "lightconv_encoder": Network("sequence", _WU, 17_411_668, 387_640_320, names=_FAIRSEQ, size=30),
    "mobilenet_v1": Network("mobilenet", "Howard et al., 2017", 4_231_976, 568_740_352, "4.2 M; 569 M (paper)"),
    "mobilenet_v2": Network(
        "mobilenet", "Sandler et al., 2018", 3_504_872, 300_774_272, "3,504,872; 0.301 G (torchvision)", _TORCHVISION
    ),
    "replknet_31b": Network(
        "replknet", "Ding et al., 2022", 79_864_168, 15_431_298_048, "79 M; 15.3 G (paper)", "DingXiaoH/RepLKNet"
    ),
    "resnet50": Network(
        "resnet", _RESNET, 25_557_032, 4_089_184_256, "25,557,032; 4.089 G (torchvision)", _TORCHVISION
    ),
    "resnext50_32x4d": Network(
        "resnet", "Xie et al., 2016", 25_028_904, 4_230_479_872, "25,028,904; 4.230 G (torchvision)", _TORCHVISION
    ),
    "shufflenet_v1": Network("shufflenet", "Zhang et al., 2017", 1_865_728, 137_460_672, "137 M (paper)"),
    "shufflenet_v2": Network(
        "shufflenet", "Ma et al., 2018", 2_278_604, 144_907_992, "2,278,604; 0.145 G (torchvision)", _TORCHVISION
    ),
    "xception": Network("xception", "Chollet, 2017", 22_855_952, 8_357_403_496, "22,855,952 (paper)", "timm", size=299),
}
