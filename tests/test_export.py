"""What others read: the leaderboard as CSV, JSON and results of mteb, the report as an RO-Crate, and the trace of an
entry. `python tests/check_exports.py` reads the real ones by the newest mteb and by an RO-Crate validator.
"""

import csv
import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import manifest
from nbformat.v4 import new_markdown_cell, new_notebook
from test_board import chance, item, made
from test_cli import crossmodal

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.core.files import write_notebook
from crossmodal_nb.report import crate, export, trace
from crossmodal_nb.report.leaderboard_lines import lines
from crossmodal_nb.report.leaderboard_rankings import significance
from crossmodal_nb.runs import keys, record

root = Path(__file__).parent.parent
step = dict(difference=0.1, low=0.02, high=0.18, p=0.01, p_holm=0.03, verdict='ahead', runs=2)


def toy_record(folder, by, better=12):
    "A published record of the toy entry, as its run would write it"
    params = dict(dataset='gaussian', by=by, api_key='', final=True)
    digests = keys.digests(folder / 'nbs' / 'experiments' / '10_toy.ipynb', params | dict(out=None))
    worse = np.random.default_rng(by).integers(1, 60, len(item))
    ranks = dict(CCA=worse, deep=np.maximum(1, worse - better))
    tables = dict(steps=[dict(data='gaussian', over_cca=step)], settings_tried={'image→text': dict(CCA=4, deep=8)})
    history = [dict(method='deep', epoch=e, loss=1.0) for e in range(3)]
    return made('toy', ranks, tables=tables, history=history) | dict(
        notebook='10_toy',
        key=keys.key(digests),
        digests=digests,
        params=params,
        final=True,
        started=f'2026-12-01 10:0{by}',
        seconds=20.0,
        cpu_seconds=30.0,
        peak_mb=400.0,
        device='a CPU',
        versions=dict(python='3.11.7', torch='2.9.0'),
    )


@pytest.fixture
def published(checkout, monkeypatch):
    "A checkout with two published records of one entry, and their page"
    monkeypatch.chdir(checkout)
    manifest(checkout, '[toy]\nnotebook = "10_toy.ipynb"\nsweep = {by = [2, 4]}\nfinal = true\n')
    for f in ('LICENSE', 'CITATION.cff', 'book/THIRD_PARTY.md'):
        (checkout / f).parent.mkdir(exist_ok=True)
        shutil.copy(root / f, checkout / f)
    for by in (2, 4):
        r = toy_record(checkout, by)
        record.write(checkout / 'book' / 'records' / 'toy' / f'{r["key"]}.json', r)
    page = new_notebook(cells=[new_markdown_cell('# Toy')])
    write_notebook(checkout / 'book' / 'pages' / 'toy.ipynb', page, experiment='toy', key=r['key'])
    return checkout


def board(*records):
    return significance(lines(list(records)))


# the leaderboard


def test_csv_and_json_are_the_board(published):
    table = export.export('csv', published / 'board.csv').read_text()
    content = json.loads(export.export('json', published / 'board.json').read_text(), parse_constant=pytest.fail)
    rows = list(csv.DictReader(table.splitlines()))
    assert len(rows) == len(content['rows']) == 2 * 6  # two methods; rsum and five metrics
    for row, other in zip(rows, content['rows']):
        assert list(row) == list(other) == list(content['fields'])
        assert all(row[k] == ('' if v is None else str(v)) for k, v in other.items())
    (deep,) = (r for r in content['rows'] if (r['method'], r['metric']) == ('deep', 'rsum'))
    assert deep['runs'] == 2 and deep['low'] < deep['value'] < deep['high'] and deep['stale'] is None
    assert deep['cca_verdict'] == 'ahead' and deep['cca'].startswith('CCA')
    assert content['version'] == __import__('crossmodal_nb').__version__


def test_a_change_since_is_told_in_every_format(published):
    f = published / 'nbs' / 'experiments' / '10_toy.ipynb'
    f.write_text(f.read_text().replace('1 / ', '2 / '))
    rows = json.loads(export.export('json').read_text())['rows']
    assert {r['stale'] for r in rows} == {'notebook'}
    results = export.export('mteb')
    scores = [json.loads(p.read_text()) for p in results.rglob('crossmodal_nb-*.json')]
    assert {s['scores']['test'][0]['stale'] for s in scores} == {'notebook'}


