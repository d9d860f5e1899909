"""The network: a crop with its prompt in, three masks and how good each is likely to be out.

A U-Net of plain 3x3 convolutions, with self-attention where the crop is smallest, so that far parts of one large object
know of each other. Everything is a multiple of 16 pixels wide; it is trained at 64 to 160.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS_IN = 7  # Red, green, blue, box, clicks inside, clicks outside, mask before.
MASKS = 3


class Convolution(nn.Sequential):
    """A convolution, normalised; its norm is folded into it for serving."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, relu: bool = True) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        super().__init__(*layers, *([nn.ReLU(inplace=True)] if relu else []))


class Residual(nn.Module):
    """Two convolutions beside a way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = Convolution(width, width), Convolution(width, width, relu=False)
        nn.init.zeros_(self.second[1].weight)

    def forward(self, features: Tensor) -> Tensor:
        """(N, width, h, w) to the same."""
        return functional.relu(features + self.second(self.first(features)))


class Attention(nn.Module):
    """A transformer's block over the cells of the smallest map."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.near = nn.Conv2d(width, width, 3, padding=1, groups=width)  # Tells a cell where it is.
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, features: Tensor) -> Tensor:
        """(N, width, h, w) to the same."""
        count, width, height, columns = features.shape
        tokens = (features + self.near(features)).flatten(2).transpose(1, 2)
        parts = self.qkv(self.before(tokens)).view(count, -1, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = parts[0], parts[1], parts[2]
        weights = torch.softmax(query @ key.transpose(-1, -2) * (width // self.heads) ** -0.5, -1)
        tokens = tokens + self.out((weights @ value).transpose(1, 2).reshape(count, -1, width))
        tokens = tokens + self.mlp(self.between(tokens))
        return tokens.transpose(1, 2).reshape(count, width, height, columns)


class Network(nn.Module):
    """See the module."""

    def __init__(
        self, widths: tuple[int, ...] = (16, 32, 96, 160), blocks: tuple[int, ...] = (0, 1, 2, 2), attention: int = 2
    ) -> None:
        super().__init__()
        finest, deepest = widths[0], widths[-1]
        self.stem = Convolution(CHANNELS_IN, finest, 4, 2)
        self.downs = nn.ModuleList(Convolution(above, width, 3, 2) for above, width in pairwise(widths))
        self.levels = nn.ModuleList(
            nn.Sequential(*(Residual(width) for _ in range(count))) for width, count in zip(widths, blocks, strict=True)
        )
        self.whole = nn.Sequential(*(Attention(deepest, deepest // 32) for _ in range(attention)))
        pairs = list(pairwise(widths))[::-1]
        self.narrow = nn.ModuleList(Convolution(below, width, 1, relu=False) for width, below in pairs)
        self.merge = nn.ModuleList(
            Residual(width) if width != finest else Convolution(width, width) for width, _ in pairs
        )
        self.masks = nn.Conv2d(finest, MASKS, 3, padding=1)
        self.quality = nn.Sequential(nn.Linear(2 * deepest + 2 * MASKS, 64), nn.ReLU(), nn.Linear(64, MASKS))

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 7, S, S) to (N, 3, S / 2, S / 2) logits and (N, 3) logits of the IoU to be expected."""
        features = self.levels[0](self.stem(crops))
        skips = []
        for down, level in zip(self.downs, list(self.levels)[1:], strict=True):
            skips.append(features)
            features = level(down(features))
        features = self.whole(features)
        seen = [features.mean((2, 3)), features.amax((2, 3))]
        for narrow, merge, skip in zip(self.narrow, self.merge, skips[::-1], strict=True):
            features = merge(functional.relu(functional.interpolate(narrow(features), scale_factor=2.0) + skip))
        logits = self.masks(features)
        inside = torch.sigmoid(logits.detach().float())
        area = inside.mean((2, 3))
        undecided = (inside * (1 - inside)).mean((2, 3)) / (area + 1e-3)
        return logits, self.quality(torch.cat([*seen, area, undecided], 1))
