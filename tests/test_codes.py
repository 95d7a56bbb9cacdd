"""What the codes notebook cannot say well: codes of any width, packed or not, against FAISS, sorted metrics and each
other; bad input.
"""

import json
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.core.settings import settings as machine
from crossmodal_nb.metrics.average_precision import mean_ap, ndcg
from crossmodal_nb.metrics.hamming import (
    distance_histogram,
    faiss_search,
    hamming,
    pack,
    precision_recall_by_radius,
    search,
    sign,
    unpack,
)
from crossmodal_nb.metrics.ranking import counts, median_rank, recall_at

short = settings(max_examples=40, deadline=None)
world = dict(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 6),
    m=st.integers(1, 60),
    bits=st.sampled_from([1, 4, 8, 13, 16, 64, 100, 256, 300]),
)


def codes(seed, n, m, bits):
    "Queries and gallery, some of the gallery near a query or twice there, and relevance (a query may have none)"
    g = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.rand(*size, generator=g)

    q, b = sign(draw(n, bits) - 0.5), sign(draw(m, bits) - 0.5)
    near = draw(m) < 0.5
    b[near] = q[torch.randint(n, (m,), generator=g)][near] * sign(draw(m, bits) - 0.1)[near]
    return q, b, draw(n, m) < 0.3


def test_golden():
    gold = json.loads((machine().root / 'tests' / 'golden' / 'supervised.json').read_text())['hamming']
    want = gold['expected']
    q, b, yq, yb = (torch.tensor(gold['inputs'][k]) for k in ('qB', 'rB', 'qL', 'rL'))
    for queries, gallery in ((q, b), (q.double(), b.double())):
        d = hamming(queries, gallery)
        assert d.tolist() == hamming(pack(queries), pack(gallery)).tolist() == want['hamming']
        assert ((yq @ yb.T) > 0).float().tolist() == want['relevance']
        for relevant in ((yq, yb), torch.tensor(want['relevance']).bool()):
            r = distance_histogram(queries, gallery, relevant)
            for ties, name in (
                ('index', 'index'),
                ('best', 'optimistic'),
                ('worst', 'pessimistic'),
                ('expected', 'tie_averaged'),
            ):
                for x in (-d,) if ties == 'index' else (-d, r.counts()):
                    got = mean_ap(x, relevant, ties=ties, mean=False)
                    assert np.allclose(got, want[f'ap_{name}'], rtol=1e-10) and np.isclose(
                        got.mean(), want[f'map_{name}'], rtol=1e-10
                    )
            for average, name in (('micro', 'micro_[precision,recall]_r0..4'), ('macro', 'macro_empty=0')):
                for x in (r.curve(average), precision_recall_by_radius(d, relevant, average)):
                    assert np.allclose(torch.stack(x, 1), want[f'pr_by_radius_{name}'], rtol=1e-10)


