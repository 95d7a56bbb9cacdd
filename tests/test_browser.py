"""The built book in a real browser: pages load nothing from elsewhere and complain of nothing, formulas are set, the
explorer finds what Python finds, by mouse and by keyboard, wide, narrow and dark.
"""

import base64
import itertools
import json
import re
import shutil

import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

pytest.importorskip('selenium', reason='selenium is not installed: pip install -e .[test]')
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait
from test_board import N, labelled, made, ranked
from test_book import book_pages
from test_explorer import hostile, root

from crossmodal_nb import explorer
from crossmodal_nb.data.sounds import Sounds
from crossmodal_nb.data.synthetic import make_class_views
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.methods.linear import MCCA
from crossmodal_nb.report import leaderboard_tables, staging
from crossmodal_nb.search import Index

pytestmark = pytest.mark.browser

# ------------------------------------------------------------------ every page

leftover = r'''
const text = document.querySelector('article').cloneNode(true);
for (const e of text.querySelectorAll('pre, code, script, style, mjx-container, .cm-text, .cm-item')) e.remove();
const count = s => document.querySelectorAll(s).length;
return [count('article .math'), count('mjx-container'), count('mjx-merror, [data-mjx-error]'),
        text.textContent.match(/\\[(\[][^\n]{0,60}|\$[^$\n]*[\\^_][^$\n]*\$/g) || [],
        document.documentElement.scrollWidth];'''


def test_no_page_asks_for_what_is_not_there_every_formula_is_set_and_all_fit_a_phone(browser, real_book):
    wrong, formulas = {}, 0
    browser.size(390)
    for f in book_pages(real_book):
        if f.name == 'search.html':
            continue
        said = browser.open(f).complaints()
        math, done, errors, left, width = browser.js(leftover)
        formulas += math
        if said or errors or left or done < math or width > 391:
            wrong[str(f.relative_to(real_book))] = dict(
                said=said, math=math, set=done, errors=errors, left=left, width=width
            )
    browser.size(1400)
    assert not wrong and formulas > 100


def test_the_search_page_finds_without_a_server(browser, real_book):
    browser.open(real_book / 'search.html', '?q=hubness')
    WebDriverWait(browser.driver, 120).until(lambda d: 'finished' in d.find_element('id', 'search-results').text)
    assert (
        browser.js('return document.querySelectorAll("#search-results li a").length') > 2 and not browser.complaints()
    )


contrast = r'''
const rgb = c => c.match(/[\d.]+/g).map(Number);
const linear = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const light = c => { const [r, g, b] = c.slice(0, 3).map(linear); return .2126 * r + .7152 * g + .0722 * b; };
const under = e => {
  for (; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > .99) return c;
  }
  return [255, 255, 255];
};
const visible = e => e.textContent.trim() && e.getClientRects().length;
return [...document.querySelectorAll(arguments[0])].slice(0, 400).filter(visible).map(e => {
  const a = light(rgb(getComputedStyle(e).color)), b = light(under(e));
  const name = e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 40);
  return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), name];
});'''


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_pages_fit_a_screen_and_a_phone_and_can_be_read_in_the_dark(browser, real_book, scheme):
    browser.scheme(scheme)
    try:
        for name in ('index', 'explorer', 'results/board', 'results/cca_emoji', 'data', 'how/report-plots'):
            for width in (1400, 390):
                browser.size(width)
                browser.open(real_book / f'{name}.html')
                overflow = browser.js('return [document.documentElement.scrollWidth, innerWidth]')
                assert overflow[0] <= width + 1 and overflow[1] == width, (name, width, overflow)
            visited = browser.js(
                contrast,
                'article p, article li, article td, article th, article label, article select, article button, '
                'article small, article h1, article h2, .cm-adds',
            )
            assert len(visited) > 5 and not (pale := [c for c in visited if c[0] < 4.5]), (name, scheme, pale[:5])
            assert browser.js('return document.documentElement.dataset.theme') == scheme
    finally:
        browser.size(1400)
        browser.scheme('light')


