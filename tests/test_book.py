"The book: a strict build of a small one, escaping, no network, formulas in a real browser, what may be published."

import base64
import csv
import io
import json
import re
import shutil
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from crossmodal_nb.core.settings import settings
from crossmodal_nb.report import book, contents, galleries, page_data, pages, staging, tables
from crossmodal_nb.runs.keys import notebook_digest

root = settings(Path(__file__).parent).root
evil = '<script>alert(1)</script>'
captions = ['"><img src=x onerror="alert(2)">', "it's \"quoted\" & </div>", 'مرحبا', '🍎 👩‍🍳', '<b>bold</b> $x^2$']
catalogue = [
    dict(name='photos', title=f'Photos {evil} with $5 and *stars*', attribution=evil, n=3, publishable=False),
    dict(name='emoji', title='Emoji', publishable=True),
]
row = dict(
    query='image',
    gallery='text',
    metric='R@1',
    value=0.25,
    low=0.2,
    high=0.3,
    split='valid',
    pool='all',
    n=40,
    relevance='item',
)


def shown(x):
    return new_output('display_data', {'text/html': str(x), 'text/plain': repr(x)})


def run_here(folder, exp='toy', dataset='photos', tags=('private',), key='0123456789', evil=evil):
    "Leave what the runner leaves: an executed notebook and its record"
    results = [
        dict(item=f'a caption with {evil}', score=0.9, true=True),
        dict(item='another', score=0.5),
        *(dict(item=c, score=0.4, name=c) for c in captions),
    ]
    from PIL import Image

    gallery = galleries.gallery(
        [dict(query=Image.new('RGB', (20, 10)), name=evil, found=results, why='success')], caption=evil
    )
    table = tables.table([row, row | dict(query='text', gallery='image')], 'direction', caption=evil)
    nb = new_notebook(
        cells=[
            new_markdown_cell(
                '# Toy experiment\n**Question.** Does $\\rho^2$ pay?\n\n$$S = \\frac{1}{n-1} X^\\top X$$\nSee '
                '[linear](../methods/03_linear.ipynb).'
            ),
            new_code_cell("dataset = 'photos'", metadata=dict(tags=['parameters'])),
            new_code_cell("dataset = 'photos'", metadata=dict(tags=['injected-parameters'])),
            new_code_cell('table', outputs=[shown(table)]),
            new_code_cell('gallery', outputs=[shown(gallery)], metadata=dict(tags=list(tags))),
        ],
        metadata=dict(papermill=dict(output_path=str(folder / 'x.ipynb'))),
    )
    record = dict(
        experiment=exp,
        notebook='10_toy',
        key=key,
        digests=dict(notebook='n', params=key, fit='f', measure='m', data='d'),
        params=dict(dataset=dataset, note=evil, seed=3),
        rows=[row],
        tables=dict(
            tried=[dict(method='CCA', note=evil + '\n"two", lines'), dict(method='CCA', at=[1, 2])],
            chosen=dict(CCA=dict(ridge=0.001), curve=[0.1, 0.2]),
        ),
        history=[],
        status='ok',
        final=False,
        selected_by='valid',
        seconds=3.2,
        device='CPU',
        versions=dict(numpy='2'),
        started='2026-01-01 10:00',
    )
    location = folder / 'work' / 'records' / exp
    location.mkdir(parents=True, exist_ok=True)
    (location / f'{key}.json').write_text(json.dumps(record))
    nbformat.write(nb, location / f'{key}.ipynb')


