"""Checks of pipelines: image sizes against patches, masks and views, and what our transforms refuse when built."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from beit_mm.datasets.transforms.masking import MaskGenerator
from beit_mm.models import DiscreteVAE, MaskedPatches, VisualTokens
from beit_mm.models.tokenizers.discrete_vae import STRIDE

from .arguments import accepted_arguments
from .model_sizes import argument, as_pair, check_divisible, find_trunk
from .parts import Part
from .problems import Problem
from .run_plan import quiet, RunPlan

# The argument that sets the size of an image, and whether it comes as (width, height).
SIZE_ARGUMENTS = dict(
    RandomResizedCrop=('scale', False),
    TwoViewRandomResizedCrop=('scale', False),
    EfficientNetRandomCrop=('scale', False),
    RandomCrop=('crop_size', False),
    EfficientNetCenterCrop=('crop_size', False),
    CenterCrop=('crop_size', True),
    Resize=('scale', True),
)
SIZE_KEEPING = (
    'LoadImage',
    'LoadImageFromFile',
    'LoadAnnotations',
    'RandomFlip',
    'ColorJitter',
    'RandAugment',
    'AutoAugment',
    'RandomErasing',
    'PhotoMetricDistortion',
    'Lighting',
    'GaussianBlur',
    'Normalize',
    'RandomGrayscale',
    'PackInputs',
    'PackSegInputs',
    'PackTwoViews',
    'BlockwiseMaskGenerator',
    'RandomMaskGenerator',
    'DrawColorJitter',
)
# Packages in which no transform but our MaskGenerator adds `mask`.
MASKLESS = ('beit_mm', 'mmcv', 'mmpretrain', 'mmseg')


class Size(NamedTuple):
    """Size (height, width) of what a pipeline gives, and the key that sets it."""

    key: str
    pair: tuple[int, int]


def check_pipelines(plan: RunPlan) -> Iterator[Problem]:
    """All pipelines of the loaders in use."""
    trunk, model = find_trunk(plan), plan.part('model')
    step, what = (argument(trunk, 'patch_size'), 'the patch size') if trunk else (None, '')
    if model and model.is_a(DiscreteVAE):
        step, what = STRIDE, "the tokenizer's stride"
    for loader, key, transforms in _pipelines(plan):
        yield from _check_own(transforms)
        size = final_size(transforms)
        is_cut_later = loader != 'train_dataloader' and plan.part('model.decode_head')
        if step and size and not is_cut_later:
            yield from check_divisible(size.key, size.pair, step, what)
        if trunk and size and loader == 'train_dataloader' and not any(side % step for side in size.pair):
            yield from _check_training_size(plan, trunk, size)
        if trunk:
            yield from _check_masks(plan, trunk, transforms, size)


def _pipelines(plan: RunPlan) -> Iterator[tuple[str, str, list[Part]]]:
    """Loader, key and transforms of every pipeline."""
    for loader in plan.loaders:
        parts = plan.below(loader)
        for dataset in parts:
            if isinstance(dataset.cfg.get('pipeline'), (list, tuple)):
                key = f'{dataset.key}.pipeline'
                own = {part.key: part for part in parts}
                transforms = [own.get(f'{key}.{index}') for index in range(len(dataset.cfg['pipeline']))]
                if all(transforms):
                    yield loader, key, transforms


def _check_own(transforms: list[Part]) -> Iterator[Problem]:
    """Our transforms are cheap to build and say in one sentence what they refuse."""
    for part in transforms:
        if part.cls.__module__.startswith('beit_mm.') and set(part.arguments) <= accepted_arguments(part.cls).names:
            try:
                with quiet():
                    part.cls(**part.arguments)
            except (ValueError, TypeError, AssertionError) as error:
                if 'missing' not in str(error):  # an argument: told where arguments are checked
                    yield Problem(part.key, str(error))


def final_size(transforms: list[Part]) -> Size | None:
    """What the images measure after a pipeline; None if that differs from image to image or cannot be told."""
    size = None
    for part in transforms:
        name = part.name
        if name in SIZE_ARGUMENTS:
            argument_name, is_flipped = SIZE_ARGUMENTS[name]
            keeps_ratio = name == 'Resize' and (argument(part, 'keep_ratio') or not part.cfg.get('scale'))
            pair = None if keeps_ratio else as_pair(argument(part, argument_name))
            size = Size(f'{part.key}.{argument_name}', pair[::-1] if is_flipped else pair) if pair else None
        elif name not in SIZE_KEEPING:
            size = None
    return size


def _check_training_size(plan: RunPlan, trunk: Part, size: Size) -> Iterator[Problem]:
    """Crops against the trunk's training size and the preprocessor's padding, which differ only by mistake."""
    own = as_pair(argument(trunk, 'img_size'))
    padded = as_pair((plan.cfg['model'].get('data_preprocessor') or {}).get('size'))
    for key, other in ((f'{trunk.key}.img_size', own), ('model.data_preprocessor.size', padded)):
        if other and other != size.pair:
            yield Problem(
                key,
                f'training images are {size.pair[0]} x {size.pair[1]} ({size.key}), got {other[0]} x '
                f'{other[1]}; set the same size',
                is_error=False,
            )


def _check_masks(plan: RunPlan, trunk: Part, transforms: list[Part], size: Size | None) -> Iterator[Problem]:
    """Grid of the masks against that of the patches, and the tokenizer's view against both."""
    crop = next((part for part in transforms if 'second_scale' in accepted_arguments(part.cls).names), None)
    masks = next((part for part in transforms if part.is_a(MaskGenerator)), None)
    if crop is None:
        return
    if masks is None:
        if all(part.cls.__module__.partition('.')[0] in MASKLESS for part in transforms):  # others may draw masks
            yield Problem(
                crop.key, 'a pipeline of two views needs a mask generator, add beit_mm.BlockwiseMaskGenerator after it'
            )
        return
    patch, grid = argument(trunk, 'patch_size'), as_pair(argument(masks, 'grid'))
    if size and grid and not any(side % patch for side in size.pair):
        patches = tuple(side // patch for side in size.pair)
        if patches != grid:
            grid, wrong = patches, grid
            yield Problem(
                f'{masks.key}.grid',
                f'must be the grid of patches, {patches}, as images of {size.pair[0]} x '
                f'{size.pair[1]} have patches of {patch}, got {wrong}; set grid={patches}',
            )
    target = plan.part('model.target')
    view = as_pair(argument(crop, 'second_scale'))
    if target and target.is_a(VisualTokens) and view and grid:
        yield from _check_view(f'{crop.key}.second_scale', view, grid)
    recovered = plan.part('model.recovered')
    if recovered and recovered.is_a(MaskedPatches):
        own, given = argument(masks, 'num_masked'), argument(recovered, 'num_masked')
        if given not in (None, own):
            yield Problem(
                f'{recovered.key}.num_masked', f"must be the mask generator's {own}, got {given}; set num_masked={own}"
            )


def _check_view(key: str, view: tuple[int, int], grid: tuple[int, int]) -> Iterator[Problem]:
    wanted = tuple(STRIDE * side for side in grid)
    if view != wanted:
        tokens = tuple(side // STRIDE for side in view)
        mend: Any = wanted[0] if wanted[0] == wanted[1] else wanted
        yield Problem(
            key,
            f'the grid of targets (second_scale over {STRIDE}) must be that of the masks (grid of the '
            f'mask generator), {grid}, got {tokens}; set second_scale={mend}',
        )
