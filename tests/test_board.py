"""The leaderboard: what it claims of differences, and of how sure it is; costs, staleness and links, on records whose
truth is known.
"""

import csv
import io
import json
import re

import numpy as np
import pytest

from crossmodal_nb.core.settings import settings
from crossmodal_nb.evaluation.comparison import packed, rank_score
from crossmodal_nb.metrics.comparison import compare, false_ahead, holm, phrase, phrase_advice, simplest
from crossmodal_nb.metrics.uncertainty import estimate, item_score
from crossmodal_nb.report import (
    advice,
    cost_plot,
    leaderboard_lines,
    leaderboard_rankings,
    leaderboard_tables,
    style,
    surprises,
    tables,
)
from crossmodal_nb.report.provenance import card
from crossmodal_nb.report.tables import reported, table
from crossmodal_nb.runs import keys, record

N, chance = 200, 0.05
item = np.arange(N)


def made(experiment, methods, items=item, seed=0, dataset='made up', history=(), tables=(), closed=('CCA',), **params):
    "A record of by-item ranks: method: (n,) ranks. Methods of `closed` come out the same each time"
    of = {
        'R@1': lambda r: r <= 1,
        'R@5': lambda r: r <= 5,
        'R@10': lambda r: r <= 10,
        'MRR': lambda r: 1 / r,
        'medR': np.median,
    }

    def row(m, k, v):
        return dict(
            query='image',
            gallery='text',
            metric=k,
            value=float(v),
            low=float(v) - 0.01,
            high=float(v) + 0.01,
            se=0.005,
            n=len(items),
            pool='all',
            chance=chance,
            null=chance,
            null_high=0.0712,
            relevance='item',
            split='test',
            method=m,
        )

    params = dict(dataset=dataset, seed=seed, dims=[2, 4]) | params
    return dict(
        experiment=experiment,
        notebook='10_cca',
        key=f'{experiment}{seed}',
        params=params,
        selected_by='valid',
        seconds=10.0 + seed,
        history=list(history),
        status='ok',
        digests=dict(notebook='n', params=f'p{seed}', fit='f', measure='m', data='d'),
        rows=[row(m, k, np.mean(f(r))) for m, r in methods.items() for k, f in of.items()],
        tables=dict(
            ranks={
                m: {'image→text': dict(item=np.asarray(items), rank=r, random=m not in closed)}
                for m, r in methods.items()
            }
        )
        | dict(tables),
    )


def labelled(experiment, methods, items=item, seed=0, random=True, dataset='made up', **params):
    "A record of mAP: method: (n,) what each item adds to it"
    scores = {m: item_score(v, items, random) for m, v in methods.items()}
    rows = [
        dict(
            query='image',
            gallery='text',
            metric='mAP',
            value=s.value,
            low=s.value - 0.02,
            high=s.value + 0.02,
            se=s.variance**0.5,
            n=len(items),
            pool='all',
            chance=0.1,
            null=0.1,
            null_high=0.12,
            relevance='label',
            norm='relevant',
            split='test',
            method=m,
        )
        for m, s in scores.items()
    ]
    return dict(
        experiment=experiment,
        notebook='60_dscmr',
        key=f'{experiment}{seed}',
        params=dict(dataset=dataset, seed=seed) | params,
        selected_by='valid',
        seconds=1.0,
        history=[],
        status='ok',
        digests={},
        rows=rows,
        tables=dict(scores={m: {'image→text': packed(s)} for m, s in scores.items()}),
    )


@pytest.fixture
def ranks():
    g = np.random.default_rng(0)
    worse = g.integers(1, 60, N)
    return dict(CCA=worse, same=worse.copy(), better=np.maximum(1, worse - 12))


forms = ('CCA', 'same', 'better')  # as closed forms: one run of them is all there is


def ranked(*records):
    return leaderboard_rankings.rankings(leaderboard_rankings.significance(leaderboard_lines.lines(list(records))))


def named(ranking):
    return {(line['experiment'], line['method']): line for line in ranking}


def shown(of_all, *more):
    "The lines of the board's table"
    return leaderboard_tables.table_lines(leaderboard_tables.line_table(of_all, *more))


def recall(r):
    return item_score(np.mean([r <= k for k in (1, 5, 10)], 0), item)


def recall_of(r):
    return rank_score(next(iter(r['tables']['ranks'].values())))


def test_by_item_the_rsum_ranks_and_by_class_the_map():
    first_often, ten_often = (
        np.where(item % 2, 1, 30),
        np.where(item % 10, 9, 30),
    )  # R@10 is higher in the second, the rsum in the first
    (lines,) = ranked(made('one', dict(often_first=first_often, in_the_ten=ten_often))).values()
    assert [line['method'] for line in lines] == ['often_first', 'in_the_ten']
    row = lines[0]['scores']['rsum']
    assert (
        row['value'] == pytest.approx(1.5)
        and row['chance'] == pytest.approx(3 * chance)
        and tables.shown(row).startswith('150.0')
    )
    e = estimate(3 * recall(first_often))
    assert (row['low'], row['high']) == pytest.approx((e.low, e.high))
    (lines,) = ranked(labelled('classes', dict(a=np.full(N, 0.2), b=np.full(N, 0.3)))).values()
    assert [line['method'] for line in lines] == ['b', 'a'] and list(lines[0]['scores']) == ['mAP']


