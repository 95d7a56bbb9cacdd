"""The keys of runs: what must move them, and what must leave them as they are."""

import json
import shutil
from pathlib import Path

import pytest

from crossmodal_nb.datasets import entries
from crossmodal_nb.runs import definitions, keys, reach

package = Path(keys.__file__).parent.parent
experiments = package.parent / 'nbs' / 'experiments'


def notebook(path, *sources, params='level = 1'):
    def cell(source, *tags):
        return dict(cell_type='code', metadata=dict(tags=list(tags)), source=source, outputs=[], execution_count=None)

    path.write_text(
        json.dumps(
            dict(cells=[cell(params, 'parameters'), *map(cell, sources)], metadata={}, nbformat=4, nbformat_minor=5)
        )
    )
    return path


# ---- the package itself


def changed(folder, module, function):
    "The index of a copy of the package in which a function takes one more argument"
    copy = folder / 'crossmodal_nb'
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns('__pycache__'))
    file = copy / f'{module.replace(".", "/")}.py'
    text = file.read_text()
    file.write_text(text.replace(f'def {function}(', f'def {function}(more, ', 1))
    assert file.read_text() != text
    return reach.index(copy)


measuring = [
    ('metrics.ranking', 'recall_at', '10_cca'),
    ('metrics.uncertainty', 'bootstrap', '10_cca'),
    ('evaluation.retrieval', 'evaluate_rows', '10_cca'),
    ('metrics.geometry', 'structure', '10_cca'),
    ('report.leaderboard_rankings', 'significance', '90_board'),
    ('runs.record', '_merge', '32_ladder'),
    ('report.advice', 'decisions', '01_start'),
    ('profiling', 'slope', '95_cost'),
    ('metrics.hamming', 'search', '70_hashing'),
    ('metrics.saliency', 'nss', '41_saliency'),
    ('metrics.localization', 'rectangles', '85_localise'),
]
learnt = [
    ('losses.contrastive', 'info_nce', '30_clip'),
    ('nn.layers', '__init__', '30_clip'),
    ('nn.trainer', 'fit', '30_clip'),
    ('methods.neural', 'losses', '30_clip'),
    ('encoders.extraction', 'features', '10_cca'),
    ('data.views', 'subset', '10_cca'),
    ('datasets.emoji', 'emoji', '10_cca'),
]
shown = [
    ('report.galleries', 'plot_tsne', '10_cca'),
    ('report.tables', 'table', '90_board'),
    ('runs.record', 'machine', '10_cca'),
    ('runs.keys', 'digests', '10_cca'),
    ('report.staging', 'stage', '90_board'),
    ('metrics.ranking', 'recall_at', '01_start'),
    ('losses.contrastive', 'info_nce', '10_cca'),
    ('losses.correlation', 'barlow_twins', '30_clip'),
]


def moved(folder, module, function, name):
    path, params = experiments / f'{name}.ipynb', dict(dataset='emoji')
    previous, current = (
        keys.code_digests(path, params, index) for index in (reach.index(), changed(folder, module, function))
    )
    return {k for k in previous if previous[k] != current[k]}


@pytest.mark.parametrize('module, function, name', measuring)
def test_what_measures_moves_the_measure_alone(tmp_path, module, function, name):
    assert moved(tmp_path, module, function, name) == {'measure'}


@pytest.mark.parametrize('module, function, name', learnt)
def test_what_is_learnt_by_moves_the_fit(tmp_path, module, function, name):
    assert 'fit' in moved(tmp_path, module, function, name)


@pytest.mark.parametrize('module, function, name', shown)
def test_what_is_drawn_or_not_reached_moves_nothing(tmp_path, module, function, name):
    assert not moved(tmp_path, module, function, name)


def test_the_lists_of_modules_name_what_there_is():
    index = reach.index()
    for place in (*definitions.learning, *definitions.presentation):
        assert index.member(index.package, place) or index.member(
            f'{index.package}.{place.rpartition(".")[0]}', place.rpartition('.')[2]
        ), place


def test_every_data_set_is_found_by_its_name():
    assert all((m, name) in keys.named_definitions(dict(dataset=name), reach.index()) for name, m in entries().items())


# ---- a small package, changed in every way

losses = '''
import torch as t

scale = 2

def pull(a, b):
    "Closer"
    total = a - b          # a remark
    return total * scale

def push(a, b):
    total = a + b
    return total * scale

def _mixed(a, b, weight=1):
    return pull(a, b) * weight + push(b, a)

class Method:
    rate: float = .1
    def fit(self, views, start=0):
        items = [v for v in views]
        return _mixed(items[0], items[1], weight=start) + self.rate
'''
metrics = '''
from .losses import scale

def recall(scores, k=1):
    best = max(scores)
    return best * k

def gap(a, b): return a - b + scale

def evaluate(method, scores):
    if scores is None:
        raise ValueError('no scores')
    return recall(scores, k=2), gap(1, 2)
'''
code = '''from toy.losses import Method
from toy.metrics import evaluate
m = Method().fit([1, 2], start=level)
rows = evaluate(m, [1, 2])
print(rows)'''


