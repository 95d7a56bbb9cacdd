"""Seconds of an epoch of DSCMR, without evaluation, beside a minimal loop with the semantics of the released code; and
what an evaluation costs. Ratios in one run: python tests/bench_dscmr.py
"""

import time

import torch
import torch.nn.functional as F
from torch import nn

from crossmodal_nb.data.synthetic import make_class_views
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.evaluation.selection import checker
from crossmodal_nb.methods.dscmr import DSCMR

torch.set_num_threads(1)
n, C, wide, hidden, dim, rows, lam, eta = (
    800,
    20,
    dict(image=4096, text=300),
    2048,
    1024,
    100,
    1e-3,
    0.1,
)  # Pascal Sentence's


def minimal(views, epochs):
    "The released loop: fixed batches, three losses as there, Adam"
    x, y = {v: w.x for v, w in views.items()}, F.one_hot(views['image'].y, C).float()
    first, common, P = (
        nn.ModuleDict({v: nn.Linear(d, hidden) for v, d in wide.items()}),
        nn.Linear(hidden, dim),
        nn.Linear(dim, C),
    )
    params = [*first.parameters(), *common.parameters(), *P.parameters()]
    opt, seconds = torch.optim.Adam(params, 1e-4, betas=(0.5, 0.999)), []

    def cos(a, b):
        return a @ b.T / (a.norm(dim=1)[:, None] * b.norm(dim=1)).clamp(min=1e-6) / 2

    for _ in range(epochs):
        start = time.perf_counter()
        for i in range(0, n, rows):
            u, v = (common(first[w](x[w][i : i + rows]).relu()) for w in ('image', 'text'))
            Y = y[i : i + rows]
            S = Y @ Y.T
            label = (P(u) - Y).norm(dim=1).mean() + (P(v) - Y).norm(dim=1).mean()
            space = sum((torch.log(1 + torch.exp(t)) - S * t).mean() for t in (cos(u, v), cos(u, u), cos(v, v)))
            loss = label + lam * space + eta * (u - v).norm(dim=1).mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
        seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == '__main__':
    world = Views(
        {v: View(x.x, y=x.y) for v, x in make_class_views(n, wide, dict(image=1.0, text=1.0), classes=C).items()}
    )
    m = DSCMR(lam, eta, dim=dim, hidden=hidden, dropout=0.0, trainer=dict(epochs=4, batch=rows, accelerator='cpu')).fit(
        world
    )
    ours, theirs = min(r['seconds'] for r in m.history), min(minimal(world, 4))
    start = time.perf_counter()
    checker(world, relevance='label')(m)
    asked = time.perf_counter() - start
    print(
        f'{n} pairs, batch {rows}, {hidden}-{dim}: ours {ours:.2f} s an epoch, minimal loop {theirs:.2f} s: ratio '
        f'{ours / theirs:.2f}. Scoring {n} × {n} in both directions, with coding: {asked:.2f} s, {asked / ours:.2f} '
        'of an epoch'
    )