def test_a_shift_is_ahead_and_no_shift_is_as_good(ranks):
    (lines,) = ranked(made('one', ranks, closed=forms)).values()
    of = named(lines)
    assert lines[0]['method'] == 'better'
    up, level = (of['one', m]['versus'] for m in ('better', 'same'))
    expected = compare(recall(ranks['better']), recall(ranks['CCA']))
    assert up['cca']['comparison'] == expected and expected.verdict == 'ahead'
    assert level['cca']['comparison'][:3] == (0, 0, 0) and level['cca']['comparison'].verdict == 'as good'
    assert level['best']['comparison'].high < 0 and level['best']['comparison'].verdict == 'behind'
    assert up['best'] == dict(rival=of['one', 'better'], comparison=None, p_holm=None, why=None)


def test_methods_that_cannot_be_told_apart_share_a_letter(ranks):
    (lines,) = ranked(made('one', ranks, closed=forms)).values()
    assert {m: line['group'] for (_, m), line in named(lines).items()} == dict(better='a', CCA='b', same='b')
    of_all = ranked(made('one', ranks, closed=forms))
    assert {x['method']: x['group'] for x in shown(of_all)} == dict(better='a', CCA='b', same='b')
    summary = leaderboard_tables.summary(of_all)
    assert summary.count('<sup>b</sup>') == 2 and re.search(r'<b>[\d.]+</b> <sup>a</sup>', summary)
    assert summary.count('<b>') == 1


def test_all_pairs_of_a_ranking_are_corrected_together_and_both_p_are_stored(ranks):
    g = np.random.default_rng(4)
    moved = {f'moved {k}': np.maximum(1, ranks['CCA'] + g.integers(-2 - k, 2, N)) for k in range(4)}
    methods = dict(CCA=ranks['CCA']) | moved
    of_all = ranked(made('one', methods, closed=list(methods)))
    lines, order = named(*of_all.values()), list(methods)
    raw = {
        (a, b): compare(recall(methods[a]), recall(methods[b])).p for i, a in enumerate(order) for b in order[i + 1 :]
    }
    corrected = dict(zip(raw, holm(list(raw.values()))))
    rows = {r['method']: r for r in leaderboard_tables.flat(list(lines.values())) if r['metric'] == 'rsum'}
    for m in moved:
        assert rows[m]['cca_p'] == pytest.approx(raw['CCA', m], rel=1e-5) and rows[m]['cca_p_holm'] == pytest.approx(
            corrected['CCA', m], rel=1e-5
        )
        assert rows[m]['cca_verdict'] == lines['one', m]['versus']['cca']['comparison'].verdict
        assert (rows[m]['cca_verdict'] in ('ahead', 'behind')) == (corrected['CCA', m] < 0.05)
    assert any(raw['CCA', m] < 0.05 < corrected['CCA', m] for m in moved)  # what the correction is for
    assert all(rows[m]['best_p_holm'] >= rows[m]['best_p'] for m in methods if 'best_p' in rows[m])


def test_how_many_false_ones_chance_would_give(ranks):
    of_all = ranked(made('one', ranks, closed=forms), made('two', ranks, dataset='another', closed=forms))
    assert (
        leaderboard_rankings.by_chance(of_all) == pytest.approx(false_ahead(12)) == pytest.approx(0.3)
    )  # three pairs each, and either may be ahead
    assert all('3 pairs compared: 0.15 false “ahead” expected' in x['protocol'] for x in shown(of_all))
    rows = [
        r for r in leaderboard_tables.flat([line for ls in of_all.values() for line in ls]) if r['metric'] == 'rsum'
    ]
    assert {r['false_ahead_by_chance'] for r in rows} == {0.15}
    assert leaderboard_rankings.told_apart(of_all) == dict(raw=4, held=4)


def test_of_equal_methods_at_most_one_family_in_twenty_tells_two_apart():
    g = np.random.default_rng(5)
    different = 0
    for _ in range(60):
        base = g.integers(1, 30, N)
        equal = {f'm{i}': np.maximum(1, base + g.integers(-4, 5, N)) for i in range(5)}
        different += (
            len({line['group'] for line in next(iter(ranked(made('one', equal, closed=list(equal))).values()))}) > 1
        )
    assert different <= 7  # of 60 at 5 %: more have a chance of 1 in 80


def test_what_ran_once_but_could_come_out_otherwise_claims_nothing(ranks):
    (lines,) = ranked(made('one', ranks)).values()
    of = named(lines)
    assert (
        of['one', 'better']['group']
        == of['one', 'same']['group']
        == of['one', 'better']['versus']['cca']['comparison'].verdict
        == 'one run'
    )
    assert (
        of['one', 'CCA']['group'] == 'a'
        and of['one', 'better']['versus']['cca']['p_holm'] is None
        and of['one', 'better']['pairs'] == 0
    )
    text = leaderboard_tables.line_table(ranked(made('one', ranks)))
    by_method = {x['method']: x for x in leaderboard_tables.table_lines(text)}
    assert [by_method[m]['group'] for m in forms] == ['a', 'one run', 'one run'] and '¹ one run' in text
    assert by_method['better']['minus linear CCA'].endswith(': one run')
    assert leaderboard_tables.summary(ranked(made('one', ranks))).count('<sup>') == 1
    bare = made('one', ranks)
    for d in bare['tables']['ranks'].values():
        d['image→text'].pop('random')  # old records do not say: names do
    assert {line['method']: line['random'] for line in leaderboard_lines.lines([bare])} == dict(
        CCA=False, same=True, better=True
    )
    for name, closed in {
        'SM, kernel': True,
        'CCA with labels': True,
        'CCA-ITQ, 16 bits': True,
        'TF-IDF': True,
        'TF-IDF+H-T lite': False,
        'DSCMR, on all': False,
    }.items():
        assert leaderboard_lines.closed(name) == closed


