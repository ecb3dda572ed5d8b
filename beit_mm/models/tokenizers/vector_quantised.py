"""The tokenizer of BEiT v2: codes of a transformer that imitates a teacher's features (VQ-KD, arXiv 2208.06366)."""

from functools import partial

import torch
from mmengine.dist import all_gather, all_reduce, broadcast, is_main_process
from mmengine.logging import print_log
from torch import nn, Tensor
from torch.nn import functional as F

from beit_mm.errors import UserError
from beit_mm.models.backbones.beit import BEiT
from beit_mm.models.weight_layouts import rename_hosts_tokenizer
from beit_mm.models.weights import CODES, has_tokenizer, require_tokenizer_weights, WeightsMismatch
from beit_mm.registry import build_part, MODELS

from .tokenizer import codebook_use, Tokenizer

NUM_KMEANS_ITERS = 10
MAX_VECTORS = 2**14  # whose similarities to all codes are held at once: 512 MiB for 8,192 codes in float32
# Parts of released files that are not read: the teacher, its normalisation, and records of the training.
LEFT_OUT = tuple(
    'teacher_model. scaling_layer. loss quantize.embedding.cluster_size quantize.embedding.embed_avg'.split()
)
DECODER = ('decoder.', 'decode_task_layer.')


def nearest_codes(vectors: Tensor, codes: Tensor) -> Tensor:
    """Indices (M,) of the codes (V, D) nearest to vectors (M, D). All are unit vectors: the most similar is nearest."""
    return torch.cat([(some @ codes.t()).argmax(dim=1) for some in vectors.split(MAX_VECTORS)])


