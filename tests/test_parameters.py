"""A value means the same wherever it is given: on papermill's command line, in the manifest, in a notebook. And what a
run leaves behind is whole.
"""

import ast
import json
import os
import subprocess
import sys
import warnings

import papermill
import pytest
from conftest import forking, manifest, notebook
from test_runner import crossmodal, records, root

from crossmodal_nb.core.checks import InputError, typed
from crossmodal_nb.report import pages
from crossmodal_nb.report.provenance import card
from crossmodal_nb.runs import keys, record, runner


@pytest.mark.parametrize(
    'given, default, meant',
    [
        *[(t, d, False) for t in (False, 0, 'false', 'False ', 'FALSE', 'no', 'off', '0') for d in (True, False)],
        *[(t, d, True) for t in (True, 1, 'true', ' True', 'yes', 'on', '1') for d in (True, False)],
        (1e3, 0, 1000),
        ('1e3', 0, 1000),
        (' 12 ', 0, 12),
        ('-3', 5, -3),
        ('1_000', 0, 1000),
        (7, 0, 7),
        (5, 0.1, 5.0),
        ('5', 0.1, 5.0),
        ('1e-3', 1.0, 0.001),
        ('1E-3', 1.0, 0.001),
        ('inf', 1.0, float('inf')),
        (0.5, 1.0, 0.5),
        ('[2, 4]', [1], [2, 4]),
        ((2, 4), [1], [2, 4]),
        ("['a']", [], ['a']),
        ('[["a", 2]]', [], [['a', 2]]),
        ('[]', ['all'], []),
        ([], [1], []),
        ("{'dim': 2}", {}, {'dim': 2}),
        ('{"dim": 2, "ridge": null}', {}, {'dim': 2, 'ridge': None}),
        ('{dim = 2}', {}, {'dim': 2}),
        ({'a': 1}, {}, {'a': 1}),
        ('emoji', 'all', 'emoji'),
        ('5', 'all', '5'),
        ('', 'all', ''),
        ('work/a.json', None, 'work/a.json'),
        (None, None, None),
        ('5', None, '5'),
    ],
)
def test_what_a_value_means(given, default, meant):
    got = typed(given, default)
    assert got == meant and type(got) is type(meant)


@pytest.mark.parametrize(
    'given, default',
    [
        ('maybe', False),
        (2, False),
        (1.0, False),
        ('', True),
        (None, False),
        ([], False),
        (2.5, 0),
        ('2.5', 0),
        (True, 0),
        ('true', 0),
        ('many', 0),
        (float('inf'), 0),
        (float('nan'), 0),
        (None, 0),
        ([1], 0),
        (True, 0.1),
        ('a', 0.1),
        (None, 0.1),
        (2**60 + 1, 0.1),
        ('a', []),
        (3, []),
        ('{}', []),
        (None, []),
        ('[1]', {}),
        ('a', {}),
        (5, 'all'),
        (True, 'all'),
        (None, 'all'),
        ([], 'all'),
        (5, None),
        ([], None),
    ],
)
def test_what_would_lose_something_is_refused_and_named(given, default):
    with pytest.raises(InputError) as e:
        typed(given, default)
    assert repr(given) in str(e.value) and repr(default) in str(e.value)


def declaring(folder, source):
    "A notebook whose parameters are declared like this"
    cell = dict(cell_type='code', metadata=dict(tags=['parameters']), source=source, outputs=[], execution_count=None)
    (folder / 'mine.ipynb').write_text(json.dumps(dict(cells=[cell], metadata={}, nbformat=4, nbformat_minor=5)))
    return folder / 'mine.ipynb'


@pytest.mark.parametrize(
    'source, declared',
    [
        ("dataset: str = 'x'\nseed: int = 0   # a remark", dict(dataset='x', seed=0)),
        ('seed, fold = 0, 1', dict(seed=0, fold=1)),
        ('[a, b] = [1, [2]]', dict(a=1, b=[2])),
        ('a = b = -1.5', dict(a=-1.5, b=-1.5)),
        ('grid = {\n    "dim": [2, 6],\n}', dict(grid={'dim': [2, 6]})),
        ('"what is asked for"\nfrom typing import Optional\nout: Optional[str] = None', dict(out=None)),
    ],
)
def test_every_way_to_declare(tmp_path, source, declared):
    assert record.parameters(declaring(tmp_path, source)) == declared


@pytest.mark.parametrize(
    'source, named',
    [
        ('seed = 2 * 3', 'seed'),
        ("root = Path('x')", 'root'),
        ('%%time\nseed = 0', '%%time'),
        ('a, b = 1, 2, 3', 'a, b'),
        ('a, b = 1', 'a, b'),
        ('seed: int', 'seed'),
        ('seed = 0\nseed += 1', 'seed += 1'),
        ("other = dataset", 'other'),
        ('!ls', '!ls'),
        ('x = {[]: 1}', 'x'),
        ('for seed in (0, 1): pass', 'for seed'),
    ],
)
def test_what_declares_nothing_names_the_notebook_and_the_parameter(tmp_path, source, named):
    with pytest.raises(InputError, match='mine.ipynb') as e:
        record.parameters(declaring(tmp_path, source))
    assert named in str(e.value)


