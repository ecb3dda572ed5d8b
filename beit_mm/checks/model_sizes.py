"""Checks of a model with our trunk: whether the sizes of its parts fit each other."""

from collections.abc import Iterator, Sequence
from typing import Any

from mmpretrain.models import LinearClsHead
from mmseg.models.necks import Feature2Pyramid

from beit_mm.models import BEiT, MaskedImageModel, NormalisedPixels
from beit_mm.models.tokenizers.discrete_vae import DiscreteVAE

from .arguments import default_of
from .parts import Part
from .problems import Problem
from .run_plan import RunPlan


def argument(part: Part, name: str) -> Any:
    """What a part gets for an argument: the config's value or the class's default."""
    return part.cfg[name] if name in part.cfg else default_of(part.cls, name)


def find_trunk(plan: RunPlan) -> Part | None:
    """The model's backbone if it is ours."""
    part = plan.part('model.backbone')
    return part if part and part.is_a(BEiT) else None


def as_pair(size: Any) -> tuple[int, int] | None:
    """A size, one number or two, as two; None if it is neither."""
    if isinstance(size, int):
        return size, size
    is_pair = isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(side, int) for side in size)
    return tuple(size) if is_pair else None


def multiple(size: int, step: int) -> int:
    """The multiple of a step that is nearest to a size, at least one step."""
    return max(round(size / step), 1) * step


def check_divisible(key: str, size: Any, step: int, what: str) -> Iterator[Problem]:
    """A problem if a side is no multiple of a step."""
    pair = as_pair(size)
    if pair and (pair[0] % step or pair[1] % step):
        near = ' x '.join(str(multiple(side, step)) for side in pair)
        yield Problem(
            key, f'image height and width must be multiples of {what} {step}, got {pair[0]} x {pair[1]}; set {near}'
        )


def check_model(plan: RunPlan) -> Iterator[Problem]:
    """All that is known of the sizes of a model with our trunk."""
    trunk = find_trunk(plan)
    if trunk:
        yield from check_divisible(
            f'{trunk.key}.img_size', argument(trunk, 'img_size'), argument(trunk, 'patch_size'), 'the patch size'
        )
        yield from _check_depth(trunk)
        for check in (_check_pre_training, _check_classifier, _check_segmentor, _check_windows, _check_channels):
            yield from check(plan, trunk)


def check_build(plan: RunPlan) -> Iterator[Problem]:
    """What the parts of a model refuse when built."""
    if plan.model_error:
        key, error = plan.model_error
        yield Problem(key, f'cannot be built: {str(error).strip() or type(error).__name__}')


def _check_depth(trunk: Part) -> Iterator[Problem]:
    width, num_heads, depth = (argument(trunk, name) for name in ('embed_dim', 'num_heads', 'depth'))
    if width % num_heads:
        heads = max(heads for heads in range(1, num_heads + 1) if width % heads == 0)
        yield Problem(
            f'{trunk.key}.num_heads', f'must divide embed_dim={width}, got {num_heads}; set num_heads={heads}'
        )
    for index in _levels(trunk):
        if not -depth <= index < depth:
            yield Problem(
                f'{trunk.key}.out_indices',
                f'must name blocks 0 to {depth - 1} of a trunk of depth={depth}, '
                f'got {index}; the last block is {depth - 1}',
            )


def _levels(trunk: Part) -> Sequence[int]:
    indices = argument(trunk, 'out_indices')
    return [indices] if isinstance(indices, int) else list(indices)


def _check_pre_training(plan: RunPlan, trunk: Part) -> Iterator[Problem]:
    model, target = plan.part('model'), plan.part('model.target')
    if not model or not model.is_a(MaskedImageModel):
        return
    for name, wanted in (('out_type', 'raw'), ('use_mask_token', True)):
        if argument(trunk, name) != wanted:
            yield Problem(
                f'{trunk.key}.{name}',
                f'pre-training needs {wanted!r}, got {argument(trunk, name)!r}; set {name}={wanted!r}',
            )
    if target and target.is_a(NormalisedPixels) and argument(target, 'patch_size') != argument(trunk, 'patch_size'):
        yield Problem(
            f'{target.key}.patch_size',
            f"must be the trunk's {argument(trunk, 'patch_size')}, got "
            f'{argument(target, "patch_size")}; set patch_size={argument(trunk, "patch_size")}',
        )


def _check_classifier(plan: RunPlan, trunk: Part) -> Iterator[Problem]:
    head = plan.part('model.head')
    if not head or not head.is_a(LinearClsHead) or plan.cfg['model'].get('neck') is not None:
        return
    width, out_type = argument(trunk, 'embed_dim'), argument(trunk, 'out_type')
    if out_type not in ('avg_featmap', 'cls_token'):
        yield Problem(
            f'{trunk.key}.out_type',
            f"a linear head needs one vector per image, got {out_type!r}; set out_type='avg_featmap'",
        )
    if head.cfg.get('in_channels', width) != width:
        yield Problem(
            f'{head.key}.in_channels',
            f"must be the trunk's embed_dim={width}, got {head.cfg['in_channels']}; set in_channels={width}",
        )