# ------------------------------------------------------------------ the board


@pytest.fixture(scope='module')
def board_page(tmp_path_factory):
    "A page with a summary and all lines of three data sets, as the book has it, and its lines"
    folder, g = tmp_path_factory.mktemp('board'), np.random.default_rng(0)
    ranks = {m: g.integers(1, 1 + top, N) for m, top in dict(CCA=40, low=400, high=6, other=15).items()}
    records = [made(f'e {d}', ranks, dataset=d) for d in ('alpha', hostile[0])]
    by_class = {m: g.random(N) * x for m, x in (('CCA', 0.5), ('DSCMR', 1))}
    found = ranked(*records, *(labelled('by class', by_class, seed=s, dataset='gamma') for s in range(2)))
    text = leaderboard_tables.line_table(found, max_plain=1)
    by_item = {k: v for k, v in found.items() if k[2] == 'item'}
    outputs = [
        new_output('display_data', {'text/html': str(x)}) for x in (leaderboard_tables.summary(by_item, 'S'), text)
    ]
    nb = new_notebook(cells=[new_code_cell('', outputs=outputs)])
    files = staging._page_files('results/board', nb) | {'_extra/sortable.js': book_file('_extra/sortable.js')}
    files |= {'_static/book.css': book_file('_static/book.css')}
    for name, content in files.items():
        file = folder / name.removeprefix('_extra/')
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (folder / 'results' / 'board.html').write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<title>board</title><link rel="icon" href="data:,">'
        '<link rel="stylesheet" href="../_static/book.css"><h1 id="top">Board</h1>'
        + ''.join(o['data']['text/html'] for o in nb.cells[0].outputs)
    )
    return folder / 'results' / 'board.html', leaderboard_tables.table_lines(text)


def book_file(name):
    return (root / 'book' / name).read_bytes()


def column(browser, name):
    "What a column shows, from above to below"
    return browser.js(
        'const t = document.querySelector("table.cm-sortable");'
        'const i = [...t.tHead.rows[0].cells].findIndex(h => h.textContent.trim() === arguments[0]);'
        'const rows = [...t.tBodies[0].rows].filter(r => !r.classList.contains("cm-opened"));'
        'return rows.map(r => r.cells[i].textContent)',
        name,
    )


def test_lines_are_filtered_and_the_address_keeps_the_choice(browser, board_page):
    file, lines = board_page
    browser.size(1400)
    browser.open(file)
    d = browser.driver
    assert len(column(browser, 'method')) == len(lines) == 10
    choose = {s.find_element('xpath', '..').text.split('\n')[0]: s for s in d.find_elements('css selector', 'select')}
    Select(choose['data set']).select_by_visible_text(hostile[0])
    assert column(browser, 'data set') == [hostile[0]] * 4 and 'data+set=' in d.current_url
    assert [o.text for o in Select(choose['by']).options] == ['all', 'item']  # only what is possible
    d.find_element('css selector', 'input[type=search]').send_keys('other')
    assert column(browser, 'method') == ['other']
    browser.open(file, '#' + d.current_url.partition('#')[2])
    assert column(browser, 'method') == ['other'] and column(browser, 'data set') == [hostile[0]]
    (ranking,) = {x['ranking'] for x in lines if x['data set'] == 'gamma'}
    browser.js('location.hash = arguments[0]', f'ranking_{ranking}')
    WebDriverWait(d, 20).until(lambda _: column(browser, 'data set') == ['gamma'] * 2)
    assert 'One ranking: 200 queries' in d.find_element('css selector', '.cm-note').text
    browser.open(file, '#top')
    assert len(column(browser, 'method')) == 10 and d.current_url.endswith('#top')
    assert not browser.complaints()


