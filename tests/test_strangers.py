"""Files of somebody else: a saved index shows nothing private and downloads nothing, names stay in their folders, and
data that is full of markup, formulas and control characters is text everywhere.
"""

import csv
import html
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_own import crossmodal, prepare

from crossmodal_nb import explorer
from crossmodal_nb.core import fetch
from crossmodal_nb.core.checks import InputError, MissingError, printable, spreadsheet_cell
from crossmodal_nb.core.files import load_tensors, save_tensors
from crossmodal_nb.data.images import Images, open_image
from crossmodal_nb.data.roles import column_roles
from crossmodal_nb.data.synthetic import make_gaussian_views
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.datasets import own
from crossmodal_nb.encoders.description import build_encoder, describe_encoder
from crossmodal_nb.encoders.image import EfficientNetLite
from crossmodal_nb.encoders.text import TfIdf
from crossmodal_nb.methods.linear import CCA
from crossmodal_nb.report import page_data, tables
from crossmodal_nb.report.contents import data_page
from crossmodal_nb.runs import runner
from crossmodal_nb.search import Index

red, green = (200, 0, 0), (0, 200, 0)


# ---------------------------------------------------------------- a saved index
@pytest.fixture(scope='module')
def shared(tmp_path_factory):
    "An index of twelve pictures, its data set, and a private picture beside it"
    place = tmp_path_factory.mktemp('shared')
    folder = place / 'photos'
    folder.mkdir()
    for i in range(12):
        Image.new('RGB', (8, 8), (0, 20 * i, 200)).save(folder / f'{i:02}.png')
    Image.new('RGB', (8, 8), red).save(place / 'private.png')
    views = make_gaussian_views(12, seed=0)
    a, b = views.values()
    codes = Views(picture=View(a.x, [f'{i}' for i in range(12)]), text=View(b.x, [f'{i}' for i in range(12)]))
    raw = Views(picture=View(Images(sorted(folder.iterdir())), codes['picture'].ids))
    Index(CCA(dim=2).fit(codes), codes, raw=raw, name='shared', dataset='elsewhere').save(place / 'index')
    return place


@pytest.fixture
def copied(shared, tmp_path):
    shutil.copytree(shared, tmp_path / 'a', symlinks=True)
    return tmp_path / 'a'


def changed(folder, change):
    "Another index, as somebody else might write it: with all its digests right"
    tensors, info = load_tensors(folder / 'index.json')
    change(info)
    save_tensors(folder / 'index.json', tensors, info)


def pictures(index):
    "How many pictures a shard has"
    return explorer.shard(index)[0].count('data:image')


def test_an_index_names_files_below_the_folder_of_its_data(shared, capsys):
    text = (shared / 'index' / 'index.json').read_text()
    assert str(shared) not in text and '"03.png"' in text
    index = Index.load(shared / 'index', root=shared / 'photos')
    assert index.file('picture', 3) == (shared / 'photos' / '03.png').resolve() and pictures(index) == 12
    found = index.search(torch.zeros(len(make_gaussian_views(2)['b'].x[0])), view='text', k=3)
    assert str(index.show('x', found)).count('data:image') == 3


def test_without_its_data_an_index_still_answers_and_says_what_is_missing(copied):
    (copied / 'photos').rename(copied / 'moved')
    index = Index.load(copied / 'index')
    assert len(index.search(torch.zeros(6), view='text', k=3)) == 3
    assert re.search(r'3 of 3 files are not shown.*elsewhere.*--root DIR', index.missing_files('picture', [0, 1, 2]))
    with pytest.warns(UserWarning, match='12 of 12 files'):
        assert pictures(index) == 0
    assert pictures(Index.load(copied / 'index', root=copied / 'moved')) == 12


def test_the_data_set_of_this_name_is_asked_where_its_files_are(copied, monkeypatch):
    (copied / 'settings.ini').write_text('[crossmodal]\n')
    (copied / 'work').mkdir()
    (copied / 'work' / 'data.toml').write_text(f'[elsewhere]\npath = "{copied / "photos"}"\n')
    monkeypatch.chdir(copied)
    assert pictures(Index.load(copied / 'index')) == 12