def sum_by_code(vectors: Tensor, tokens: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Sums (V, D) of the vectors (M, D) of each token, and their counts, int64 (V,)."""
    sums = vectors.new_zeros(vocab_size, vectors.shape[1]).index_add_(0, tokens, vectors)
    return sums, torch.bincount(tokens, minlength=vocab_size)


def spherical_kmeans(vectors: Tensor, means: Tensor, num_iters: int = NUM_KMEANS_ITERS) -> tuple[Tensor, Tensor]:
    """K-means of unit vectors (M, D) on the sphere, from starting means (V, D). A mean without a vector stays.

    Returns:
        the means (V, D), and the number of vectors of each in the last iteration, int64 (V,).
    """
    counts = means.new_zeros(len(means), dtype=torch.long)
    for _ in range(num_iters):
        sums, counts = sum_by_code(vectors, nearest_codes(vectors, means), len(means))
        means = torch.where(counts[:, None] == 0, means, F.normalize(sums, dim=1))
    return means, counts


class Codebook(nn.Module):
    """Codes (V, D), unit vectors. They follow the mean of the vectors that they are nearest to; no gradient.

    `embedding.weight` are the codes, `embedding.initted` is 1 once they have values, and `cluster_size` are moving
    averages of their counts per batch; the names are the release's.
    """

    def __init__(self, vocab_size: int, code_dim: int, decay: float):
        super().__init__()
        self.decay = decay
        self.embedding = nn.Module()
        self.embedding.register_buffer('weight', torch.zeros(vocab_size, code_dim))
        self.embedding.register_buffer('initted', torch.zeros(1))
        self.register_buffer('cluster_size', torch.zeros(vocab_size))

    @property
    def codes(self) -> Tensor:
        return self.embedding.get_buffer('weight')

    @torch.no_grad()
    def start(self, vectors: Tensor) -> None:
        """Set the codes by k-means on the vectors (M, D) of all processes, the same on all of them."""
        vectors = torch.cat(all_gather(vectors.contiguous()))
        if is_main_process():
            # With fewer vectors than codes, some are drawn twice.
            num_codes, num_vectors = len(self.codes), len(vectors)
            drawn = (
                torch.randperm(num_vectors) if num_codes <= num_vectors else torch.randint(num_vectors, (num_codes,))
            )
            means, counts = spherical_kmeans(vectors, vectors[drawn[:num_codes].to(vectors.device)])
            self.codes.copy_(means)
            self.cluster_size.copy_(counts)
        for values in (self.codes, self.cluster_size):
            broadcast(values)
        self.embedding.get_buffer('initted').fill_(1)

    @torch.no_grad()
    def update(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        """Move the codes after a batch of vectors (M, D) and their tokens (M,), over all processes.

        Returns:
            counts of the tokens, float32 (V,).
        """
        sums, counts = sum_by_code(vectors, tokens, len(self.codes))
        counts = counts.to(sums.dtype)
        all_reduce(sums)
        all_reduce(counts)
        self.cluster_size.lerp_(counts, 1 - self.decay)
        means = torch.where(counts[:, None] == 0, self.codes, F.normalize(sums, dim=1))
        self.codes.copy_(F.normalize(self.decay * self.codes + (1 - self.decay) * means, dim=1))
        return counts


@MODELS.register_module()
class VectorQuantisedTokenizer(Tokenizer):
    """The visual tokenizer of BEiT v2. Images are in [0, 1]; their sides are multiples of the patch size.

    Args:
        vocab_size, code_dim: number and size of the codes.
        img_size, patch_size, embed_dim, num_heads, encoder_depth: of the encoder, see BEiT.
        decoder_depth: blocks of the decoder, 3 or 1 in the release.
        teacher: a part with `forward(images) -> (B, h, w, teacher_dim)`, see `beit_mm.models`; None to encode only. It
            is frozen and is not saved with the weights.
        teacher_dim: size of the teacher's features: 512 of CLIP ViT-B/16, 768 of DINO ViT-B/16.
        decay: of the codes' moving averages.
        commitment_weight: weight of the distance between vectors and their codes.
        data_preprocessor, init_cfg: MMEngine's.

    Attributes:
        has_encoder, has_decoder: whether the part can be used. has_encoder is False until the codes have values.
            has_decoder is False after a checkpoint without a decoder, such as MMPretrain's, or with an untrained one.
    """

    def __init__(
        self,
        vocab_size: int = 8192,
        code_dim: int = 32,
        img_size: int = 224,
        patch_size: int = 16,
        embed_dim: int = 768,
        num_heads: int = 12,
        encoder_depth: int = 12,
        decoder_depth: int = 3,
        teacher: dict | None = None,
        teacher_dim: int = 512,
        decay: float = 0.99,
        commitment_weight: float = 1.0,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor, init_cfg)
        self.vocab_size, self.commitment_weight = vocab_size, commitment_weight
        self.quantize = Codebook(vocab_size, code_dim, decay)
        # Patch tokens are normalised by `fc_norm`, as the release builds both with mean pooling.
        trunk = partial(
            BEiT,
            embed_dim=embed_dim,
            num_heads=num_heads,
            use_abs_pos_emb=True,
            use_rel_pos_bias=False,
            layer_scale_init_value=None,
            out_type='avg_featmap',
        )
        self.encoder = trunk(img_size, patch_size, depth=encoder_depth)
        self.decoder = trunk(self.encoder.grid, 1, in_channels=code_dim, depth=decoder_depth)
        self.encode_task_layer = _projection(embed_dim, code_dim)
        self.decode_task_layer = _projection(embed_dim, teacher_dim)
        self.has_encoder, self.has_decoder = False, True
        self.teacher = None if teacher is None else build_part(teacher).requires_grad_(False).eval()
        self.register_load_state_dict_pre_hook(_check_weights)
        self.register_state_dict_post_hook(_drop_teacher)

    def train(self, mode: bool = True) -> 'VectorQuantisedTokenizer':
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to visual tokens, int64 (B, h, w).

        Raises:
            UserError: If the codes have no values yet, or the sides are no multiples of the patch size.
        """
        if not self.has_encoder:
            raise UserError('the codebook has no values yet: load a trained tokenizer by init_cfg, or train it first')
        vectors = self._encode(images)
        return nearest_codes(vectors.flatten(0, 2), self.quantize.codes).view(vectors.shape[:3])

    def decode_features(self, tokens: Tensor) -> Tensor:
        """Visual tokens (B, h, w) to features like the teacher's, (B, h, w, teacher_dim).

        Raises:
            UserError: If the weights have no decoder.
        """
        if not self.has_decoder:
            raise UserError('decoding needs a tokenizer with its decoder, got weights without one: load a released one')
        return self._decode(F.embedding(tokens, self.quantize.codes))

    def predict(self, images: Tensor) -> list[dict[str, Tensor]]:
        """For each image its `tokens` (h, w) and their `teacher_distance`, see `distances`, in the mean."""
        tokens = self.encode(images)
        distances = self.distances(self.decode_features(tokens), images).mean(dim=(1, 2))
        return [dict(tokens=t, teacher_distance=d) for t, d in zip(tokens, distances)]

    def loss(self, images: Tensor) -> dict[str, Tensor]:
        """Distance of the decoded codes to the teacher's features, and of the vectors to their codes.

        The first batch of a training sets the codes by k-means; every batch moves them.

        Returns:
            `loss_teacher`, 1 - cosine, and `loss_commitment`; for the log `perplexity` and `used_codes` (percent of the
            vocabulary) of the batch's tokens.
        """
        self.has_decoder = True  # trained from now on
        vectors = self._encode(images)  # (B, h, w, D)
        flat = vectors.flatten(0, 2)
        if self.training and not self.has_encoder:
            self.quantize.start(flat.detach())
            self.has_encoder = True
        tokens = nearest_codes(flat.detach(), self.quantize.codes)
        codes = F.embedding(tokens, self.quantize.codes).view(vectors.shape)
        # The gradient passes the codes as if they were the vectors.
        decoded = self._decode(vectors + (codes - vectors).detach())
        losses = dict(
            loss_teacher=self.distances(decoded, images).mean(),
            loss_commitment=self.commitment_weight * F.mse_loss(vectors, codes),
        )
        if self.training:
            counts = self.quantize.update(flat.detach(), tokens)
        else:
            counts = torch.bincount(tokens, minlength=self.vocab_size)
        return losses | codebook_use(counts)

    def _encode(self, images: Tensor) -> Tensor:
        """Images to unit vectors (B, h, w, code_dim), float32."""
        tokens, grid = self.encoder.read_blocks(2 * images - 1, (len(self.encoder.blocks) - 1,))
        patches = self.encoder.fc_norm(BEiT.pool(tokens[0], 'patches'))
        with torch.autocast(images.device.type, enabled=False):
            return F.normalize(self.encode_task_layer(patches.float()), dim=2).unflatten(1, grid)

    def _decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w, code_dim) to features (B, h, w, teacher_dim)."""
        tokens, grid = self.decoder.read_blocks(codes.permute(0, 3, 1, 2), (len(self.decoder.blocks) - 1,))
        patches = self.decoder.fc_norm(BEiT.pool(tokens[0], 'patches'))
        return self.decode_task_layer(patches).unflatten(1, grid)

    def distances(self, decoded: Tensor, images: Tensor) -> Tensor:
        """1 - cosine between decoded and the teacher's features of images, (B, h, w)."""
        if self.teacher is None:
            raise UserError('training and testing this tokenizer needs a teacher, got teacher=None')
        if not getattr(self.teacher, 'is_init', True):  # a test of a checkpoint initialises nothing
            self.teacher.init_weights()
        with torch.no_grad():
            expected = self.teacher(images)
        if expected.shape != decoded.shape:
            raise UserError(
                f"the teacher's features must be {tuple(decoded.shape)} (B, h, w, teacher_dim) to fit the tokenizer, "
                f'got {tuple(expected.shape)}'
            )
        return 1 - F.cosine_similarity(decoded.float(), expected.float(), dim=3)


