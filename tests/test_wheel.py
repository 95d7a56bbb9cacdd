"""The wheel built from the sdist, in a fresh environment with the installed dependencies, works from another folder.

CROSSMODAL_FULL=1 python -m pytest tests/test_wheel.py     there also with every way in which people keep pairs
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from test_own_gaze import a_file_for_each_picture, pictures
from test_own_layouts import full, layouts, quick

import crossmodal_nb
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.encoders.extraction import features
from crossmodal_nb.encoders.text import TfIdf
from crossmodal_nb.methods.linear import CCA
from crossmodal_nb.search import Index

root = Path(__file__).parent.parent


def carried(folder, *inner):
    "Files of a folder, and of folders in it, as paths in the checkout"
    return [
        str(f.relative_to(root))
        for d in ('.', *inner)
        for f in sorted((root / folder / d).glob('[!.]*'))
        if f.is_file()
    ]


@pytest.fixture(scope='module')
def away(tmp_path_factory):
    "A folder with an environment of its own, the wheel in it, and nothing of the checkout"
    folder = tmp_path_factory.mktemp('away')

    def run(*command, from_=folder):
        return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, cwd=from_)

    shutil.copytree(
        root / 'crossmodal_nb', folder / 'source' / 'crossmodal_nb'
    )  # building leaves its traces: not in the checkout
    shutil.copytree(root / 'nbs' / 'experiments', folder / 'source' / 'nbs' / 'experiments')
    for f in ('pyproject.toml', 'README.md', 'LICENSE', *carried('book', '_extra', '_static', 'reported')):
        (folder / 'source' / f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / f, folder / 'source' / f)
    sdist = 'from setuptools.build_meta import build_sdist; import sys; build_sdist(sys.argv[1])'
    run(sys.executable, '-c', sdist, folder, from_=folder / 'source')
    shutil.rmtree(folder / 'source')
    (archive,) = folder.glob('*.tar.gz')
    run(sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--wheel-dir', folder, archive)
    venv.create(folder / 'env', with_pip=False)
    python = folder / 'env' / 'bin' / 'python'
    site = Path(run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))').stdout.strip())
    (site / 'dependencies.pth').write_text(
        sysconfig.get_path('purelib') + '\n'
    )  # of the folders there only this one: what is installed editable is not seen
    (wheel,) = folder.glob('*.whl')
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '--quiet', '--no-deps', '--ignore-installed', wheel)
    return folder, wheel


def asked(away, *command, check=True):
    folder, _ = away
    env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'VIRTUAL_ENV', 'CROSSMODAL_DATA')} | dict(
        PATH=f'{folder / "env" / "bin"}:{os.environ["PATH"]}', XDG_CACHE_HOME=str(folder / 'cache')
    )
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=check
    )


def test_the_wheel_holds_the_package_and_its_licence(away):
    names = zipfile.ZipFile(away[1]).namelist()
    produced = {str(f.relative_to(root)) for end in ('*.py', '*.toml') for f in (root / 'crossmodal_nb').rglob(end)}
    produced |= {f'crossmodal_nb/{f.removeprefix("nbs/")}' for f in carried('nbs/experiments')}
    produced |= {f'crossmodal_nb/{f}' for f in carried('book', '_extra', '_static', 'reported')}
    assert produced == {n for n in names if n.startswith('crossmodal_nb/')} and any(
        n.endswith('LICENSE') for n in names
    )


def test_the_sdist_holds_what_the_wheel_does(away):
    (archive,) = away[0].glob('*.tar.gz')
    version = crossmodal_nb.__version__
    assert archive.name == f'crossmodal_nb-{version}.tar.gz' and away[1].name.startswith(f'crossmodal_nb-{version}-')
    with tarfile.open(archive) as sdist:
        names = {n.partition('/')[2] for n in sdist.getnames()}
    expected = {'pyproject.toml', 'README.md', 'LICENSE', *carried('nbs/experiments')}
    expected |= set(carried('book', '_extra', '_static', 'reported'))
    expected |= {str(f.relative_to(root)) for end in ('*.py', '*.toml') for f in (root / 'crossmodal_nb').rglob(end)}
    assert expected <= names, expected - names


def test_it_is_imported_from_there(away):
    origin = asked(
        away, 'python', '-c', 'import crossmodal_nb; print(crossmodal_nb.__file__, crossmodal_nb.__version__)'
    ).stdout
    assert origin.startswith(str(away[0])), origin
    assert (root / 'CHANGELOG.md').read_text().find(origin.split()[1]) > 0, 'the version is not in the changelog'


def test_the_commands_answer(away):
    shown = asked(away, 'crossmodal', '--help').stdout
    assert all(c in shown for c in ('data', 'run', 'board', 'book', 'search', 'index', 'explore'))
    assert 'emoji' in asked(away, 'crossmodal', 'data').stdout


def test_own_data_from_its_files_to_a_report(away):
    "The current folder holds what is made; experiments and the sources of the book come with the package"
    rng, folder = np.random.default_rng(0), away[0]
    z = rng.normal(size=(90, 4))
    (folder / 'arrays').mkdir()
    for view, width in dict(left=6, right=8).items():
        x = z @ rng.normal(size=(4, width)) + 0.1 * rng.normal(size=(90, width))
        np.save(folder / 'arrays' / f'{view}.npy', x.astype(np.float32))
    assert 'left (90' in asked(away, 'crossmodal', 'data', 'add', 'toys', 'arrays').stdout
    tried = asked(away, 'crossmodal', 'try', 'toys', '--epochs', '1', '--seeds', '1', '--method', 'CCA').stdout
    assert 'begin with CCA' in tried, tried
    np.save(folder / 'query.npy', np.load(folder / 'arrays' / 'left.npy')[7])
    hits = asked(away, 'crossmodal', 'search', 'toys', 'query.npy', '--view', 'left', '-k', '3').stdout
    assert len(hits.splitlines()) == 4
    built = Path(asked(away, 'crossmodal', 'book').stdout.split(': ')[-1].strip())
    assert built == folder / 'book' / '_build' / 'html' / 'index.html'
    assert 'toys' in (built.parent / 'results' / 'try_toys.html').read_text()


@pytest.mark.skipif(not full, reason='every layout from the wheel: only in the whole form, CROSSMODAL_FULL=1')
@pytest.mark.parametrize('name', [*layouts, 'gazed'])
def test_every_layout_from_its_files_to_a_report(away, name):
    folder = away[0]
    given = folder / 'given' / name
    if name == 'gazed':
        pictures(given), a_file_for_each_picture(given)
        source, query = [given], 'a red square'
    else:
        make, _, query = layouts[name]
        source = make(given)
    if not (folder / 'work' / 'data').exists() and (root / 'work' / 'data').exists():
        (folder / 'work').mkdir(exist_ok=True)
        (folder / 'work' / 'data').symlink_to(root / 'work' / 'data')
    if query is None:
        np.save(query := folder / 'first.npy', np.load(given / 'image.npy')[0])
    view = dict(vectors=['--view', 'image'], questions=['--view', 'question']).get(name, [])
    asked(away, 'crossmodal', 'data', 'add', name, *source)
    assert 'begin with' in asked(away, 'crossmodal', 'try', name, '--seeds', 1, *quick).stdout
    assert len(asked(away, 'crossmodal', 'search', name, query, *view, '-k', 5).stdout.splitlines()) == 6
    assert f'try_{name}' in asked(away, 'crossmodal', 'board', name).stdout
    built = Path(asked(away, 'crossmodal', 'book', '--only-mine').stdout.split(': ')[-1].strip())
    page = (built.parent / 'results' / f'try_{name}.html').read_text()
    assert 'class="output error"' not in page and 'Traceback' not in page


def test_a_saved_index_answers(away):
    words = ['red apple', 'green apple', 'red car', 'green car', 'blue boat', 'red boat', 'blue car', 'old boat']
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 6))).float()
    raw = Views(picture=View(x, [f'p{i}' for i in range(8)]), text=View(words, [f'p{i}' for i in range(8)]))
    encoders = dict(text=TfIdf().fit(words))
    data = features(raw, encoders, cache=away[0] / 'features')
    Index(CCA(5, 1e-3).fit(data), data, encoders, raw, name='toys').save(away[0] / 'toys')
    shown = asked(away, 'crossmodal', 'search', away[0] / 'toys', 'blue boat', '-k', '3').stdout
    assert 'p4' in shown.splitlines()[1], shown
    wrong = asked(away, 'crossmodal', 'search', away[0] / 'toys', ' ', check=False)
    assert wrong.returncode and 'empty' in wrong.stderr + wrong.stdout