@pytest.mark.parametrize('annotation', ["'Union[int, str]'", "'int | str'", 'int | str', 'str'])
def test_an_annotation_allows_further_types(tmp_path, annotation):
    path = declaring(tmp_path, f"choose: {annotation} = 'all'")
    if annotation != 'str':
        assert record.converted(path, dict(choose=500)) == dict(choose=500)
    for wrong in (None, [500], *([500] if annotation == 'str' else [])):
        with pytest.raises(InputError, match="'choose'"):
            record.converted(path, dict(choose=wrong))


@pytest.mark.parametrize(
    'annotation, value, meant',
    [
        ('Optional[int]', '5', 5),
        ('int | None', 5.0, 5),
        ("'list[str]'", "['a']", ['a']),
        ('float', 3, 3.0),
        ('Optional[str]', 'a', 'a'),
        ("'no type'", 'a', 'a'),
    ],
)
def test_an_annotation_says_what_stands_where_none_is(tmp_path, annotation, value, meant):
    path = declaring(tmp_path, f'x: {annotation} = None')
    assert record.converted(path, dict(x=value)) == dict(x=meant) and record.converted(path, dict(x=None)) == dict(
        x=None
    )


@pytest.mark.parametrize(
    'name, secret',
    [
        ('token', True),
        ('hf_token', True),
        ('api_key', True),
        ('apikey', True),
        ('password', True),
        ('DB_PASSWORD', True),
        ('client_secret', True),
        ('max_tokens', False),
        ('keyword', False),
        ('monkeys', False),
        ('tokeniser', False),
        ('keys', False),
    ],
)
def test_a_secret_is_known_by_its_whole_word(tmp_path, name, secret):
    path = declaring(tmp_path, f"{name} = ''")
    assert record.converted(path, {name: ''}) == {name: ''}
    if not secret:
        assert record.converted(path, {name: 'x'}) == {name: 'x'}
        return
    with pytest.raises(InputError, match='secret') as e:
        record.converted(path, {name: 'x'})
    assert "'x'" not in str(e.value)


declared = (
    "dataset = 'gaussian'\noptions = {}\nsample = 0\ndims = [1]\nratio = 1.0\nchoose: 'Union[int, str]' = "
    "'all'\nfinal = False\nout = None"
)
checks = "from crossmodal_nb.runs.record import Run, check_parameters\ncheck_parameters('10_toy', globals())"
saves = (
    "\nRun('10_toy', globals(), [dict(query='a', gallery='b', metric='R@1', value=.5, split='test' if final else "
    "'valid', pool='all')]).save(out)"
)


@pytest.fixture
def toy(house):
    "A checkout whose notebook checks its parameters"
    write(house)
    manifest(house, '[toy]\nnotebook = "10_toy.ipynb"\n')
    return house


def write(house, code=checks + saves):
    "Its notebook"
    notebook(house, code)
    at = house / 'nbs' / 'experiments' / '10_toy.ipynb'
    nb = json.loads(at.read_text())
    nb['cells'][1]['source'] = declared
    at.write_text(json.dumps(nb))


texts = dict(sample='1e3', dims='[2, 4]', options="{'n': 60}", ratio='1e-3', final='no')
meant = dict(sample=1000, dims=[2, 4], options={'n': 60}, ratio=0.001)


def by_papermill(house, values, monkeypatch):
    "The record of a bare run"
    monkeypatch.setenv('PYTHONPATH', str(root))
    at = house / 'nbs' / 'experiments'
    papermill.execute_notebook(
        at / '10_toy.ipynb',
        house / 'out.ipynb',
        values | dict(out=str(house / 'r.json')),
        cwd=str(at),
        progress_bar=False,
        kernel_name='python3',
        **forking,
    )
    return json.loads((house / 'r.json').read_text())


def test_papermill_gives_values_of_the_declared_types(toy, monkeypatch):
    r = by_papermill(toy, texts | dict(choose=500), monkeypatch)
    assert (
        r['params'] == dict(dataset='gaussian', final=False, choose=500, **meant)
        and r['final'] is False
        and r['rows'][0]['split'] == 'valid'
    )