def _projection(width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs))


def _drop_teacher(module: VectorQuantisedTokenizer, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    for name in [name for name in state_dict if name.startswith(f'{prefix}teacher.')]:
        del state_dict[name]


def _check_weights(module: VectorQuantisedTokenizer, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """Pre-load hook: see require_tokenizer_weights. What released files hold beside the tokenizer is left out."""
    if not has_tokenizer(state_dict, prefix):
        return
    rename_hosts_tokenizer(state_dict, prefix)
    if f'{prefix}{CODES}' not in state_dict:
        trunk = next(
            (f', but a trunk, {name}' for name in ('backbone.cls_token', 'cls_token') if name in state_dict), ''
        )
        raise WeightsMismatch(f'the checkpoint does not fit this tokenizer: it has no {CODES}{trunk}')
    for name in [name for name in state_dict if name.startswith(tuple(prefix + part for part in LEFT_OUT))]:
        del state_dict[name]
    resized = ('grid_size', 'pos_embed')  # by the trunks
    own = {name: tensor for name, tensor in module.state_dict().items() if not name.endswith(resized)}
    decoder = {prefix + name: tensor for name, tensor in module.state_dict().items() if name.startswith(DECODER)}
    has_decoder = not decoder.keys().isdisjoint(state_dict)
    if not has_decoder:
        print_log('tokenizer: the checkpoint has no decoder, so features cannot be decoded', logger='current')
        state_dict.update(decoder)
    require_tokenizer_weights(own, state_dict, prefix)
    if module.teacher is not None:
        state_dict.update({f'{prefix}teacher.{name}': value for name, value in module.teacher.state_dict().items()})
    module.has_encoder = bool(state_dict[f'{prefix}quantize.embedding.initted'].all())
    # Biases of a block are zero until the first update.
    module.has_decoder = has_decoder and bool(state_dict[f'{prefix}decoder.blocks.0.mlp.fc1.bias'].any())
