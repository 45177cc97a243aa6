"""Convolutional networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.specimen import CLASSES, IMAGES, SIGNALS, VOLUMES, Output, specimen


def _pooled_head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]


@specimen(IMAGES)
def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(64, CLASSES),
    )  # fmt: skip


@specimen(IMAGES)
class ResidualBlock(nn.Module):
    """BatchNorms after convolutions without bias, and a projection on the shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12)
        self.second, self.second_norm = nn.Conv2d(12, 12, 3, 1, 1, bias=False), nn.BatchNorm2d(12)
        self.shortcut = nn.Sequential(nn.Conv2d(3, 12, 1, 2, bias=False), nn.BatchNorm2d(12))
        self.head = nn.Linear(12, CLASSES)

    def forward(self, image: Tensor) -> Output:
        hidden = self.first_norm(self.first(image)).relu()
        hidden = (self.second_norm(self.second(hidden)) + self.shortcut(image)).relu()
        return self.head(hidden.mean((2, 3)))


@specimen(IMAGES)
def depthwise_separable() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8),
        nn.ReLU6(), nn.Conv2d(8, 16, 1), nn.Hardswish(), *_pooled_head(16),
    )  # fmt: skip


@specimen(IMAGES)
def grouped_convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, groups=4), nn.ReLU(), *_pooled_head(16)
    )


@specimen(IMAGES)
def depthwise_multiplier() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.ReLU(), nn.Conv2d(6, 12, 1), nn.ReLU(),
        *_pooled_head(12),
    )  # fmt: skip


@specimen(IMAGES)
def group_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 16, 3),
        nn.GroupNorm(1, 16), nn.SiLU(), *_pooled_head(16),
    )  # fmt: skip


@specimen(IMAGES)
def instance_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True), nn.ReLU(),
        nn.Conv2d(8, 8, 3), nn.InstanceNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, CLASSES),
    )  # fmt: skip


@specimen(IMAGES)
class InvertedBottleneck(nn.Module):
    """Widens, filters depthwise and narrows, with a residual connection around it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = nn.Sequential(
            nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6(),
            nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.BatchNorm2d(24), nn.ReLU6(),
            nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8),
        )  # fmt: skip
        self.head = nn.Linear(8, CLASSES)

    def forward(self, image: Tensor) -> Output:
        features = self.stem(image)
        return self.head((features + self.block(features)).mean((2, 3)))


@specimen(IMAGES)
class SqueezeAndExcite(nn.Module):
    """Channels are scaled by numbers that other layers compute from them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.body, self.head = nn.Conv2d(12, 12, 3), nn.Linear(12, CLASSES)

    def forward(self, image: Tensor) -> Output:
        features = self.stem(image).relu()
        gate = self.excite(self.squeeze(F.adaptive_avg_pool2d(features, 1)).relu()).sigmoid()
        return self.head(self.body(features * gate).relu().mean((2, 3)))


@specimen(IMAGES)
class DenseBlock(nn.Module):
    """DenseNet: each layer reads the concatenation of all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 6, 3, padding=1))
            for width in (3, 9, 15)
        )
        self.head = nn.Linear(21, CLASSES)

    def forward(self, image: Tensor) -> Output:
        features = [image]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.head(torch.cat(features, 1).mean((2, 3)))


@specimen(IMAGES)
class UNet(nn.Module):
    """Down and up again with a transposed convolution, and a concatenation with the way down."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.up = nn.ConvTranspose2d(12, 8, 2, stride=2)
        self.merge, self.head = nn.Conv2d(16, 8, 3, padding=1), nn.Linear(8, CLASSES)

    def forward(self, image: Tensor) -> Output:
        down = self.down(image).relu()
        up = self.up(self.bottom(F.max_pool2d(down, 2)).relu())
        return self.head(self.merge(torch.cat([up, down], 1)).relu().mean((2, 3)))


@specimen(IMAGES)
def pixel_shuffle() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.PixelShuffle(2), nn.Conv2d(4, 8, 3), nn.ReLU(),
        *_pooled_head(8),
    )  # fmt: skip


