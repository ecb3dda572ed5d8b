"""A folder of images per class, labelled by the folders' names."""

from collections.abc import Sequence

from mmpretrain.datasets import CustomDataset
from mmpretrain.datasets.custom import find_folders, get_samples

from beit_mm.errors import UserError
from beit_mm.registry import DATASETS

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.webp', '.tif', '.tiff', '.ppm', '.pgm', '.jp2')


@DATASETS.register_module()
class ClassFolders(CustomDataset):
    """MMPretrain's CustomDataset, with labels that follow the class names.

    CustomDataset numbers the folders in alphabetical order. If the class names have another order, or if training and
    validation have different folders, its labels are wrong and nothing says so.

    Args:
        data_root, data_prefix: where the folders are; a class may lack its folder, and folders may be nested.
        extensions: suffixes of images.
        metainfo, classes, **kwargs: see MMPretrain's CustomDataset. Without class names, the sorted names of the
            folders are the classes.

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
        unknown = [name for name in folders if name not in classes]
        if unknown:
            raise UserError(
                f'folders in {self.img_prefix} must be named as the classes ({", ".join(classes)}), got '
                f'{", ".join(unknown)}'
            )
        self._metainfo['classes'] = tuple(classes)
        self.folder_to_idx = {name: classes.index(name) for name in folders}
        samples, _ = get_samples(self.img_prefix, self.folder_to_idx, self.is_valid_file)
        if not samples:
            raise UserError(
                f'the class folders in {self.img_prefix} must hold images ({", ".join(self.extensions)}), got none'
            )
        return samples
