"""What holds between the rooms: layers, names that two files repeat, tags that survive cleaning, nothing private in the
tree.
"""

import ast
import configparser
import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.util import resolve_name
from pathlib import Path

import in_sync
import pytest
import yaml

import crossmodal_nb
from crossmodal_nb.report import contents
from crossmodal_nb.runs import keys, record

root = Path(__file__).parent.parent
sys.path.insert(0, str(root / 'tools'))
import style  # noqa: E402

package = root / 'crossmodal_nb'
notebooks = contents.lessons(root / 'nbs')
layers = tomllib.loads((root / 'pyproject.toml').read_text())['tool']['crossmodal']['layers']


def name(file):
    "`metrics.ranking` of `crossmodal_nb/metrics/ranking.py`"
    return '.'.join(file.relative_to(package).with_suffix('').parts).removesuffix('.__init__')


files = {name(f): f for f in package.rglob('*.py') if f.name != '_modidx.py'}


def imports(file):
    "Names of the modules of this package that a file imports, also within its functions"
    inside = '.'.join(['crossmodal_nb', *file.relative_to(package).parts[:-1]])
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        if isinstance(node, ast.ImportFrom):
            module = resolve_name('.' * node.level + (node.module or ''), inside)
            yield from (
                f'{module}.{a.name}' if f'{module}.{a.name}'.partition('.')[2] in files else module for a in node.names
            )


def layer(module):
    return layers.index(module.split('.')[0])


@pytest.mark.parametrize('module', sorted(set(files) - {'__init__'}))
def test_a_module_imports_only_its_own_layer_and_those_below(module):
    for imported in imports(files[module]):
        project, _, module_name = imported.partition('.')
        if project == 'crossmodal_nb' and module_name in files:
            assert layer(module_name) <= layer(module), (
                f'{module} imports {module_name}, of a layer above its own: see pyproject.toml'
            )


def test_every_notebook_has_its_module_at_the_same_place():
    for room, f in notebooks.items():
        module = re.search(r'default_exp ([\w.]+)', f.read_text())[1]
        assert module == room.replace('/', '.') or (module, room) == ('datasets.__init__', 'datasets/registry')


def write_notebook(file, *cells):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(dict(cells=[dict(cell_type='code', source=[s]) for s in cells])))


def test_no_notebook_of_the_project_loses_code():
    assert list(in_sync.definition_errors(root / 'nbs')) == []


def test_two_notebooks_of_one_module_are_refused(tmp_path):
    write_notebook(tmp_path / 'core' / '01_a.ipynb', '#| default_exp core.a', '#| export\nx = 1')
    write_notebook(tmp_path / 'core' / '02_a.ipynb', '#|default_exp core.a')
    (message,) = in_sync.definition_errors(tmp_path)
    assert message == 'core/01_a.ipynb and core/02_a.ipynb have the same default_exp core.a'


def test_exported_cells_without_a_module_are_refused(tmp_path):
    write_notebook(tmp_path / 'lost.ipynb', 'x = 1', '#| export\ny = 2')
    write_notebook(tmp_path / 'lesson.ipynb', "text = '#| export'")
    assert list(in_sync.definition_errors(tmp_path)) == ['lost.ipynb has exported cells, but no default_exp']


def test_the_package_holds_nothing_else():
    folders = {room.replace('/', '.') for room in notebooks} - {'datasets.registry'}
    assert {module for module, f in files.items() if f.name != '__init__.py'} == folders
    assert {f.name for f in package.iterdir() if f.is_dir() and f.name != '__pycache__'} <= set(layers)


def test_settings_and_pyproject_agree():
    ini = configparser.ConfigParser()
    ini.read(root / 'settings.ini')
    nbdev = tomllib.loads((root / 'pyproject.toml').read_text())['tool']['nbdev']
    assert {k: ini['crossmodal'][k] for k in ('lib_name', 'nbs_path')} == {
        k: nbdev[k] for k in ('lib_name', 'nbs_path')
    }


def test_the_version_is_the_same_everywhere():
    "Its home is `crossmodal_nb/__init__.py`; the build reads it there"
    pyproject = tomllib.loads((root / 'pyproject.toml').read_text())
    assert pyproject['project']['dynamic'] == ['version'] and 'version' not in pyproject['project']
    assert pyproject['tool']['setuptools']['dynamic']['version'] == {'attr': 'crossmodal_nb.__version__'}
    cited = yaml.safe_load((root / 'CITATION.cff').read_text())
    released = re.findall(r'^## (\d\S*)', (root / 'CHANGELOG.md').read_text(), re.M)
    assert crossmodal_nb.__version__ == cited['version'] == released[0]


