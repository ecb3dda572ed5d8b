"""Export a classifier, trunk or segmentor to ONNX, torch.export or safetensors, and compare the file with the model."""

import argparse

from beit_mm.apis.models import load_for_inference
from beit_mm.config.reading import Options
from beit_mm.engine.runners.ending import run
from beit_mm.export import export, PARTS
from beit_mm.text import show


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', metavar='OUT', help='an .onnx, .pt2 (torch.export) or .safetensors file')
    parser.add_argument(
        '--model', required=True, metavar='NAME_OR_CONFIG', help='a name of model-index.yml, or a config'
    )
    parser.add_argument(
        '--weights', metavar='FILE', help="a checkpoint in any layout; default: what the config's init_cfg names"
    )
    parser.add_argument('--ema', action='store_true', help='use the averaged weights of the file, such as `model_ema`')
    parser.add_argument('--part', choices=list(PARTS), help='default: what the model is')
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help="of the images; default: the trunk's")
    parser.add_argument('--batch', type=int, metavar='N', help='number of images; default: any')
    parser.add_argument('--opset', type=int, metavar='N', help='of ONNX, 18 to 23; default: 18')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        metavar='KEY=VALUE',
        help='override keys of the config, such as model.backbone.out_type=raw',
    )
    parser.set_defaults(work_dir=None)  # there is no run, so there is no folder for a traceback
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    is_trunk = args.part == 'trunk'
    loading = dict(options=args.cfg_options, trunk_only=is_trunk, ema=args.ema)
    model = load_for_inference(args.model, args.weights, device='cpu', **loading)
    report = export(model, args.out, args.part, args.size, args.batch, args.opset, args.weights)
    print(*map(show, report.lines()), sep='\n')


if __name__ == '__main__':
    run(main, parse_args())