def small(tmp_path):
    "A small checkout: the real book's own files, one chapter, one experiment that ran here"
    for f in root.joinpath('book').iterdir():
        if f.suffix in ('.md', '.yml', '.bib'):
            (tmp_path / 'book').mkdir(exist_ok=True)
            shutil.copy(f, tmp_path / 'book')
    shutil.copytree(root / 'book' / '_static', tmp_path / 'book' / '_static')
    (tmp_path / 'settings.ini').write_text('[crossmodal]\n')
    (tmp_path / 'nbs' / 'experiments').mkdir(parents=True)
    (tmp_path / 'nbs' / 'experiments' / 'experiments.toml').write_text(
        '[toy]\nnotebook = "10_toy.ipynb"\n[look]\nnotebook = "05_look.ipynb"\nchapter = '
        '"data"\n[look_emoji]\nnotebook = "05_look.ipynb"\nchapter = "data"\n'
    )
    chapter = new_notebook(
        cells=[
            new_markdown_cell('# Linear\n> in one line\n\n$K^\\top S K = I$'),
            new_code_cell('#| default_exp methods.linear'),
            new_code_cell('#| export\nclass CCA:\n    "Two linear maps"'),
            new_code_cell('#| hide\nhidden_from_readers = 1'),
        ]
    )
    (tmp_path / 'nbs' / 'methods').mkdir()
    nbformat.write(chapter, tmp_path / 'nbs' / 'methods' / '03_linear.ipynb')
    run_here(tmp_path)
    run_here(tmp_path, exp='look', key='abcabcabca')
    return tmp_path


@pytest.fixture
def checkout(tmp_path):
    return small(tmp_path)


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "The small book, built strictly once"
    folder = tmp_path_factory.mktemp('book')
    small(folder)
    return book.build(folder, strict=True, catalogue=catalogue).parent


def html_pages(html):
    return {str(f.relative_to(html)): f.read_text() for f in html.rglob('*.html') if '_static' not in f.parts}


def test_every_page_is_there(built):
    assert {
        'index.html',
        'results/toy.html',
        'how/methods-linear.html',
        'data.html',
        'reproduce.html',
        'THIRD_PARTY.html',
    } <= set(html_pages(built))


def test_html_in_data_is_text(built):
    results = html_pages(built)
    assert not [n for n, t in results.items() if evil in t]
    for n in ('results/toy.html', 'data.html'):
        assert '&lt;script&gt;alert(1)&lt;/script&gt;' in results[n], n


def test_a_result_page(built):
    toy = html_pages(built)['results/toy.html']
    for part in (
        'Run card',
        '0123456789',
        'run on this machine',
        '95 %: items (clustered bootstrap)',
        '25.0',
        'href="../how/methods-linear.html"',
    ):
        assert part in toy, part
    assert toy.count('hide above-input">') == 4  # every cell's code is folded


def test_directives_and_hidden_cells_are_gone(built):
    chapter = html_pages(built)['how/methods-linear.html']
    assert (
        'default_exp' not in chapter
        and '#| ' not in chapter
        and 'hidden_from_readers' not in chapter
        and 'CCA' in chapter
    )


def test_the_ladder_links_to_what_exists(built):
    landing = html_pages(built)['index.html']
    assert (
        'href="how/methods-linear.html"><span class="cm-name">CCA' in landing
        and '<!--' not in re.findall(r'<article.*?</article>', landing, re.S)[0]
    )
    assert 'Toy experiment' in landing


