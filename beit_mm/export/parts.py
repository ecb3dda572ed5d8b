"""What of a model is exported: its classifier, its trunk or its segmentor, at one image size."""

import copy

from mmpretrain.models import ImageClassifier
from mmseg.models.segmentors import EncoderDecoder
from torch import nn, Tensor

from beit_mm.models.backbones.beit import BEiT
from beit_mm.models.classifiers.linear_probe import LinearProbeHead

Outputs = Tensor | tuple[Tensor, ...]


class Part(nn.Module):
    """What is exported: `forward` takes normalised images (N, 3, H, W).

    Args:
        module: whose weights are the part's: a BEiT, or a model with one as `backbone`.
        output_names: of what forward gives: one tensor, or a tuple if there are several names.
        prefix: what our names of the weights have before the module's own.
    """

    def __init__(self, module: nn.Module, output_names: tuple[str, ...], prefix: str = ''):
        super().__init__()
        self.module = module
        self.output_names = output_names
        self.prefix = prefix

    @property
    def trunk(self) -> BEiT:  # no second submodule: exported programs would hold its weights twice
        return self.module if isinstance(self.module, BEiT) else self.module.backbone

    def weights(self) -> dict[str, Tensor]:
        """Weights under our names."""
        return {self.prefix + name: tensor.contiguous() for name, tensor in self.module.state_dict().items()}

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take weights as `weights` gives them, all of them."""
        self.module.load_state_dict({name.removeprefix(self.prefix): tensor for name, tensor in weights.items()})


class Classifier(Part):
    """Images to `logits` (N, num_classes), before the softmax; a linear probe's are those of its predict_block."""

    def __init__(self, model: ImageClassifier):
        super().__init__(model, ('logits',))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.module(images)
        head = self.module.head
        return logits[head.place] if isinstance(head, LinearProbeHead) else logits


class Segmentor(Part):
    """Images, each of them one window, to `logits` (N, num_classes, H, W)."""

    def __init__(self, model: EncoderDecoder):
        super().__init__(model, ('logits',))

    def forward(self, images: Tensor) -> Tensor:
        size = tuple(images.shape[2:])
        return self.module.encode_decode(images, [dict(img_shape=size, pad_shape=size)])


class Trunk(Part):
    """Images to what the trunk's out_type and out_indices say: `features`, or `features_0`, `features_1` and so on."""

    def __init__(self, model: nn.Module):
        trunk = model if isinstance(model, BEiT) else model.backbone
        count = len(trunk.out_indices)
        names = ('features',) if count == 1 else tuple(f'features_{index}' for index in range(count))
        super().__init__(trunk, names, 'backbone.')

    def forward(self, images: Tensor) -> Outputs:
        features = self.trunk(images)
        return features[0] if len(features) == 1 else features


PARTS = dict(classifier=Classifier, trunk=Trunk, segmentor=Segmentor)


def name_part(model: nn.Module, part: str | None) -> str:
    """The part that is meant: the one asked for, or by default what the model is.

    Raises:
        ValueError: If the model has no BEiT, or has no such part.
    """
    trunk = model if isinstance(model, BEiT) else getattr(model, 'backbone', None)
    if not isinstance(trunk, BEiT):
        raise ValueError(f'a model must be or have a BEiT trunk, got {type(model).__name__}')
    own = {ImageClassifier: 'classifier', EncoderDecoder: 'segmentor'}
    own = next((name for kind, name in own.items() if isinstance(model, kind)), 'trunk')
    if part not in (None, own, 'trunk'):
        raise ValueError(
            f'the part of {type(model).__name__} must be {" or ".join(dict.fromkeys((own, "trunk")))}, got {part!r}'
        )
    return part or own


def take_part(model: nn.Module, name: str) -> Part:
    """A copy of a part on the CPU, float32, in evaluation mode; the model stays as it is."""
    if name == 'trunk' and not isinstance(model, BEiT):
        model = model.backbone  # all else, such as a tokenizer, need not be copied
    return PARTS[name](copy.deepcopy(model).cpu().float()).eval().requires_grad_(False)