def _check_segmentor(plan: RunPlan, trunk: Part) -> Iterator[Problem]:
    """Neck and heads against the levels that the trunk gives."""
    if not _heads(plan):
        return
    if argument(trunk, 'out_type') != 'featmap':
        yield Problem(
            f'{trunk.key}.out_type',
            f"a segmentation head needs maps, got {argument(trunk, 'out_type')!r}; set out_type='featmap'",
        )
    width, num_levels = argument(trunk, 'embed_dim'), len(_levels(trunk))
    neck = plan.part('model.neck')
    if neck and neck.is_a(Feature2Pyramid):
        if neck.cfg.get('embed_dim', width) != width:
            yield Problem(
                f'{neck.key}.embed_dim',
                f"must be the trunk's {width}, got {neck.cfg['embed_dim']}; set embed_dim={width}",
            )
        rescales = argument(neck, 'rescales')
        if len(rescales) != num_levels:
            yield Problem(
                f'{trunk.key}.out_indices',
                f'must name one block for each of the {len(rescales)} rescales '
                f'of {neck.key}, got {num_levels}; name {len(rescales)} blocks',
            )
            return
    if not neck or neck.is_a(Feature2Pyramid):
        for head in _heads(plan):
            yield from _check_head(head, width, num_levels)
    classes = {head.cfg['num_classes'] for head in _heads(plan)[:1] if 'num_classes' in head.cfg}
    for head in _heads(plan)[1:]:
        if head.name == 'FCNHead' and classes and head.cfg.get('num_classes') not in classes:
            yield Problem(
                f'{head.key}.num_classes',
                f"must be the decode head's {classes.pop()}, got "
                f'{head.cfg.get("num_classes")}; both see the same labels',
            )
            return


def _heads(plan: RunPlan) -> list[Part]:
    """Decode heads, then auxiliary ones."""
    keys = {part.key: part for part in plan.parts if part.cls is not None}
    return [
        part
        for name in ('decode_head', 'auxiliary_head')
        for key, part in keys.items()
        if part.place == name and key.startswith(f'model.{name}')
    ]


def _check_head(head: Part, width: int, num_levels: int) -> Iterator[Problem]:
    channels, indices = head.cfg.get('in_channels'), argument(head, 'in_index')
    indices = -1 if indices is None else indices
    as_list = [list(value) if isinstance(value, (list, tuple)) else [value] for value in (channels, indices)]
    if channels is not None and len(as_list[0]) != len(as_list[1]):
        yield Problem(
            f'{head.key}.in_channels',
            f'must have one entry for each of in_index={indices}, got {channels}; set {[width] * len(as_list[1])}',
        )
    elif channels is not None and set(as_list[0]) != {width}:
        wanted = [width] * len(as_list[0]) if isinstance(channels, (list, tuple)) else width
        yield Problem(
            f'{head.key}.in_channels',
            f"must be the trunk's embed_dim, {wanted}, got {channels}; set in_channels={wanted}",
        )
    for index in as_list[1]:
        if isinstance(index, int) and not -num_levels <= index < num_levels:
            yield Problem(
                f'{head.key}.in_index',
                f'must name one of the {num_levels} levels that out_indices gives, '
                f'got {index}; the last is {num_levels - 1}',
            )


def _check_windows(plan: RunPlan, trunk: Part) -> Iterator[Problem]:
    """Sliding windows and what the preprocessor pads to."""
    patch, model = argument(trunk, 'patch_size'), plan.cfg['model']
    test_cfg = model.get('test_cfg') or {}
    if _heads(plan) and test_cfg.get('mode') == 'slide':
        missing = [name for name in ('crop_size', 'stride') if name not in test_cfg]
        if missing:
            yield Problem(f'model.test_cfg.{missing[0]}', "the mode 'slide' needs it, add it as (height, width)")
            return
        crop, stride = as_pair(test_cfg['crop_size']), as_pair(test_cfg['stride'])
        yield from check_divisible('model.test_cfg.crop_size', test_cfg['crop_size'], patch, 'the patch size')
        if crop and stride and (stride[0] > crop[0] or stride[1] > crop[1]):
            yield Problem(
                'model.test_cfg.stride',
                f'must not exceed crop_size={crop}, else windows leave gaps, got '
                f'{stride}; two thirds of the crop are usual',
            )
    preprocessor = model.get('data_preprocessor') or {}
    for key, node in (('', preprocessor), ('.test_cfg', preprocessor.get('test_cfg') or {})):
        yield from check_divisible(f'model.data_preprocessor{key}.size', node.get('size'), patch, 'the patch size')


def _check_channels(plan: RunPlan, trunk: Part) -> Iterator[Problem]:
    in_channels = argument(trunk, 'in_channels')
    preprocessor = plan.cfg['model'].get('data_preprocessor') or plan.cfg.get('data_preprocessor') or {}
    for name in ('mean', 'std'):
        value = preprocessor.get(name)
        if isinstance(value, (list, tuple)) and len(value) not in (1, in_channels):
            yield Problem(
                f'model.data_preprocessor.{name}',
                f"must have one value for each of the trunk's in_channels="
                f'{in_channels}, got {len(value)}; add or remove values',
            )


def check_metrics(plan: RunPlan) -> Iterator[Problem]:
    """A metric that counts another vocabulary than the tokenizer has, or more best guesses than there are classes."""
    model, head, metric = (plan.part(key) for key in ('model', 'model.head', 'val_evaluator'))
    if metric is None or 'val_dataloader' not in plan.loaders:
        return
    if model and model.is_a(DiscreteVAE) and 'vocab_size' in metric.cfg:
        own, given = argument(model, 'vocab_size'), metric.cfg['vocab_size']
        if own != given:
            yield Problem(
                f'{metric.key}.vocab_size',
                f"must be the tokenizer's {own}, got {given}; set vocab_size={own}",
                is_error=given < own,
            )
    topk, num_classes = metric.cfg.get('topk'), head.cfg.get('num_classes') if head else None
    topk = [topk] if isinstance(topk, int) else topk or []
    if isinstance(num_classes, int) and topk and max(topk) > num_classes:
        fitting = tuple(k for k in topk if k <= num_classes)
        yield Problem(
            f'{metric.key}.topk',
            f'must not exceed the {num_classes} classes of the head, got {max(topk)}; set topk={fitting}',
        )