def test_the_citation_has_the_fields_of_its_format():
    "Citation File Format 1.2.0: required fields, and those of GitHub and Zenodo"
    cited = yaml.safe_load((root / 'CITATION.cff').read_text())
    assert {'cff-version', 'message', 'title', 'authors'} <= set(cited) and cited['cff-version'] == '1.2.0'
    assert all('name' in a or 'family-names' in a for a in cited['authors']) and cited['type'] == 'software'
    project = tomllib.loads((root / 'pyproject.toml').read_text())['project']
    assert cited['license'] == project['license'] and [a['name'] for a in cited['authors']] == [
        a['name'] for a in project['authors']
    ]


def test_import_is_light():
    code = (
        'import sys, crossmodal_nb.cli; print([m for m in ("transformers", "torchvision", "cca_zoo", "sklearn", '
        '"matplotlib", "papermill") if m in sys.modules])'
    )
    assert (
        subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'
    )


def test_cleaning_keeps_the_parameters_tag(tmp_path):
    for f in ('pyproject.toml', 'settings.ini'):
        shutil.copy(root / f, tmp_path)
    shutil.copytree(root / 'nbs' / 'experiments', tmp_path / 'nbs' / 'experiments')
    subprocess.run([Path(sys.executable).with_name('nbdev-clean')], cwd=tmp_path, check=True)
    for f in (tmp_path / 'nbs' / 'experiments').glob('*.ipynb'):
        assert record.parameters(f) == record.parameters(root / 'nbs' / 'experiments' / f.name)


def test_experiments_hold_no_outputs_and_define_no_classes():
    for f in (root / 'nbs' / 'experiments').glob('*.ipynb'):
        for c in keys.notebook_code(f):
            assert not c['outputs'], f'{f.name} is saved with outputs'
            assert not any(isinstance(n, ast.ClassDef) for n in ast.walk(ast.parse(c['source']))), (
                f'{f.name} defines a class: its place is the package'
            )


def test_lessons_are_saved_with_their_figures():
    for f in (root / 'nbs').rglob('*.ipynb'):
        for c in keys.notebook_code(f):
            drawn = re.search(r'^diagram\(', c['source'], re.M)
            assert c['outputs'] or not drawn, f'{f.name} has no outputs: run it, save it, and then `nbdev-clean`'


@pytest.mark.parametrize('f', sorted((root / 'nbs' / 'experiments').glob('*.ipynb')), ids=lambda f: f.stem)
def test_an_experiment_opens_with_its_contents_and_explains_its_parameters(f):
    texts = [''.join(c['source']) for c in json.loads(f.read_text())['cells'] if c['cell_type'] == 'markdown']
    headings = [h for t in texts for h in re.findall(r'^## +(.+)$', t, re.M)]
    links = re.findall(r'\[(.+?)\]\(#(\S+?)\)(?= · |$)', re.search(r'^\*\*Contents\.\*\* (.+)$', texts[0], re.M)[1])
    assert links == [(h, h.replace(' ', '-').replace('`', '')) for h in headings]  # JupyterLab's anchors
    tagged = next(c['source'] for c in keys.notebook_code(f) if 'parameters' in c['metadata']['tags'])
    lines = ['', *tagged.splitlines()]
    for statement in ast.parse(tagged).body:
        around = ''.join(lines[statement.lineno - 1 : statement.end_lineno + 1])
        name = ast.unparse(getattr(statement, 'target', None) or statement.targets[0])
        assert '# ' in around or f'`{name}`' in texts[0], f'{f.name}: what is {name}?'


def test_references_are_cited_and_can_be_followed():
    pages = [
        ''.join(c['source'])
        for f in (root / 'nbs').rglob('*.ipynb')
        if '.ipynb_checkpoints' not in f.parts
        for c in json.loads(f.read_text())['cells']
        if c['cell_type'] == 'markdown'
    ]
    pages += [f.read_text() for f in (root / 'book').glob('*.md')]
    cited = {k.strip() for t in pages for keys in re.findall(r'\{cite(?::\w+)?\}`([^`]+)`', t) for k in keys.split(',')}
    entries = {
        re.match(r'\w+\{([^,]+),', e)[1]: e
        for e in re.split(r'^@', (root / 'book' / 'references.bib').read_text(), flags=re.M)[1:]
    }
    assert cited - set(entries) == set(), 'cited, but not in references.bib'
    assert set(entries) - cited == set(), 'in references.bib, but never cited'
    for key, e in entries.items():
        assert re.search(r'\b(doi|eprint|url) = \{\S|note = \{.*not verified', e), f'{key}: where to find it?'


def test_what_is_read_outside_of_the_book_cites_without_roles():
    for f in (root / 'README.md', root / 'nbs' / 'index.ipynb'):
        assert '{cite' not in f.read_text()


def test_the_source_keeps_its_figures():
    "Line lengths, one statement a line, names that are no function words: `python tools/style.py` prints them all"
    code, experiments = style.figures(style.package(package)), style.measured()['experiments']
    assert code['p90 line'] <= 100 and code['lines over 120'] == 0 and code['semicolons'] == 0
    assert code['function words, % of names'] <= 0.5
    assert experiments['lines over 120'] == 0 and experiments['semicolons'] == 0