def test_lines_are_sorted_as_numbers_by_keyboard(browser, board_page):
    file, lines = board_page
    browser.open(file, '#data+set=alpha')
    d = browser.driver

    def score(head='score'):
        return [float(re.match(r'[\d.]+', x)[0]) for x in column(browser, head)]

    (head,) = [h for h in d.find_elements('css selector', 'table.cm-sortable th') if h.text.startswith('score')]
    button = head.find_element('css selector', '[role=button][tabindex]')
    assert head.get_attribute('scope') == 'col' and not head.get_attribute('aria-sort')
    for order in ('descending', 'ascending'):
        button.send_keys(Keys.ENTER)
        WebDriverWait(d, 20).until(lambda _, order=order: head.get_attribute('aria-sort') == order)
        assert score() == sorted(score(), reverse=order == 'descending') and len(set(map(len, map(str, score())))) > 1
    assert 'sort=score%3Aasc' in d.current_url or 'sort=score:asc' in d.current_url
    low = next(x for x in lines if x['data set'] == 'alpha' and x['method'] == 'low')
    assert column(browser, 'method')[0] == 'low' and score()[0] == float(low['score'].split('¹')[0])
    browser.open(file, '#sort=minus+the+best:asc')
    assert not column(browser, 'minus the best')[-1].startswith('−')  # what is no number stands last
    browser.open(file, '#metric=R@1+(%25)&sort=score:desc')
    recall = score('R@1 (%)')
    assert column(browser, 'by') == ['item'] * 8 and recall == sorted(recall, reverse=True) and 5 < recall[0] < 100


def test_a_line_opens_for_its_details_and_names_are_text(browser, board_page):
    file, lines = board_page
    browser.open(file, '#data+set=gamma')
    button = browser.driver.find_element('css selector', 'th[scope=row] button.cm-more')
    assert button.get_attribute('aria-expanded') == 'false'
    button.send_keys(Keys.ENTER)
    facts = browser.driver.find_element('css selector', '.cm-opened dl').text
    assert button.get_attribute('aria-expanded') == 'true' and '200 queries' in facts and '2 seeds' in facts
    button.send_keys(Keys.ENTER)
    assert not browser.driver.find_elements('css selector', '.cm-opened')
    browser.open(file)
    made_of_names = '.cm-lines :is(td, th) :is(b, img, script)'
    assert not browser.driver.find_elements('css selector', made_of_names) and browser.driver.title == 'board'
    browser.size(390)
    browser.open(file)
    assert browser.js('return document.documentElement.scrollWidth') <= 391
    browser.size(1400)
    assert not browser.complaints()


def test_without_a_script_the_board_still_says_what_was_found(browser, board_page):
    file, _ = board_page
    browser.driver.execute_cdp_cmd('Emulation.setScriptExecutionDisabled', dict(value=True))
    try:
        browser.driver.get('about:blank')
        browser.driver.get(file.as_uri())
        text = browser.driver.find_element('css selector', '.cm-matrix').text
        assert 'alpha' in text and 'high' in text
        rows = browser.driver.find_elements('css selector', 'table.cm-sortable tbody tr')
        assert [r.get_attribute('id').startswith('ranking_') for r in rows] == [True] * 3
        plain = browser.driver.find_element('css selector', '.cm-plain').text
        assert plain == 'Shown is the best line of each of 3 rankings.'
    finally:
        browser.driver.execute_cdp_cmd('Emulation.setScriptExecutionDisabled', dict(value=False))


# ------------------------------------------------------------------ the explorer