@short
@given(**world)
def test_packed_is_signs(seed, n, m, bits):
    q, b, rel = codes(seed, n, m, bits)
    p, r = pack(q), pack(b)
    assert p.dtype == torch.uint8 and p.shape == (n, -(-bits // 8)) and torch.equal(unpack(p, bits), q)
    assert torch.equal(hamming(q, b), hamming(p, r)) and torch.equal(hamming(q, b), (q[:, None] != b).sum(2).short())
    for x, y in zip(distance_histogram(q, b, rel), distance_histogram(p, r, rel)):
        assert np.array_equal(x, y[:, : bits + 1]) and not y[:, bits + 1 :].any()
    for x, y in zip(search(q, b, 5), search(p, r, 5)):
        assert torch.equal(x, y)


@short
@given(**world)
def test_counted_is_sorted(seed, n, m, bits):
    q, b, rel = codes(seed, n, m, bits)
    d, r = hamming(q, b), distance_histogram(q, b, rel)
    assert (r.found.sum(1) == m).all() and (r.hits <= r.found).all() and np.array_equal(r.hits.sum(1), rel.sum(1))
    for x, y in zip(r.counts(), counts(-d, rel, all_groups=True)):
        assert np.array_equal(x, y)
    low, mid, high = (mean_ap(r.counts(), ties=t, mean=False) for t in ('worst', 'expected', 'best'))
    assert (low <= mid + 1e-12).all() and (mid <= high + 1e-12).all()
    if rel.any(1).all():
        for f in (median_rank, partial(recall_at, k=3), partial(ndcg, k=5), partial(mean_ap, k=5, norm='hits')):
            assert np.isclose(f(r.counts()), f(-d, relevant=rel))
    for average in ('micro', 'macro'):
        curve = r.curve(average)
        for x, y in zip(curve, precision_recall_by_radius(d, rel, average)):
            assert len(x) == bits + 1 and torch.allclose(x[: len(y)], y) and torch.allclose(x[len(y) :], y[-1])
        assert (curve.recall.diff() >= -1e-12).all()


@short
@given(**world, k=st.integers(1, 70), block=st.sampled_from([1, 7, 2**16]))
def test_search_is_exact(seed, n, m, bits, k, block):
    q, b, _ = codes(seed, n, m, bits)
    d = hamming(q, b)
    ours, theirs, order = search(q, b, k, block), faiss_search(q, b, k), d.sort(dim=1, stable=True)
    assert torch.equal(ours.distance, order.values[:, :k].int()) and torch.equal(ours.row, order.indices[:, :k])
    assert torch.equal(ours.distance, theirs.distance)
    for x in (ours, theirs):
        assert torch.equal(d.gather(1, x.row).int(), x.distance) and all(len(set(r)) == len(r) for r in x.row.tolist())
    for i, (first, two, last) in enumerate(zip(ours.row.tolist(), theirs.row.tolist(), ours.distance[:, -1].tolist())):
        inner = {j for j in range(m) if d[i, j] < last}  # only at the boundary may they differ
        assert inner <= set(first) and inner <= set(two)


def test_block_and_threads_are_no_matter(monkeypatch):
    q, b, rel = codes(0, 200, 999, 64)
    first = search(q, b, 20), distance_histogram(q, b, rel)
    monkeypatch.setattr('crossmodal_nb.metrics.ranking.BLOCK', 5000)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 3)
    for x, y in zip(first, (search(q, b, 20, 100), distance_histogram(q, b, rel))):
        for u, v in zip(x, y):
            assert np.array_equal(u, v)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_sign(dtype):
    z = torch.tensor([[0.0, -0.0, 3, -2]]).to(dtype)
    assert sign(z).dtype == dtype and sign(z).tolist() == [[1, 1, 1, -1]] and not (sign(z) == 0).any()


def test_errors_that_help():
    q, b, rel = codes(0, 3, 9, 16)
    with pytest.raises(ValueError, match='not numbers have no sign: row 1'):
        sign(torch.tensor([[0.0], [torch.nan]]))
    for f in (distance_histogram, lambda x, y: search(x, y, 3), lambda x, y: faiss_search(x, y, 3)):
        with pytest.raises(ValueError, match='hold -1 and \\+1 only'):
            f(0 * q, b)
        with pytest.raises(ValueError, match='hold -1 and \\+1 only'):
            f(q * torch.nan, b)
        with pytest.raises(ValueError, match='codes of 16 torch.float32 against 8'):
            f(q, b[:, :8])
        with pytest.raises(ValueError, match='against 2 torch.uint8'):
            f(q, pack(b))
        with pytest.raises(ValueError, match='no codes: 3 rows, 0 rows'):
            f(q, b[:0])
    for f in (search, faiss_search):
        with pytest.raises(ValueError, match='k is 0'):
            f(q, b, 0)
    with pytest.raises(ValueError, match='relevance of queries'):
        distance_histogram(q, b, rel[:, :4])
    with pytest.raises(InputError, match='did you mean'):
        distance_histogram(q, b, rel).curve('mikro')
    tied = distance_histogram(q[:1], q[:1].expand(4, -1), torch.ones(1, 4)).counts()
    with pytest.raises(ValueError, match='cannot be told from counts'):
        mean_ap(tied, ties='index')


def test_packed_codes_in_any_memory_order_and_an_empty_gallery():
    z = pack(torch.randint(0, 2, (5, 70)) * 2.0 - 1)
    column_wise = torch.from_numpy(np.asfortranarray(z.numpy()))
    assert torch.equal(hamming(column_wise, z), hamming(z, z)) and hamming(z, z[:0]).shape == (5, 0)