class Sidebar(HTMLParser):
    "Links of the sidebar: all, and those that no fold hides"

    def __init__(self, html):
        super().__init__()
        self.nav, self.folds, self.all, self.open = False, [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if tag == 'nav':
            self.nav = 'bd-docs-nav' in a.get('class', '')
        if tag == 'details' and self.nav:
            self.folds.append('open' not in a)
        if tag == 'a' and self.nav:
            self.all.append(a['href'])
            self.open += [] if any(self.folds) else [a['href']]

    def handle_endtag(self, tag):
        if tag == 'details' and self.nav:
            self.folds.pop()
        if tag == 'nav':
            self.nav = False


def test_the_sidebar_folds_what_stands_below_an_overview(built):
    bar = Sidebar(html_pages(built)['index.html'])
    assert len(bar.all) == len(set(bar.all)) > len(bar.open) > 3
    assert 'overview/linear.html' in bar.open and 'how/methods-linear.html' in set(bar.all) - set(bar.open)
    overview = html_pages(built)['overview/results.html']
    assert 'href="../results/toy.html"' in overview and 'Toy experiment' in overview


def test_the_sidebar_of_the_whole_report_is_short(real_book):
    bar = Sidebar((real_book / 'index.html').read_text())
    assert len(bar.open) <= 25 and len(bar.all) == len(set(bar.all)) > 150


def every_page():
    "All entries of the manifest, as if each had a page"
    entries = tomllib.loads((root / 'nbs' / 'experiments' / 'experiments.toml').read_text())
    return [
        dict(
            exp=e,
            at=f'{v.get("chapter", "results")}/{e}',
            notebook=v['notebook'],
            needs=v.get('needs', []),
            title=e,
            record=None,
            runs=[],
        )
        for e, v in sorted(entries.items(), key=lambda e: e[1]['notebook'])
    ]


def test_the_contents_hold_every_page_once_and_few_are_open():
    results, lessons = every_page(), contents.lessons(root / 'nbs')
    toc = yaml.safe_load(contents.table_of_contents((root / 'book' / '_toc.yml').read_text(), lessons, results))
    listed = contents._flat(c for part in toc['parts'] for c in part['chapters'])
    files = [e['file'] for e in listed]
    assert len(files) == len(set(files))
    assert {p['at'] for p in results} | {f'how/{contents.slug(room)}' for room in lessons} <= set(files)
    assert sum(len(part['chapters']) for part in toc['parts']) <= 25
    titles = [e['title'] for e in listed if 'title' in e]
    assert len(titles) == len(set(titles))


def test_no_two_pages_of_the_contents_have_one_name():
    "A lesson that is called as another page has a title of its own in the contents"
    lessons = contents.lessons(root / 'nbs')
    toc = yaml.safe_load(contents.table_of_contents((root / 'book' / '_toc.yml').read_text(), lessons, []))
    listed = contents._flat(c for part in toc['parts'] for c in part['chapters'])
    headings = {f'how/{contents.slug(room)}': contents._introduced(f).split('\n')[0] for room, f in lessons.items()}
    headings |= {f.stem: re.search(r'^# +(.+)', f.read_text(), re.M)[1] for f in root.glob('book/*.md')}
    names = [e.get('title') or headings.get(e['file'], e['file']) for e in listed]
    assert not {n for n in names if names.count(n) > 1}


def test_no_page_loads_anything_from_elsewhere(built):
    loads = re.compile(
        r'<(?:script|img|iframe|source)[^>]+src="(https?:)?//|<link[^>]+rel="(?:stylesheet|preload|icon|shortcut '
        r'icon)"[^>]+href="(https?:)?//'
    )
    assert not [(n, m[0]) for n, t in html_pages(built).items() for m in loads.finditer(t)]
    mathjax = built / '_static' / 'mathjax'
    assert (mathjax / 'tex-chtml.js').exists() and sum(
        f.stat().st_size for f in mathjax.rglob('*') if f.is_file()
    ) < 4e6


def test_a_page_of_the_data_chapter(built):
    results = html_pages(built)
    assert 'Run card' in results['data/look.html'] and 'results/look.html' not in results
    section = re.search(r'<section id="photos">.*?</section>', results['data.html'], re.S)[0]
    assert (
        re.findall(r'href="(data/look.html)"[^>]*>(?:<[^>]*>)?Toy experiment · look<', section)
        and 'data/look.html' not in re.search(r'<article.*?</article>', results['index.html'], re.S)[0]
    )
    nav = re.findall(r'class="reference internal" href="([^"#]+)"', results['index.html'])
    assert nav.index('data.html') < nav.index('data/look.html') < nav.index('reproduce.html')


def test_an_entry_run_again_is_no_second_run(checkout):
    run_here(checkout, key='second0000')
    again = checkout / 'work' / 'records' / 'toy' / 'second0000.json'
    (toy,) = [p for p in pages.pages(checkout) if p['exp'] == 'toy']
    assert len(toy['runs']) == 2  # other parameters: a sweep
    again.write_text(again.read_text().replace('"params": "second0000"', '"params": "0123456789"'))
    (toy,) = [p for p in pages.pages(checkout) if p['exp'] == 'toy']
    assert len(toy['runs']) == 1


def test_a_page_whose_notebook_has_changed_says_that_it_is_stale(checkout):
    def note():
        return next(pages.page_note(p) for p in pages.pages(checkout) if p['exp'] == 'toy')

    assert 'Stale' not in note()  # the notebook is not there to be compared
    notebook = checkout / 'nbs' / 'experiments' / '10_toy.ipynb'
    nbformat.write(new_notebook(cells=[new_code_cell('a = 1')]), notebook)
    assert '**Stale.**' in note()
    path = next((checkout / 'work' / 'records' / 'toy').glob('*.json'))
    record = json.loads(path.read_text())
    record['digests']['notebook'] = notebook_digest(notebook)
    path.write_text(json.dumps(record))
    assert 'Stale' not in note()


def test_pages_of_the_data_chapter_are_published_as_others(checkout):
    book.publish('look', checkout, catalogue)
    shutil.rmtree(checkout / 'work')
    staged = staging.stage(checkout, catalogue)
    assert (
        'Published, not run here' in (staged / 'data' / 'look.ipynb').read_text()
        and '(data/look.ipynb)' in (staged / 'data.md').read_text()
    )


class Seen(HTMLParser):
    "Names, links, files and pictures of a page"

    def __init__(self, f):
        super().__init__()
        self.ids, self.links, self.files, self.pictures = set(), [], [], []
        self.feed(f.read_text())

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a[k] for k in ('id', 'name') if a.get(k)}
        if tag == 'a' and 'href' in a:
            self.links.append(a['href'])
        if tag in ('script', 'img', 'source', 'audio', 'video') and a.get('src'):
            self.files.append(a['src'])
        if tag == 'link' and a.get('rel') in ('stylesheet', 'icon', 'preload'):
            self.files.append(a['href'])
        if tag == 'img':
            self.pictures.append(
                (a.get('src', '')[:80], (a.get('alt') or '').strip(), 'logo__image' in a.get('class', ''))
            )