class Explorer:
    "The explorer's page as a reader handles it, and the same space in Python"

    def __init__(self, browser, file, folder, state=''):
        self.b, self.d, self.folder = browser, browser.driver, folder
        browser.size(1400)
        browser.open(file, state)
        self.wait()

    def wait(self, name=None):
        WebDriverWait(self.d, 120).until(
            lambda d: d.execute_script(
                'const r = document.getElementById("cm-explorer").dataset.ready; return r && (!arguments[0] || r '
                '=== arguments[0])',
                name,
            )
        )
        return self

    def one(self, css):
        return self.d.find_element('css selector', css)

    def all(self, css):
        return self.d.find_elements('css selector', css)

    def press(self, *keys):
        ActionChains(self.d).send_keys(*keys).perform()

    def mode(self, name):
        self.one(f'input[name=cm-mode][value={name}]').click()

    def found(self):
        return self.b.js(
            'return [...document.querySelectorAll(".cm-x-found section")].map(s => '
            '[...s.querySelectorAll("[data-row]")].map(b => [+b.dataset.row, +b.dataset.score]))'
        )

    def said(self):
        return self.one('.cm-x-said').get_property('textContent')

    def focused(self):
        return self.b.js('return document.activeElement.id || document.activeElement.tagName')

    @property
    def views(self):
        self.shard = read(self.folder / self.one('#cm-explorer').get_attribute('data-ready'))
        return self.shard['views']

    def agrees(self, terms):
        "Equal rows and equal floats, in every modality"
        v = self.views
        assert self.found() == [[list(n) for n in explorer.neighbours(v, terms, b)] for b in range(len(v))], terms

    def canvas(self):
        self.b.js('document.querySelector("#cm-explorer canvas").scrollIntoView({block: "center"})')
        return self.b.js(
            'const c = document.querySelector("#cm-explorer canvas"), r = c.getBoundingClientRect(); return [r.left '
            '+ c.clientLeft, r.top + c.clientTop, c.clientWidth, c.clientHeight]'
        )

    def mouse(self, kind, x, y, **more):
        left, top, *_ = self.canvas()
        self.d.execute_cdp_cmd('Input.dispatchMouseEvent', dict(type=kind, x=left + x, y=top + y, **more))

    def click(self, x, y):
        for kind in ('mousePressed', 'mouseReleased'):
            self.mouse(kind, x, y, button='left', clickCount=1)


def read(file):
    s = json.loads(file.read_text()[len('crossmodal.shard(') : -3])
    for v in s['views']:
        v['codes'] = np.frombuffer(base64.b64decode(v['codes']), np.int8).reshape(len(v['ids']), -1)
    return s


def places(v, at, w, h):
    "Where the rows of a view are drawn: `at` is (zoom, x, y)"
    k, x, y = at
    return np.stack(
        [
            (np.array(v['x']) / 1000 - 0.5 + x) * k * w * 0.92 + w / 2,
            (np.array(v['y']) / 1000 - 0.5 + y) * k * h * 0.92 + h / 2,
        ],
        1,
    )


def nearest_on_the_map(views, x, y, at, w, h):
    "(view, row) drawn nearest to a place, the first of equal ones"
    return min(
        (float(np.hypot(*(p - (x, y)))), a, i) for a, v in enumerate(views) for i, p in enumerate(places(v, at, w, h))
    )[1:]


def spoken(v, i):
    "What a screen reader is told of a row"
    return f'{v["name"]} ' + (
        v['alt'][i] if 'alt' in v else v['ids'][i] if v['shown'][i].startswith('data:') else v['shown'][i][:60]
    )


@pytest.fixture
def real(browser, real_book):
    return Explorer(browser, real_book / 'explorer.html', real_book / 'shards')


def test_every_shard_of_the_book_gives_pythons_neighbours(real, real_book):
    shards = sorted(f for f in (real_book / 'shards').glob('*.js') if f.name != 'list.js')
    assert shards
    for f in shards:
        name = read(f)['name'].split(', ', 1)
        Select(real.one('#cm-x-data')).select_by_visible_text(name[0])
        Select(real.one('#cm-x-method')).select_by_visible_text(name[1] if name[1:] else 'as saved')
        real.wait(f.name)
        for a in range(len(real.views)):
            Select(real.one('#cm-x-view')).select_by_value(str(a))
            real.all('.cm-x-list button')[3].click()
            real.agrees([(1, a, 3)])
    assert not real.b.complaints()


