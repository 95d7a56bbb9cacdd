"""CCA of 2048 + 768 columns against the bare matrix product of the same chunks, and against cca-zoo; everything
measured in one run.

python tests/bench_cca.py            60,000 rows, cca-zoo at 20,000
python tests/bench_cca.py --full     240,000 rows

"""

import argparse
import json
import subprocess
import sys
import threading
import time

import torch

from crossmodal_nb.data.views import View, Views
from crossmodal_nb.methods.linear import CCA

P, Q, PIECE, DIM, C = 2048, 768, 8192, 50, 1e-3  # widths, rows at hand at a time, dimensions, cca-zoo's shrinkage


def pieces(n, dtype=torch.float32):
    """n rows of two views, away from zero and of unequal scale, that share 100 latents of falling strength; made piece
    by piece
    """
    g = torch.Generator().manual_seed(0)
    A, B = torch.randn(100, P, generator=g), torch.randn(100, Q, generator=g)
    fall, scale = torch.linspace(1, 0.05, 100), torch.rand(P + Q, generator=g) * 2 + 0.1
    for i in range(0, n, PIECE):
        m, g = min(PIECE, n - i), torch.Generator().manual_seed(i + 1)
        z = torch.randn(m, 100, generator=g) * fall
        xy = torch.cat([z @ A, z @ B], 1) * 0.3 + torch.randn(m, P + Q, generator=g) * 2
        yield (xy * scale + 3).to(dtype)


def joint(xy):
    return Views(x=View(xy[:, :P].contiguous()), y=View(xy[:, P:].contiguous()))


class Peak:
    "The largest anonymous memory of this process (MB) while the block runs, beyond what it had at the start"

    def now(self):
        return next(int(line.split()[1]) / 1024 for line in open('/proc/self/status') if line.startswith('RssAnon'))

    def watch(self):
        while not self.done.wait(0.005):
            self.most = max(self.most, self.now())

    def __enter__(self):
        self.done, self.start = threading.Event(), self.now()
        self.most = self.start
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.most = max(self.most, self.now())
        self.done.set()
        self.thread.join()
        self.mb = self.most - self.start


def ours(n, dtype=torch.float32):
    m, fit, batches = CCA(DIM, C, 'blend'), 0.0, pieces(n, dtype)
    views = joint(next(batches))
    with Peak() as peak:  # the first piece of rows is in the baseline, what generating the others needs is in the peak
        while views is not None:
            t = time.time()
            m.partial_fit(views)
            fit += time.time() - t
            xy = next(batches, None)
            views = None if xy is None else joint(xy)
            del xy
        t = time.time()
        rho = m.rho
        solve = time.time() - t
    return dict(fit=fit, solve=solve, mb=peak.mb, rho=rho.tolist())


def zoo(n, dtype):
    from cca_zoo.linear import RidgeCCA

    xy = torch.cat(list(pieces(n))).to(dtype).numpy()
    xs = [xy[:, :P].copy(), xy[:, P:].copy()]
    del xy
    model = RidgeCCA(DIM, shrinkage=C)
    with Peak() as peak:
        t = time.time()
        model.fit(xs)
        fit = time.time() - t
    a, b = (torch.as_tensor(z).double() for z in model.transform(xs))
    a, b = a - a.mean(0), b - b.mean(0)
    return dict(fit=fit, mb=peak.mb, rho=((a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0))).tolist())


def child(what, n, dtype='float32'):
    out = subprocess.run([sys.executable, __file__, '--child', what, str(n), dtype], capture_output=True, text=True)
    if out.returncode:
        raise SystemExit(out.stderr)
    return json.loads(out.stdout.splitlines()[-1])


def against_bare(n):
    "Seconds of the bare products of 4,096-row chunks, and of partial_fit on the same rows, taken in turns"
    m, bare, fit = CCA(DIM, C, 'blend'), 0.0, 0.0
    for xy in pieces(n):
        views, chunks = joint(xy), [c.contiguous() for c in xy.split(4096)]
        del xy
        t = time.time()
        for c in chunks:
            c.T @ c
        bare += time.time() - t
        t = time.time()
        m.partial_fit(views)
        fit += time.time() - t
    t = time.time()
    _ = m.rho
    return dict(bare=bare, fit=fit, solve=time.time() - t)


def error(a, b):
    return max(abs(x - y) for x, y in zip(a['rho'], b['rho']))


if __name__ == '__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--full', action='store_true')
    p.add_argument('--zoo', type=int, default=20_000)
    p.add_argument('--repeat', type=int, default=3)
    p.add_argument('--child', nargs=3)
    o = p.parse_args()
    if o.child:
        what, n, dtype = o.child
        print(json.dumps(dict(ours=ours, zoo=zoo)[what](int(n), getattr(torch, dtype))))
        raise SystemExit
    n = 240_000 if o.full else 60_000
    print(f'{n:,} rows × ({P} + {Q}), float32, {torch.get_num_threads()} threads')
    for _ in range(o.repeat):
        r = against_bare(n)
        print(
            f'  accumulation {r["fit"]:6.2f} s   bare C.T @ C {r["bare"]:6.2f} s   '
            f'ratio {r["fit"] / r["bare"]:.2f}   solve {r["solve"]:.2f} s',
            flush=True,
        )
    a, b = child('ours', n), child('ours', n, 'float64')
    print(
        f'  memory beyond the first piece of rows: {a["mb"]:.0f} MB (pieces of {PIECE} rows take '
        f'{PIECE * (P + Q) * 4 / 2**20:.0f} MB)'
    )
    print(f'  largest error of {DIM} correlations against float64: {error(a, b):.1e}')
    n = o.zoo
    print(f'{n:,} rows, against cca-zoo\n  {"":18}{"fit s":>7}{"MB":>8}   error of correlations')
    truth = child('zoo', n, 'float64')
    for name, what, dtype in (
        ('cca-zoo float64', 'zoo', 'float64'),
        ('cca-zoo float32', 'zoo', 'float32'),
        ('ours float32', 'ours', 'float32'),
        ('ours float64', 'ours', 'float64'),
    ):
        r = truth if name == 'cca-zoo float64' else child(what, n, dtype)
        print(f'  {name:18}{r["fit"] + r.get("solve", 0):7.2f}{r["mb"]:8.0f}   {error(r, truth):.1e}')
