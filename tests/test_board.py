"""The leaderboard: what it claims of differences, costs, staleness and links, on records whose truth is known."""
import base64, csv, io, json, re
import numpy as np, pytest
from crossmodal_nb import figures, leaderboard, record
from crossmodal_nb.core import settings
from crossmodal_nb.metrics import paired

N, chance = 200, .05
item = np.arange(N)
text = lambda v: ' '.join(map(str, v))

def made(experiment, methods, items=item, seed=0, dataset='made up', history=(), tables=(), **params):
    "A record of by-item ranks: method: (n,) ranks"
    of = {'R@1': lambda r: r <= 1, 'R@5': lambda r: r <= 5, 'R@10': lambda r: r <= 10, 'MRR': lambda r: 1 / r, 'medR': np.median}
    row = lambda m, k, v: dict(query='image', gallery='text', metric=k, value=float(v), low=float(v) - .01, high=float(v) + .01, n=len(items), pool='all', chance=chance, null=chance, null_high=.0712,
                               relevance='item', split='test', method=m)
    return dict(experiment=experiment, notebook='10_cca', key=f'{experiment}{seed}', params=dict(dataset=dataset, seed=seed) | params, selected_by='valid', seconds=10. + seed, history=list(history),
                status='ok', digests=dict(notebook='n', params=f'p{seed}', code='c', data='d'), rows=[row(m, k, np.mean(f(r))) for m, r in methods.items() for k, f in of.items()],
                tables=dict(ranks={m: {'image→text': dict(item=text(items), rank=text(r))} for m, r in methods.items()}) | dict(tables))

@pytest.fixture
def ranks():
    g = np.random.default_rng(0)
    worse = g.integers(1, 60, N)
    return dict(CCA=worse, same=worse.copy(), better=np.maximum(1, worse - 12))

def ranked(*records): return leaderboard.rankings(leaderboard.significance(leaderboard.lines(list(records))))

def named(ranking): return {(l['experiment'], l['method']): l for l in ranking}

def test_a_shift_is_significant_and_no_shift_is_not(ranks):
    (lines,) = ranked(made('one', ranks)).values()
    of = named(lines)
    assert lines[0]['method'] == 'better'
    up, level = (of['one', m]['versus']['R@10'] for m in ('better', 'same'))
    assert up['cca']['paired'].significant and up['cca']['paired'].low > 0
    assert up['cca']['paired'] == paired(1. * (ranks['better'] <= 10), 1. * (ranks['CCA'] <= 10), cluster=item)
    assert level['cca']['paired'][:3] == (0, 0, 0) and not level['cca']['paired'].significant
    assert level['best']['paired'].high < 0

def test_seeds_and_entries_are_averaged_before_they_are_compared(ranks):
    g = np.random.default_rng(1)
    seeds = [np.maximum(1, ranks['better'] + g.integers(0, 3, N)) for _ in range(3)]
    shuffled = g.permutation(N)                                     # another entry may have asked in another order
    (lines,) = ranked(made('base', dict(CCA=ranks['CCA'])), *(made('deep', dict(net=r[shuffled]), item[shuffled], s) for s, r in enumerate(seeds))).values()
    net = named(lines)['deep', 'net']
    assert net['runs'] == 3 and net['seconds'] == 11
    assert net['versus']['R@5']['cca']['paired'] == pytest.approx(paired(np.stack([1. * (r <= 5) for r in seeds]), 1. * (ranks['CCA'] <= 5), cluster=item))

def test_no_interval_where_it_would_be_a_guess(ranks):
    other = made('elsewhere', dict(net=ranks['better']), item + 1000)
    bare = made('bare', dict(net=ranks['better'])); bare['tables'] = {}
    wrong = made('wrong', dict(net=ranks['better'])); wrong['tables']['ranks']['net']['image→text']['rank'] = text(ranks['CCA'])     # not what made the score
    (lines,) = ranked(made('one', ranks), other, bare, wrong).values()
    why = {e: named(lines)[e, 'net']['versus']['R@10']['cca'] for e in ('elsewhere', 'bare', 'wrong')}
    assert {e: v['why'] for e, v in why.items()} == dict(elsewhere='queries', bare='own', wrong='own') and all(v['paired'] is None for v in why.values())
    assert named(lines)['one', 'better']['versus']['medR']['cca']['why'] == 'metric'
    shown = leaderboard.table(ranked(made('one', ranks), other, bare, wrong))
    assert shown.count('–<sup') >= 3 and leaderboard.nothing['queries'] in shown and leaderboard.nothing['own'] in shown
    (alone,) = ranked(made('two', dict(net=ranks['CCA'], better=ranks['better']))).values()
    assert {l['versus']['R@10']['cca']['why'] for l in alone} == {'none'}