def test_seeds_are_merged_with_the_variance_of_items_and_of_runs(ranks):
    g = np.random.default_rng(1)
    seeds = [np.maximum(1, ranks['better'] + g.integers(0, 3, N)) for _ in range(3)]
    shuffled = g.permutation(N)  # another entry may have asked in another order
    (lines,) = ranked(
        made('base', dict(CCA=ranks['CCA'])),
        *(made('deep', dict(net=r[shuffled]), item[shuffled], s) for s, r in enumerate(seeds)),
    ).values()
    net = named(lines)['deep', 'net']
    assert net['runs'] == 3 and net['seconds'] == 11 and net['design'] == 'seeds'
    assert net['versus']['cca']['comparison'] == pytest.approx(
        compare([recall(r) for r in seeds], recall(ranks['CCA']))
    )
    row, values = net['scores']['R@5'], [np.mean(r <= 5) for r in seeds]
    assert row['se'] == pytest.approx((0.005**2 + np.var(values, ddof=1) / 3) ** 0.5) and row[
        'run_sd'
    ] == pytest.approx(np.std(values, ddof=1))
    assert style.spread(row)[2] == '95 %: items and 3 runs'


def test_folds_are_not_seeds(ranks):
    def folds(experiment, method, shift):
        g = np.random.default_rng(7)
        return [
            made(
                experiment,
                {method: np.maximum(1, g.integers(1, 30, N) - shift)},
                item + 1000 * k,
                seed=k,
                options=dict(fold=k, repeat=0),
            )
            for k in range(5)
        ]

    (lines,) = ranked(*folds('one', 'net', 8), *folds('two', 'CCA', 0)).values()
    net = named(lines)['one', 'net']
    values = [r['value'] for f in folds('one', 'net', 8) for r in f['rows'] if r['metric'] == 'R@5']
    row = net['scores']['R@5']
    assert net['design'] == row['design'] == 'folds' and row['se'] ** 2 == pytest.approx(
        (1 / 5 + 0.25) * np.var(values, ddof=1)
    )  # Nadeau and Bengio (2003)
    assert '5 folds, Nadeau and Bengio' in style.spread(row)[2]
    c = net['versus']['cca']['comparison']
    assert c.verdict == 'ahead' and c.runs == 5
    assert c == pytest.approx(
        compare(
            *([recall_of(f) for f in folds(*name)] for name in (('one', 'net', 8), ('two', 'CCA', 0))), design='folds'
        )
    )
    (lines,) = ranked(*folds('one', 'net', 8)[:3], *folds('two', 'CCA', 0)[1:]).values()
    assert named(lines)['one', 'net']['versus']['cca']['why'] == 'queries'


def test_no_interval_passes_what_its_metric_can_be(ranks):
    scores = {'R@1': [0.02, 0.3, 0.01], 'mAP': [0.99, 0.7, 0.98], 'medR': [1, 60, 5]}
    run = made('one', dict(net=ranks['better']))
    row = {k: v for k, v in run['rows'][0].items() if k != 'se'}
    rows = [[row | dict(metric=m, value=v[k]) for m, v in scores.items()] for k in range(3)]
    runs = [run | dict(key=f'{k}', rows=r) for k, r in enumerate(rows)]
    merged = {r['metric']: r for r in record.board(runs)}
    assert merged['R@1']['low'] == 0 and 0.3 < merged['R@1']['high'] < 1
    assert merged['mAP']['high'] == 1 and 0 < merged['mAP']['low'] < 0.7
    assert merged['medR']['low'] == 1 and merged['medR']['high'] > 60


def test_rows_without_a_standard_error_have_an_interval_of_runs_alone(ranks):
    runs = [made('one', dict(net=np.maximum(1, ranks['better'] + k))) | dict(key=f'{k}') for k in range(3)]
    for r in runs:
        for row in r['rows']:
            row.pop('se')
    row = next(r for r in record.board(runs) if r['metric'] == 'R@5')
    assert row['design'] == 'seeds alone' and 'without the variance of items' in style.spread(row)[2]
    assert row['se'] == pytest.approx(
        np.std([np.mean(np.maximum(1, ranks['better'] + k) <= 5) for k in range(3)], ddof=1) / 3**0.5
    )
    identical = next(r for r in record.board([runs[0], runs[0]]) if r['metric'] == 'R@5')
    assert style.spread(identical)[0] is None  # a closed form, twice: nothing is known


def test_no_comparison_where_it_would_be_a_guess(ranks):
    second = made('elsewhere', dict(net=ranks['better']), item + 1000)
    bare = made('bare', dict(net=ranks['better']))
    bare['tables'] = {}
    wrong = made('wrong', dict(net=ranks['better']))
    wrong['tables']['ranks']['net']['image→text']['rank'] = ranks['CCA']  # not what made the score
    records = made('one', ranks, closed=forms), second, bare, wrong
    (lines,) = ranked(*records).values()
    why = {e: named(lines)[e, 'net']['versus']['cca'] for e in ('elsewhere', 'bare', 'wrong')}
    assert {e: v['why'] for e, v in why.items()} == dict(elsewhere='queries', bare='own', wrong='own') and all(
        v['comparison'] is None for v in why.values()
    )
    reasons = {k: v.partition(': ')[2] for k, v in leaderboard_rankings.missing_reasons.items()}
    table = {x['entry']: x for x in shown(ranked(*records)) if x['method'] == 'net'}
    for e, reason in dict(elsewhere='queries', bare='own', wrong='own').items():
        assert table[e]['minus linear CCA'] == '–' and reasons[reason] in table[e]['no difference']
    (alone,) = ranked(made('two', dict(net=ranks['CCA'], better=ranks['better']))).values()
    assert {line['versus']['cca']['why'] for line in alone} == {'none'}