@pytest.mark.parametrize('name', ['PLACE/private.png', '../private.png', 'link.png', 'sub/../../private.png', '\0'])
def test_an_index_shows_no_private_picture(copied, name):
    "Neither in an explorer nor in a gallery, even if its writer knows what is in the picture"
    from crossmodal_nb.core.checksums import sums_of

    (copied / 'photos' / 'link.png').symlink_to(copied / 'private.png')

    def change(info):
        info['shown']['picture'][5] = name.replace('PLACE', str(copied))
        info['sums']['picture'][5] = sums_of([copied / 'private.png'])[0]

    changed(copied / 'index', change)
    index = Index.load(copied / 'index', root=copied / 'photos')
    assert index.file('picture', 5) is None and index.file('picture', 4)
    with pytest.warns(UserWarning, match='1 of 12 files'):
        assert pictures(index) == 11
    found = [dict(rank=1, score=1.0, id='5', view='picture', shown=index.shown['picture'][5], row=5)]
    assert 'data:image' not in str(index.show('x', found))


def test_a_file_with_another_content_is_not_shown(copied):
    "Its own folder may hold private pictures, too"
    Image.new('RGB', (8, 8), red).save(copied / 'photos' / 'diary.png')
    changed(copied / 'index', lambda info: info['shown']['picture'].__setitem__(5, 'diary.png'))
    Image.new('RGB', (8, 8), red).save(copied / 'photos' / '07.png')
    index = Index.load(copied / 'index', root=copied / 'photos')
    assert [i for i in range(12) if index.file('picture', i) is None] == [5, 7]


def test_whole_paths_of_an_older_index_are_not_followed(copied):
    def change(info):
        info['shown']['picture'] = [str(copied / 'photos' / n) for n in info['shown']['picture']]
        del info['sums'], info['dataset']

    changed(copied / 'index', change)
    index = Index.load(copied / 'index', root=copied / 'photos')
    assert 'earlier version' in index.missing_files('picture', [0]) and index.file('picture', 0) is None
    with pytest.warns(UserWarning, match='Make it again'):
        assert pictures(index) == 0


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda i: i['files'].update({'../../private.png': 'x'}), 'no file of the method'),
        (lambda i: i['shown'].pop('picture'), 'as many rows'),
        (lambda i: i['ids']['picture'].pop(), 'as many rows'),
        (lambda i: i.update(kinds=3), 'kinds cannot be read'),
        (lambda i: i.update(dataset=['x']), 'dataset cannot be read'),
    ],
)
def test_an_index_whose_parts_disagree_is_refused(copied, change, words):
    changed(copied / 'index', change)
    with pytest.raises(InputError, match=words):
        Index.load(copied / 'index')


def test_links_out_of_an_index_are_refused(copied):
    shutil.copytree(copied / 'index' / 'method', copied / 'other')
    shutil.rmtree(copied / 'index' / 'method')
    (copied / 'index' / 'method').symlink_to(copied / 'other')
    with pytest.raises(InputError, match="'method' is refused"):
        Index.load(copied / 'index')


# ---------------------------------------------------------------- encoders, and the network
def described(**more):
    return dict(type='crossmodal_nb.encoders.text:TfIdf', params={}, key='', words=['a'], weights=[1.0]) | more


@pytest.mark.parametrize(
    'saved, words',
    [
        (described(type='os:system'), 'module of an encoder'),
        (described(type='crossmodal_nb.encoders.text:Path'), 'no encoder'),
        (described(type='crossmodal_nb.encoders.base:Encoder'), 'no encoder'),
        (described(type='crossmodal_nb.encoders.image:ConvNet'), 'no encoder'),
        (described(params=dict(input='filename')), 'parameter of TfIdf'),
        (described(type='crossmodal_nb.encoders.image:EfficientNetLite', params=dict(x=1)), 'parameter of Eff'),
        (described(type='crossmodal_nb.encoders.text:Bert', params=dict(model='/home/me/model')), 'is a path'),
        (described(type='crossmodal_nb.encoders.text:Bert', params=dict(model='../model')), 'is a path'),
        ('TfIdf', 'does not describe'),
    ],
)
def test_only_encoders_of_the_package_are_built(saved, words):
    with pytest.raises(InputError, match=words):
        build_encoder(saved)


