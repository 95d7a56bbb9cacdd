"""What the uncertainty notebook cannot say well: properties over many random cases, ties, blocks, memory, bad input."""

import tracemalloc
from functools import partial

import numpy as np
import pytest
import torch

from crossmodal_nb.metrics import comparison, null, uncertainty
from crossmodal_nb.metrics.average_precision import mean_ap
from crossmodal_nb.metrics.comparison import (
    Comparison,
    compare,
    false_ahead,
    family,
    holm,
    phrase,
    rank_groups,
    simplest,
)
from crossmodal_nb.metrics.null import ceiling, null_draws, permutation_null
from crossmodal_nb.metrics.ranking import median_rank, recall_at
from crossmodal_nb.metrics.uncertainty import bootstrap, class_score, estimate, item_score

METRICS = dict(
    mAP=mean_ap,
    hits=partial(mean_ap, k=7, norm='hits'),
    cut=partial(mean_ap, k=7),
    least=partial(mean_ap, k=7, norm='min'),
)


def world(seed, n=60, m=90, classes=4, levels=None):
    "Scores that know a little of the labels of both sides"
    g = torch.Generator().manual_seed(seed)
    q, b = (torch.randint(classes, (k,), generator=g) for k in (n, m))
    S = torch.randn(n, m, generator=g) + (q[:, None] == b)
    return (S if levels is None else (S * levels).round()), (q, b), (np.arange(n), np.arange(m))


def cut(S, rows):
    return ((slice(i, i + rows), S[i : i + rows]) for i in range(0, len(S), rows))


def normal(seed, n=400, shift=0.0, random=False):
    return item_score(np.random.default_rng(seed).standard_normal(n) + shift, np.arange(n), random)


@pytest.mark.parametrize('name', METRICS)
@pytest.mark.parametrize('levels', [None, 3])
def test_a_class_score_is_the_mean_and_its_influences_sum_to_nothing(name, levels):
    S, y, items = world(0, levels=levels)
    s = class_score(S, y, items, METRICS[name])
    assert s.value == pytest.approx(METRICS[name](S, relevant=y), abs=1e-9)
    if 'k' not in getattr(METRICS[name], 'keywords', {}):
        assert abs(s.influence.sum()) < 1e-6
    assert len(s.item) == 90 and s.variance > 0


@pytest.mark.parametrize('form', ['pair', 'matrix', 'multi-hot'])
def test_every_form_of_relevance_and_every_block_says_the_same(form):
    S, (q, b), items = world(1)
    hot = [torch.nn.functional.one_hot(y, 4) for y in (q, b)]
    relevant = dict(pair=(q, b), matrix=q[:, None] == b, **{'multi-hot': tuple(hot)})[form]
    want, got = class_score(S, (q, b), items), class_score(cut(S, 7), relevant, items)
    assert np.allclose(want.influence, got.influence, atol=1e-7) and np.allclose(
        want.interaction, got.interaction, atol=1e-6
    )


def test_the_influence_is_what_leaving_an_item_out_changes():
    "To first order: the jackknife of 300 items, by doing it"
    S, (q, _), _ = world(2, 300, 300)
    s = class_score(S, (q, q), (np.arange(300),) * 2)
    left_out = [mean_ap(S[k][:, k], (q[k], q[k])) for i in range(0, 300, 10) for k in [torch.arange(300) != i]]
    assert np.corrcoef(s.value - np.array(left_out), s.influence[::10])[0, 1] > 0.98


def test_the_projections_say_the_norm_of_the_interactions(monkeypatch):
    S, (q, _), _ = world(3, 80, 80)
    matrix = np.empty((80, 80))
    for i in range(80):  # H: one query's derivative by each row, without its mean over queries
        hit = (q[S[i].argsort(descending=True)] == q[i]).numpy()
        matrix[i, S[i].argsort(descending=True)] = (
            uncertainty._derivatives(hit[None], np.array([hit.sum()]), 80, 'relevant')[0] / 80
        )
    matrix -= matrix.mean(0)
    exact = np.square(matrix + matrix.T).sum()
    results = [
        np.square(class_score(S[p][:, p], (q[p], q[p]), (1000 * k + p.numpy(),) * 2).interaction).sum()
        / uncertainty.PROJECTIONS
        for k in range(30)
        for p in [torch.randperm(80, generator=torch.Generator().manual_seed(k))]
    ]
    assert np.mean(results) == pytest.approx(exact, rel=0.1)