def test_by_class_influences_are_compared_and_old_records_say_why_not():
    g = np.random.default_rng(2)
    base = g.random(N)

    def records():
        return [
            labelled(
                'e',
                dict(CCA=base, DSCMR=base + 0.1 + 0.02 * g.standard_normal(N)),
                seed=s,
                classical={'CCA': ['CCA', [{}, {'dim': 8}]]},
            )
            for s in range(3)
        ]

    (lines,) = ranked(*records()).values()
    assert (
        lines[0]['method'] == 'DSCMR'
        and lines[0]['versus']['cca']['comparison'].verdict == 'ahead'
        and [line['group'] for line in lines] == ['a', 'b']
    )
    old = records()
    for r in old:
        r['tables'] = dict(ap={'CCA': {}, 'DSCMR': {}}, items={})
        for row in r['rows']:
            row.pop('se')
    (lines,) = ranked(*old).values()
    assert {line['why'] for line in lines} == {'before'}
    assert 'before influences of items were kept' in shown(ranked(*old))[1]['no difference']
    (lines,) = ranked(old[0]).values()
    assert all(line['scores']['mAP']['low'] is None for line in lines)  # that interval held the gallery fixed


def test_untuned_cca_is_not_the_bar(ranks):
    fixed = made('fixed', {'linear CCA': ranks['CCA'], 'net': ranks['better']}, closed=('linear CCA', 'net'), dims=None)
    (lines,) = ranked(fixed).values()
    assert {line['method'] for line in lines} == {'net', 'CCA, one setting'} and {
        line['versus']['cca']['why'] for line in lines
    } == {'none'}
    tuned = made('tuned', {'linear CCA': ranks['CCA']}, closed=('linear CCA',))
    of = named(*ranked(fixed, tuned).values())
    assert of['fixed', 'net']['versus']['cca']['rival'] is of['tuned', 'CCA']
    for params, chosen in (
        (dict(dims=None, grid=dict(dim=[2, 4])), True),
        (dict(dims=[2]), False),
        (dict(dims=None, classical={'CCA': ['CCA', [{}]]}), False),
    ):
        assert leaderboard_lines._tuned(made('one', {}, **params)) == chosen
    assert not leaderboard_lines._tuned(made('one', {}) | dict(selected_by=''))


def test_other_features_are_named_and_are_not_the_bar(ranks):
    plain, other = (
        made('plain', dict(CCA=ranks['CCA'])),
        made('other', dict(net=ranks['better'], CCA=ranks['same']), options=dict(text='lda')),
    )
    of = named(*ranked(plain, other).values())
    assert (
        of['other', 'net']['versus']['cca']['rival'] is of['other', 'CCA'] and of['plain', 'CCA']['features'] == 'plain'
    )
    assert {(x['entry'], x['features']) for x in shown(ranked(plain, other))} == {
        ('plain', 'plain'),
        ('other', 'plain, text lda'),
    }
    assert (
        leaderboard_lines._features(made('one', {}, options=dict(text='lda', fold=1, label='category')))
        == 'plain, text lda'
    )
    del other['rows'][5:], other['tables']['ranks']['CCA']
    assert named(*ranked(plain, other).values())['other', 'net']['versus']['cca']['why'] == 'none'


def test_a_wrong_record_does_not_stop_the_board(ranks):
    good, bad = made('one', ranks), made('bad', ranks)
    bad['rows'][0].pop('relevance')
    with pytest.warns(UserWarning, match='bad, bad0: its record is left out'):
        lines = leaderboard_lines.lines([bad, good])
    assert {line['experiment'] for line in lines} == {'one'}
    bad = made('one', ranks, seed=1)
    bad['tables']['ranks']['CCA']['image→text']['rank'] = 'no number'
    with pytest.warns(UserWarning, match='one1'):
        lines = leaderboard_lines.lines([bad, good])
    assert {line['runs'] for line in lines} == {1}  # the other run of the entry stays


def test_where_equal_rows_are_right_the_official_score_stands_beside(ranks):
    r = made('one', ranks)
    for row in r['rows']:
        if row['metric'] != 'medR':
            row |= dict(official=row['value'] - 0.01, ceiling=0.98)
    (lines,) = ranked(r).values()
    row = lines[0]['scores']['rsum']
    assert row['official'] == pytest.approx(row['value'] - 0.03) and row['ceiling'] == pytest.approx(2.94)
    first = shown(ranked(r))[0]
    assert first['score'].endswith(f'({100 * row["official"]:.1f})') and 'ceiling 294 %' in first['protocol']


def test_other_galleries_and_queries_are_other_rankings(ranks):
    fewer = made('fewer', {m: r[:50] for m, r in ranks.items()}, item[:50])
    harder = made('harder', ranks)
    for r in harder['rows']:
        r['chance'] = 0.01
    assert len(ranked(made('one', ranks), fewer, harder, made('far', ranks, dataset='another'))) == 4


