"""Parts of a config, found and changed wherever they stand."""
from typing import Optional

from .checks import walk


def innermost_dataset(loader: Optional[dict]) -> Optional[dict]:
    """The data set of a loader's config inside all wrappers, the first where one joins several; None if there is
    none."""
    dataset = (loader or {}).get('dataset')
    while dataset and ('dataset' in dataset or dataset.get('datasets')):
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset


def use_plain_batch_norm(model: dict) -> None:
    """Replace synchronised batch norm, which has no CPU code and is alike in evaluation, in a model's config."""
    for _, node in walk(model, 'model'):
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'


def names_start(node: Optional[dict]) -> bool:
    """Whether the config of a part says itself which file its weights start from."""
    start = (node or {}).get('init_cfg')
    return isinstance(start, dict) and start.get('type') == 'Pretrained'


def forget_starts(model: dict, below: str = 'model') -> None:
    """Leave out of a model's config the files that its parts, those with `below` in their key, would start from: they
    may be gone, and other weights come in their place."""
    for key, node in walk(model, 'model'):
        if below in key and names_start(node):
            node['init_cfg'] = None
