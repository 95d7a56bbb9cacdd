"""What the metrics notebook cannot say well: properties over many random cases, other people's implementations, memory,
bad input.
"""

import json
import tracemalloc
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from crossmodal_nb.metrics import pools, ranking
from crossmodal_nb.metrics.aggregate import aggregate, chance
from crossmodal_nb.metrics.average_precision import mean_ap, ndcg, r_precision
from crossmodal_nb.metrics.geometry import hubness, uniformity
from crossmodal_nb.metrics.hamming import hamming, pack, precision_recall_by_radius
from crossmodal_nb.metrics.pools import pool_counts, pooled
from crossmodal_nb.metrics.ranking import counts, mean_reciprocal_rank, median_rank, ranks, recall_at

METRICS = {
    'R@1': partial(recall_at, k=1),
    'R@5': partial(recall_at, k=5),
    'medR': median_rank,
    'MRR': mean_reciprocal_rank,
    'mAP': mean_ap,
    'mAP@7': partial(mean_ap, k=7),
    'mAP@7 hits': partial(mean_ap, k=7, norm='hits'),
    'nDCG@10': partial(ndcg, k=10),
    'R-precision': r_precision,
}


def world(seed, n=40, m=60, levels=None, rate=0.15, dtype=torch.float32):
    "Scores (with few levels: full of ties) and relevance; every query has a positive"
    g = torch.Generator().manual_seed(seed)
    S = torch.rand(n, m, generator=g, dtype=torch.float64) - 0.5
    if levels:
        S = (S * levels).round() / levels
    Y = torch.rand(n, m, generator=g) < rate
    Y[torch.arange(n), torch.randint(m, (n,), generator=g)] = True
    return S.to(dtype), Y


def values(S, Y):
    return {name: f(S, relevant=Y, mean=False) for name, f in METRICS.items()}


def same(a, b, **kw):
    assert all(torch.allclose(a[k], b[k], **kw) for k in a), [k for k in a if not torch.allclose(a[k], b[k], **kw)]


def cut(S, rows):
    return ((slice(i, i + rows), S[i : i + rows]) for i in range(0, len(S), rows))


@pytest.mark.parametrize('levels', [None, 4])
@pytest.mark.parametrize('seed', range(3))
def test_symmetries(seed, levels):
    S, Y = world(seed, levels=levels, dtype=torch.float64)
    base = values(S, Y)
    p = torch.randperm(S.shape[1])
    same(base, values(S[:, p], Y[:, p]))  # gallery order is no matter, ties or not
    q = torch.randperm(len(S))
    same({k: v[q] for k, v in base.items()}, values(S[q], Y[q]))
    same({k: v[::2] for k, v in base.items()}, values(S[::2], Y[::2]))
    same(base, values(torch.exp(3 * S) - 7, Y))  # only the order matters
    c = counts(S, Y, all_groups=True)
    for name, f in METRICS.items():
        assert torch.allclose(f(c, mean=False), base[name])
    for name, f in METRICS.items():
        assert np.isclose(f(c), aggregate(f)(base[name]))


@pytest.mark.parametrize('rows', [1, 7, 40])
def test_pieces_and_blocks_do_not_matter(rows, monkeypatch):
    S, Y = world(0, levels=20)
    base = values(S, Y)
    same(base, {name: f(cut(S, rows), relevant=Y, mean=False) for name, f in METRICS.items()}, rtol=1e-10, atol=1e-12)
    monkeypatch.setattr(ranking, 'BLOCK', 60 * rows)
    same(base, values(S, Y), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    'dtype', [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8]
)
def test_dtypes_agree(dtype):
    S, Y = world(1, levels=50)
    S = (S * 50).round()
    same(values(S, Y), values(S.to(dtype), Y))
    if dtype != torch.bfloat16:
        same(values(S, Y), values(S.to(dtype).numpy(), Y.numpy()))


