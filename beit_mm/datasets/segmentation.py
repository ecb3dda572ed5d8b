"""Images with label maps in folders, as a data set of MMSegmentation."""

import os
from collections.abc import Sequence

from mmengine import fileio
from mmseg.datasets import BaseSegDataset

from beit_mm.errors import UserError
from beit_mm.registry import DATASETS

from .listing import IMAGE_SUFFIXES, LABEL_SUFFIXES, LeftOut, list_files, name_suffixes


@DATASETS.register_module()
class SegFolders(BaseSegDataset):
    """MMSegmentation's BaseSegDataset for every image that LoadImage reads. A label map has the name of its image.

    Args:
        data_prefix: `img_path` and `seg_map_path`, the two folders; without the second there are no label maps.
        img_suffix, seg_map_suffix: suffixes of the files, one or several, in upper or lower case. Without its suffix, a
            label map has the name of its image. `left_out` counts other files, see list_files.
        ann_file: a file with a name without its suffix in each line; by default all images.
        **kwargs: see MMSegmentation's BaseSegDataset.

    Raises:
        UserError: If there is no image, an image has no label map, or two files have the same name but for the suffix.
    """

    def __init__(
        self,
        img_suffix: str | Sequence[str] = IMAGE_SUFFIXES,
        seg_map_suffix: str | Sequence[str] = LABEL_SUFFIXES,
        **kwargs,
    ):
        self.left_out = LeftOut()
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)
        self.METAINFO = self.metainfo  # MMSegmentation's browse_dataset.py reads the classes there

    def load_data_list(self) -> list[dict]:
        folder, label_folder = self.data_prefix['img_path'], self.data_prefix.get('seg_map_path')
        label_maps = {} if label_folder is None else self._by_stem(label_folder, self.seg_map_suffix, LeftOut())
        images = self._by_stem(folder, self.img_suffix, self.left_out, set(label_maps.values()))
        if not images:
            left_out = f'; left out: {self.left_out}' if self.left_out else ''
            raise UserError(f'{folder} must hold images ({name_suffixes(_all(self.img_suffix))}), got none{left_out}')
        if self.ann_file and not os.path.isdir(self.ann_file):
            images = self._listed(images)
        missing = [name for stem, name in images.items() if stem not in label_maps]
        if label_folder is not None and missing:
            stem = os.path.splitext(missing[0])[0]
            ends = [name[len(stem) :] for name in label_maps.values() if name.startswith((f'{stem}_', f'{stem}-'))]
            mend = f', or set seg_map_suffix={ends[0]!r}' if ends else ''
            raise UserError(
                f'{len(missing)} of {len(images)} images in {folder} have no label map of their name '
                f'({", ".join(_all(self.seg_map_suffix))}) in {label_folder}: the first is {missing[0]!r}; '
                f'add it or remove the image{mend}'
            )
        for stem in label_maps.keys() - images.keys():
            self.left_out.note('label maps without image', label_maps[stem])
        shared = dict(label_map=self.label_map, reduce_zero_label=self.reduce_zero_label)
        return [
            dict(
                shared,
                seg_fields=[],
                img_path=os.path.join(folder, name),
                **({} if label_folder is None else dict(seg_map_path=os.path.join(label_folder, label_maps[stem]))),
            )
            for stem, name in images.items()
        ]

    def _by_stem(self, folder: str, suffix: str | Sequence[str], left_out: LeftOut, others=()) -> dict[str, str]:
        """Names of files by their part before the suffix."""
        names: dict[str, str] = {}
        for name in list_files(folder, _all(suffix), left_out):
            end = next(end for end in _all(suffix) if name.lower().endswith(end.lower()))
            stem = name[: -len(end)]
            if name in others and self.data_prefix['img_path'] == self.data_prefix.get('seg_map_path'):
                continue  # a label map in the folder of its image
            if stem in names:
                raise UserError(f'{folder} must hold one of {names[stem]!r} and {name!r}; set img_suffix or remove one')
            names[stem] = name
        return names

    def _listed(self, images: dict[str, str]) -> dict[str, str]:
        stems = [line.strip() for line in fileio.list_from_file(self.ann_file)]
        for number, stem in enumerate(stems, 1):
            if stem and stem not in images:
                raise UserError(
                    f'{self.ann_file}, line {number}: must be the name of an image in {self.data_prefix["img_path"]} '
                    f'without its suffix, got {stem!r}'
                )
        for stem in images.keys() - set(stems):
            self.left_out.note(f'not in {os.path.basename(self.ann_file)}', images[stem])
        return {stem: images[stem] for stem in stems if stem}


def _all(suffix: str | Sequence[str]) -> Sequence[str]:
    return (suffix,) if isinstance(suffix, str) else suffix
