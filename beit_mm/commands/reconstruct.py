"""Mask patches of images, predict their visual tokens and decode them.

The model must be a pre-training. A line for each image goes to standard output:
its name, masked patches, share of tokens predicted right, perplexity.

Example:
  beit-mm reconstruct photos --model configs/beit_pretrain.py --weights FILE --out reconstructed
"""

import argparse
from pathlib import Path

from .arguments import add_images, add_model, existing, output, positive
from .inference import predict, print_line, report_skipped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_images(parser, batch_size=8)
    add = parser.add_argument
    add('--out', type=Path, metavar='OUT', required=True, help='a folder, or one .png, .jpg or .pdf for all images')
    add('--json', type=output('.json'), metavar='FILE', help='also write masks, tokens and numbers of all images')
    tokenizer = "if --weights has none, its file or OpenAI's two .pkl files"
    add('--tokenizer', type=existing, nargs='+', metavar='FILE', help=tokenizer)
    add('--mask', choices=('blockwise', 'random'), default='blockwise', help='masks; default: blockwise')
    add('--num-masked', type=positive, metavar='N', help="masked patches in every image; default: the config's share")
    add('--size', type=positive, nargs=2, metavar=('H', 'W'), help='resize images to this; default: each in its ratio')
    add('--seed', type=int, default=0, metavar='N', help='seed of the masks; default: 0')
    add_model(parser)


def run(args: argparse.Namespace) -> None:
    from beit_mm.apis import ReconstructionInferencer
    from beit_mm.apis.writing import write_reconstructions

    options = {name: getattr(args, name) for name in ('tokenizer', 'num_masked', 'mask', 'seed', 'size')}
    predictions = predict(args, ReconstructionInferencer, **options)
    for _, result in write_reconstructions(predictions, args.out, args.json):
        masked = f'{result["mask"].sum()} of {result["mask"].size} patches masked'
        accuracy = f'token accuracy {100 * result["token_accuracy"]:.1f} %'
        print_line(result['image'], masked, accuracy, f'perplexity {result["perplexity"]:.1f}')
    report_skipped(predictions)