def test_lines_of_other_encoders_are_other_rankings(ranks):
    "Each is the best of its own ranking, beside its encoders; equal encoders meet in one ranking, whoever ran them"
    from crossmodal_nb.encoders.image import EfficientNetLite
    from crossmodal_nb.encoders.suitability import identity
    from crossmodal_nb.encoders.text import MiniLM, TfIdf

    def read(experiment, method, values, **by_view):
        noted = [dict(view=v, encoder='?', warnings=[], **identity(e)) for v, e in by_view.items()]
        return made(experiment, {'CCA': ranks['CCA'], method: values}, closed=forms) | dict(suitability=noted)

    words = TfIdf().fit(['a red pear', 'a green apple']), TfIdf().fit(['another fold'])
    records = [
        read('small', 'better', ranks['better'], image=EfficientNetLite(), text=MiniLM(), title=TfIdf(9).fit(['red'])),
        read('large', 'same', ranks['same'], image=EfficientNetLite(version=2), text=MiniLM()),
        read('words', 'same', ranks['same'], image=EfficientNetLite(), text=words[0]),
        read('fold', 'better', ranks['better'], image=EfficientNetLite(), text=words[1]),
        read('short', 'same', ranks['same'], image=EfficientNetLite(), text=MiniLM(max_tokens=9)),
    ]
    found = ranked(*records)
    together = [sorted({line['experiment'] for line in v}) for v in found.values()]
    assert sorted(together) == [['fold', 'words'], ['large'], ['short'], ['small']]
    for key, lines in found.items():
        assert {line['encoders'] for line in lines} == {key[-1]}
        assert all(line['versus']['best']['rival'] is lines[0] for line in lines)
        assert all(line['versus']['cca']['rival'] in lines for line in lines)  # nor is linear CCA of others a bar
    assert len({k[-1] for k in found}) == 4 and not any('title' in k[-1] for k in found)
    text = leaderboard_tables.line_table(found)
    assert text.count('<b>') == text.count('id="ranking_') == len(found)  # the best of each ranking
    assert len({x['ranking'] for x in leaderboard_tables.table_lines(text)}) == len(found)
    assert all(name in text for name in ('EfficientNet-Lite2', 'EfficientNet-Lite0', 'all-MiniLM-L6-v2', 'TF-IDF'))
    rows = leaderboard_tables.flat([line for v in found.values() for line in v])
    assert {r['encoders'] for r in rows} == {k[-1] for k in found}
    # older records hold no digests: what is known of them are their parameters
    old = [made(str(k), ranks, **p) for k, p in enumerate([{}, dict(rich=True), dict(encoders=dict(text='TfIdf'))])]
    assert [k[-1] for k in ranked(*old)] == ['', 'rich', 'text tfidf']


def test_values_under_another_name_must_agree_to_the_digit(ranks):
    r = made('bits', {'net, 64 bits': ranks['better'], 'net, 16 bits': ranks['CCA']})
    r['tables']['ranks'] = {'net': r['tables']['ranks']['net, 64 bits']}
    lines = {line['method']: line for line in leaderboard_lines.lines([r])}
    assert lines['net, 64 bits']['found'] and not lines['net, 16 bits']['found']


def test_what_is_told_or_unfinished_is_not_on_the_board(ranks):
    r = made('one', {'net': ranks['CCA'], 'net, class partners': ranks['better']})
    r['rows'] += [q | dict(stage='rung', method='rung') for q in r['rows']] + [
        q | dict(split='valid', method='valid') for q in r['rows']
    ]
    assert {line['method'] for line in leaderboard_lines.lines([r])} == {'net'}


def test_standing(ranks):
    def said(methods):
        return leaderboard_rankings.standing(ranked(made('one', methods, closed=list(methods))))

    assert said(ranks) == dict(all=1, can=1, ahead=1, none=0, undecided=0)
    assert said({k: ranks[k] for k in ('CCA', 'same')})['none'] == 1  # shown to be no more than δ ahead
    g = np.random.default_rng(3)
    assert said(dict(CCA=ranks['CCA'], moved=np.maximum(1, ranks['CCA'] + g.integers(-3, 4, N))))['undecided'] == 1
    assert (
        said(dict(net=ranks['same']))['can'] == 0
        and leaderboard_rankings.standing(ranked(made('one', ranks)))['can'] == 0
    )


