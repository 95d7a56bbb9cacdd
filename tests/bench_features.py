"""Rows a second through the store against the naive loop (one row at a time, default layout), in one run:
python tests/bench_features.py [images]

Photos are made here (500 x 375 JPEG), and Flickr8k's are used too where it is found. Loading the networks is not
counted; reading, writing and checking are. Rounds alternate; the ratio is that of the fastest rounds. The naive loop
runs with torch's threads and with one, and the faster counts: on a busy machine several threads a layer wait for one
another, and a ratio to that would flatter us.

Then, of the same photos: two processes against one (which uses all cores by threads, so on a machine without GPUs there
is little to gain), and a store in another order, whose rows are copied, against computing it.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from crossmodal_nb.core.fetch import fetch
from crossmodal_nb.core.settings import settings
from crossmodal_nb.data.images import Images
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.encoders.extraction import features
from crossmodal_nb.encoders.image import EfficientNetLite
from crossmodal_nb.encoders.text import MiniLM


def timed(f, n):
    start = time.perf_counter()
    f()
    return n / (time.perf_counter() - start)


def one_thread(f):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        f()
    finally:
        torch.set_num_threads(threads)


def compare(what, naive, ours, n, few, rounds=3):
    def loop():
        return naive(few)

    timings = [
        (timed(loop, few), timed(lambda: one_thread(loop), few), timed(lambda k=k: ours(k), n)) for k in range(rounds)
    ]
    a, single, b = (max(r) for r in zip(*timings))
    print(
        f'{what:32} naive {a:6.1f}/s, on one thread {single:6.1f}/s   store {b:6.1f}/s   ratio '
        f'{b / max(a, single):.2f}',
        flush=True,
    )


def naive_net():
    sys.path.insert(0, str(fetch('efficientnet-code')))
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name('efficientnet-lite0').eval()
    net.load_state_dict(torch.load(next(fetch('efficientnet-lite0').rglob('*.pth')), weights_only=True))
    return net


def images(paths, what, folder, net, encoder):
    def naive(few):
        for p in paths[:few]:
            x = torch.from_numpy(np.array(Image.open(p).convert('RGB').resize((224, 224), Image.BICUBIC)))
            with torch.no_grad():
                net.extract_features(((x - 127.0) / 128).permute(2, 0, 1)[None].contiguous()).mean((2, 3))

    views = Views(image=View(Images(paths), ids=[p.name for p in paths]))
    compare(what, naive, lambda k: features(views, dict(image=encoder), cache=folder / f'{what}{k}'), len(paths), 16)


def texts(folder, n):
    words, g = (
        'a dog man runs jumps over red ball in the green park while two children watch near water'.split(),
        np.random.default_rng(0),
    )
    t, encoder = [' '.join(g.choice(words, g.integers(5, 40))) for _ in range(n)], MiniLM()
    encoder(t[:2])

    def naive(few):
        for s in t[:few]:
            b = encoder.tokenizer([s], return_tensors='pt')
            with torch.no_grad():
                encoder.net(**b).last_hidden_state.mean(1)

    compare(
        'texts, 5-39 words, MiniLM',
        naive,
        lambda k: features(Views(text=View(t)), dict(text=encoder), cache=folder / f'text{k}'),
        n,
        64,
    )


def again(paths, folder, encoder):
    def seconds(order, cache, processes=1):
        views, start = Views(image=View(Images(order), ids=[p.name for p in order])), time.perf_counter()
        features(views, dict(image=encoder), cache=folder / cache, processes=processes)
        return time.perf_counter() - start

    encoder.shard = 1
    start = seconds(paths[:2], 'start', 2)
    encoder.shard = -(-len(paths) // 16)
    single, two = seconds(paths, 'one'), seconds(paths, 'two', 2)
    print(
        f'{"two processes against one":32} one {single:6.1f} s   two {two:6.1f} s, of it {start:.1f} s to start   '
        f'ratio {single / two:.2f}, without the start {single / (two - start):.2f}',
        flush=True,
    )
    copied = seconds(paths[::-1], 'one')
    print(
        f'{"the same rows in another order":32} computed {single:6.2f} s   copied {copied:6.3f} s   ratio '
        f'{single / copied:.0f}',
        flush=True,
    )


if __name__ == '__main__':
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 128
    net, encoder = naive_net(), EfficientNetLite()
    encoder([Image.new('RGB', (300, 300))] * 9)
    print(f'{torch.get_num_threads()} threads, torch {torch.__version__}, {n} rows')
    with tempfile.TemporaryDirectory() as d:
        d, g, paths = Path(d), np.random.default_rng(0), []
        for i in range(n):
            small = Image.fromarray(g.integers(0, 256, (24, 32, 3), np.uint8)).resize((500, 375), Image.BICUBIC)
            paths.append(d / f'{i:05}.jpg')
            small.save(paths[-1], quality=90)
        images(paths, 'photos 500 x 375, EfficientNet', d, net, encoder)
        onnx = EfficientNetLite(engine='onnx')
        images(paths, 'the same, ONNX Runtime', d, net, onnx)
        large = []
        for i, p in enumerate(paths[:32]):
            large.append(d / f'large{i:05}.jpg')
            Image.open(p).resize((4000, 3000), Image.BICUBIC).save(large[-1], quality=90)
        images(large, 'photos 4000 x 3000, EfficientNet', d, net, encoder)
        again(paths, d, EfficientNetLite())
        flickr = next(
            (r / 'flickr8k' / 'Flicker8k_Dataset' for r in settings().data if (r / 'flickr8k').exists()), None
        )
        if flickr:
            images(sorted(flickr.glob('*.jpg'))[:n], 'Flickr8k 224 x 224, EfficientNet', d, net, encoder)
        texts(d, 4 * n)