def test_papermills_own_command_line_does_too(toy):
    given = [w for k, v in texts.items() for w in ('-p', k, v)]
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'papermill',
            'nbs/experiments/10_toy.ipynb',
            'out.ipynb',
            *given,
            '-p',
            'out',
            str(toy / 'r.json'),
            '-k',
            'python3',
            '--no-progress-bar',
        ],
        cwd=toy,
        capture_output=True,
        text=True,
        env=os.environ | dict(PYTHONPATH=str(root)),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((toy / 'r.json').read_text())['params'] == dict(
        dataset='gaussian', final=False, choose='all', **meant
    )


@pytest.mark.parametrize(
    'given, said', [(dict(sampel=10), "'sample'"), (dict(final='perhaps'), "'final'"), (dict(dims=3), "'dims'")]
)
def test_papermill_is_refused_what_was_not_declared(toy, monkeypatch, given, said):
    with pytest.raises(papermill.PapermillExecutionError) as e:
        by_papermill(toy, given, monkeypatch)
    last = str(e.value).strip().splitlines()[-1]
    assert said in last and next(iter(given)) in last and '10_toy' in last and not (toy / 'r.json').exists()


def test_a_notebook_may_be_run_again_from_any_cell(toy, monkeypatch):
    monkeypatch.chdir(toy / 'nbs' / 'experiments')
    names = record.parameters(toy / 'nbs' / 'experiments' / '10_toy.ipynb') | dict(
        In=['', declared, checks], later=3, final='off'
    )
    record.check_parameters('10_toy', names)
    record.check_parameters('10_toy', names)
    assert names['final'] is False and names['later'] == 3


def test_a_record_is_refused_where_types_were_never_checked(toy, monkeypatch):
    write(toy, checks.splitlines()[0] + saves)
    with pytest.raises(papermill.PapermillExecutionError, match='check_parameters'):
        by_papermill(toy, dict(final='no'), monkeypatch)
    assert not (toy / 'r.json').exists()


def test_the_manifest_means_the_same(toy, monkeypatch):
    monkeypatch.chdir(toy)
    manifest(
        toy,
        '[toy]\nnotebook = "10_toy.ipynb"\nparams = {sample = "1e3", dims = "[2, 4]", options = "{\'n\': 60}", '
        'ratio = "1e-3"}\nfinal = "no"\n'
        '[swept]\nnotebook = "10_toy.ipynb"\nsweep = {sample = ["10", 2e1], "options.n" = [60, 70]}\nsmoke = {ratio '
        '= 2}\n',
    )
    all_ = runner.manifest()
    (single,) = runner.expand(all_['toy'])
    assert (
        single == dict(dataset=('gaussian'), choose='all', final=False, out=None, **meant)
        and type(single['sample']) is int
    )
    assert [(r['sample'], r['options']['n']) for r in runner.expand(all_['swept'])] == [
        (10, 60),
        (10, 70),
        (20, 60),
        (20, 70),
    ]
    assert repr(runner.expand(all_['swept'], smoke=True)[0]['ratio']) == '2.0'


@pytest.mark.parametrize(
    'bad, said',
    [
        ('params = {sample = "many"}', ['toy', 'sample', 'many']),
        ('smoke = {dims = 3}', ['toy', 'dims']),
        ('sweep = {sample = [1, "two"]}', ['toy', 'sample', 'two']),
        ('sweep = {sample = 3}', ['toy', 'sample', 'list']),
        ('sweep = {"sample.n" = [3]}', ['toy', 'sample']),
        ('final = "perhaps"', ['toy', 'final', 'perhaps']),
        ('report = 3', ['toy', 'report']),
        ('params = {final = true}', ['toy', 'final = true']),
        ('params = {sampel = 3}', ['toy', "'sample'"]),
        ('needs = "toy"', ['toy', 'needs']),
    ],
)
def test_a_wrong_value_of_the_manifest_names_entry_and_parameter(toy, bad, said, monkeypatch):
    manifest(toy, f'[toy]\nnotebook = "10_toy.ipynb"\n{bad}\n')
    monkeypatch.chdir(toy)
    with pytest.raises(InputError) as e:
        runner.plan()
    assert all(s in str(e.value) for s in said)


def test_an_entry_without_a_notebook_is_named(toy):
    manifest(toy, '[toy]\nreport = true\n')
    assert '[toy]' in (out := crossmodal(toy, 'plan', check=1)) and 'notebook' in out and 'Traceback' not in out


@pytest.mark.parametrize('code', ['x = 1', 'import sys\nsys.exit(0)'])
def test_a_notebook_that_ends_without_its_record_has_failed(toy, code):
    crossmodal(toy, 'run', check=0)
    (good,) = records(toy)
    write(toy, checks + '\n' + code)
    said = crossmodal(toy, 'run', '--stale', check=1)  # a key of its own
    assert 'FAILED' in said and 'without saving its record' in said
    (bad,) = [r for r in records(toy) if r['key'] != good['key']]
    assert bad['status'] == 'failed' and 'without saving' in bad['error']
    assert 'FAILED' in crossmodal(toy, 'run', '--stale', check=1)  # what was noted of the failure is no record of a run