def mteb_files(folder):
    "(model_meta, results) of every model"
    for meta in sorted(folder.glob('results/*/*/model_meta.json')):
        tasks = {f.stem: json.loads(f.read_text()) for f in meta.parent.glob('*.json') if f != meta}
        yield meta, json.loads(meta.read_text()), tasks


# `TaskResult` and the fields without a default of `ModelMeta`, mteb 2.26.24
result_fields = dict(
    dataset_revision=str,
    task_name=str,
    mteb_version=str,
    scores=dict,
    evaluation_time=float,
    kg_co2_emissions=None,
    date=str,
)
meta_fields = {
    'loader',
    'name',
    'revision',
    'release_date',
    'languages',
    'n_parameters',
    'memory_usage_mb',
    'max_tokens',
    'embed_dim',
    'license',
    'open_weights',
    'public_training_code',
    'public_training_data',
    'framework',
    'similarity_fn_name',
    'use_instructions',
    'training_datasets',
}


def test_results_have_the_form_of_mteb(published):
    files = list(mteb_files(export.export('mteb', published / 'results of mteb')))
    assert len(files) == 2
    for path, meta, tasks in files:
        assert meta_fields | {'modalities', 'model_type'} == set(meta)
        assert path.parts[-3:-1] == (meta['name'].replace('/', '__').replace(' ', '_'), meta['revision'])
        for name, result in tasks.items():
            assert result['task_name'] == name and set(result) == set(result_fields)
            assert all(t is None or isinstance(result[k], t) for k, t in result_fields.items())
            assert tuple(map(int, result['mteb_version'].split('.'))) >= (1, 12, 48)  # else it is read as an older form
            ((split, (scores,)),) = result['scores'].items()
            assert split == 'test' and scores['hf_subset'] == 'default' and scores['languages']
            assert scores['main_score'] == pytest.approx((scores['R@1'] + scores['R@5'] + scores['R@10']) / 3)
            assert scores['hit_rate_at_10'] == scores['R@10'] and scores['chance'] == pytest.approx(chance)
            assert result['evaluation_time'] == 20


def test_only_lines_on_the_same_queries_share_a_task():
    g = np.random.default_rng(0)
    ranks = [dict(CCA=g.integers(1, 60, n)) for n in (100, 200)]
    records = [made(e, r, items=np.arange(len(r['CCA']))) for e, r in zip(('a', 'b'), ranks)]
    records.append(made('c', dict(CCA=g.integers(1, 60, 200))))
    results = export.mteb_results(board(*records), {}, records)
    tasks = sorted(Path(p).stem for p in results if 'model_meta' not in p)
    assert tasks == ['crossmodal_nb-made_up-image-text-item-n' + n for n in ('100', '200', '200')]
    assert len({p.split('/')[0] for p in results}) == 3


def test_the_newest_mteb_reads_every_line(published):
    mteb = pytest.importorskip('mteb', reason='python tests/check_exports.py installs it for itself')
    folder = export.export('mteb')
    found = mteb.ResultCache(folder).load_results(include_remote=False, require_model_meta=True)
    written = {meta['name']: tasks for _, meta, tasks in mteb_files(folder)}
    assert {m.model_name for m in found.model_results} == set(written)
    for m in found.model_results:
        for t in m.task_results:
            assert t.get_score() == written[m.model_name][t.task_name]['scores']['test'][0]['main_score']


# what is there stays


@pytest.mark.parametrize('what', ['csv', 'json', 'mteb'])
def test_nothing_is_overwritten_silently(published, what):
    place = export.export(what)
    done = crossmodal('export', what, at=published)
    assert done.exit_code == 1 and '--replace' in done.stderr and 'Traceback' not in done.stderr
    assert crossmodal('export', what, '--replace', at=published).stdout == f'{what}: {place}\n'


def test_a_folder_of_something_else_is_never_replaced(published):
    for what in ('mteb', 'ro-crate'):
        with pytest.raises(InputError, match='something else'):
            export.export(what, published, replace=True)
    (published / 'mine').mkdir()
    with pytest.raises(InputError, match='a folder'):
        export.export('csv', published / 'mine', replace=True)
    assert (published / 'settings.ini').exists()


