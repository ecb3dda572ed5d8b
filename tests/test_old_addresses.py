"""Old addresses of public classes work until the next release, with a warning."""

import importlib

import pytest

from beit_mm import datasets, engine, evaluation, models


@pytest.mark.parametrize(
    'old_module, old_name, new',
    [(engine, name, getattr(evaluation, name)) for name in evaluation.__all__]
    + [(datasets, name, getattr(models, name)) for name in dir(models) if name.lower().endswith('preprocessor')]
    + [(datasets, 'KeyedSampler', datasets.SeededSampler), (datasets, 'KeyedDataset', datasets.SeededDataset)],
)
def test_the_old_address_gives_the_same_class_with_a_warning(old_module, old_name, new):
    with pytest.warns(DeprecationWarning, match=old_name):
        assert getattr(old_module, old_name) is new


@pytest.mark.parametrize('module', ['beit_mm.engine', 'beit_mm.datasets'])
def test_other_names_are_missing(module):
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'Nothing'"):
        importlib.import_module(module).Nothing
