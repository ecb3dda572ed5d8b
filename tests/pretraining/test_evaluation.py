"""`beit-mm evaluate`: honest draws, scores that an equal start repeats, going on, and bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.data import jpeg
from test_folder import write_images
from test_pretraining import KINDS, writer

from beit_mm.__main__ import main
from beit_mm.apis import load_model
from beit_mm.config.parts import drop_pretrained
from beit_mm.config.reading import read_config
from beit_mm.errors import UserError
from beit_mm.pretraining import evaluation, plan
from beit_mm.pretraining.contenders import OWN, Part, RANDOM
from beit_mm.pretraining.evaluation import Evaluation, FINETUNING, LINEAR, METHODS, NEIGHBOURS
from beit_mm.pretraining.evaluation_page import write_evaluation

LIKE_OWN = 'iter_10.pth (pretrain)'


@pytest.fixture
def pretrained(tmp_path, monkeypatch):
    """A function that makes images of a kind in two classes and, as if it had been pre-trained on them, a tiny model.

    It returns the folder of the pre-training.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(plan.TRUNKS, 'mini', (32, 2, 2, 1e-3))
    monkeypatch.setattr(evaluation, 'MIN_STEPS', 2)
    monkeypatch.setattr(evaluation, 'MIN_EPOCHS', 3)

    def make(**kind) -> Path:
        for seed, label in enumerate(('cat', 'dog')):
            Path('photos', label).mkdir(parents=True)
            write_images(Path('photos', label), 12, seed=seed, **kind)
        written = writer('photos')
        written.write('pretrain', 10)
        torch.manual_seed(1)
        cfg = read_config(written.file('pretrain'))
        drop_pretrained(cfg.model)
        file = written.checkpoint('pretrain', 10)
        file.parent.mkdir()
        torch.save(dict(state_dict=load_model(cfg).state_dict()), file)
        return written.out

    return make


def test_images_are_drawn_from_every_class_by_its_share():
    classes = np.repeat([0, 1, 2], [600, 300, 3])
    part = Part([str(index) for index in range(len(classes))], classes)
    for seed in range(5):
        few, many = part.draw(9, seed), part.draw(90, seed)
        assert set(few) < set(many) and len(few) == 9 and len(many) == 90  # more labels, not other ones
        assert set(classes[few]) == {0, 1, 2}
        assert np.bincount(classes[many])[:2] == pytest.approx([60, 30], abs=2)
    assert set(part.draw(9, 0)) != set(part.draw(9, 1))
    assert list(part.draw(903, 0)) == list(range(903))


def test_scores_a_page_and_going_on(pretrained, monkeypatch, capfd):
    out = pretrained()
    also = ['--also', str(out / 'pretrain.py'), str(out / 'pretrain/iter_10.pth')]
    command = ['evaluate', str(out), '--labels', 'photos', '--seeds', '1', *also]
    main(command)
    printed = capfd.readouterr().out
    (file,) = out.glob('evaluate/scores_*.json')
    content = json.loads(file.read_text())
    scores = {(row['method'], row['weights'], row['images'], row['seed']): row['top1'] for row in content['scores']}
    names, counts = (OWN, RANDOM, LIKE_OWN), (2, 20)
    assert set(scores) == {
        (method, name, number, seed) for method in METHODS for name in names for number in counts for seed in range(1)
    }
    own, random, like_own = ([score for key, score in sorted(scores.items()) if key[1] == name] for name in names)
    assert own == like_own != random
    starts = [
        read_config(out / f'evaluate/{start}_2_0/finetune.py').model.backbone.init_cfg for start in ('own', 'random')
    ]
    assert starts[0].checkpoint == str(out / 'pretrain/iter_10.pth') and starts[1] is None
    score = scores[FINETUNING, OWN, 2, 0]
    assert f'answer        fine-tuning with 2 labelled images: {score:.1f} % from own pre-training' in printed
    page = (out / 'evaluate/index.html').read_text()
    assert page.count('<img') == 3 and '://' not in page

    monkeypatch.setattr(evaluation, 'train_stage', None)  # all is known
    main(command)
    assert f'18 of 18 in {file} are of these weights' in capfd.readouterr().out
    (out / 'pretrain/iter_10.pth').touch()
    assert {key[1] for key in Evaluation(out, 'photos', 1, True).scores} == {RANDOM, LIKE_OWN}
    Path('photos/cat/3_0.png').unlink()
    assert not Evaluation(out, 'photos', 1, True).scores and file.is_file()  # for the images as they were