spoilt = dict(
    cut=lambda t: t[: len(t) // 2],
    empty=lambda t: '',
    other=lambda t: '[1, 2]',
    word=lambda t: '"record"',
    binary=lambda t: '\udcff',
    **{
        f'no {k}': lambda t, k=k: json.dumps({n: v for n, v in json.loads(t).items() if n != k})
        for k in ('digests', 'params', 'rows', 'status', 'key', 'experiment', 'tables')
    },
    **{
        f'odd {k}': lambda t, k=k: json.dumps(json.loads(t) | {k: 3})
        for k in ('digests', 'params', 'rows', 'selected_by')
    },
    row=lambda t: json.dumps(json.loads(t) | dict(rows=[3])),
    value=lambda t: json.dumps(json.loads(t) | dict(rows=[dict(split='test', value='high')])),
    digest=lambda t: json.dumps(json.loads(t) | dict(digests=dict(params=[1]))),
)


@pytest.fixture(scope='module')
def good(tmp_path_factory):
    "The text of a good record, in one file and without a digest"
    whole = record.read(next((root / 'book' / 'records' / 'cca_emoji').glob('*.json')))
    path = tmp_path_factory.mktemp('good') / f'{whole["key"]}.json'
    record.write(path, whole | dict(tables={}))
    return json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != 'content'})


@pytest.mark.parametrize('how', spoilt)
def test_one_bad_record_stops_nothing(house, good, how, monkeypatch):
    monkeypatch.chdir(house)
    at = house / 'work' / 'records' / 'toy'
    at.mkdir(parents=True)
    (at / 'bad.json').write_text(spoilt[how](good), errors='surrogateescape')
    (at / 'bad.ipynb').write_text('{}')
    (at / 'good.json').write_text(
        json.dumps(json.loads(good) | dict(experiment='toy', rows=json.loads(good)['rows'][:3]))
    )
    for ask in (record.runs, runner.plan, lambda: record.board(), pages.pages):
        with pytest.warns(UserWarning, match='bad.json') as said:
            ask()
        assert 'Delete it' in str(said[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert [r['path'] for r in record.runs()] == [str(at / 'good.json')]


def test_a_run_goes_on_beside_a_bad_record_and_replaces_it(house):
    crossmodal(house, 'run', check=0)
    (file,) = (house / 'work' / 'records' / 'toy').glob('*.json')
    file.write_text(file.read_text()[:100])
    output = crossmodal(house, 'run', check=0)
    assert '1 to run' in output and file.name in output and 'is left out' in output
    (r,) = records(house)
    assert r['status'] == 'ok' and min(r[k] for k in ('seconds', 'cpu_seconds', 'peak_mb')) > 0


def test_all_published_records_are_good():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert all(map(record.read, (root / 'book' / 'records').glob('*/*.json')))


burn = '''
import subprocess, sys, time
subprocess.run([sys.executable, '-c', 'import time\\nwhile time.process_time() < 2: pass'], check=True)
held = b'x' * 700_000_000
'''


def test_a_run_says_what_it_cost_and_its_key_does_not(toy, monkeypatch):
    cheap = by_papermill(toy, {}, monkeypatch)
    write(toy, checks + burn + saves)
    dear = by_papermill(toy, {}, monkeypatch)
    assert (
        dear['cpu_seconds'] > 2
        and dear['peak_mb'] > 700
        and min(cheap[k] for k in ('seconds', 'cpu_seconds', 'peak_mb')) > 0
    )
    assert not {'seconds', 'cpu_seconds', 'peak_mb'} & {*cheap['params'], *cheap['digests']}
    assert (
        f'CPU seconds: {dear["cpu_seconds"]:.0f}' in card(dear).plain
        and f'{dear["peak_mb"]:,.0f} MB' in card(dear).plain
    )


def test_the_memory_of_the_starting_process_does_not_count():
    held = b'x' * 1_500_000_000
    code = 'from crossmodal_nb.runs.record import cost; print(cost()["peak_mb"])'
    assert (
        float(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=root).stdout)
        < len(held) / 1e6
    )


@pytest.mark.parametrize('f', sorted((root / 'nbs' / 'experiments').glob('*.ipynb')), ids=lambda f: f.stem)
def test_every_experiment_checks_its_parameters_before_it_uses_them(f):
    declared, first, *_ = keys.notebook_code(f)
    assert 'parameters' in declared['metadata']['tags']
    rest = [s for s in ast.parse(first['source']).body if not isinstance(s, (ast.Import, ast.ImportFrom))]
    assert ast.unparse(rest[0]) == f"check_parameters('{f.stem}', globals())"
    code = ''.join(''.join(c['source'].split()) for c in keys.notebook_code(f))
    assert f"Run('{f.stem}',globals()" in code
