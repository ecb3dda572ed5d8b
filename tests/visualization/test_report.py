"""The page of a work directory, from logs written by hand: numbers, pictures, and what it does not let through."""

import json
import math
from argparse import Namespace
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beit_mm.engine.runners import launch
from beit_mm.visualization.report import Record, report_command, write_report
from beit_mm.visualization.report.charts import short
from beit_mm.visualization.report.history import Curve
from beit_mm.visualization.report.page import duration, render
from beit_mm.visualization.report.record import read_record

VOID = {'meta', 'link', 'img'}
HOSTILE = '<script>alert(1)</script><img src=http://example.org/x onerror=alert(1)>'


class Page(HTMLParser):
    """Tags with their attributes, text outside of script and style; fails if tags do not nest."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple] = []
        self.text = ''
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        if not {'script', 'style'} & set(self.open):
            self.text += data

    def attributes(self, tag: str, name: str) -> list[str]:
        return [found[name] for kind, found in self.tags if kind == tag and name in found]

    def curve(self, label: str) -> dict[float, float]:
        """Steps and values of the first line of the chart of this title."""
        titles = self.attributes('svg', 'aria-label')
        place = next(place for place, title in enumerate(titles) if title.startswith(f'{label} over'))
        count = -1
        for tag, found in self.tags:
            count += tag == 'svg'
            if count == place and 'data-x' in found:
                return dict(zip(map(float, found['data-x'].split()), map(float, found['data-y'].split())))


def write_log(work_dir: Path, name: str, training=(), scores=(), record: Record = None) -> Path:
    """A folder of logs, as MMEngine's LocalVisBackend writes it."""
    folder = work_dir / name / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text(''.join(json.dumps(line) + '\n' for line in [*training, *scores]))
    if record is not None:
        record.write(folder.parent)
    return folder


def losses(steps, value=lambda step: 1 / step) -> list[dict]:
    return [
        dict(loss=value(step), lr=1e-3, base_lr=1e-3, time=0.5, data_time=0.1, iter=step, step=step) for step in steps
    ]


def page_of(work_dir: Path) -> Page:
    return Page(write_report(work_dir).read_text())


def test_a_resumed_training_is_one_curve_in_which_the_later_run_wins(tmp_path):
    scores = [{'mIoU': 1.0 * step, 'time': 1, 'step': step} for step in (50, 90)]
    write_log(tmp_path, '1', losses(range(10, 101, 10)), scores, Record('train', iteration=100))
    write_log(
        tmp_path,
        '2',
        losses([70, 80], lambda step: 5.0),
        record=Record('train', first_iteration=60, iteration=80, resumed=True, source='iter_60.pth'),
    )
    page = page_of(tmp_path)
    expected = {step: float(f'{1 / step:.6g}') for step in range(10, 61, 10)}
    assert page.curve('Loss') == {**expected, 70: 5, 80: 5}  # the steps after 80 belong to what was given up
    assert '90.0' not in page.attributes('data', 'value') and '50.0' in page.attributes('data', 'value')
    assert 'resumed after iteration 60' in page.text and 'iter_60.pth' in page.text


def test_a_new_training_in_the_same_folder_replaces_the_one_before(tmp_path):
    write_log(tmp_path, '1', losses([1, 2, 30]), record=Record('train', seconds={'steps': 100.0}))
    write_log(tmp_path, '2', losses([10, 20]), record=Record('train', seconds={'steps': 7.0, 'loading': 3.0}))
    page = page_of(tmp_path)
    assert sorted(page.curve('Loss')) == [10, 20]
    assert '10 s' in page.text and '70.0 %' in page.text and 'past' in page.attributes('tr', 'class')


