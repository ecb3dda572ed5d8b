"""The trunk with PyTorch's and the hosts' own means: hooks, LoRA, compilation, export, fake tensors, freezing."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmpretrain.models import ImageClassifier
from mmpretrain.models.peft import LoRAModel
from mmpretrain.structures import DataSample
from support.tiny import pixels, PRE_TRAINING
from support.tiny import trunk as build
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode

from beit_mm.models import UperNetHead

TINY = dict(img_size=64, embed_dim=32, depth=3, num_heads=4)
TRUNKS = pytest.mark.parametrize('options', [{}, PRE_TRAINING], ids=['fine-tuning', 'pre-training'])


def test_a_hook_on_any_linear_layer_sees_its_output_and_may_replace_it():
    trunk, x, shapes = build(depth=3), pixels(64, 64), {}
    for name, module in trunk.blocks.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _, __, output, name=name: shapes.update({name: tuple(output.shape)}))
    before = trunk(x)[0]
    widths = {'attn.qkv': 96, 'attn.proj': 32, 'mlp.fc1': 128, 'mlp.fc2': 32}
    assert shapes == {f'{block}.{name}': (2, 17, width) for block in range(3) for name, width in widths.items()}

    qkv = trunk.blocks[1].attn.qkv
    hook = qkv.register_forward_hook(lambda module, args, output: 2 * output)
    doubled = trunk(x)[0]
    hook.remove()
    with torch.no_grad():
        qkv.weight.mul_(2)
    assert not torch.allclose(doubled, before) and torch.allclose(doubled, trunk(x)[0], atol=1e-5)


def test_lora_of_mmpretrain_trains_qkv_alone():
    trunk = dict(type='beit_mm.BEiT', **TINY)
    backbone = dict(type='LoRAModel', module=trunk, alpha=4, rank=2, targets=[dict(type='qkv')])
    torch.manual_seed(0)
    model = ImageClassifier(backbone, head=dict(type='LinearClsHead', num_classes=4, in_channels=32))
    assert isinstance(model.backbone, LoRAModel)
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.5)))
    data = dict(inputs=pixels(64, 64, 4), data_samples=[DataSample().set_gt_label(i) for i in range(4)])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = [model.train_step(data, wrapper)['loss'].item() for _ in range(5)]
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert losses[-1] < losses[0]
    assert {name for name in changed if name.startswith('backbone')} == {
        f'backbone.module.blocks.{block}.attn.qkv.lora_{part}.weight' for block in range(3) for part in ('down', 'up')
    }


@TRUNKS
def test_the_whole_trunk_compiles_to_one_graph_at_any_grid(options):
    trunk, counter = build(**options).eval(), CompileCounter()
    compiled = torch.compile(trunk, backend=counter, fullgraph=True)
    for count, size in enumerate(((64, 64), (48, 80)), start=1):
        x = pixels(*size)
        mask = torch.rand(2, size[0] // 16, size[1] // 16) < 0.4 if options else None
        torch.testing.assert_close(compiled(x, mask)[0], trunk(x, mask)[0])
        assert counter.frame_count == count
    compiled(pixels(64, 64), torch.rand(2, 4, 4) < 0.4 if options else None)[0].sum().backward()
    assert counter.frame_count == 2


def test_equal_blocks_share_one_graph(monkeypatch):
    counter, compiling = CompileCounter(), torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, 'compile', lambda module: compiling(module, backend=counter, fullgraph=True))
    plain, compiled = build(), build(compile_blocks=True)
    assert list(plain.state_dict()) == list(compiled.state_dict())
    x = pixels(64, 64)
    torch.testing.assert_close(compiled(x)[0], plain(x)[0])
    assert counter.frame_count == 1


@TRUNKS
def test_an_export_at_a_new_grid_leaves_later_calls_as_they_are(options):
    trunk, x = build(**options).eval(), pixels(80, 176)
    program = torch.export.export(trunk, (x,), strict=False).module()
    (output,) = trunk(x)
    torch.testing.assert_close(program(x)[0], output)
    output.sum().backward()


@pytest.mark.parametrize('mode', ['fake', 'inference'])
def test_the_mode_of_a_first_call_at_a_grid_does_not_last(mode):
    trunk, x = build().eval(), pixels(96, 208)
    options = dict(in_channels=[32] * 2, in_index=[0, 1], channels=8, num_classes=3, norm_cfg=dict(type='BN'))
    head, levels = UperNetHead(**options).eval(), [torch.randn(1, 32, 24, 52), torch.randn(1, 32, 6, 13)]
    with FakeTensorMode(allow_non_fake_inputs=True) if mode == 'fake' else torch.inference_mode():
        trunk(x)
        head(levels)
    for output in (trunk(x)[0], head(levels)):
        assert type(output) is torch.Tensor
        output.sum().backward()
    assert trunk.blocks[0].attn.relative_position_bias_table.grad.any() and head.fpn_bottleneck.conv.weight.grad.any()


@pytest.mark.parametrize(
    'frozen_stages, out_type', [(-1, 'raw'), (0, 'raw'), (2, 'raw'), (3, 'raw'), (3, 'avg_featmap'), (3, 'featmap')]
)
def test_frozen_stages_do_not_learn_and_stay_in_evaluation_mode(frozen_stages, out_type):
    options = dict(use_abs_pos_emb=True, drop_path_rate=0.5, drop_rate=0.1, out_type=out_type)
    trunk = build(depth=3, frozen_stages=frozen_stages, **options).train()
    frozen = {'patch_embed', 'cls_token', 'pos_embed'} if frozen_stages >= 0 else set()
    frozen |= {f'blocks.{block}' for block in range(max(frozen_stages, 0))}
    frozen |= {'fc_norm', 'norm'} if frozen_stages == 3 else set()
    for name, parameter in trunk.named_parameters():
        is_frozen = name in frozen or any(name.startswith(f'{part}.') for part in frozen)
        assert parameter.requires_grad != is_frozen, name
    for index, block in enumerate(trunk.blocks):
        assert {module.training for module in block.modules()} == {index >= frozen_stages}
    assert trunk.pos_drop.training == (frozen_stages < 0)
    output = trunk(pixels(64, 64))[0]
    assert output.requires_grad == (frozen_stages < 3)
    assert not any(module.training for module in trunk.eval().modules())