def test_an_encoder_is_downloaded_only_if_that_was_asked_for(tmp_path, monkeypatch):
    from huggingface_hub import constants

    asked = []

    def download(*what):
        asked.append(what)
        raise RuntimeError('no network in tests')

    monkeypatch.setattr(fetch, '_download', download)
    monkeypatch.setattr(fetch, 'settings', lambda: type('S', (), dict(work=tmp_path)))
    (tmp_path / 'data' / 'packages').mkdir(parents=True)
    saved = describe_encoder(EfficientNetLite())
    views = make_gaussian_views(12, seed=0)
    raw = Views(a=View([Image.new('RGB', (8, 8))] * 12), b=views['b'])
    index = Index(CCA(dim=2).fit(views), views, dict(a=EfficientNetLite()), raw)
    index.encoders, index.online = dict(a=[build_encoder(saved)]), False
    with pytest.raises(MissingError, match=r'efficientnet-lite.* MB.*--online'):
        index.search(Image.new('RGB', (8, 8)), k=1)
    bert = dict(type='crossmodal_nb.encoders.text:Bert', params=dict(model='nobody/nothing'), key='')
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    with pytest.raises(InputError, match=r'nobody/nothing.*--online'):
        build_encoder(bert)
    assert not asked and constants.HF_HUB_OFFLINE is False
    index.online = True
    with pytest.raises(RuntimeError, match='no network in tests'):
        index.search(Image.new('RGB', (8, 8)), k=1)
    assert len(asked) == 1


# ---------------------------------------------------------------- names stay in their folders
@pytest.mark.parametrize(
    'text, words',
    [
        ('["../x"]\nnotebook = "a.ipynb"', 'letters, digits'),
        ('["a/b"]\nnotebook = "a.ipynb"', 'letters, digits'),
        ('["\\u001b[2J"]\nnotebook = "a.ipynb"', 'letters, digits'),
        ('[".."]\nnotebook = "a.ipynb"', 'letters, digits'),
        ('x = 3', r'entry \[x\]'),
        ('[x]\nnotebook = "../../secret.ipynb"', r'entry \[x\]: the notebook .*is refused'),
        ('[x]\nnotebook = "/tmp/secret.ipynb"', r'entry \[x\]: the notebook .*is refused'),
        ('[x]\nnotebook = "link.ipynb"', r'entry \[x\]: the notebook .*is refused'),
    ],
)
def test_a_manifest_stays_in_its_folders(tmp_path, text, words):
    (tmp_path / 'work').mkdir()
    (tmp_path / 'secret.ipynb').write_text('{}')
    (tmp_path / 'work' / 'link.ipynb').symlink_to(tmp_path / 'secret.ipynb')
    (tmp_path / 'work' / 'experiments.toml').write_text(text)
    with pytest.raises(InputError, match=words) as e:
        runner.manifest(tmp_path / 'work' / 'experiments.toml')
    assert str(tmp_path / 'work' / 'experiments.toml') in str(e.value)


