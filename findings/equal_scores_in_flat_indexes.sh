#!/usr/bin/env bash
# faiss-cpu 1.15.1: the two exact indexes return rows of equal score in opposite orders.
# What surprised:
#   * of rows with equal scores `IndexFlatL2` returns the first ones first, `IndexFlatIP` the last of those it returns
#     first: the same rows, of the same unit vectors, for which inner product and distance give the same ranking;
#   * both return the first k rows of a tie, so a matching item late in a file is not among them, whatever the index.
# Why it matters: a recall at k counted from positions depends on the metric of the index, and a gallery whose matching
# item happens to be the first row scores best: with constant codes R@1 is 1 for it. Ranks must be counted by score.
# Source: faiss/utils/Heap.h and faiss/impl/ResultHandler.h (release 1.15.1); the order of ties is not documented.
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
rows = np.full((1000, 16), 0.25, 'float32')  # one unit vector, a thousand times
order = {}
for kind in (faiss.IndexFlatL2, faiss.IndexFlatIP):
    index = kind(16)
    index.add(rows)
    order[kind.__name__] = index.search(rows[:1], 5)[1][0].tolist()
    print(kind.__name__, 'rows returned for five of a thousand equal ones:', order[kind.__name__])
assert order['IndexFlatL2'] == [0, 1, 2, 3, 4]
assert order['IndexFlatIP'] == [4, 3, 2, 1, 0]
PY