def book_pages(html):
    return [f for f in sorted(html.rglob('*.html')) if not {'_static', '_sources'} & set(f.relative_to(html).parts)]


def checked(html):
    "(links and files that lead nowhere, pictures without words, {page: bytes with its files and the largest shard})"
    html, broken, wordless, weight = html.resolve(), [], [], {}
    visited = {f: Seen(f) for f in book_pages(html)}
    shard = max([f.stat().st_size for f in (html / 'shards').glob('*.js') if f.name != 'list.js'], default=0)
    for f, p in visited.items():
        local = set()
        for h in p.links + p.files:
            u = urlsplit(h)
            if u.scheme or u.netloc:
                continue
            target = (f.parent / unquote(u.path)).resolve() if u.path else f
            if not target.is_file() or (
                u.fragment
                and target in visited
                and target.name != ('explorer.html')
                and unquote(u.fragment) not in visited[target].ids
            ):
                broken.append((f.name, h))
            elif h in p.files and 'mathjax' not in target.parts:
                local.add(target)
        wordless += [(f.name, src) for src, alt, logo in p.pictures if not alt and not logo]
        weight[str(f.relative_to(html))] = (
            f.stat().st_size + sum(x.stat().st_size for x in local) + (shard if f.name == 'explorer.html' else 0)
        )
    return broken, wordless, weight


def test_the_checker_sees_what_is_wrong(tmp_path):
    (tmp_path / 'a.html').write_text(
        '<p id="here"></p><a href="#here"></a><a href="#gone"></a><a href="b.html"></a><img src="x.png"><img '
        'src="data:," alt="words"><a href="https://x.org/y"></a>'
    )
    assert checked(tmp_path)[:2] == (
        [('a.html', '#gone'), ('a.html', 'b.html'), ('a.html', 'x.png')],
        [('a.html', 'x.png')],
    )


def test_links_resolve_pictures_have_words_and_pages_are_light(built):
    broken, wordless, weight = checked(built)
    assert not broken and not wordless and max(weight.values()) < 3e6


