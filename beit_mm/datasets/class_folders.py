"""A folder of images per class, labelled by the folders' names."""

from mmpretrain.datasets import CustomDataset
from mmpretrain.datasets.custom import find_folders, get_samples

from beit_mm.registry import DATASETS


@DATASETS.register_module()
class ClassFolders(CustomDataset):
    """MMPretrain's CustomDataset whose label is the place of a folder's name among the class names.

    CustomDataset counts the folders alone: class names in another order than the alphabet's, or a folder that is
    called differently in training and validation, give wrong labels without a word.

    Args:
        data_root, data_prefix: where the folders are; a class may lack its folder, and folders may be nested.
        metainfo, classes, extensions, **kwargs: of MMPretrain's CustomDataset. Without class names the folders' are
            taken, sorted.

    Raises:
        ValueError: If a folder is none of the classes, or there is no image.
    """

    def _find_samples(self) -> list[tuple[str, int]]:
        if not self.with_label:
            return super()._find_samples()
        folders = [name for name in find_folders(self.img_prefix)[0] if not name.startswith('.')]
        classes = list(self.CLASSES or folders)
        unknown = [name for name in folders if name not in classes]
        if unknown:
            raise ValueError(
                f'folders in {self.img_prefix} must be named as the classes ({", ".join(classes)}), got '
                f'{", ".join(unknown)}'
            )
        self._metainfo['classes'] = tuple(classes)
        self.folder_to_idx = {name: classes.index(name) for name in folders}
        samples, _ = get_samples(self.img_prefix, self.folder_to_idx, self.is_valid_file)
        if not samples:
            raise ValueError(
                f'the class folders in {self.img_prefix} must hold images ({", ".join(self.extensions)}), got none'
            )
        return samples