@specimen(IMAGES)
class ChannelShuffle(nn.Module):
    """ShuffleNet: grouped convolutions with their channels interleaved, half of them untouched."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.branch, self.grouped = nn.Conv2d(8, 8, 1), nn.Conv2d(16, 16, 1, groups=2)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, image: Tensor) -> Output:
        left, right = self.stem(image).relu().chunk(2, 1)
        joined = torch.cat([left, self.branch(right).relu()], 1)
        shuffled = joined.reshape(-1, 2, 8, 8, 8).transpose(1, 2).flatten(1, 2)
        return self.head(self.grouped(shuffled).relu().mean((2, 3)))


@specimen(IMAGES)
class AdaptivePooling(nn.Module):
    """Average and maximum over a grid, joined and flattened: each channel has several columns."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(64, CLASSES)

    def forward(self, image: Tensor) -> Output:
        features = self.body(image).relu()
        pooled = [F.adaptive_avg_pool2d(features, 2), F.adaptive_max_pool2d(features, 2)]
        return self.head(torch.cat(pooled, 1).flatten(1))


@specimen(IMAGES)
class Upsampled(nn.Module):
    """Interpolation between convolutions with unusual padding, stride and dilation."""

    def __init__(self) -> None:
        super().__init__()
        self.circular = nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular")
        self.dilated = nn.Conv2d(8, 8, 3, padding="same", dilation=2)
        self.reflected = nn.Conv2d(8, 8, 3, stride=2, padding=1, padding_mode="reflect")
        self.head = nn.Linear(8, CLASSES)

    def forward(self, image: Tensor) -> Output:
        features = self.dilated(self.circular(image).relu()).relu()
        larger = F.interpolate(features, scale_factor=2.0, mode="nearest")
        return self.head(self.reflected(larger).relu().mean((2, 3)))


@specimen(IMAGES)
class ConvCalledTwice(nn.Module):
    """A pyramid: one convolution at two resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, image: Tensor) -> Output:
        fine = self.stem(image).relu()
        coarse = F.avg_pool2d(fine, 2)
        levels = [self.shared(level).relu().mean((2, 3)) for level in (fine, coarse)]
        return self.head(torch.cat(levels, 1))


@specimen(IMAGES)
def channels_last() -> nn.Module:
    network = cnn()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.to(memory_format=torch.channels_last)
    return network


@specimen(SIGNALS)
def conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(),
        nn.Conv1d(8, 12, 3, dilation=2), nn.ELU(), nn.AdaptiveMaxPool1d(2), nn.Flatten(),
        nn.Linear(24, CLASSES),
    )  # fmt: skip


@specimen(VOLUMES)
def conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 8, 2), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, CLASSES),
    )  # fmt: skip


@specimen(SIGNALS)
def transposed_convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 8, 4, stride=2), nn.ReLU(), nn.ConvTranspose1d(8, 6, 4, stride=2), nn.ReLU(),
        nn.Conv1d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(84, CLASSES),
    )  # fmt: skip


@specimen(IMAGES)
class PatchMixer(nn.Module):
    """Image patches by a strided convolution, then layers over patches and over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 2, stride=2)
        self.over_patches, self.over_channels = nn.Linear(16, 16), nn.Linear(12, 12)
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, CLASSES)

    def forward(self, image: Tensor) -> Output:
        features = self.patches(image).flatten(2)
        features = features + self.over_patches(features).relu()
        features = features.transpose(1, 2)
        return self.head(self.norm(features + self.over_channels(features).relu()).mean(1))


@specimen(IMAGES)
class FilterBank(nn.Module):
    """A fixed filter that a buffer holds, applied by a function."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]]))
        self.body, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, CLASSES)

    def forward(self, image: Tensor) -> Output:
        edges = F.conv2d(image, self.kernel.expand(3, 1, 3, 3), padding=1, groups=3)
        return self.head(self.body(image + edges).relu().mean((2, 3)))


@specimen(IMAGES)
def one_channel_inside() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 1, 3), nn.BatchNorm2d(1), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, CLASSES),
    )  # fmt: skip