def test_another_method_is_asked_the_same(real):
    Select(real.one('#cm-x-data')).select_by_visible_text('emoji')
    methods = [o.text for o in Select(real.one('#cm-x-method')).options]
    Select(real.one('#cm-x-method')).select_by_visible_text('CCA')
    real.wait('emoji-cca.js')
    real.all('.cm-x-list button')[20].click()
    name = real.views[0]['ids'][20]
    assert 'CLIP' in methods
    Select(real.one('#cm-x-method')).select_by_visible_text('CLIP')
    real.wait('emoji-clip.js')
    real.agrees([(1, 0, real.views[0]['ids'].index(name))])


def test_items_are_added_and_taken_away_by_clicks_and_stay_after_a_reload(real):
    real.all('.cm-x-list button')[0].click()
    real.agrees([(1, 0, 0)])
    real.mode('plus')
    real.all('.cm-x-list button')[7].click()
    real.agrees([(1, 0, 0), (1, 0, 7)])
    row = real.found()[1][2][0]
    real.mode('minus')
    real.all('.cm-x-found section')[1].find_elements('css selector', 'button')[2].click()
    real.agrees([(1, 0, 0), (1, 0, 7), (-1, 1, row)])
    assert (
        len(real.all('.cm-x-chip')) == 3 and real.all('.cm-x-chip')[2].text.startswith('−') and 'minus ' in real.said()
    )
    old = real.found()
    real.d.refresh()
    real.wait()
    assert real.found() == old
    real.all('.cm-x-chip')[1].click()
    real.agrees([(1, 0, 0), (-1, 1, row)])
    assert not real.b.complaints()


def test_partners_are_marked_and_the_nearest_are_said(real):
    marked = 0
    for i in range(6):
        real.all('.cm-x-list button')[i].click()
        v, found = real.views, real.found()
        mine = [[r for r, _ in part if v[b]['item'][r] == v[0]['item'][i]] for b, part in enumerate(found)]
        shown = [
            [int(e.get_attribute('data-row')) for e in s.find_elements('css selector', '.cm-x-own')]
            for s in real.all('.cm-x-found section')
        ]
        assert shown == mine and all('✓' in e.text for e in real.all('.cm-x-own'))
        marked += sum(map(len, mine))
        assert real.said() == f'{spoken(v[0], i)}. Nearest: ' + '; '.join(
            spoken(v[b], part[0][0]) for b, part in enumerate(found)
        )
    assert marked and real.one('.cm-x-said').get_attribute('aria-live') == 'polite'


def test_the_map_is_clicked_zoomed_and_moved(real):
    v, (_, _, w, h) = real.views, real.canvas()
    full, rng = (1, 0, 0), np.random.default_rng(0)
    for a in range(len(v)):
        x, y = places(v[a], full, w, h)[int(rng.integers(len(v[a]['ids'])))].round().tolist()
        hit = nearest_on_the_map(v, x, y, full, w, h)
        real.click(x, y)
        real.agrees([(1, *hit)])
    plain = real.b.js('return document.querySelector("canvas").toDataURL()')
    at, (x, y) = full, places(v[0], full, w, h)[5].round().tolist()
    for _ in range(6):  # the wheel: what is under the pointer stays there
        real.mouse('mouseWheel', x, y, deltaX=0, deltaY=-100)
        k = at[0] * 1.25
        move = 1 / k - 1 / at[0]
        at = k, at[1] + (x / w - 0.5) * move / 0.92, at[2] + (y / h - 0.5) * move / 0.92
    WebDriverWait(real.d, 120).until(
        lambda d: real.b.js('return document.querySelector("canvas").toDataURL()') != plain
    )
    hit = nearest_on_the_map(v, x, y, at, w, h)
    real.click(x, y)
    real.agrees([(1, *hit)])
    real.mouse('mousePressed', x, y, button='left', clickCount=1)
    real.mouse('mouseMoved', x + 60, y, button='left', buttons=1)
    real.mouse('mouseReleased', x + 60, y, button='left', clickCount=1)
    at = at[0], at[1] + 60 / w / at[0] / 0.92, at[2]  # dragged, and no item was asked
    real.agrees([(1, *hit)])
    hit = nearest_on_the_map(v, x + 10, y + 10, at, w, h)
    if np.hypot(*(places(v[hit[0]], at, w, h)[hit[1]] - (x + 10, y + 10))) < 15:
        real.click(x + 10, y + 10)
        real.agrees([(1, *hit)])
    real.one('button[aria-label="show the whole map"]').click()
    x, y = places(v[1], full, w, h)[2].round().tolist()
    hit = nearest_on_the_map(v, x, y, full, w, h)
    real.click(x, y)
    real.agrees([(1, *hit)])


