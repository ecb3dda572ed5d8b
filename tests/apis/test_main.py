"""beit-mm: results on standard output and in files, mistakes in one sentence."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from support.tiny import draw, Tiny

from beit_mm.__main__ import main
from beit_mm.apis import classify, extract_features, inferencer, reconstruct, segment, writing


@pytest.fixture
def call(capsys):
    """Run a command in this process; its exit code, standard output and standard error."""

    def run(command: str, images, tiny: Tiny, *arguments: object):
        options = [f'{key}={str(value).replace(" ", "")}' for key, value in tiny.options.items()]
        words = [command, *images, '--model', tiny.model, '--weights', tiny.weights, '--device', 'cpu', *arguments]
        capsys.readouterr()
        try:
            main([str(word) for word in (*words, '--cfg-options', *options)])
            code = 0
        except SystemExit as error:
            code = error.code
        return (code, *capsys.readouterr())

    return run


def lines(output: str) -> list[list[str]]:
    return [line.split('\t') for line in output.splitlines()]


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


@pytest.mark.parametrize('suffix', ['json', 'csv'])
def test_classify_prints_and_writes_a_line_per_image_and_names_what_it_skips(
    suffix, call, classifier, photos, tmp_path
):
    file = tmp_path / 'new' / f'classes.{suffix}'
    code, output, errors = call('classify', [photos], classifier, '--top-k', 2, '--out', file)
    expected = classify(classifier.load(), photos, top_k=2)
    assert code == 0 and f'skipped {photos / "b" / "broken.jpg"}: ' in errors
    assert errors.endswith("left out: 1 .txt (such as 'b/notes.txt')\n1 of 4 images could not be read\n")
    with open(file, newline='') as opened:
        rows = json.load(opened) if suffix == 'json' else list(csv.DictReader(opened))
    for line, row, result in zip(lines(output), rows, expected, strict=True):
        best = zip(result['top_scores'], result['top_classes'])
        assert line == [result['image'], *(f'{100 * score:.1f} % {name}' for score, name in best)]
        assert row['image'] == result['image']
        if suffix == 'json':
            assert row == {key: result[key] for key in row} and 'top_classes' in row
        else:
            assert [int(row['label_1']), int(row['label_2'])] == result['top_labels']
            assert row['class_2'] == result['top_classes'][1] and float(row['score_2']) == result['top_scores'][1]
    assert os.listdir(file.parent) == [file.name]


def test_segment_reads_every_image_once_and_writes_label_maps_and_overlays(
    call, segmentor, photos, tmp_path, monkeypatch
):
    read, read_image = [], inferencer.read_image
    monkeypatch.setattr(inferencer, 'read_image', lambda source, *how: read.append(source) or read_image(source, *how))
    arguments = ['--out', tmp_path / 'out', '--probabilities']
    code, output, errors = call('segment', [photos], segmentor, *arguments)
    assert len(read) == 4 and not hasattr(writing, 'read_image')
    expected = segment(segmentor.load(), photos)
    assert code == 0 and [line[0] for line in lines(output)] == [result['image'] for result in expected]
    for name, result in zip(('a/1', 'a/2', 'b/1'), expected, strict=True):
        with Image.open(tmp_path / 'out' / 'labels' / f'{name}.png') as labels:
            assert labels.mode == 'P' and np.array_equal(np.asarray(labels), result['labels'])
            assert len(set(map(tuple, np.reshape(labels.getpalette(), (-1, 3)).tolist()))) > 100
        with Image.open(tmp_path / 'out' / 'overlays' / f'{name}.jpg') as overlay:
            assert overlay.height > len(result['labels'])
        probabilities = np.load(tmp_path / 'out' / 'probabilities' / f'{name}.npy')
        assert probabilities.dtype == np.float16 and np.array_equal(probabilities.argmax(axis=0), result['labels'])
    counts = np.bincount(expected[0]['labels'].ravel())
    share = f'{100 * counts.max() / counts.sum():.1f} % {expected[0]["classes"][counts.argmax()]}'
    assert lines(output)[0][1] == share


def test_features_go_to_one_file(call, pretrained, photos, tmp_path):
    code, output, _ = call(
        'features', [photos], pretrained, '--out', tmp_path / 'f.npz', '--pooling', 'cls_token', '--blocks', -1, 0
    )
    expected = extract_features(pretrained.load(), photos, pooling='cls_token', blocks=[-1, 0])
    with np.load(tmp_path / 'f.npz') as file:
        assert file['images'].tolist() == [result['image'] for result in expected]
        assert np.array_equal(file['features'], [result['features'] for result in expected])
    assert code == 0 and output == f'{tmp_path / "f.npz"}: features (3, 2, 32)\n'
    whole = ('--kind', 'patches', '--own-size')  # its name in version 0.1
    assert call('features', [photos], pretrained, '--out', tmp_path / 'f', *whole)[0] == 0
    shapes = [np.load(tmp_path / 'f' / name).shape for name in files_below(tmp_path / 'f')]
    assert shapes == [(4, 5, 32), (3, 3, 32), (4, 5, 32)]  # 60 x 80, 45 x 41
    pooled = extract_features(pretrained.load(), photos)
    for name, read in (('f.csv', pandas.read_csv), ('f.parquet', pandas.read_parquet)):
        assert call('features', [photos], pretrained, '--out', tmp_path / name)[0] == 0
        table = read(tmp_path / name)
        assert table.pop('image').tolist() == [result['image'] for result in pooled]
        assert list(table) == [f'feature_{column}' for column in range(32)]
        assert np.array_equal(table.to_numpy(np.float32), [result['features'] for result in pooled])
    code, _, errors = call('features', [photos], pretrained, '--out', tmp_path / 'g.csv', '--pooling', 'patches')
    assert code == 1 and 'g.csv has a row for each image, got features of shape (2, 2, 32): use .npz' in errors
    code, _, errors = call('features', [photos], pretrained, '--out', tmp_path / 'g.npz', *whole)
    assert code == 1 and 'must have one shape' in errors and 'give --out a folder' in errors


def test_reconstruct_writes_a_picture_per_image_or_a_sheet_and_numbers(call, pretrained, photos, tmp_path, monkeypatch):
    code, output, _ = call('reconstruct', [photos], pretrained, '--out', tmp_path, '--num-masked', 2, '--seed', 3)
    expected = reconstruct(pretrained.load(), photos, num_masked=2, seed=3)
    assert code == 0
    for line, result in zip(lines(output), expected, strict=True):
        numbers = f'{100 * result["token_accuracy"]:.1f} %', f'{result["perplexity"]:.1f}'
        masked = f'2 of {result["mask"].size} patches masked'
        assert line == [result['image'], masked, f'token accuracy {numbers[0]}', f'perplexity {numbers[1]}']
    assert files_below(tmp_path) == ['a/1.png', 'a/2.png', 'b/1.png']

    monkeypatch.setattr(writing, 'MAX_ROWS', 1)
    out = ('--out', tmp_path / 'new' / 'sheet.png', '--json', tmp_path / 'numbers.json')
    code, output, _ = call('reconstruct', [photos], pretrained, *out, '--num-masked', 2, '--seed', 3)
    assert code == 0 and len(lines(output)) == 3
    for row, result in zip(json.loads((tmp_path / 'numbers.json').read_text()), expected, strict=True):
        assert row['tokens'] == result['tokens'].tolist() and row['perplexity'] == result['perplexity']
        assert np.sum(row['mask']) == 2
    sheet = Image.open(tmp_path / 'new' / 'sheet.png')
    assert sheet.width > 4 * 80 and sheet.height < 2 * 224  # the first image alone


def test_mistakes_end_in_one_sentence(call, classifier, segmentor, photos, tmp_path):
    broken = photos / 'b' / 'broken.jpg'
    for command, tiny, images, arguments, expected in [
        ('classify', segmentor, photos, [], 'classify needs a model that classifies, got EncoderDecoder'),
        ('classify', classifier, tmp_path, [], f'{tmp_path} must hold images (.jpg, '),
        ('classify', classifier, broken, [], f'{broken} cannot be read as an image: '),
        ('classify', classifier, photos, ['--device', 'gpu'], 'a device must be cpu, or cuda or cuda:N of 0 GPUs, got'),
    ]:
        code, output, errors = call(command, [images], tiny, *arguments)
        assert code == 1 and not output
        traceback_file, sentence = errors.splitlines()[-2:]
        assert sentence.startswith(f'error: {expected}') and traceback_file.startswith('(traceback in '), errors


def test_a_result_appears_only_when_it_is_complete(call, classifier, segmentor, photos, tmp_path, monkeypatch):
    (tmp_path / 'in').mkdir()
    for name in ('1.jpg', '2.jpg'):
        shutil.copy(photos / 'b' / 'broken.jpg', tmp_path / 'in' / name)
    code, _, errors = call('classify', [tmp_path / 'in'], classifier, '--out', tmp_path / 'out' / 'x.csv')
    assert code == 1 and 'error: none of 2 images could be read' in errors

    def save(picture, path, **options):
        Path(path).write_bytes(b'half')
        raise OSError('No space left on device')

    monkeypatch.setattr(Image.Image, 'save', save)
    code, _, errors = call('segment', [photos], segmentor, '--out', tmp_path / 'out')
    assert code == 1 and 'No space left on device' in errors and files_below(tmp_path / 'out') == []


def test_images_are_not_overwritten(call, classifier, segmentor, pretrained, tmp_path):
    for name in ('a.png', 'labels/b.png', 'c.csv', 'd.npz'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(draw(40, 50)).save(tmp_path / name, 'PNG')
    (tmp_path / 'other').mkdir()
    os.link(tmp_path / 'a.png', tmp_path / 'other' / 'a.png')
    before = {path: path.read_bytes() for path in tmp_path.rglob('*.*')}
    for command, tiny, image, out in [
        ('reconstruct', pretrained, 'a.png', '.'),
        ('reconstruct', pretrained, 'a.png', 'a.png'),
        ('segment', segmentor, 'labels', '.'),
        ('reconstruct', pretrained, 'a.png', 'other'),
        ('classify', classifier, 'c.csv', 'c.csv'),
        ('features', classifier, 'd.npz', 'd.npz'),
    ]:
        code, _, errors = call(command, [tmp_path / image], tiny, '--out', tmp_path / out)
        assert code == 1 and 'error: results must not overwrite images, got' in errors
        assert {path: path.read_bytes() for path in tmp_path.rglob('*.*')} == before


def test_names_of_files_and_classes_break_no_table_and_no_terminal(
    call, classifier, segmentor, pretrained, tmp_path, monkeypatch
):
    names = [
        *map(
            os.fsdecode,
            (b'1\t2\n3.png', b'\x1b[31mred.png', b'=1+1.png', b' @1;=2.png', b'\xff.png', '猫.png'.encode()),
        )
    ]
    monkeypatch.chdir(tmp_path)
    for name in names:
        Image.fromarray(draw(40, 50)).save(tmp_path / name)
    (tmp_path / os.fsdecode(b'\xfe.png')).write_bytes(b'no image')
    shown = [r'1\t2\n3.png', r'\x1b[31mred.png', "'=1+1.png", "' @1;=2.png", r'\udcff.png', '猫.png']
    state = torch.load(classifier.weights)
    classes = ['=HYPERLINK("http://example.org")', '\x1b[2J\t', *(f'class {index}' for index in range(2, 1000))]
    torch.save(dict(state, meta=dict(dataset_meta=dict(classes=classes))), tmp_path / 'weights.pth')
    hostile = classifier._replace(weights=tmp_path / 'weights.pth')
    images, broken = [*names, os.fsdecode(b'\xfe.png')], 'skipped \\udcfe.png: no header of'
    for command, tiny, arguments in [
        ('classify', hostile, ['--top-k', 1000, '--out', 'out/x.csv']),
        ('classify', hostile, ['--out', 'out/x.json']),
        ('segment', segmentor, ['--out', 'out']),
        ('features', pretrained, ['--out', os.fsdecode(b'out/\xff.npz')]),
        ('reconstruct', pretrained, ['--out', 'out', '--json', 'out/y.json']),
        ('reconstruct', pretrained, ['--out', 'out/sheet.pdf']),
    ]:
        code, output, errors = call(command, images, tiny, *arguments)
        assert code == 0 and broken in errors and '1 of 7 images could not be read' in errors, errors
        assert {char for char in output + errors if not char.isprintable()} <= {'\t', '\n'}
        if command == 'features':
            assert output.startswith('out/\\udcff.npz: features')
            with np.load(arguments[1]) as file:
                assert file['images'].tolist() == names
        else:
            assert [line[0] for line in lines(output)] == shown
    code, _, errors = call('classify', [os.fsdecode(b'none\n\x1b\xff.png')], hostile)
    assert code == 2 and 'file or folder that exists, got none\\n\\x1b\\udcff.png; ' in errors
    with open('out/x.csv', newline='', encoding='utf-8') as file:
        _, *rows = csv.reader(file)
    cells = [cell for row in rows for cell in row]
    assert '"\' @1;=2.png"' in Path('out/x.csv').read_text(encoding='utf-8')
    assert [row[0] for row in rows] == shown and not [cell for cell in cells if cell[:1] in ('=', '+', '-', '@')]
    assert '\'=HYPERLINK("http://example.org")' in cells and r'\x1b[2J\t' in cells
    for file in ('x.json', 'y.json'):
        assert [row['image'] for row in json.loads(Path('out', file).read_text(encoding='utf-8'))] == names
    for folder, suffix in (('labels', 'png'), ('overlays', 'jpg'), ('.', 'png')):
        written = {path.name for path in Path('out', folder).iterdir()}
        assert written >= {str(Path(name).with_suffix(f'.{suffix}')) for name in names}


@pytest.mark.long
def test_a_program_s_standard_output_is_results_alone(classifier, tmp_path):
    Image.fromarray(draw(40, 50)).save(tmp_path / 'image.png')
    options = [f'{key}={value}' for key, value in classifier.options.items()]
    words = ['classify', 'image.png', '--model', classifier.model, '--weights', classifier.weights, '--top-k', '1']
    result = subprocess.run(
        [sys.executable, '-m', 'beit_mm', *words, '--cfg-options', *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES=''),
    )
    (expected,) = classify(classifier.load(), tmp_path / 'image.png')
    assert result.returncode == 0, result.stderr
    assert result.stdout == f'image.png\t{100 * expected["pred_score"]:.1f} % {expected["pred_class"]}\n'