def test_a_new_training_that_fails_before_its_first_log_is_not_mixed_with_the_one_before(tmp_path):
    write_log(
        tmp_path,
        '1',
        losses([10, 20]),
        [{'mIoU': 12.5, 'time': 1, 'step': 20}],
        Record('train', started='before', iteration=20, seconds={'steps': 100.0}),
    )
    write_log(tmp_path, '2', record=Record('train', state='failed', message='no data', seconds={'set-up': 3.0}))
    page = page_of(tmp_path)
    assert 'no data' in page.text and 'Nothing was logged yet' in page.text
    assert page.attributes('data', 'value') == ['3.0']
    assert page.attributes('tr', 'class') == ['past'] and 'before' in page.text


def test_the_time_of_a_test_that_followed_in_the_same_process_counts(tmp_path):
    write_log(tmp_path, '1', losses([1, 2]), record=Record('train', seconds={'set-up': 2.0, 'steps': 60.0}))
    Record('test', seconds={'set-up': 1.0, 'test': 17.0}).write(tmp_path / '1')
    rows = page_of(tmp_path).attributes('data', 'value')
    assert [float(value) for value in rows[-3:]] == [60, 17, 3]


def test_logs_without_a_record_make_a_page_too(tmp_path):
    folder = write_log(tmp_path, '1', losses([50, 100]))
    with open(folder / 'scalars.json', 'a') as file:
        file.write('{"loss": 0.25, "st')  # killed while it wrote
    write_log(tmp_path, '2', losses([100, 150]))
    (tmp_path / 'own.py').write_text('model = dict()')
    page = page_of(tmp_path)
    assert sorted(page.curve('Loss')) == [50, 100, 150]
    assert 'no end noted' in page.text and 'model = dict()' in page.text


def test_scores_give_the_last_and_the_best_with_their_place(tmp_path):
    scores = [
        {'accuracy/top1': value, 'val/loss': 3 - epoch, 'time': 0.1, 'step': epoch}
        for epoch, value in enumerate([50.0, 70.25, 60.0], 1)
    ]
    scores += [{'knn/top1': 12.5, 'step': 300}]  # KNNHook's, over iterations
    scores += [{'codebook/used': 0.5, 'step': 100}]  # PicturesHook's, of a batch of the training
    write_log(tmp_path, '1', losses([100]), scores, Record('train', score_unit='epoch'))
    page = page_of(tmp_path)
    rows = page.text[page.text.index('Validation scores') : page.text.index('The best is')]
    cells = [line.strip() for line in rows.split('\n') if line.strip()][2:]
    assert cells == [
        'accuracy/top160 epoch 370.25 epoch 2',
        'val/loss0 epoch 30 epoch 3',
        'knn/top112.5 iteration 30012.5 iteration 300',
    ]
    assert page.curve('accuracy/top1') == {1: 50, 2: 70.25, 3: 60}
    assert page.curve('codebook/used') == {100: 0.5}


def test_values_that_are_not_finite_break_the_line_and_are_counted(tmp_path):
    values = {1: 1.0, 2: math.nan, 3: math.inf, 4: 2.0, 5: 3.0}
    write_log(tmp_path, '1', losses(values, values.get), [{'score': math.nan, 'time': 1, 'step': 5}])
    page = page_of(tmp_path)
    assert '2 not finite' in page.text
    path = page.attributes('path', 'd')[0]
    assert path.count('M') == 2 and 'nan' not in path and 'inf' not in path
    write_log(tmp_path, '2', losses([6, 7], lambda step: math.nan))
    assert '4 not finite' in page_of(tmp_path).text


def test_training_that_logs_only_nan_has_a_page(tmp_path):
    write_log(tmp_path, '1', losses([1, 2], lambda step: math.nan))
    assert '2 not finite' in page_of(tmp_path).text


def test_thinning_keeps_ends_extremes_and_what_is_not_finite():
    x = np.arange(100_000.0)
    y = np.sin(x / 5000)
    y[[777, 50_001]] = 9, -9
    y[33_333] = math.nan
    thin = Curve('loss', x, y).thinned(1000)
    assert len(thin.x) <= 1003 and (np.diff(thin.x) > 0).all()
    assert {0, 777, 50_001, 33_333, 99_999} <= set(thin.x.astype(int))
    assert np.array_equal(thin.y, y[thin.x.astype(int)], equal_nan=True)
    assert Curve('loss', x[:1000], y[:1000]).thinned(1000).x.size == 1000


