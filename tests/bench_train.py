"""Training against a hand-written loop of the same model and batches; everything measured in one run, in turns.

    python tests/bench_train.py                  all parts
    python tests/bench_train.py clip dcca        some of: clip, vilbert, dcca, processes, memory

Ratios are of seconds (ours over theirs, the best of some repeats), so 1.00 is no overhead.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
import warnings

import torch
import torch.nn.functional as F
from torch import nn

from crossmodal_nb.data.views import View, Views
from crossmodal_nb.encoders.base import Ragged
from crossmodal_nb.methods.dcca import DCCA
from crossmodal_nb.methods.dual_encoder import CLIP
from crossmodal_nb.nn.trainer import rate

WIDE = dict(image=1280, text=384)


def pairs(n):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(n, 32, generator=g)
    return Views(
        {v: View(z @ torch.randn(32, d, generator=g) + torch.randn(n, d, generator=g)) for v, d in WIDE.items()}
    )


# ---- the hand-written loop


class Tower(nn.Module):
    "The same layers as a head, and nothing else"

    def __init__(self, x, dim, hidden, dropout):
        super().__init__()
        self.mean, self.sd, d = x.mean(0), x.std(0), x.shape[1]
        self.linear, self.drop = nn.Linear(d, dim), nn.Dropout(dropout)
        self.more = nn.Sequential(
            nn.Linear(d, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Dropout(dropout), nn.Linear(hidden, dim)
        )

    def forward(self, x):
        x = (x - self.mean) / self.sd
        return self.linear(x) + self.more(self.drop(x))


class TwoTowers(nn.Module):
    def __init__(self, views, loss, dim=256, hidden=512, dropout=0.2):
        super().__init__()
        self.a, self.b = (Tower(v.x, dim, hidden, dropout) for v in views.values())
        self.s, self.loss = nn.Parameter(torch.tensor(math.log(1 / 0.07))), loss

    def forward(self, xa, xb):
        return self.loss(self.a(xa), self.b(xb), self.s)


def clip_loss(a, b, s):
    logits = s.exp() * F.normalize(a) @ F.normalize(b).T
    y = torch.arange(len(a))
    return (F.cross_entropy(logits, y) + F.cross_entropy(logits.T, y)) / 2


def loop(model, batches, epochs, lr=1e-3, wd=0.01):
    "Seconds of each epoch: AdamW, the rate's schedule, clipped gradients; `batches(epoch)` yields what the model takes"
    opt = torch.optim.AdamW(
        [
            dict(params=[p for p in model.parameters() if p.dim() > 1], weight_decay=wd),
            dict(params=[p for p in model.parameters() if p.dim() < 2], weight_decay=0.0),
        ],
        lr=lr,
        fused=True,
    )
    model.train()
    seconds, t = [], 0
    for epoch in range(epochs):
        start, total = time.perf_counter(), 0.0
        bs = batches(epoch)
        for args in bs:
            for g in opt.param_groups:
                g['lr'] = lr * rate(t, epochs * 20, 5)
            loss = model(*args)
            if isinstance(loss, dict):
                loss = loss['loss']
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            opt.zero_grad(set_to_none=True)
            total += loss.detach()
            t += 1
        total.item()
        seconds.append(time.perf_counter() - start)
    return seconds


def shuffled(views, batch):
    "Batches by plain indexing"
    xs, n = [v.x for v in views.values()], len(next(iter(views.values())))

    def batches(epoch):
        for i in torch.randperm(n, generator=torch.Generator().manual_seed(epoch)).split(batch):
            if len(i) == batch:
                yield [x[i] for x in xs]

    return batches


def ours(method, views):
    "Seconds of each epoch, as the trainer counts them"
    return [r['seconds'] for r in method.fit(views).history]


def turns(a, b, repeat):
    "The best epoch of each, in turns; both warm after the first"
    best = [float('inf')] * 2
    for _ in range(repeat):
        for i, f in enumerate((a, b)):
            best[i] = min(best[i], min(f()))
    return best


def told(name, n, mine, theirs):
    print(f'  {name:46} {n / mine:8.0f} against {n / theirs:8.0f} pairs/s   ratio {mine / theirs:.2f}', flush=True)


# ---- the parts


def how(batch, **k):
    return dict(epochs=3, batch=batch, accelerator='cpu') | k


def clip(repeat):
    n, batch = 4096, 256
    views = pairs(n)
    told(
        f'CLIP heads {WIDE}, batch {batch}',
        n,
        *turns(
            lambda: ours(CLIP(init='random', trainer=how(batch)), views),
            lambda: loop(TwoTowers(views, clip_loss), shuffled(views, batch), 3),
            repeat,
        ),
    )


def dcca(repeat):
    from crossmodal_nb.losses.correlation import cca_corr, standardised

    n, batch, dim = 4096, 1024, 128
    views = pairs(n)
    try:
        from cca_zoo.deep.objectives import CCALoss

        zoo, baseline_name = CCALoss(reg_covar=1e-3), 'cca-zoo\'s deep DCCA objective'
    except ImportError:
        zoo, baseline_name = eigh_loss, 'an eigh-based objective (cca_zoo.deep is not installed)'

    def other():
        return TwoTowers(views, lambda a, b, s: zoo([standardised(a), standardised(b)]) + 0 * s, dim)

    told(
        f'DCCA, batch {batch}, dim {dim}; {baseline_name}',
        n,
        *turns(
            lambda: ours(DCCA(init='random', dim=dim, trainer=how(batch)), views),
            lambda: loop(other(), shuffled(views, batch), 3),
            repeat,
        ),
    )
    a, b = (torch.randn(batch, dim, generator=torch.Generator().manual_seed(i)).requires_grad_() for i in (0, 1))

    def step(f):
        t = time.perf_counter()
        torch.autograd.grad(f(), (a, b))
        return [time.perf_counter() - t]

    mine, theirs = turns(lambda: step(lambda: -cca_corr(a, b)), lambda: step(lambda: zoo([a, b])), 5 * repeat)
    print(
        f'  the objective and its gradient alone: {mine * 1e3:.0f} ms in float64 by Cholesky '
        f'against {theirs * 1e3:.0f} ms in float32   ratio {mine / theirs:.2f}'
    )


def eigh_loss(zs):
    a, b = (z - z.mean(0) for z in zs)

    def root(S):
        return (lambda values, U: U * values.clamp(min=1e-3) ** -0.5 @ U.T)(
            *torch.linalg.eigh(S + 1e-3 * torch.eye(len(S)))
        )

    return -(root(a.T @ a / (len(a) - 1)) @ (a.T @ b / (len(a) - 1)) @ root(b.T @ b / (len(a) - 1))).square().sum()


def vilbert(repeat):
    try:
        from crossmodal_nb.methods.vilbert import ViLBERT
    except ImportError as e:
        return print(f'  ViLBERT: skipped, {e}')
    n, batch, g = 256, 32, torch.Generator().manual_seed(0)
    length = torch.randint(6, 19, (n,), generator=g)
    views = Views(
        image=View(dict(grid=torch.randn(n, 49, 1280, generator=g))),
        text=View(dict(tokens=Ragged(torch.randn(int(length.sum()), 384, generator=g), length))),
    )

    def batches(views):
        drawn = [
            views.batch(i, seed=s) for s, i in enumerate(torch.randperm(n, generator=g).split(batch))
        ]  # drawn beforehand
        return lambda epoch: ([b] for b in drawn)

    def plain():
        m = ViLBERT(trainer=how(batch, epochs=0)).fit(views)  # the same layers
        return loop(m, batches(views), 2)

    told(
        f'ViLBERT, {n} pairs, batch {batch}; the loop alone',
        n,
        *turns(lambda: ours(ViLBERT(trainer=how(batch, epochs=2)), views), plain, repeat),
    )


def processes(repeat):
    n, batch = 8192, 1024
    views = pairs(n)
    told(
        f'CLIP heads, hidden 2048, batch {batch}: two processes',
        n,
        *turns(
            *(lambda d=d: ours(CLIP(init='random', hidden=2048, trainer=how(batch, devices=d)), views) for d in (2, 1)),
            1,
        ),
    )


def child_peak(kind, chunk):
    "MB beyond what the data and the libraries take: one step of 4,096 pairs"
    n = 4096
    views, peak = pairs(n), lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cls = dict(CLIP=CLIP, DCCA=DCCA)[kind]

    def make(batch, chunk):
        return cls(init='random', dim=128, hidden=2048, trainer=how(batch, epochs=1, chunk=chunk))

    make(64, 0).fit(views.subset(torch.arange(64)))
    old = peak()
    t = time.time()
    make(n, chunk).fit(views)
    print(json.dumps(dict(mb=peak() - old, seconds=time.time() - t)))


def memory(repeat):
    for kind in ('DCCA', 'CLIP'):
        command = [sys.executable, __file__, '--child', kind]
        full, pieces = (
            json.loads(subprocess.check_output([*command, str(chunk)], text=True).splitlines()[-1])
            for chunk in (0, 256)
        )
        print(
            f'  {kind}, one step of 4,096 pairs, hidden 2048: {pieces["mb"]:.0f} MB by pieces of 256 against '
            f'{full["mb"]:.0f} MB at once   '
            f'ratio {pieces["mb"] / full["mb"]:.2f} (in {pieces["seconds"] / full["seconds"]:.2f} of the time)',
            flush=True,
        )


if __name__ == '__main__':
    parts = dict(clip=clip, vilbert=vilbert, dcca=dcca, processes=processes, memory=memory)
    p = argparse.ArgumentParser()
    p.add_argument('parts', nargs='*', choices=[*parts, []], default=[])
    p.add_argument('--repeat', type=int, default=3)
    p.add_argument('--child', nargs=2)
    o = p.parse_args()
    warnings.simplefilter('ignore')
    if o.child:
        child_peak(o.child[0], int(o.child[1]))
        raise SystemExit
    print(
        f'torch {torch.__version__}, {torch.get_num_threads()} threads; ours against the other, seconds of the best '
        'epoch'
    )
    for name in o.parts or parts:
        parts[name](o.repeat)
