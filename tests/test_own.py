"""Own data from its files to a report: the commands, in a checkout of its own with the project's notebooks."""

import contextlib
import random
import re
import shutil
import tomllib
from pathlib import Path

import nbformat
import numpy as np
import pytest
from typer.testing import CliRunner

from crossmodal_nb import trial
from crossmodal_nb.cli import app
from crossmodal_nb.datasets import catalogue
from crossmodal_nb.report import leaderboard_tables
from crossmodal_nb.runs import keys, reach

root = Path(__file__).parent.parent
topics = dict(
    sport=['Tor', 'Spiel', 'Mannschaft', 'Trainer', 'Liga'],
    politik=['Wahl', 'Minister', 'Gesetz', 'Partei', 'Regierung'],
    wetter=['Regen', 'Sonne', 'Wind', 'Schnee', 'Wolken'],
)


def prepare(home):
    "A checkout: the notebooks of the project, the sources of its book, and a work folder of its own"
    (home / 'settings.ini').write_text('[crossmodal]\n')
    shutil.copytree(root / 'nbs' / 'experiments', home / 'nbs' / 'experiments')
    (home / 'book').mkdir()
    for f in (root / 'book').iterdir():
        if f.is_file():
            shutil.copy(f, home / 'book')
    for folder in ('_extra', '_static'):
        shutil.copytree(root / 'book' / folder, home / 'book' / folder)
    shutil.copytree(root / 'book' / 'reported', home / 'book' / 'reported')
    (home / 'work').mkdir()
    if (root / 'work' / 'data').exists():
        (home / 'work' / 'data').symlink_to(root / 'work' / 'data')
    return home


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A checkout, and a table"
    home = prepare(tmp_path_factory.mktemp('home'))
    draw, lines = random.Random(0), ['titel;text;rubrik']
    for i in range(30):
        for topic, words in topics.items():
            a, b, c = draw.sample(words, 3)
            lines.append(f'{a} und {b} {i};Der Bericht {i} handelt von {a}, {b} und auch von {c}.;{topic}')
    (home / 'pairs.csv').write_text('\n'.join(lines), encoding='utf-8')
    return home


def crossmodal(home, *arguments, fails=False):
    "What the program prints, in this process: without seconds of imports. A crash is raised"
    with contextlib.chdir(home):
        done = CliRunner().invoke(app, list(map(str, arguments)))
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert bool(done.exit_code) == fails, done.output
    return done.output if fails else done.stdout


def test_five_lines(home):
    "Add, try, search, board, book: nothing but the work folder and the book changes"
    found = crossmodal(
        home, 'data', 'add', 'news', 'pairs.csv', '--label', 'rubrik', '--text', 'titel', '--text', 'text'
    )
    assert '90 rows' in found and '3 classes: politik, sport, wetter' in found and 'try news' in found
    assert tomllib.loads((home / 'work' / 'data.toml').read_text())['news']['path'] == str(home / 'pairs.csv')

    tried = crossmodal(home, 'try', 'news', '--epochs', 1, '--seeds', 1)
    lines = [line.split() for line in tried.splitlines()]
    assert {'CCA', 'Triplet', 'CLIP', 'SM', 'DSCMR', 'CVS', 'DCMH'} <= {line[2] for line in lines if len(line) > 2}
    assert 'By item, begin with' in tried and 'By label, begin with' in tried
    (record,) = (home / 'work' / 'records' / 'try_news').glob('*.json')

    hits = crossmodal(home, 'search', 'news', 'Regen und Schnee', '-k', 3).splitlines()
    assert len(hits) == 4 and any('Schnee' in hit or 'Regen' in hit for hit in hits)
    assert 'unknown to USE' in crossmodal(home, 'search', 'news', '🍎', fails=True)
    assert 'no such file' in crossmodal(home, 'search', 'news', 'x.tiff', fails=True)
    assert 'there is no index of emoji' in crossmodal(home, 'search', 'emoji', 'an apple', fails=True)
    indexed = crossmodal(home, 'index', 'news', '--view', 'titel', '--view', 'text')
    assert 'Ask it: crossmodal search news QUERY' in indexed
    for options, found in (((), 'text'), (('--view', 'text'), 'titel'), (('--in', 'titel'), 'titel')):
        head, *_ = crossmodal(home, 'search', 'news', 'Regen und Schnee', *options).splitlines()
        assert head.split() == ['rank', 'score', 'id', found]
    assert 'try_news' in crossmodal(home, 'board', 'news')
    assert 'did you mean' in crossmodal(home, 'board', 'newz', fails=True)

    built = Path(crossmodal(home, 'book', '--only-mine').split(': ')[-1].strip())
    assert '{term}' not in built.read_text()  # its table is HTML, which knows no roles
    assert 'The classic methods on one data set · news' in built.read_text()
    assert 'Der Bericht' in (built.parent / 'results' / 'try_news.html').read_text()
    assert 'Which method to begin with' in built.read_text()
    board = (built.parent / 'results' / 'own_board.html').read_text()
    lines = leaderboard_tables.table_lines(board)
    assert {(x['data set'], x['by']) for x in lines} == {('news', 'item'), ('news', 'class')}
    assert 'By item' in board and 'CVS' in {x['method'] for x in lines}
    scripts = re.findall(r'<script src="\.\./(\w+\.js)" defer>', board)
    assert scripts == ['datatables.js', 'sortable.js'] and all((built.parent / f).exists() for f in scripts)
    assert not list(built.parent.glob('how/*'))
    assert 'without a declared licence' in crossmodal(home, 'publish', 'try_news', fails=True)
    assert '1 to run' not in crossmodal(home, 'run', 'try_news') and record.exists()