def test_first_and_latest_picture_of_every_name_are_in_the_page(tmp_path):
    folder = write_log(tmp_path, '1', losses([1])) / 'vis_image'
    folder.mkdir()
    for step in (1, 20, 100):
        Image.new('RGB', (step, 10), 'red').save(folder / f'masked_image_{step}.png')
    noise = np.random.default_rng(0).integers(0, 256, (900, 2000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / 'large_5.png')
    (folder / 'broken_7.png').write_bytes(b'no picture')
    page = page_of(tmp_path)
    pictures = {found['alt']: found for tag, found in page.tags if tag == 'img'}
    assert list(pictures) == ['large at step 5', 'masked_image at step 1', 'masked_image at step 100']
    assert pictures['masked_image at step 100']['width'] == '100'
    large = pictures['large at step 5']
    assert (large['width'], large['height']) == ('1600', '720') and len(large['src']) < 2_000_000
    assert 'broken_7.png cannot be read' in page.text


def test_a_picture_with_a_broken_chunk_is_told(tmp_path):
    folder = write_log(tmp_path, '1', losses([1])) / 'vis_image'
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / 'broken_7.png')
    content = (folder / 'broken_7.png').read_bytes()
    place = content.index(b'IDAT', content.index(b'IDAT') + 4)
    (folder / 'broken_7.png').write_bytes(content[:place] + bytes(4) + content[place + 4 :])
    assert 'broken_7.png cannot be read: broken PNG file' in page_of(tmp_path).text


def test_nothing_outside_is_referenced_and_no_text_becomes_markup(tmp_path):
    record = Record(
        'train',
        config=f'{HOSTILE}.py',
        command=[HOSTILE],
        message=HOSTILE,
        state='failed',
        source=HOSTILE,
        model={'model': HOSTILE, 'parameters': '1'},
        versions={HOSTILE: HOSTILE},
        seconds={HOSTILE: 1.0},
    )
    training = [{**line, HOSTILE: 1.0} for line in losses([1, 2])]
    folder = write_log(tmp_path, '1', training, [{f'class {HOSTILE}': 1.0, 'time': 1, 'step': 1}], record)
    (folder / 'config.py').write_text(f"classes = ['{HOSTILE}']")
    (tmp_path / 'bad_images.txt').write_text(f'{HOSTILE}\tcut off\n')
    (tmp_path / '1' / '1.json').write_text(json.dumps({HOSTILE: 3.0}))
    plain = tmp_path / 'plain'
    write_log(plain, '1', losses([1, 2]))
    page, expected = page_of(tmp_path), page_of(plain)
    for tag in ('script', 'img'):
        assert len(page.attributes(tag, 'src')) == 0
    count = [tag for tag, _ in page.tags].count
    assert count('script') == 1 == [tag for tag, _ in expected.tags].count('script')
    assert page.text.count(HOSTILE) >= 10
    for _, found in page.tags:
        assert not [name for name in found if name.startswith('on')]
        for name in {'src', 'href', 'xlink:href', 'action', 'data'} & set(found):
            assert found[name].startswith(('data:', '#'))
    policy = page.attributes('meta', 'content')[0]
    assert policy.startswith("default-src 'none'; img-src data:;") and "script-src 'sha256-" in policy
    assert '@import' not in render(tmp_path) and 'url(' not in render(tmp_path)


def test_the_page_is_whole_html_with_language_and_title(tmp_path):
    write_log(tmp_path, '1', losses([1, 2]), record=Record('train', config='beit_pretrain.py'))
    text = render(tmp_path)
    assert text.lstrip().startswith('<!DOCTYPE html>\n<html lang="en">')
    assert '<title>beit_pretrain.py: report</title>' in text
    ids = Page(text).attributes('section', 'id')
    assert len(ids) == len(set(ids))


