"""The page of a real training in headless Chromium: it asks the network for nothing, and all of it is seen."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.visualization import LocalVisBackend
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from support.data import write_all
from support.recipes import scores_of, train

from beit_mm.visualization.report import write_report

pytestmark = pytest.mark.browser
QUIET = [
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
]
WIDTHS = dict(desktop=1280, phone=390, narrow=320)


@pytest.fixture(scope='module')
def work_dir(tmp_path_factory) -> Path:
    """A tokenizer trained for twelve steps with two validations, and a picture of two steps."""
    folder = tmp_path_factory.mktemp('browser')
    write_all(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(
            'beit_tokenizer.py',
            folder / 'run',
            **{
                'train_cfg.max_iters': 12,
                'train_cfg.val_interval': 6,
                'default_hooks.checkpoint.interval': 6,
                'default_hooks.logger.interval': 1,
                'param_scheduler.0.end': 12,
            },
        )
    (logs,) = (folder / 'run').glob('*/vis_data')
    backend = LocalVisBackend(str(logs))
    for step in (1, 12):
        backend.add_image('two views of a very long name' * 3, np.full((300, 2000, 3), 20 * step, np.uint8), step)
    write_report(folder / 'run')
    return folder / 'run'


@pytest.fixture
def browser(tmp_path):
    """Chromium that notes its console and every request."""
    options = webdriver.ChromeOptions()
    options.binary_location = (
        shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    )
    for argument in [*QUIET, f'--user-data-dir={tmp_path}']:
        options.add_argument(argument)
    options.set_capability('goog:loggingPrefs', dict(browser='ALL', performance='ALL'))
    driver = webdriver.Chrome(options=options, service=Service(shutil.which('chromedriver')))
    yield driver
    driver.quit()


def load(browser, page: Path, width: int, **media) -> None:
    browser.execute_cdp_cmd(
        'Emulation.setDeviceMetricsOverride', dict(width=width, height=800, deviceScaleFactor=1, mobile=False)
    )
    browser.execute_cdp_cmd(
        'Emulation.setEmulatedMedia',
        dict(features=[dict(name=name.replace('_', '-'), value=value) for name, value in media.items()]),
    )
    browser.get(page.as_uri())


def requests(browser, page: Path) -> list:
    """What the page asked for, itself first; Chromium's own first tab asks for more."""
    events = [json.loads(entry['message'])['message'] for entry in browser.get_log('performance')]
    sent = [event['params'] for event in events if event['method'] == 'Network.requestWillBeSent']
    return [event['request']['url'] for event in sent if event['documentURL'] == page.as_uri()]


@pytest.mark.parametrize('width', WIDTHS.values(), ids=WIDTHS)
def test_a_page_shows_scores_and_pictures_without_errors_requests_or_overflow(width, work_dir, browser):
    page = work_dir / 'report.html'
    load(browser, page, width)
    asked = [url for url in requests(browser, page) if not url.startswith('data:')]
    assert asked == [page.as_uri()], 'the page itself and nothing else'
    assert browser.get_log('browser') == []

    shown = browser.execute_script('return [...document.querySelectorAll("data")].map((e) => Number(e.value))')
    scores = {name: value for name, value in scores_of(work_dir).items() if name.startswith('tokenizer/')}
    assert len(scores) == 3 and set(scores.values()) <= set(shown)
    widths = browser.execute_script('return [...document.images].map((e) => [e.naturalWidth, e.width])')
    assert len(widths) >= 2 and all(natural > 0 and 0 < drawn <= width for natural, drawn in widths)
    content, window = browser.execute_script(
        'return [document.documentElement.scrollWidth, document.documentElement.clientWidth]'
    )
    assert content <= window, 'no scrolling sideways'
    cut = browser.execute_script("""
        return [...document.querySelectorAll('svg')].flatMap((svg) => {
          const outer = svg.getBoundingClientRect();
          return [...svg.querySelectorAll('text')].filter((text) => {
            const box = text.getBoundingClientRect();
            return box.left < outer.left - 1 || box.right > outer.right + 1 || box.bottom > outer.bottom + 1;
          }).map((text) => text.textContent);
        });""")
    assert cut == [], 'labels of axes that are cut off'


def test_the_pointer_reads_logged_values(work_dir, browser):
    load(browser, work_dir / 'report.html', 1280)
    read = browser.execute_script("""
        const chart = [...document.querySelectorAll('.chart')].find((e) => e.textContent.includes('Loss'));
        const svg = chart.querySelector('svg'), box = svg.getBoundingClientRect(), seen = [];
        const scale = box.width / svg.viewBox.baseVal.width;
        const left = box.left + svg.dataset.left * scale, right = box.left + svg.dataset.right * scale;
        for (let step = 1; step <= 12; step++) {
          const x = left + (right - left) * (step - 1) / 11;
          svg.dispatchEvent(new PointerEvent('pointermove', {clientX: x, clientY: box.top + 9}));
          seen.push([chart.querySelector('.at').textContent, Number(chart.querySelector('.legend b').textContent)]);
        }
        svg.dispatchEvent(new PointerEvent('pointerleave'));
        return [seen, chart.querySelector('.at').textContent];""")
    lines = [json.loads(line) for path in work_dir.glob('*/vis_data/scalars.json') for line in open(path)]
    expected = [[f'at iteration {line["step"]}', float(f'{line["loss"]:.6g}')] for line in lines if 'loss' in line]
    assert read == [expected, ''] and len(expected) == 12


def test_both_themes_have_contrast(work_dir, browser):
    """At least 4.5 to 1 between text and its ground, as WCAG 2.1, 1.4.3 asks for."""

    def luminance(colour: str) -> float:
        values = [int(part) / 255 for part in colour[colour.index('(') + 1 : -1].split(',')[:3]]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    grounds = set()
    for theme in ('light', 'dark'):
        load(browser, work_dir / 'report.html', 1280, prefers_color_scheme=theme)
        ground = luminance(browser.execute_script('return getComputedStyle(document.body).backgroundColor'))
        grounds.add(round(ground, 2))
        colours = browser.execute_script("""
            return [...document.querySelectorAll('h1, .what, .note, .legend b, td, .state strong, .line')]
              .map((e) => getComputedStyle(e).color);""")
        for text in map(luminance, colours):
            assert (max(text, ground) + 0.05) / (min(text, ground) + 0.05) >= 4.5
    assert len(grounds) == 2


def test_the_page_reads_without_scripts(work_dir, browser):
    browser.execute_cdp_cmd('Emulation.setScriptExecutionDisabled', dict(value=True))
    load(browser, work_dir / 'report.html', 1280)
    text = browser.find_element('tag name', 'body').text
    assert 'Loss' in text and 'tokenizer/psnr' in text and 'finished' in text
