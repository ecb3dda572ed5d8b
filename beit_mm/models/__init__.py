"""Models. Your own class can replace a part if it meets the part's contract:

- A trunk has `embed_dim`, `forward(images, mask=None)` and `get_layer_depth(param_name, prefix)`.
- A tokenizer has `vocab_size`, `encode(images) -> (B, h, w) int64` and `decode(tokens) -> (B, C, H, W) in [0, 1]`.
- A teacher of VectorQuantisedTokenizer has `forward(images) -> (B, h, w, D)`, for images in [0, 1].
- A prediction target has `num_outputs`, `forward(images, views) -> (B, h, w, ...)`, and for the chosen patches
  `loss(predictions, targets) -> dict` and `decide(predictions)`.
- The patches that a model predicts are chosen by a module `forward(mask) -> (M,)`, indices among all of the batch.
"""

from .backbones.beit import BEiT
from .classifiers.linear_probe import LinearProbe, LinearProbeHead
from .data_preprocessors import ClsDataPreprocessor, SegDataPreProcessor, TwoViewPreprocessor
from .decode_heads.neighbours_head import NeighboursHead
from .decode_heads.upernet_head import UperNetHead
from .segmentors.encoder_decoder import EncoderDecoder
from .selfsup.masked_image_model import AllPatches, MaskedImageModel, MaskedPatches, NormalisedPixels, VisualTokens
from .tokenizers.discrete_vae import DiscreteVAE
from .tokenizers.kmeans import KMeansTokenizer
from .tokenizers.teachers import BEiTTeacher, TimmTeacher
from .tokenizers.vector_quantised import VectorQuantisedTokenizer
