"Old names: the script renames what a word resolves to, and what was saved before is still read."

import importlib.util
import json
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from crossmodal_nb.core import names as core_names
from crossmodal_nb.core.checks import InputError
from crossmodal_nb.core.files import sealed
from crossmodal_nb.core.names import current_name, current_parameters, names
from crossmodal_nb.methods import saving
from crossmodal_nb.methods.base import Method
from crossmodal_nb.methods.saving import find, saved_class

root = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location('rename', root / 'tools' / 'rename.py')
rename = importlib.util.module_from_spec(spec)
sys.modules['rename'] = rename
spec.loader.exec_module(rename)

MAP = '''
[names]
pick = "choose_one"
cross = "outer"
"toys.still" = "frozen"
Old = "New"

[attributes]
"Base.learn" = "infer"
"Other.learn" = "fit"
"*.holding" = "with_features"
"*.clamp" = "after_step"

[parameters]
"Base.start" = "init"
"fit.check" = "validate"
"Base.fit.most" = "max_rows"
"e.least" = "min_rows"
'''

CORE = '''#| export
def pick(name, options):
    "See `pick`"
    return name   # `pick` it

def still(x): return x
'''

TOYS = '''#| export
from crossmodal_nb.core import pick, still as calm

class Base:
    def __init__(self, start='cca', size=2):
        self.start, self.size = pick(start, ('cca',)), size
        self.kind = pick(start, ('cca',), 'start')
    def learn(self, x): return f'{self.start} of {pick(x, [x])!r} {self.size:{self.size}}'
    def clamp(self): pass
    def fit(self, x, check=None, most=3):
        self.learn(x)
        return check and check(most)

class Old(Base):
    def learn(self, x): return super().learn(x)

class Other:
    def learn(self, x): self.start = x

def still(x): return x
'''


def notebook(module, *cells):
    "Code cells, and texts of markdown in a tuple"
    produced = [f'#| default_exp {module}'] if module else []
    out = []
    for i, c in enumerate([*produced, *cells]):
        kind, text = ('markdown', c[0]) if isinstance(c, tuple) else ('code', c)
        out.append(dict(cell_type=kind, id=f'c{i}', metadata={}, source=text.splitlines(keepends=True)))
    return json.dumps(dict(cells=out, metadata={}, nbformat=4, nbformat_minor=5))


def world(folder, cells=(), test='', page='', manifest='', module='', core=CORE, toys=TOYS):
    "A small checkout; a third notebook holds `cells`"
    for part in ('nbs/experiments', 'nbs/methods', 'tests', 'book', 'crossmodal_nb'):
        (folder / part).mkdir(parents=True)
    (folder / 'nbs' / 'anything.ipynb').write_text(notebook('core', core))
    (folder / 'nbs' / 'methods' / 'b.ipynb').write_text(notebook('methods.toys', toys))
    (folder / 'nbs' / 'experiments' / 'e.ipynb').write_text(notebook(module, *cells))
    (folder / 'nbs' / 'experiments' / 'experiments.toml').write_text(manifest)
    (folder / 'tests' / 'test_a.py').write_text(test)
    (folder / 'book' / 'page.md').write_text(page)
    return folder


def renamed(folder, decisions=None, **what):
    "(text of the third notebook's cells, text of the other files, unsure sites, errors) after renaming"
    root = world(folder, **what)
    _, unsure, errors = rename.apply(root, rename.Map(tomllib.loads(MAP), decisions), write=True)
    texts = {f.name: f.read_text() for f in root.rglob('*') if f.is_file()}
    cells = {
        n: [''.join(c['source']) for c in json.loads(t)['cells']] for n, t in texts.items() if n.endswith('.ipynb')
    }
    return cells | {n: t for n, t in texts.items() if n not in cells}, [u[2:4] for u in unsure], errors


def test_definitions_members_and_parameters_are_renamed_and_nothing_else(tmp_path):
    out, unsure, errors = renamed(tmp_path)
    assert (unsure, errors) == ([], [])
    assert out['anything.ipynb'][1] == CORE.replace('pick', 'choose_one')
    expected = '''#| export
from crossmodal_nb.core import choose_one, still as calm

class Base:
    def __init__(self, init='cca', size=2):
        self.init, self.size = choose_one(init, ('cca',)), size
        self.kind = choose_one(init, ('cca',), 'init')
    def infer(self, x): return f'{self.init} of {choose_one(x, [x])!r} {self.size:{self.size}}'
    def after_step(self): pass
    def fit(self, x, validate=None, max_rows=3):
        self.infer(x)
        return validate and validate(max_rows)

class New(Base):
    def infer(self, x): return super().infer(x)

class Other:
    def fit(self, x): self.start = x

def frozen(x): return x
'''
    assert out['b.ipynb'][1] == expected


