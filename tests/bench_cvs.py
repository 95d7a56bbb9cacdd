"""What Common Vector Spaces cost; everything measured in one run, in turns.

    python tests/bench_cvs.py                    all parts
    python tests/bench_cvs.py pairs steps        some of: pairs, memory, steps, meshes, sounds

`pairs`: scores of all pairs in blocks, against a plain loop over pairs, and against nothing but the two D × D products
that a pair needs. `memory`: their peak in blocks and at once. `steps`: a training step against the number of
modalities. `meshes`, `sounds`: frames, meshes and sounds a second. Ratios are of seconds, the best of some repeats (of
steps: the median); they come first, and say more than the rates behind them.
"""

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch

from crossmodal_nb.data.meshes import Mesh, spin
from crossmodal_nb.data.sounds import Sound
from crossmodal_nb.data.synthetic import make_class_views
from crossmodal_nb.encoders.audio import MFCC, LogMel
from crossmodal_nb.encoders.mesh import MeshGeometry, d2
from crossmodal_nb.methods.cvs import CVS
from crossmodal_nb.methods.multistage_cvs import MCVS, RVS
from crossmodal_nb.methods.neural import Neural

WIDE = {
    v: round(d / 8) for v, d in dict(image=4096, text=3000, audio=29, video=4096, mesh=4700).items()
}  # the widths of XMedia's features, an eighth of each
D, BATCH = 512, 128


def world(n, *views):
    return make_class_views(n, WIDE, dict.fromkeys(WIDE, 2.0), classes=20).select(*views or WIDE)


def turns(*fs, repeats=2):
    "The best of each, in turns; all warm after the first"
    best = [float('inf')] * len(fs)
    for _ in range(repeats + 1):
        for i, f in enumerate(fs):
            start = time.perf_counter()
            f()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


# ---- scores of all pairs


def sides(n, m):
    method = CVS(D, D, trainer=dict(epochs=0, accelerator='cpu')).fit(world(200, 'image', 'text'))
    return method, world(n, 'image')['image'].x, world(m, 'text')['text'].x


def every(method, x, y, **how):
    return torch.cat([s for _, s in method.all_pairs('image', x, 'text', y, **how)])


@torch.no_grad()
def pairs(n=64, m=256, few=8):
    method, x, y = sides(n, m)
    gx, gy = (Neural.encode(method, v, r) for v, r in (('image', x), ('text', y)))
    block = method.aligned['image×text']

    def loop():
        return torch.tensor(
            [[(a * b).sum() for t in gy for a, b in [method.cross_attend('image', g, 'text', t)]] for g in gx[:few]]
        )

    def bare():
        for g in gx.split(32):
            block.e(block.both((g[:, None] * gy).flatten(0, 1)))

    assert torch.allclose(loop(), every(method, x, y)[:few], atol=1e-5)
    ours, theirs, bare_time = turns(lambda: every(method, x, y), loop, bare)
    theirs *= n / few  # the loop took only so many
    print(
        f'  in blocks against the loop: ratio {ours / theirs:.3f}; against the products alone: ratio '
        f'{ours / bare_time:.2f}'
    )
    print(
        f'  {n * m / ours:9,.0f} pairs/s in blocks, {n * m / theirs:,.0f} in the loop, {n * m / bare_time:,.0f} if '
        f'a pair were only its two products of {D} × {D}'
    )


def child(memory):
    "MB beyond what the data and the libraries take"

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    method, x, y = sides(256, 256)
    every(method, x[:2], y[:2])
    old, start = peak(), time.perf_counter()
    every(method, x, y, **memory)
    print(json.dumps(dict(mb=peak() - old, seconds=time.perf_counter() - start)))


def memory():
    asked = {'blocks': {}, 'small blocks': dict(memory=1 << 20), 'at once': dict(memory=1 << 40)}
    results = {
        k: json.loads(subprocess.check_output([sys.executable, __file__, '--child', json.dumps(how)], text=True))
        for k, how in asked.items()
    }
    full = results['at once']
    for k, f in results.items():
        print(
            f'  256 × 256 pairs, {k:>12}: ratio of memory {f["mb"] / full["mb"]:.2f}, of time '
            f'{f["seconds"] / full["seconds"]:.2f}   ({f["mb"]:.0f} MB)'
        )


# ---- steps


def timed(method, train):
    "Seconds of each step, as the trainer makes them: it calls `after_step` after each"
    stamps = []
    method.clamp = lambda: stamps.append(time.perf_counter())
    method.fit(train)
    return np.diff(stamps)


def steps(n=20, warm=2):
    how, train, results = (
        dict(dim=D, hidden=D, trainer=dict(epochs=1, batch=BATCH, accelerator='cpu')),
        world((n + warm) * BATCH),
        {},
    )

    def median(took):
        return float(np.median(took[warm:]))

    results['CVS'] = [median(timed(CVS(**how), train.select(*list(WIDE)[:k]))) for k in (2, 3, 4, 5)]
    for cls in (MCVS, RVS):
        took = np.append(timed(cls(**how), train), np.nan).reshape(4, -1)[
            :, :-1
        ]  # a row a stage, without the step from one to the next
        results[cls.__name__] = list(map(median, took))
    print(
        f'  {"modalities":>10}     2     3     4     5   (1.00: two of CVS; median of {n} steps, D = {D}, batch '
        f'{BATCH})'
    )
    for k, v in results.items():
        print(
            f'  {k:>10}  '
            + ' '.join(f'{s / results["CVS"][0]:5.2f}' for s in v)
            + '   '
            + ' '.join(f'{1000 * s:.0f}' for s in v)
            + ' ms a step'
        )
    print(
        f'  five modalities: MCVS / CVS {results["MCVS"][3] / results["CVS"][3]:.2f}, RVS / CVS '
        f'{results["RVS"][3] / results["CVS"][3]:.2f}'
    )


