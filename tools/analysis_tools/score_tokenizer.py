"""Say how good a tokenizer's visual tokens are for your images, before any pre-training.

CONFIG trains a tokenizer, or pre-trains with one. Augmented images are compared with the images as they are: tokens
that change with noise cannot be predicted.

Example:
  python tools/analysis_tools/score_tokenizer.py configs/own_data/tokenizer.py FILE.pth data/own/images
"""

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # while torch is imported; not ignored, as by nohup
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b'interrupted\n'), os._exit(130)))

with redirect_stdout(sys.stderr):  # the hosts print while they are imported
    import numpy as np
    import torch
    from torch import Tensor

    from beit_mm.apis.inferencer import Inferencer
    from beit_mm.config.parts import walk
    from beit_mm.config.reading import Options
    from beit_mm.datasets.images import resize_image
    from beit_mm.datasets.transforms.crops import channels_first
    from beit_mm.engine.runners.ending import run
    from beit_mm.errors import UserError
    from beit_mm.models.data_preprocessors import jitter_colors
    from beit_mm.models.tokenizers.tokenizer import codebook_use
    from beit_mm.visualization.reconstruction import can_decode

NOISE = 0.02  # standard deviation, of images in [0, 1]
JITTER = 0.2  # brightness, contrast and saturation change by up to this share
MIN_PATCHES = 20  # per token; with fewer, use and perplexity are those of the images, not of the tokenizer


