"What several tests share: the number of threads, a real browser, the built report, and small checkouts."

import base64
import json
import os
import re
import shutil

# Before torch and numpy: toy worlds are quicker on one thread, here and in the processes that are started from here
os.environ.setdefault('OMP_NUM_THREADS', '1')
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from crossmodal_nb.core.processes import seed_all
from crossmodal_nb.core.settings import settings
from crossmodal_nb.runs import kernels


@pytest.fixture(scope='session', autouse=True)
def _imports_once():
    "Kernels that are started from here are copies of a process that has imported the libraries"
    if kernels.forks():
        kernels.start_server()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    "What a test draws at random without a seed is the same in any order of the tests"
    seed_all(0)


# for `papermill.execute_notebook`
forking = dict(kernel_manager_class=kernels.ForkingManager) if kernels.forks() else {}


class Browser:
    "Chromium without a screen, and what it asked for, failed to get or complained of since a page was opened"

    def __init__(self, folder):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        for o in (
            '--headless=new',
            '--no-sandbox',
            '--disable-gpu',
            '--disable-dev-shm-usage',
            '--disable-background-networking',
            '--disable-component-update',
            '--disable-sync',
            '--no-first-run',
            '--force-device-scale-factor=1',
            '--host-resolver-rules=MAP * ~NOTFOUND',
            '--window-size=1400,900',
            f'--user-data-dir={folder}',
        ):
            options.add_argument(o)
        options.binary_location = program()
        options.add_experimental_option('perfLoggingPrefs', dict(enablePage=False))
        options.set_capability('goog:loggingPrefs', dict(performance='ALL', browser='ALL'))
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which('chromedriver')))
        self.driver.set_script_timeout(120)
        self.scheme('light')

    def open(self, path, state=''):
        "A page from its file, typeset; always a new load"
        if self.driver.current_url.split('#')[0] == path.as_uri():
            self.driver.get('about:blank')
        self.complaints()
        self.driver.get(path.as_uri() + state)
        self.driver.execute_async_script(
            'const done = arguments[0]; (window.MathJax?.startup?.promise ?? Promise.resolve()).then(() => done(), '
            'e => done());'
        )
        return self

    def complaints(self):
        "[str]: failed requests, requests that leave the disk, errors of the console"
        out = [f'{e["source"]}: {e["message"]}' for e in self.driver.get_log('browser') if e['level'] == 'SEVERE']
        for e in self.driver.get_log('performance'):
            m = json.loads(e['message'])['message']
            p = m['params']
            if m['method'] == 'Network.requestWillBeSent' and not p['request']['url'].startswith(
                ('file:', 'data:', 'blob:', 'about:')
            ):
                out.append(f'asks for {p["request"]["url"]}')
            if m['method'] == 'Network.loadingFailed':
                out.append(f'failed: {p}')
            if m['method'] == 'Network.responseReceived' and p['response']['status'] >= 400:
                out.append(f'{p["response"]["status"]}: {p["response"]["url"]}')
        return out

    def js(self, code, *given):
        return self.driver.execute_script(code, *given)

    def size(self, width, height=900):
        self.driver.execute_cdp_cmd(
            'Emulation.setDeviceMetricsOverride',
            dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 600),
        )

    def scheme(self, name):
        self.driver.execute_cdp_cmd(
            'Emulation.setEmulatedMedia',
            dict(
                features=[
                    dict(name='prefers-color-scheme', value=name),
                    dict(name='prefers-reduced-motion', value='reduce'),
                ]
            ),
        )  # no gliding: a click hits what it aims at


def program():
    return next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None)


@pytest.fixture(scope='session')
def browser(tmp_path_factory):
    if not program() or not shutil.which('chromedriver'):
        pytest.skip('no Chromium with its driver on this machine (Debian: apt-get install chromium chromium-driver)')
    pytest.importorskip('selenium', reason='selenium is not installed: pip install -e .[test]')
    b = Browser(tmp_path_factory.mktemp('browser'))
    yield b
    b.driver.quit()


@pytest.fixture(scope='session')
def real_book():
    "The folder of the built report"
    html = settings(Path(__file__).parent).book / '_build' / 'html'
    if not (html / 'index.html').exists():
        pytest.skip('the book is not built here: crossmodal book')
    return html


# Small checkouts

ok = (
    "from crossmodal_nb.runs.record import Run\nRun('10_toy', globals(), [dict(query='a', gallery='b', "
    "metric='R@1', value=level, split='valid', pool='all')]).save(out)"
)


