"""docs/tutorial.ipynb runs from its first cell to its last, as a quick trial."""

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from support import ROOT

PATH = ROOT / 'docs' / 'tutorial.ipynb'
# MMEngine lays out the text of a config several times a run, which would take most of the time.
FASTER = 'from yapf.yapflib import yapf_api; yapf_api.FormatCode = lambda text, **_: (text, True)'


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
    notebook = nbformat.read(PATH, as_version=4)
    notebook.cells.insert(0, new_code_cell(FASTER))
    folder = tmp_path_factory.mktemp('tutorial')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TUTORIAL_TRIAL', '1')
        patch.setenv('OMP_NUM_THREADS', '1')
        patch.setenv('CUDA_VISIBLE_DEVICES', '')
        NotebookClient(
            notebook, timeout=300, kernel_name='python3', resources=dict(metadata=dict(path=str(folder)))
        ).execute()
    return notebook


def outputs(notebook, kind: str) -> list:
    return [
        output
        for cell in notebook.cells
        if cell.cell_type == 'code'
        for output in cell.outputs
        if kind in output.get('data', {}) or output.get('name') == kind
    ]


@pytest.mark.long
def test_it_shows_pictures_curves_and_classes(executed):
    assert len(outputs(executed, 'image/png')) == 7
    text = ''.join(output['text'] for output in outputs(executed, 'stdout'))
    assert "'classes': 10" in text and 'top-1 on held-out digits: ' in text
    assert text.count('is taken for digit_') == 3
    assert outputs(executed, 'stderr') == []


def test_the_committed_file_is_valid_small_and_of_no_machine():
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    assert PATH.stat().st_size < 300_000
    texts = [
        str(output.get('text', '')) + str(output.get('data', {}).get('text/plain', ''))
        for cell in notebook.cells
        if cell.cell_type == 'code'
        for output in cell.outputs
    ]
    assert not any('/home/' in text or '/work/' in text or '/tmp/' in text for text in texts)
