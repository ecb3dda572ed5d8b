"""Training steps and tests of whole models against those of the hosts and timm."""
from types import SimpleNamespace
from typing import Callable, Dict, List, Sequence, Tuple

import timm
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS as MMPRETRAIN
from mmseg.registry import MODELS as MMSEG
from torch import Tensor, nn

from ..models import BEiT, MaskedImageModel
from ..models.segmentor import EncoderDecoder
from .measuring import Row, compare
from .peers import ReleasesModel

Step = Callable[[], None]


def device() -> str:
    return 'cuda' if torch.cuda.is_available() else 'cpu'


def _step(model: nn.Module, loss: Callable[[], Tensor], **options) -> Step:
    """One update with AdamW, in bfloat16 where there is a GPU."""
    model.train().to(device())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, **options)

    def run():
        with torch.autocast(device(), torch.bfloat16, enabled=device() == 'cuda'):
            value = loss()
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()

    return run


def compare_pretraining(rounds: int = 3, batch: int = 8, depth: int = 12, width: int = 768,
                        n_hid: int = 256) -> List[Row]:
    """A pre-training step at 224 x 224 with the tokenizer at 112 x 112."""
    heads = width // 64
    images, views = torch.randn(batch, 3, 224, 224, device=device()), torch.rand(batch, 3, 112, 112, device=device())
    mask = torch.stack([torch.randperm(196) < 75 for _ in range(batch)]).view(batch, 14, 14).to(device())
    ours = MaskedImageModel(
        BEiT(embed_dim=width, depth=depth, num_heads=heads, drop_path_rate=0.1, use_rel_pos_bias=False,
             use_shared_rel_pos_bias=True, use_mask_token=True, out_type='raw'),
        dict(type='beit_mm.VisualTokens', tokenizer=dict(type='beit_mm.DiscreteVAE', n_hid=n_hid)),
        recovered=dict(type='beit_mm.MaskedPatches', num_masked=75))
    release = ReleasesModel(width, depth, heads, n_hid)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        host = MMPRETRAIN.build(dict(
            type='BEiT', neck=None,
            backbone=dict(type='BEiTPretrainViT', arch=dict(embed_dims=width, num_layers=depth, num_heads=heads,
                                                            feedforward_channels=4 * width),
                          patch_size=16, drop_path_rate=0.1, final_norm=True, out_type='raw',
                          layer_scale_init_value=0.1),
            head=dict(type='BEiTV1Head', embed_dims=width, num_embed=8192, loss=dict(type='CrossEntropyLoss')),
            target_generator=dict(type='DALL-E', n_hid=n_hid)))

    samples = [SimpleNamespace(mask=one) for one in mask]
    mapped = 0.8 * views + 0.1  # which its preprocessor gives
    return compare(f'pre-training step, {batch} images', {
        'ours': _step(ours, lambda: ours(images, views, mask, mode='loss')['loss'], fused=True),
        'the release\'s steps': _step(release, lambda: release(images, views, mask)),
        'MMPretrain': _step(host, lambda: host.loss([images, mapped], samples)['loss'])}, rounds, batch)


