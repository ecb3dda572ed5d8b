"""CIFAR-100 with the channel order of all other data sets."""

import numpy as np
from mmpretrain.datasets import CIFAR100 as HostCIFAR100

from beit_mm.registry import DATASETS


@DATASETS.register_module()
class CIFAR100(HostCIFAR100):
    """MMPretrain's CIFAR100 with images in BGR instead of RGB, as files are read everywhere else.

    Args:
        **kwargs: see MMPretrain's CIFAR100.
    """

    def get_data_info(self, idx: int) -> dict:
        info = super().get_data_info(idx)
        return dict(info, img=np.ascontiguousarray(info['img'][..., ::-1]))
