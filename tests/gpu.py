"""What a GPU computes, and how fast: equality with the CPU, rates, memory. One table, at most 8 minutes on one GPU.

`python tests/gpu.py` needs nothing but the checkout: weights are random, data is made here. Without a GPU it says so
and ends with 0; `--device cpu --toy` walks through every part at toy sizes. `--out book/measured/gpu.json` keeps
the rows for the page on costs. The exit status is 1 if a difference is larger than its tolerance, or a part failed.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from sklearn.base import clone

from crossmodal_nb.core.settings import settings
from crossmodal_nb.data.images import open_image
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.encoders.base import Ragged
from crossmodal_nb.encoders.image import ResNet50
from crossmodal_nb.encoders.text import Bert
from crossmodal_nb.losses.contrastive import info_nce, sigmoid_pairs, triplet
from crossmodal_nb.losses.correlation import barlow_twins, cca_corr
from crossmodal_nb.methods.dual_encoder import CLIP, SigLIP, Triplet
from crossmodal_nb.methods.vilbert import ViLBERT
from crossmodal_nb.profiling import world

large = dict(
    pictures=512,
    texts=2048,
    words=60,
    pairs=100_000,
    crossed=2048,
    batches=(32, 128, 512),
    epochs=3,
    rounds=3,
    side=224,
    heads=dict(dim=512, hidden=1024),
    columns=(1280, 384),
    cells=49,
    cross=dict(),
    tower={},
    bert={},
)
tiny = dict(num_hidden_layers=2, hidden_size=32, num_attention_heads=2, intermediate_size=64)
toy = dict(
    pictures=2,
    texts=8,
    words=5,
    pairs=64,
    crossed=16,
    batches=(2,),
    epochs=2,
    rounds=1,
    side=32,
    heads=dict(dim=8, hidden=16),
    columns=(32, 24),
    cells=4,
    cross=dict(width=32, text_layers=1, image_layers=1, connections=1, cells=0),
    tower=tiny | dict(image_size=224, patch_size=32),
    bert=tiny,
)


class Report:
    "Rows of the table, printed as they come"

    def __init__(self, device):
        self.device, self.rows = torch.device(device), []

    def put(self, what, value, unit, tolerance=None):
        "A figure; with a tolerance, it must not be larger"
        row = dict(what=what, value=float(value), unit=unit)
        if tolerance is not None:
            row |= dict(tolerance=tolerance, holds=bool(value <= tolerance))
        self.rows.append(row)
        limit = '' if tolerance is None else f'at most {tolerance:g}: {"holds" if row["holds"] else "FAILS"}'
        print(f'{what:58} {row["value"]:12.4g} {unit:12} {limit}', flush=True)

    def same(self, what, here, there, tolerance):
        "The largest difference of two tensors, in units of the largest number on the CPU"
        here, there = here.detach().cpu().double(), there.detach().cpu().double()
        self.put(what, (here - there).abs().max() / there.abs().max().clamp(min=1e-30), 'of largest', tolerance)

    def rate(self, what, n, f, rounds):
        "Rows a second of the fastest of several rounds; one more before them warms up. Memory beside it"
        gpu, best = self.device.type == 'cuda', 0.0
        for i in range(rounds + 1):
            if gpu:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            f()
            if gpu:
                torch.cuda.synchronize()
            if i:
                best = max(best, n / (time.perf_counter() - start))
        self.put(what, best, 'a second')
        if gpu:
            self.put(f'{what}, peak', torch.cuda.max_memory_allocated() / 2**30, 'GiB')


def losses(r, _):
    "Losses and their gradients in float32"
    g = torch.Generator().manual_seed(0)
    z = [torch.randn(256, 64, generator=g) for _ in range(2)]
    item = torch.arange(256) // 2
    asked = {
        'InfoNCE': lambda a, b: info_nce(a, b, torch.tensor(10.0, device=a.device), item.to(a.device)),
        'sigmoid': lambda a, b: sigmoid_pairs(
            a, b, *(torch.tensor(x, device=a.device) for x in (10.0, -10.0)), item.to(a.device)
        ),
        'triplet': lambda a, b: triplet(a, b, 0.2, 'max', item.to(a.device)),
        'correlation': lambda a, b: cca_corr(a, b, 1e-2),
        'Barlow Twins': lambda a, b: barlow_twins(a, b),
    }
    for name, f in asked.items():
        got = {}
        for device in (r.device, torch.device('cpu')):
            leaves = [x.to(device, copy=True).requires_grad_() for x in z]
            loss = f(*leaves)
            loss.sum().backward()
            got[device] = loss, torch.cat([x.grad for x in leaves])
        here, there = got[r.device], got[torch.device('cpu')]
        r.same(f'{name}, loss', here[0].reshape(-1), there[0].reshape(-1), 1e-5)
        r.same(f'{name}, gradient', here[1], there[1], 1e-4)


def training(r, size):
    "An epoch of each kind of heads in float32, the resumption of an interrupted run, and pairs a second"
    views, where = world(min(size['pairs'], 2000), image=128, text=96), 'cpu' if r.device.type == 'cpu' else 'cuda'
    how = dict(batch=64, precision='32-true', lr=1e-3)
    for kind in (CLIP, SigLIP, Triplet):
        fits = [
            kind(dim=16, hidden=32, dropout=0.0, trainer=how | dict(epochs=1, accelerator=a)).fit(views)
            for a in (where, 'cpu')
        ]
        here, there = (torch.tensor([row['loss'] for row in m.history]) for m in fits)
        r.same(f'{kind.__name__}, loss of an epoch', here, there, 1e-3)
        r.same(f'{kind.__name__}, codes after it', *(m.encode('image', views['image'].x) for m in fits), 1e-2)
    whole = CLIP(dim=16, hidden=32, dropout=0.1, trainer=how | dict(epochs=2, accelerator=where))
    with tempfile.TemporaryDirectory() as folder:
        stopped = clone(whole).set_params(trainer__ckpt=folder)
        try:
            stopped.fit(views, _Growing(stop=2))
        except KeyboardInterrupt:
            pass
        resumed = clone(whole).set_params(trainer__ckpt=folder).fit(views, _Growing(asked=1))
    whole.fit(views, _Growing())
    r.same('CLIP, codes of a resumed run', *(m.encode('image', views['image'].x) for m in (resumed, whole)), 1e-6)
    image, text = size['columns']
    views = world(size['pairs'], image=image, text=text)
    for precision in ('32-true', 'bf16-mixed'):
        m = CLIP(
            **size['heads'],
            init='random',
            trainer=dict(epochs=size['epochs'], batch=4096, accelerator=where, precision=precision),
        ).fit(views)
        r.put(f'CLIP heads, {precision}, pairs', size['pairs'] / m.history[-1]['seconds'], 'a second')


class _Growing:
    "Validation by which every epoch is better than the one before; it interrupts the training when asked so often"

    def __init__(self, asked=0, stop=None):
        self.asked, self.stop = asked, stop

    def __call__(self, _):
        self.asked += 1
        if self.asked == self.stop:
            raise KeyboardInterrupt
        return self.asked


def cross(r, size):
    "ViLBERT: pairs a second in training, and scored"
    n, g, (image, text) = size['crossed'], torch.Generator().manual_seed(0), size['columns']
    length = torch.randint(6, 19, (n,), generator=g)
    views = Views(
        image=View(dict(grid=torch.randn(n, size['cells'], image, generator=g))),
        text=View(dict(tokens=Ragged(torch.randn(int(length.sum()), text, generator=g), length))),
    )
    how = dict(batch=64, epochs=size['epochs'], accelerator='cpu' if r.device.type == 'cpu' else 'cuda')
    m = ViLBERT(**size['cross'], trainer=how).fit(views)
    r.put('ViLBERT, pairs in training', n / m.history[-1]['seconds'], 'a second')
    few = views.subset(torch.arange(min(n, 64)))
    rows = [few[v].x for v in ('image', 'text')]
    r.rate('ViLBERT, pairs scored', len(few['image']) ** 2, lambda: m.score('image', rows[0], 'text', rows[1]), 1)


def made_photos(folder, n):
    g = np.random.default_rng(0)
    for i in range(n):
        Image.fromarray(g.integers(0, 255, (24, 32, 3), dtype=np.uint8)).resize((500, 375)).save(
            folder / f'{i:04}.jpg', quality=90
        )
    return sorted(folder.glob('*.jpg'))


def same_codes(r, what, make, rows, tolerance):
    "Codes of the encoder that `make` builds, on the device and on the CPU; returns the first"
    encoder = make()
    with patch('crossmodal_nb.encoders.base.settings', lambda: SimpleNamespace(device='cpu')):
        there = make()(rows)['pooled']
    with patch('crossmodal_nb.encoders.base.settings', lambda: SimpleNamespace(device=r.device.type)):
        r.same(what, encoder(rows)['pooled'], there, tolerance)
    return encoder


def sweep(r, what, n, net, inputs, size):
    "Rows a second of a network alone, by batch, in float32 and bfloat16"
    for batch in size['batches']:
        for kind in ('float32', 'bfloat16'):
            parts = [{k: v[i : i + batch] for k, v in inputs.items()} for i in range(0, n, batch)]

            def run(parts=parts, kind=kind):
                with torch.inference_mode(), torch.autocast(r.device.type, torch.bfloat16, enabled=kind == 'bfloat16'):
                    for p in parts:
                        net(**p)

            r.rate(f'{what}, {kind}, batch {batch}', n, run, size['rounds'])


def pictures(r, size):
    "ResNet-50 and a ViT-B with random weights: codes, and pictures a second; decoding apart"
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    from crossmodal_nb.encoders.huggingface import TransformersImage

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        paths = made_photos(folder, size['pictures'])
        few = [open_image(p) for p in paths[:16]]
        # convolutions use TF32
        encoder = same_codes(r, 'ResNet-50, codes', lambda: ResNet50(None), few, 5e-3)

        def decode():
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return list(pool.map(lambda p: encoder.prepare(open_image(p)), paths))

        r.rate(f'photos of 500 × 375 decoded, {os.cpu_count()} threads', len(paths), decode, size['rounds'])
        ready = decode()
        r.rate('ResNet-50, prepared pictures through the encoder', len(ready), lambda: encoder(ready), size['rounds'])
        x = torch.stack(ready).permute(0, 3, 1, 2).float().to(r.device, memory_format=torch.channels_last) / 255
        sweep(r, 'ResNet-50', len(x), encoder.net, dict(input=x[..., : size['side'], : size['side']]), size)
        torch.manual_seed(0)
        ViTModel(ViTConfig(**size['tower'])).save_pretrained(folder / 'vit')
        ViTImageProcessor().save_pretrained(folder / 'vit')
        vit = same_codes(r, 'ViT-B, codes', lambda: TransformersImage(str(folder / 'vit')), few, 1e-3)
        sweep(r, 'ViT-B', len(x), vit.net, dict(pixel_values=x), size)


def texts(r, size):
    "A BERT-base with random weights: codes, and texts a second"
    from transformers import BertConfig, BertTokenizerFast

    marks = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    words = [f'{a}{b}' for a in 'bcdfglmnprst' for b in 'aeiou']
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / 'vocab.txt'
        vocabulary.write_text('\n'.join(marks + words), encoding='utf-8')
        tokenizer = BertTokenizerFast(str(vocabulary))

        def make():
            encoder = Bert(BertConfig(**size['bert']))
            encoder.tokenizer = tokenizer
            return encoder

        g = np.random.default_rng(0)
        rows = [' '.join(g.choice(words, size['words'])) for _ in range(size['texts'])]
        encoder = same_codes(r, 'BERT-base, codes', make, rows[:16], 1e-4)
        r.rate(f'BERT-base, texts of {size["words"]} words', len(rows), lambda: encoder(rows), size['rounds'])
        ids = torch.tensor(tokenizer(rows)['input_ids'], device=r.device)
        sweep(r, 'BERT-base', len(ids), encoder.net, dict(input_ids=ids), size)


def papermill(r, _):
    "One experiment by papermill on the device, at the sizes of its notebook"
    import papermill as pm

    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / 'record.json'
        start = time.perf_counter()
        pm.execute_notebook(
            settings().nbs_path / 'experiments' / '30_clip.ipynb',
            f'{folder}/done.ipynb',
            dict(out=str(record)),
            progress_bar=False,
        )
        r.put('the CLIP experiment by papermill', time.perf_counter() - start, 'seconds')
        named = json.loads(record.read_text(encoding='utf-8'))['device']
        print('its record names the device:', named)
        gpu = r.device.type == 'cuda'
        r.put('its record names another device', float(gpu and torch.cuda.get_device_name() != named), 'yes', 0)


parts = dict(losses=losses, training=training, cross=cross, pictures=pictures, texts=texts, papermill=papermill)


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--device', default='cuda', choices=['cuda', 'cpu'])
    p.add_argument('--toy', action='store_true', help='tiny networks, few rows')
    p.add_argument('--only', nargs='*', choices=[*parts], default=[*parts])
    p.add_argument('--out', type=Path, help='the rows as JSON')
    a = p.parse_args()
    if a.device == 'cuda' and not torch.cuda.is_available():
        return print('there is no GPU here: nothing was measured (`--device cpu --toy` walks through every part)')
    warnings.filterwarnings('ignore', '.*training correlations say nothing')  # of few pairs: only speed is asked for
    r, start, failed = Report(a.device), time.perf_counter(), []
    named = torch.cuda.get_device_name() if a.device == 'cuda' else 'CPU'
    print(named, '· torch', torch.__version__)
    for name in a.only:
        print(f'— {name}: {parts[name].__doc__}', flush=True)
        try:
            parts[name](r, toy if a.toy else large)
        except Exception:
            traceback.print_exc()
            failed.append(name)
    wrong = [row['what'] for row in r.rows if row.get('holds') is False]
    print(f'{len(r.rows)} figures in {time.perf_counter() - start:.0f} s; outside their tolerance: {wrong or "none"}')
    if a.out:
        measured = dict(device=named, torch=torch.__version__, rows=r.rows)
        a.out.write_text(json.dumps(measured, indent=1) + '\n', encoding='utf-8')
    sys.exit(bool(wrong or failed) and f'failed: {", ".join(failed + wrong)}')


if __name__ == '__main__':
    main()
