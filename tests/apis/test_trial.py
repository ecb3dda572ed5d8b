"""The small models that travel with the package, and the page that shows what they make of pictures."""

import base64
import hashlib
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from beit_mm.apis.trial import FOLDER, try_models


def test_the_bundled_models_are_small_and_are_those_whose_figures_are_recorded():
    made = json.loads((FOLDER / 'models.json').read_text())
    sizes = []
    for name, file in made['files'].items():
        content = (FOLDER / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file['sha256']
        sizes.append(len(content))
    assert len(sizes) == 4 and sum(sizes) < 5e6
    assert len(made['figures']) > 5


@pytest.mark.parametrize('own', [False, True])
def test_the_page_shows_bundled_pictures_or_the_user_s(own, tmp_path):
    photo = tmp_path / 'photo.jpg'
    pixels = np.random.default_rng(0).integers(0, 255, (120, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photo)
    page = try_models(str(photo) if own else None, tmp_path / 'page.html').read_text()
    assert 'These are toy models' in page and ('not your photos' in page) == own
    picture = re.search('data:image/png;base64,([^"]+)', page)[1]
    width, height = Image.open(io.BytesIO(base64.b64decode(picture))).size
    assert width > 6 * 96 and height > (1 if own else 9) * 96
