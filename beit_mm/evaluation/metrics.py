"""Metrics of the tokenizer, masked pre-training, linear probes, nearest neighbours and segmentation."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmseg.evaluation import IoUMetric as HostIoUMetric
from torch import Tensor

from beit_mm.datasets.transforms.decoding import are_labels_plain, read_labels
from beit_mm.datasets.transforms.loading import check_labels, map_labels
from beit_mm.errors import UserError
from beit_mm.models.decode_heads.neighbours_head import neighbour_votes
from beit_mm.models.tokenizers.tokenizer import codebook_use
from beit_mm.registry import METRICS
from beit_mm.visualization.sheets import label_picture


@METRICS.register_module()
class MaskedTokenAccuracy(BaseMetric):
    """Share of masked patches whose visual token is predicted right, compared with always guessing the commonest token.

    Takes `predicted` and `target`, (k,) each, of every sample of MaskedImageModel. Gives `accuracy` and
    `most_frequent`, in percent, and the perplexity of the targets.
    """

    default_prefix = 'masked_token'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        self.results += [(sample['predicted'].cpu(), sample['target'].cpu()) for sample in data_samples]

    def compute_metrics(self, results: list) -> dict:
        predicted, target = (torch.cat(tokens) for tokens in zip(*results))
        counts = torch.bincount(target)
        return dict(
            accuracy=100 * (predicted == target).float().mean().item(),
            most_frequent=100 * counts.max().item() / len(target),
            target_perplexity=codebook_use(counts)['perplexity'].item(),
        )


@METRICS.register_module()
class TokenizerMetric(BaseMetric):
    """Quality of reconstruction and use of the codebook over a whole data set.

    Takes `tokens` (h, w) and `squared_error` of every sample of DiscreteVAE, or `teacher_distance` of
    VectorQuantisedTokenizer. Gives `psnr` in dB of the mean squared error, or `teacher_distance`; `perplexity`,
    and `used_codes` in percent of the vocabulary.

    Args:
        vocab_size: number of visual tokens.
    """

    default_prefix = 'tokenizer'

    def __init__(self, vocab_size: int, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            name = 'squared_error' if 'squared_error' in sample else 'teacher_distance'
            self.results.append((sample['tokens'].flatten().to('cpu', torch.int32), name, sample[name].item()))

    def compute_metrics(self, results: list) -> dict:
        tokens = torch.cat([tokens for tokens, *_ in results])
        if int(tokens.max()) >= self.vocab_size:
            raise UserError(
                f'vocab_size of TokenizerMetric must be that of the tokenizer, got {self.vocab_size} and token '
                f'{int(tokens.max())}'
            )
        use = codebook_use(torch.bincount(tokens, minlength=self.vocab_size))
        mean = sum(number for *_, number in results) / len(results)
        is_distance = results[0][1] == 'teacher_distance'
        quality = (
            dict(teacher_distance=mean) if is_distance else dict(psnr=-10 * torch.log10(torch.tensor(mean)).item())
        )
        return dict(**quality, perplexity=use['perplexity'].item(), used_codes=use['used_codes'].item())


@METRICS.register_module()
class LinearProbeAccuracy(BaseMetric):
    """Top-1 accuracy of every probed block, and the best of them.

    Takes `block_labels` (num_blocks,), `probed_blocks` and `gt_label` of every sample of LinearProbe. Gives
    `block_<index>` of every block and `best`, in percent, and `best_block`, the index of the best block. Blocks count
    from 0 as in `out_indices`; the paper counts from 1.
    """

    default_prefix = 'linear_probe'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            correct = sample['block_labels'].cpu() == sample['gt_label'].cpu()
            self.results.append((tuple(sample['probed_blocks']), correct))

    def compute_metrics(self, results: list) -> dict:
        blocks = results[0][0]
        accuracies = 100 * torch.stack([correct for _, correct in results]).double().mean(dim=0)
        best = int(accuracies.argmax())
        return dict(
            {f'block_{block}': accuracy.item() for block, accuracy in zip(blocks, accuracies)},
            best=accuracies[best].item(),
            best_block=float(blocks[best]),  # MMEngine does not write integers into the file of scores
        )


def describe_no_scores(metric: BaseMetric, scores: object) -> str:
    """What is wrong, and in which file, if what a metric has computed is no dict of scores; else empty."""
    if isinstance(scores, dict):
        return ''
    cls = type(metric)
    function = cls.compute_metrics if cls.evaluate is BaseMetric.evaluate else cls.evaluate
    place = f'{function.__code__.co_filename}, line {function.__code__.co_firstlineno}'
    return f'{place}: {function.__qualname__} must return a dict of scores, got {scores!r}'


def shared_folder(dataset: BaseDataset) -> str:
    """The folder that all images of a data set share, if two of them have the same name; else empty."""
    if 'img_path' not in dataset.get_data_info(0):  # of images that are not in files
        return ''
    images = [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]
    is_shared = len({Path(image).stem for image in images}) < len(images)
    return os.path.commonpath([os.path.dirname(image) for image in images]) if is_shared else ''


@METRICS.register_module()
class IoUMetric(HostIoUMetric):
    """MMSegmentation's IoUMetric, which refuses label maps that do not fit, and keeps the scores of every class.

    MMSegmentation's own counts labels beyond the classes in some sums but not in others, and its LoadAnnotations cuts
    16 bits to 8 and stretches fewer than 8, all silently. Arguments: those of MMSegmentation's IoUMetric.

    Attributes:
        class_scores: of the last evaluation, by class and score, such as `IoU`, in percent; NaN without a pixel.

    Raises:
        UserError: If a map is not a picture of one label per pixel, was not loaded as it is stored, has another size
            than the prediction, or has a label that is not a class; or if two images have one name in `output_dir`;
            names the files.
    """

    default_prefix = ''  # MMEngine warns of None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.image_root = ''
        self._written: dict[Path, str] = {}

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples if not self.format_only else ():
            path = sample.get('seg_map_path') or f'the labels of {sample.get("img_path")}'
            labels, predicted = (sample[key]['data'].squeeze() for key in ('gt_sem_seg', 'pred_sem_seg'))
            num_classes, reduces = len(self.dataset_meta['classes']), bool(sample.get('reduce_zero_label', False))
            if os.path.isfile(path) and not are_labels_plain(path):
                stored = map_labels(read_labels(path), reduces, self.dataset_meta.get('label_map'), self.ignore_index)
                corner = stored[tuple(map(slice, labels.shape))]  # the check before a training cuts samples
                if not np.array_equal(corner, labels.cpu().numpy()):
                    raise UserError(
                        f"{path} must be a picture with one 8-bit label per pixel, as MMSegmentation's "
                        'LoadAnnotations changes other labels; or use beit_mm.LoadAnnotations in this pipeline'
                    )
            check_labels(path, labels, predicted.shape, num_classes, reduces, self.ignore_index)
        output_dir, self.output_dir = self.output_dir, None  # MMSegmentation would write 8 bits, into one folder
        super().process(data_batch, data_samples)
        self.output_dir = output_dir
        for sample in data_samples if output_dir is not None else ():
            predicted, reduces = sample['pred_sem_seg']['data'].squeeze(), int(sample.get('reduce_zero_label', False))
            image = sample['img_path']
            name = os.path.relpath(image, self.image_root) if self.image_root else os.path.basename(image)
            path = Path(output_dir, name).with_suffix('.png')
            if self._written.setdefault(path, image) != image:
                raise UserError(f'{image} and {self._written[path]} have one name in output_dir; rename one')
            path.parent.mkdir(parents=True, exist_ok=True)
            dtype = np.uint16 if len(self.dataset_meta['classes']) >= 256 else np.uint8
            palette = [[0, 0, 0]] * reduces + list(self.dataset_meta.get('palette') or ())
            label_picture((predicted + reduces).cpu().numpy().astype(dtype), palette).save(path)

    def keep_folders(self, dataset: BaseDataset) -> None:
        """Let `output_dir` repeat the folders of the images of a data set, if two of them have the same name."""
        self.image_root = shared_folder(dataset)

    def total_area_to_metrics(self, *args, **kwargs) -> dict:
        totals = HostIoUMetric.total_area_to_metrics(*args, **kwargs)
        scores = {name: (100 * values).tolist() for name, values in totals.items() if name != 'aAcc'}
        rows = zip(*scores.values(), strict=True)
        self.class_scores = {str(name): dict(zip(scores, row)) for name, row in zip(self.dataset_meta['classes'], rows)}
        return totals


def rank_me(features: Tensor) -> float:
    """How many directions the features (N, C) of images fill, 1 to C: RankMe (arXiv 2210.02885, equation 3)."""
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum().clamp(min=1e-12)
    return torch.exp(-torch.special.xlogy(shares, shares).sum()).item()


def predict_by_neighbours(
    features: Tensor, train_features: Tensor, train_labels: Tensor, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Classes by weighted nearest neighbours (arXiv 1805.01978, section 3.4; k = 20 as in DINO, arXiv 2104.14294).

    Args:
        features, train_features: (N, C) and (M, C), each of length 1; M at least k.
        train_labels: int64 (M,).

    Returns:
        int64 (N,).
    """
    num_classes = int(train_labels.max()) + 1
    return neighbour_votes(features, train_features, train_labels, num_classes, k, temperature).argmax(dim=1)


def predict_by_regression(
    features: Tensor, train_features: Tensor, train_labels: Tensor, penalty: float = 1e-3
) -> Tensor:
    """Classes by ridge regression to one-hot labels: a linear probe in closed form.

    Args:
        features, train_features: (N, C) and (M, C).
        train_labels: int64 (M,).
        penalty: of the squared weights, for features of unit variance, and a mean over the images. Our choice: on the
            demonstration's pre-trained model 1e-4 and 1e-2 gave 50.4 and 37.0 % where it gave 46.0 %.

    Returns:
        int64 (N,).
    """
    mean, std = train_features.mean(dim=0), train_features.std(dim=0).clamp(min=1e-6)
    features, train_features = ((part - mean).div(std).double() for part in (features, train_features))
    targets = torch.nn.functional.one_hot(train_labels).double()
    covariance = train_features.t() @ train_features / len(targets)
    covariance.diagonal().add_(penalty)
    weights = torch.linalg.solve(covariance, train_features.t() @ targets / len(targets))
    return (features @ weights + targets.mean(dim=0)).argmax(dim=1)