def test_a_stopped_evaluation_goes_on_and_tells_copies(pretrained, monkeypatch, capfd):
    out, done = pretrained(), []

    def finetune(scored, contender, number, seed) -> float:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append((contender.name, number, seed))
        return 50.0

    monkeypatch.setattr(Evaluation, '_finetune', finetune)
    Path('photos/cat/3_10.png').write_bytes(Path('photos/cat/3_0.png').read_bytes())  # one that is asked for
    with pytest.raises(KeyboardInterrupt):
        Evaluation(out, 'photos', 2, finetunes=True).run()
    first, done[:] = list(done), []
    monkeypatch.setattr(
        Evaluation,
        '_finetune',
        lambda scored, contender, number, seed: done.append((contender.name, number, seed)) or 9.0,
    )
    Evaluation(out, 'photos', 2, finetunes=True).run()
    assert len(first) == 3 and len(done) == 5 and not {*first} & {*done}
    assert '1 of 4 images to ask for have the content of a known one' in capfd.readouterr().out


@pytest.mark.parametrize('kind', KINDS)
def test_images_of_any_bands_have_scores_and_pictures(kind, pretrained):
    out = pretrained(**KINDS[kind])
    scored = Evaluation(out, 'photos', 2, finetunes=False)
    scored.run()
    assert {key[0] for key in scored.scores} == {NEIGHBOURS, LINEAR}
    assert scored.of(LINEAR, OWN, 20)[0] == scored.of(LINEAR, OWN, 20)[1]  # all images, whichever the seed
    assert write_evaluation(scored).read_text().count('<img') == 3


def spoil(what: str, out: Path) -> None:
    if what == 'unfinished':
        (out / 'pretrain/iter_10.pth').unlink()
    elif what == 'not ours':
        (out / 'pretrain.py').write_text("_base_ = 'beit_mm::demo/pretrain.py'")
    elif what == 'unreadable':
        Path('photos/cat/3_4.png').write_bytes(jpeg(0)[:99])
    elif what == 'scores':
        path = Evaluation(out, 'photos', 1, finetunes=False).path
        path.write_text('{"scores": 1}')


SPOILED = {
    'unfinished': r'iter_10\.pth is missing: end the pre-training first, by beit-mm pretrain --resume',
    'not ours': r'pretrain\.py must be as beit-mm pretrain writes it, got one without',
    'unreadable': r'labelled images must be readable, got photos/cat/3_4\.png: .*; mend or remove it',
    'scores': r'scores_\w+\.json must be as this command writes it; remove it',
}


@pytest.mark.parametrize('what', SPOILED)
def test_what_cannot_be_scored_is_one_sentence(what, pretrained):
    out = pretrained()
    spoil(what, out)
    with pytest.raises(UserError, match=SPOILED[what]):
        Evaluation(out, 'photos', 1, finetunes=False).run()


def test_folders_and_weights_that_do_not_fit_are_one_sentence(pretrained):
    out = pretrained(bands=1)
    with pytest.raises(UserError, match='photos must be a folder that beit-mm pretrain has written'):
        Evaluation(Path('photos'), 'photos', 1, finetunes=False)
    with pytest.raises(UserError, match='must hold a folder for each of two or more classes'):
        Evaluation(out, 'photos/cat', 1, finetunes=False)
    with pytest.raises(UserError, match=r'is for images of 3 bands of 8 bits, got 1 bands of 8 bits in out'):
        Evaluation(out, 'photos', 1, False, [('beit-base-p16_1k-to-1k_224', 'any.pth')])
