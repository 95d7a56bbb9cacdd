"""Pictures and texts a second of the shipped encoders by ONNX Runtime against torch, in one run:
python tests/bench_encoders.py [rows]

Rounds alternate; the fastest of each counts. Loading and exporting are not counted. The largest difference of the
codes, relative to the largest code, stands beside the speed.
"""

import sys
import time

import torch

from crossmodal_nb.encoders.image import EfficientNetLite
from crossmodal_nb.encoders.text import MiniLM


def compare(what, torch_encoder, onnx_encoder, rows, rounds=3):
    codes = [e(rows[:8])['pooled'] for e in (torch_encoder, onnx_encoder)]
    error = float((codes[0] - codes[1]).abs().max() / codes[0].abs().max())
    speed = {'torch': 0.0, 'onnx': 0.0}
    for _ in range(rounds):
        for name, e in (('torch', torch_encoder), ('onnx', onnx_encoder)):
            start = time.perf_counter()
            e(rows)
            speed[name] = max(speed[name], len(rows) / (time.perf_counter() - start))
    ratio = speed['onnx'] / speed['torch']
    print(
        f'{what:20} torch {speed["torch"]:7.1f}/s   onnx {speed["onnx"]:7.1f}/s   ratio {ratio:.2f}   '
        f'largest difference {error:.1e}',
        flush=True,
    )


n = int(sys.argv[1]) if len(sys.argv) > 1 else 64
print(f'{n} rows, {torch.get_num_threads()} threads')
draw = torch.Generator().manual_seed(0)
for version in (0, 1, 2):
    pair = [EfficientNetLite(version=version, engine=engine) for engine in ('torch', 'onnx')]
    pictures = torch.randint(0, 256, (n, pair[0].size, pair[0].size, 3), dtype=torch.uint8, generator=draw)
    compare(f'Lite{version}, pictures', *pair, list(pictures))
sentence = 'two dogs run along the beach and a child throws a ball '
for words, kind in ((10, 'short texts'), (100, 'long texts')):
    texts = [' '.join((sentence * 10).split()[i % 5 : i % 5 + words]) for i in range(n)]
    compare(f'MiniLM, {kind}', MiniLM(), MiniLM(engine='onnx'), texts)
