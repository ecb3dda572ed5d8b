"""The convolutions of the visual tokenizer, as in OpenAI's released encoder and decoder (github.com/openai/DALL-E)."""

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import nn, Tensor
from torch.nn import functional as F

NUM_GROUPS = 4
# Logits per position in memory at a time. On a CPU slices of 2048 cost no time, smaller slices do.
VOCAB_SLICE = 2048


class Conv2d(nn.Module):
    """Convolution with the released names `w` and `b`; 'same' padding, normal initialisation of 1 / sqrt(fan in)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.w = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.b = nn.Parameter(torch.zeros(out_channels))
        nn.init.normal_(self.w, std=1 / math.sqrt(in_channels * kernel_size**2))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.w.to(x.dtype), self.b.to(x.dtype), padding=self.w.shape[-1] // 2)


class ResidualBlock(nn.Module):
    """Identity plus a gain times four convolutions; the encoder's last and the decoder's first are 1 x 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel_sizes: list[int], num_layers: int):
        super().__init__()
        hidden_channels = out_channels // 4
        self.post_gain = 1 / num_layers**2
        self.id_path = Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        widths = [in_channels, hidden_channels, hidden_channels, hidden_channels, out_channels]
        self.res_path = nn.Sequential()
        for index, kernel_size in enumerate(kernel_sizes):
            self.res_path.add_module(f'relu_{index + 1}', nn.ReLU())
            self.res_path.add_module(f'conv_{index + 1}', Conv2d(widths[index], widths[index + 1], kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        return self.id_path(x) + self.post_gain * self.res_path(x)


def _groups(
    first: Conv2d, last: Conv2d, widths: list[int], kernel_sizes: list[int], blocks_per_group: int, **resize: nn.Module
) -> nn.Sequential:
    """Input convolution, four groups of residual blocks with a resize after the first three, output convolution."""
    layers = OrderedDict[str, nn.Module](input=first)
    for index in range(NUM_GROUPS):
        inner, outer = widths[index : index + 2]
        group = OrderedDict[str, nn.Module]()
        for block in range(blocks_per_group):
            group[f'block_{block + 1}'] = ResidualBlock(
                outer if block else inner, outer, kernel_sizes, NUM_GROUPS * blocks_per_group
            )
        if index < NUM_GROUPS - 1:
            group.update(resize)
        layers[f'group_{index + 1}'] = nn.Sequential(group)
    layers['output'] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=last))
    return nn.Sequential(layers)


class Encoder(nn.Module):
    """Images to features, which the last convolution turns into logits."""

    def __init__(self, n_hid: int, blocks_per_group: int, vocab_size: int):
        super().__init__()
        widths = [n_hid, n_hid, 2 * n_hid, 4 * n_hid, 8 * n_hid]
        first, last = Conv2d(3, n_hid, 7), Conv2d(8 * n_hid, vocab_size, 1)
        self.blocks: Any = _groups(first, last, widths, [3, 3, 3, 1], blocks_per_group, pool=nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W), mapped to [0.1, 0.9], to features (B, 8 n_hid, H / 8, W / 8), in the images' dtype."""
        return self.blocks.output.relu(self.blocks[:-1](x))

    def most_likely(self, features: Tensor) -> Tensor:
        """Arg-max of the logits, int64 (B, H / 8, W / 8), without the logits of the whole vocabulary at once."""
        last = self.blocks.output.conv
        highest, tokens = F.conv2d(features, last.w[:VOCAB_SLICE], last.b[:VOCAB_SLICE]).max(dim=1)
        for start in range(VOCAB_SLICE, len(last.w), VOCAB_SLICE):
            stop = start + VOCAB_SLICE
            logit, index = F.conv2d(features, last.w[start:stop], last.b[start:stop]).max(dim=1)
            better = logit > highest  # the first of equal logits, as argmax
            highest, tokens = torch.where(better, logit, highest), torch.where(better, start + index, tokens)
        return tokens


class Decoder(nn.Module):
    """Code weights (B, vocab_size, h, w) to six channels (B, 6, 8h, 8w): logit-Laplace means and log scales."""

    def __init__(self, n_hid: int, n_init: int, blocks_per_group: int, vocab_size: int):
        super().__init__()
        widths = [n_init, 8 * n_hid, 4 * n_hid, 2 * n_hid, n_hid]
        first, last = Conv2d(vocab_size, n_init, 1), Conv2d(n_hid, 6, 1)
        upsample = nn.Upsample(scale_factor=2, mode='nearest')
        self.blocks: Any = _groups(first, last, widths, [1, 3, 3, 3], blocks_per_group, upsample=upsample)

    def forward(self, codes: Tensor) -> Tensor:
        return self.blocks(codes)

    def forward_tokens(self, tokens: Tensor) -> Tensor:
        """`forward` of one-hot codes, from tokens (B, h, w): the input convolution becomes a look-up."""
        first = self.blocks.input
        embedded = F.embedding(tokens, first.w.flatten(1).t()) + first.b
        return self.blocks[1:](embedded.permute(0, 3, 1, 2))