def test_the_code_that_reads_own_data_counts_in_keys(home):
    with contextlib.chdir(home):
        definitions = keys.named_definitions(dict(dataset='news'), reach.index())
    assert ('crossmodal_nb.datasets.own', 'read_own') in definitions
    assert ('crossmodal_nb.data.folder_reader', 'read_folder') in reach.index().reach(definitions)


def test_a_notebook_of_ones_own(home):
    "It runs as it was written, and its name is taken from then on"
    texts = ('--text', 'titel', '--text', 'text')
    crossmodal(home, 'data', 'add', 'mine', 'pairs.csv', *texts, '--ignore', 'rubrik')
    assert tomllib.loads((home / 'work' / 'data.toml').read_text())['mine']['roles']['ignore'] == ['rubrik']
    path = Path(crossmodal(home, 'new', 'first_look', 'mine').splitlines()[0])
    nbformat.validate(nbformat.read(path, 4))
    assert path == home / 'work' / 'first_look.ipynb'
    assert '1 ran, 0 failed' in crossmodal(home, 'run', 'first_look')
    assert 'first_look' in crossmodal(home, 'board', 'mine')
    assert 'exists already' in crossmodal(home, 'new', 'first_look', 'mine', fails=True)
    assert 'exists already' in crossmodal(home, 'new', 'cca_emoji', 'mine', fails=True)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (('data', 'add', 'more', 'pears.csv'), 'pears.csv'),
        (('data', 'add', 'more', 'pairs.csv', '--label', 'rubrick'), 'rubrik'),
        (('data', 'add', 'more', 'pairs.csv', '--ignore', 'text'), '--image COLUMN --text COLUMN'),
        (('data', 'add', 'More!', 'pairs.csv'), 'no name for a data set'),
        (('data', 'add', 'more', 'hub:a/b/c'), 'no address'),
        (('data', 'add', 'emoji', 'pairs.csv', '--text', 'titel', '--text', 'text'), 'Choose another one'),
        (('data', 'remove', 'nws'), 'own data set'),
        (('try', 'nws'), 'no dataset'),
        (('new', 'look', 'nws'), 'no dataset'),
    ],
)
def test_own_mistakes_are_named_and_nothing_is_half_added(home, arguments, message):
    catalogue = home / 'work' / 'data.toml'
    before = catalogue.read_bytes() if catalogue.exists() else b''
    assert message in crossmodal(home, *arguments, fails=True)
    assert (catalogue.read_bytes() if catalogue.exists() else b'') == before


def test_a_trial_tells_which_views_it_relates(home):
    "Of three views two are related, and the third can be asked for"
    (home / 'three').mkdir()
    for k in 'abc':
        np.save(home / 'three' / f'{k}.npy', np.random.default_rng(0).normal(size=(60, 4)))
    crossmodal(home, 'data', 'add', 'three', 'three')
    with contextlib.chdir(home):
        cost = trial.estimate('three', dict(methods=['CCA']), seeds=1, rows=16)
        assert (cost['views'], cost['others']) == (['a', 'b'], ['c'])
        cost = trial.estimate('three', dict(methods=['CCA'], views=['c', 'a']), seeds=1, rows=16)
        assert (cost['views'], cost['others']) == (['c', 'a'], ['b'])
    crossmodal(home, 'data', 'remove', 'three')


def test_the_own_catalogue_and_manifest_are_checked(home):
    "A line that was written by hand and is wrong is named with its file"
    added = crossmodal(home, 'data', 'add', 'brief', 'pairs.csv', '--text', 'titel', '--text', 'text')
    with contextlib.chdir(home):
        (brief,) = (c for c in catalogue() if c['name'] == 'brief')
    assert (brief['views'], brief['n'], brief['ready']) == (['titel', 'text'], 90, True)
    assert 'rubrik (no known role)' in added and 'left out can be named: --text COLUMN, --label COLUMN' in added
    own_file, manifest = home / 'work' / 'data.toml', home / 'work' / 'experiments.toml'
    for file, addition, words in (
        (own_file, '\n[odd]\npth = "x"\n', ('[odd]', 'data.toml')),
        (own_file, '\n[odd\n', ('data.toml', 'not valid TOML')),
        (own_file, f'\n[brief2]\npath = "{home / "pairs.csv"}"\nroles = {{text = ["titl"]}}\n', ('titl', 'data.toml')),
        (manifest, '\n[odd]\nnotebook = "missing.ipynb"\n', ('[odd]', 'missing.ipynb')),
        (manifest, '\n[cca_emoji]\nnotebook = "10_cca.ipynb"\n', ('[cca_emoji]', 'Rename it')),
    ):
        before = file.read_text()
        file.write_text(before + addition)
        command = ('data', 'show', 'brief2') if 'brief2' in addition else ('plan', 'try_brief')
        message = crossmodal(home, *command, fails=True)
        assert all(word in message for word in words), message
        file.write_text(before)
    crossmodal(home, 'data', 'remove', 'brief')
    assert 'brief' not in own_file.read_text() and 'try_brief' not in manifest.read_text()