def test_a_finger_on_a_phone(real):
    real.b.size(390)
    real.d.execute_cdp_cmd('Emulation.setTouchEmulationEnabled', dict(enabled=True))
    try:
        (left, top, w, h), v = real.canvas(), real.views
        x, y = places(v[1], (1, 0, 0), w, h)[7].round().tolist()
        real.d.execute_cdp_cmd(
            'Input.dispatchTouchEvent', dict(type='touchStart', touchPoints=[dict(x=left + x, y=top + y)])
        )
        real.d.execute_cdp_cmd('Input.dispatchTouchEvent', dict(type='touchEnd', touchPoints=[]))
        WebDriverWait(real.d, 120).until(lambda d: real.all('.cm-x-chip'))
        real.agrees([(1, *nearest_on_the_map(v, x, y, (1, 0, 0), w, h))])
        assert (
            real.b.js('return getComputedStyle(document.querySelector("canvas")).touchAction') == 'pan-y'
        )  # the whole map does not catch the page's scrolling
        real.one('button[aria-label="zoom +"]').click()
        assert real.b.js('return getComputedStyle(document.querySelector("canvas")).touchAction') == 'none'
    finally:
        real.d.execute_cdp_cmd('Emulation.setTouchEmulationEnabled', dict(enabled=False))
        real.b.size(1400)


def test_the_map_is_coloured_by_modality_or_class(real):
    def picture():
        return real.b.js('return document.querySelector("canvas").toDataURL()')

    Select(real.one('#cm-x-colour')).select_by_value('view')
    old, names = picture(), real.one('.cm-x-legend').text
    assert all(v['name'] in names for v in real.views)
    if not real.shard['classes']:
        pytest.skip('the first shard has no classes')
    Select(real.one('#cm-x-colour')).select_by_value('class')
    assert picture() != old and all(c in real.one('.cm-x-legend').text for c in real.shard['classes'][:10])


def test_the_whole_path_by_keyboard(real, real_book):
    real.press(Keys.TAB)
    assert 'skip' in real.b.js('return document.activeElement.textContent').lower()
    real.press(Keys.ENTER)

    def tab_to(test, most=60):
        for _ in range(most):
            real.press(Keys.TAB)
            if real.b.js(f'const e = document.activeElement; return !!({test})'):
                return
        raise AssertionError(f'{most} tabs did not lead to {test}; the keyboard is at {real.focused()}')

    tab_to('e.id === "cm-x-data"')
    names = [o.text for o in Select(real.one('#cm-x-data')).options]
    if len(names) > 1:
        old = real.one('#cm-explorer').get_attribute('data-ready')
        real.press(Keys.ARROW_DOWN)
        WebDriverWait(real.d, 120).until(lambda d: real.one('#cm-explorer').get_attribute('data-ready') != old)
        assert real.views and real.shard['name'].split(', ')[0] == names[1]
    tab_to('e.tagName === "CANVAS"')
    (_, _, w, h), at = real.canvas(), (1, 0, 0)
    real.press('+', Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_UP)
    at = 1.5, 0.1 / 1.5, 0.2 / 1.5
    hit = nearest_on_the_map(real.views, w / 2, h / 2, at, w, h)
    assert real.said() == f'in the middle: {spoken(real.views[hit[0]], hit[1])}'
    real.press(Keys.ENTER)
    real.agrees([(1, *hit)])
    assert real.focused() == 'CANVAS'
    tab_to('e.dataset.row')
    b = real.b.js(
        'const s = document.activeElement.closest("section"); return [...s.parentElement.children].indexOf(s)'
    )
    row = real.found()[b][0][0]
    real.press(Keys.ENTER)
    real.agrees([(1, b, row)])
    assert real.b.js('return !!document.activeElement.dataset.row'), 'the keyboard lost its place'
    tab_to('e.id === "cm-x-view"')
    real.press(Keys.ARROW_DOWN)
    tab_to('e.id === "cm-x-filter"', 1)
    real.press(real.views[1]['ids'][4])
    tab_to('e.tagName === "BUTTON" && e.closest(".cm-x-list")', 2)
    real.press(Keys.SPACE)
    v = real.views
    wanted = v[1]['ids'][4].lower()
    real.agrees(
        [
            (
                1,
                1,
                next(
                    i
                    for i in range(len(v[1]['ids']))
                    if wanted in v[1]['ids'][i].lower() or wanted in spoken(v[1], i).lower()
                ),
            )
        ]
    )
    real.b.js('document.querySelector("input[name=cm-mode]").focus()')
    real.press(Keys.ARROW_RIGHT)
    assert real.b.js('return document.querySelector("input[name=cm-mode]:checked").value') == 'plus'
    tab_to('e.className === "cm-x-chip"')
    real.press(Keys.ENTER)
    assert (
        not real.all('.cm-x-chip') and 'Choose a point' in real.one('.cm-x-found').text and real.focused() == 'CANVAS'
    )


