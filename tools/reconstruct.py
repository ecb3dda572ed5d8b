"""Mask patches of images, predict their visual tokens by a pre-trained model, and decode these: a sheet and numbers."""
import argparse
import json
from pathlib import Path

import numpy as np

from beit_mm.apis import reconstruct
from beit_mm.engine.launch import run
from beit_mm.visualization import draw_reconstructions

NUMBERS = ('image', 'token_accuracy', 'perplexity', 'mask', 'tokens', 'predicted')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files, or folders of them')
    parser.add_argument('--model', required=True, metavar='NAME_OR_CONFIG', help='a config file, or a name in '
                        'model-index.yml')
    parser.add_argument('--weights', required=True, metavar='FILE', help='a checkpoint in any layout')
    parser.add_argument('--tokenizer', nargs='+', metavar='FILE', help="where the weights hold no tokenizer: its file, "
                        "or OpenAI's encoder.pkl and decoder.pkl")
    parser.add_argument('--num-masked', type=int, metavar='N', help="patches to mask of every image; default: the "
                        "config's share, 75 of 196 in the paper")
    parser.add_argument('--mask', choices=['blockwise', 'random'], default='blockwise', help='default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='of the masks; default: %(default)s')
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help='what images are resized to, multiples '
                        "of the patch size; default: their ratio, the shorter side the model's training size")
    parser.add_argument('--batch-size', type=int, default=8, metavar='N', help='default: %(default)s')
    parser.add_argument('--out', type=Path, default=Path('reconstruction.png'), metavar='FILE',
                        help='the sheet, a row for each image; overwritten (default: %(default)s)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write masks, tokens and numbers')
    parser.add_argument('--device', help="where to compute, such as 'cpu' or 'cuda:1'; default: the GPU if there is "
                        'one')
    parser.set_defaults(work_dir=None)  # no run, so no folder for a traceback
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    images = reconstruct(args.model, args.images, args.weights, args.tokenizer, args.num_masked, args.mask, args.seed,
                         args.size, args.device, args.batch_size)
    for image in images:
        print(f'{image["image"]}: {image["mask"].sum()} of {image["mask"].size} patches masked, token accuracy '
              f'{100 * image["token_accuracy"]:.1f} %, perplexity {image["perplexity"]:.1f}')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draw_reconstructions(images, [Path(image['image']).name for image in images]).save(args.out)
    print(f'wrote {args.out}')
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps([{key: image[key] for key in NUMBERS} for image in images],
                                        default=np.ndarray.tolist, ensure_ascii=False))
        print(f'wrote {args.json}')


if __name__ == '__main__':
    run(main, parse_args())
