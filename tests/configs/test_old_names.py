"""Old names of registered parts work in configs until the next release, and the changelog lists them."""

from mmengine.registry import Registry
from support import ROOT

from beit_mm import registry

REGISTRIES = {name: value for name, value in vars(registry).items() if isinstance(value, Registry)}
OLD = [
    (kind, old, part)
    for kind, parts in REGISTRIES.items()
    for old, part in parts.module_dict.items()
    if parts.module_dict.get(part.__name__) is part and old != part.__name__
]


def test_an_old_name_means_the_same_class_and_is_in_the_changelog():
    assert {'KeyedSampler', 'KeyedDataset'} <= {old for _, old, _ in OLD}
    lines = (ROOT / 'CHANGELOG.md').read_text().splitlines()
    for kind, old, part in OLD:
        assert getattr(registry.root, kind).get(f'beit_mm.{old}') is part
        assert any(f'`{old}`' in line and f'`{part.__name__}`' in line for line in lines), old
