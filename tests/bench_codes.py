"""Search of packed codes: our twin against FAISS's flat binary index, time and memory; all ratios from one run.

python tests/bench_codes.py [--rows 1000000] [--queries 1000] [--bits 64] [--k 100]
"""

import argparse
import threading
import time
from pathlib import Path

import faiss
import numpy as np
import torch

from crossmodal_nb.metrics.hamming import distance_histogram, faiss_search, search


def resident():
    return int(Path('/proc/self/statm').read_text().split()[1]) * 4096 / 2**20


def measured(f, *args):
    "What it gives, its seconds, and by how many MB the process grew at most meanwhile"
    baseline, peak, done = resident(), [0.0], threading.Event()

    def watch():
        while not done.wait(0.002):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    out = f(*args)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return out, seconds, max(peak[0], resident()) - baseline


def main():
    p = argparse.ArgumentParser()
    for name, default in dict(rows=1_000_000, queries=1000, bits=64, k=100).items():
        p.add_argument(f'--{name}', type=int, default=default)
    a = p.parse_args()
    g = np.random.default_rng(0)
    faiss.omp_set_num_threads(torch.get_num_threads())
    centres = g.integers(0, 256, (1000, a.bits // 8), dtype=np.uint8)

    def codes(n, spread):
        "Codes of uniform bits, or of 1,000 clusters with an eighth of the bits flipped"

        def draw():
            return g.integers(0, 256, (n, a.bits // 8), dtype=np.uint8)

        return torch.from_numpy(
            draw() if spread == 'uniform' else centres[g.integers(0, 1000, n)] ^ (draw() & draw() & draw())
        )

    for f in (search, faiss_search):
        f(codes(2, 'uniform'), codes(1000, 'uniform'), 5)  # imports, thread pools
    for spread in ('uniform', 'clustered'):
        q, b = codes(a.queries, spread), codes(a.rows, spread)
        (ours, t, mb), (theirs, u, ub) = measured(search, q, b, a.k), measured(faiss_search, q, b, a.k)
        assert torch.equal(ours.distance, theirs.distance)
        print(
            f'{spread}: {a.queries:,} queries in {a.rows:,} codes of {a.bits} bits ({b.nbytes / 1e6:.0f} MB), top '
            f'{a.k}, '
            f'{torch.get_num_threads()} threads: twin {t:.2f} s, {mb:.0f} MB more (aim < 200); FAISS {u:.2f} s, '
            f'{ub:.0f} MB; '
            f'{t / u:.1f} x its time (aim 10); same distances'
        )
    few = max(1, a.queries // 20)
    y = torch.arange(a.rows) % 20
    _, t, mb = measured(distance_histogram, q[:few], b, (y[:few], y))
    print(f'rings of {few} queries, all {a.rows:,} ranked: {t:.2f} s, {mb:.0f} MB more')


if __name__ == '__main__':
    main()
