"""MMPretrain's data sets for classification, with what they lack."""

from collections.abc import Sequence

import mmpretrain.datasets as host
import numpy as np
from mmpretrain.datasets.custom import find_folders

from beit_mm.errors import UserError
from beit_mm.registry import DATASETS

from .listing import check_lines, IMAGE_SUFFIXES, LeftOut, list_files, name_suffixes


@DATASETS.register_module()
class CIFAR100(host.CIFAR100):
    """MMPretrain's CIFAR100 with images in BGR instead of RGB, as files are read everywhere else."""

    def get_data_info(self, idx: int) -> dict:
        info = super().get_data_info(idx)
        return dict(info, img=np.ascontiguousarray(info['img'][..., ::-1]))


@DATASETS.register_module()
class ClassFolders(host.CustomDataset):
    """MMPretrain's CustomDataset for every image that LoadImage reads, with labels that follow the class names.

    CustomDataset numbers the folders in alphabetical order: labels are wrong, and nothing says so, if the class names
    have another order or if training and validation have different folders.

    Args:
        data_root, data_prefix: where the folders are; a class may lack its folder, and folders may be nested.
        ann_file: a file of lines `path label` to use instead of the folders' names, without labels `path`.
        extensions: suffixes of images; see list_files for what else is left out, which `left_out` counts.
        with_label: False for the images alone, in any folders.
        metainfo, classes: class names; by default the sorted names of the folders.
        **kwargs: see MMPretrain's CustomDataset.

    Raises:
        UserError: If a folder has the name of no class, there is no image, or a line of the annotation file has no
            label or leaves the folder.
    """

    def __init__(self, *args, extensions: Sequence[str] = IMAGE_SUFFIXES, **kwargs):
        self.left_out = LeftOut()
        super().__init__(*args, extensions=tuple(extensions), **kwargs)

    def load_data_list(self) -> list[dict]:
        check_lines(self)
        return super().load_data_list()

    def _find_samples(self) -> list:
        if not self.with_label:
            return self._checked(list_files(self.img_prefix, self.extensions, self.left_out))
        folders = [name for name in find_folders(self.img_prefix)[0] if not name.startswith('.')]
        classes = list(self.CLASSES or folders)
        unknown = ', '.join(name for name in folders if name not in classes)
        if unknown:
            raise UserError(
                f'folders in {self.img_prefix} must be named as the classes ({", ".join(classes)}), got {unknown}; '
                'add the name to `classes`, or rename or remove the folder'
            )
        self._metainfo['classes'] = tuple(classes)
        self.folder_to_idx = {name: classes.index(name) for name in folders}
        samples = []
        names = list_files(self.img_prefix, self.extensions, self.left_out)
        for folder, slash, rest in sorted(name.partition('/') for name in names):
            if slash:
                samples.append((f'{folder}/{rest}', self.folder_to_idx[folder]))
            else:
                self.left_out.note('in no class folder', folder)
        return self._checked(samples)

    def _checked(self, samples: list) -> list:
        if not samples:
            what = 'the class folders in ' if self.with_label else ''
            mend = f'; left out: {self.left_out}' if self.left_out else ''
            if 'in no class folder' in self.left_out:
                mend += '; put them into a folder for each class, or set with_label=False'
            raise UserError(
                f'{what}{self.img_prefix} must hold images ({name_suffixes(sorted(self.extensions))}), got none{mend}'
            )
        return samples
