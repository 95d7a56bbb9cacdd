"""What gaze costs: pixels through maps, and reranking exactly or by an inverted file; everything measured in one run,
in turns.

    python tests/bench_gaze.py                   all parts
    python tests/bench_gaze.py pixels rerank     some of: pixels, rerank

`pixels`: images a second of one epoch from pixels (ResNet-50, random weights), p = 0 against p = 1, and against the
bare network on prepared tensors. `rerank`: milliseconds for the 32 nearest of N random candidates for 64 queries.
"""

import argparse
import time

import torch

from crossmodal_nb.data.views import View, Views
from crossmodal_nb.datasets import load
from crossmodal_nb.datasets.gaze_masks import Attended
from crossmodal_nb.encoders.image import ResNet50
from crossmodal_nb.methods.gaze import Gaze, IVFIndex
from crossmodal_nb.methods.similarity import unit


def best(f, repeats=3):
    took = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        took.append(time.perf_counter() - start)
    return min(took)


def pixels(n=32):
    views = load('shapes', n=5 * n // 3 + 5)['train']
    few = views.shared_items[:n]
    views = Views({k: v for k, v in views.subset(few).items()})
    text = View(torch.randn(n, 64), item=views['image'].item)
    train = Views(image=views['image'].with_features(Attended(views['image'].x, views['gaze'].x)), text=text)
    settings = dict(image='ResNet50', trainer=dict(epochs=1, batch=n, accelerator='cpu'))
    encoder = ResNet50(None)
    net = encoder.load()
    x = [encoder.prepare(p) for p in views['image'].x[torch.arange(n)]]
    seconds = {
        f'p = {p}': min(Gaze(mask_prob=p, **settings).fit(train).history[0]['seconds'] for _ in range(3))
        for p in (0.0, 1.0)
    }
    seconds['bare network'] = best(lambda: encoder.maps(x, net).mean().backward())
    for k, s in seconds.items():
        print(f'{k:>14}: {n / s:6.1f} images a second, {s / seconds["bare network"]:.2f} of the bare network\'s time')


def rerank():
    g = torch.Generator().manual_seed(0)
    for n in (1000, 10_000, 100_000):
        codes, asks = unit(torch.randn(n, 100, generator=g)), unit(torch.randn(64, 100, generator=g))
        true = (asks @ codes.T).topk(32).indices
        exact = best(lambda asks=asks, codes=codes: (asks @ codes.T).topk(32))
        built = best(lambda codes=codes: IVFIndex(codes, 4), 1)
        for probe in (4, 16):
            index = IVFIndex(codes, probe)
            print(
                f'N = {n:>7,}: all {1000 * exact:7.2f} ms; file built in {1000 * built:8.1f} ms, {probe:>2} lists '
                f'opened {1000 * best(lambda index=index, asks=asks: index(asks, 32)):6.2f} ms, '
                f'{100 * float(torch.isin(true, index(asks, 32)).float().mean()):5.1f} % found (random codes: the '
                'hardest case)'
            )


if __name__ == '__main__':
    parts = dict(pixels=pixels, rerank=rerank)
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument('parts', nargs='*', choices=[[], *parts], default=[])
    for name in asked.parse_args().parts or parts:
        print(f'--- {name}')
        parts[name]()