def test_minus_zero_and_infinity():
    inf, Y = float('inf'), torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0]]).bool()
    S = torch.tensor([[0.0, -0.0, -1.0, inf], [-inf, -inf, 1.0, 2.0]])
    for x in (S, S.double()):
        assert ranks(x, Y).tolist() == ranks(counts(x, Y, all_groups=True)).tolist() == [2.5, 3.5]


def test_relevance_in_its_three_forms():
    g = torch.Generator().manual_seed(0)
    S = torch.rand(30, 50, generator=g)
    q, b = torch.arange(30) % 6, torch.randint(6, (50,), generator=g)
    q[0], b[0] = 0, 0
    base = values(S, (q, b))
    same(base, values(S, q[:, None] == b[None]))
    same(base, values(S, (q.tolist(), b.numpy())))
    same(base, values(S, (torch.eye(6)[q], torch.eye(6).long()[b])))  # multi-hot
    T = torch.rand(30, 30, generator=g)
    same(values(T, None), values(T, torch.eye(30).bool()))
    same(values(T, None), values(T, (torch.arange(30),) * 2))


def test_expected_lies_between_the_bounds():
    for seed in range(5):
        S, Y = world(seed, levels=3)
        c = counts(S, Y, all_groups=True)
        for k in (None, 1, 4, 20):
            for norm in ('relevant', 'min'):
                low, mid, high = (mean_ap(c, k=k, norm=norm, ties=t, mean=False) for t in ('worst', 'expected', 'best'))
                assert (low <= mid + 1e-12).all() and (mid <= high + 1e-12).all()
                index = mean_ap(S, Y, k, norm, 'index', mean=False)
                assert (low <= index + 1e-12).all() and (index <= high + 1e-12).all()
        assert (ranks(c, ties='optimistic') <= ranks(c)).all() and (ranks(c) <= ranks(c, ties='pessimistic')).all()


