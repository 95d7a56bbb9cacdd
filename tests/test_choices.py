"Encoders by name and folders of own data, as parameters of experiments; and labels with several classes a row."

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import manifest
from test_own import crossmodal, home  # noqa: F401 (a fixture)

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.data.synthetic import make_gaussian_views
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.datasets import load
from crossmodal_nb.encoders.base import Encoder
from crossmodal_nb.encoders.presets import encoded, shipped, view_encoders
from crossmodal_nb.evaluation.selection import grid_search
from crossmodal_nb.methods.linear import CCA
from crossmodal_nb.methods.saving import methods
from crossmodal_nb.nn.trainer import Collapse
from crossmodal_nb.runs import keys, record, runner
from crossmodal_nb.search import Index

root = Path(__file__).parent.parent
experiments = sorted((root / 'nbs' / 'experiments').glob('*.ipynb'))
with_data = [f for f in experiments if 'dataset' in record.parameters(f)]


# ---------------------------------------------------------------- encoders by name
@pytest.mark.parametrize('f', with_data, ids=lambda f: f.stem)
def test_every_experiment_on_data_declares_its_folder_and_its_encoders(f):
    declared = record.parameters(f)
    assert declared['root'] == '' and declared['encoders'] == {}


def texts(**views):
    return dict(train=Views({v: View(x) for v, x in views.items()}))


def test_own_encoders_are_taken_too():
    class Lengths(Encoder):
        spec = dict(name='Lengths')

        def __call__(self, rows):
            return {'pooled': torch.tensor([[float(len(r))] for r in rows])}

    chosen = view_encoders(texts(title=['a', 'b'], text=['red wine', 'a pear']), dict(title=Lengths(), text='TfIdf'))
    assert type(chosen['title']) is Lengths and {*chosen['text'].vectorizer.vocabulary_} == {'red', 'wine', 'pear'}


def test_shipped_encoders_have_names_and_modalities():
    assert {kind for _, kind in shipped().values()} == {'image', 'text', 'sound', 'mesh', 'video'}
    assert {'EfficientNetLite', 'ResNet50', 'MiniLM', 'TfIdf', 'GloVe', 'MFCC', 'LogMel', 'Video'} <= {*shipped()}
    assert 'ConvNet' not in shipped()  # a base without weights


def test_the_key_moves_with_the_encoders_and_not_without():
    path = root / 'nbs' / 'experiments' / '10_cca.ipynb'
    given = record.parameters(path)
    before = {k: v for k, v in given.items() if k != 'encoders'}  # a record from before there was the parameter
    now, other = (keys.digests(path, given | dict(encoders=e)) for e in ({}, dict(text='GloVe')))
    assert keys.digests(path, before)['params'] == now['params'] != other['params']
    assert now['fit'] != other['fit']  # what GloVe is made by counts


# ---------------------------------------------------------------- folders
def arrays(folder, n=60):
    g = np.random.default_rng(0)
    folder.mkdir(parents=True)
    z = g.normal(size=(n, 4))
    for view, width in dict(image=6, text=5).items():
        np.save(folder / f'{view}.npy', (z @ g.normal(size=(4, width))).astype('f4'))
    return folder


