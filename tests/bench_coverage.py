"""How often intervals hold the truth, equal methods are called different, and noise exceeds its null: in worlds whose
truth is known.

    python tests/bench_coverage.py                          2,000 worlds a cell, some 45 minutes of one core
    python tests/bench_coverage.py --worlds 200 --only null
    python tests/bench_coverage.py --out book/measured/coverage.json     also written there, after every cell

A *cell* is a kind of world with its settings. Of every world all that can be asked is asked, so the figures of a cell
share their worlds. The truth is the mean over all worlds of the cell: what is expected of a split of this size. Class
prototypes belong to a cell; labels, items and what methods make of them are drawn anew in each world. Cells that the
file holds with the same settings are kept. Splits of 693 and 1,000 items have 10 classes only; a method that is truly
behind, and mAP@50, have one cell of 300 items.
"""

import argparse
import ast
import dataclasses
import functools
import hashlib
import json
import os
import time
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from crossmodal_nb import metrics
from crossmodal_nb.metrics.average_precision import mean_ap
from crossmodal_nb.metrics.comparison import compare, family
from crossmodal_nb.metrics.null import Null, null_draws, permutation_null
from crossmodal_nb.metrics.ranking import counts, recall_at
from crossmodal_nb.metrics.uncertainty import bootstrap, class_score, estimate, item_score

dim = 10  # of codes
own = 0.7  # noise of a method; that of all methods alike is 1
worse = 0.9  # of one that is truly behind
learning = 0.12  # by how much runs of a method distort the space
methods = ('items on both sides', 'pairs not corrected', 'queries only')


class Range(NamedTuple):
    "What an interval said in one world"

    value: float
    low: float
    high: float


def said(interval):
    "Of an `Estimate` or a `Comparison`"
    return Range(interval[0], interval.low, interval.high)


# worlds -------------------------------------------------------------------------------------------------------------


def prototypes(classes):
    return torch.randn(classes, dim, generator=torch.Generator().manual_seed(classes))


def normal(g, *shape):
    return torch.randn(*shape, generator=g)


def unit(x):
    return torch.nn.functional.normalize(x)