def test_costs(ranks):
    history = [dict(method='better', epoch=e, seconds=1.5) for e in range(4)] + [
        dict(method='same', epoch=0, seconds=None)
    ]
    lines = named(
        *ranked(
            made('one', ranks, history=history),
            made(
                'two',
                {'H-T lite': ranks['same']},
                tables=dict(parts=[dict(variant='six g, two-space', parameters=1234)]),
            ),
        ).values()
    )
    assert (
        lines['one', 'better']['learning'] == 6
        and lines['one', 'same']['learning'] is None
        and lines['one', 'CCA']['parameters'] is None
    )
    assert lines['two', 'H-T lite']['parameters'] == 1234
    assert leaderboard_rankings.costs(ranked(made('one', ranks))) == []  # one run has one cost
    rows = leaderboard_rankings.costs(
        ranked(made('one', ranks, history=history), made('slow', dict(net=ranks['better']), seed=7))
    )
    assert {r['method']: (r['name'], r['cost']) for r in rows} == dict(
        CCA=('CCA', 10), same=('', 10), better=('better', 10), net=('net', 17)
    )
    assert (
        leaderboard_rankings.costs(ranked(made('one', ranks, history=history)), 'learning') == []
    )  # one method is no comparison
    f = cost_plot.scatter(rows, 'cost', panel='panel')
    assert {t.get_text() for t in f.axes[0].texts} - {''} == {'CCA', 'better', 'net', 'chance'}
    with pytest.raises(ValueError, match='logarithmic'):
        cost_plot.scatter([rows[0] | dict(cost=0)], 'cost')


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    root = tmp_path / 'checkout'
    for d in ('nbs/experiments', 'book/pages', 'book/records', 'work'):
        (root / d).mkdir(parents=True)
    (root / 'settings.ini').write_text(
        '[crossmodal]\nlib_name = crossmodal_nb\nnbs_path = nbs\nbook = book\nwork = work\ndata = work/data\ndevice '
        '= cpu\n'
    )
    monkeypatch.chdir(root)
    return root


def notebook(path, code):
    def cell(source, tags):
        return dict(cell_type='code', source=source, metadata=dict(tags=tags), outputs=[], execution_count=None)

    path.write_text(
        json.dumps(
            dict(
                cells=[cell('dataset = "gaussian"\nseed = 0', ['parameters']), cell(code, [])],
                metadata={},
                nbformat=4,
                nbformat_minor=5,
            )
        )
    )


def test_a_changed_notebook_makes_its_records_stale(checkout, ranks):
    path = checkout / 'nbs/experiments/10_cca.ipynb'
    notebook(path, 'from crossmodal_nb.metrics.ranking import recall_at\nrecall_at(1)')
    runs = [made('one', ranks, seed=s, dataset='gaussian') for s in (0, 1)]
    for r in runs:
        r['digests'] = keys.digests(path, r['params'])
    assert leaderboard_rankings.stale(runs) == ({}, [])
    leaderboard_rankings._now.cache_clear()
    notebook(path, 'from crossmodal_nb.metrics.average_precision import mean_ap\nmean_ap(1)')
    changed, _ = leaderboard_rankings.stale(runs)
    assert changed == {'one': 'notebook, measure'}
    assert {x['stale'] for x in shown(ranked(*runs), changed)} == {'notebook, measure'}
    assert {x['stale'] for x in shown(ranked(*runs))} == {''}
    leaderboard_rankings._now.cache_clear()
    runs[0]['notebook'] = 'deleted'
    assert 'notebook gone' in leaderboard_rankings.stale(runs)[0]['one']


def test_links_lead_to_pages_that_exist(checkout, ranks):
    (checkout / 'book/pages/one.ipynb').write_text('{}')
    assert (
        leaderboard_tables.links('one')
        == {'one': 'one.html', 'card': 'one.html#run-card', 'ipynb': '../_sources/results/one.ipynb'}
        and leaderboard_tables.links('none') == {}
    )
    assert 'id="run-card"' in card(made('one', ranks))
    t = leaderboard_tables.line_table(ranked(made('one', ranks), made('none', ranks)))
    assert '<a href="one.html">' in t and '"card":"one.html#run-card"' in t and 'none.html' not in t


def test_the_published_board_links_only_to_published_pages():
    page = json.loads((settings().book / 'pages' / 'board.ipynb').read_text())
    html = ''.join(
        ''.join(o.get('data', {}).get('text/html', ''))
        for c in page['cells']
        if c['cell_type'] == 'code'
        for o in c['outputs']
    )
    (table,) = re.findall(r'<script type="application/json">(.*?)</script>', html, re.S)
    linked = json.loads(table)['links']
    assert len(linked) > 20 and all((settings().book / 'pages' / f'{e}.ipynb').exists() for e in linked)
    assert all(x == leaderboard_tables.links(e) for e, x in linked.items())
    _, files = leaderboard_tables.beside_page(html, '', 'board')
    rows = list(csv.DictReader(io.StringIO(files['board-leaderboard.csv'].decode())))
    assert {r['experiment'] for r in rows} == set(linked) and all(0 <= float(r['chance']) for r in rows)
    lines = leaderboard_tables.table_lines(html)
    chief = [r for r in rows if r['metric'] == leaderboard_lines.ranked_by[r['relevance']]]
    assert len(lines) == len(chief) > 400 and {x['entry'] for x in lines} == set(linked)


def test_csv_gives_back_every_field(ranks):
    lines = leaderboard_rankings.significance(
        leaderboard_lines.lines([made('one, "quoted"', ranks | {'a\nb': ranks['same']})])
    )
    rows = leaderboard_tables.flat(lines, {'one, "quoted"': 'code'})
    link = leaderboard_tables.download(leaderboard_tables.as_csv(rows), 'leaderboard.csv')
    text, files = leaderboard_tables.beside_page(f'before {link} after', '../data', 'board')
    assert (
        text.startswith('before <p') and '<a download="leaderboard.csv" href="../data/board-leaderboard.csv">' in text
    )
    back = list(csv.DictReader(io.StringIO(files['board-leaderboard.csv'].decode())))
    assert back == [{k: '' if r.get(k) is None else str(r[k]) for k in back[0]} for r in rows]
    assert len(rows) == 4 * 6 and {r['stale'] for r in rows} == {'code'} and any(r.get('best_p') for r in rows)
    assert {'group', 'best_p', 'best_p_holm', 'cca_p', 'cca_p_holm', 'cca_verdict', 'official', 'features'} <= set(
        back[0]
    )


