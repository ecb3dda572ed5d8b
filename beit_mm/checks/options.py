"""Options of an optimizer's constructor that it does not read, and patterns that match no parameter."""

from collections.abc import Iterator

from torch import nn

from .problems import Problem, suggest


class ReadKeys(dict):
    """A dict that notes which of its keys are read."""

    def __init__(self, items: dict):
        super().__init__(items)
        self.read: set = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name, default=None):
        self.read.add(name)
        return super().get(name, default)

    def pop(self, name, *default):
        self.read.add(name)
        return super().pop(name, *default)

    def __iter__(self):
        self.read.update(super().keys())
        return super().__iter__()

    def items(self):
        self.read.update(super().keys())
        return super().items()

    def keys(self):
        self.read.update(super().keys())
        return super().keys()

    def __deepcopy__(self, memo):
        return self


def check_options(cfg: dict, model: nn.Module | None, options: ReadKeys) -> Iterator[Problem]:
    """Options of the optimizer's constructor that it does not read, and patterns that match no parameter."""
    names = set(dict.keys(options))
    constructor = cfg['optim_wrapper'].get('constructor', 'DefaultOptimWrapperConstructor')
    for name in sorted(names - options.read):
        known = sorted(options.read - names)
        mend = suggest(name, known, f'it reads {", ".join(known)}; BEiT uses beit_mm.LayerDecayOptimWrapperConstructor')
        yield Problem(f'optim_wrapper.paramwise_cfg.{name}', f'{constructor} does not read it; {mend}')
    patterns = dict.get(options, 'custom_keys')
    if not isinstance(patterns, dict) or model is None:
        return
    parameters = [name if '.' in name else f'.{name}' for name, _ in model.named_parameters()]
    is_ours = any(type(module).__module__.startswith('beit_mm.') for module in model.modules())
    for pattern in patterns:
        if not any(pattern in name for name in parameters):
            words = [[word for word in name.split('.') if word and not word.isdigit()] for name in parameters]
            pieces = {'.'.join(name[at : at + size]) for name in words for size in (1, 2) for at in range(len(name))}
            sentence = f'matches no parameter of the model; {suggest(pattern, pieces, "remove it")}'
            yield Problem(f'optim_wrapper.paramwise_cfg.custom_keys.{pattern}', sentence, is_error=is_ours)
