"""UperNet's test and training step, of recipes at a given size, with the same weights on both sides."""

from collections.abc import Sequence

import mmseg
import torch
from limits import compare_steps
from measuring import Row
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from steps import build_hosts_wrapper, build_wrapper, device, inference, per_dtype, recipe, Step, training_step
from torch import nn, Tensor

import beit_mm
from beit_mm.models.weight_layouts import INDEX, LAYOUTS

HOSTS_RECIPE = 'beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py'
MARGIN = 1e-4
Image = tuple[Tensor, list[SegDataSample]]


def segmentors(size: int, depth: int, width: int) -> dict[str, tuple[nn.Module, Config]]:
    """Ours and MMSegmentation's, same sizes and weights, and their recipes."""
    ours, host = recipe(beit_mm, 'beit_segment.py'), recipe(mmseg, HOSTS_RECIPE)
    heads = width // 64
    ours.model.backbone.update(img_size=size, embed_dim=width, depth=depth, num_heads=heads)
    host.model.backbone.update(img_size=(size, size), embed_dims=width, num_layers=depth, num_heads=heads)
    host.optim_wrapper.paramwise_cfg.num_layers = depth
    built = {}
    for name, config in (('ours', ours), ('MMSegmentation', host)):
        model = config.model
        model.backbone.out_indices = [depth // 3 - 1, depth // 2 - 1, 2 * depth // 3 - 1, depth - 1]
        model.neck.embed_dim = width
        model.decode_head.update(in_channels=[width] * 4, channels=width)
        model.auxiliary_head.in_channels = width
        for part in (model.neck, model.decode_head, model.auxiliary_head):
            part.norm_cfg = dict(type='BN')  # the synchronised one has no code for a CPU
        model.test_cfg = dict(model.test_cfg, crop_size=(size, size), stride=(size * 2 // 3,) * 2)
        with DefaultScope.overwrite_default_scope('mmseg'):
            built[name] = MODELS.build(model).to(device()), config
    share_weights(built['ours'][0], built['MMSegmentation'][0])
    return built


@torch.no_grad()
def share_weights(ours: nn.Module, host: nn.Module) -> None:
    """Give MMSegmentation's model the weights of ours, whose bias tables, zero at first, are drawn."""
    for name, parameter in ours.named_parameters():
        if name.endswith('relative_position_bias_table'):
            nn.init.normal_(parameter, std=0.5)
    weights, _, unknown = LAYOUTS['mmsegmentation'].from_ours(ours.state_dict(), 'segment')
    missing, unexpected = host.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not name.endswith(INDEX)]
    unknown = [name for name in unknown if not name.endswith('grid_size')]
    if missing or unexpected or unknown:
        raise ValueError(
            f"MMSegmentation's model was expected to take all weights of ours; missing: {missing}, "
            f'unknown: {[*unexpected, *unknown]}'
        )


def draw_images(size: int) -> list[Image]:
    """Normalised images of ADE20K's shapes: the short side is the window's, the long one as long or a third longer;
    results are wanted at four fifths of that, as for the usual 512 x 683.
    """
    images = []
    for height, width in ((size, size * 4 // 3), (size, size)):
        sample = SegDataSample(
            metainfo=dict(
                img_shape=(height, width), pad_shape=(height, width), ori_shape=(height * 4 // 5, width * 4 // 5)
            )
        )
        images.append((torch.randn(1, 3, height, width, device=device()), [sample]))
    return images


def predictions(model: nn.Module, images: Sequence[Image]) -> list[SegDataSample]:
    return [model.predict(pixels, [samples[0].clone()])[0] for pixels, samples in images]


@torch.inference_mode()
def differences(ours: nn.Module, host: nn.Module, images: Sequence[Image]) -> dict[str, float]:
    """How far two models' results are apart in float32.

    Returns:
        the largest difference of logits; how many pixels differ in class where the two highest logits of the host are
        more than 1e-4 apart, which is 0.

    Raises:
        ValueError: If it is not: times of different results compare nothing.
    """
    largest, differing = 0.0, 0
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for mine, theirs in zip(predictions(ours, images), predictions(host, images)):
            logits = theirs.seg_logits.data
            largest = max(largest, (mine.seg_logits.data - logits).abs().max().item())
            highest, second = logits.topk(2, dim=0).values
            other = (mine.pred_sem_seg.data != theirs.pred_sem_seg.data)[0]
            differing += (other & (highest - second > MARGIN)).sum().item()
    if differing:
        raise ValueError(
            f'the class maps of ours and of MMSegmentation must agree wherever the two highest logits are '
            f'more than {MARGIN} apart, {differing} pixels differ (largest difference of logits '
            f'{largest:.3g})'
        )
    return {'largest difference of logits': largest, 'differing pixels': differing}


def compare_segmentation(
    rounds: int = 2, size: int = 640, depth: int = 12, width: int = 768, batch: int = 2
) -> list[Row]:
    """Sliding-window tests of images of ADE20K's shapes in float32, then training steps at the window's size.

    Args:
        rounds: how often each candidate is timed.
        size: side of the window, a multiple of 16.
        depth, width: of the trunk; a head is 64 wide, UperNet as wide as the trunk.
        batch: images of a training step, at least 2 for the batch norm of the 1 x 1 pool.

    Raises:
        ValueError: If the results of the two are not the same.
    """
    models = segmentors(size, depth, width)
    images = draw_images(size)
    for model, _ in models.values():
        model.eval()
    what = f'width {width}, depth {depth}'
    found = differences(*(model for model, _ in models.values()), images)
    rows = compare_steps(
        f'UperNet test, window {size}, {what}',
        {name: inference(predictions, model, images, dtype=torch.float32) for name, (model, _) in models.items()},
        rounds,
        len(images),
    )
    rows[0].figures.update(found)
    batch = max(batch, 2)
    inputs, samples = _labelled(batch, size)
    steps = {
        name: _step(*models['ours'], inputs, samples, options['dtype']) for name, options in per_dtype('ours').items()
    }
    steps['MMSegmentation'] = _step(*models['MMSegmentation'], inputs, samples)
    return rows + compare_steps(f'UperNet training step, {size} x {size}, {what}, {batch} images', steps, rounds, batch)


def _labelled(batch: int, size: int) -> tuple[Tensor, list[SegDataSample]]:
    labels = torch.randint(150, (batch, 1, size, size), device=device())
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=dict(img_shape=(size, size))) for label in labels
    ]
    return torch.randn(batch, 3, size, size, device=device()), samples


def _step(model: nn.Module, config: Config, inputs: Tensor, samples: list, dtype: str = '') -> Step:
    """Loss of the decode and the auxiliary head and an update; of ours where a dtype is given."""
    wrapper = build_wrapper(model, config, dtype) if dtype else build_hosts_wrapper(model, config)
    return training_step(model, lambda: model.parse_losses(model.loss(inputs, samples))[0], wrapper)