def test_the_same_of_the_whole_report(real_book):
    broken, wordless, weight = checked(real_book)
    assert not broken and not wordless
    heavy = {n: w for n, w in weight.items() if w >= 3e6}
    assert not heavy and len(weight) > 60
    texts = {n: (real_book / n).read_text() for n in weight}
    assert [n for n, text in texts.items() if re.search(r'<script[^>]+shards/', text)] == ['explorer.html']
    assert [n for n, t in texts.items() if re.search('<script[^>]+(datatables|sortable)', t)] == ['results/board.html']
    assert not [n for n, text in texts.items() if '<p>| ' in text]  # tables of Markdown are tables
    assert not [n for n, text in texts.items() if re.search('<table[^>]*class="dataframe"', text)]  # pandas's, too


def test_only_pages_with_a_table_to_sort_load_the_library():
    def page(html):
        twice = [new_output('display_data', {'text/html': html}) for _ in range(2)]
        cell = new_code_cell('', outputs=twice)
        return staging._page_files('results/x', new_notebook(cells=[cell]))

    assert set(page('<table></table>')) == {'results/x.ipynb'}
    files = page('<table class="cm-sortable"></table>')
    assert files['results/x.ipynb'].decode().count('../datatables.js') == 1
    library = files['_extra/datatables.js'].decode()
    assert 'window.cmDataTable=' in library and not re.search(r'^export|;export *[{]', library)
    assert (root / 'book' / '_extra' / 'sortable.js').exists()


# ------------------------------------------------------------------ a page's numbers


def test_the_numbers_of_a_page_are_offered_as_csv(built):
    toy = html_pages(built)['results/toy.html']
    links = re.findall(r'<a href="\.\./(_static/data/[^"]+)" download>([^<]+)</a> \((\d+) row', toy)
    assert [(Path(f).name, name, n) for f, name, n in links] == [
        ('toy.csv', 'scores', '1'),
        ('toy-tried.csv', 'tried', '2'),
        ('toy-more.csv', 'more', '2'),
    ]
    assert toy.index('cm-data') < toy.index('Run card')
    (score,) = csv.DictReader((built / links[0][0]).open(newline=''))
    assert score == {'run': '0123456789', 'seed': '3'} | {k: str(v) for k, v in row.items()}
    tried = list(csv.DictReader((built / links[1][0]).open(newline='')))
    assert tried[0]['note'] == evil + '\n"two", lines' and tried[1] == dict(
        run='0123456789', seed='3', method='CCA', note='', at='[1, 2]'
    )
    assert [(r['table'], r['at'], r['value']) for r in csv.DictReader((built / links[2][0]).open(newline=''))] == [
        ('chosen', 'CCA/ridge', '0.001'),
        ('chosen', 'curve', '[0.1, 0.2]'),
    ]


def test_all_runs_of_an_entry_are_in_its_csv_and_large_ones_are_cut(checkout):
    run_here(checkout, key='second0000')
    (toy,) = [p for p in pages.pages(checkout) if p['exp'] == 'toy']
    files = page_data.page_data('toy', toy['runs'])
    assert [line.split(',')[0] for line in files['toy.csv'][2].decode().splitlines()] == [
        'run',
        '0123456789',
        'second0000',
    ]
    runs = [r | dict(rows=[dict(value=0.1 + 0.2, i=i) for i in range(500)]) for r in toy['runs']]
    cut = {
        f: x for f, x in page_data.page_data('toy', runs, max_bytes=5000).items() if re.fullmatch(r'toy-\d+\.csv', f)
    }
    assert len(cut) > 2 and all(len(x[2]) <= 5000 for x in cut.values()) and sum(x[1] for x in cut.values()) == 1000
    back = [r for _, _, text in cut.values() for r in csv.DictReader(text.decode().splitlines())]
    assert [(r['run'], int(r['i']), float(r['value'])) for r in back] == [
        (r['key'], i, 0.1 + 0.2) for r in runs for i in range(500)
    ]