def test_papermill_alone_sees_a_folder_from_where_it_was_called(tmp_path):
    arrays(tmp_path / 'data' / 'mine')
    given = dict(dataset='arrays', root='data/mine', args='{dim: 2}', out=str(tmp_path / 'r.json'))
    options = [w for k, v in given.items() for w in ('-p', k, v)]
    call = [sys.executable, '-m', 'papermill', str(root / 'nbs' / 'experiments' / '00_method.ipynb'), 'out.ipynb']
    done = subprocess.run(
        [*call, *options, '-k', 'python3', '--no-progress-bar'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | dict(PYTHONPATH=str(root)),
    )
    assert done.returncode == 0, done.stderr
    assert 'root' not in json.loads((tmp_path / 'r.json').read_text())['params']


loads = '''
from crossmodal_nb.datasets import load
from crossmodal_nb.runs.record import Run, check_parameters
check_parameters('10_toy', globals())
n = len(load(dataset, root=root or None)['train']['image'])
score = dict(query='a', gallery='b', metric='R@1', value=n / 100, split='valid', pool='all')
Run('10_toy', globals(), [score]).save(out)
'''


@pytest.fixture
def toy(house):
    "A checkout whose notebook loads arrays"
    path = house / 'nbs' / 'experiments' / '10_toy.ipynb'
    nb = json.loads(path.read_text())
    nb['cells'][1]['source'] = "dataset = 'arrays'\nroot = ''\noptions = {}\nfinal = False\nout = None"
    nb['cells'][2]['source'] = loads
    path.write_text(json.dumps(nb))
    return house


def test_the_manifest_sees_a_folder_from_the_checkout(toy, monkeypatch):
    arrays(toy / 'data' / 'mine')
    manifest(toy, '[toy]\nnotebook = "10_toy.ipynb"\nparams = {root = "data/mine"}\n')
    monkeypatch.chdir(toy / 'nbs')  # wherever it is typed
    (job,) = runner.plan()
    assert job['params']['root'] == str(toy / 'data' / 'mine') and job['digests']['data']


def test_below_the_folders_of_data_it_is_found_too(toy, monkeypatch):
    arrays(toy / 'sets' / 'mine')
    manifest(toy, '[toy]\nnotebook = "10_toy.ipynb"\nparams = {root = "mine"}\n')
    monkeypatch.chdir(toy)
    monkeypatch.setenv('CROSSMODAL_DATA', 'sets')
    (job,) = runner.plan()
    assert job['params']['root'] == str(toy / 'sets' / 'mine') and job['digests']['data']
    assert len(load('arrays', root='mine')) == 3
    with pytest.raises(InputError, match='no folder mien or sets/mien'):
        load('arrays', root='mien')


def test_a_relative_folder_of_all_data_is_found_by_kernels(toy, monkeypatch):
    arrays(toy / 'sets' / 'mine')
    path = toy / 'nbs' / 'experiments' / '10_toy.ipynb'
    path.write_text(path.read_text().replace('root=root or None', "root='mine'").replace("'arrays'", "'gaussian'"))
    path.write_text(path.read_text().replace('load(dataset', "load('arrays'"))
    manifest(toy, '[toy]\nnotebook = "10_toy.ipynb"\n')
    monkeypatch.setenv('CROSSMODAL_DATA', 'sets')
    assert '1 ran, 0 failed' in crossmodal(toy, 'run')
    assert os.environ['CROSSMODAL_DATA'] == 'sets'


@pytest.mark.parametrize('name, value', [('root', '"mine"'), ('sample', '10')])
def test_options_hold_no_parameter_of_its_own(toy, name, value, monkeypatch):
    manifest(toy, f'[toy]\nnotebook = "00_method.ipynb"\nparams = {{options = {{{name} = {value}}}}}\n')
    (toy / 'nbs' / 'experiments' / '00_method.ipynb').write_text(
        (root / 'nbs' / 'experiments' / '00_method.ipynb').read_text()
    )
    monkeypatch.chdir(toy)
    with pytest.raises(InputError, match=rf"'options' of 00_method.ipynb \(entry \[toy\]\): {name} is a parameter"):
        runner.plan()


def test_a_folder_among_the_options_of_a_notebook_without_root_is_the_folder(tmp_path):
    path = root / 'nbs' / 'experiments' / '00_method.ipynb'
    given = record.parameters(path) | dict(dataset='arrays')
    by_root, by_options = (
        keys.digests(path, given | where)
        for where in (
            dict(root=str(arrays(tmp_path / 'a'))),
            dict(options=dict(root=str(arrays(tmp_path / 'b')))),
        )
    )
    assert by_root['data'] and by_root == by_options


# ---------------------------------------------------------------- several classes a row
def with_two_labels(n=120, seed=0):
    views = load('classes', n=n, seed=seed)['train'].select('image', 'text')
    one_hot = torch.nn.functional.one_hot
    y = {v: one_hot(x.y, 5) | one_hot((x.y + 1) % 5, 5) for v, x in views.items()}
    return Views({v: View(x.x, y=y[v]) for v, x in views.items()})


supervised = {k: c for k, c in methods().items() if getattr(c, 'supervised', False)}


@pytest.mark.parametrize('name', supervised)
def test_several_labels_are_learnt_from_or_refused_with_who_takes_them(name):
    cls = supervised[name]
    m = cls.example() if hasattr(cls, 'example') else cls()
    if 'trainer' in m.get_params():
        m.set_params(trainer__epochs=2)
    train = with_two_labels()
    for v in train.values():
        v.y[:5] = 0  # without a label
    if not cls.several_labels:
        with pytest.raises(InputError, match=r'one a row is needed here\. Methods that take several: .*\bSM\b'):
            m.fit(train)
        return
    m.fit(train)
    assert m.encode('image', train['image'].x).isfinite().all()


def test_a_class_that_all_rows_have_or_none():
    train = with_two_labels()
    for v, x in train.items():
        train[v] = View(x.x, y=torch.cat([x.y, torch.ones(len(x), 1), torch.zeros(len(x), 1)], 1))
    p = supervised['semantic:SM']().fit(train).encode('text', train['text'].x)
    assert p.shape[1] == 7 and (p[:, 5] == 1).all() and (p[:, 6] == 0).all()


@pytest.fixture(scope='module')
def reports(home):  # noqa: F811
    "Two texts a row, and one or two topics"
    topics = dict(sport=['Tor', 'Spiel', 'Liga'], politik=['Wahl', 'Gesetz', 'Partei'], wetter=['Regen', 'Wind', 'Eis'])
    draw = random.Random(0)
    with (home / 'reports.csv').open('w', newline='', encoding='utf-8') as f:
        rows = csv.writer(f)
        rows.writerow(['titel', 'text', 'labels'])
        for i in range(110):
            named = draw.sample(sorted(topics), 1 + i % 2)
            a, b = ([draw.choice(topics[t]) for t in named] for _ in range(2))
            rows.writerow([f'{" und ".join(a)} {i}', f'Nummer {i}: {" mit ".join(b)}', json.dumps(named)])
    given = ('--label', 'labels', '--text', 'titel', '--text', 'text')
    crossmodal(home, 'data', 'add', 'reports', 'reports.csv', *given)
    return home


def test_a_trial_with_named_encoders_on_rows_of_several_classes(reports, monkeypatch):
    tried = crossmodal(reports, 'try', 'reports', '--epochs', 1, '--seeds', 1, '--encoder', 'text=TfIdf')
    lines = [line.split() for line in tried.splitlines()]
    assert {'CCA', 'SM', 'DSCMR', 'CVS', 'DCMH'} <= {line[2] for line in lines if len(line) > 2}
    (file,) = (reports / 'work' / 'records' / 'try_reports').glob('*.json')
    assert json.loads(file.read_text())['params']['encoders'] == dict(text='TfIdf')
    assert not json.loads(file.read_text())['tables']['refused']

    monkeypatch.chdir(reports)
    assert load('reports')['train']['text'].y.dim() == 2
    index = Index.load(reports / 'work' / 'index' / 'reports')
    assert [type(e).__name__ for several in index.encoders.values() for e in several] == ['TfIdf', 'TfIdf']
    assert len(crossmodal(reports, 'search', 'reports', 'Regen', '-k', 2).splitlines()) == 3

    path = Path(crossmodal(reports, 'new', 'own_look', 'reports').splitlines()[0])
    assert record.parameters(path)['encoders'] == dict(text='TfIdf')


@pytest.mark.parametrize(
    'given, says',
    [
        ('text=TfIfd', "did you mean 'TfIdf'"),
        ('text=MFCC', "reads rows of modality 'sound', not 'text'"),
        ('titl=TfIdf', "did you mean 'titel'"),
        ('TfIdf', 'VIEW=NAME is expected'),
    ],
)
def test_a_wrong_encoder_is_refused_before_anything_runs(reports, given, says):
    for call in (('try', 'reports'), ('features', 'reports'), ('index', 'reports'), ('new', 'odd_look', 'reports')):
        assert says in crossmodal(reports, *call, '--encoder', given, fails=True)
    assert not (reports / 'work' / 'odd_look.ipynb').exists()


def test_rows_that_are_encoded_keep_their_labels(tmp_path):
    raw = dict(train=Views(text=View(['red wine', 'a pear'], y=[[1, 1], [0, 0]])))
    assert encoded(raw, dict(text='TfIdf'), tmp_path)['train']['text'].y.tolist() == [[1, 1], [0, 0]]


class Sometimes(CCA):
    "Training that collapses with some settings"

    derived_params = ()  # each setting is a fit

    def fit(self, train, validate=None):
        if self.dim in (2, 3):
            raise Collapse(f'dim {self.dim} makes no progress')
        return super().fit(train, validate)


def test_a_setting_that_collapses_is_left_out_with_a_word():
    "The other settings are tried; where all collapse, the method is refused with the reason"
    train, valid = (make_gaussian_views(80, seed=s) for s in (0, 1))
    with pytest.warns(UserWarning, match=r"Sometimes, \{'ridge': 0.1, 'dim': 2\}: the setting is left out. dim 2"):
        search = grid_search(Sometimes(), [dict(ridge=0.1, dim=2), dict(ridge=0.1, dim=4)], train, valid)
    assert search.settings == [dict(ridge=0.1, dim=4)] and search.method.dim == 4
    with pytest.warns(UserWarning), pytest.raises(InputError, match='every setting collapses: dim 3'):
        grid_search(Sometimes(), [dict(dim=2), dict(dim=3)], train, valid)