def test_hostile_names_are_text_and_chance_and_null_are_shown(ranks):
    bad = '<script>alert(1)</script>"\'&'
    found = ranked(made(bad, ranks | {bad: ranks['same']}, dataset=bad))
    t = leaderboard_tables.line_table(found, {bad: bad}, bad)
    assert t.count('<script') == t.count('</script') == 1 and t.count('&lt;script&gt;') >= 4
    assert {x['data set'] for x in leaderboard_tables.table_lines(t)} == {bad}
    first = leaderboard_tables.table_lines(t)[0]
    assert first['null, best 5 %'] == '21.4' and first['protocol'].startswith(f'{N} queries, chance 15 %')
    summary = leaderboard_tables.summary(found, bad)
    assert '<script' not in summary and bad in summary.plain and bad in t.plain


def test_without_a_script_few_lines_are_all_there_and_of_many_the_best_of_each_ranking(ranks):
    records = []
    for k in range(3):
        r = made(f'e{k}', ranks)
        for row in r['rows']:
            row['gallery'] = f'view {k}'
        records.append(r)
    few, many = (leaderboard_tables.line_table(ranked(*records), max_plain=n) for n in (9, 8))
    assert few.count('<tr') == 1 + 9 and 'cm-plain' not in few
    assert many.count('<tr id="ranking_') == 3 == many.count('<tr') - 1 and 'best line of each of 3' in many
    assert leaderboard_tables.table_lines(few) == leaderboard_tables.table_lines(many)


def test_the_summary_shows_of_a_method_in_two_entries_that_of_the_larger(ranks):
    small = made('a small one', dict(CCA=np.maximum(1, ranks['CCA'] - 5)))  # a better score
    found = ranked(small, made('large', ranks))
    of = named(*found.values())
    score = {e: f'{100 * leaderboard_rankings.score(of[e, "CCA"]):.1f}' for e in ('a small one', 'large')}
    text = leaderboard_tables.summary(found).plain
    assert f'CCA: made up {score["large"]}' in text and score['a small one'] not in text
    (name,) = leaderboard_tables.ranking_names(found).values()
    assert name == 'made-up-item-image-text'
    assert f'href="#ranking_{name}"' in leaderboard_tables.summary(found)
    assert f'id="ranking_{name}"' in leaderboard_tables.line_table(found)


def test_what_others_report_is_kept_apart():
    tables = leaderboard_tables.elsewhere()
    assert len(tables) >= 6
    for t in tables:
        html = reported(**t)
        assert 'cm-reported' in html and 'Reported elsewhere, not run here' in html and t['source'] and t['caption']


question = dict(have='pairs', entries=('one',), page='ladder')


def compared(test, valid=None, runs=3, closed=('CCA',), **params):
    "Runs that keep ranks of both splits: method: function of the run → (n,) ranks"

    def packed_ranks(of, s):
        return {m: {'image→text': dict(item=item, rank=f(s), random=m not in closed)} for m, f in of.items()}

    return [
        made(
            'one',
            {m: f(s) for m, f in test.items()},
            seed=s,
            closed=closed,
            tables=dict(valid_ranks=packed_ranks(valid, s)) if valid else {},
            **params,
        )
        for s in range(runs)
    ]


def chosen(records, **q):
    (row,) = advice.decisions(records, [question | q])
    return row


def test_in_a_world_with_a_known_winner_the_advice_is_no_shrug(ranks):
    g = np.random.default_rng(6)

    def draw(shift):
        return lambda s: np.maximum(1, ranks['CCA'] - shift + g.integers(-1, 2, N))

    worse, winner = draw(0), draw(30)
    row = chosen(compared(dict(CCA=worse, CLIP=winner, ViLBERT=winner), dict(CCA=worse, CLIP=winner, ViLBERT=worse)))
    assert row['start'] == 'CLIP' and row['found'] is True and 'undecided' not in row['because']
    row = chosen(
        compared(dict(CCA=lambda s: ranks['CCA'], DSCMR=worse), dict(CCA=lambda s: ranks['better'], DSCMR=worse))
    )
    assert (row['start'], row['found']) == ('CCA', True)  # the simplest may be it, too


def test_among_equals_the_advice_is_undecided_and_says_what_would_decide(ranks):
    g = np.random.default_rng(8)

    def noisy(s):
        return np.maximum(1, ranks['CCA'] + g.integers(-12, 13, N))

    row = chosen(compared(dict(CCA=noisy, CLIP=noisy), dict(CCA=noisy, CLIP=noisy)))
    assert (
        row['start'] == 'CCA'
        and row['found'] is False
        and row['because'].startswith('undecided among CCA, CLIP')
        and 'a default, not a finding' in row['because']
    )
    valid, _ = advice.scores_of(compared(dict(CCA=noisy), dict(CCA=noisy, CLIP=noisy)), ('one',))
    times = simplest(valid).times
    assert phrase_advice(simplest(valid), N).endswith(
        f'About {N * times:,.0f} items, {times:.1f} times as many, would decide'
    )
    row = chosen(compared(dict(CCA=noisy, CLIP=noisy), dict(CCA=noisy, CLIP=noisy), runs=1))
    assert row['found'] is False  # one run of CLIP claims nothing


