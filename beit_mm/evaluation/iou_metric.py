"""IoU that refuses label maps which do not fit."""

import os
from collections.abc import Sequence

from mmseg.evaluation import IoUMetric as HostIoUMetric

from beit_mm.datasets.transforms.loading import check_kind
from beit_mm.errors import UserError
from beit_mm.registry import METRICS


@METRICS.register_module()
class IoUMetric(HostIoUMetric):
    """MMSegmentation's IoUMetric, which refuses label maps that do not fit.

    MMSegmentation's own counts labels beyond the classes in some sums but not in others, and its LoadAnnotations cuts
    16 bits to 8, both silently. Arguments: those of MMSegmentation's IoUMetric.

    Raises:
        UserError: If a map is not a picture of one 8-bit label per pixel, has another size than the prediction, or has
            a label that is not a class; names the file.
    """

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
            raise UserError(
                f'{path} must have the size of its image, {" x ".join(map(str, predicted.shape))}, got '
                f'{" x ".join(map(str, labels.shape))}'
            )
        num_classes = len(self.dataset_meta['classes'])
        wrong = labels[(labels >= num_classes) & (labels != self.ignore_index)]
        if wrong.numel():
            reduces = bool(sample.get('reduce_zero_label', False))
            raise UserError(
                f'{path} must have labels {int(reduces)} to {num_classes - 1 + reduces} (reduce_zero_label={reduces}) '
                f'or {self.ignore_index}, got {int(wrong.max()) + reduces}'
            )