def test_other_galleries_and_queries_are_other_rankings(ranks):
    fewer = made('fewer', {m: r[:50] for m, r in ranks.items()}, item[:50])
    harder = made('harder', ranks)
    for r in harder['rows']: r['chance'] = .01
    assert len(ranked(made('one', ranks), fewer, harder, made('far', ranks, dataset='another'))) == 4

def test_values_under_another_name_must_agree_to_the_digit(ranks):
    r = made('bits', {'net, 64 bits': ranks['better'], 'net, 16 bits': ranks['CCA']})
    r['tables']['ranks'] = {'net': r['tables']['ranks']['net, 64 bits']}
    lines = {l['method']: l for l in leaderboard.lines([r])}
    assert lines['net, 64 bits']['kept'] and not lines['net, 16 bits']['kept']

def test_what_is_told_or_unfinished_is_not_on_the_board(ranks):
    r = made('one', {'net': ranks['CCA'], 'net, class partners': ranks['better']})
    r['rows'] += [q | dict(stage='rung', method='rung') for q in r['rows']] + [q | dict(split='valid', method='valid') for q in r['rows']]
    assert {l['method'] for l in leaderboard.lines([r])} == {'net'}

def test_standing(ranks):
    assert leaderboard.standing(ranked(made('one', ranks))) == dict(all=1, can=1, leads=0, level=0, beaten=1)
    assert leaderboard.standing(ranked(made('one', {k: ranks[k] for k in ('CCA', 'same')})))['leads'] == 1
    nudged = ranks['CCA'].copy(); nudged[np.flatnonzero(nudged == 11)[:1]] = 10
    assert leaderboard.standing(ranked(made('one', dict(CCA=ranks['CCA'], nudged=nudged))))['level'] == 1
    assert leaderboard.standing(ranked(made('one', dict(net=ranks['same']))))['can'] == 0

def test_costs(ranks):
    history = [dict(method='better', epoch=e, seconds=1.5) for e in range(4)] + [dict(method='same', epoch=0, seconds=None)]
    lines = named(*ranked(made('one', ranks, history=history), made('two', {'H-T lite': ranks['same']}, tables=dict(parts=[dict(variant='six g, two-space', parameters=1234)]))).values())
    assert lines['one', 'better']['learning'] == 6 and lines['one', 'same']['learning'] is None and lines['one', 'CCA']['parameters'] is None
    assert lines['two', 'H-T lite']['parameters'] == 1234
    assert leaderboard.costs(ranked(made('one', ranks))) == []                                                 # one run has one cost
    rows = leaderboard.costs(ranked(made('one', ranks, history=history), made('slow', dict(net=ranks['better']), seed=7)))
    assert {r['method']: (r['name'], r['cost']) for r in rows} == dict(CCA=('CCA', 10), same=('', 10), better=('better', 10), net=('net', 17))
    assert leaderboard.costs(ranked(made('one', ranks, history=history)), 'learning') == []                    # one method is no comparison
    f = figures.scatter(rows, 'cost', panel='panel')
    assert {t.get_text() for t in f.axes[0].texts} - {''} == {'CCA', 'better', 'net', 'chance'}
    with pytest.raises(ValueError, match='logarithmic'): figures.scatter([rows[0] | dict(cost=0)], 'cost')

@pytest.fixture
def checkout(tmp_path, monkeypatch):
    root = tmp_path/'checkout'
    for d in ('nbs/experiments', 'book/pages', 'book/records', 'work'): (root/d).mkdir(parents=True)
    (root/'settings.ini').write_text('[crossmodal]\nlib_name = crossmodal_nb\nnbs_path = nbs\nbook = book\nwork = work\ndata = work/data\ndevice = cpu\n')
    monkeypatch.chdir(root)
    return root

def notebook(path, code):
    cell = lambda source, tags: dict(cell_type='code', source=source, metadata=dict(tags=tags), outputs=[], execution_count=None)
    path.write_text(json.dumps(dict(cells=[cell('dataset = "gaussian"\nseed = 0', ['parameters']), cell(code, [])], metadata={}, nbformat=4, nbformat_minor=5)))

