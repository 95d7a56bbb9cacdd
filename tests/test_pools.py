"""Every pool that is asked for is scored, from the whole split, or says why not: in `evaluate`, in what notebooks keep,
and in what is published.
"""

import itertools
import json
import tomllib
from pathlib import Path

import papermill
import pytest
from conftest import forking

from crossmodal_nb.data.synthetic import make_class_views, make_gaussian_views
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.evaluation.retrieval import evaluate_rows
from crossmodal_nb.methods.linear import CCA
from crossmodal_nb.runs import keys, record

root = Path(__file__).parent.parent
cca = CCA(dim=3).fit(make_gaussian_views(400, seed=1))
labelled = make_class_views(120, dict(text=8, audio=6), dict(text=3.0, audio=1.5))
worlds = dict(
    item=make_gaussian_views(120), label=Views({k: View(x.x, y=x.y) for k, x in labelled.items()})
)  # row i of both is one item


def judge(by, pools):
    method = CCA(dim=3).fit(worlds['label']) if by == 'label' else cca
    return evaluate_rows(method, worlds[by], by, pools=pools, boot=0, permutations=20)


@pytest.mark.parametrize('by', ['item', 'label'])
@pytest.mark.parametrize(
    'pools', [p for n in (1, 2, 3) for p in itertools.permutations(['all', 30, 80, 5000], n)], ids=str
)
def test_a_pool_has_the_numbers_it_has_alone(by, pools):
    rows = judge(by, pools)
    assert {r['pool'] for r in rows} == set(pools)
    for pool in pools:
        mine = [r for r in rows if r['pool'] == pool]
        alone = judge(by, (pool,))
        assert {(r['query'], r['gallery']) for r in mine} == set(itertools.permutations(worlds[by], 2)) and len(
            mine
        ) == len(alone)
        for r, first in zip(mine, alone):
            assert (r['query'], r['metric'], r['n']) == (first['query'], first['metric'], first['n'])
            assert all(r.get(k) == pytest.approx(first.get(k), abs=1e-6) for k in ('value', 'null', 'sd'))
            if pool == 5000:
                assert r['value'] is None and str(r['n']) in r['why']
            else:
                assert 0 <= r['value'] and r['null'] is not None and (pool == 'all' or r['pools'] == 10)


def asked_and_found(r):
    "Pools that a record's parameters ask for, and those that rows of each judged method hold"
    judged = [
        x
        for x in r['rows']
        if x['split'] == ('test' if r['final'] else 'valid') and x['relevance'] in ('item', 'label')
    ]
    return set(r['params']['pools']), {x['pool'] for x in judged}


@pytest.mark.parametrize('name', ['00_method', '10_cca', '81_transformer'])
def test_a_notebook_keeps_each_pool_that_it_is_asked_for(name, tmp_path):
    pools, out = ['all', 5, 5000], tmp_path / 'r.json'
    papermill.execute_notebook(
        root / 'nbs' / 'experiments' / f'{name}.ipynb',
        tmp_path / 'o.ipynb',
        dict(pools=pools, out=str(out)),
        cwd=root,
        progress_bar=False,
        **forking,
    )
    r = json.loads(out.read_text())
    asked, results = asked_and_found(r)
    assert asked <= results
    assert all(('value' in x) == (x['pool'] != 5000) for x in r['rows'] if x['split'] == 'valid')


entries = tomllib.loads((root / 'nbs' / 'experiments' / 'experiments.toml').read_text())
with_pools = [e for e, d in entries.items() if 'pools' in d.get('params', {})]


@pytest.mark.parametrize('entry', with_pools)
def test_a_published_record_holds_the_pools_of_its_entry(entry):
    notebook = root / 'nbs' / 'experiments' / entries[entry]['notebook']
    for r in record.runs(entry, local=False):
        if keys.differs(r, keys.digests(notebook, r['params'])):
            continue  # stale: it says so wherever it is shown
        asked, results = asked_and_found(r)
        n = max(x['n'] for x in r['rows'] if 'n' in x)
        assert {p for p in asked if p == 'all' or p <= n} <= results, f'{r["path"]}: {asked} asked for, {results} found'
