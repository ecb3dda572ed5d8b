"""`beit-mm pretrain` on folders that hold what no data set should: a run that works, or one sentence."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.data import jpeg
from support.hostile_folders import (
    as_a_usual_user,
    black_png,
    BYTES,
    forbid,
    LABELS,
    PHOTOS,
    write,
    write_classes,
    write_equal_pixels,
    write_files,
    write_infinite_numbers,
    write_linked_folders,
    write_links,
    write_mixed_pictures,
    write_mixed_sizes,
    write_no_files,
    write_odd_names,
    write_real_numbers,
    write_sparse,
    write_texts,
    write_unseen_bands,
)
from support.tools import command, draw_no_charts, leave_text_as_it_is

from beit_mm.pretraining import plan, run
from beit_mm.pretraining.measuring import measure_step


@pytest.fixture
def short(tmp_path, monkeypatch) -> None:
    """An empty working directory, and a run of a few steps of a small model, after a short real measurement."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, 'measure_step', lambda text, _, launcher: measure_step(text, 0.01, launcher) and 6000.0)
    monkeypatch.setattr(run, 'MIN_STEPS', 2)
    monkeypatch.setitem(plan.TRUNKS, 'mini', (32, 2, 2, 1e-3))
    leave_text_as_it_is(monkeypatch.setattr)
    draw_no_charts(monkeypatch.setattr)


def pretrain(*arguments: str) -> None:
    """The command, for which permissions count also if root gives it."""
    with as_a_usual_user():
        command('pretrain', *arguments, '--minutes', 1000)


# What is written, the arguments, and the end of the one line that is printed.
REFUSED: dict[str, tuple[Callable[[], object], list[str], str]] = {
    'one image': (lambda: write(PHOTOS, 1), [], 'at least 8 different images, got 1 in photos'),
    'no image': (PHOTOS.mkdir, [], 'photos must hold images .*, got none'),
    'equal files': (
        lambda: write_files(PHOTOS, '.jpg', 30 * [jpeg(0)]), [], 'got 30, 29 of them copies in photos'
    ),
    'wrong suffixes': (write_texts, [], '9 of 9 images in photos cannot be read, such as .*; mend or remove them'),
    'empty files': (lambda: write_files(PHOTOS, '.png', 20 * [b'']), [], 'got 20, 19 of them copies in photos'),
    'cut files': (
        lambda: write_files(PHOTOS, '.jpg', [jpeg(index)[:-99] for index in range(9)]),
        [],
        '9 of 9 images in photos cannot be read, .*; mend or remove them',
    ),
    'images too large': (
        lambda: write_files(PHOTOS, '.png', [black_png(20_000, 5_001 + index) for index in range(8)]),
        [],
        'must have at most 100000000 pixels, got 20000 x 50.*; mend or remove them',
    ),
    'other bands': (
        lambda: (write(PHOTOS, 5, (20, 24, 13), suffix='.tif'), write(PHOTOS, 5)),
        [],
        'must have the same bands, got .*; sort them into folders',
    ),
    'other depth': (
        lambda: [write(PHOTOS, 5, (20, 24, 4), dtype, '.npy') for dtype in (np.uint8, np.uint16)],
        [],
        'must have the same bands, got .*; sort them into folders',
    ),
    'equal numbers': (
        lambda: write_real_numbers(*(np.full((20, 20 + index), 0.5) for index in range(9))),
        [],
        'pixels of images in photos must differ, by a finite number, got 0.5 to 0.5',
    ),
    'no finite number': (
        lambda: write_real_numbers(*(np.full((20, 20 + index), np.inf) for index in range(9))),
        [],
        'images in photos must have finite numbers, got none',
    ),
    'no permission to look': (lambda: (write(PHOTOS), forbid(0, PHOTOS)), [], ".*Permission denied: 'photos'"),
    'no permission to read': (
        lambda: (write(PHOTOS), forbid(0, *PHOTOS.iterdir())),
        [],
        '9 of 9 images in photos cannot be read, .*Permission denied.*; mend or remove them',
    ),
    'no permission to write': (
        lambda: (write(PHOTOS), Path('out').mkdir(), forbid(0o555, Path('out'))),
        [],
        'out must be a folder that can be written to: Permission denied; name another --out',
    ),
    'links to each other': (write_linked_folders, [], 'by at most 1,000 paths, got more to .*; remove some of them'),
    'a link to itself': (lambda: PHOTOS.symlink_to(PHOTOS), [], 'that exists, got photos; it is a link to photos .*'),
    'results among labels': (
        lambda: (write(PHOTOS), write_classes()),
        ['--labels', 'labels', '--out', 'labels/out'],
        '--out must lie outside of labels, whose pictures are used, got labels/out',
    ),
    'results in a link to itself': (
        lambda: (write(PHOTOS), Path('out').symlink_to('out')),
        [],
        'out must be a folder that can be written to: .*; name another --out',
    ),
    'results with a name of bytes': (
        lambda: write(PHOTOS), ['--out', BYTES], 'the path of --out must be text in UTF-8, got .*; name another'
    ),
    'labels without classes': (
        lambda: (write(PHOTOS), write(LABELS)),
        ['--labels', 'labels'],
        r'got 0 such folders; left out: 9 in no class folder \(such as .*\)',
    ),
    'labels of other bands': (
        lambda: (write(PHOTOS), write_classes(shape=(20, 24, 13), suffix='.tif')), ['--labels', 'labels'], '.*bands.*'
    ),
}  # fmt: skip


