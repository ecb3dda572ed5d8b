"""Check what this machine computes, and find the fastest settings of a config.

It takes two minutes. Attention and models are compared with float64 and with
numbers of the BEiT release; the machine and a step of the config are timed.
--out writes a config that inherits CONFIG and sets what is faster here. The
exit code is 1 if anything is wrong.

Examples:
  beit-mm doctor
  beit-mm doctor --config configs/beit_pretrain.py --out machine.py
"""

import argparse
import sys

from .arguments import existing, output, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('--config', type=existing, metavar='CONFIG', help='a config whose training step is measured')
    add('--out', type=output('.py'), metavar='FILE', help='the config to write, such as machine.py; needs --config')
    add('--device', help='cpu, cuda or cuda:1; default: the GPU if there is one')
    add('--minutes', type=positive, default=2, metavar='N', help='time to take; default: 2')
    add('--json', action='store_true', help='print all figures as JSON instead')


def run(args: argparse.Namespace) -> None:
    import json

    from beit_mm.config.reading import read_config
    from beit_mm.doctor.diagnosis import examine
    from beit_mm.doctor.report import describe
    from beit_mm.errors import UserError
    from beit_mm.text import show

    if args.out and args.config is None:
        raise UserError('--out needs --config, the config that it inherits')
    cfg = read_config(args.config) if args.config else None
    result = examine(cfg, args.device, args.minutes)
    if args.json:
        print(json.dumps(result.as_json(), indent=2))
    else:
        print(*map(show, describe(result)), sep='\n')
    if args.out and result.step:
        result.write(args.config, args.out)
        print(f'wrote {show(args.out)}: train with it in place of {show(args.config)}', file=sys.stderr)
    if any(problem.is_error for problem in result.problems):
        sys.exit(1)
