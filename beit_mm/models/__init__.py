"""Models. Whatever meets one of these contracts can stand in the place of a part:

- A trunk has `embed_dim`, `forward(images, mask=None)` and `get_layer_depth(param_name, prefix)`.
- A tokenizer has `vocab_size`, `encode(images) -> (B, h, w) int64` and `decode(tokens) -> (B, 3, H, W) in [0, 1]`.
- A prediction target has `num_outputs`, `forward(images, views) -> (B, h, w, ...)`, `wait(targets)` before they are
  used, `loss(predictions, targets) -> dict` and `decide(predictions)`, the latter two at the patches to recover.
- What is recovered is chosen by a module `forward(mask) -> (M,)`, places among the patches of a batch.
"""
from .backbone import BEiT
from .linear_probe import LinearProbe, LinearProbeHead
from .masked_image_model import MaskedImageModel
from .segmentor import EncoderDecoder
from .targets import AllPatches, MaskedPatches, NormalisedPixels, VisualTokens
from .tokenizer import DiscreteVAE
from .upernet_head import UperNetHead

__all__ = ['AllPatches', 'BEiT', 'DiscreteVAE', 'EncoderDecoder', 'LinearProbe', 'LinearProbeHead', 'MaskedImageModel',
           'MaskedPatches', 'NormalisedPixels', 'UperNetHead', 'VisualTokens']