@pytest.fixture
def house(tmp_path):
    "A small checkout of its own"
    (tmp_path / 'settings.ini').write_text('[crossmodal]\n')
    (tmp_path / 'nbs' / 'experiments').mkdir(parents=True)
    (tmp_path / 'book').mkdir()
    notebook(tmp_path, ok)
    manifest(tmp_path, '[toy]\nnotebook = "10_toy.ipynb"\nparams = {level = 0.5}\n')
    return tmp_path


def notebook(house, code, name='10_toy'):
    parameters = new_code_cell(
        "dataset = 'gaussian'\noptions = {'n': 50}\nlevel = 0.1\nfinal = False\nout = None",
        metadata=dict(tags=['parameters']),
    )
    nb = new_notebook(
        cells=[new_markdown_cell('# Toy'), parameters, new_code_cell(code)],
        metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')),
    )
    nbformat.write(nb, house / 'nbs' / 'experiments' / f'{name}.ipynb')


def manifest(house, text):
    (house / 'nbs' / 'experiments' / 'experiments.toml').write_text(text)


@pytest.fixture
def checkout(tmp_path):
    "A checkout whose one experiment divides by a parameter"
    (tmp_path / 'settings.ini').write_text('[crossmodal]\n')
    folder = tmp_path / 'nbs' / 'experiments'
    folder.mkdir(parents=True)
    cells = [
        new_markdown_cell('# Toy'),
        new_code_cell(
            "dataset = 'gaussian'\nby = 2\napi_key = ''\nfinal = False\nout = None", metadata=dict(tags=['parameters'])
        ),
        new_code_cell(
            "from crossmodal_nb.runs.record import Run\nrow = dict(query='a', gallery='b', metric='R@1', value=1 / "
            "by, low=None, high=None, sd=None, n=10, pool='all', relevance='item', split='test' if final else "
            "'valid')"
        ),
        new_code_cell("Run('10_toy', globals(), [row], selected_by='valid').save(out)"),
    ]
    nbformat.write(
        new_notebook(
            cells=cells, metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
        ),
        folder / '10_toy.ipynb',
    )
    manifest(tmp_path, '[toy]\nnotebook = "10_toy.ipynb"\nparams = {by = 4}\nfinal = true\n')
    return tmp_path


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    "A page as the book has it, with one shard of three modalities, and its views"
    import numpy as np
    import torch
    from test_explorer import hostile, root

    from crossmodal_nb.data.synthetic import make_class_views
    from crossmodal_nb.data.views import View, Views
    from crossmodal_nb.explorer import write
    from crossmodal_nb.methods.decoders import SpaceDecoders
    from crossmodal_nb.methods.linear import MCCA
    from crossmodal_nb.methods.pictures import PCADecoder
    from crossmodal_nb.methods.similarity import unit
    from crossmodal_nb.methods.translation import CodePairs
    from crossmodal_nb.report import staging
    from crossmodal_nb.search import Index

    folder = tmp_path_factory.mktemp('page')
    world = make_class_views(40, dict(image=12, text=10, audio=8), dict(image=2.0, text=2.0, audio=2.0))
    world = Views({k: View(v.x, [f'{k} {i}' for i in range(len(v))], y=v.y) for k, v in world.items()})
    index = Index(MCCA(6).fit(world), world, name='a <b> world', classes=hostile)
    codes = [unit(index.embeddings[v][next(iter(index.embeddings[v]))].float()) for v in ('image', 'text')]
    pictures = torch.tanh(torch.cat(codes) @ torch.randn(6, 192, generator=torch.Generator().manual_seed(0)))
    pairs = CodePairs(torch.cat(codes), pictures, torch.ones(80).double(), torch.arange(80))
    index.decoders = SpaceDecoders('image', 'text', size=8, linear=PCADecoder(6, 0.01).fit(pairs))
    index.kinds['text'], index.shown['text'] = 'text', [hostile[i % 5] + f' {i}' for i in range(40)]
    for f in ('explorer.js', 'book.css'):
        (folder / '_static').mkdir(exist_ok=True)
        shutil.copy(root / 'book' / '_static' / f, folder / '_static')
    output = write(index, folder / 'shards', max_rows=90)
    for name, data in staging.shards([folder / 'shards']).items():
        (folder / 'shards' / name).write_bytes(data)
    body = re.search(r'```\{raw\} html\n(.*?)```', (root / 'book' / 'explorer.md').read_text(), re.S)[1]
    (folder / 'index.html').write_text(
        f'<!doctype html><meta charset="utf-8"><title>whole</title>{body}<script src="_static/explorer.js"></script>'
    )  # twice, as a theme may
    data = json.loads(Path(output['file']).read_text()[len('crossmodal.shard(') : -3])
    return folder, [
        v | dict(codes=np.frombuffer(base64.b64decode(v['codes']), np.int8).reshape(len(v['ids']), -1))
        for v in data['views']
    ]