def test_written_as_a_whole_or_not_at_all(published, monkeypatch):
    place = export.export('mteb')
    before = {p: p.read_bytes() for p in place.rglob('*.json')}
    monkeypatch.setattr(export, 'mteb_results', lambda *_: {'m/r/a.json': {}, 'm/r/b.json': object()})
    with pytest.raises(TypeError):
        export.export('mteb', replace=True)
    assert {p: p.read_bytes() for p in place.rglob('*.json')} == before
    assert [p.name for p in place.parent.iterdir() if p.is_dir()] == ['mteb']


def test_a_wrong_format_is_a_message(published):
    done = crossmodal('export', 'jsn', at=published)
    assert done.exit_code == 1 and "'json'" in done.stderr


# the crate


emoji = dict(
    name='gaussian',
    title='Drawings',
    licence='drawings CC BY-SA 4.0; names MIT and BSD-3-Clause',
    attribution='OpenMoji',
    how='fetched',
    publishable=True,
)


@pytest.fixture
def crated(published):
    library = pytest.importorskip('rocrate.rocrate', reason="pip install 'crossmodal_nb[crate]'")
    folder = crate.write_crate(published / 'a crate', data=[emoji])
    return folder, library.ROCrate(folder)


def names(entity, field):
    values = entity[field]
    return {v['name'] for v in (values if isinstance(values, list) else [values])}


def test_every_part_of_the_crate_is_there_and_has_a_licence(crated):
    folder, loaded = crated
    described = {e.id: e for e in loaded.data_entities}
    there = {str(f.relative_to(folder)) for f in folder.rglob('*') if f.is_file()} - {'ro-crate-metadata.json'}
    assert set(described) == there and {'LICENSE', 'CITATION.cff', 'leaderboard.csv', 'pages/toy.ipynb'} <= there
    for name, e in described.items():
        content = (folder / name).read_bytes()
        assert e['sha256'] == hashlib.sha256(content).hexdigest() and int(e['contentSize']) == len(content)
        assert 'Apache-2.0' in names(e, 'license') and e['name']
    assert names(described['pages/toy.ipynb'], 'license') == {'Apache-2.0', 'CC-BY-SA-4.0', 'MIT', 'BSD-3-Clause'}
    assert described['pages/toy.ipynb']['creditText'] == 'OpenMoji'
    scripts, software = (loaded.get_by_type(t) for t in ('SoftwareSourceCode', 'SoftwareApplication'))
    assert scripts and {s.id for s in scripts} <= set(described)  # RO-Crate 1.1, "Workflows and Scripts"
    assert software and all(s['url'] for s in software)  # the same, "Software used to create files"


def test_the_crate_says_how_each_record_was_made(crated):
    folder, loaded = crated
    runs = loaded.get_by_type('CreateAction')
    assert len(runs) == 2 and {r.id for r in loaded.root_dataset['mentions']} == {r.id for r in runs}
    for run in runs:
        instruments = {i.id for i in run['instrument']}
        assert {'notebooks/10_toy.ipynb', '#torch-2.9.0', '#python-3.11.7'} <= instruments
        assert names(run, 'object') == {'Drawings'} and run['startTime'] < run['endTime']
        assert all((folder / f.id).is_file() for f in run['result'])
        assert record.read(folder / run['result'][0].id)['experiment'] == 'toy'  # with the numbers beside it
    assert loaded.root_dataset['datePublished'].startswith('2026-12-01')
    assert names(loaded.root_dataset, 'license') == {'Apache-2.0'}


def test_a_crate_refuses_what_has_no_known_licence(published):
    pytest.importorskip('rocrate.rocrate', reason="pip install 'crossmodal_nb[crate]'")
    with pytest.raises(InputError, match='no known licence'):
        crate.write_crate(published / 'crate', data=[emoji | dict(name='another')])
    assert not (published / 'crate').exists()


def test_without_its_package_a_crate_says_what_to_install(published, monkeypatch):
    monkeypatch.setitem(sys.modules, 'rocrate.rocrate', None)
    with pytest.raises(InputError, match='pip install'):
        crate.write_crate(published / 'crate', data=[emoji])