@pytest.mark.parametrize(
    'code',
    [
        'pick = 3\nprint(pick)',
        'def f(pick, start): return pick + start',
        'f = lambda pick: pick',
        'print([pick for pick in "abc"], {start: 1 for start in "ab"})',
        'from random import choice as pick\npick([1])',
        'import numpy as np\nnp.pick(np.holding)',
        'x = dict(pick=1)["pick"]',
        'def f():\n    pick = 1\n    return lambda: pick',
    ],
)
def test_a_local_name_of_the_same_spelling_stays(code, tmp_path):
    out, _, errors = renamed(tmp_path, cells=[code])
    assert out['e.ipynb'] == [code] and not errors


@pytest.mark.parametrize(
    'code,new',
    [
        (
            'from crossmodal_nb.core import pick\nprint( pick( "a",["a"] ) )  # keeps   its form',
            'from crossmodal_nb.core import choose_one\nprint( choose_one( "a",["a"] ) )  # keeps   its form',
        ),
        (
            'from crossmodal_nb.core import pick as p\np(1, 2)',
            'from crossmodal_nb.core import choose_one as p\np(1, 2)',
        ),
        ('from crossmodal_nb import core\ncore.pick(1, 2)', 'from crossmodal_nb import core\ncore.choose_one(1, 2)'),
        ('import crossmodal_nb.core as c\nc.pick(1, 2)', 'import crossmodal_nb.core as c\nc.choose_one(1, 2)'),
        (
            'from crossmodal_nb.methods import toys\ntoys.still(toys.Old(start=1))',
            'from crossmodal_nb.methods import toys\ntoys.frozen(toys.New(init=1))',
        ),
        (
            'from crossmodal_nb.core import still\nstill(1)',
            'from crossmodal_nb.core import still\nstill(1)',
        ),  # another module's
        (
            'from crossmodal_nb.methods.toys import pick\npick(1, 2)',
            'from crossmodal_nb.methods.toys import choose_one\nchoose_one(1, 2)',
        ),
        (
            'from crossmodal_nb.core import pick\ndef f(x, pick=pick): return pick',
            'from crossmodal_nb.core import choose_one\ndef f(x, pick=choose_one): return pick',
        ),
        (
            '%matplotlib inline\nfrom crossmodal_nb.core import pick\npick("é", f"ü{pick(1, 2)}{3!r}")',
            '%matplotlib inline\nfrom crossmodal_nb.core import choose_one\nchoose_one("é", f"ü{choose_one(1, '
            '2)}{3!r}")',
        ),
    ],
)
def test_a_name_of_the_package_is_found_however_it_is_reached(code, new, tmp_path):
    out, unsure, errors = renamed(tmp_path, cells=[code])
    assert (out['e.ipynb'], unsure, errors) == ([new], [], [])


@pytest.mark.parametrize(
    'code,new',
    [
        ('m = Old(start="cca")\nm.learn(1); m.start', 'm = New(init="cca")\nm.infer(1); m.init'),
        ('m = Old().fit(1, check=len, most=2)\nm.learn(1)', 'm = New().fit(1, validate=len, max_rows=2)\nm.infer(1)'),
        ('def f(m: Old): return m.learn(1)', 'def f(m: New): return m.infer(1)'),
        ('Other().learn(1); Other().start', 'Other().fit(1); Other().start'),
        (
            'class Mine(Old):\n    def learn(self): return self.start',
            'class Mine(New):\n    def infer(self): return self.init',
        ),
        ('x.holding(y)', 'x.with_features(y)'),
        (
            'def new(cls, **how): return cls(**how)\nnew(Old, start=1)',
            'def new(cls, **how): return cls(**how)\nnew(New, init=1)',
        ),
        ('from functools import partial\npartial(Old, start=1)', 'from functools import partial\npartial(New, init=1)'),
    ],
)
def test_members_follow_the_class_of_their_receiver(code, new, tmp_path):
    head, past = (
        'from crossmodal_nb.methods.toys import Old, Other\n',
        'from crossmodal_nb.methods.toys import New, Other\n',
    )
    out, unsure, errors = renamed(tmp_path, cells=[head + code])
    assert (out['e.ipynb'], unsure, errors) == ([past + new], [], [])


def test_what_cannot_be_known_is_told_and_a_person_decides(tmp_path):
    code = 'x.learn(1)\ny.learn(2)\nz = dict(start=3)\nw = dict(start=4)'
    out, unsure, _ = renamed(tmp_path / 'a', cells=[code])
    assert out['e.ipynb'] == [code] and sorted(w for w, _ in unsure) == ['learn', 'learn', 'start', 'start']
    decisions = dict(receivers=dict(x='Base'), unsure=dict(start='-', learn='-'), sites=dict(start=[['z = ', 'init']]))
    out, unsure, _ = renamed(tmp_path / 'b', decisions, cells=[code])
    assert out['e.ipynb'] == ['x.infer(1)\ny.learn(2)\nz = dict(init=3)\nw = dict(start=4)'] and not unsure