@pytest.mark.parametrize('kind', REFUSED)
def test_what_cannot_be_trained_on_is_one_sentence(kind, short, capfd):
    write_it, arguments, sentence = REFUSED[kind]
    write_it()
    with pytest.raises(SystemExit) as end:
        pretrain('photos', '--out', 'out', *arguments)
    *_, line = capfd.readouterr().err.splitlines()
    assert end.value.code in (1, 2) and re.search(f'^error: .*{sentence}$', line), line
    assert not any(Path().glob('**/*.pth'))


# What is written, the arguments, and what is said of it.
TRAINED: dict[str, tuple[Callable[[], object], list[str], str]] = {
    'equal pixels': (write_equal_pixels, [], '8 of 9 images look like another one, or nearly'),
    'mixed sizes': (write_mixed_sizes, [], r'1 x 1 to '),
    'mixed pictures': (write_mixed_pictures, [], '3 of 8 bits'),
    'a third of texts': (lambda: (write(PHOTOS), write_texts(count=4)), [], 'unreadable +4 of 13, such as'),
    'links': (write_links, [], r'images +9 .*; left out: .*'),
    'pipes and devices': (write_no_files, [], r'images +9 .*; left out: .*'),
    'a sparse file': (lambda: (write(PHOTOS), write_sparse()), [], 'unreadable +1 of 10, .* at most 4,294,967,296 b'),
    'infinite numbers': (write_infinite_numbers, [], '2 of .* bits'),
    'odd names': (write_odd_names, [], 'images +9 '),
    'tiny files': (lambda: write(PHOTOS, 100_000, (2, 2, 3)), [], 'images +100,000 '),
    'bands of an image not looked at': (write_unseen_bands, [], '4 of 16 bits'),
    'odd names of results and classes': (
        lambda: (write(PHOTOS), [write(LABELS / name, 3) for name in ('a b', "q'", '100%', '{x}', '{{ y }}')]),
        ['--labels', 'labels', '--out', "{{ fileDirname }} 100%s 'x'\n#"],
        '5 classes',
    ),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize('kind', TRAINED)
def test_what_can_be_trained_on_becomes_weights(kind, short, capfd):
    write_it, arguments, said = TRAINED[kind]
    write_it()
    arguments = arguments or ['--out', 'out']
    pretrain('photos', *arguments)
    captured = capfd.readouterr()
    assert re.search(said, captured.out) and 'Traceback' not in captured.err, captured
    folder = Path(arguments[-1], 'pretrain')
    assert (folder / (folder / 'last_checkpoint').read_text().rpartition('/')[2]).is_file()
