from pathlib import Path

import pytest

from beit_mm.datasets.digits import write_classification, write_segmentation


@pytest.fixture(scope='session')
def digits(tmp_path_factory) -> Path:
    """Small embedded data sets in the layouts of ImageNet and ADE20K."""
    folder = tmp_path_factory.mktemp('digits')
    write_classification(folder / 'imagenet', limit=6, renders=2)
    write_segmentation(folder / 'ade20k', num_train=12, num_val=4, limit=6)
    return folder