def test_a_changed_notebook_makes_its_records_stale(checkout, ranks):
    path = checkout/'nbs/experiments/10_cca.ipynb'
    notebook(path, 'from crossmodal_nb.metrics import recall_at')
    runs = [made('one', ranks, seed=s, dataset='gaussian') for s in (0, 1)]
    for r in runs: r['digests'] = record.digests(path, r['params'])
    assert leaderboard.stale(runs) == ({}, [])
    leaderboard._now.cache_clear()
    notebook(path, 'from crossmodal_nb.metrics import recall_at, mean_ap')
    changed, _ = leaderboard.stale(runs)
    assert changed == {'one': 'notebook, code'}
    assert 'notebook, code</td>' in leaderboard.table(ranked(*runs), changed) and 'notebook, code</td>' not in leaderboard.table(ranked(*runs))
    leaderboard._now.cache_clear()
    runs[0]['notebook'] = 'deleted'
    assert 'notebook gone' in leaderboard.stale(runs)[0]['one']

def test_links_lead_to_pages_that_exist(checkout, ranks):
    (checkout/'book/pages/one.ipynb').write_text('{}')
    assert leaderboard.links('one') == {'one': 'one.html', 'card': 'one.html#run-card', 'ipynb': '../_sources/results/one.ipynb'} and leaderboard.links('none') == {}
    assert 'id="run-card"' in figures.card(made('one', ranks))
    t = leaderboard.table(ranked(made('one', ranks), made('none', ranks)))
    assert 'href="one.html"' in t and 'none.html' not in t

def test_the_published_board_links_only_to_published_pages():
    page = json.loads((settings().book/'pages'/'board.ipynb').read_text())
    html = ''.join(''.join(o.get('data', {}).get('text/html', '')) for c in page['cells'] if c['cell_type'] == 'code' for o in c['outputs'])
    found = set(re.findall(r'href="(\w+)\.html(?:#run-card)?"', html)) | set(re.findall(r'href="\.\./_sources/results/(\w+)\.ipynb"', html))
    assert len(found) > 20 and all((settings().book/'pages'/f'{e}.ipynb').exists() for e in found)
    saved = base64.b64decode(re.search(r'base64,([^"]+)"', html)[1]).decode()
    rows = list(csv.DictReader(io.StringIO(saved)))
    assert {r['experiment'] for r in rows} == found and all(0 <= float(r['chance']) for r in rows)

def test_csv_gives_back_every_field(ranks):
    lines = leaderboard.significance(leaderboard.lines([made('one, "quoted"', ranks | {'a\nb': ranks['same']})]))
    rows = leaderboard.flat(lines, {'one, "quoted"': 'code'})
    link = leaderboard.download(leaderboard.as_csv(rows), 'leaderboard.csv')
    assert 'download="leaderboard.csv"' in link
    back = list(csv.DictReader(io.StringIO(base64.b64decode(re.search(r'base64,([^"]+)"', link)[1]).decode())))
    assert back == [{k: '' if v is None else str(v) for k, v in r.items()} for r in rows]
    assert len(rows) == 4 * 5 and {r['stale'] for r in rows} == {'code'} and any(r['best_significant'] for r in rows)

def test_hostile_names_are_text_and_chance_and_null_are_shown(ranks):
    bad = '<script>alert(1)</script>"\'&'
    t = leaderboard.table(ranked(made(bad, ranks | {bad: ranks['same']}, dataset=bad)), {bad: bad}, bad, bad)
    assert '<script' not in t and t.count('&lt;script&gt;') >= 4
    assert 'chance 5 %' in t and '<td>7.1</td>' in t and f'{N} queries' in t
    assert 'chance 5 %' in t.plain

def test_many_directions_are_folded_away(ranks):
    records = []
    for k in range(5):
        r = made(f'e{k}', ranks)
        for row in r['rows']: row['gallery'] = f'view {k}'
        records.append(r)
    assert '<details>' in leaderboard.table(ranked(*records)) and '<details>' not in leaderboard.table(ranked(*records[:4]))

def test_what_others_report_is_kept_apart():
    tables = leaderboard.elsewhere()
    assert len(tables) >= 6
    for t in tables:
        html = figures.reported(**t)
        assert 'cm-reported' in html and 'Reported elsewhere, not run here' in html and t['source'] and t['caption']
