"""The report of a work directory, from logs written by hand: curves, scores, pictures, and nothing from outside."""

import base64
import io
import json
import logging
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import ROOT
from support.tools import run_here

from beit_mm.hiding import hide_secrets_in_logs
from beit_mm.text import show
from beit_mm.visualization.report import Record, write_report
from beit_mm.visualization.report.logs import current_training, Curve, read_curves, read_sessions
from beit_mm.visualization.report.page import draw_chart, format_duration
from beit_mm.visualization.report.record import read_record

HOSTILE = '<script>alert(1)</script><img src=http://example.org/x onerror=alert(1)>$x$'


class Page(HTMLParser):
    """Tags with their attributes, and the text of the page; fails if tags do not nest."""

    def __init__(self, work_dir: Path):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text, self._open = '', []
        self.source = write_report(work_dir).read_text()
        self.feed(self.source)
        assert self._open == []
        self.text = ' '.join(self.text.split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ('meta', 'link', 'img'):
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, self.getpos()

    def handle_data(self, data):
        if 'style' not in self._open:
            self.text += ' ' + data

    def attributes(self, tag: str, name: str) -> list[str]:
        return [attributes[name] for other, attributes in self.tags if other == tag and name in attributes]


def write_log(work_dir: Path, name: str, lines=(), record: Record | None = None) -> Path:
    """A folder of logs, as MMEngine's LocalVisBackend writes it."""
    folder = work_dir / name / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    if record is not None:
        record.write(folder.parent)
    return folder


def losses(steps, value=lambda step: 1 / step, **more) -> list[dict]:
    common = dict(lr=1e-3, base_lr=1e-3, time=0.5, data_time=0.1, **more)
    return [dict(common, loss=value(step), iter=step, step=step) for step in steps]


def curve(work_dir: Path, name: str) -> dict[float, float]:
    """Steps and values of a curve or score of the latest training."""
    logged, scores = read_curves(current_training(read_sessions(work_dir)))
    (curve,) = (curve for curve in logged + scores if curve.name == name)
    return dict(zip(curve.steps, curve.values))


# Sessions of one work directory


def test_a_resumed_training_is_one_curve_and_the_later_session_wins(tmp_path):
    scores = [{'mIoU': 1.0 * step, 'time': 1, 'step': step} for step in (50, 90)]
    write_log(tmp_path, '1', losses(range(10, 101, 10)) + scores, Record('train', iteration=100))
    resumed = Record('train', first_iteration=60, iteration=80, resumed=True, source='iter_60.pth')
    write_log(tmp_path, '2', losses([70, 80], lambda step: 5.0), resumed)
    assert curve(tmp_path, 'loss') == {**{step: 1 / step for step in range(10, 61, 10)}, 70: 5, 80: 5}
    assert curve(tmp_path, 'mIoU') == {50: 50}
    page = Page(tmp_path)
    assert 'resumed after iteration 60' in page.text and 'iter_60.pth' in page.text


def test_a_new_training_in_the_same_folder_replaces_the_one_before(tmp_path):
    before = Record('train', started='yesterday', iteration=20, seconds={'steps': 100.0})
    write_log(tmp_path, '1', [*losses([1, 2, 30]), {'mIoU': 12.5, 'time': 1, 'step': 20}], before)
    write_log(tmp_path, '2', losses([10, 20]), Record('train', seconds={'steps': 7.0, 'loading': 3.0}))
    assert sorted(curve(tmp_path, 'loss')) == [10, 20]
    page = Page(tmp_path)
    assert '10 s' in page.text and '70.0 %' in page.text and page.attributes('tr', 'class') == ['past']
    # Also if it fails before its first log.
    write_log(tmp_path, '3', record=Record('train', state='failed', message='no data', seconds={'set-up': 3.0}))
    page = Page(tmp_path)
    assert 'failed no data' in page.text and 'Nothing was logged yet' in page.text and '12.5' not in page.text
    assert page.attributes('meter', 'value') == ['1.0'] and 'yesterday' in page.text


def test_tests_are_listed_with_their_checkpoint_and_their_time(tmp_path):
    write_log(tmp_path, '1', losses([1, 2]), Record('train', state='finished', seconds={'set-up': 2.0, 'steps': 60.0}))
    Record('test', seconds={'set-up': 1.0, 'test': 17.0}).write(tmp_path / '1')  # in the same process
    write_log(tmp_path, '2', record=Record('test', source='work/iter_2.pth', state='finished'))
    (tmp_path / '2' / '2.json').write_text(json.dumps({'mIoU': 41.5, 'time': 0.1, 'classes': [1, 2]}))
    page = Page(tmp_path)
    assert 'finished' in page.text and '2 of' not in page.text and 'Tests 2, iter_2.pth mIoU 41.5' in page.text
    assert [float(value) for value in page.attributes('meter', 'value')] == [60 / 80, 17 / 80, 3 / 80]


def test_scores_of_classes_and_test_time_augmentation_are_shown(tmp_path):
    scores = {'road': dict(IoU=41.25, Acc=60.0), 'sky': dict(IoU=math.nan, Acc=0.0)}
    write_log(
        tmp_path, '1', losses([1, 2]) + [{'mIoU': 41.25, 'time': 1, 'step': 2}], Record('train', class_scores=scores)
    )
    write_log(tmp_path, '2', record=Record('test', command=['test.py', '--tta'], class_scores=scores))
    (tmp_path / '2' / '2.json').write_text(json.dumps({'mIoU': 41.25}))
    text = Page(tmp_path).text
    assert text.count('scores of 2 classes class IoU, % Acc, % road 41.25 60 sky nan 0') == 2
    assert 'Tests 2, with test-time augmentation (--tta) mIoU 41.25' in text


def test_logs_without_a_record_or_of_a_later_version_make_a_page_too(tmp_path):
    folder = write_log(tmp_path, '1', losses([50, 100]))
    with open(folder / 'scalars.json', 'a') as file:
        file.write('{"loss": 0.25, "st')  # killed while it wrote
    (folder / 'run_train.json').write_text('{"purpose": "train", "it')
    write_log(tmp_path, '2', losses([100, 150]))
    (tmp_path / 'own.py').write_text('model = dict()')
    assert sorted(curve(tmp_path, 'loss')) == [50, 100, 150]
    page = Page(tmp_path)
    assert 'no end noted' in page.text and 'model = dict()' in page.text
    record = replace(Record('test'), seconds={'test': 1.5}, command=['a', 'b'])
    record.write(tmp_path / '2')
    path = tmp_path / '2' / 'vis_data' / 'run_test.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), 'of a later version': 1}))
    assert read_record(path) == record


@pytest.mark.charts
def test_the_tool_writes_the_page_and_refuses_a_folder_without_logs(tmp_path, capsys):
    tool, out = ROOT / 'tools/analysis_tools/report.py', tmp_path / 'new' / 'page.html'
    write_log(tmp_path / 'run', '1', losses([1, 2]))
    run_here([tool, tmp_path / 'run', '--out', out])
    assert capsys.readouterr().out.strip() == str(out) and 'loss 0.5' in out.read_text()
    write_log(tmp_path / 'empty', '1')
    for name, reason in (('none', 'there is no such folder'), ('empty', 'it has none')):
        with pytest.raises(SystemExit, match='1'):
            run_here([tool, tmp_path / name])
        expected = f'error: {tmp_path}/{name} must be the work directory of a run, with logs in TIMESTAMP'
        sentence = capsys.readouterr().err
        assert expected in sentence and reason in sentence and not (tmp_path / name / 'report.html').exists()


# Numbers


def test_scores_have_the_last_and_the_best_value_with_their_steps(tmp_path):
    scores = [
        {'accuracy/top1': value, 'val/loss': 3 - epoch, 'time': 0.1, 'step': epoch}
        for epoch, value in enumerate([50.0, 70.25, 60.0], 1)
    ]
    scores += [{'knn/top1': 12.5, 'step': 300}]  # KNNHook logs over iterations
    scores += [{'codebook/used': 0.5, 'step': 100}]  # PicturesHook logs what is no score
    write_log(tmp_path, '1', losses([100]) + scores, Record('train', score_unit='epoch'))
    text = Page(tmp_path).text
    rows = text[text.index('Validation scores') : text.index('The best is')]
    assert 'accuracy/top1 60 epoch 3 70.25 epoch 2' in rows and 'val/loss 0 epoch 3 0 epoch 3' in rows
    assert 'knn/top1 12.5 iteration 300 12.5 iteration 300' in rows and 'codebook' not in rows
    assert curve(tmp_path, 'accuracy/top1') == {1: 50, 2: 70.25, 3: 60}
    assert curve(tmp_path, 'codebook/used') == {100: 0.5}


@pytest.mark.charts
def test_values_that_are_not_finite_are_counted_and_break_the_line(tmp_path):
    values = [1.0, math.nan, math.inf, 2.0, 3.0]
    lines = losses(range(1, 6), lambda step: values[step - 1], other=math.nan)
    write_log(tmp_path, '1', [*lines, {'score': math.nan, 'time': 1, 'step': 5}])
    page = Page(tmp_path)
    assert 'loss 3, 2 not finite' in page.text and 'other nan, 5 not finite' in page.text
    assert not [path for path in page.attributes('path', 'd') if 'nan' in path or 'inf' in path]


def test_long_curves_stay_small():
    steps = np.arange(20_000.0)
    svg = draw_chart('Loss', [Curve('loss', 'iteration', steps, np.sin(steps))])
    assert len(svg) < 200_000 and 'data:image/png;base64,' in svg


def test_secrets_are_left_out(tmp_path, monkeypatch, caplog):
    address = 'https://user:SECRET@host/x.pth?X-Signature=SECRET/SECRET#part'
    command = ['train.py', '--token', 'SECRET', '--cfg-options', 'a.api_key=SECRET', 'use_mask_token=True', address]
    record = Record('train', source=address, command=command, state='failed', message=f'no {address}')
    record.versions['torch'] = '2'
    folder = write_log(tmp_path, '1', losses([1, 2]), record)
    assert 'SECRET' not in (folder / 'run_train.json').read_text()
    old = json.dumps(dict(purpose='test', command=command, source=address))  # written before secrets were left out
    write_log(tmp_path, '2').joinpath('run_test.json').write_text(old)
    (folder / 'config.py').write_text(
        f"data = dict(root='{address}', secret_key='SECRET', accessKey=\"SECRET\", tokens=['SECRET'])\n"
        "use_mask_token, headers = True, {'Authorization': 'Basic SECRET'}\n"
        'pipe = \'pipe:curl -H "X-Api-Key: SECRET" -H "Authorization: Bearer SECRET"\'\n'
        "lr, custom_keys, num_tokens, note = 0.5, dict(norm=dict(decay_mult=0.0)), 196, 'masked_token_accuracy: 0.5'\n"
    )
    (tmp_path / 'bad_images.txt').write_text(f'{address}\tcut off\n')
    monkeypatch.setattr(logging, '_logRecordFactory', logging.getLogRecordFactory())  # put back afterwards
    for _ in range(2):
        hide_secrets_in_logs()
    logging.getLogger('run').warning('%s of %d: %s', (folder / 'config.py').read_text(), 2, address)
    assert 'SECRET' not in caplog.text and 'lr, custom_keys, num_tokens, note = 0.5' in caplog.text
    page = Page(tmp_path)
    assert 'SECRET' not in page.source
    assert page.text.count('https://***@host/x.pth?***#part') >= 3 and 'a.api_key=*** use_mask_token=True' in page.text
    assert 'secret_key=\'***\', accessKey="***"' in page.text and 'masked_token_accuracy: 0.5' in page.text
    assert 'dict(norm=dict(decay_mult=0.0))' in page.text and 'x.pth' in page.text


@pytest.mark.charts
def test_the_page_is_whole_html_with_charts_and_counts_for_light_dark_and_narrow_screens(tmp_path):
    write_log(tmp_path, '1', losses([1, 2], loss_ce=2.0, custom=1.0, skipped_updates=0), Record('train', config='a.py'))
    page = Page(tmp_path)
    assert len(page.attributes('svg', 'viewbox')) == 4
    assert all(title in page.text for title in ('Loss', 'Learning rate', 'custom', 'Seconds per step'))
    assert 'base_lr' not in page.text and 'skipped' not in page.text
    assert page.source.lstrip().startswith('<!DOCTYPE html>\n<html lang="en">')
    assert '<title>a.py: report</title>' in page.source
    ids = [attributes['id'] for _, attributes in page.tags if 'id' in attributes]
    assert len(ids) == len(set(ids))
    assert 'color-scheme: light dark' in page.source and 'width=device-width' in page.source
    styles = page.attributes('text', 'style') + page.attributes('g', 'style')
    assert any('currentColor' in style for style in styles) and not [style for style in styles if '#000' in style]
    write_log(tmp_path, '2', losses([3, 4], skipped_updates=2))
    (tmp_path / 'bad_images.txt').write_text(''.join(f'{number}.jpg\tcut off\n' for number in range(25)))
    text = Page(tmp_path).text
    assert 'unreadable images 25' in text and '5 more' in text and 'skipped updates 2' in text


@pytest.mark.parametrize(
    'seconds, text', [(0.1234, '123 ms'), (59.4, '59.4 s'), (80, '1 min 20 s'), (7500, '2 h 05 min')]
)
def test_durations_have_fitting_units(seconds, text):
    assert format_duration(seconds) == text


# The page as a document


def test_the_first_and_the_latest_picture_of_every_name_are_in_the_page_unless_damaged(tmp_path):
    folder = write_log(tmp_path, '1', losses([1])) / 'vis_image'
    folder.mkdir()
    for step in (1, 20, 100):
        Image.new('RGB', (step, 10), 'red').save(folder / f'masked_image_{step}.png')
    noise = np.random.default_rng(0).integers(0, 256, (900, 2000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / 'large_5.png')
    (folder / 'empty_7.png').write_bytes(b'no picture')
    Image.fromarray(noise[:200, :200]).save(folder / 'broken_7.png')
    content = (folder / 'broken_7.png').read_bytes()
    chunk = content.index(b'IDAT', content.index(b'IDAT') + 4)
    (folder / 'broken_7.png').write_bytes(content[:chunk] + bytes(4) + content[chunk + 4 :])
    page = Page(tmp_path)
    assert 'broken_7.png cannot be read: broken PNG file' in page.text and 'empty_7.png cannot be read' in page.text
    contents = [base64.b64decode(source.split(',')[1]) for source in page.attributes('img', 'src')]
    pictures = dict(zip(page.attributes('img', 'alt'), (Image.open(io.BytesIO(content)) for content in contents)))
    assert {name: (picture.size, picture.format) for name, picture in pictures.items()} == {
        'large at step 5': ((1600, 720), 'JPEG'),
        'masked_image at step 1': ((1, 10), 'PNG'),
        'masked_image at step 100': ((100, 10), 'PNG'),
    }


@pytest.mark.charts
def test_nothing_outside_is_referenced_and_no_text_becomes_markup(tmp_path):
    hostile = f'{HOSTILE}\x1b[31m\u202e'
    texts = dict.fromkeys(('message', 'source'), hostile)
    tables = dict(model={'model': hostile, 'parameters': '1'}, versions={hostile: hostile}, seconds={hostile: 1.0})
    record = Record('train', config=f'{hostile}.py', command=[hostile], state='failed', **texts, **tables)
    lines = losses([1, 2], **{hostile: 1.0})
    folder = write_log(tmp_path, '1', [*lines, {f'class {hostile}': 1.0, 'time': 1, 'step': 1}], record)
    (folder / 'config.py').write_text(f"classes = ['{hostile}']")
    (tmp_path / 'bad_images.txt').write_text(f'{hostile}\tcut off\n')
    (tmp_path / '1' / '1.json').write_text(json.dumps({hostile: 3.0}))
    page = Page(tmp_path)
    assert page.text.count(show(hostile)) >= 10
    assert not re.search('[\x00-\x08\x0b-\x1f\u202e]', page.source), 'control characters'
    assert not {'script', 'img', 'iframe', 'object'} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith('on')]
        for name in {'src', 'href', 'xlink:href', 'action', 'data'} & set(attributes):
            assert attributes[name].startswith(('data:', '#'))
    policy = page.attributes('meta', 'content')[0]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert '@import' not in page.source and set(re.findall(r'url\((.)', page.source)) <= {'#'}
