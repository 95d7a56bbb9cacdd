"""Pictures and texts a second of the shipped encoders by ONNX Runtime and OpenVINO against torch, in one run:
python tests/bench_encoders.py [rows]

Rounds alternate; the fastest of each counts. Loading and exporting are not counted. The largest difference of the
codes, relative to the largest code, and the smallest cosine of a row stand beside the speed.
"""

import sys
import time

import torch

from crossmodal_nb.encoders.image import EfficientNetLite
from crossmodal_nb.encoders.onnx_engine import engines
from crossmodal_nb.encoders.text import MiniLM


def compare(what, encoders, rows, rounds=3):
    codes = {engine: e(rows[:8])['pooled'] for engine, e in encoders.items()}
    speed = dict.fromkeys(encoders, 0.0)
    for _ in range(rounds):
        for engine, e in encoders.items():
            start = time.perf_counter()
            e(rows)
            speed[engine] = max(speed[engine], len(rows) / (time.perf_counter() - start))
    for engine in list(encoders)[1:]:
        x, y = codes['torch'], codes[engine]
        error, cosine = (x - y).abs().max() / x.abs().max(), torch.cosine_similarity(x, y).min()
        print(
            f'{what:19} {engine:8} {speed[engine]:7.1f}/s   torch {speed["torch"]:7.1f}/s   '
            f'ratio {speed[engine] / speed["torch"]:.2f}   largest difference {error:.1e}   cosine {cosine:.5f}',
            flush=True,
        )


n = int(sys.argv[1]) if len(sys.argv) > 1 else 64
print(f'{n} rows, {torch.get_num_threads()} threads')
draw = torch.Generator().manual_seed(0)
for version in (0, 1, 2):
    encoders = {engine: EfficientNetLite(version=version, engine=engine) for engine in engines}
    size = encoders['torch'].size
    compare(
        f'Lite{version}, pictures',
        encoders,
        list(torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8, generator=draw)),
    )
sentence = 'two dogs run along the beach and a child throws a ball '
for words, kind in ((10, 'short texts'), (100, 'long texts')):
    texts = [' '.join((sentence * 10).split()[i % 5 : i % 5 + words]) for i in range(n)]
    compare(f'MiniLM, {kind}', {engine: MiniLM(engine=engine) for engine in engines}, texts)