# ---- meshes and sounds


def ball(triangles):
    "A sphere with bumps"
    n = round((triangles / 2) ** 0.5) + 1
    u, v = np.meshgrid(np.linspace(0, np.pi, n), np.linspace(0, 2 * np.pi, n), indexing='ij')
    i = np.arange(n * n).reshape(n, n)
    a, b, c, d = i[:-1, :-1].ravel(), i[1:, :-1].ravel(), i[1:, 1:].ravel(), i[:-1, 1:].ravel()
    r = 1 + 0.1 * np.sin(5 * u) * np.sin(7 * v)
    points = np.stack([r * np.sin(u) * np.cos(v), r * np.cos(u), r * np.sin(u) * np.sin(v)], -1).reshape(-1, 3)
    return Mesh(
        points,
        np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]),
        np.full((2 * len(a), 3), 200, np.uint8),
    )


def meshes(frames=8, size=128):
    import trimesh

    few, large = ball(2000), ball(50_000)

    def rays(mesh):
        "The same number of rays, and nothing else"
        from trimesh.ray.ray_pyembree import RayMeshIntersector

        caster = RayMeshIntersector(trimesh.Trimesh(mesh.points, mesh.faces, process=False))
        u, v = np.meshgrid(*[np.linspace(-1, 1, size)] * 2)
        start, direction = (
            np.stack([u.ravel(), v.ravel(), np.full(size**2, 2.0)], 1),
            np.tile([0.0, 0, -1], (size**2, 1)),
        )
        return lambda: [caster.intersects_first(start, direction) for _ in range(frames)]

    if not importlib.util.find_spec('embreex'):
        print('  rendering: skipped, the package embreex is not here')
    else:
        took = turns(*(lambda m=m: spin(m, frames, size) for m in (few, large)), rays(few), rays(large))
        print(
            f'  rendering {len(large.faces):,} triangles against {len(few.faces):,}: ratio {took[1] / took[0]:.2f}; '
            f'a film against its bare rays (trimesh on Embree): ratio {took[0] / took[2]:.2f} and '
            f'{took[1] / took[3]:.2f}'
        )
        print(
            f'  {frames / took[0]:7.0f} and {frames / took[1]:.0f} frames/s of {size} × {size}, {frames} a film, '
            'its acceleration structure included'
        )

    def peer(mesh):
        "D2 alone, by trimesh's own sampling"
        p = trimesh.sample.sample_surface(trimesh.Trimesh(mesh.points, mesh.faces, process=False), 2 * 16384, seed=0)[0]
        return d2(*np.split(p, 2))

    encoder = MeshGeometry()
    took = turns(*(lambda m=m: encoder([m]) for m in (few, large)), *(lambda m=m: peer(m) for m in (few, large)))
    print(
        f'  MeshGeometry against D2 with trimesh.sample: ratio {took[0] / took[2]:.2f} and {took[1] / took[3]:.2f}; '
        f'  {1 / took[0]:.0f} and {1 / took[1]:.0f} meshes/s'
    )


def sounds(n=16, seconds=3):
    from scipy.signal import stft

    g = np.random.default_rng(0)

    def of(rate):
        return [Sound(g.standard_normal(rate * seconds).astype(np.float32) / 9, rate) for _ in range(n)]

    plain, resampled = of(16000), of(44100)

    def peer():
        [stft(s.wave, 16000, 'hann', 512, 352) for s in plain]

    name = 'scipy.signal.stft alone (librosa is not installed)'
    if importlib.util.find_spec('librosa'):
        import librosa

        def peer():
            [
                librosa.feature.mfcc(
                    y=s.wave, sr=16000, n_mfcc=29, n_fft=512, hop_length=160, n_mels=64, pad_mode='constant'
                ).mean(1)
                for s in plain
            ]

        name = 'librosa.feature.mfcc'
    ours, mel, slow, theirs = turns(lambda: MFCC()(plain), lambda: LogMel()(plain), lambda: MFCC()(resampled), peer)
    print(
        f'  MFCC against {name}: ratio {ours / theirs:.2f}; LogMel / MFCC {mel / ours:.2f}; from 44.1 kHz / from 16 '
        f'kHz {slow / ours:.2f}'
    )
    print(
        f'  {n / ours:7.0f} sounds of {seconds} s a second ({n * seconds / ours:,.0f} times as fast as they are '
        f'heard), {n / slow:.0f} from 44.1 kHz'
    )


if __name__ == '__main__':
    parts = dict(pairs=pairs, memory=memory, steps=steps, meshes=meshes, sounds=sounds)
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('parts', nargs='*', choices=[*parts, []], default=[])
    p.add_argument('--child', type=json.loads, help=argparse.SUPPRESS)
    o = p.parse_args()
    if o.child is not None:
        child(o.child)
        raise SystemExit
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads')
    for name in o.parts or parts:
        print(f'--- {name}', flush=True)
        parts[name]()
