"""Seconds of ranks, mAP, its interval and its null, compared with the bare matrix product, with per-query loops, and
with mAP itself; all ratios from one run.

    python tests/bench_metrics.py [--rows 10000] [--pools 10]

"""

import argparse
import functools
import time
import tracemalloc

import numpy as np
import torch

from crossmodal_nb.metrics.average_precision import mean_ap
from crossmodal_nb.metrics.null import permutation_null
from crossmodal_nb.metrics.pools import pooled
from crossmodal_nb.metrics.ranking import median_rank
from crossmodal_nb.metrics.uncertainty import class_score


def race(repeat, *fs):
    "Seconds of each function: the best of `repeat` runs, taken in turn, so that a busy machine slows all alike"
    best = [float('inf')] * len(fs)
    for _ in range(repeat):
        for j, f in enumerate(fs):
            start = time.perf_counter()
            f()
            best[j] = min(best[j], time.perf_counter() - start)
    return best


def codes(n, d, seed):
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


def blocks(u, v, rows=1024):
    for i in range(0, len(u), rows):
        yield slice(i, min(i + rows, len(u))), u[i : i + rows] @ v.T


def product(u, v):
    for _ in blocks(u, v):
        pass


def im2recipe_ranks(u, v):
    "A sort and a search for every query, as in im2recipe's rank.py"
    return torch.tensor([1 + int(np.where(np.argsort(-(u[i] @ v.T).numpy()) == i)[0][0]) for i in range(len(u))])


def dscmr_map(u, v, yu, yv):
    "Distances, sort and a Python loop over all places, as in DSCMR's evaluate.py"
    from scipy.spatial.distance import cdist

    order = cdist(u.numpy(), v.numpy(), 'cosine').argsort()
    out = []
    for i in range(len(yu)):
        p, r = 0.0, 0.0
        for j in range(len(yv)):
            if yu[i] == yv[order[i][j]]:
                r += 1
                p += r / (j + 1)
        out.append(p / r if r > 0 else 0)
    return np.mean(out)


def peak(f):
    "MB of arrays that a call holds at most (of NumPy; what torch holds besides is one block of float32)"
    tracemalloc.start()
    f()
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak_bytes / 1e6