@pytest.mark.parametrize('name', ['../x', 'a/b', '/x', 'A', '\x1b[2J', 'a\nb'])
def test_a_catalogue_has_plain_names(tmp_path, monkeypatch, name):
    (tmp_path / 'settings.ini').write_text('[crossmodal]\n')
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / 'data.toml').write_text(f'[{json.dumps(name)}]\npath = "{tmp_path}"\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match='is no name for a data set') as e:
        own.own()
    assert 'data.toml' in str(e.value)


# ---------------------------------------------------------------- what is a picture
def test_a_drawing_shows_no_other_file(tmp_path):
    private = tmp_path / 'private.png'
    Image.new('RGB', (8, 8), red).save(private)
    frame = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:l="http://www.w3.org/1999/xlink" width="8" height="8">'
    entity = f'<!DOCTYPE svg [<!ENTITY p "{private}">]>'
    skipped = f'<!DOCTYPE svg [<!ENTITY % e SYSTEM "x"> %e; <!ENTITY p "{private}">]>'
    ground = '<rect width="8" height="8" fill="#00c800"/>'
    for head, inside in (
        ('', f'<image href="{private}" width="8" height="8"/>'),
        ('', f'<image l:href=" {private}" width="8" height="8"/>'),
        (entity, '<image href="&p;" width="8" height="8"/>'),
        (skipped, '<image href="&p;" width="8" height="8"/>'),
        ('', f'<filter id="f"><feImage href="{private}"/></filter><rect width="8" height="8" filter="url(#f)"/>'),
    ):
        (tmp_path / 'a.svg').write_text(f'{head}{frame}{ground}{inside}</svg>')
        assert open_image(tmp_path / 'a.svg', size=8).getpixel((4, 4)) != red, inside
    (tmp_path / 'a.svg').write_text(f'{frame}{ground}</svg>')
    assert open_image(tmp_path / 'a.svg', size=8).getpixel((4, 4)) == green


def test_a_program_is_no_picture(tmp_path):
    (tmp_path / 'a.jpg').write_text('%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\nshowpage\n')
    with pytest.raises(InputError, match='a program that draws'):
        open_image(tmp_path / 'a.jpg')


# ---------------------------------------------------------------- hostile words in single places
phrases = [
    '<script>flag("script")</script>',
    '"><img src=x onerror=flag("img")>',
    "'><svg onload=flag('svg')>",
    '</script></pre></div></main><script>flag("end")</script>',
    '```{include} /etc/hostname\n```',
    '\n\n```{raw} html\n<script>flag("raw")</script>\n```\n',
    '\n\n:::{include} /etc/hostname\n:::\n',
    '{include}`/etc/hostname` {raw}`x`',
    '$\\href{javascript:flag("tex")}{x}$ $$\\alpha',
    '{{ 7 * 7 }} {% include "/etc/hostname" %}',
    '\x1b]0;owned\x07\x1b[2J\x9b31m',
    '\u202etxet\u2066 \u061c',
    '=HYPERLINK("http://evil.example/","x")',
    '@SUM(1+1)*cmd|',
    '../../../etc/passwd',
    'one\nline\n\n# heading\n- more',
    '[x](javascript:flag("md")) ![y](http://evil.example/z.png) <http://evil.example/>',
    '\\u003c & &lt;script&gt; \u2028 \u2029',
    'a' * 3000,
]
raw_bytes = re.compile('\x1b[^\\[]|\x1b\\[2J|\x07|[\x80-\x9f\u061c\u202a-\u202e\u2066-\u2069]')


def test_control_and_direction_characters_are_printed_as_escapes():
    assert printable('a\x1b\x9b\u061c\u202e\u2066\udcff\u2028b\n\tc') == (
        'a\\x1b\\x9b\\u061c\\u202e\\u2066\\udcff\\u2028b\n\tc'
    )
    assert not any(raw_bytes.search(printable(p)) for p in phrases)


@pytest.mark.parametrize('text', ['=1+1', '+1+cmd', '-1+1', '@A1', '\t=1', '\r=1', '\n=1', '＝1+1'])
def test_a_cell_is_no_formula_wherever_it_stands(text, tmp_path):
    assert spreadsheet_cell(text)[0] == "'" and spreadsheet_cell('-1.5') == '-1.5'
    assert '\r' not in spreadsheet_cell('x\r=1')  # for some programs the beginning of a row
    rows = [{'query': 'a', 'value': 1.0, text: text}]
    record = dict(key='k', rows=rows, params={}, tables=dict(names=np.array([text, 'b'])))
    record['tables']['listed'] = [dict(word=text)]
    cells = [c for _, _, part in page_data.page_data('x', [record]).values() for r in read(part.decode()) for c in r]

    class Figure:
        def savefig(self, f, format):
            f.write(b'')

    tables.save(Figure(), rows, tmp_path / 'figure')
    cells += [c for r in read((tmp_path / 'figure.csv').read_text()) for c in r]
    bad = [c for c in cells if c[:1] in '=+-@\t\r\n＝' and c]
    assert not bad and sum(c.startswith("'") for c in cells) >= 5


def read(text):
    import io

    return list(csv.reader(io.StringIO(text, newline='')))


def test_views_have_plain_names():
    columns = {c: ['some words here', 'and other words'] for c in phrases[:16]}
    names = list(column_roles(columns, dict(text=list(columns)), Path('x')).views)
    assert len(names) == len(set(names)) == 16 and all(re.fullmatch(r'[\w .,()+-]+', n) for n in names)


@pytest.mark.parametrize('field', ['title', 'licence', 'attribution', 'how', 'views'])
def test_what_a_data_set_says_of_itself_is_text_on_its_page(field):
    "No word of it begins a line, or can be markup, wherever it stands"
    plain = dict(name='odd', title='', licence='', attribution='', how='', views='', publishable=True, ready=True)
    usual = {line for line in data_page([plain]).splitlines()}
    for phrase in phrases:
        page = data_page([plain | {field: phrase}])
        new = [line for line in page.splitlines() if line not in usual]
        assert not raw_bytes.search(page)
        if field == 'title':
            assert all(re.fullmatch(r'(\w| |\\[!-/:-@\[-`{-~])*', line) for line in new), new
        else:
            assert all(re.match(r'<dl|<div|<tr|.*</table>', line) for line in new), new
            assert '<script' not in page and '<img' not in page and '<svg' not in page


# ---------------------------------------------------------------- hostile words through everything
hostile_names = ['<img src=x onerror=flag("file")>', '-rf', '\x1b]0;owned\x07', '\u202egnp', '=HYPERLINK("x")']
hostile_names += ['$\\alpha$', '{include} conf', 'two\nlines', 'a\'b"c', '&lt;b&gt;']
hostile_classes = ['<script>flag("class")</script>', '\x1b[2J{{ 7*7 }}', '=1+1|$x_1$ ```']
hostile_columns = ['<script>flag("col")</script> picture', '=1+1 \x1b[2J$x_1$ text', '```{raw} html <b> text', '% {a}']
title = 'T ' + ' '.join(p for p in phrases if len(p) < 999)


def write_odd(home):
    folder, draw = home / 'odd <b>\x1b[2Jset', np.random.default_rng(0)
    folder.mkdir()
    with open(folder / 'pairs <i>.csv', 'w', newline='', encoding='utf-8') as f:
        out = csv.writer(f)
        out.writerow(hostile_columns)
        for i in range(40):
            name = f'{hostile_names[i % 10]} {i}.png'
            Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / name)
            words = f'{phrases[i % len(phrases)]} number {i} of {["rain", "sun", "wind"][i % 3]}'
            out.writerow([name, words, f'more words {i}, {phrases[-i % len(phrases)]}', hostile_classes[i % 3]])
    return folder