def test_an_object_of_a_base_class_may_be_of_the_class_that_has_the_member(tmp_path):
    map_ = MAP.replace('"Base.learn"', '"Old.only_here" = "elsewhere"\n"Base.learn"')
    toys = TOYS.replace('class Other', '    def only_here(self): pass\n\nclass Other')
    root = world(
        tmp_path, cells=['from crossmodal_nb.methods.toys import Base\ndef f(m: Base): m.only_here()'], toys=toys
    )
    for decisions, unsure, text in (
        ({}, 1, 'm.only_here()'),
        (dict(unsure=dict(only_here='elsewhere')), 0, 'm.elsewhere()'),
    ):
        changed, doubts, _ = rename.apply(root, rename.Map(tomllib.loads(map_), decisions))
        cell = json.loads(
            next((t for f, t in changed.items() if f.name == 'e.ipynb'), (root / 'nbs/experiments/e.ipynb').read_text())
        )
        assert len(doubts) == unsure and text in ''.join(cell['cells'][0]['source'])


def test_a_word_that_is_also_anothers_is_left_where_a_person_says_so(tmp_path):
    decisions = dict(unsure=dict(clamp='-'), sites=dict(clamp=[['clamp()', 'after_step']]))
    out, _, _ = renamed(tmp_path, decisions, cells=['x.clamp(min=0)\nmodule.clamp()'])
    assert out['e.ipynb'] == ['x.clamp(min=0)\nmodule.after_step()']


@pytest.mark.parametrize(
    'code',
    [
        'from crossmodal_nb.core import pick\nchoose_one = 1\npick(1, 2)',
        'from crossmodal_nb.core import pick\ndef f(choose_one): return pick(choose_one, 2)',
        'from crossmodal_nb.methods.toys import Old\nclass Mine(Old):\n    def infer(self): pass\n    def '
        'learn(self): pass',
        'def fit(x, check, validate): return check',
    ],
)
def test_a_new_name_that_is_taken_is_an_error_and_its_file_stays(code, tmp_path):
    out, _, errors = renamed(tmp_path, cells=[code])
    assert out['e.ipynb'] == [code] and len(errors) >= 1 and 'is bound there already' in errors[0]
    assert 'choose_one' in out['anything.ipynb'][1]


def test_two_definitions_of_a_module_may_not_become_one(tmp_path):
    _, _, errors = renamed(tmp_path, toys=TOYS + '\nclass New: pass\n')
    assert any('would all be New' in e or 'bound there already' in e for e in errors)


def test_prose(tmp_path):
    text = (
        '`pick` and `core.pick(1)`; pick, `pickle`, ``Old(start=2)`` and `Base.learn`.\n\n```python\nfrom '
        'crossmodal_nb.core import pick\npick(1, 2)\n```\n'
    )
    new = (
        '`choose_one` and `core.choose_one(1)`; pick, `pickle`, ``New(init=2)`` and '
        '`Base.infer`.\n\n```python\nfrom crossmodal_nb.core import choose_one\nchoose_one(1, 2)\n```\n'
    )
    out, _, _ = renamed(tmp_path, cells=[(text,), 'pick = 1'], page=text)
    assert out['page.md'] == new
    out, _, _ = renamed(tmp_path / 'b', cells=[(text,)])
    assert out['e.ipynb'] == [new]


def test_texts_that_are_paths_or_members(tmp_path):
    test = (
        "from crossmodal_nb import core\nmonkeypatch.setattr(core, 'pick', "
        "1)\nmonkeypatch.setattr('crossmodal_nb.core.pick', 1)\n"
        "monkeypatch.setattr(other, 'pick', 1)\nx = 'pick'\n"
    )
    new = test.replace("core, 'pick'", "core, 'choose_one'").replace('core.pick', 'core.choose_one')
    out, _, _ = renamed(tmp_path, test=test)
    assert out['test_a.py'] == new


def test_the_list_of_experiments(tmp_path):
    text = (
        '[start]\nparams = {start = "a", base = {start = "b", size = 2}, options = {start = "c"}, ladder = {"x '
        'start" = {start = "d"}}}\n'
        '# {a = {start = 1}}\n'
    )
    new = text.replace('base = {start', 'base = {init').replace('{start = "d"', '{init = "d"')
    out, _, _ = renamed(tmp_path, manifest=text)
    assert out['experiments.toml'] == new and tomllib.loads(new)


