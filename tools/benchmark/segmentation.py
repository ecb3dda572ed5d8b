"""UperNet's test and training step, of recipes at a given size, with the same weights on both sides."""

from collections.abc import Sequence
from dataclasses import replace

import mmseg
import torch
from limits import compare_steps
from measuring import Row, Sizes
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from steps import build, build_hosts_wrapper, build_wrapper, device, inference, per_dtype, recipe, training_step
from torch import nn, Tensor

import beit_mm
from beit_mm.models.layout import INDEX
from beit_mm.models.weight_layouts import LAYOUTS

HOSTS_RECIPE = 'beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py'
MARGIN = 1e-4
Image = tuple[Tensor, list[SegDataSample]]


def segmentors(sizes: Sizes) -> dict[str, tuple[nn.Module, Config]]:
    """Ours and MMSegmentation's, same sizes and weights, and their recipes; UperNet is as wide as the trunk."""
    ours, host = recipe(beit_mm, 'beit_segment.py'), recipe(mmseg, HOSTS_RECIPE)
    size, depth, width = sizes.size, sizes.depth, sizes.width
    ours.model.backbone.update(img_size=size, embed_dim=width, depth=depth, num_heads=sizes.heads)
    host.model.backbone.update(img_size=(size, size), embed_dims=width, num_layers=depth, num_heads=sizes.heads)
    host.optim_wrapper.paramwise_cfg.num_layers = depth
    for config in (ours, host):
        model = config.model
        model.backbone.out_indices = [depth // 3 - 1, depth // 2 - 1, 2 * depth // 3 - 1, depth - 1]
        model.neck.embed_dim = width
        model.decode_head.update(in_channels=[width] * 4, channels=width)
        model.auxiliary_head.in_channels = width
        for part in (model.neck, model.decode_head, model.auxiliary_head):
            part.norm_cfg = dict(type='BN')  # the synchronised one has no code for a CPU
        model.test_cfg = dict(model.test_cfg, crop_size=(size, size), stride=(size * 2 // 3,) * 2)
    built = {'ours': (build(ours), ours), 'MMSegmentation': (build(host), host)}
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
    unknown = [*unexpected, *(name for name in unknown if not name.endswith('grid_size'))]
    if missing or unknown:
        raise ValueError(f"MMSegmentation's model must take all weights of ours, missing {missing}, unknown {unknown}")


def draw_images(size: int) -> list[Image]:
    """Normalised images of ADE20K's shapes: the short side is the window's, the long one as long or a third longer;
    results are wanted at four fifths of that, as for the usual 512 x 683.
    """
    images = []
    for shape in ((size, size * 4 // 3), (size, size)):
        metainfo = dict(img_shape=shape, pad_shape=shape, ori_shape=tuple(side * 4 // 5 for side in shape))
        images.append((torch.randn(1, 3, *shape, device=device()), [SegDataSample(metainfo=metainfo)]))
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
            f'the class maps of ours and of MMSegmentation must agree wherever the two highest logits are more than '
            f'{MARGIN} apart, {differing} pixels differ (largest difference of logits {largest:.3g})'
        )
    return {'largest difference of logits': largest, 'differing pixels': differing}


def compare_tests(models: dict[str, tuple[nn.Module, Config]], sizes: Sizes) -> list[Row]:
    """Sliding-window tests of images of ADE20K's shapes in float32.

    Raises:
        ValueError: If the results of the two are not the same.
    """
    images = draw_images(sizes.size)
    figures = differences(*(model.eval() for model, _ in models.values()), images)
    tests = {name: inference(predictions, model, images, dtype='float32') for name, (model, _) in models.items()}
    title = f'UperNet test, window {sizes.size}, width {sizes.width}, depth {sizes.depth}'
    first, *others = compare_steps(title, tests, sizes.rounds, len(images))
    return [replace(first, figures=figures), *others]


def compare_training(models: dict[str, tuple[nn.Module, Config]], sizes: Sizes) -> list[Row]:
    """Training steps at the window's size, of at least two images, for the batch norm of the 1 x 1 pool."""
    batch, square = max(sizes.batch, 2), f'{sizes.size} x {sizes.size}'
    (ours, our_config), (host, host_config) = models.values()
    inputs = torch.randn(batch, 3, sizes.size, sizes.size, device=device())
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=dict(img_shape=labels.shape[1:]))
        for labels in torch.randint(150, (batch, 1, sizes.size, sizes.size), device=device())
    ]
    makers = per_dtype(
        'ours',
        lambda dtype: training_step(ours, lambda: ours.loss(inputs, samples), build_wrapper(ours, our_config, dtype)),
    )
    steps = {name: make() for name, make in makers.items()}
    steps['MMSegmentation'] = training_step(
        host, lambda: host.loss(inputs, samples), build_hosts_wrapper(host, host_config)
    )
    title = f'UperNet training step, {square}, width {sizes.width}, depth {sizes.depth}, {batch} images'
    return compare_steps(title, steps, sizes.rounds, batch)


def compare_segmentation(sizes: Sizes) -> list[Row]:
    """Tests, then training steps, of the same models."""
    models = segmentors(sizes)
    return [*compare_tests(models, sizes), *compare_training(models, sizes)]
