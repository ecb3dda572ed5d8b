"""Parameter groups of the optimizer: one per layer and weight decay (BEiT release; arXiv 2106.08254, appendix)."""

import functools

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from beit_mm.errors import UserError
from beit_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS

# Compared with the last part of a name, so the prefix does not matter; the release decays `backbone.cls_token`.
NO_DECAY_NAMES = ('pos_embed', 'cls_token', 'bias')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Scales the learning rate by `layer_decay_rate ** (layers above)`.

    1-d parameters, biases, `pos_embed` and `cls_token` get no weight decay, frozen parameters no group. Layers come
    from `get_layer_depth(name)` of the model, or else from `get_layer_depth(name, prefix)` of its backbone.

    Args:
        optim_wrapper_cfg: as for MMEngine's constructor; its optimizer needs lr and weight_decay.
        paramwise_cfg: `layer_decay_rate`, over 0 and at most 1 (default 1.0: the same rate everywhere), and
            `custom_keys`, MMEngine's {part of a name: dict(lr_mult=..., decay_mult=...)}, of which the longest part in
            a name counts. lr_mult multiplies the layer's rate; decay_mult the optimizer's weight_decay, which then also
            applies to biases and tokens.

    Raises:
        UserError: If an argument does not fit, or the rate is below 1 for a model without layers.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        paramwise_cfg = {'layer_decay_rate': 1.0, **(paramwise_cfg or {})}
        if unknown := sorted(set(paramwise_cfg) - {'layer_decay_rate', 'custom_keys'}):
            raise UserError(f'paramwise_cfg takes layer_decay_rate and custom_keys, got {", ".join(unknown)}')
        custom_keys = paramwise_cfg.get('custom_keys') or {}
        for key, factors in custom_keys.items():
            if not isinstance(factors, dict) or not set(factors) <= {'lr_mult', 'decay_mult'}:
                raise UserError(f'custom_keys.{key} takes lr_mult and decay_mult, got {factors}')
        self.custom_keys = sorted(custom_keys, key=lambda key: (-len(key), key))
        if not 0 < paramwise_cfg['layer_decay_rate'] <= 1:
            raise UserError(f'layer_decay_rate must be over 0 and at most 1, got {paramwise_cfg["layer_decay_rate"]}')
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        if self.base_lr is None or self.base_wd is None:
            raise UserError(f'optim_wrapper.optimizer needs lr and weight_decay, got {self.optimizer_cfg}')

    def add_params(self, params: list[dict], module: nn.Module, **kwargs) -> None:
        """Append the groups of a whole model; each has `lr_scale` and `layer` for the log."""
        rate = self.paramwise_cfg['layer_decay_rate']
        layer_of = getattr(module, 'get_layer_depth', None)
        if layer_of is None and hasattr(getattr(module, 'backbone', None), 'get_layer_depth'):
            layer_of = functools.partial(module.backbone.get_layer_depth, prefix='backbone.')
        if layer_of is None and rate != 1.0:
            what = f'layer_decay_rate={rate} needs a model or backbone with get_layer_depth, {type(module).__name__}'
            raise UserError(f'{what} has none; set optim_wrapper.paramwise_cfg.layer_decay_rate=1.0')
        groups: dict[tuple[int, float, float], dict] = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            layer, num_layers = layer_of(name) if layer_of and rate != 1.0 else (0, 1)
            is_decayed = parameter.ndim > 1 and name.rpartition('.')[2] not in NO_DECAY_NAMES
            key = next((key for key in self.custom_keys if key in name), None)
            factors = self.paramwise_cfg['custom_keys'][key] if key else {}
            weight_decay = self.base_wd * factors.get('decay_mult', float(is_decayed))
            scale = rate ** (num_layers - 1 - layer) * factors.get('lr_mult', 1.0)
            group = dict(params=[], lr=self.base_lr * scale, weight_decay=weight_decay, lr_scale=scale, layer=layer)
            groups.setdefault((layer, weight_decay, scale), group)['params'].append(parameter)
        params.extend(groups[key] for key in sorted(groups))


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TrainableOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """One group of all parameters that require a gradient, with weight decay for biases too (BEiT release,
    `run_linear_eval.py`). MMEngine's constructor gives frozen parameters to the optimizer too.

    Raises:
        UserError: If there is a paramwise_cfg, or nothing requires a gradient.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        if paramwise_cfg:
            raise UserError(f'TrainableOptimWrapperConstructor takes no paramwise_cfg, got {paramwise_cfg}')
        super().__init__(optim_wrapper_cfg, dict(trainable=True))  # MMEngine calls add_params only with options

    def add_params(self, params: list[dict], module: nn.Module, **kwargs) -> None:
        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if not trainable:
            raise UserError(f'{type(module).__name__} must have a parameter that requires a gradient, got none')
        params.append(dict(params=trainable))