class Toy:
    def __init__(self, folder):
        self.folder, self.path = folder, folder / 'toy.ipynb'

    def digests(self, files, source=code, params='level = 1', given=None):
        given = {'level': 1} if given is None else given
        root = self.folder / 'toy'
        shutil.rmtree(root, ignore_errors=True)
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        index = reach.Index(root)
        path = notebook(self.path, source, params=params)
        return dict(
            notebook=keys.notebook_digest(path, index),
            params=index.names.value(given),
            **keys.code_digests(path, given, index),
        )

    def moved(self, files, source=code, **more):
        previous = self.digests(base)
        current = self.digests(files, source, **more)
        return {k for k in previous if previous[k] != current[k]}


base = {'__init__.py': '', 'losses.py': losses, 'metrics.py': metrics}


@pytest.fixture
def toy(tmp_path):
    return Toy(tmp_path)


def swapped(text, *pairs):
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


same_losses = dict(
    remark=[('# a remark', '# another'), ('"Closer"', '"Nearer, and a longer docstring"')],
    wrapped=[('return total * scale\n\ndef push', 'return (total\n            * scale)\n\n\ndef push')],
    local=[('total', 'result')],
    comprehension=[('[v for v in views]', '[view for view in views]')],
    annotation=[('def pull(a, b)', "def pull(a:'Tensor', b:int) -> float")],
    alias=[('import torch as t', 'import torch')],
    private=[('_mixed', '_blended'), ('weight=1', 'share=1'), ('weight=start', 'share=start'), ('* weight', '* share')],
    order=[('\nscale = 2\n', ''), ('class Method', 'scale = 2\n\nclass Method')],
)


@pytest.mark.parametrize('how', same_losses)
def test_what_changes_no_number_moves_nothing(toy, how):
    assert not toy.moved(base | {'losses.py': swapped(losses, *same_losses[how])})


other_losses = dict(
    constant=[('scale = 2', 'scale = 3')],
    swapped=[('pull(a, b) * weight + push(b, a)', 'push(a, b) * weight + pull(b, a)')],
    arguments=[('push(b, a)', 'push(a, b)')],
    default=[('start=0', 'start=1')],
    keyword=[('start=0', 'begin=0'), ('weight=start', 'weight=begin')],
    attribute=[('rate: float', 'speed: float'), ('self.rate', 'self.speed')],
    field=[('rate: float', 'rate: int')],
    locals=[('total = a - b          # a remark\n    return total', 'total = a - b\n    return a')],
)


@pytest.mark.parametrize('how', other_losses)
def test_what_changes_a_loss_moves_the_fit(toy, how):
    assert 'fit' in toy.moved(base | {'losses.py': swapped(losses, *other_losses[how])})


def test_two_functions_that_call_each_other_are_told_apart(toy):
    even = (
        'def evaluate(m, n):\n    return n == 0 or odd(m, n - 1)\n\ndef odd(m, n):\n    return n != 0 and '
        'evaluate(m, n - 1)\n'
    )
    previous, current = (
        toy.digests(base | {'metrics.py': text}) for text in (even, even.replace('or odd', 'or evaluate'))
    )
    assert previous['measure'] != current['measure'] and previous['fit'] == current['fit']


def test_a_function_may_move_and_take_another_name(toy):
    body = metrics[metrics.index('def recall') : metrics.index('def gap')]
    files = {
        'metrics/__init__.py': '',
        '__init__.py': '',
        'losses/__init__.py': '',
        'losses/all.py': losses,
        'metrics/ranking.py': swapped(body, ('def recall', 'def hits')),
        'metrics/rest.py': swapped(
            metrics,
            (body, ''),
            ('from .losses', 'from . import ranking\nfrom ..losses.all'),
            ('recall(', 'ranking.hits('),
        ),
    }
    source = swapped(code, ('toy.losses', 'toy.losses.all'), ('toy.metrics', 'toy.metrics.rest'))
    assert not toy.moved(files, source)


def test_the_words_of_an_error_change_nothing_its_class_does(toy):
    assert not toy.moved(base | {'metrics.py': swapped(metrics, ("'no scores'", "f'{scores} are no scores'"))})
    assert toy.moved(base | {'metrics.py': swapped(metrics, ('ValueError', 'TypeError'))}) == {'measure'}


def test_the_map_of_names_holds_old_keys(toy):
    new = swapped(
        losses,
        ('start=0', 'init=0'),
        ('weight=start', 'weight=init'),
        ('rate: float', 'speed: float'),
        ('self.rate', 'self.speed'),
        ('class Method', 'class Learner'),
        ('def fit', 'def learn'),
    )
    files = base | {'losses.py': new}
    source = swapped(code, ('Method', 'Learner'), ('start=level', 'init=height'), ('.fit(', '.learn('))
    renamed = dict(params='height = 1', given=dict(height=1))
    assert toy.moved(files, source, **renamed) == {'notebook', 'params', 'fit'}
    names = (
        '[parameters]\nstart = "init"\nlevel = "height"\n[attributes]\nrate = "speed"\nfit = '
        '"learn"\n[names]\nMethod = "Learner"\n'
    )
    assert not toy.moved(files | {'names.toml': names}, source, **renamed)