def test_expectation_over_ties_is_the_mean_over_random_orders():
    S, Y = world(3, n=5, m=40, levels=2, rate=0.3, dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    runs = [values(S + 1e-6 * torch.rand(S.shape, generator=g, dtype=torch.float64), Y) for _ in range(300)]
    for name in METRICS:
        if name == 'MRR':
            continue  # by definition of the average rank
        v = torch.stack([r[name] for r in runs])
        err = (v.mean(0) - values(S, Y)[name]).abs()
        assert (err < 5 * v.std(0) / 300**0.5 + 1e-9).all(), name


def test_other_peoples_numbers():
    from sklearn.metrics import average_precision_score, ndcg_score, top_k_accuracy_score

    S, Y = world(4, dtype=torch.float64)
    assert np.allclose(
        mean_ap(S, Y, mean=False), [average_precision_score(y, s) for y, s in zip(Y.numpy(), S.numpy())], rtol=1e-10
    )
    assert np.isclose(
        mean_ap(S, Y, classes=torch.arange(40) % 3), np.mean([mean_ap(S[i::3], Y[i::3]) for i in range(3)])
    )
    for levels in (None, 3):
        S, Y = world(4, levels=levels, dtype=torch.float64)
        for k in (1, 10, None):
            assert np.isclose(ndcg(S, Y, k), ndcg_score(Y.numpy(), S.numpy(), k=k), rtol=1e-10)
    S = torch.rand(25, 25)
    for k in (1, 3, 10):
        assert np.isclose(recall_at(S, k), top_k_accuracy_score(np.arange(25), S.numpy(), k=k, labels=np.arange(25)))


def golden(name):
    return json.loads((Path(__file__).parent / 'golden' / f'{name}.json').read_text())


def test_golden_numbers_by_way_of_blocks():
    gold = golden('unsupervised')['ranking']
    S = torch.tensor(gold['S'], dtype=torch.float64)
    for ties in ('average', 'optimistic', 'pessimistic'):
        for side, x in (('row_queries', S), ('column_queries', S.T)):
            r, want = ranks(cut(x, 2), ties=ties), gold[side]['metrics'][ties]
            got = dict(
                medR=np.median(r),
                meanR=r.mean(),
                MRR=(1 / r).mean(),
                **{f'R{k}': (r <= k).double().mean() for k in (1, 2, 5)},
            )
            assert all(np.isclose(got[k], want[k], rtol=1e-10) for k in want)
    n = gold['constant_matrix']['n']
    flat = counts(torch.ones(n, n))
    assert (
        (ranks(flat, ties='optimistic') == 1).all()
        and (ranks(flat, ties='pessimistic') == n).all()
        and (ranks(flat) == 3.5).all()
    )
    assert np.isclose(recall_at(flat, 1), 1 / n)
    assert np.isclose(recall_at(S, 2), gold['expected_recall_under_random_tie_break']['R2'], rtol=1e-10)
    gold = golden('supervised')['map_all']
    q, b = (torch.nn.functional.normalize(torch.tensor(gold['inputs'][k]).double()) for k in ('queries', 'gallery'))
    y = tuple(torch.tensor(gold['inputs'][k]) for k in ('labels_q', 'labels_g'))
    assert np.allclose(q @ b.T, gold['expected']['cos'], rtol=1e-10)
    assert np.allclose(mean_ap(cut(q @ b.T, 1), y, mean=False), gold['expected']['ap_all'], rtol=1e-10)
    assert np.isclose(
        mean_ap(q @ b.T, y, 3, 'hits'), gold['expected']['official_dscmr_k0_(=K3)'], rtol=1e-10
    )  # their k=0: the number of queries


def test_chance_is_a_mean_of_random_rankings_and_grows_with_k():
    S, Y = world(6)
    c = counts(S, Y)
    g = torch.Generator().manual_seed(0)
    chosen = {k: f for k, f in METRICS.items() if k != 'medR'}
    runs = [counts(torch.rand(S.shape, generator=g), Y, all_groups=True) for _ in range(300)]
    for name, want in chance(chosen, c).items():
        v = np.array([chosen[name](r) for r in runs])
        assert abs(v.mean() - want) < 5 * v.std() / 300**0.5, name
    assert np.isclose(chance(mean_reciprocal_rank, counts(torch.eye(50))), (1 / np.arange(1, 51)).sum() / 50)
    assert chance(median_rank, counts(torch.eye(51))) == 26 and chance(median_rank, counts(torch.eye(50))) == 25.5


def test_pools_agree_on_every_road():
    g = torch.Generator().manual_seed(7)
    q, b = torch.randperm(50, generator=g), torch.randperm(150, generator=g) % 50
    S = torch.rand(50, 150, generator=g)
    chosen = {'R@5': partial(recall_at, k=5), 'mAP': mean_ap}
    forms = S, cut(S, 8), lambda r, c: S[r][:, c], lambda r, c: cut(S[r][:, c], 3)
    roads = [pooled(s, chosen, 20, relevant=(q, b), items=(q, b), seed=1) for s in forms]
    roads.append(pooled(S, chosen, 20, relevant=q[:, None] == b[None], items=(q, b), seed=1))
    loop = [
        counts(S[torch.isin(q, i)][:, torch.isin(b, i)], (q[torch.isin(q, i)], b[torch.isin(b, i)]), all_groups=True)
        for i in map(torch.from_numpy, pools.draw_pools(range(50), 20, seed=1))
    ]
    for r in roads:
        for name, f in chosen.items():
            assert np.allclose(r[name].values, [f(c) for c in loop]) and r[name].n == 10
    by_label = pooled(S[:, :50], mean_ap, 20, relevant=(q % 5, b[:50] % 5), seed=2)  # relevance by label, pools by row
    i = pools.draw_pools(range(50), 20, seed=2)[0]
    assert np.isclose(by_label.values[0], mean_ap(S[:, :50][i][:, i], (q[i] % 5, b[i] % 5)))


def test_memory_stays_at_a_block():
    m = 8000
    v, y = torch.randn(m, 8), torch.arange(m) % 50

    def stream():
        return ((slice(i, i + 256), torch.randn(256, 8) @ v.T) for i in range(0, 4096, 256))

    full = 4096 * m * 4
    for f in (lambda: counts(stream()), lambda: mean_ap(stream(), (y[:4096], y)), lambda: hubness(stream())):
        tracemalloc.start()
        f()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < full / 3, peak


def test_nan_never_helps():
    S, Y = world(8)
    bad = S.clone()
    bad[Y] = float('nan')
    with pytest.warns(UserWarning, match='NaN'):
        assert torch.allclose(ranks(bad, Y), (60 - Y.sum(1) + 1).double())
    bad = S.clone()
    bad[:5] = float('nan')
    bad[9, ~Y[9]] = float('-inf')
    bad[9, Y[9]] = float('nan')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for f in METRICS.values():
            if f is not median_rank:
                assert f(bad, relevant=Y) <= f(S, relevant=Y)
        assert np.allclose(mean_ap(bad, Y, mean=False)[:5], mean_ap(-Y.float(), Y, ties='worst', mean=False)[:5])


def test_hamming_of_any_width():
    for c in (1, 8, 13, 64, 100):
        a, b = (torch.randint(2, (n, c)) * 2 - 1 for n in (9, 30))
        d = hamming(a, b)
        assert torch.equal(d, hamming(pack(a), pack(b))) and torch.equal(d, (a[:, None] != b[None]).sum(2).short())
        assert hamming(a.float(), a.double()).diagonal().sum() == 0
    Y = torch.rand(9, 30) < 0.3
    for average in ('micro', 'macro'):
        for x in precision_recall_by_radius(d, Y, average)[1:]:
            assert (x.diff() >= -1e-12).all()
        pair = [precision_recall_by_radius(x, Y, average) for x in (d, cut(d, 4))]
        assert all(torch.allclose(x, y, rtol=1e-10, atol=1e-12) for x, y in zip(*pair))


def test_uniformity_of_a_sphere_beats_a_cap():
    z = torch.randn(500, 8)
    assert uniformity(z) < uniformity(z + 2) < 0


S, Y = world(0)


@pytest.mark.parametrize(
    'call, says',
    [
        (lambda: ranks(S[:, :30]), 'the gallery has only 30 rows'),
        (lambda: ranks(S, Y[:, :30]), r'\(40, 30\), the scores are \(40, 60\)'),
        (lambda: ranks(S, Y & (torch.arange(40) != 7)[:, None]), 'query 7 has no positive'),
        (lambda: ranks(counts(S, Y & (torch.arange(40) != 7)[:, None], all_groups=True)), 'query 7 has no positive'),
        (lambda: ranks(iter([])), 'no scores'),
        (lambda: ranks(cut(S, 5), Y, ties='mean'), 'no ties'),
        (lambda: recall_at(S, 0, Y), 'k starts at 1'),
        (lambda: counts([(slice(5, 10), S[5:10])], Y), 'row order'),
        (lambda: mean_ap(S, Y, norm='hit'), "did you mean 'hits'"),
        (lambda: mean_ap(S, Y, empty='ignore'), 'no empty'),
        (lambda: mean_ap(counts(S, Y)), 'all_groups=True'),
        (lambda: mean_ap(counts(S.round(), Y, all_groups=True), ties='index'), 'pass the scores'),
        (lambda: mean_ap(S, Y, classes=[0, 1]), '2 classes for 40 queries'),
        (lambda: mean_ap(S, Y, classes=[0] * 40, mean=False), 'classes balances the mean'),
        (lambda: pooled(S, median_rank, 10), 'pass items='),
        (lambda: pooled(cut(S, 5), median_rank, 10), 'Pass items='),
        (lambda: pooled(S[:, :40], median_rank, 41), '41 items cannot be drawn from 40'),
        (lambda: pool_counts(cut(S[:, :40], 9), [[1, 2, 50]]), 'pass items='),
        (lambda: hamming(torch.ones(2, 3), torch.ones(2, 4)), 'codes of 3'),
        (lambda: precision_recall_by_radius(S, Y), 'whole numbers'),
        (lambda: precision_recall_by_radius(hamming(torch.ones(40, 4), torch.ones(60, 4)), Y, 'mean'), 'no average'),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()
