import html
import inspect
import json
import os
import shutil
import subprocess
import sys
from importlib import import_module

import pytest
from support import ROOT

WIDTHS = 400, 1280  # a phone and a desktop
# Loads every page at every width and lists those that are wider than their window.
HARNESS = """<body><script>
(async () => {{
  const wide = [];
  for (const page of {pages}) for (const width of {widths}) {{
    const frame = document.createElement('iframe');
    frame.width = width;
    frame.src = page;
    await new Promise(done => {{ frame.onload = done; document.body.append(frame); }});
    const root = frame.contentDocument.documentElement;
    if (root.scrollWidth > width || root.innerText.length < 100) wide.push([page, width, root.scrollWidth]);
    frame.remove();
  }}
  document.body.textContent = 'checked ' + JSON.stringify(wide);
}})();
</script></body>"""


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', ROOT / 'docs', folder]
    run = subprocess.run(command, cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.mark.long
@pytest.mark.parametrize('room', ['apis', 'models', 'datasets', 'engine', 'evaluation', 'checks', 'visualization'])
def test_every_public_name_has_an_entry(site, room):
    module = import_module(f'beit_mm.{room}')
    names = getattr(module, '__all__', [name for name, part in vars(module).items() if inspect.isclass(part)])
    page = (site / 'generated' / f'beit_mm.{room}.html').read_text()
    missing = [name for name in names if f'id="beit_mm.{room}.{name}"' not in page]
    assert names and not missing


@pytest.mark.long
def test_pages_fit_into_a_phone_and_a_desktop(site):
    browser = shutil.which('chromium') or shutil.which('google-chrome')
    assert browser, "this test needs Chromium: install your system's package"
    pages = [file.as_uri() for file in site.rglob('*.html') if '_modules' not in file.parts]
    harness = site / 'harness.html'
    harness.write_text(HARNESS.format(pages=json.dumps(pages), widths=json.dumps(WIDTHS)))
    flags = '--headless --no-sandbox --disable-gpu --allow-file-access-from-files --virtual-time-budget=60000'
    command = [browser, *flags.split(), '--dump-dom', f'--user-data-dir={site / "profile"}', harness.as_uri()]
    body = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert len(pages) > 20
    assert 'checked []' in html.unescape(body)
