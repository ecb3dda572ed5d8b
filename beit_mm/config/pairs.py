"""KEY=VALUE words of a command line, before MMEngine reads them."""

import argparse
from collections.abc import Iterable


def check_pairs(parser: argparse.ArgumentParser, words: Iterable[str], option: str | None) -> None:
    """End the parser with one sentence if a word is no KEY=VALUE."""
    for word in words:
        key, is_pair, _ = word.partition('=')
        if not (is_pair and all(key.split('.'))):
            what = f'{option} takes KEY=VALUE, such as train_cfg.max_epochs=5, got {word!r}'
            parser.error(f'{what}; leave no space around =, and put a value with spaces in quotes')
