"""What a correction for hubs costs: scoring and searching with kept statistics, and computing them. Ratios of one run.

python tests/bench_hubness.py [--dim 256] [--queries 1000] [--gallery 5000] [--bank 6000] [--repeats 15]
"""

import argparse
import statistics
import time

import torch

from crossmodal_nb.methods.base import CodeScores
from crossmodal_nb.methods.hubness import CorrectedScores, first_answers, hub_offsets
from crossmodal_nb.methods.similarity import unit
from crossmodal_nb.search import nearest


def compared(bare, corrected, repeats):
    "Seconds of the processor of both, medians of several, in turns: other processes disturb both alike"
    seconds = [], []
    for i in range(repeats + 1):
        for f, out in zip((bare, corrected), seconds):
            start = time.process_time()
            f()
            if i:  # the first warms up
                out.append(time.process_time() - start)
    return tuple(map(statistics.median, seconds))


def main():
    p = argparse.ArgumentParser()
    for name, default in dict(dim=256, queries=1000, gallery=5000, bank=6000, repeats=15).items():
        p.add_argument(f'--{name}', type=int, default=default)
    a = p.parse_args()
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    queries, gallery, bank = (unit(torch.randn(n, a.dim, generator=g)) for n in (a.queries, a.gallery, a.bank))
    large = unit(torch.randn(100_000, a.dim, generator=g))
    offset, large_offset = torch.rand(a.gallery, generator=g), torch.rand(len(large), generator=g)

    def report(what, aim, bare, corrected):
        t, u = compared(bare, corrected, a.repeats)
        print(f'{what:52} {1e3 * t:8.1f} → {1e3 * u:8.1f} ms   × {u / t:.2f} (aim {aim})')

    def scored(scores):
        for _ in scores():
            pass

    def product_with_bank(block=128):
        for i in range(0, a.gallery, block):
            gallery[i : i + block] @ bank.T

    active = first_answers(bank, gallery)
    print(f'{a.queries:,} queries, {a.gallery:,} gallery rows, bank of {a.bank:,}, {a.dim} coordinates, one thread')
    report(
        'scoring, offsets kept',
        '≤ 1.10',
        lambda: scored(CodeScores(queries, gallery)),
        lambda: scored(CorrectedScores(queries, gallery, 'cosine', offset)),
    )
    report(
        'scoring by querybank, offsets and answers kept',
        'none',
        lambda: scored(CodeScores(queries, gallery)),
        lambda: scored(CorrectedScores(queries, gallery, 'cosine', offset, lambda _: active)),
    )
    for n in (1, 100):
        report(
            f'search of {n} queries among {len(large):,} rows',
            '≤ 1.05',
            lambda n=n: nearest(queries[:n], large),
            lambda n=n: nearest(queries[:n], large, offset=large_offset),
        )
    for how in ('csls', 'inverted'):
        report(f'statistics, {how}', '≤ 1.30', product_with_bank, lambda how=how: hub_offsets(bank, gallery, how=how))
    report('first answers of the bank', 'none', product_with_bank, lambda: first_answers(bank, gallery))


if __name__ == '__main__':
    main()
