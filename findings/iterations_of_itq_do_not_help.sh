#!/usr/bin/env bash
# faiss-cpu 1.15.1: `ITQMatrix` does not get better with iterations.
# What surprised:
#   * iterative quantisation alternates signs and a rotation, and each step lowers the distance between codes and signs
#     (Gong and Lazebnik, CVPR 2011, section 3.2). Written out in NumPy it falls from step to step;
#   * after 200 iterations (`max_iter`) the rotation of `ITQMatrix` is as far from the signs as after one, and farther than
#     NumPy's after five. It is a rotation all the same, so nothing looks wrong.
# Why it matters: hash codes made with it are those of a nearly random rotation, and a baseline "ITQ" is weaker than ITQ.
# Source: faiss/VectorTransform.cpp, ITQMatrix::train (release 1.15.1).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install --quiet faiss-cpu==1.15.1 numpy==2.4.6
env/bin/python - <<'PY'
import sys
from importlib.metadata import version
import faiss
import numpy as np

print({name: version(name) for name in ('faiss-cpu', 'numpy')}, 'Python', sys.version.split()[0])
rng = np.random.default_rng(0)
d = 32
codes = (rng.standard_normal((2000, d)) * np.linspace(2, 0.2, d)).astype('float32')
codes -= codes.mean(0)


def loss(rotated):
    return float(((np.sign(rotated) - rotated) ** 2).mean())


def by_faiss(iterations):
    itq = faiss.ITQMatrix(d)
    itq.max_iter = iterations
    itq.train(codes)
    return loss(itq.apply(codes))


rotation, _ = np.linalg.qr(rng.standard_normal((d, d)))
written_out = {}
for step in range(1, 201):
    u, _, v = np.linalg.svd(codes.T @ np.sign(codes @ rotation))
    rotation = u @ v
    written_out[step] = loss(codes @ rotation)
for step in (1, 5, 50, 200):
    print(f'iterations {step:3}: distance from signs, faiss {by_faiss(step):.4f}, written out {written_out[step]:.4f}')
assert written_out[200] < written_out[50] < written_out[5] < written_out[1]
assert min(by_faiss(50), by_faiss(200)) > written_out[5] and by_faiss(200) > by_faiss(1) - 0.005
PY