# ------------------------------------------------------------------ hostile words, sounds


def test_what_lies_between_points_is_drawn(browser, page):
    "By a click, by the key D, and as Python draws it"
    from test_explorer import decoder_of

    folder, views = page
    x = Explorer(browser, folder / 'index.html', folder / 'shards', '#shard=a-b-world.js')
    decoder = decoder_of(folder)
    for place in ((500, 500), (31.5, 900), (700, 10)):
        code, near = explorer.code_between(views, *place)
        theirs = browser.js(
            'const s = crossmodal.known["a-b-world.js"], b = crossmodal.between(s, ...arguments[0]); '
            'return [Array.from(b.code), b.rows, Array.from(crossmodal.pixels(s, b.code))]',
            place,
        )
        assert np.allclose(theirs[0], code, atol=1e-9) and [tuple(r) for r in theirs[1]] == near
        assert abs(np.array(theirs[2]) - explorer.drawn(decoder, code)).max() < 1e-4
    _, _, w, h = x.canvas()
    full, far = (1, 0, 0), []
    for px, py in itertools.product(range(20, int(w), 15), range(20, int(h), 15)):
        far.append((min(float(np.hypot(*(places(v, full, w, h) - (px, py)).T).min()) for v in views), px, py))
    _, px, py = max(far)
    assert not x.all('.cm-x-drawn img')
    x.click(px, py)
    assert x.one('.cm-x-drawn img').is_displayed() and x.said().startswith('Drawn between ')
    words = x.one('.cm-x-drawn figcaption').get_property('textContent')
    assert words.startswith(x.said()) and 'spot=' in x.d.current_url
    drawn = x.one('.cm-x-drawn img').get_attribute('src')
    x.d.refresh()
    x.wait()
    assert x.one('.cm-x-drawn img').is_displayed()
    x.all('.cm-x-list button')[0].click()
    assert not x.all('.cm-x-drawn img')
    browser.js('document.querySelector("#cm-explorer canvas").focus()')
    x.press('d')
    assert x.one('.cm-x-drawn img').get_attribute('src') != drawn and x.said().startswith('Drawn between ')
    assert not browser.complaints()


