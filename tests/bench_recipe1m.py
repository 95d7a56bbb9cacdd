"""Recipe1M at full size, on a look-alike: the import against ijson's C backend walking the same files, and CCA
against its bare matrix products.

    python tests/bench_recipe1m.py                 a tenth of the size
    python tests/bench_recipe1m.py --full          1,029,720 recipes; 600,000 pairs, pools of 10,000 (1.6 GB of json,
                                                   8 GB of features)
    python tests/bench_recipe1m.py --json FILE     also write the measurements
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow.compute  # noqa: F401 (loaded before memory is measured)
import torch
from bench_cca import Peak

from crossmodal_nb.core.settings import settings
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.datasets.recipe1m import recipe1m
from crossmodal_nb.datasets.recipe1m_import import imported
from crossmodal_nb.evaluation.retrieval import evaluate_rows
from crossmodal_nb.methods.linear import CCA
from crossmodal_nb.methods.moments import stream
from crossmodal_nb.metrics.pools import draw_pools

P, Q, dims = 2048, 768, (2, 25, 50, 60, 100, 250, 300, 768)
files = dict(recipes='layer1.json', photos='layer2.json', detected='det_ingrs.json')


def walk(root):
    "Seconds of ijson's C backend for all elements of the three files"
    import ijson

    assert ijson.backend == 'yajl2_c', ijson.backend
    t = time.time()
    for f in files.values():
        with open(root / f, 'rb') as h:
            for _ in ijson.items(h, 'item'):
                pass
    return time.time() - t


def text(root, n):
    import lookalike

    if not (root / 'remove1M.txt').exists():
        lookalike.make(root, n)
    walked, t = walk(root), time.time()
    with Peak() as peak:
        for kind, f in files.items():
            imported(root / f, kind)
    took = time.time() - t
    code = (
        'import time, warnings; warnings.simplefilter("ignore")\nfrom crossmodal_nb.datasets import recipe1m as '
        'r\nt = time.time()\n'
        f'r.recipe1m({str(root)!r}, images="none"); print(time.time() - t)'
    )
    reopen = float(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout)
    texts = recipe1m(root, images='none')['train']['all'].x
    t = time.time()
    texts[torch.arange(min(len(texts), 20_000))]
    return dict(
        recipes=n,
        json_mb=sum((root / f).stat().st_size for f in files.values()) / 1e6,
        import_s=took,
        ijson_s=walked,
        ratio=took / walked,
        mb=peak.mb,
        store_mb=sum(p.stat().st_size for p in (settings().work / 'imports').rglob('*.arrow')) / 1e6,
        reopen_s=reopen,
        texts_per_s=min(len(texts), 20_000) / (time.time() - t),
    )


def matrix(path, n, width, latent, seed):
    "n rows that share latent variables with the other view, written block by block; memory-mapped"
    if not path.exists():
        A, out = (
            torch.randn(100, width, generator=torch.Generator().manual_seed(seed)),
            np.lib.format.open_memmap(path, 'w+', np.float32, (n, width)),
        )
        for i in range(0, n, 8192):
            g = torch.Generator().manual_seed(10**6 * seed + i)
            z = latent(i, min(i + 8192, n))
            out[i : i + 8192] = (z @ A * 0.3 + 2 * torch.randn(len(z), width, generator=g) + 3).numpy()
        out.flush()
    return torch.from_numpy(np.load(path, mmap_mode='c'))


def world(root, name, pairs, seed):
    "Images and texts of recipes: 2.2 images a recipe, all of them pairs"
    n = int(pairs / 2.2)
    recipe = torch.sort(
        torch.cat([torch.arange(n), torch.randint(n, (pairs - n,), generator=torch.Generator().manual_seed(seed))])
    ).values
    z = torch.randn(n, 100, generator=torch.Generator().manual_seed(seed + 1)) * torch.linspace(1, 0.05, 100)
    image = matrix(root / f'{name}.image.npy', pairs, P, lambda i, j: z[recipe[i:j]], seed=1)
    text = matrix(root / f'{name}.text.npy', n, Q, lambda i, j: z[i:j], seed=2)
    v = Views(
        image=View(torch.zeros(pairs, 1), item=recipe), text=View(torch.zeros(n, 1))
    )  # the rows are sound: made here
    return Views(image=v['image'].with_features(image), text=v['text'].with_features(text))


def cca(train, test, size, draws=10):
    "One fit, eight dimensions, `draws` pools of `size`, both directions: seconds, memory, and the rows"
    with Peak() as peak:
        t = time.time()
        m = CCA(dim=50, ridge=1e-3, rho_power=0).fit(train)
        fit = time.time() - t
        t = time.time()
        rank = m.rank
        solve = time.time() - t
        t = time.time()
        rows = [
            r
            for d in dims
            if d <= rank
            for r in evaluate_rows(m.with_params(dim=d), test, pools=[size], draws=draws, boot=0, permutations=0, dim=d)
        ]
        judge = time.time() - t
    return dict(fit_s=fit, solve_s=solve, judge_s=judge, mb=peak.mb, dims=[d for d in dims if d <= rank]), rows


def bare(train, test, size, dims, draws=10):
    "The matrix products that this cannot do without: C.T @ C of joint chunks; codes of the pools; scores of the pools"
    joint, t = 0.0, 0.0
    for xa, xb, _ in stream(train):
        C = torch.cat([xa.float(), xb.float()], 1)
        t = time.time()
        C.T @ C
        joint += time.time() - t
    codes = scores = 0.0
    for pool in draw_pools(test.shared_items, size, draws):
        x, y = (v[torch.isin(v.item, torch.as_tensor(pool))].x for v in test.values())
        for d in dims:
            W, V = torch.randn(P, d), torch.randn(Q, d)
            t = time.time()
            a, b = x @ W, y @ V
            codes += time.time() - t
            t = time.time()
            for p, q in ((a, b), (b, a)):
                for block in p.split(1024):
                    block @ q.T
            scores += time.time() - t
    return dict(joint_s=joint, codes_s=codes, scores_s=scores, total_s=joint + codes + scores)


def images(root, pairs, size):
    train, test = world(root, 'train', pairs, 0), world(root, 'test', int(pairs * 0.2167), 5)
    ours, rows = cca(train, test, size)
    b = bare(train, test, size, ours['dims'])
    total = ours['fit_s'] + ours['solve_s'] + ours['judge_s']
    best = {r['dim']: r['value'] for r in rows if r['metric'] == 'R@10' and r['query'] == 'image'}
    return dict(
        pairs=pairs,
        test_pairs=int(pairs * 0.2167),
        pool=size,
        draws=10,
        **ours,
        total_s=total,
        bare=b,
        ratio=total / b['total_s'],
        features_mb=sum(p.stat().st_size for p in root.glob('*.npy')) / 1e6,
        recall_at_10=best,
    )


if __name__ == '__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--full', action='store_true')
    p.add_argument('--share', type=float)
    p.add_argument('--json')
    p.add_argument('--into')
    o = p.parse_args()
    share = o.share or (1 if o.full else 0.1)
    warnings.simplefilter('ignore')
    with tempfile.TemporaryDirectory() as d:
        root = Path(o.into or d).resolve()
        root.mkdir(parents=True, exist_ok=True)
        (root / 'settings.ini').write_text('[crossmodal]')
        os.chdir(root)  # the work folder is there, too
        a = text(root / 'recipe1m', round(1_029_720 * share))
        print(
            f'{a["recipes"]:,} recipes, {a["json_mb"]:,.0f} MB of json: import {a["import_s"]:.1f} s, ijson walks '
            f'it in {a["ijson_s"]:.1f} s, ratio {a["ratio"]:.2f}, '
            f'{a["mb"]:.0f} MB of memory;\n  reopened in {a["reopen_s"]:.2f} s, {a["texts_per_s"]:,.0f} cleaned '
            'texts a second',
            flush=True,
        )
        b = images(root, round(600_000 * share), round(10_000 * share))
        print(
            f'{b["pairs"]:,} pairs of {P} + {Q}, 10 pools of {b["pool"]:,}, both directions, {len(b["dims"])} '
            f'dimensions from one fit: {b["total_s"]:.1f} s '
            f'(fit {b["fit_s"]:.1f}, solve {b["solve_s"]:.1f}, judge {b["judge_s"]:.1f}),\n  bare products '
            f'{b["bare"]["total_s"]:.1f} s '
            f'(moments {b["bare"]["joint_s"]:.1f}, codes {b["bare"]["codes_s"]:.1f}, scores '
            f'{b["bare"]["scores_s"]:.1f}), ratio {b["ratio"]:.2f}, '
            f'{b["mb"]:.0f} MB of anonymous memory\n  R@10 by dimension: '
            f'{", ".join(f"{k}: {v:.3f}" for k, v in b["recall_at_10"].items())}',
            flush=True,
        )
        if o.json:
            Path(o.json).write_text(
                json.dumps(
                    dict(
                        text=a,
                        cca=b,
                        threads=torch.get_num_threads(),
                        cores=os.cpu_count(),
                        machine=platform.machine(),
                        torch=torch.__version__,
                    ),
                    indent=1,
                )
            )