def test_rows_of_one_item_count_together():
    values = np.repeat(np.random.default_rng(0).random(100), 5)
    first, five, clusters = (
        item_score(v, i).variance
        for v, i in ((values[::5], np.arange(100)), (values, np.arange(500) // 5), (values, np.arange(500)))
    )
    assert five == pytest.approx(first) and clusters == pytest.approx(first / 5)
    S, (q, b), _ = world(4, 50, 50)
    twice = class_score(
        S.repeat(2, 2), (q.repeat(2), b.repeat(2)), (np.tile(np.arange(50), 2), np.tile(np.arange(50) + 50, 2))
    )
    assert len(twice.item) == 100


def test_scores_add_up():
    a, b = normal(0), normal(1)
    assert (
        (a - a).variance == 0
        and (a + b).value == pytest.approx(a.value + b.value)
        and (3 * a).variance == pytest.approx(9 * a.variance)
    )
    assert (sum([a, b]) / 2).variance == pytest.approx(
        (a.variance + b.variance + 2 * (a.influence * b.influence).sum()) / 4
    )


def test_runs_widen_and_one_run_claims_nothing():
    runs = [normal(0, shift=s, random=True) for s in (0, 0.3, -0.3)]
    alone, three = estimate(runs[0]), estimate(runs)
    assert three.se**2 == pytest.approx(alone.se**2 + np.var([r.value for r in runs], ddof=1) / 3) and three.df < 10
    assert (
        compare(runs[0], normal(0, shift=-5)).verdict == 'one run'
        and compare(normal(0), normal(0, shift=-5)).verdict == 'ahead'
    )
    assert compare([normal(0, shift=s, random=True) for s in (0, 0.01, -0.01)], normal(0, shift=-5)).verdict == 'ahead'


def test_folds_are_those_of_nadeau_and_bengio():
    a, b = ([normal(k, shift=s) for k, s in enumerate(shifts)] for shifts in ((0.5, 0.6, 0.4), (0.1, 0.3, 0.2)))
    d = np.array([x.value - y.value for x, y in zip(a, b)])
    c = compare(a, b, 'folds', overlap=0.25)
    half = 4.302652729911275 * np.sqrt((1 / 3 + 0.25) * d.var(ddof=1))
    assert (c.low, c.high) == pytest.approx((d.mean() - half, d.mean() + half))
    with pytest.raises(ValueError, match='one by one'):
        compare(a, b[:2], 'folds')
    with pytest.raises(ValueError, match='single run'):
        estimate(a[:1], 'folds')


def test_verdicts():
    def said(d, low, high, p):
        return comparison._verdict(Comparison(d, low, high, p, '', 0.1, 1.0, 1), 0.01, 0.05)

    assert [
        said(0.02, 0.01, 0.03, 0.001),
        said(-0.02, -0.03, -0.01, 0.001),
        said(0.0, -0.005, 0.005, 0.9),
        said(0.0, -0.02, 0.02, 0.9),
    ] == list(comparison.verdicts[:4])
    assert 'undecided' in phrase(compare(normal(0), normal(1))) and phrase(
        compare(normal(0, shift=9), normal(0))
    ).endswith(': ahead')


def test_what_only_the_family_leaves_open_is_said_so():
    c = Comparison(0.08, 0.01, 0.15, 0.03, 'ahead', 0.05, 1.0, 3)
    (held, p), *_ = family({i: c for i in range(4)}).values()
    assert (
        p == pytest.approx(0.12)
        and held.verdict == 'undecided'
        and phrase(held).endswith('undecided among so many comparisons')
    )


def test_a_family_holds_together():
    p = [0.001, 0.01, 0.02, 0.04, 0.3]
    assert holm(p).tolist() == pytest.approx([0.005, 0.04, 0.06, 0.08, 0.3]) and holm([]).tolist() == []
    cs = {i: Comparison(0.02, 0.001, 0.04, x, 'ahead', 0.1, 1.0, 3) for i, x in enumerate([0.001, 0.01, 0.03, 0.3])} | {
        'once': Comparison(0.5, 0.4, 0.6, 0.0, 'one run', 0.1, 1.0, 1)
    }
    results = family(cs)
    assert [results[i][0].verdict for i in range(4)] == ['ahead', 'ahead', 'undecided', 'undecided'] and results[
        'once'
    ][0].verdict == 'one run'
    assert results['once'][1] is None and false_ahead(cs) == pytest.approx(0.1) and false_ahead(40) == pytest.approx(1)


@pytest.mark.parametrize('seed', range(5))
def test_methods_share_a_letter_just_where_they_cannot_be_told_apart(seed):
    rng, names = np.random.default_rng(seed), list('ABCDEFG')
    differ = {frozenset((a, b)) for i, a in enumerate(names) for b in names[i + 1 :] if rng.random() < 0.4}
    letters = rank_groups(names, differ)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert (not set(letters[a]) & set(letters[b])) == (frozenset((a, b)) in differ)
    assert 'a' in letters['A'] and all(letters.values())


def test_advice_finds_a_known_winner_and_does_not_invent_one():
    base = np.random.default_rng(0).random(2000)

    def score(gain, seed, noise=0.05, random=False):
        return item_score(
            base + gain + noise * np.random.default_rng(seed).standard_normal(2000), np.arange(2000), random
        )

    assert simplest(dict(a=score(0, 1), b=score(0.2, 2), c=score(0.2, 3)))[:2] == ('b', True)
    assert simplest(dict(a=score(0, 1), b=score(0, 2)))[:2] == ('a', True)  # as good, and simpler
    unsure = simplest(dict(a=score(0, 1, 1.0), b=score(0.02, 2, 1.0)))
    assert unsure[:3] == ('a', False, ['a', 'b']) and unsure.times > 1
    assert not simplest(dict(a=score(0, 1), b=score(0.2, 2, random=True))).found  # learnt once: nothing is known
    assert simplest(dict(a=score(0, 1), b=[score(0.2, s, random=True) for s in (2, 3, 4)]))[:2] == ('b', True)


def test_the_null_of_queries_is_the_loop():
    S, (q, b), _ = world(5, 40, 30, 5)
    for n in (3, 30):  # fewer and more than there are labels
        rng = np.random.default_rng(9)
        perms = [torch.from_numpy(rng.permutation(q.unique(return_inverse=True)[1].numpy())) for _ in range(n)]
        for name, f in METRICS.items():
            want = [f(S, relevant=(q.unique()[p], b)) for p in perms]
            assert null_draws(cut(S, 7), (q, b), {name: f}, n, 9)[name][0] == pytest.approx(want)
    assert 10 < permutation_null(S[:30], None, median_rank, 50).mean < 30


def test_the_null_of_items_is_the_loop():
    g = torch.Generator().manual_seed(1)
    item = torch.arange(12)
    for gallery in (item, item.repeat_interleave(torch.arange(12) % 4 + 1)):  # one positive each; one to four
        S = torch.randint(0, 5, (12, len(gallery)), generator=g).float()  # many ties
        for n in (7, 20):
            rng = np.random.default_rng(2)
            perms = [torch.from_numpy(rng.permutation(12)) for _ in range(n)]
            for name, f in METRICS.items():
                want = [f(S, relevant=(p, gallery)) for p in perms]
                got = null_draws(cut(S, 5), (item, gallery), {name: f, 'rank': median_rank}, n, 2)[name][0]
                assert np.allclose(got, want, rtol=1e-14, atol=0)


@pytest.mark.parametrize('queries, gallery, labels', [(40, 30, 5), (30, 50, 40), (20, 90, 2)])
def test_the_null_of_the_gallery_is_the_loop(queries, gallery, labels):
    g = torch.Generator().manual_seed(gallery)
    S = torch.randn(queries, gallery, generator=g)
    q, b = (torch.randint(labels, (n,), generator=g) for n in (queries, gallery))  # of 40, some have no row
    maps = {name: f for name, f in METRICS.items() if getattr(f, 'func', f) is mean_ap}
    rng = np.random.default_rng(4)
    for _ in range(25):
        rng.permutation(queries)  # those of the queries come first
    moved = [torch.from_numpy(rng.permutation(gallery)) for _ in range(25)]
    assert len(maps) > 2
    got = null_draws(cut(S, 7), (q, b), maps, 25, 4)
    for name, f in maps.items():
        want = [f(S, relevant=(q, b[x])) for x in moved]
        assert np.allclose(got[name][1], want, rtol=1e-12, atol=0), name


@pytest.mark.parametrize('n', [10, 60])  # fewer and more than there are labels
def test_the_null_without_a_query_itself_is_the_loop(n):
    g = torch.Generator().manual_seed(3)
    S, y = torch.randn(40, 40, generator=g), torch.arange(40) % 6
    relevant = (y[:, None] == y) & ~torch.eye(40, dtype=torch.bool)  # each query has positives of its own
    labels, key = relevant.unique(dim=0, return_inverse=True)
    rng = np.random.default_rng(4)
    perms = [torch.from_numpy(rng.permutation(key.numpy())) for _ in range(n)]
    maps = {name: f for name, f in METRICS.items() if getattr(f, 'func', f) is mean_ap}
    got = null_draws(cut(S, 7), relevant, maps, n, 4)
    for name, f in maps.items():
        assert np.allclose(got[name][0], [f(S, relevant=labels[p]) for p in perms], rtol=1e-12, atol=0), name


@pytest.mark.parametrize('exact', [True, False])
def test_the_null_of_the_gallery_is_as_wide_as_a_loop(exact, monkeypatch):
    S, (q, b), _ = world(6, 150, 200, 4)
    monkeypatch.setattr(null, 'EXACT', np.inf if exact else 0)
    g = torch.Generator().manual_seed(0)
    loop = [mean_ap(S, (q, b[torch.randperm(200, generator=g)])) for _ in range(300)]
    got = null_draws(S, (q, b), dict(mAP=mean_ap), 300)['mAP'][1]
    assert np.mean(got) == pytest.approx(np.mean(loop), abs=4 * np.std(loop) / 300**0.5)
    assert 0.85 < np.std(got) / np.std(loop) < 1.2


def test_noise_on_either_side_stays_below_the_null():
    counts = dict(asks=0, answers=0)
    for seed in range(60):
        g = torch.Generator().manual_seed(seed)
        y = torch.arange(120) % 5
        clustered, noise = torch.eye(5)[y] + 0.3 * torch.randn(120, 5, generator=g), torch.randn(120, 5, generator=g)
        for name, S in (('asks', noise @ clustered.T), ('answers', clustered @ noise.T)):
            counts[name] += mean_ap(S, (y, y)) > permutation_null(S, (y, y), mean_ap, 200, seed).high
    assert all(v <= 8 for v in counts.values()), counts  # 3 expected; 9 or more have a chance of .004


def test_memory_stays_at_a_block():
    m = 8000
    v, y = torch.randn(m, 8), torch.arange(m) % 50

    def stream():
        return ((slice(i, i + 256), torch.randn(256, 8) @ v.T) for i in range(0, 2048, 256))

    for f in (
        lambda: class_score(stream(), (y[:2048], y), (np.arange(2048), np.arange(m))),
        lambda: permutation_null(stream(), (y[:2048], y), mean_ap, 20),
    ):
        tracemalloc.start()
        f()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * 2048 * m * 4, peak  # of one product; the bench says how it grows


def test_a_ceiling_is_what_an_oracle_scores():
    item, merged = torch.arange(30), torch.arange(30) // 3
    S = (merged[:, None] == merged).float()  # knows the pairs, and sees equal rows as equal
    for k in (1, 2, 5):
        f = partial(recall_at, k=k)
        assert ceiling(f, (item, item), (merged, merged)) == pytest.approx(f(S, relevant=(item, item)))
    assert ceiling(partial(recall_at, k=1), (item, item), (item, item)) == 1


def test_bootstrap_clusters():
    v, c = torch.randn(60, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(60) // 3
    assert bootstrap(v, cluster=torch.arange(60)) == bootstrap(v) and bootstrap(v, seed=1) != bootstrap(v)
    first = bootstrap(v, cluster=torch.zeros(60))
    assert np.isclose(first.low, first.high) and np.isclose(first.low, v.mean())
    rng = np.random.default_rng(0)
    loop = [np.mean([v[c == k].numpy() for k in rng.integers(20, size=20)]) for _ in range(300)]
    assert np.allclose(bootstrap(v, n=300, cluster=c), np.quantile(loop, [0.025, 0.975]))
    p = torch.randperm(60)
    assert np.allclose(bootstrap(v[p], cluster=c[p]), bootstrap(v, cluster=c))


@pytest.mark.parametrize('clustered', [False, True])
@pytest.mark.parametrize('unknown', [False, True])
def test_the_bootstrap_is_the_loop_over_resampled_rows(clustered, unknown):
    rng = np.random.default_rng(3)
    code = rng.integers(12, size=50) if clustered else np.arange(50)
    for values in (rng.integers(1, 9, 50).astype(float), (rng.random(50) < 0.4).astype(float), rng.random(50)):
        values[[3, 7]] = np.nan if unknown else 1.0
        groups = [np.flatnonzero(code == c) for c in np.unique(code)]
        again = np.random.default_rng(5)
        drawn = [again.integers(len(groups), size=len(groups)) for _ in range(200)]
        resamples = [np.concatenate([groups[k] for k in d]) for d in drawn]
        for metric in (np.nanmean, np.median, lambda v: float(np.nanmax(v))):
            want = bootstrap(values, metric, resamples=resamples)
            got = bootstrap(values, metric, n=200, seed=5, cluster=code if clustered else None)
            assert np.allclose(got, want, rtol=1e-14, atol=0, equal_nan=True)


S, Y, ITEMS = world(0)


@pytest.mark.parametrize(
    'call, says',
    [
        (lambda: class_score(S, Y, (ITEMS[0][:50], ITEMS[1])), 'scores of 60 queries, but 50 items'),
        (lambda: class_score(S, Y, (ITEMS[0], ITEMS[1][:50])), 'a gallery of 90 rows, but 50 items'),
        (lambda: class_score(S, Y, ITEMS, partial(recall_at, k=1)), 'those of mean_ap'),
        (lambda: class_score(S, Y, ITEMS, partial(mean_ap, ties='best')), 'with k and norm'),
        (lambda: item_score([1.0, 2.0], [0]), '2 values, but 1 items'),
        (lambda: item_score([float('nan')], [0]), 'no query with a value'),
        (lambda: compare(normal(0), normal(0, 300)), 'same items'),
        (lambda: estimate([]), 'no run'),
        (lambda: estimate(normal(0), 'runs'), 'There is: seeds, folds'),
        (lambda: permutation_null(S, (Y[0][:30], Y[1]), mean_ap), '30 queries'),
        (lambda: permutation_null(S[:30], Y, mean_ap), '60 queries'),
        (lambda: permutation_null(iter([]), Y, mean_ap), 'no scores'),
        (lambda: bootstrap(torch.ones(3), cluster=[1, 2]), '2 cluster codes for 3 values'),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()