def test_hostile_words_are_shown_as_words(browser, page):
    folder, views = page
    x = Explorer(browser, folder / 'index.html', folder / 'shards')
    x.one('.cm-x-chip').click()  # the example
    Select(x.one('#cm-x-view')).select_by_value('1')
    x.mode('plus')
    for h in hostile:
        i = next(i for i, s in enumerate(views[1]['shown']) if s.startswith(h))
        x.all('.cm-x-list button')[i].click()
    shown = browser.js(
        'return [...document.querySelectorAll(".cm-x-chip span[dir=auto]")].map(e => [e.textContent, '
        'e.children.length, getComputedStyle(e).direction])'
    )
    assert [s[0].startswith(h) for s, h in zip(shown, hostile)] == [True] * 5 and not any(s[1] for s in shown)
    assert shown[2][2] == 'rtl' and shown[0][2] == 'ltr'
    Select(x.one('#cm-x-colour')).select_by_value('class')
    assert hostile[0] in x.one('.cm-x-legend').text
    assert browser.js(
        'return [document.title, document.querySelectorAll("#cm-explorer :is(script, b img, [onerror])").length]'
    ) == ['whole', 0]
    with pytest.raises(NoAlertPresentException):
        _ = browser.driver.switch_to.alert
    assert not browser.complaints()


def test_sounds_can_be_played(browser, tmp_path):
    import soundfile

    world = make_class_views(20, dict(text=10, sound=8), dict(text=2.0, sound=2.0))
    world = Views({k: View(v.x, [f'{k} {i}' for i in range(len(v))]) for k, v in world.items()})
    files = []
    for i in range(20):
        files.append(f'{tmp_path}/private/tone{i}.wav')
        (tmp_path / 'private').mkdir(exist_ok=True)
        soundfile.write(files[-1], 0.2 * np.sin(2 * np.pi * (220 + 20 * i) * np.arange(3 * 16000) / 16000), 16000)
    raw = Views(sound=View(Sounds(files)))
    index = Index(MCCA(4).fit(world), world, raw=raw, name='tones')
    index.kinds['text'] = 'text'
    explorer.write(index, tmp_path / 'shards', seconds=1.0)
    for name, data in staging.shards([tmp_path / 'shards']).items():
        (tmp_path / 'shards' / name).write_bytes(data)
    shutil.copytree(root / 'book' / '_static', tmp_path / '_static')
    body = re.search(r'```\{raw\} html\n(.*?)```', (root / 'book' / 'explorer.md').read_text(), re.S)[1]
    (tmp_path / 'index.html').write_text(
        f'<!doctype html><meta charset="utf-8"><title>tones</title><link rel="icon" href="data:,">{body}'
    )
    x = Explorer(browser, tmp_path / 'index.html', tmp_path / 'shards', '#shard=tones.js&terms=%2Btext:2')
    assert (
        'private' not in (tmp_path / 'shards' / 'tones.js').read_text()
        and len(x.all('.cm-x-found section:nth-child(2) audio[controls]')) == 8
        and not x.all('button audio')
    )
    browser.js('const a = document.querySelector("audio"); a.muted = true; a.focus()')
    x.press(Keys.SPACE)  # as a reader without a mouse does
    WebDriverWait(browser.driver, 120).until(
        lambda d: d.execute_script('return document.querySelector("audio").currentTime > .1')
    )
    assert (
        abs(browser.js('return document.querySelector("audio").duration') - 1) < 0.05
        and browser.js('return document.querySelector("audio").error') is None
    )
    assert not browser.complaints()


def test_which_method_for_my_data_is_answered_on_the_first_page(browser, real_book):
    browser.open(real_book / 'index.html')
    rows = browser.js(
        'return [...document.querySelectorAll(".cm-decide tbody tr")].map(r => [...r.cells].map(c => c.textContent))'
    )
    assert len(rows) >= 5 and any(method.startswith('CCA') for _, method, *_ in rows)
    assert all(
        ('default, not a finding' in method) == ('undecided' in why) for _, method, why, _ in rows
    )  # nothing is sold as more than it is
    assert any(re.search(r'\[-?\d', report) for *_, report in rows)
    for at in browser.js('return [...document.querySelectorAll(".cm-decide a")].map(a => a.href)'):
        assert real_book.joinpath('results', at.rsplit('/', 1)[1]).exists(), at
