"""KMeansTokenizer: tokens are clusters of whitened patches, found by spherical k-means. For small sets of images.

Whitening and spherical k-means of patches: Coates and Ng, "Learning Feature Representations with K-means" (2012).
"""

import torch
from mmengine.dist import all_gather, all_reduce, broadcast
from torch import nn, Tensor
from torch.nn import functional as F

from beit_mm.errors import UserError
from beit_mm.models.weights import has_tokenizer, require_tokenizer_weights
from beit_mm.registry import MODELS

from .tokenizer import check_images, codebook_use, Tokenizer
from .vector_quantised import nearest_codes, sum_by_code

MAX_IDLE = 20  # steps
MIN_VARIANCE = 1e-8  # of a component: far less than that of rounding to 256 values
MIN_WEIGHT = 1e-6  # of a vector that equals a centre: if all do, some are drawn all the same


@MODELS.register_module()
class KMeansTokenizer(Tokenizer):
    """The visual tokenizer that a small set of images can train, in minutes. Images are in [0, 1].

    A patch less the mean patch, whitened and scaled to unit length, is a vector; its token is the centre that it is
    most similar to. Training first takes the mean and the covariance of patches for the whitening, then moves centres
    by mini-batch k-means (Sculley, "Web-scale k-means clustering", 2010): the optimizer must be SGD without momentum
    and weight decay, whose rate is the share by which a centre moves to the mean of its vectors in a batch. A centre
    that no vector of the last 20 batches is nearest to starts anew at a vector that is far from all centres. All
    processes have the same centres.

    Args:
        vocab_size: number of visual tokens.
        patch_size: side in pixels of the square that becomes a token.
        in_channels: image channels.
        whitening_iters: training steps whose patches the whitening is taken from; the last begins k-means.
        floor: this share of the mean variance is added to the variance of every component before it is whitened. With
            less, tokens tell more of fine texture and noise; with more, they tell more of the mean colour.
        data_preprocessor, init_cfg: MMEngine's.

    Attributes:
        has_encoder, has_decoder: whether it is trained, so that it can be used.
    """

    def __init__(
        self,
        vocab_size: int = 1024,
        patch_size: int = 8,
        in_channels: int = 3,
        whitening_iters: int = 50,
        floor: float = 1.0,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor, init_cfg)
        if whitening_iters < 1 or not floor > 0:
            raise UserError(f'whitening_iters and floor must be positive, got {whitening_iters} and {floor}')
        self.vocab_size, self.patch_size, self.in_channels = vocab_size, patch_size, in_channels
        self.whitening_iters, self.floor = whitening_iters, floor
        size = patch_size**2 * in_channels
        self.centres = nn.Parameter(torch.zeros(vocab_size, size))
        self.lengths = nn.Parameter(torch.zeros(vocab_size))  # mean lengths of whitened patches along their centre
        self.register_buffer('mean', torch.zeros(size))
        self.register_buffer('components', torch.zeros(size, size))  # in columns
        self.register_buffer('scales', torch.ones(size))  # of the components before the whitening
        # Sums of products of the numbers of a patch and of 1: second moments, sums, and in the corner the count.
        self.register_buffer('moments', torch.zeros(size + 1, size + 1, dtype=torch.float64))
        self.register_buffer('num_steps', torch.zeros((), dtype=torch.long))
        self.register_buffer('idle', torch.full((vocab_size,), MAX_IDLE))  # steps in which a centre had no vector
        self.has_encoder = self.has_decoder = False
        self.register_load_state_dict_pre_hook(_check_weights)

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) in [0, 1] to visual tokens, int64 (B, h, w).

        Raises:
            UserError: If the tokenizer is not trained, or the images do not fit the channels or the patch size.
        """
        self._require_trained()
        vectors = self._whiten(self._to_patches(images))[0]
        return nearest_codes(vectors.flatten(0, 2), self._codes()).view(vectors.shape[:3])

    def decode(self, tokens: Tensor) -> Tensor:
        """Visual tokens (B, h, w) to images (B, in_channels, H, W) in [0, 1]: the mean patch of every token."""
        self._require_trained()
        whitened = self._codes() * self.lengths[:, None]
        pictures = ((whitened * self.scales) @ self.components.float().t() + self.mean).clamp(0, 1)
        patches = F.embedding(tokens, pictures).unflatten(3, (self.in_channels, self.patch_size, self.patch_size))
        return patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)  # (B, h, w, C, p, p) to (B, C, h p, w p)

    def loss(self, images: Tensor) -> dict[str, Tensor]:
        """A step of the training; what it changes without the optimizer is the same in all processes.

        Returns:
            `loss_centres`, half the squared distance of the centres to the means of their vectors, so that its gradient
            is this distance; and for the log, after the whitening, `similarity` (mean cosine of vectors and their
            centres), `perplexity` and `used_codes` (percent of the vocabulary) of all processes' tokens.
        """
        with torch.autocast(images.device.type, enabled=False):
            patches = self._to_patches(images)
            if not self.has_encoder:
                self._add_moments(patches)
                if self.num_steps < self.whitening_iters:
                    return dict(loss_centres=0 * (self.centres.sum() + self.lengths.sum()))
                self._fit_whitening()
            sums, counts = self._sum_by_token(patches)
        means, along = F.normalize(sums[:, :-2], dim=1), sums[:, -2] / counts.clamp(min=1)
        distances = (self.centres - means).square().sum(dim=1) + (self.lengths - along).square()
        return dict(
            loss_centres=torch.where(counts > 0, distances, 0).sum() / 2,
            similarity=sums[:, -1].sum() / counts.sum(),
            **codebook_use(counts),
        )

    @torch.no_grad()
    def _sum_by_token(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """For every token, over the patches (B, h, w, D) of all processes: sums (V, D + 2) of the vectors, of their
        lengths along the centre and of their similarity to it; and counts, int64 (V,).
        """
        vectors, lengths = self._whiten(patches)
        if self.training:
            self._replace_idle(vectors, lengths)
        vectors, codes = vectors.flatten(0, 2), self._codes()
        tokens = nearest_codes(vectors, codes)
        similarity = (vectors * F.embedding(tokens, codes)).sum(dim=1, keepdim=True)
        columns = torch.cat([vectors, similarity * lengths.view(-1, 1), similarity], dim=1)
        sums, counts = sum_by_code(columns, tokens, self.vocab_size)
        all_reduce(sums)
        all_reduce(counts)
        if self.training:
            self.idle.copy_(torch.where(counts > 0, 0, self.idle + 1))
        return sums, counts

    def _to_patches(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to patches (B, h, w, C * p * p), float32."""
        check_images(images, self.in_channels, self.patch_size)
        size = self.patch_size
        return images.float().unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5).flatten(3)

    def _whiten(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Patches (B, h, w, D) to unit vectors (B, h, w, D), or zeros for the mean patch, and their lengths before."""
        whitened = (patches - self.mean) @ (self.components / self.scales).float()  # also of a model in half precision
        lengths = whitened.norm(dim=3)
        return whitened / lengths.clamp(min=1e-12)[..., None], lengths

    def _codes(self) -> Tensor:
        """The centres as unit vectors (vocab_size, D)."""
        return F.normalize(self.centres.float(), dim=1)

    def _require_trained(self) -> None:
        if not self.has_encoder:
            raise UserError(
                f'this KMeansTokenizer is not trained (its first {self.whitening_iters} steps are for the whitening): '
                'load a trained one by init_cfg, or train it first'
            )

    @torch.no_grad()
    def _add_moments(self, patches: Tensor) -> None:
        """Count in the patches (B, h, w, D) of all processes."""
        flat = patches.flatten(0, 2).double()
        flat = torch.cat([flat, torch.ones_like(flat[:, :1])], dim=1)
        moments = flat.t() @ flat
        all_reduce(moments)
        self.moments += moments
        self.num_steps += 1

    @torch.no_grad()
    def _fit_whitening(self) -> None:
        count, mean = self.moments[-1, -1], self.moments[-1, :-1] / self.moments[-1, -1]
        covariance = self.moments[:-1, :-1] / count - torch.outer(mean, mean)
        variances, components = torch.linalg.eigh(covariance)
        variances = variances.clamp(min=0) + self.floor * covariance.trace().clamp(min=0) / len(mean)
        for name, values in dict(mean=mean, components=components, scales=(variances + MIN_VARIANCE).sqrt()).items():
            broadcast(values)  # eigenvectors may differ in their sign
            self.get_buffer(name).copy_(values)
        self.has_encoder = self.has_decoder = True

    def _replace_idle(self, vectors: Tensor, lengths: Tensor) -> None:
        """Put idle centres at vectors of all processes, drawn by their squared distance to the centres (k-means++)."""
        idle = self.idle >= MAX_IDLE
        num_idle = int(idle.sum())
        if not num_idle:
            return
        # Images in the order in which one process has them.
        vectors, lengths = (
            torch.stack(all_gather(values.contiguous()), dim=1).flatten(0, 3) for values in (vectors, lengths)
        )
        weights = torch.ones_like(lengths)
        if num_idle < self.vocab_size:
            codes = self._codes()[~idle]
            similarity = (vectors * F.embedding(nearest_codes(vectors, codes), codes)).sum(dim=1)
            weights = (1 - similarity).clamp(min=0) + MIN_WEIGHT
        drawn = weights.multinomial(num_idle, replacement=num_idle > len(weights))
        broadcast(drawn)
        self.centres[idle], self.lengths[idle], self.idle[idle] = vectors[drawn], lengths[drawn], 0


def _check_weights(module: KMeansTokenizer, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """Pre-load hook, see require_tokenizer_weights."""
    if has_tokenizer(state_dict, prefix):
        sizes = f' (vocab_size={module.vocab_size}, patch_size={module.patch_size}, in_channels={module.in_channels})'
        require_tokenizer_weights(module.state_dict(), state_dict, prefix, sizes)
        module.has_encoder = module.has_decoder = bool(state_dict[f'{prefix}components'].any())
