"""MMPretrain's data sets for classification, with what they lack."""

from collections.abc import Sequence

import mmpretrain.datasets as host
import numpy as np
from mmpretrain.datasets.custom import find_folders, get_samples

from beit_mm.errors import UserError
from beit_mm.registry import DATASETS

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.webp', '.tif', '.tiff', '.ppm', '.pgm', '.jp2')


@DATASETS.register_module()
class CIFAR100(host.CIFAR100):
    """MMPretrain's CIFAR100 with images in BGR instead of RGB, as files are read everywhere else."""

    def get_data_info(self, idx: int) -> dict:
        info = super().get_data_info(idx)
        return dict(info, img=np.ascontiguousarray(info['img'][..., ::-1]))


@DATASETS.register_module()
class ClassFolders(host.CustomDataset):
    """MMPretrain's CustomDataset, with labels that follow the class names.

    CustomDataset numbers the folders in alphabetical order: labels are wrong, and nothing says so, if the class names
    have another order or if training and validation have different folders.

    Args:
        data_root, data_prefix: where the folders are; a class may lack its folder, and folders may be nested.
        extensions: suffixes of images.
        metainfo, classes: class names; by default the sorted names of the folders.
        **kwargs: see MMPretrain's CustomDataset.

    Raises:
        UserError: If a folder is none of the classes, or there is no image.
    """

    def __init__(self, *args, extensions: Sequence[str] = IMAGE_SUFFIXES, **kwargs):
        super().__init__(*args, extensions=tuple(extensions), **kwargs)

    def _find_samples(self) -> list[tuple[str, int]]:
        if not self.with_label:
            return super()._find_samples()
        folders = [name for name in find_folders(self.img_prefix)[0] if not name.startswith('.')]
        classes = list(self.CLASSES or folders)
        unknown = ', '.join(name for name in folders if name not in classes)
        if unknown:
            raise UserError(
                f'folders in {self.img_prefix} must be named as the classes ({", ".join(classes)}), got {unknown}'
            )
        self._metainfo['classes'] = tuple(classes)
        self.folder_to_idx = {name: classes.index(name) for name in folders}
        samples, _ = get_samples(self.img_prefix, self.folder_to_idx, self.is_valid_file)
        if not samples:
            suffixes = ', '.join(self.extensions)
            raise UserError(f'the class folders in {self.img_prefix} must hold images ({suffixes}), got none')
        return samples
