"""OpenAI's CLIP in torch, for tests: a small network with the names, the mixed precision and the archive of theirs.

Their archives keep the weights of products (convolutions, linear maps, attention's projections, both projections into
the common space) in float16 and the rest in float32, and hold three whole numbers beside the weights. The network is
written from the paper (Radford et al., arXiv 2103.00020, section 2.4) with torch's own layers; products take the
dtype of their weights, norms are computed in float32.

>>> save(halved(Clip(VisionTower(32, 8, 128, 2, 16))), Path("archive.pt"))  # doctest: +SKIP
"""

# mypy: disallow_subclassing_any=False

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

WORDS, LENGTH, HEAD = 49408, 77, 64
NUMBERS = ("input_resolution", "context_length", "vocab_size")


class Norm(nn.LayerNorm):
    """Layer norm in float32, whatever comes in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.float()).to(x.dtype)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm in float32, whatever comes in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.float()).to(x.dtype)


class QuickGelu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // HEAD, batch_first=True)
        self.ln_1, self.ln_2 = Norm(width), Norm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGelu())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        y = self.ln_1(x)
        mask = None if mask is None else mask.to(x.dtype)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width) for _ in range(layers))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class VisionTower(nn.Module):
    """The ViT: `size` and `patch` in pixels."""

    def __init__(self, size: int, patch: int, width: int, layers: int, features: int) -> None:
        super().__init__()
        self.size, self.features = size, features
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((size // patch) ** 2 + 1, width) * 0.3)
        self.ln_pre, self.ln_post = Norm(width), Norm(width)
        self.transformer = Transformer(width, layers)
        self.proj = nn.Parameter(torch.randn(width, features) * width**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)  # [B, patches, width]
        start = self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        x = torch.cat([start, x], dim=1) + self.positional_embedding.to(x.dtype)
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class Bottleneck(nn.Module):
    def __init__(self, before: int, within: int, stride: int) -> None:
        super().__init__()
        after = 4 * within
        self.conv1, self.bn1 = nn.Conv2d(before, within, 1, bias=False), BatchNorm(within)
        self.conv2, self.bn2 = nn.Conv2d(within, within, 3, padding=1, bias=False), BatchNorm(within)
        self.conv3, self.bn3 = nn.Conv2d(within, after, 1, bias=False), BatchNorm(after)
        self.smooth = nn.AvgPool2d(stride)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or before != after:
            self.downsample = nn.Sequential()
            self.downsample.add_module("-1", nn.AvgPool2d(stride))
            self.downsample.add_module("0", nn.Conv2d(before, after, 1, bias=False))
            self.downsample.add_module("1", BatchNorm(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(self.smooth(y)))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class AttentionPool(nn.Module):
    def __init__(self, side: int, width: int, features: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(side**2 + 1, width) * width**-0.5)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1) + self.positional_embedding.to(x.dtype)
        split = (x.shape[0], -1, x.shape[2] // HEAD, HEAD)
        q, k, v = (layer(x).reshape(split).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj))
        mixed = torch.softmax(q[:, :, :1] @ k.transpose(2, 3) * HEAD**-0.5, dim=-1) @ v
        return self.c_proj(mixed.transpose(1, 2).flatten(1))


class ResNetTower(nn.Module):
    """The ModifiedResNet: `blocks` in each of its four stages."""

    def __init__(self, size: int, blocks: tuple[int, ...], width: int, features: int) -> None:
        super().__init__()
        self.size, self.features = size, features
        half = width // 2
        self.conv1, self.bn1 = nn.Conv2d(3, half, 3, stride=2, padding=1, bias=False), BatchNorm(half)
        self.conv2, self.bn2 = nn.Conv2d(half, half, 3, padding=1, bias=False), BatchNorm(half)
        self.conv3, self.bn3 = nn.Conv2d(half, width, 3, padding=1, bias=False), BatchNorm(width)
        before = width
        for stage, count in enumerate(blocks):
            within, layer = width * 2**stage, nn.Sequential()
            for index in range(count):
                layer.append(Bottleneck(before, within, 2 if stage and not index else 1))
                before = 4 * within
            self.add_module(f"layer{stage + 1}", layer)
        self.attnpool = AttentionPool(size // 32, before, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = nn.functional.avg_pool2d(torch.relu(self.bn3(self.conv3(x))), 2)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.attnpool(x)


class Clip(nn.Module):
    """Both towers; every weight is drawn at random, norms and their statistics too."""

    def __init__(self, visual: VisionTower | ResNetTower, width: int = 128, layers: int = 2) -> None:
        super().__init__()
        self.visual = visual
        self.token_embedding = nn.Embedding(WORDS, width)
        self.positional_embedding = nn.Parameter(torch.randn(LENGTH, width) * 0.3)
        self.transformer = Transformer(width, layers)
        self.ln_final = Norm(width)
        self.text_projection = nn.Parameter(torch.randn(width, visual.features) * width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(4.6052))
        with torch.no_grad():
            for name, value in [*self.named_parameters(), *self.named_buffers()]:
                if not value.is_floating_point():
                    continue
                if name.endswith("running_var"):
                    value.uniform_(0.5, 2.0)
                elif name.endswith(("running_mean", ".bias")) or ".ln_" in name or ".bn" in name:
                    value.add_(torch.randn_like(value) * 0.2)
                elif value.ndim == 4 or (".attnpool." in f".{name}" and value.ndim == 2):
                    value.normal_(0, (2 / value[0].numel()) ** 0.5)  # so that images stay apart through all layers

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, 3, size, size] -> [B, features], unit length."""
        features: torch.Tensor = self.visual(pixels.to(self.visual.conv1.weight.dtype))
        return nn.functional.normalize(features.float(), dim=-1)

    def texts(self, ids: torch.Tensor) -> torch.Tensor:
        """[B, T] -> [B, features], unit length; the largest id ends a text."""
        x = (self.token_embedding(ids) + self.positional_embedding).to(self.text_projection.dtype)
        mask = torch.full((LENGTH, LENGTH), float("-inf")).triu(1)
        x = self.ln_final(self.transformer(x, mask))
        last = x[torch.arange(x.shape[0]), ids.argmax(dim=-1)]
        return nn.functional.normalize((last @ self.text_projection).float(), dim=-1)

    def forward(self, pixels: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.logit_scale.exp() * self.images(pixels) @ self.texts(ids).T
        return logits


def halved(model: Clip) -> Clip:
    """A copy in the mixed precision of OpenAI's archives."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.MultiheadAttention):
            module.half()
    for holder, name in ((model, "text_projection"), (model.visual, "proj")):
        if hasattr(holder, name):
            setattr(holder, name, nn.Parameter(getattr(holder, name).detach().half()))
    return model


def save(model: Clip, path: Path, *, as_buffers: bool) -> Path:
    """Trace and save as OpenAI did; the three whole numbers as tensors of the state dict, or as plain attributes."""
    for name, value in zip(NUMBERS, (model.visual.size, LENGTH, WORDS), strict=True):
        if as_buffers:
            model.register_buffer(name, torch.tensor(value))
        else:
            setattr(model, name, value)
    size = model.visual.size
    example = torch.zeros(1, 3, size, size), torch.zeros(1, LENGTH, dtype=torch.long)
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(model, example, check_trace=False), path)
    return path