def two_views(g, n, classes, signal, copies=1):
    "Labels, and what all methods see of each item in two views. `copies` items in a row are near-duplicates"
    y = torch.randint(classes, (n // copies,), generator=g)
    views = [signal * prototypes(classes)[y] + normal(g, len(y), dim) for _ in 'ab']
    return y.repeat_interleave(copies), [v.repeat_interleave(copies, 0) for v in views]


def method(g, views, noise=own, copies=1, distort=None):
    "Scores in both directions of a method that adds noise of its own (and a little of each copy)"
    codes = []
    for v in views:
        x = v + noise * normal(g, len(v) // copies, dim).repeat_interleave(copies, 0)
        if copies > 1:
            x = x + 0.05 * normal(g, len(v), dim)
        if distort:
            x = x + distort * x @ normal(g, dim, dim)
        codes.append(unit(x))
    scores = codes[0] @ codes[1].T
    return scores, scores.T.contiguous()


def uncorrected(score):
    return dataclasses.replace(score, interaction=0 * score.interaction)


def three_ways(scores, y, item):
    "A `Score` by each of the three ways: this module's; its influences as they are; queries as the only sample"
    s = class_score(scores, (y, y), (item, item))
    return s, uncorrected(s), item_score(mean_ap(scores, (y, y), mean=False), item)


def differ(comparison):
    return comparison.verdict in ('ahead', 'behind')


# kinds of cells: of one world, {(quantity, way): Range, or whether something happened} -------------------------------


def by_class(g, n, classes, signal, full=False):
    "mAP, alone and of two methods. In full: also mAP@50, and a method that is truly behind"
    y, views = two_views(g, n, classes, signal)
    item = np.arange(n)
    first, equal = method(g, views), method(g, views)
    ours, theirs = ([three_ways(s, y, item) for s in m] for m in (first, equal if n < 500 else equal[:1]))
    out = {}
    for j, way in enumerate(methods):
        a, b = ([side[j] for side in pair] for pair in (ours, theirs))
        mean = (a[0] + a[1]) / 2
        c = compare(a[0], b[0])
        out['mAP, one direction', way] = said(estimate(a[0]))
        out['mAP, mean of both', way] = said(estimate(mean))
        out['equal methods, difference of one direction', way] = said(c)
        out['equal methods called different, one direction', way] = differ(c)
        if len(b) > 1:
            c = compare(mean, (b[0] + b[1]) / 2)
            out['equal methods, difference of means', way] = said(c)
            out['equal methods called different, means', way] = differ(c)
    if full:
        at50 = functools.partial(mean_ap, k=50, norm='hits')
        s = class_score(first[0], (y, y), (item, item), at50)
        behind = method(g, views, worse)[0]
        for way, x in zip(methods, (s, uncorrected(s), item_score(at50(first[0], (y, y), mean=False), item))):
            out['mAP@50, one direction', way] = said(estimate(x))
        for way, x, z in zip(methods, ours[0], three_ways(behind, y, item)):
            c = compare(x, z)
            out['unequal methods, difference of one direction', way] = said(c)
            out['unequal methods called different, one direction', way] = differ(c)
    return out


def near_duplicates(g, n, classes, signal, copies):
    "mAP of items that come as near-duplicates: when this is said (their item codes are one), and when it is not"
    y, views = two_views(g, n, classes, signal, copies)
    a, b = method(g, views, copies=copies), method(g, views, copies=copies)
    out = {}
    for way, item in (('clusters given', np.arange(n) // copies), ('clusters not given', np.arange(n))):
        x, z = (class_score(m[0], (y, y), (item, item)) for m in (a, b))
        out['mAP, one direction', way] = said(estimate(x))
        out['equal methods called different, one direction', way] = differ(compare(x, z))
    return out


def recalls(scores, item):
    "`Score`s of R@1, R@10 and mean recall, and the hits of R@10"
    c = counts(scores)
    hits = {k: np.asarray(recall_at(c, k, mean=False)) for k in (1, 5, 10)}
    return {k: item_score(v, item) for k, v in (*hits.items(), ('mean', sum(hits.values()) / 3))}, hits[10]


def by_item(g, n, signal, copies):
    "Recall of the one right item, out of n"
    shared = signal * normal(g, n // copies, dim)
    views = [(shared + normal(g, n // copies, dim) / 2).repeat_interleave(copies, 0) for _ in 'ab']
    a, b = (method(g, views, own / 2, copies) for _ in 'ab')
    out = {}
    ways = (
        {'queries': np.arange(n)}
        if copies == 1
        else {'clusters given': np.arange(n) // copies, 'clusters not given': np.arange(n)}
    )
    for way, item in ways.items():
        (x, hits), (back, _), (z, _), (forth, _) = (recalls(s, item) for s in (*a, *b))
        resampled = bootstrap(hits, n=500, seed=int(torch.randint(2**31, (), generator=g)), cluster=item)
        for k in (1, 10):
            out[f'R@{k}, one direction', way] = said(estimate(x[k]))
        out['R@10, one direction', f'{way}, bootstrap'] = Range(hits.mean(), *resampled)
        out['mean recall, mean of both', way] = said(estimate((x['mean'] + back['mean']) / 2))
        c = compare((x['mean'] + back['mean']) / 2, (z['mean'] + forth['mean']) / 2)
        out['equal methods, difference of mean recalls', way] = said(c)
        out['equal methods called different, mean recall', way] = differ(c)
    return out


def runs(g, n, classes, signal):
    "One, three and five runs of two equal methods on the same items. *Runs averaged away*: their mean, taken for fixed"
    y, views = two_views(g, n, classes, signal)
    item = np.arange(n)

    def learn():
        return class_score(method(g, views, distort=learning)[0], (y, y), (item, item), random=True)

    a, b = ([learn() for _ in range(5)] for _ in 'ab')
    out = {}
    for k, name in ((1, 'one run'), (3, 'three runs'), (5, 'five runs')):
        c = compare(a[:k], b[:k])
        mean_a, mean_b = (dataclasses.replace(sum(r[1:k], r[0]) / k, random=False) for r in (a, b))
        averaged = compare(mean_a, mean_b)
        out[f'mAP, {name}', 'items and runs'] = said(estimate(a[:k]))
        out[f'mAP, {name}', 'runs averaged away'] = said(estimate(mean_a))
        out[f'equal methods called different, {name}', 'items and runs'] = differ(c)
        out[f'equal methods called different, {name}', 'runs averaged away'] = differ(averaged)
        out[f'no claim is made, {name}', 'items and runs'] = c.verdict == 'one run'
    return out


def families(g, n, classes, signal, pairs):
    "Equal methods, each pair of five (`pairs`), or ten against one: is any called different?"
    y, views = two_views(g, n, classes, signal)
    item = np.arange(n)
    out = {}
    scores = [method(g, views)[0] for _ in range(5 if pairs else 11)]
    pair = [class_score(s, (y, y), (item, item)) for s in scores]
    queries = [item_score(mean_ap(s, (y, y), mean=False), item) for s in scores]
    compared = [(i, j) for i in range(len(scores)) for j in range(i) if pairs or j == 0]
    for way, s in ((methods[0], pair), (methods[2], queries)):
        cs = {(i, j): compare(s[i], s[j]) for i, j in compared}
        out['a family with a false verdict, uncorrected', way] = any(map(differ, cs.values()))
        out['a family with a false verdict', way] = any(differ(c) for c, _ in family(cs).values())
    return out


def null(g, n, classes, signal, noise):
    "Noise that asks a clustered gallery, or that answers clustered queries: is its mAP above the null?"
    y, (clustered, _) = two_views(g, n, classes, signal)
    codes = unit(clustered), unit(normal(g, n, dim))
    scores = codes[1] @ codes[0].T if noise == 'asks' else codes[0] @ codes[1].T
    y = y, y[torch.randperm(n, generator=g)]
    labels = y if noise == 'answers' else y[::-1]
    seed = int(torch.randint(2**31, (), generator=g))
    sides = [Null.from_draws(draws) for draws in null_draws(scores, labels, dict(mAP=mean_ap), seed=seed)['mAP']]
    seen, wide = mean_ap(scores, labels), max(sides, key=lambda s: s.high - s.low)
    if seed % 100 == 0:
        assert wide == permutation_null(scores, labels, mean_ap, seed=seed)
    return {
        ('noise above the null', 'both sides permuted'): seen > wide.high,
        ('noise above the null', 'queries permuted'): seen > sides[0].high,
    }


some, none, clear = 0.6, 0.0, 3.0  # how far class prototypes are apart, beside noise of 1
kinds = {f.__name__: f for f in (by_class, near_duplicates, by_item, runs, families, null)}


def cells():
    "[(kind, settings)], what matters most first"
    yield 'by_class', dict(n=300, classes=10, signal=some, full=True)
    yield 'null', dict(n=150, classes=10, signal=clear, noise='answers')
    yield 'families', dict(n=150, classes=10, signal=some, pairs=False)
    yield 'runs', dict(n=300, classes=10, signal=some)
    yield from (('by_item', dict(n=300, signal=1.0, copies=c)) for c in (1, 3))
    yield 'near_duplicates', dict(n=300, classes=10, signal=some, copies=3)
    yield from (
        ('by_class', dict(n=300, classes=c, signal=s)) for c, s in ((10, none), (25, some), (5, some), (25, none))
    )
    yield 'by_class', dict(n=693, classes=10, signal=some)
    yield 'by_class', dict(n=300, classes=5, signal=none)
    yield 'families', dict(n=300, classes=10, signal=some, pairs=True)
    yield from (('by_class', dict(n=150, classes=c, signal=s)) for c in (10, 25, 5) for s in (some, none))
    yield 'null', dict(n=1000, classes=10, signal=clear, noise='answers')
    yield 'by_class', dict(n=1000, classes=10, signal=some)
    yield 'null', dict(n=150, classes=10, signal=clear, noise='asks')
    yield 'by_item', dict(n=1000, signal=1.0, copies=1)


def named(kind, settings):
    "A cell in words"
    s = dict(settings)
    words = [kind.replace('_', ' '), f'{s.pop("n"):,} items']
    if 'classes' in s:
        words.append(f'{s.pop("classes")} classes')
    signal = s.pop('signal')
    if kind in ('by_class', 'families', 'runs', 'near_duplicates'):
        words.append('signal' if signal else 'noise')
    if 'noise' in s:
        words.append(f'noise {s["noise"]}')
    if s.get('copies', 1) > 1:
        words.append(f'{s["copies"]} near-duplicates of each')
    if 'pairs' in s:
        words.append('all pairs of five' if s['pairs'] else 'ten against one')
    return ', '.join(words)


def worlds_of(kind, settings, worlds):
    "What was seen in each world; a world's seed is the cell's name and its number"
    name = f'{kind} {json.dumps(settings, sort_keys=True)}'
    for i in range(worlds):
        yield kinds[kind](torch.Generator().manual_seed(zlib.crc32(f'{name} {i}'.encode())), **settings)


# what they say together ----------------------------------------------------------------------------------------------


def wanted(kind, settings, quantity, way):
    "The share that was aimed at, a pair of bounds; None: nothing was"
    if way not in (methods[0], 'queries', 'clusters given', 'both sides permuted', 'items and runs'):
        return None
    if quantity.startswith('no claim'):
        return (1.0, 1.0) if quantity.endswith('one run') else (0.0, 0.0)
    if quantity == 'noise above the null':
        return 0.0, 0.07
    if quantity == 'a family with a false verdict':
        return 0.0, 0.05
    if quantity.startswith('equal methods called different'):
        return 0.0, 0.06
    if kind in ('runs', 'families') or quantity.startswith('unequal methods called'):
        return None
    if 'difference' in quantity:
        return 0.94, 1.0
    return (0.93, 0.97) if settings['n'] // settings.get('copies', 1) >= 300 else None


def binomial(share, worlds):
    "95 % interval of a share (Clopper and Pearson, 1934)"
    from scipy.stats import binomtest

    return tuple(map(float, binomtest(round(share * worlds), worlds).proportion_ci(0.95)))


def summary(kind, settings, seen):
    "A row of facts for each quantity and way"
    rows = []
    for quantity, way in seen[0]:
        found = [w[quantity, way] for w in seen]
        row = dict(quantity=quantity, way=way)
        if isinstance(found[0], Range):
            value, low, high = np.array(found).T
            true, spread = value.mean(), value.std(ddof=1)
            share = float(np.mean((low <= true) & (true <= high)))
            row |= dict(
                measure='coverage',
                share=share,
                truth=float(true),
                spread=float(spread),
                width=float((high - low).mean()),
                relative=float((high - low).mean() / (2 * 1.96 * spread)),
            )
        else:
            share = float(np.mean(found))
            row |= dict(measure='share', share=share)
        low, high = binomial(share, len(seen))
        rows.append(row | dict(low=low, high=high, se=float(np.sqrt(share * (1 - share) / len(seen)))))
    return rows


def judged(cell):
    "Rows of a cell, each with what was aimed at and whether that is met, within the 95 % interval of the share itself"
    for r in cell['rows']:
        aim = wanted(cell['kind'], cell['settings'], r['quantity'], r['way'])
        yield r | dict(aim=aim, met=aim and bool(r['low'] <= aim[1] and aim[0] <= r['high']))


# which code is measured: a digest of the modules without their comments, read when this one is imported
measured = metrics.uncertainty, metrics.comparison, metrics.null
sources = [ast.unparse(ast.parse(Path(module.__file__).read_text())) for module in measured]
version = hashlib.sha256('\n'.join(sources).encode()).hexdigest()[:12]


def measure(kind, settings, worlds):
    start = time.process_time()
    rows = summary(kind, settings, list(worlds_of(kind, settings, worlds)))
    return dict(
        cell=named(kind, settings),
        kind=kind,
        settings=settings,
        worlds=worlds,
        rows=rows,
        code=version,
        torch=torch.__version__,
        numpy=np.__version__,
        seconds=time.process_time() - start,
    )


def printed(cell):
    "The cell's table"
    print(f'\n{cell["cell"]} ({cell["worlds"]:,} worlds, {cell["seconds"]:.0f} s)')
    for r in judged(cell):
        share = f'{100 * r["share"]:5.1f} % ± {100 * r["se"]:.1f}'
        more = f'width {100 * r["width"]:6.2f} points, {r["relative"]:.2f} of the ideal' if 'width' in r else ''
        aim = 'aim {:.0%}-{:.0%} {}'.format(*r['aim'], 'met' if r['met'] else 'MISSED') if r['aim'] else ''
        print(f'  {r["quantity"]:48} {r["way"]:30} {share}  {more:42} {aim}', flush=True)


def write(path, found):
    "Whole or not at all; six significant digits"
    part = path.with_suffix('.part')
    short = json.loads(json.dumps(found), parse_float=lambda x: float(f'{float(x):.6g}'))
    part.write_text(json.dumps(short, indent=1) + '\n')
    os.replace(part, path)


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--worlds', type=int, default=2000)
    p.add_argument('--only', choices=kinds)
    p.add_argument('--out', type=Path)
    o = p.parse_args()
    torch.set_num_threads(1)
    old = json.loads(o.out.read_text())['cells'] if o.out and o.out.exists() else []
    plan, done = [c for c in cells() if o.only in (None, c[0])], []
    for kind, settings in plan:
        kept = [c for c in old if (c['kind'], c['settings'], c['worlds']) == (kind, settings, o.worlds)]
        done.append(kept[0] if kept else measure(kind, settings, o.worlds))
        printed(done[-1])
        if o.out:
            measured_cells = {json.dumps([c['kind'], c['settings']]) for c in done}
            write(
                o.out,
                dict(cells=done + [c for c in old if json.dumps([c['kind'], c['settings']]) not in measured_cells]),
            )
    print(f'\n{sum(c["seconds"] for c in done) / 60:.0f} minutes of one core')


if __name__ == '__main__':
    main()
