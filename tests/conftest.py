"What several tests share: the number of threads, a real browser, and the report where it has been built."

import json
import os
import shutil

# Before torch and numpy: toy worlds are quicker on one thread, here and in the processes that are started from here
os.environ.setdefault('OMP_NUM_THREADS', '1')
from pathlib import Path

import pytest

from crossmodal_nb.core.settings import settings


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
        self.driver.set_script_timeout(30)
        self.scheme('light')

    def open(self, path, state=''):
        "A page from its file, typeset; always a new load"
        if self.driver.current_url.split('#')[0] == path.as_uri():
            self.driver.get('about:blank')
        self.complaints()
        self.driver.get(path.as_uri() + state)
        self.driver.execute_async_script(
            'const done = arguments[0]; (window.MathJax?.startup?.promise ?? Promise.resolve()).then(() => done(), e => done());'
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