class TokenInferencer(Inferencer):
    """Use of the vocabulary by the middle square of images, and agreement with augmented copies of it.

    Args:
        model, weights, loading: see Inferencer.
        size: side in pixels of the square that the tokenizer sees; None for that of the config's training.
    """

    batch_size = 64

    def __init__(self, model: str, weights: str, size: int | None = None, **loading):
        super().__init__(model, weights, **loading)
        self.tokenizer = getattr(getattr(self.model, 'target', None), 'tokenizer', self.model)
        if not hasattr(self.tokenizer, 'encode'):
            raise UserError(f'CONFIG must train a tokenizer or pre-train with one, got {type(self.model).__name__}')
        self.size = size or find_size(self.model.cfg)
        self.device = next(self.model.parameters()).device
        with torch.no_grad():
            black = torch.zeros(1, self.channels, self.size, self.size, device=self.device)
            self.patch_size = self.size // self.tokenizer.encode(black).shape[2]

    def prepare(self, image: np.ndarray, name: str) -> dict:
        """The middle square with a margin of one patch, for shifts."""
        side = min(image.shape[:2])
        top, left = ((length - side) // 2 for length in image.shape[:2])
        square = image[top : top + side, left : left + side]
        return dict(inputs=channels_first(resize_image(square, (self.size + self.patch_size,) * 2, 'lanczos')))

    def compute(self, samples: list[dict]) -> list[dict]:
        pixels = torch.stack([sample['inputs'] for sample in samples])
        highest = 1.0 if pixels.is_floating_point() else torch.iinfo(pixels.dtype).max
        pixels = pixels.to(self.device).float() / highest
        pixels = pixels.flip(1) if self.channels == 3 else pixels  # to RGB
        images, by_pixel, by_patch = (self._crop(pixels, shift) for shift in (0, 1, self.patch_size))
        random = torch.Generator().manual_seed(0)
        noise = NOISE * torch.randn(images.shape, generator=random).to(images.device)
        factors = 1 + JITTER * (2 * torch.rand(len(images), 3, generator=random) - 1)
        order = torch.stack([torch.randperm(3, generator=random) for _ in factors])
        jitter = torch.cat([factors, order], dim=1).to(images.device)
        encode, tokens = self.tokenizer.encode, self.tokenizer.encode(images)
        agreements = {
            'noise': encode((images + noise).clamp(0, 1)) == tokens,
            'colour jitter': encode(jitter_colors(images, jitter, images.mean(dim=(2, 3)), 1)) == tokens,
            'a shift by one pixel': encode(by_pixel) == tokens,
            'a shift by one patch': encode(by_patch)[:, :-1, :-1] == tokens[:, 1:, 1:],
            'a horizontal flip': encode(images.flip(3)).flip(2) == tokens,
        }
        values = {name: equal.flatten(1).float().mean(dim=1).tolist() for name, equal in agreements.items()}
        values['tokens'] = tokens.flatten(1).cpu()
        if can_decode(self.tokenizer):
            values['error'] = (self.tokenizer.decode(tokens) - images).square().flatten(1).mean(dim=1).tolist()
        return [dict(zip(values, of_image)) for of_image in zip(*values.values())]

    def _crop(self, pixels: Tensor, shift: int) -> Tensor:
        return pixels[..., shift : shift + self.size, shift : shift + self.size].contiguous()


def find_size(cfg: dict) -> int:
    """Side of the tokenizer's images in the training of a config."""
    steps = [node for _, node in walk(cfg.get('train_dataloader') or {}, '') if 'scale' in node]
    size = next((step.get('second_scale', step['scale']) for step in steps), None)
    size = size[0] if isinstance(size, (list, tuple)) else size
    if size is None:
        raise UserError('the config has no crop with a scale in train_dataloader: give --size')
    return size


def rows(results: list[dict], vocab_size: int) -> Iterator[tuple[str, float, str, bool | None]]:
    """What is measured, its value, what is good, and whether it is; None if there is no telling."""
    counts = torch.bincount(torch.cat([result['tokens'] for result in results]), minlength=vocab_size)
    use = {name: value.item() for name, value in codebook_use(counts).items()}
    most, is_enough = 100 * counts.max().item() / counts.sum().item(), counts.sum() >= MIN_PATCHES * vocab_size
    few = '' if is_enough else f', for {MIN_PATCHES} patches or more per token'
    used, perplexity = use['used_codes'], use['perplexity']
    yield 'vocabulary used, %', used, f'over 80{few}', used > 80 if is_enough else None
    aim = vocab_size / 4
    is_even = perplexity > aim if is_enough else None
    yield 'perplexity', perplexity, f'over {aim:,.0f}, a quarter of the vocabulary{few}', is_even
    worth = 'below 20: a pre-training must predict better than by always naming it'
    yield 'most frequent token, %', most, worth, most < 20
    aims = {
        'noise': (75, 'less: tokens follow noise'),
        'colour jitter': (50, 'less: tokens tell of little but colour'),
        'a shift by one pixel': (40, 'less: tokens tell of fine texture'),
        'a shift by one patch': (75, 'less: a token depends on what is around its patch'),
    }
    for name, (aim, otherwise) in aims.items():
        value = 100 * float(np.mean([result[name] for result in results]))
        yield f'same after {name}, %', value, f'over {aim}; {otherwise}', value > aim
    value = 100 * float(np.mean([result['a horizontal flip'] for result in results]))
    yield 'same after a horizontal flip, %', value, 'any: a mirrored patch may have a token of its own', None
    if 'error' in results[0]:
        psnr = -10 * float(np.log10(max(np.mean([result['error'] for result in results]), 1e-10)))
        yield 'PSNR of decoded tokens, dB', psnr, 'over 15: pictures can be recognised', psnr > 15


def parse_args() -> argparse.Namespace:
    description, example = __doc__.split('\n\nExample:\n')
    parser = argparse.ArgumentParser(description=description, epilog=f'Example:{example}')
    add = parser.add_argument
    add('config', help='config of the tokenizer, or of a pre-training')
    add('checkpoint', help='weights of that model')
    add('images', nargs='+', help='image files, or folders with images')
    add('--size', type=int, help="side in pixels that the tokenizer sees; default: that of the config's training")
    add('--device', help='cpu, cuda or cuda:1; default: the GPU if there is one')
    add('--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE', help='override keys of the config')
    parser.set_defaults(work_dir=None)  # no run, so no folder for a traceback
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    with redirect_stdout(sys.stderr):  # the log is no result
        options = dict(device=args.device, options=args.cfg_options)
        inferencer = TokenInferencer(args.config, args.checkpoint, args.size, **options)
        results = inferencer(args.images)
    tokenizer = inferencer.tokenizer
    num_patches = sum(len(result['tokens']) for result in results)
    print(
        f'{type(tokenizer).__name__}, {tokenizer.vocab_size:,} tokens of {inferencer.patch_size} x '
        f'{inferencer.patch_size} pixels; {len(results):,} images of {inferencer.size} x {inferencer.size} pixels, '
        f'{num_patches:,} patches'
    )
    verdicts = {True: 'good', False: 'poor', None: ''}
    for name, value, aim, is_good in rows(results, tokenizer.vocab_size):
        print(f'{name:33}{value:10,.1f}  {verdicts[is_good]:4}  {aim}')


if __name__ == '__main__':
    run(main, parse_args())
