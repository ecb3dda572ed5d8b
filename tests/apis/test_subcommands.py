"""python -m beit_mm: results on standard output and in files, mistakes in one sentence."""

import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.tiny import draw, Tiny

from beit_mm.apis import classify, extract_features, list_models, reconstruct, segment
from beit_mm.apis.command_line import main


@pytest.fixture
def call(capsys):
    """A command in this process; its exit code, standard output and standard error."""

    def run(command: str, images, tiny: Tiny, *arguments: object):
        options = [f'{key}={str(value).replace(" ", "")}' for key, value in tiny.options.items()]
        given = [
            command,
            *images,
            '--model',
            tiny.model,
            '--weights',
            tiny.weights,
            '--device',
            'cpu',
            *arguments,
            '--cfg-options',
            *options,
        ]
        capsys.readouterr()
        try:
            main([str(one) for one in given])
            code = 0
        except SystemExit as error:
            code = error.code
        return (code, *capsys.readouterr())

    return run


def lines(output: str) -> list:
    return [line.split('\t') for line in output.splitlines()]


def test_classify_prints_a_line_per_image_and_names_what_it_skips(call, classifier, photos):
    code, output, errors = call('classify', [photos], classifier, '--top-k', 2)
    expected = classify(classifier.load(), photos, top_k=2)
    assert code == 0 and [line[0] for line in lines(output)] == [result['image'] for result in expected]
    assert lines(output)[0][1:] == [
        f'{100 * score:.1f} % {name}' for score, name in zip(expected[0]['top_scores'], expected[0]['top_classes'])
    ]
    assert f'skipped {photos / "b" / "broken.jpg"}: ' in errors
    assert errors.endswith('1 of 4 images could not be read\n')


@pytest.mark.parametrize('suffix', ['json', 'csv'])
def test_classify_writes_a_table(suffix, call, classifier, photos, tmp_path):
    file = tmp_path / 'new' / f'classes.{suffix}'
    assert call('classify', [photos / 'a'], classifier, '--top-k', 2, '--out', file)[0] == 0
    expected = classify(classifier.load(), photos / 'a', top_k=2)
    with open(file, newline='') as opened:
        rows = json.load(opened) if suffix == 'json' else list(csv.DictReader(opened))
    for row, result in zip(rows, expected, strict=True):
        assert row['image'] == result['image']
        if suffix == 'json':
            assert row == {key: result[key] for key in row} and 'top_classes' in row
        else:
            assert [int(row['label_1']), int(row['label_2'])] == result['top_labels']
            assert row['class_2'] == result['top_classes'][1] and float(row['score_2']) == result['top_scores'][1]
    assert os.listdir(file.parent) == [file.name]


def test_segment_writes_label_maps_and_overlays(call, segmentor, photos, tmp_path):
    code, output, errors = call('segment', [photos], segmentor, '--out', tmp_path / 'out')
    expected = segment(segmentor.load(), photos)
    assert code == 0 and [line[0] for line in lines(output)] == [result['image'] for result in expected]
    for name, result in zip(('a/1', 'a/2', 'b/1'), expected, strict=True):
        with Image.open(tmp_path / 'out' / 'labels' / f'{name}.png') as labels:
            assert labels.mode == 'L' and np.array_equal(np.asarray(labels), result['labels'])
        with Image.open(tmp_path / 'out' / 'overlays' / f'{name}.jpg') as overlay:
            assert overlay.height > len(result['labels'])
    best = np.bincount(expected[0]['labels'].ravel())
    assert lines(output)[0][1] == (f'{100 * best.max() / best.sum():.1f} % {expected[0]["classes"][best.argmax()]}')


def test_features_go_to_one_file(call, pretrained, photos, tmp_path):
    code, output, _ = call(
        'features', [photos], pretrained, '--out', tmp_path / 'f.npz', '--kind', 'cls_token', '--blocks', -1, 0
    )
    expected = extract_features(pretrained.load(), photos, kind='cls_token', blocks=[-1, 0])
    with np.load(tmp_path / 'f.npz') as file:
        assert file['images'].tolist() == [result['image'] for result in expected]
        assert np.array_equal(file['features'], [result['features'] for result in expected])
    assert code == 0 and output == f'{tmp_path / "f.npz"}: features (3, 2, 32)\n'


