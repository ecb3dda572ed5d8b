"""DiscreteVAE: images to visual tokens and back, and its training (DALL-E, arXiv 2102.12092, section 2.1).

Layers are those of OpenAI's release (github.com/openai/DALL-E).
"""

import math
from collections import OrderedDict
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn, Tensor
from torch.nn import functional as F

from beit_mm.errors import UserError
from beit_mm.models.weights import has_tokenizer, require_tokenizer_weights
from beit_mm.registry import MODELS

from .tokenizer import check_images, codebook_use, Tokenizer

STRIDE = 8  # three poolings by two
LOGIT_LAPLACE_EPS = 0.1
ENCODE_DTYPES = ('float32', 'float16', 'bfloat16')
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

    def __init__(self, n_hid: int, blocks_per_group: int, vocab_size: int, in_channels: int = 3):
        super().__init__()
        widths = [n_hid, n_hid, 2 * n_hid, 4 * n_hid, 8 * n_hid]
        first, last = Conv2d(in_channels, n_hid, 7), Conv2d(8 * n_hid, vocab_size, 1)
        self.blocks: Any = _groups(first, last, widths, [3, 3, 3, 1], blocks_per_group, pool=nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W), mapped to [0.1, 0.9], to features (B, 8 n_hid, H / 8, W / 8), in the images' dtype."""
        return self.blocks.output.relu(self.blocks[:-1](x))

    def most_likely(self, features: Tensor) -> Tensor:
        """Arg-max of the logits, int64 (B, H / 8, W / 8), without the logits of the whole vocabulary at once."""
        last = self.blocks.output.conv
        w, b = last.w.to(features.dtype), last.b.to(features.dtype)
        highest, tokens = F.conv2d(features, w[:VOCAB_SLICE], b[:VOCAB_SLICE]).max(dim=1)
        for start in range(VOCAB_SLICE, len(w), VOCAB_SLICE):
            stop = start + VOCAB_SLICE
            logit, index = F.conv2d(features, w[start:stop], b[start:stop]).max(dim=1)
            better = logit > highest  # the first of equal logits, as argmax
            highest, tokens = torch.where(better, logit, highest), torch.where(better, start + index, tokens)
        return tokens


class Decoder(nn.Module):
    """Code weights (B, vocab_size, h, w) to (B, 2 * out_channels, 8h, 8w): logit-Laplace means and log scales."""

    def __init__(self, n_hid: int, n_init: int, blocks_per_group: int, vocab_size: int, out_channels: int = 3):
        super().__init__()
        widths = [n_init, 8 * n_hid, 4 * n_hid, 2 * n_hid, n_hid]
        first, last = Conv2d(vocab_size, n_init, 1), Conv2d(n_hid, 2 * out_channels, 1)
        upsample = nn.Upsample(scale_factor=2, mode='nearest')
        self.blocks: Any = _groups(first, last, widths, [1, 3, 3, 3], blocks_per_group, upsample=upsample)

    def forward(self, codes: Tensor) -> Tensor:
        return self.blocks(codes)

    def forward_tokens(self, tokens: Tensor) -> Tensor:
        """`forward` of one-hot codes, from tokens (B, h, w): the input convolution becomes a look-up."""
        first = self.blocks.input
        embedded = F.embedding(tokens, first.w.flatten(1).t()) + first.b
        return self.blocks[1:](embedded.permute(0, 3, 1, 2))


def map_pixels(images: Tensor) -> Tensor:
    """[0, 1] to [0.1, 0.9], away from where the logit diverges (DALL-E, appendix A.3)."""
    return (1 - 2 * LOGIT_LAPLACE_EPS) * images + LOGIT_LAPLACE_EPS


def logit_laplace_nll(statistics: Tensor, pixels: Tensor) -> Tensor:
    """Negative log-likelihood per sub-pixel of the logit-Laplace distribution (DALL-E, appendix A.3, equation 2).

    Statistics (B, 2 C, H, W) are means and log scales of C channels; pixels (B, C, H, W) are in (0, 1).
    """
    mean, log_scale = statistics.float().chunk(2, dim=1)
    pixels = pixels.float()
    distance = (torch.logit(pixels) - mean).abs() * torch.exp(-log_scale)
    return math.log(2) + log_scale + torch.log(pixels * (1 - pixels)) + distance


def most_likely_images(statistics: Tensor) -> Tensor:
    """Images (B, C, H, W) in [0, 1] of the means of a logit-Laplace distribution (B, 2 C, H, W): inverts map_pixels."""
    pixels = torch.sigmoid(statistics.chunk(2, dim=1)[0].float())
    return ((pixels - LOGIT_LAPLACE_EPS) / (1 - 2 * LOGIT_LAPLACE_EPS)).clamp(0, 1)