def adding(folder):
    columns = [f'--{role}={c}' for role, c in zip(('image', 'text', 'text', 'label'), hostile_columns)]
    return ['data', 'add', 'odd', str(folder), *columns, f'--title={title}', f'--licence=L {title}']


@pytest.fixture(scope='module')
def odd(tmp_path_factory):
    "A home where hostile data were added, tried, indexed, and put into a report; and what was printed"
    home = prepare(tmp_path_factory.mktemp('odd'))
    said = [crossmodal(home, *adding(write_odd(home)))]
    encoders = ['--encoder', 'text=TfIdf', '--method', 'CCA', '--seeds', 1, '--epochs', 1, '--by', 'label']
    for command in (
        ['try', 'odd', *encoders],
        ['data', 'show', 'odd'],
        ['search', 'odd', 'rain number', '-k', 40],
        ['explore', 'odd', '--about', f'A {title}'],
        ['board', 'odd'],
        ['book', '--only-mine'],
    ):
        said.append(crossmodal(home, *command))
    return home, said


def test_no_output_steers_a_terminal(odd):
    home, said = odd
    assert '\\x1b[2J' in said[0] and '\\u202e' in said[3] and 'onerror' in said[3]
    assert not [m for text in said if (m := raw_bytes.search(text))]


def test_in_a_pseudo_terminal_nothing_but_own_colours_arrives(odd):
    home, _ = odd
    script = (
        'import sys, json\nfrom crossmodal_nb.cli import app\n'
        'for arguments in json.loads(sys.argv[1]):\n'
        '    try:\n        app(arguments)\n    except SystemExit:\n        pass\n'
        '    except Exception:\n        sys.excepthook(*sys.exc_info())\n'
    )
    folder = next(home.glob('odd*'))
    commands = [
        [*adding(folder), '--replace'],
        ['data', 'add', 'odd2', str(folder), '--text', '\x1b[2J'],
        ['data'],
        ['search', 'odd', 'rain number', '-k', '40'],
        ['search', 'odd', 'rain', '--view', '\x1b[2J'],
        ['--traceback', 'search', 'odd', '\x1b[2J\u202e.png'],
        ['search', 'odd', 'rain', '\x1b[2J\u202e'],
    ]
    ours, theirs = pty.openpty()
    command = [sys.executable, '-c', script, json.dumps(commands)]
    with subprocess.Popen(command, cwd=home, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True) as process:
        os.close(theirs)
        shown = b''
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            shown += part
    os.close(ours)
    text = shown.decode()
    assert process.returncode == 0 and text.count('onerror') > 3 and text.count('\\x1b[2J') > 8
    assert not [text[max(0, m.start() - 60) : m.end() + 20] for m in raw_bytes.finditer(text)]
    assert not re.search('\x1b\\[(?!\\d*(;\\d+)*m|A|K|\\?25[lh])', text)


