import pytest
import timm
import torch
from mmengine.dist import get_world_size
from support.processes import together

from beit_mm.errors import UserError
from beit_mm.models import BEiT, BEiTTeacher, TimmTeacher, VectorQuantisedTokenizer

TINY = dict(img_size=32, embed_dim=32, num_heads=4)


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.rand(2, 3, 32, 48)


def test_a_timm_teacher_gives_the_projected_patch_features_of_timm(images):
    size = dict(img_size=(32, 48), depth=1)
    teacher = TimmTeacher('vit_base_patch16_clip_224.openai', pretrained=False, use_head=True, options=size).eval()
    mean, std = (torch.tensor(teacher.trunk.pretrained_cfg[name]).view(3, 1, 1) for name in ('mean', 'std'))
    expected = teacher.trunk.head(teacher.trunk.forward_features((images - mean) / std)[:, 1:])
    features = teacher(images)
    assert features.shape == (2, 2, 3, 512)
    torch.testing.assert_close(features.flatten(1, 2), expected)
    assert timm.is_model('vit_base_patch16_224.dino')  # the other name in the docstring


def test_a_tokenizer_that_nobody_initialises_loads_its_teachers_weights_once(images, monkeypatch):
    """As in a test of a checkpoint. Building downloads nothing."""
    create, asked = timm.create_model, []

    def count(name, pretrained=False, **options):
        asked.append(pretrained)
        return create(name, **options)

    monkeypatch.setattr(timm, 'create_model', count)
    teacher = TimmTeacher(
        'vit_base_patch16_224.dino', options=dict(img_size=(32, 48), embed_dim=32, num_heads=4, depth=1)
    )
    tokenizer, before = make_tokenizer(teacher=teacher), teacher.trunk.blocks[0].mlp.fc1.weight.clone()
    assert asked == [False]
    for _ in range(2):
        tokenizer.train().loss(images)
    assert asked == [False, True] and not torch.equal(teacher.trunk.blocks[0].mlp.fc1.weight, before)


def test_a_beit_teacher_gives_the_normalised_images_features(images):
    trunk = BEiT(**TINY, depth=2, out_type='featmap').eval()
    teacher = BEiTTeacher(trunk, mean=[0.5] * 3, std=[0.25] * 3)
    torch.testing.assert_close(teacher(images), trunk((images - 0.5) / 0.25)[0].permute(0, 2, 3, 1))


def make_tokenizer(**options) -> VectorQuantisedTokenizer:
    teacher = BEiTTeacher(BEiT(**TINY, depth=1, out_type='featmap'))
    sizes = dict(vocab_size=8, code_dim=4, teacher_dim=32, encoder_depth=1, decoder_depth=1)
    return VectorQuantisedTokenizer(**TINY, **dict(sizes, teacher=teacher) | options)


def test_the_first_batch_sets_the_codes_and_weights_do_not_hold_the_teacher(images):
    tokenizer = make_tokenizer()
    with pytest.raises(UserError, match='the codebook has no values yet'):
        tokenizer.encode(images)
    tokenizer.train().loss(images)
    state = tokenizer.state_dict()
    torch.testing.assert_close(state['quantize.embedding.weight'].norm(dim=1), torch.ones(8))
    assert not any('teacher' in name for name in state)
    other = make_tokenizer()
    other.load_state_dict(state)
    assert torch.equal(other.encode(images), tokenizer.encode(images))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(teacher=None), 'needs a teacher, got teacher=None'),
        (dict(teacher_dim=16), r'must be \(2, 2, 3, 16\) \(B, h, w, teacher_dim\).*got \(2, 2, 3, 32\)'),
        (dict(patch_size=8), r'must be \(2, 4, 6, 32\).*got \(2, 2, 3, 32\)'),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(images, options, message):
    with pytest.raises(UserError, match=message):
        make_tokenizer(**options).train().loss(images)


def test_codes_of_another_width_are_refused():
    with pytest.raises(UserError, match=r'quantize.embedding.weight must be \(8, 4\), got \(8, 6\)'):
        make_tokenizer().load_state_dict(make_tokenizer(code_dim=6).state_dict())


def _codes_after_two_batches(rank: int, seed: int) -> dict:
    torch.manual_seed(0)
    tokenizer = make_tokenizer().train()
    torch.manual_seed(seed)
    share = 4 // get_world_size()
    for batch in torch.rand(2, 4, 3, 32, 32):
        tokenizer.loss(batch[share * rank : share * (rank + 1)])
    return tokenizer.quantize.state_dict()


def test_two_processes_keep_the_codebook_of_one(tmp_path):
    single, *_ = together(1, tmp_path / 'one', _codes_after_two_batches, 1)
    codebooks = together(2, tmp_path / 'two', _codes_after_two_batches, 1)
    for name, expected in single.items():
        assert torch.equal(codebooks[0][name], codebooks[1][name])
        torch.testing.assert_close(codebooks[0][name], expected)