def test_every_result_with_a_picture_offers_data(real_book):
    for f in book_pages(real_book):
        if f.parent.name in ('results', 'data') and 'Run card' in (text := f.read_text()) and '../_images/' in text:
            files = re.findall(r'href="\.\./(_static/data/[^"]+)" download', text)
            assert files, f.name
            assert all((real_book / x).stat().st_size < 1_001_000 for x in files)


def test_a_new_notebook_appears_without_another_edit(checkout):
    nbformat.write(new_notebook(cells=[new_markdown_cell('# Dual')]), checkout / 'nbs' / 'methods' / '04_dual.ipynb')
    toc = (staging.stage(checkout, catalogue) / '_toc.yml').read_text()
    assert toc.index('how/methods-linear') < toc.index('how/methods-dual')


def test_strict_refuses_and_names_a_bad_page(checkout):
    nbformat.write(
        new_notebook(cells=[new_markdown_cell('# Bad\n```{nosuchdirective}\n```')]), checkout / 'nbs' / 'bad.ipynb'
    )
    with pytest.raises(RuntimeError, match='nosuchdirective'):
        book.build(checkout, strict=True, catalogue=catalogue)


def test_published_pages_hold_nothing_private(checkout):
    run_here(checkout, key='second0000')
    page, *records = book.publish('toy', checkout, catalogue)
    text = page.read_text()
    assert (
        len(records) == 2
        and 'cm-thumb' not in text
        and 'a caption with' not in text
        and str(checkout) not in text
        and 'R@1' in text
    )
    shutil.rmtree(checkout / 'work')
    staged = (staging.stage(checkout, catalogue) / 'results' / 'toy.ipynb').read_text()
    assert 'Published, not run here' in staged and 'one of 2 runs' in staged and 'second0000' in staged


def test_publishing_refuses_items_of_closed_data(checkout):
    run_here(checkout, tags=())
    with pytest.raises(ValueError, match='photos'):
        book.publish('toy', checkout, catalogue)
    run_here(checkout, dataset='emoji')  # tagged private, but open data
    assert 'cm-thumb' in book.publish('toy', checkout, catalogue)[0].read_text()
    with pytest.raises(ValueError, match='no good run'):
        book.publish('tyo', checkout, catalogue)


def test_a_word_that_is_also_a_set_without_a_place_closes_nothing(checkout):
    words = [*catalogue, dict(name=evil, publishable=False, where='root=…')]  # the note of every toy run
    run_here(checkout, dataset='emoji')
    assert 'cm-thumb' in book.publish('toy', checkout, words)[0].read_text()
    words[-1]['where'] = 'elsewhere'
    assert 'cm-thumb' not in book.publish('toy', checkout, words)[0].read_text()


def test_committed_pages_hold_no_items_of_closed_data():
    from crossmodal_nb.datasets import catalogue

    closed = {c['name'] for c in catalogue() if not c['publishable']}
    for f in root.glob('book/pages/*.ipynb'):
        nb = nbformat.read(f, 4)
        record = json.loads(
            (
                root
                / 'book'
                / 'records'
                / nb.metadata['crossmodal']['experiment']
                / f"{nb.metadata['crossmodal']['key']}.json"
            ).read_text()
        )
        book._public(nb, record, {n: False for n in closed}, root)


def test_committed_pages_name_no_folder_of_the_machine_they_ran_on():
    "Also where a run came from another checkout than the one that published it"
    for f in (root / 'book' / 'pages').glob('*.ipynb'):
        assert not (location := re.search(r"Path\('/[^']*'\)", f.read_text())), f'{f.name}: {location[0]}'


def test_a_record_in_another_checkout_is_named_without_its_folder():
    assert book._nameless("PosixPath('/else/where/work/records/toy/1.json')", root) == "PosixPath('toy/1.json')"


