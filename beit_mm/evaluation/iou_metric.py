"""IoU of labels that are what they are taken for."""

import os
from collections.abc import Sequence

from mmseg.evaluation import IoUMetric as HostIoUMetric

from beit_mm.datasets.transforms.loading import check_kind
from beit_mm.registry import METRICS


@METRICS.register_module()
class IoUMetric(HostIoUMetric):
    """MMSegmentation's IoUMetric, which counts no label map that does not fit.

    MMSegmentation's own leaves labels beyond the classes out of some counts and in others, and its LoadAnnotations cuts
    16 bits to 8, both without a word.

    Args:
        **kwargs: of MMSegmentation's IoUMetric.

    Raises:
        ValueError: If a map is no picture of one 8-bit label per pixel, has another size than the prediction, or a
            label that is no class; names the file.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        if not self.format_only:
            for sample in data_samples:
                self._check(sample)
        super().process(data_batch, data_samples)

    def _check(self, sample: dict) -> None:
        path = sample.get('seg_map_path') or f'the labels of {sample.get("img_path")}'
        if os.path.isfile(path):
            check_kind(path)
        labels, predicted = (sample[key]['data'].squeeze() for key in ('gt_sem_seg', 'pred_sem_seg'))
        if labels.shape != predicted.shape:
            raise ValueError(
                f'{path} must have the size of its image, {" x ".join(map(str, predicted.shape))}, got '
                f'{" x ".join(map(str, labels.shape))}'
            )
        num_classes = len(self.dataset_meta['classes'])
        wrong = labels[(labels >= num_classes) & (labels != self.ignore_index)]
        if wrong.numel():
            reduces = sample.get('reduce_zero_label', False)
            first = 1 if reduces else 0
            raise ValueError(
                f'{path} must have labels {first} to {num_classes - 1 + first} (reduce_zero_label='
                f'{bool(reduces)}) or {self.ignore_index}, got {int(wrong.max()) + first}'
            )