def interval(u, v, yu, yv):
    "The interval of mAP, items on both sides, beside mAP itself"
    S, items = u @ v.T, (np.arange(len(u)), np.arange(len(v)))
    plain, ours = race(3, lambda: mean_ap(S, (yu, yv)), lambda: class_score(S, (yu, yv), items))
    few = S[: len(u) // 2]
    half = peak(lambda: class_score(few, (yu[: len(few)], yv), (items[0][: len(few)], items[1])))
    full = peak(lambda: class_score(S, (yu, yv), items))
    print(
        f'interval of mAP, {len(u):,} x {len(v):,}, 20 classes: {ours:.2f} s, {ours / plain:.2f} x mAP itself '
        f'({plain:.2f} s; aim 3); '
        f'{full:.0f} MB at most beside scores of {S.nbytes / 1e6:.0f} MB, of half the queries {half:.0f} MB'
    )


def permutations(u, v):
    "The null, 200 permutations of each side, beside the scoring of the same split: two metrics with an interval"
    S, labels, items = (
        u @ v.T,
        tuple(torch.arange(len(x)) % 20 for x in (u, v)),
        tuple(np.arange(len(x)) for x in (u, v)),
    )
    metrics = {'mAP': mean_ap, 'mAP@50': functools.partial(mean_ap, k=50, norm='hits')}
    scored, ours = race(
        3,
        lambda: [class_score(S, labels, items, f) for f in metrics.values()],
        lambda: permutation_null(S, labels, metrics, n=200),
    )
    print(
        f'null of {" and ".join(metrics)}, 200 permutations of each side, {len(u):,} x {len(v):,}, 20 classes: '
        f'{ours:.2f} s, '
        f'{ours / scored:.2f} x their scoring with intervals ({scored:.2f} s; aim 2)'
    )


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--rows', type=int, default=10_000)
    p.add_argument('--pools', type=int, default=10)
    a = p.parse_args()
    n = a.rows
    print(f'{torch.get_num_threads()} threads')

    u = codes(n, 1024, 0)
    v = torch.nn.functional.normalize(u + 0.9 * codes(n, 1024, 1))
    part, item = (lambda r, c: blocks(u[r], v[c])), (range(n),) * 2
    turns = [
        race(1, lambda: product(u, v), lambda: pooled(part, median_rank, n, n=1, items=item)) for _ in range(a.pools)
    ]
    bare, ours = np.sum(turns, 0)
    few = min(n, 500)
    (loop,) = np.array(race(1, lambda: im2recipe_ranks(u[:few], v))) * n / few * a.pools
    print(
        f'ranks, {a.pools} pools of {n:,}, {u.shape[1]}-d: product {bare:.2f} s, with ranks {ours:.2f} s: '
        f'{ours / bare:.2f} x the bare product (aim 1.5; of the best turns '
        f'{np.min(turns, 0)[1] / np.min(turns, 0)[0]:.2f}), '
        f'{loop / ours:.1f} x as fast as a product and sort for each query ({few} timed)'
    )
    u, v, item = codes(2 * n, 64, 2), codes(2 * n, 64, 3), (range(2 * n),) * 2
    bare, ours = race(
        1, lambda: product(u, v), lambda: pooled(blocks(u, v), median_rank, n // 2, n=a.pools, items=item)
    )
    print(
        f'{a.pools} pools of {n // 2:,} in one pass over {2 * n:,} x {2 * n:,}, 64-d: {ours:.2f} s, the product '
        f'alone {bare:.2f} s'
    )

    m = 4 * n // 5
    u, v, y = codes(m, 512, 0), codes(m, 512, 1), torch.arange(m) % 20
    S = u @ v.T
    bare, numpy_sort, ours = race(
        3,
        lambda: product(u, v),
        lambda: [np.sort(S[i : i + 32].numpy(), axis=1) for i in range(0, m, 32)],
        lambda: mean_ap(blocks(u, v), (y, y)),
    )
    torch_sort, coarse, fine, nulls = race(
        1,
        lambda: [S[i : i + 1024].sort(dim=1, descending=True) for i in range(0, m, 1024)],
        lambda: mean_ap(((s, (b * 100).round().short()) for s, b in blocks(u, v)), (y, y)),
        lambda: mean_ap(((s, b.double()) for s, b in blocks(u, v)), (y, y)),
        lambda: permutation_null(S, (y, y), mean_ap),
    )
    print(
        f'mAP, {m:,} x {m:,}, 512-d, 20 classes: {ours:.2f} s; product {bare:.2f} s, '
        f'sort {torch_sort:.2f} s (torch) or {numpy_sort:.2f} s (numpy, SIMD): '
        f'{ours / (bare + torch_sort):.2f} x or {ours / (bare + numpy_sort):.2f} x product and sort (aim 1.5)'
    )
    print(
        f'  of integer scores full of ties {coarse:.2f} s, of float64 scores {fine:.2f} s, null of 200 permutations '
        f'{nulls:.2f} s'
    )

    u, v, yu, yv = codes(2000, 512, 0), codes(8000, 512, 1), torch.arange(2000) % 20, torch.arange(8000) % 20
    few = 200
    loop, ours = race(
        2, lambda: dscmr_map(u[:few], v, yu[:few].tolist(), yv.tolist()), lambda: mean_ap(blocks(u, v), (yu, yv))
    )
    assert abs(dscmr_map(u[:20], v, yu[:20].tolist(), yv.tolist()) - mean_ap(u[:20] @ v.T, (yu[:20], yv))) < 1e-6
    print(
        f'mAP, 2,000 x 8,000, 512-d: {ours:.2f} s; official loop {10 * loop:.1f} s ({few} queries timed): '
        f'{10 * loop / ours:.0f} x as fast (aim 5)'
    )
    interval(u, v, yu, yv)
    permutations(*(codes(k, 64, k) for k in (1000, 5000)))


if __name__ == '__main__':
    main()