def test_code_with_the_same_results_counts_as_what_it_was(toy):
    short = swapped(losses, ('total = a - b          # a remark\n    return total', 'return (a - b)'))
    source = swapped(code, ('m = Method().fit([1, 2], start=level)\nrows = evaluate(m,', 'rows = evaluate(Method(),'))

    def contents(losses, source):
        found = toy.digests(base | {'losses.py': losses}, source)
        return reach.Index(toy.folder / 'toy').contents['toy.losses', 'pull'], found['notebook']

    table = '[rewritten]\n' + ''.join(
        f'{was} = "{now}"\n' for was, now in zip(contents(losses, code), contents(short, source))
    )
    files = base | {'losses.py': short}
    assert toy.moved(files, source) == {'notebook', 'fit'}
    assert not toy.moved(files | {'names.toml': table}, source)
    files |= {'losses.py': swapped(short, ('(a - b)', '(b - a)')), 'names.toml': table}
    assert toy.moved(files, source) == {'fit'}  # changed once more, it counts as what it is


def test_a_method_that_a_parameter_names_is_reached_under_either_name(toy):
    files = base | {'towers.py': losses, 'names.toml': '[modules]\nlosses = "towers"\n[names]\nMethod = "Tower"\n'}
    files['towers.py'] = swapped(losses, ('class Method', 'class Tower'))
    del files['losses.py']
    files['metrics.py'] = swapped(metrics, ('.losses', '.towers'))
    source = 'from toy.metrics import evaluate\nevaluate(level, [1])'
    old = toy.digests(base, source, given=dict(level='losses:Method'))
    pair = [toy.digests(files, source, given=dict(level=text)) for text in ('losses:Method', 'towers:Tower')]
    assert pair[0] == pair[1] and old['params'] == pair[0]['params']
    assert old != toy.digests(base, source, given=dict(level='losses:pull'))


same_notebook = dict(
    wrapped=[('evaluate(m, [1, 2])', 'evaluate(\n    m,\n    [1, 2],\n)')],
    variables=[('m = ', 'model = '), ('evaluate(m', 'evaluate(model')],
    path=[('from toy.metrics import evaluate', 'from toy import metrics'), ('= evaluate(', '= metrics.evaluate(')],
    remark=[('print(rows)', '# the rows\n\nprint(rows)   # here')],
    magic=[('m = ', '%matplotlib inline\nm = ')],
    unused=[('from toy.losses', 'import os, sys\nfrom toy.losses')],
)


@pytest.mark.parametrize('how', same_notebook)
def test_a_notebook_may_be_wrapped_anew(toy, how):
    assert not toy.moved(base, swapped(code, *same_notebook[how]))


def test_a_notebook_that_calls_something_else_has_changed(toy):
    assert toy.moved(base, swapped(code, ('[1, 2], start', '[2, 1], start'))) == {'notebook'}
    assert toy.moved(base, swapped(code, ('start=level', 'start=1'))) == {'notebook'}
    assert toy.moved(base, swapped(code, ('import evaluate', 'import gap'), ('evaluate(m, [1, 2])', 'gap(m, 2)'))) == {
        'notebook',
        'measure',
    }


def test_what_runs_on_import_counts(toy):
    assert toy.moved(base | {'losses.py': losses + '\nt.set_num_threads(1)\n'}) == {'fit'}
    step = (
        'steps = {}\ndef step(f):\n    steps[f.__name__] = f\n    return f\n\n@step\ndef _(n):\n    return n\n\ndef '
        'evaluate(m, n):\n    return steps\n'
    )
    previous, current = (
        toy.digests(base | {'metrics.py': text}) for text in (step, step.replace('return n\n', 'return n + 1\n'))
    )
    assert previous['measure'] != current['measure']


def test_a_module_that_is_passed_on_counts_in_full(toy):
    source = 'from toy import losses\nprint(getattr(losses, "pull"))'
    previous, current = (
        toy.digests(base | {'losses.py': text}, source)
        for text in (losses, losses + '\ndef further():\n    return 1\n')
    )
    assert previous['fit'] != current['fit'] and previous['notebook'] == current['notebook']
    assert not toy.moved(base | {'losses.py': losses + '\ndef further():\n    return 1\n'})


def test_an_index_is_made_anew_when_a_file_has_changed(toy):
    toy.digests(base)
    root = toy.folder / 'toy'
    first = reach.index(root)
    assert reach.index(root) is first
    (root / 'losses.py').write_text(losses + '\n')
    assert reach.index(root) is not first


def test_a_record_of_before_is_stale_and_nothing_breaks():
    now = dict(notebook='n', params='p', fit='f', measure='m', data='d')
    assert keys.differs(dict(digests=dict(notebook='n', params='p', code='c', data='d')), now) == ['fit', 'measure']
    assert keys.differs(dict(digests=now), now | dict(data=None)) == []
