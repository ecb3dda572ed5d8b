"""Check that a checkpoint has the heads that a run needs; the trunk checks its own weights while loading."""

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn

from beit_mm.models.weight_layouts import OPENMMLAB
from beit_mm.models.weights import describe, is_plain, WeightsMismatch
from beit_mm.registry import HOOKS

HEADS = ('head.', 'lm_head.', 'neck.', 'decode_head.', 'auxiliary_head.')


@HOOKS.register_module()
class CheckWeightsHook(Hook):
    """Compares the heads of a checkpoint with those of the model when the checkpoint is loaded.

    MMEngine only warns about missing tensors and other shapes, and would test a head with random weights.

    Args:
        purpose: 'train': heads that do not fit keep their initial weights, and the log says so. 'test': all heads must
            fit, except an auxiliary head, which is for training. 'resume': all heads must fit, and the checkpoint must
            have the state of the run.

    Raises:
        WeightsMismatch: If something that the purpose needs is missing or has another shape.
    """

    def __init__(self, purpose: str = 'train'):
        if purpose not in ('train', 'resume', 'test'):
            raise ValueError(f'purpose must be one of train, resume, test, got {purpose!r}')
        self.purpose = purpose

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if self.purpose == 'resume':
            missing = [key for key in ('meta', 'message_hub', 'optimizer') if key not in checkpoint]
            missing += [f'meta.{key}' for key in ('epoch', 'iter') if key not in checkpoint.get('meta', {})]
            if missing:
                raise WeightsMismatch(
                    f'a run resumes from a checkpoint of a run, got a file without {", ".join(missing)} '
                    f'(load_from starts a new run from weights)'
                )
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        if self.purpose != 'train':
            require_weights(model, checkpoint, with_auxiliary=self.purpose == 'resume')
            return
        for problem in _drop_unfit_heads(model, checkpoint.get('state_dict', checkpoint), with_auxiliary=True):
            runner.logger.warning(f'{problem}: keeps its initial weights')


def require_weights(model: nn.Module, checkpoint: dict, with_auxiliary: bool = False) -> None:
    """Raise unless a checkpoint has the heads of a model.

    Args:
        model: without wrappers.
        checkpoint: weights, or a dict with them under `state_dict`.
        with_auxiliary: whether the auxiliary head, which is for training, must be there too.

    Raises:
        WeightsMismatch: If the checkpoint has no weight of the model, or a head is missing or has another shape.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    if not model.state_dict().keys() & {_our_name(name) for name in weights}:
        names = ', '.join(list(weights)[:3]) + (' ...' if len(weights) > 3 else '')
        raise WeightsMismatch(f'the checkpoint must hold the weights of this model, got {names or "an empty dict"}')
    for problem in _drop_unfit_heads(model, weights, with_auxiliary):
        raise WeightsMismatch(f'the checkpoint does not fit the model: {problem}')


def _our_name(name: str) -> str:
    return OPENMMLAB.our_name(name, 'backbone.') or name  # it differs if a host wrote the checkpoint


def _drop_unfit_heads(model: nn.Module, weights: dict, with_auxiliary: bool) -> list[str]:
    """Remove heads that do not fit from the weights; returns a sentence for each."""
    names = {_our_name(name): name for name in weights}
    problems = {}
    for name, own in model.state_dict().items():
        head = name.split('.')[0]
        if not name.startswith(HEADS) or name.endswith('num_batches_tracked') or head in problems:
            continue
        loaded = weights.get(names.get(name))
        if loaded is None and (with_auxiliary or head != 'auxiliary_head'):
            problems[head] = f'{name} is missing'
        elif loaded is not None and head != 'lm_head':  # which MaskedImageModel checks
            if not is_plain(loaded, own) or loaded.shape != own.shape:
                problems[head] = f'{name} must be {tuple(own.shape)}, got {describe(loaded, own)}'
    for name in [theirs for ours, theirs in names.items() if ours.split('.')[0] in problems]:
        del weights[name]
    return [f'{head} ({problem})' for head, problem in problems.items()]
