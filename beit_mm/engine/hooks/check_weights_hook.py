"""Whether a checkpoint holds what a run needs beside its trunk, which compares itself while loading."""

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn, Tensor

from beit_mm.models.weight_layouts import OPENMMLAB
from beit_mm.models.weights import WeightsMismatch
from beit_mm.registry import HOOKS

PURPOSES = ('train', 'resume', 'test')
HEADS = ('head.', 'lm_head.', 'neck.', 'decode_head.', 'auxiliary_head.')


@HOOKS.register_module()
class CheckWeightsHook(Hook):
    """Compares the heads in a checkpoint that is being loaded with the model's.

    MMEngine only warns of tensors that are missing or have another shape, and would test a head of random weights.

    Args:
        purpose: 'train': heads that do not fit are left as initialised, and a line in the log says so; 'test': all must
            fit, but for an auxiliary head, which serves training; 'resume': the same, and the state of the run must
            be there.

    Raises:
        WeightsMismatch: If something is missing or has another shape that the purpose needs.
    """

    def __init__(self, purpose: str = 'train'):
        if purpose not in PURPOSES:
            raise ValueError(f'purpose must be one of {", ".join(PURPOSES)}, got {purpose!r}')
        self.purpose = purpose

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if self.purpose == 'resume':
            self._check_run(checkpoint)
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        if self.purpose != 'train':
            require_weights(model, checkpoint, with_auxiliary=self.purpose == 'resume')
            return
        for problem in _compare_heads(model, checkpoint.get('state_dict', checkpoint), with_auxiliary=True):
            runner.logger.warning(f'{problem}: left as initialised')

    @staticmethod
    def _check_run(checkpoint: dict) -> None:
        missing = [key for key in ('meta', 'message_hub', 'optimizer') if key not in checkpoint]
        missing += [f'meta.{key}' for key in ('epoch', 'iter') if key not in checkpoint.get('meta', {})]
        if missing:
            raise WeightsMismatch(
                f'a run resumes from its own checkpoint, got one without {", ".join(missing)} '
                f'(load_from starts a new run from weights)'
            )


def require_weights(model: nn.Module, checkpoint: dict, with_auxiliary: bool = False) -> None:
    """Raise unless a checkpoint holds the heads of a model; its trunk compares itself while loading.

    Args:
        model: without wrappers.
        checkpoint: weights, or what holds them as `state_dict`.
        with_auxiliary: whether the auxiliary head, which serves training, must be there, too.

    Raises:
        WeightsMismatch: If it holds nothing of the model, or a head is missing or has another shape.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    if not _our_names(weights).keys() & model.state_dict().keys():
        found = ', '.join(list(weights)[:3]) + (' ...' if len(weights) > 3 else '')
        raise WeightsMismatch(f'the checkpoint must hold the weights of this model, got {found or "an empty dict"}')
    for problem in _compare_heads(model, weights, with_auxiliary):
        raise WeightsMismatch(f'the checkpoint does not fit the model: {problem}')


def _our_names(weights: dict[str, Tensor]) -> dict[str, str]:
    """Names in the checkpoint by ours, which differ where a host wrote it."""
    return {OPENMMLAB.our_name(name, 'backbone.') or name: name for name in weights}


def _compare_heads(model: nn.Module, weights: dict[str, Tensor], with_auxiliary: bool) -> list[str]:
    """A sentence for every head that does not fit; its tensors are taken out of the weights."""
    names = _our_names(weights)
    problems = {}
    for name, own in model.state_dict().items():
        head = name.split('.')[0]
        if not name.startswith(HEADS) or name.endswith('num_batches_tracked') or head in problems:
            continue
        given = weights.get(names.get(name))
        if given is None and (with_auxiliary or head != 'auxiliary_head'):
            problems[head] = f'{name} is missing'
        elif given is not None and given.shape != own.shape and head != 'lm_head':  # which is never left at random
            problems[head] = f'{name} must be {tuple(own.shape)}, got {tuple(given.shape)}'
    for name in [given for ours, given in names.items() if ours.split('.')[0] in problems]:
        del weights[name]
    return [f'{head} ({problem})' for head, problem in problems.items()]