@MODELS.register_module()
class DiscreteVAE(Tokenizer):
    """The visual tokenizer. Images are in [0, 1] everywhere; their sides are multiples of 8, else UserError.

    Args:
        vocab_size: number of visual tokens.
        n_hid, n_init: widths of the groups next to the image, and of the decoder's token embedding.
        blocks_per_group: residual blocks in each of the four groups.
        in_channels: image channels; 3 in the release.
        temperature, kl_weight: of the training objective; AnnealHook changes them during training. kl_weight
            multiplies the KL of a position, for a loss averaged over sub-pixels (6.6 / 192 in DALL-E).
        encode_dtype: dtype of the convolutions in `encode`, not in training: 'float32', 'float16' or 'bfloat16'. The
            last convolution, which chooses the tokens, is always float32, as in the release.
        compile_encoder: run the encoder without its last convolution through torch.compile. Weights keep their names.
        data_preprocessor, init_cfg: MMEngine's.

    Attributes:
        has_encoder, has_decoder: whether the part can be used. has_decoder is False after a checkpoint without a
            decoder or with an untrained one, as pre-training with an encoder alone saves it.
    """

    def __init__(
        self,
        vocab_size: int = 8192,
        n_hid: int = 256,
        n_init: int = 128,
        blocks_per_group: int = 2,
        in_channels: int = 3,
        temperature: float = 1.0,
        kl_weight: float = 0.0,
        encode_dtype: str = 'float32',
        compile_encoder: bool = False,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor, init_cfg)
        if encode_dtype not in ENCODE_DTYPES:
            raise UserError(f'encode_dtype must be one of {", ".join(ENCODE_DTYPES)}, got {encode_dtype!r}')
        self.encode_dtype, self.vocab_size = encode_dtype, vocab_size
        self.temperature, self.kl_weight = temperature, kl_weight
        self.in_channels = in_channels
        self.encoder = Encoder(n_hid, blocks_per_group, vocab_size, in_channels)
        self.decoder = Decoder(n_hid, n_init, blocks_per_group, vocab_size, in_channels)
        self.has_encoder = self.has_decoder = True
        # Channels-last convolutions are faster, on GPUs as on CPUs.
        self.to(memory_format=torch.channels_last)
        if compile_encoder:
            self.encoder.compile()
        self.register_load_state_dict_pre_hook(_check_tokenizer_weights)

    def encode_logits(self, images: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) in [0, 1] to logits (B, vocab_size, H / 8, W / 8)."""
        return self.encoder.blocks.output.conv(self.encoder(self._to_encoder(images)))

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) in [0, 1] to visual tokens, int64 (B, H / 8, W / 8)."""
        features = self.encoder(self._to_encoder(images).to(getattr(torch, self.encode_dtype)))
        return self.encoder.most_likely(features.float())

    def _to_encoder(self, images: Tensor) -> Tensor:
        check_images(images, self.in_channels, STRIDE)
        return map_pixels(images).contiguous(memory_format=torch.channels_last)

    def decode(self, tokens: Tensor) -> Tensor:
        """Visual tokens (B, h, w) to images (B, C, 8h, 8w) in [0, 1]; UserError if the weights have no decoder."""
        if not self.has_decoder:
            raise UserError(
                'decoding needs a tokenizer with its decoder, got weights without one: give both files, '
                "such as OpenAI's encoder.pkl and decoder.pkl"
            )
        return most_likely_images(self.decoder.forward_tokens(tokens))

    def loss(self, images: Tensor) -> dict[str, Tensor]:
        """Reconstruction through a Gumbel-softmax relaxation, plus the KL of the codes to the uniform prior.

        Returns:
            `loss_reconstruction` (nats per sub-pixel), `loss_kl` (weighted), and for the log `kl` (nats per
            position), `psnr` (dB), `perplexity` and `used_codes` (percent of the vocabulary) of the batch's tokens.
        """
        self.has_decoder = True  # trained from now on
        logits = self.encode_logits(images).float()  # (B, V, h, w)
        statistics = self.decoder(F.gumbel_softmax(logits, tau=self.temperature, dim=1))
        log_probs = logits.log_softmax(dim=1)
        kl = (log_probs.exp() * (log_probs + math.log(self.vocab_size))).sum(dim=1).mean()
        losses = dict(
            loss_reconstruction=logit_laplace_nll(statistics, map_pixels(images)).mean(),
            loss_kl=self.kl_weight * kl,
            kl=kl.detach(),
        )
        with torch.no_grad():
            error = (most_likely_images(statistics) - images.float()).square().mean()
            losses['psnr'] = -10 * torch.log10(error)
            losses.update(codebook_use(torch.bincount(logits.argmax(dim=1).flatten(), minlength=self.vocab_size)))
        return losses


def _check_tokenizer_weights(module: DiscreteVAE, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """Pre-load hook, see require_tokenizer_weights.

    A checkpoint of the encoder alone (OpenAI's encoder.pkl) is enough to encode. One without any tokenizer changes
    nothing.
    """
    if not has_tokenizer(state_dict, prefix):
        return
    if f'{prefix}blocks.input.w' in state_dict:  # MMPretrain distributes the encoder without its prefix
        for name in [name for name in state_dict if name.startswith(f'{prefix}blocks.')]:
            state_dict[f'{prefix}encoder.{name[len(prefix) :]}'] = state_dict.pop(name)
    decoder_names = [name for name in state_dict if name.startswith(f'{prefix}decoder.')]
    if not decoder_names:
        print_log('tokenizer: the checkpoint has no decoder, so tokens cannot be decoded', logger='current')
    used = ('encoder.', 'decoder.') if decoder_names else ('encoder.',)
    own = {name: tensor for name, tensor in module.state_dict().items() if name.startswith(used)}
    sizes = f' (vocab_size={module.vocab_size}, in_channels={module.in_channels})'
    require_tokenizer_weights(own, state_dict, prefix, sizes)
    module.has_encoder = True
    # Biases are zero until the first update, so a decoder whose biases are all zero was never trained.
    module.has_decoder = any(bool(state_dict[name].any()) for name in decoder_names if name.endswith('.b'))