def test_the_list_of_experiments_in_tables_of_their_own(tmp_path):
    text = (
        '[start.params]\nstart = "a"\nbase = {start = "b"}\noptions = {start = "c"}\nladder."x.start" = {start = "d"}\n'
        'deep.start = "e"\nviews = [\n    ["start", "name"],\n]\n'
    )
    new = (
        text.replace('{start = "b"', '{init = "b"')
        .replace('{start = "d"', '{init = "d"')
        .replace('deep.start', 'deep.init')
    )
    out, _, _ = renamed(tmp_path, manifest=text)
    assert out['experiments.toml'] == new and tomllib.loads(new)


def test_a_parameter_of_an_experiment_is_renamed_with_its_uses_and_its_entries(tmp_path):
    cells = (
        'least = 2  # the fewest',
        "f'{least}', sorted(x for x in y if x > least)",
        ('All with `least`.',),
        'f(least=1)',
    )
    manifest = (
        '[a]\nnotebook = "e.ipynb"\nparams = {least = 3, options = {least = 4}}\n[a.smoke]\nleast = 1\n'
        '[b]\nnotebook = "f.ipynb"\nparams = {least = 3}\n'
    )
    out, unsure, errors = renamed(tmp_path, cells=cells, manifest=manifest)
    assert out['e.ipynb'] == [
        'min_rows = 2  # the fewest',
        "f'{min_rows}', sorted(x for x in y if x > min_rows)",
        'All with `min_rows`.',
        'f(least=1)',
    ]
    first, second = manifest.split('[b]')
    assert out['experiments.toml'] == (
        first.replace('{least = 3', '{min_rows = 3').replace('\nleast = 1', '\nmin_rows = 1') + '[b]' + second
    )
    assert unsure == errors == []


def test_once_is_enough(tmp_path):
    renamed(tmp_path)
    assert rename.apply(tmp_path, rename.Map(tomllib.loads(MAP))) == ({}, [], [])


# The map of the package, and who reads it


def test_no_new_name_is_an_old_one():
    for kind, table in names().items():
        old = {k.rpartition('.')[2] for k in table if '.' not in k or k.startswith('*')}
        assert not old & set(table.values()), kind


def test_the_map_is_applied_without_an_error():
    _, unsure, errors = rename.apply(root, rename.read_map(root))
    assert (unsure, errors) == ([], [])


class Triplet:
    def __init__(self, warmup_epochs=2, margin=0.2):
        pass


def test_saved_parameters_are_read_by_their_names_of_today():
    child = type('Hardest', (Triplet,), {})
    assert current_parameters(child, {'warm': 3, 'margin': 0.1}) == {'warmup_epochs': 3, 'margin': 0.1}
    assert current_name('parameters', 'CCA.' + 'warm') == 'warm'


class Toy(Method):
    "A method whose class and hyper-parameter have other names than when it was saved"

    __module__ = 'crossmodal_nb.methods.toy'

    def __init__(self, width=2):
        self.width = width

    def fit(self, train, validate=None):
        return self

    def encode(self, view, x, to=None):
        return x * self.width

    def state(self):
        return dict(w=torch.ones(1)), {}

    def restore(self, tensors, data):
        pass


@pytest.fixture
def changed(monkeypatch):
    monkeypatch.setattr(saving, 'methods', lambda: {'toy:Toy': Toy})
    monkeypatch.setattr(
        core_names, 'names', lambda: dict(names={'Former': 'Toy'}, attributes={}, parameters={'Former.wide': 'width'})
    )


def test_a_method_saved_under_old_names_loads(changed, tmp_path):
    m = Toy(7)
    m.views = {'a': {'pooled': 3}}
    m.save(tmp_path)
    info = json.loads((tmp_path / 'method.json').read_text())
    info['class'], info['params'] = 'crossmodal_nb.methods.elsewhere:Former', {'wide': 7}
    (tmp_path / 'method.json').write_text(json.dumps(sealed(info)))
    again = Method.load(tmp_path)
    assert type(again) is Toy and again.width == 7 and again.views == m.views


def test_an_old_name_that_a_person_types_is_refused_with_the_new_one(changed):
    with pytest.raises(InputError, match="no method 'elsewhere:Former': it is called 'toy:Toy' now"):
        find('elsewhere:Former')
    with pytest.raises(InputError, match='no method'):
        find('os:system')
    with pytest.raises(InputError, match='no method'):
        saved_class({'class': '../toy:Toy', 'params': {}})


def test_an_old_hyper_parameter_on_the_command_line_is_refused_with_the_new_one(changed):
    from crossmodal_nb.cli import _learner

    with pytest.raises(InputError, match='wide: it is called width now'):
        _learner(Toy, dict(wide=3))
    with pytest.raises(InputError, match='did you mean'):
        _learner(Toy, dict(widht=3))
    assert _learner(Toy, dict(width=3)).width == 3