def test_no_record_of_own_data_is_published_with_others(tmp_path):
    "The newest run is on open data, an earlier one of the same entry on the user's own, known or forgotten"
    small(tmp_path)
    shutil.rmtree(tmp_path / 'work' / 'records' / 'toy')
    run_here(tmp_path, dataset='mine', key='aaaaaaaaaa', tags=())
    run_here(tmp_path, dataset='emoji', key='bbbbbbbbbb', tags=())
    own = dict(name='mine', title='Mine', own=True, publishable=False)
    for known, said in (([*catalogue, own], 'mine is your own data'), (catalogue, 'no data set mine is known')):
        with pytest.raises(ValueError, match=said):
            book.publish('toy', tmp_path, known)
        assert not (tmp_path / 'book' / 'records').exists() and not (tmp_path / 'book' / 'pages').exists()


def test_readme_is_made_from_its_notebook():
    if not (root / 'nbs' / 'index.ipynb').exists():
        pytest.skip('nbs/index.ipynb is not there yet')
    assert (root / 'README.md').read_text() == book.readme(root, write=False), (
        'README.md is not in step: run `crossmodal readme`'
    )


@pytest.mark.browser
def test_hostile_captions_are_words_and_formulas_are_set_in_a_browser(built, browser):
    b = browser.open(built / 'results' / 'toy.html')
    title = b.js('return document.title')
    items = b.js('return [...document.querySelectorAll(".cm-found .cm-item, .cm-text")].map(e => e.textContent)')
    for c in [evil, *captions]:
        assert any(c in t for t in items), (c, items)
    assert (
        'Toy experiment' in title
        and b.js('return document.querySelectorAll("article :is(script, [onerror])").length') == 0
    )
    assert b.js(
        'return [document.querySelectorAll("mjx-container").length, document.querySelectorAll("mjx-mfrac").length]'
    ) == [2, 1]
    assert not b.complaints()


def test_published_figures_have_few_colours():
    def read(text):
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert('RGB')).astype(int)

    figure, axes = plt.subplots()
    axes.plot(np.random.default_rng(0).normal(size=(50, 5)).cumsum(0))
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8))
    for save, gains in ((figure.savefig, True), (photo.save, False)):
        save(out := io.BytesIO(), format='png')
        png = base64.b64encode(out.getvalue()).decode()
        small = pages.small_picture(png)
        assert (len(small) < len(png) / 2) == gains == (small != png) and np.abs(read(small) - read(png)).mean() <= 1
    plt.close(figure)


@pytest.mark.parametrize(
    'text, raw',
    [
        ("{'train': 3} · the space: CCA(dim=2)", True),
        ("read: {'a': '5 runs'} · absent: []", True),
        ('the evaluator: CCA(dim=100, ridge=1.0)', True),
        ('UserWarning: 1328 items for views', True),
        ('True', True),
        ('rank nan of 5', True),
        ('3,558,387 parameters · 100 epochs', False),
        ('flickr8k, 50 pairs: CCA (see below) is the simplest', False),
    ],
)
def test_raw_output_of_results_is_folded_with_its_code(text, raw):
    def tags(*outputs, fold=True):
        return pages.staged_code(new_code_cell('x', outputs=list(outputs)), fold, '').metadata['tags']

    stream = new_output('stream', text=text)
    assert tags(stream) == (['hide-cell'] if raw else ['hide-input']) and tags(stream, fold=False) == []
    assert tags(new_output('execute_result', {'text/plain': text})) == tags(stream)
    assert tags(stream, new_output('display_data', {'text/html': '<p>a table</p>'})) == ['hide-input']


@pytest.mark.parametrize(
    'code, button',
    [
        ('from x import diagram\n\ndiagram([["a"]])', 'Code of the figure'),
        ('from x import diagram', 'Imports'),
        ('a = 1\ndiagram([["a"]])', ''),
        ('diagrams = 2\ndiagrams', ''),
    ],
)
def test_a_chapter_shows_a_diagram_and_folds_its_code(code, button):
    cell = pages.staged_code(new_code_cell(code), False, '').metadata
    assert cell['mystnb'].get('code_prompt_show', '') == button
    assert cell['tags'] == (['hide-input'] if button else [])