def compare_trunks(rounds: int = 3, batch: int = 8, size: int = 224, depth: int = 12, width: int = 768) -> List[Row]:
    """Fine-tuning steps and inference of a classifier against timm's, eager."""
    images = torch.randn(batch, 3, size, size, device=device())
    labels = torch.randint(1000, (batch,), device=device())
    ours = nn.Sequential(BEiT(img_size=size, embed_dim=width, depth=depth, num_heads=width // 64, drop_path_rate=0.1))
    ours.add_module('head', nn.Linear(width, 1000))
    ours.forward = lambda x: ours.head(ours[0](x)[0])
    theirs = timm.create_model('beit_base_patch16_224', img_size=size, embed_dim=width, depth=depth,
                               num_heads=width // 64, drop_path_rate=0.1)
    loss = nn.functional.cross_entropy
    rows = compare(f'fine-tuning step, {size} x {size}, {batch} images', {
        'ours': _step(ours, lambda: loss(ours(images), labels), fused=True),
        'timm': _step(theirs, lambda: loss(theirs(images), labels))}, rounds, batch)
    candidates = {'ours': ours.eval(), 'timm': theirs.eval()}
    return rows + compare(f'inference, {size} x {size}, {batch} images', {
        name: _inference(model, images) for name, model in candidates.items()}, rounds, batch)


def _inference(model: nn.Module, images: Tensor) -> Step:
    @torch.inference_mode()
    def run():
        with torch.autocast(device(), torch.bfloat16, enabled=device() == 'cuda'):
            model(images)
    return run


def segmentors(size: int, depth: int, width: int) -> Dict[str, nn.Module]:
    """Ours and MMSegmentation's EncoderDecoder with the same sizes; the weights differ."""
    indices = [depth // 3 - 1, depth // 2 - 1, 2 * depth // 3 - 1, depth - 1]
    norm_cfg = dict(type='BN')
    common = dict(in_channels=[width] * 4, in_index=[0, 1, 2, 3], channels=width, num_classes=150, norm_cfg=norm_cfg)
    parts = dict(
        neck=dict(type='Feature2Pyramid', embed_dim=width, norm_cfg=norm_cfg),
        auxiliary_head=dict(type='FCNHead', in_channels=width, in_index=2, channels=256, num_convs=1,
                            concat_input=False, num_classes=150, norm_cfg=norm_cfg),
        train_cfg=None, test_cfg=ConfigDict(mode='slide', crop_size=(size, size), stride=(size * 2 // 3,) * 2))
    with DefaultScope.overwrite_default_scope('mmseg'):
        ours = EncoderDecoder(
            backbone=dict(type='beit_mm.BEiT', img_size=size, embed_dim=width, depth=depth, num_heads=width // 64,
                          out_type='featmap', out_indices=indices),
            decode_head=dict(type='beit_mm.UperNetHead', **common), **parts)
        host = MMSEG.build(dict(
            type='EncoderDecoder',
            backbone=dict(type='BEiT', img_size=size, embed_dims=width, num_layers=depth, num_heads=width // 64,
                          out_indices=indices, qv_bias=True, init_values=0.1, norm_cfg=dict(type='LN', eps=1e-6)),
            decode_head=dict(type='UPerHead', **common), **parts))
    return {'ours': ours.to(device()).eval(), 'MMSegmentation': host.to(device()).eval()}


def compare_segmentation(rounds: int = 2, size: int = 640, depth: int = 12, width: int = 768,
                         images: Sequence[Tuple[int, int]] = ((640, 853), (640, 640)), batch: int = 1) -> List[Row]:
    """Sliding-window tests of images of ADE20K's sizes, then training steps at the window's size."""
    models = segmentors(size, depth, width)
    pictures = [torch.randn(1, 3, *sides, device=device()) for sides in images]

    def test(model):
        @torch.inference_mode()
        def run():
            for picture in pictures:
                model.inference(picture, [dict(ori_shape=tuple(picture.shape[2:]))]).argmax(dim=1)
        return run

    rows = compare(f'UperNet test, window {size}', {name: test(model) for name, model in models.items()}, rounds,
                   len(pictures))
    inputs = torch.randn(max(batch, 2), 3, size, size, device=device())  # batch norm of the 1 x 1 pool wants two
    labels = torch.randint(150, (len(inputs), size, size), device=device())

    def loss(model):
        logits = model.decode_head(model.extract_feat(inputs))
        logits = nn.functional.interpolate(logits, size=labels.shape[1:], mode='bilinear', align_corners=False)
        return nn.functional.cross_entropy(logits, labels)

    steps = {name: _step(model, lambda model=model: loss(model), fused=name == 'ours')
             for name, model in models.items()}
    return rows + compare(f'UperNet training step, {size} x {size}', steps, rounds, len(inputs))
