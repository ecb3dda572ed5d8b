"""List the models that --model knows by name, with their configs."""

import argparse

from beit_mm.model_index import configs_by_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> None:
    for name, config in configs_by_name().items():
        print(f'{name}\t{config}')