@pytest.mark.parametrize(
    ('changes', 'licences'),
    [
        ({}, {'CC-BY-SA-4.0', 'MIT', 'BSD-3-Clause'}),
        (dict(publishable=False), {emoji['licence']}),  # its text, for it may hold more
        (dict(publishable=False, licence='MIT'), {'MIT'}),
        (dict(licence='my own terms'), {'my own terms'}),
        (dict(licence='CC BY-SA 4.0'), {'CC-BY-SA-4.0'}),  # and not CC BY
    ],
)
def test_licences_are_read_as_they_are_worded(changes, licences):
    assert {e['name'] for e in crate.licence_entities(emoji | changes)} == licences


# the trace


def test_a_trace_names_every_claim_and_its_record(published):
    traced = trace.trace('toy')
    scores, comparisons = ([c for c in traced['claims'] if c['kind'] == k] for k in ('score', 'comparison'))
    rows = [r['rows'] for r in record.runs('toy')]
    assert len(scores) == len(rows[0]) and len(comparisons) == len(rows)
    for c in scores:
        assert [s['record'] for s in c['sources']] == [r['key'] for r in traced['records']] and c['n'] == len(item)
        places = [int(s['key'].removeprefix('rows/')) for s in c['sources']]
        assert c['value'] == pytest.approx(np.mean([r[i]['value'] for r, i in zip(rows, places)]))
        assert c['correction'].startswith('none')
    recall = next(c for c in scores if c['metric'] == 'R@5')
    assert recall['interval'] == '95 %: items and 2 runs'
    c = comparisons[0]
    assert c['verdict'] == 'ahead' and c['correction'].startswith('Holm') and c['interval'].endswith('and 2 runs')
    assert c['sources'][0]['key'] == 'tables/steps/0/over_cca' and c['about'] == dict(data='gaussian')


def test_a_trace_tells_budget_data_and_what_a_run_takes(published):
    traced = trace.trace('results/toy.html')
    assert traced['budget']['epochs'] == dict(deep=3) and traced['budget']['trials'] == dict(CCA=4, deep=8)
    assert [d['name'] for d in traced['data']] == ['gaussian'] and traced['data'][0]['licence']
    assert all(r['changed'] == [] and r['path'].startswith('book/records/toy/') for r in traced['records'])
    again = traced['rerun']
    assert (again['runs'], again['seconds'], again['cpu_seconds'], again['peak_mb']) == (2, 40, 60, 400)
    assert again['data_present'] and again['command'].startswith('papermill nbs/experiments/10_toy.ipynb')


def test_a_trace_says_what_is_stale(published):
    f = published / 'nbs' / 'experiments' / '10_toy.ipynb'
    f.write_text(f.read_text().replace('1 / ', '2 / '))
    traced = trace.trace('toy')
    assert [r['changed'] for r in traced['records']] == [['notebook']] * 2
    assert traced['rerun']['command'] == 'crossmodal run toy --stale'
    manifest(published, '[toy]\nnotebook = "10_toy.ipynb"\nparams = {by = 4}\nfinal = true\n')
    assert sorted(r['changed'] for r in trace.trace('toy')['records']) == [['manifest'], ['notebook']]


def test_the_command_prints_text_and_json(published):
    text = crossmodal('trace', 'toy', at=published).stdout
    assert max(map(len, text.splitlines())) <= 80
    assert all(w in text for w in ('Records', 'gaussian', 'Scores', 'ahead', 'Holm', 'settings tried: CCA 4, deep 8'))
    traced = json.loads(crossmodal('trace', 'toy', '--json', at=published).stdout)
    assert traced['entry'] == 'toy' and len(traced['records']) == 2


def test_an_unknown_entry_and_one_without_a_record_are_messages(published):
    done = crossmodal('trace', 'tyo', at=published)
    assert done.exit_code == 1 and "'toy'" in done.stderr and 'Traceback' not in done.stderr
    shutil.rmtree(published / 'book' / 'records')
    done = crossmodal('trace', 'toy', at=published)
    assert done.exit_code == 1 and 'crossmodal run toy' in done.stderr