def test_tests_in_the_same_folder_are_listed_with_their_checkpoint(tmp_path):
    write_log(tmp_path, '1', losses([1, 2]), record=Record('train', state='finished'))
    write_log(tmp_path, '2', record=Record('test', source='work/iter_2.pth', state='finished'))
    (tmp_path / '2' / '2.json').write_text(json.dumps({'mIoU': 41.5, 'time': 0.1, 'classes': [1, 2]}))
    page = page_of(tmp_path)
    assert '41.5' in page.attributes('data', 'value') and 'iter_2.pth' in page.text
    assert 'Training' in page.text and '2 of' not in page.text


def test_bad_images_and_skipped_updates_are_counted(tmp_path):
    write_log(tmp_path, '1', [{**line, 'skipped_updates': 2} for line in losses([1, 2])])
    (tmp_path / 'bad_images.txt').write_text(''.join(f'{number}.jpg\tcut off\n' for number in range(25)))
    text = page_of(tmp_path).text
    assert 'unreadable images25' in text and '5 more' in text and 'skipped updates2' in text


@pytest.mark.parametrize(
    'make',
    [lambda path: None, lambda path: (path / '1' / 'vis_data').mkdir(parents=True), lambda path: write_log(path, '1')],
)
def test_a_folder_without_logs_is_told(make, tmp_path):
    make(tmp_path)
    with pytest.raises(ValueError, match='must be the work directory of a run, with logs in TIMESTAMP'):
        write_report(tmp_path)
    assert not (tmp_path / 'report.html').exists()


def test_a_damaged_record_is_as_none(tmp_path):
    folder = write_log(tmp_path, '1', losses([1, 2]))
    (folder / 'run_train.json').write_text('{"purpose": "train", "it')
    assert 'no end noted' in page_of(tmp_path).text


def test_a_record_reads_back_as_it_was_written_and_outlives_new_fields(tmp_path):
    record = replace(Record('test'), seconds={'test': 1.5}, command=['a', 'b'])
    record.write(tmp_path)
    path = tmp_path / 'vis_data' / 'run_test.json'
    assert read_record(path) == record
    path.write_text(json.dumps({**json.loads(path.read_text()), 'of a later version': 1}))
    assert read_record(path) == record


@pytest.mark.parametrize(
    'seconds, text', [(0.1234, '123 ms'), (59.4, '59.4 s'), (80, '1 min 20 s'), (7500, '2 h 05 min')]
)
def test_durations_are_told_in_fitting_units(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    'number, text',
    [
        (0.0015, '0.0015'),
        (1.5e-5, '1.5e-5'),
        (-0.00025, '-2.5e-4'),
        (0, '0'),
        (math.nan, 'nan'),
        (123456, '1.235e5'),
        (41.0, '41'),
    ],
)
def test_numbers_are_short(number, text):
    assert short(number) == text


def test_the_command_writes_the_page_and_tells_of_a_folder_without_logs_in_one_sentence(tmp_path, capsys):
    write_log(tmp_path / 'run', '1', losses([1, 2]))
    launch.run(
        report_command, Namespace(run=str(tmp_path / 'run'), out=str(tmp_path / 'new' / 'page.html'), work_dir=None)
    )
    assert capsys.readouterr().out.strip() == str(tmp_path / 'new' / 'page.html')
    assert Page((tmp_path / 'new' / 'page.html').read_text()).curve('Loss') == {1: 1, 2: 0.5}
    with pytest.raises(SystemExit) as ended:
        launch.run(report_command, Namespace(run=str(tmp_path / 'none'), out=None, work_dir=None))
    assert ended.value.code == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f'error: {tmp_path}/none must be the work directory') and 'no such folder' in sentence