def test_exported_cells_are_no_formulas(odd):
    home, _ = odd
    files = list((home / 'book' / '_build' / 'html' / '_static' / 'data').glob('*.csv'))
    cells = [c for f in files for row in read(f.read_text()) for c in row]
    assert files and not [c for c in cells if c[:1] in tuple('=@\t\r') or c[:1] in tuple('+-') and not number(c)]


def number(text):
    try:
        return float(text) is not None
    except ValueError:
        return False


@pytest.mark.browser
def test_hostile_data_are_text_in_every_page(odd, browser, tmp_path):
    home, _ = odd
    built = home / 'book' / '_build' / 'html'
    watch = 'window.flags = []; window.flag = window.alert = x => { window.flags.push(x); };'
    added = browser.driver.execute_cdp_cmd('Page.addScriptToEvaluateOnNewDocument', dict(source=watch))
    try:
        for page in sorted(p for p in built.rglob('*.html') if '_static' not in p.parts):
            complaints = browser.open(page).complaints()
            assert browser.js('return window.flags') == [] and not complaints, page
            assert browser.js('return document.querySelectorAll("article [onerror], article [onload]").length') == 0
            assert browser.js('return document.documentElement.scrollWidth') <= 1401, page
        gallery = browser.open(built / 'results' / 'try_odd.html').js(
            'return [...document.querySelectorAll(".cm-gallery")].map(g => g.textContent).join()'
        )
        shown = [p for p in phrases if p.strip()[:100] in gallery]
        assert len(shown) >= 2 and '<' in gallery, gallery
        wide = (
            'return [...document.querySelectorAll(".cm-gallery *")].filter(e => e.scrollWidth > e.clientWidth + 2 && '
        )
        assert not browser.js(wide + 'getComputedStyle(e).display != "inline").map(e => e.outerHTML.slice(0, 99))')
        facts = browser.open(built / 'data.html').js(
            'return [...document.querySelectorAll("#odd p, #odd dd")].map(e => e.textContent).join(" ")'
        )
        for word in ('<script>flag("script")</script>', '{{ 7 * 7 }}', '```{raw} html', ':::{include} /etc/hostname'):
            assert word in facts, word
        assert not (built / '_static' / 'hostname').exists() and Path('/etc/hostname').read_text().strip() not in facts
        headings = browser.js('return [...document.querySelectorAll("article h1, article h2")].map(e => e.textContent)')
        assert [h.strip('#') for h in headings] == ['Data sets', 'odd']
        _explorer(home, browser, tmp_path)
    finally:
        browser.driver.execute_cdp_cmd('Page.removeScriptToEvaluateOnNewDocument', added)


def _explorer(home, browser, folder):
    "The page of the explorer with the shard of these data"
    from test_browser import Explorer
    from test_explorer import root

    from crossmodal_nb.report import staging

    shutil.copytree(root / 'book' / '_static', folder / '_static')
    for name, data in staging.shards([home / 'work' / 'explorer']).items():
        (folder / 'shards').mkdir(exist_ok=True)
        (folder / 'shards' / name).write_bytes(data)
    body = re.search(r'```\{raw\} html\n(.*?)```', (root / 'book' / 'explorer.md').read_text(), re.S)[1]
    head = '<!doctype html><meta charset="utf-8"><title>whole</title><link rel="icon" href="data:,">'
    (folder / 'index.html').write_text(head + body)
    page = Explorer(browser, folder / 'index.html', folder / 'shards')
    for i in (0, 1, 2, 3):
        page.all('.cm-x-list button')[i].click()
    assert browser.js('return [window.flags.length, document.title]') == [0, 'whole'] and not browser.complaints()
    text = browser.js('return document.querySelector("#cm-explorer").textContent')
    assert html.unescape(phrases[0]) in text and 'onerror' in text
    assert browser.js('return document.querySelectorAll("#cm-explorer :is(script, [onerror], [onload])").length') == 0


def test_the_words_of_tfidf_come_back():
    words = TfIdf(5).fit([p for p in phrases if re.search(r'\w\w', p)])
    assert build_encoder(describe_encoder(words)).key == words.key
