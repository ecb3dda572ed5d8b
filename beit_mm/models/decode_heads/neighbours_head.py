"""NeighboursHead: segmentation by nearest neighbours among the patches of training images, for a frozen trunk."""

from collections.abc import Sequence

import torch
from mmengine.dist import all_gather
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import nn, Tensor
from torch.nn import functional as F

from beit_mm.errors import UserError
from beit_mm.registry import MODELS

MAX_SIMILARITIES = 2**24  # that are held at once: 64 MiB in float32


@MODELS.register_module()
class NeighboursHead(BaseDecodeHead):
    """Gives each patch the classes of the most similar patches of the training images.

    There is nothing to learn: a training, of one pass over the images, remembers drawn patches with the class at their
    centre. They are part of the checkpoint. The trunk must be frozen, as they are not computed again.

    Args:
        bank_size: patches that are remembered; the oldest give way. Our choice: 150 MiB for 768 channels.
        patches_per_image: drawn from each training image.
        k, temperature: see `neighbour_votes`.
        kwargs: of MMSegmentation's BaseDecodeHead.
    """

    bank: Tensor
    bank_classes: Tensor
    num_remembered: Tensor

    def __init__(
        self, bank_size: int = 100_000, patches_per_image: int = 16, k: int = 20, temperature: float = 0.07, **kwargs
    ):
        super().__init__(init_cfg=None, **{'channels': 1, **kwargs})
        del self.conv_seg
        if min(bank_size, patches_per_image, k) < 1:
            got = f'{bank_size}, {patches_per_image} and {k}'
            raise UserError(f'bank_size, patches_per_image and k of NeighboursHead must be at least 1, got {got}')
        self.patches_per_image, self.k, self.temperature = patches_per_image, k, temperature
        self.register_buffer('bank', torch.zeros(bank_size, self.in_channels, dtype=torch.float16))
        self.register_buffer('bank_classes', torch.zeros(bank_size, dtype=torch.int64))
        self.register_buffer('num_remembered', torch.zeros((), dtype=torch.int64))
        self.unused = nn.Parameter(torch.zeros(()))  # an optimizer needs a weight

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Maps (B, C, h, w) of the trunk to logarithms of the classes' shares of the votes (B, num_classes, h, w)."""
        features = self._transform_inputs(inputs)
        count = min(int(self.num_remembered), len(self.bank))
        if not count:
            what = 'NeighboursHead must know patches of training images, got none'
            raise UserError(f'{what}; train it for one pass over the images first, or load its checkpoint')
        units = F.normalize(features, dim=1).permute(0, 2, 3, 1)
        bank = self.bank[:count].to(units.dtype)
        k, classes = min(self.k, count), self.bank_classes[:count]
        votes = neighbour_votes(units.flatten(0, 2), bank, classes, self.num_classes, k, self.temperature)
        return votes.clamp(min=1e-4).log().view(*units.shape[:3], -1).permute(0, 3, 1, 2)

    def loss(self, inputs: Sequence[Tensor], batch_data_samples: list, train_cfg: dict) -> dict[str, Tensor]:
        """Remember patches of all processes' images; a loss of zero."""
        with torch.no_grad():
            features = self._transform_inputs(inputs)
            labels = torch.stack([sample.gt_sem_seg.data for sample in batch_data_samples])
            height, width = features.shape[2:]
            rows, columns = (
                (torch.arange(count, device=labels.device) + 0.5).mul(size / count).long()
                for count, size in zip((height, width), labels.shape[2:])
            )
            classes = labels[:, 0, rows[:, None], columns].flatten(1)
            drawn = torch.rand(classes.shape, device=classes.device).argsort(dim=1)[:, : self.patches_per_image]
            units = F.normalize(features, dim=1).flatten(2).transpose(1, 2)
            units = units.gather(1, drawn[..., None].expand(-1, -1, units.shape[2]))
            self._remember(
                torch.cat(all_gather(units.flatten(0, 1).half())),
                torch.cat(all_gather(classes.gather(1, drawn).flatten())),
            )
        return dict(loss=0 * self.unused, remembered=self.num_remembered.clone().float())

    def _remember(self, units: Tensor, classes: Tensor) -> None:
        is_known = classes != self.ignore_index
        units, classes = units[is_known][: len(self.bank)], classes[is_known][: len(self.bank)]
        places = (self.num_remembered + torch.arange(len(units), device=units.device)) % len(self.bank)
        self.bank[places], self.bank_classes[places] = units, classes
        self.num_remembered += len(units)


def neighbour_votes(
    features: Tensor, known: Tensor, known_classes: Tensor, num_classes: int, k: int, temperature: float
) -> Tensor:
    """Shares of classes by weighted nearest neighbours (arXiv 1805.01978, section 3.4).

    Each of the k nearest known features votes for its class with weight exp(cosine similarity / temperature).

    Args:
        features, known: (N, C) and (M, C), each of length 1; M at least k.
        known_classes: int64 (M,), below num_classes.

    Returns:
        (N, num_classes); each row has the sum 1.
    """
    votes = []
    for part in features.split(max(1, MAX_SIMILARITIES // len(known))):
        similarities, neighbours = (part @ known.t()).topk(k, dim=1)
        # A softmax only scales the weights of a feature, and no temperature overflows.
        weights = (similarities / temperature).softmax(dim=1)
        shares = weights.new_zeros(len(part), num_classes)
        votes.append(shares.scatter_add_(1, known_classes[neighbours], weights))
    return torch.cat(votes)
