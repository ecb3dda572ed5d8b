"""Export a classifier, trunk or segmentor, and compare the file with the model.

Example:
  beit-mm export classifier.onnx --model beit-base-p16_22k-to-1k_224 --weights FILE
"""

import argparse

from .arguments import add_model, load, output, positive

FORMATS = ('.onnx', '.pt2', '.safetensors')
PARTS = ('classifier', 'segmentor', 'trunk')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('out', type=output(*FORMATS), metavar='OUT', help='a new .onnx, .pt2 (torch.export) or .safetensors file')
    add('--part', choices=PARTS, help='default: what the model is')
    add('--size', type=positive, nargs=2, metavar=('H', 'W'), help="of the images; default: the trunk's")
    add('--batch', type=positive, metavar='N', help='number of images; default: any')
    add('--opset', type=positive, metavar='N', help='of ONNX, 18 to 23; default: 18')
    add_model(parser, has_device=False)


def run(args: argparse.Namespace) -> None:
    from beit_mm.apis.models import load_for_inference
    from beit_mm.export import export
    from beit_mm.text import show

    model = load(load_for_inference, args, trunk_only=args.part == 'trunk')
    report = export(model, args.out, args.part, args.size, args.batch, args.opset, args.weights)
    print(*map(show, report.lines()), sep='\n')
