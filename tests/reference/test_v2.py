"""BEiT v2 against numbers that its released implementation printed."""

import json

import pytest
import torch
from mmengine.config import Config
from reference.test_release import DATA, Reference, relative_error, ViewsAsTokens
from torch import nn

from beit_mm.apis import load_model
from beit_mm.checkpoint.converting import to_layout
from beit_mm.checkpoint.mapping import rename_beit_weights
from beit_mm.errors import UserError
from beit_mm.models import BEiT, MaskedImageModel, VectorQuantisedTokenizer, VisualTokens
from beit_mm.models.tokenizers.vector_quantised import spherical_kmeans
from beit_mm.models.weight_layouts import LAYOUTS
from beit_mm.registry import MODELS


class Tokens(ViewsAsTokens):
    vocab_size = 61


def our_name(name: str) -> str:
    """The release's name of a weight in pre-training to ours."""
    for theirs, ours in (('cls_pt_layers', 'bottleneck.blocks'), ('cls_pt_', 'bottleneck.')):
        if name.startswith(theirs):
            return name.replace(theirs, ours, 1)
    return name if name.startswith('lm_head') else f'backbone.{name}'


@pytest.mark.parametrize('head', ['shared', 'separate'])
def test_both_predictions_and_gradients_of_pre_training(head):
    file = Reference(f'v2/v2_mim_{head}_head.npz')
    trunk = BEiT(
        **file.trunk, use_rel_pos_bias=False, use_shared_rel_pos_bias=True, use_mask_token=True, out_type='raw'
    )
    sizes = {name: file.config[name] for name in ('early_layers', 'head_layers')}
    bottleneck = dict(sizes, shared_head=head == 'shared')
    model = MaskedImageModel(trunk, VisualTokens(Tokens()), bottleneck=bottleneck)
    weights = rename_beit_weights({'model': file.weights}, 'the file')['state_dict']
    model.load_state_dict(weights)
    back, *_ = to_layout(weights, LAYOUTS['release'], 'pretrain', model.backbone.grid)
    assert back.keys() == file.weights.keys() and all(torch.equal(back[name], file.weights[name]) for name in back)
    mask = file['mask'].unflatten(1, (4, 4))
    tokens = torch.zeros(mask.shape, dtype=torch.long).masked_scatter(mask, file['labels'])
    assert relative_error(model(file['x'], mask=mask, mode='outputs'), file['masked_logits']) < 1e-5
    behind = model.bottleneck(model.backbone, file['x'], mask)[1][:, 1:][file['mask']]
    assert relative_error((model.bottleneck.lm_head or model.lm_head)(behind), file['masked_logits_cls']) < 1e-5
    loss, _ = model.parse_losses(model.loss(file['x'], tokens, mask))
    loss.backward()
    assert relative_error(loss, file['loss']) < 1e-5
    parameters = dict(model.named_parameters())
    for name in file.names('grad/'):
        assert relative_error(parameters[our_name(name)].grad, file[f'grad/{name}']) < 1e-5, name
    assert relative_error(nn.utils.clip_grad_norm_(model.parameters(), 1e9), file['grad_norm']) < 1e-5


def test_fine_tuning_leaves_out_the_second_prediction_of_a_released_file(tmp_path, capsys):
    file = Reference('v2/v2_mim_separate_head.npz')
    torch.save(dict(model=file.weights), path := str(tmp_path / 'pt1k.pth'))
    trunk = BEiT(**file.trunk, init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.'))
    trunk.init_weights()
    for name, tensor in trunk.state_dict().items():
        if name.startswith('blocks.') and not name.endswith('bias_table'):
            assert torch.equal(tensor, file.weights[name]), name
    log = capsys.readouterr().out
    assert 'shared bias table to' in log and 'bottleneck' not in log and 'cls_pt' not in log


def test_initial_deviations_of_pre_training():
    expected = json.loads((DATA / 'v2/v2_initial_deviations.json').read_text())
    torch.manual_seed(0)
    biases = dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=True)
    trunk = BEiT(embed_dim=256, depth=6, num_heads=4, **biases, use_mask_token=True, out_type='raw')
    vocabulary = Tokens()
    vocabulary.vocab_size = 8192
    model = MaskedImageModel(trunk, VisualTokens(vocabulary), bottleneck=dict(early_layers=4, head_layers=2))
    parameters = dict(model.named_parameters())
    for name, deviation in expected.items():
        assert parameters[our_name(name)].std().item() == pytest.approx(deviation, rel=0.05), name


SIZES = 'code_dim img_size embed_dim num_heads encoder_depth decoder_depth teacher_dim'.split()
TRUNK = dict(type='beit_mm.BEiT', img_size=32, embed_dim=32, depth=1, num_heads=4)


class GivenFeatures(nn.Module):
    """Stands for a teacher: returns features (B, h * w, C) on a grid."""

    def forward(self, images):
        return self.features.unflatten(1, (4, 4))