def test_reconstruct_writes_a_picture_per_image(call, pretrained, photos, tmp_path):
    code, output, _ = call('reconstruct', [photos], pretrained, '--out', tmp_path, '--num-masked', 2, '--seed', 3)
    expected = reconstruct(pretrained.load(), photos, num_masked=2, seed=3)
    assert code == 0 and lines(output) == [
        [
            result['image'],
            f'2 of {result["mask"].size} patches masked',
            f'token accuracy {100 * result["token_accuracy"]:.1f} %',
            f'perplexity {result["perplexity"]:.1f}',
        ]
        for result in expected
    ]
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*.png')) == [
        'a/1.png',
        'a/2.png',
        'b/1.png',
    ]


def test_models_are_listed_with_their_configs(capsys):
    main(['models'])
    assert dict(lines(capsys.readouterr().out)) == {name: str(path) for name, path in list_models().items()}


def test_mistakes_end_in_one_sentence(call, classifier, segmentor, photos, tmp_path):
    broken = photos / 'b' / 'broken.jpg'
    for command, tiny, images, arguments, expected in [
        ('classify', segmentor, photos, [], 'classify needs a model that classifies, got EncoderDecoder'),
        ('classify', classifier, tmp_path, [], f'{tmp_path} must hold images (.jpg, '),
        ('classify', classifier, broken, [], f'{broken} cannot be read as an image: '),
        ('classify', classifier, photos, ['--out', 'x.txt'], '--out must end in .json or .csv, got x.txt'),
        ('classify', classifier, photos, ['--batch-size', 0], 'batch_size must be at least 1, got 0'),
        ('features', classifier, photos, ['--out', 'x.npy'], '--out must end in .npz, got x.npy'),
        ('segment', segmentor, photos, ['--out', tmp_path, '--opacity', 2], '--opacity must lie in 0 to 1, got 2'),
    ]:
        code, output, errors = call(command, [images], tiny, *arguments)
        assert code == 1 and not output
        assert errors.splitlines()[-1].startswith(f'error: {expected}'), errors


def test_a_table_appears_only_when_it_is_complete(call, classifier, photos, tmp_path):
    (tmp_path / 'in').mkdir()
    for name in ('1.jpg', '2.jpg'):
        shutil.copy(photos / 'b' / 'broken.jpg', tmp_path / 'in' / name)
    code, _, errors = call('classify', [tmp_path / 'in'], classifier, '--out', tmp_path / 'out' / 'x.csv')
    assert code == 1 and 'error: none of 2 images could be read' in errors
    assert os.listdir(tmp_path / 'out') == []


def test_a_device_that_is_not_there(call, classifier, photos):
    code, _, errors = call('classify', [photos], classifier, '--device', 'gpu')
    assert code == 1 and errors.endswith('GPUs, got gpu\n') and 'error: a device must be cpu, or cuda' in errors


def test_images_are_not_overwritten(call, classifier, segmentor, pretrained, tmp_path):
    for name in ('a.png', 'labels/b.png', 'c.csv', 'd.npz'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(draw(40, 50)).save(tmp_path / name, 'PNG')
    (tmp_path / 'other').mkdir()
    os.link(tmp_path / 'a.png', tmp_path / 'other' / 'a.png')
    for command, tiny, image, out in [
        ('reconstruct', pretrained, 'a.png', '.'),
        ('segment', segmentor, 'labels', '.'),
        ('reconstruct', pretrained, 'a.png', 'other'),
        ('classify', classifier, 'c.csv', 'c.csv'),
        ('features', classifier, 'd.npz', 'd.npz'),
    ]:
        before = {path: path.read_bytes() for path in tmp_path.rglob('*.*')}
        code, _, errors = call(command, [tmp_path / image], tiny, '--out', tmp_path / out)
        assert code == 1 and 'error: results must not overwrite images, got' in errors
        assert {path: path.read_bytes() for path in tmp_path.rglob('*.*')} == before


def test_as_a_program_standard_output_is_results_alone(classifier, tmp_path):
    Image.fromarray(draw(40, 50)).save(tmp_path / 'image.png')
    command = [
        sys.executable,
        '-m',
        'beit_mm',
        'classify',
        'image.png',
        '--model',
        classifier.model,
        '--weights',
        str(classifier.weights),
        '--top-k',
        '1',
        '--cfg-options',
        *(f'{key}={value}' for key, value in classifier.options.items()),
    ]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES=''),
    )
    (expected,) = classify(classifier.load(), tmp_path / 'image.png')
    assert result.returncode == 0, result.stderr
    assert result.stdout == f'image.png\t{100 * expected["pred_score"]:.1f} % {expected["pred_class"]}\n'
