"""NeighboursHead remembers patches of training images, and finds their classes again."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import DefaultScope
from torch.nn import functional as F

from beit_mm.errors import UserError
from beit_mm.models import NeighboursHead

NUM_CLASSES, IGNORED = 3, 255


@pytest.fixture
def head():
    def build(**options) -> NeighboursHead:
        with DefaultScope.overwrite_default_scope('mmseg'):  # where heads look for their losses
            options = dict(bank_size=1000, patches_per_image=24, k=5, in_index=0, align_corners=False) | options
            return NeighboursHead(in_channels=8, num_classes=NUM_CLASSES, **options)

    return build


def scenes(seed: int, patch: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps (2, 8, 4, 6) whose patches are near the centre of their class, and labels of their pixels (2, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(NUM_CLASSES, (2, 4, 6), generator=generator)
    centres = 5 * torch.eye(8)[:NUM_CLASSES]
    maps = (centres[classes] + torch.randn(2, 4, 6, 8, generator=generator)).permute(0, 3, 1, 2)
    return maps, classes.repeat_interleave(patch, 1).repeat_interleave(patch, 2)


def remember(head: NeighboursHead, maps: torch.Tensor, labels: torch.Tensor) -> dict:
    samples = [SimpleNamespace(gt_sem_seg=SimpleNamespace(data=each[None])) for each in labels]
    return head.loss([maps], samples, {})


def test_patches_of_training_images_vote(head):
    head, (maps, labels) = head(), scenes(0)
    labels[0, :16] = IGNORED
    losses = remember(head, maps, labels)
    losses['loss'].backward()
    assert losses['loss'] == 0 and losses['remembered'] == head.num_remembered == 2 * 24 - 6
    assert not (head.bank_classes[:42] == IGNORED).any() and not head.bank[42:].any()
    maps, labels = scenes(1)
    logits = head([maps])
    assert logits.shape == (2, NUM_CLASSES, 4, 6)
    torch.testing.assert_close(logits.exp().sum(dim=1), torch.ones(2, 4, 6), atol=1e-3, rtol=0)
    assert torch.equal(logits.argmax(dim=1), labels[:, 8::16, 8::16])


def test_a_patch_is_remembered_with_the_class_at_its_centre(head):
    head = head()
    maps = torch.randn(1, 8, 2, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.full((1, 32, 48), IGNORED)
    labels[0, 8, 8], labels[0, 24, 40] = 1, 2
    remember(head, maps, labels)
    units = F.normalize(maps, dim=1)[0]
    order = head.bank_classes[:2].argsort()
    assert head.bank_classes[:2][order].tolist() == [1, 2] and head.num_remembered == 2
    torch.testing.assert_close(head.bank[:2][order], torch.stack([units[:, 0, 0], units[:, 1, 2]]).half())


def test_the_oldest_patches_give_way(head):
    head = head(bank_size=40)
    for seed, label in enumerate((0, 1)):
        maps, labels = scenes(seed)
        remember(head, maps, torch.full_like(labels, label))
    assert head.num_remembered == 80 and (head.bank_classes == 1).all()  # 40 of the last 48


def test_patches_are_part_of_the_weights(head):
    trained, loaded = head(), head()
    remember(trained, *scenes(0))
    loaded.load_state_dict(trained.state_dict())
    maps, _ = scenes(1)
    assert torch.equal(loaded([maps]), trained([maps]))


def test_what_cannot_be_is_one_sentence(head):
    with pytest.raises(UserError, match='must know patches of training images, got none; train it'):
        head()([scenes(0)[0]])
    with pytest.raises(UserError, match='must be at least 1, got 1000, 24 and 0'):
        head(k=0)