def test_the_test_split_only_reports(ranks):
    def near(s):
        return ranks['CCA']

    valid = dict(CCA=near, CLIP=lambda s: np.maximum(1, ranks['CCA'] - 30))
    rows = [chosen(compared(test, valid)) for test in (valid, dict(CCA=valid['CLIP'], CLIP=near))]
    assert [r['start'] for r in rows] == ['CLIP', 'CLIP'] and rows[0]['because'] == rows[1]['because']
    assert (
        'minus CLIP: CCA ' in rows[0]['test']
        and rows[0]['test'].endswith(': behind')
        and rows[1]['test'].endswith(': ahead')
    )


def test_without_validation_scores_there_is_a_default_and_no_finding(ranks):
    g = np.random.default_rng(9)
    near, far = lambda s: ranks['CCA'], lambda s: np.maximum(1, ranks['CCA'] - 30 + g.integers(-5, 6, N))
    row = chosen(compared(dict(CCA=near, CLIP=far)))
    assert (
        row['start'] == 'CCA'
        and row['found'] is False
        and 'these records hold no validation scores of single items' in row['because']
    )
    assert re.search(r'About [\d,]+ items, [\d.]+ times as many as in the test split, would decide', row['because'])
    assert 'a default, not a finding' in advice.decision_table([row]) and advice.decisions([], [question]) == []


def test_methods_of_other_queries_and_other_directions_are_not_compared(ranks):
    records = compared(
        dict(CCA=lambda s: ranks['CCA'], CLIP=lambda s: ranks['better']),
        dict(CCA=lambda s: ranks['CCA'], CLIP=lambda s: ranks['better']),
    )
    second = made('two', dict(DCCA=ranks['better']), item + 1000)
    second['tables']['valid_ranks'] = second['tables']['ranks']
    assert set(advice.scores_of([*records, second], ('one', 'two'))[0]) == {'CCA', 'CLIP'}
    second['tables']['valid_ranks'] = {
        'DCCA': {'text→image': next(iter(records[0]['tables']['valid_ranks']['CCA'].values()))}
    }
    assert set(advice.scores_of([*records, second], ('one', 'two'))[0]) == {'CCA', 'CLIP'}


def test_of_folds_the_advice_knows_that_they_are_folds(ranks):
    records = [
        r
        for k in range(5)
        for r in compared(
            dict(CCA=lambda s: ranks['CCA']),
            dict(CCA=lambda s: ranks['CCA'], CLIP=lambda s: ranks['better']),
            runs=1,
            options=dict(fold=k),
        )
        for _ in [r.update(key=str(k))]
    ]
    scores, design = advice.scores_of(records, ('one',))
    assert design == 'folds' and {m: len(s) for m, s in scores.items()} == dict(CCA=5, CLIP=5)


def test_a_surprise_states_its_comparison_or_that_it_is_undecided(ranks):
    results = compared(dict(CCA=lambda s: ranks['CCA'], DCCA=lambda s: np.maximum(1, ranks['CCA'] - 30)))
    for r in results:
        r['experiment'] = 'dcca_emoji'
    bare = made('cca_emoji', dict(CCA=ranks['CCA'])) | dict(tables={})
    said = {s['title']: s['said'] for s in surprises.surprises([*results, bare])}
    c = compare([recall(np.maximum(1, ranks['CCA'] - 30))] * 3, [recall(ranks['CCA'])] * 3)
    assert (
        phrase(c) in said['Is deep ahead of linear?']
        and 'undecided, because their records hold no scores of single items: cca_emoji'
        in said['Are all dimensions equally useful?']
    )
    assert all(t.endswith('?') for t in said)


def test_marks_and_reasons_stand_in_tables_and_are_explained():
    row = dict(
        query='image',
        gallery='text',
        metric='mAP',
        value=0.4,
        low=0.3,
        high=0.5,
        se=0.05,
        n=90,
        pool='all',
        relevance='label',
        split='test',
        method='net',
    )
    marks = [
        'edge of its grid: dim',
        'best at the last epoch',
        'short budget: 40 of 500 epochs',
        'one run',
    ]  # as `evaluate.marks` has them
    shown = table([row | dict(marks=marks), row | dict(method='other', value=None, why='90 items')], 'method')
    assert (
        '>40.0†‡§¹ <small>[30.0, 50.0]' in shown
        and 'n/a <small>(90 items)' in shown
        and all(words in shown for words in marks)
    )
    assert 'items on both sides' in shown and 'clustered' not in shown
    merged = record.board(
        [
            dict(
                experiment='e',
                key=str(s),
                params={},
                selected_by='valid',
                rows=[row | dict(value=v, marks=marks[s : s + 1])],
            )
            for s, v in enumerate((0.3, 0.5))
        ]
    )
    assert merged[0]['marks'] == marks[:2] and merged[0]['runs'] == 2  # a mark makes no row of its own


def test_a_trial_chooses_among_settings_and_names_its_encoders():
    "Linear CCA of a trial is tuned; another encoder is another feature"
    from crossmodal_nb.report import leaderboard_lines
    from crossmodal_nb.report.testing import demo_record

    record = demo_record(params=dict(dataset='made up'))
    tried = record | dict(tables=record['tables'] | dict(settings_tried=dict(item=dict(CCA=4, CLIP=4))))
    assert [leaderboard_lines._tuned(r) for r in (record, tried)] == [False, True]
    other = tried | dict(params=dict(dataset='made up', encoders=dict(text='TfIdf')))
    assert [leaderboard_lines._features(r) for r in (tried, other)] == ['plain', 'plain, text by tfidf']