@pytest.fixture
def vqkd():
    file = Reference('v2/v2_vqkd.npz')
    config = dict(file.config)
    config.update(vocab_size=config.pop('num_codes'), commitment_weight=config.pop('beta'))
    model = VectorQuantisedTokenizer(**config, teacher=GivenFeatures())
    model.teacher.features = file['teacher']
    # The file's codes and their sizes are those after the third batch. These codes the first batch found; it does not
    # move the others. Two passes in evaluation mode, in which the release counts too, came before it.
    codes, tokens = file['codebook_after_1'].clone(), file['tokens'].flatten()
    codes[tokens] = file['quantized'].permute(0, 2, 3, 1).flatten(0, 2)
    sizes = torch.bincount(tokens, minlength=len(codes)) * (0.01 + 0.99 * 0.01)
    model.load_state_dict(file.weights | {'quantize.embedding.weight': codes, 'quantize.cluster_size': sizes})
    return model, file


def test_tokens_and_decoded_features(vqkd):
    model, file = vqkd
    model.eval()
    tokens = model.encode(file['images'])
    assert torch.equal(tokens.flatten(1), file['tokens'])
    codes = model.quantize.codes[tokens].permute(0, 3, 1, 2)
    assert relative_error(codes, file['quantized']) < 1e-5
    assert relative_error(model.decode_features(tokens).flatten(1, 2), file['decoded']) < 1e-5
    assert relative_error(model.loss(file['images'])['loss_commitment'], file['codebook_loss']) < 1e-5


def test_a_released_file_gives_the_reference_tokens_by_every_way_in(vqkd, tmp_path):
    model, file = vqkd
    others = dict.fromkeys(['teacher_model.proj', 'scaling_layer.shift', 'loss_fn.weight'], torch.zeros(2))
    weights = {**model.state_dict(), **others, 'quantize.embedding.embed_avg': torch.zeros(3)}
    torch.save(dict(model=weights, optimizer={}, epoch=99), path := tmp_path / 'vqkd.pth')
    sizes = {name: file.config[name] for name in SIZES} | dict(vocab_size=file.config['num_codes'])
    tokenizer = dict(type='beit_mm.VectorQuantisedTokenizer', **sizes)
    by_init_cfg = MODELS.build(dict(tokenizer, init_cfg=dict(type='Pretrained', checkpoint=str(path))))
    by_init_cfg.init_weights()
    alone = load_model(Config(dict(model=tokenizer)), path, 'cpu')
    trunk = dict(TRUNK, use_mask_token=True, out_type='raw')
    target = dict(type='beit_mm.VisualTokens', tokenizer=tokenizer)
    pre_training = dict(type='beit_mm.MaskedImageModel', backbone=trunk, target=target)
    for_pre_training = load_model(Config(dict(model=pre_training)), device='cpu', tokenizer=path)
    for loaded in (by_init_cfg.eval(), alone, for_pre_training.target.tokenizer):
        assert torch.equal(loaded.encode(file['images']).flatten(1), file['tokens'])


def test_a_tokenizer_for_a_trunk_and_a_trunk_for_a_tokenizer_are_refused(vqkd, tmp_path):
    model, _ = vqkd
    trunk = MODELS.build(TRUNK)
    for source, target, message in [
        (model, trunk, 'does not fit this BEiT trunk: it holds the tokenizer of BEiT v2'),
        (trunk, model, 'does not fit this tokenizer: it has no quantize.embedding.weight, but a trunk'),
    ]:
        torch.save(dict(model=source.state_dict()), path := str(tmp_path / 'weights.pth'))
        target.init_cfg = dict(type='Pretrained', checkpoint=path)
        with pytest.raises(UserError, match=f'^{path}: the checkpoint {message}'):
            target.init_weights()


def test_losses_gradients_and_the_codebook_after_three_batches(vqkd):
    model, file = vqkd
    model.train()
    losses = model.loss(file['images'])
    assert relative_error(losses['loss_commitment'], file['train_codebook_loss']) < 1e-5
    assert relative_error(losses['loss_teacher'], file['train_reconstruction_loss']) < 1e-5
    (losses['loss_commitment'] + losses['loss_teacher']).backward()
    parameters = dict(model.named_parameters())
    for name in file.names('grad/'):
        assert relative_error(parameters[name].grad, file[f'grad/{name}']) < 1e-5, name
    assert relative_error(nn.utils.clip_grad_norm_(model.parameters(), 1e9), file['grad_norm']) < 1e-5
    assert relative_error(model.quantize.codes, file['codebook_after_1']) < 1e-5
    assert relative_error(model.quantize.cluster_size, file['cluster_size_after_1']) < 1e-5
    for step in (2, 3):
        model.loss(file[f'images_{step}'])
        assert relative_error(model.quantize.codes, file[f'codebook_after_{step}']) < 1e-5


def test_spherical_k_means():
    file = Reference('v2/v2_kmeans.npz')
    samples = file['samples']
    means, counts = spherical_kmeans(samples, samples[: len(file['means'])], int(file['num_iterations']))
    assert relative_error(means, file['means']) < 1e-5
    assert torch.equal(counts, file['counts'])
