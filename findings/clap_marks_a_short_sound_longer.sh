#!/usr/bin/env bash
# transformers 5.24.0: `ClapFeatureExtractor` with `truncation='fusion'`, the setting of the fused CLAP models.
# What surprised:
#   * in a batch of short sounds one of them, drawn at random at each call, is marked `is_longer`, as if it had been cut;
#   * so the marks of a sound depend on its company in the batch and on NumPy's global random state: equal sounds in one
#     batch get different inputs, and the same batch gets others at the next call. A sound on its own is always marked.
# Why it matters: a fused model takes another path for sounds that are marked, so vectors that are kept or compared are
# not those of the sound alone. Setting `is_longer` to False for short sounds makes them so.
# Source: models/clap/feature_extraction_clap.py, ClapFeatureExtractor.__call__ (release 5.24.0).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install --quiet transformers==5.24.0 torch==2.14.1 numpy==2.3.5
env/bin/python - <<'PY'
import sys
from importlib.metadata import version
import numpy as np
from transformers import ClapFeatureExtractor

print({name: version(name) for name in ('transformers', 'torch', 'numpy')}, 'Python', sys.version.split()[0])
extract = ClapFeatureExtractor(truncation='fusion')
second = np.sin(np.arange(48000) / 20).astype(np.float32)  # one second; the limit is ten


def marks(n):
    return np.ravel(extract([second] * n, sampling_rate=48000, return_tensors='np')['is_longer']).astype(int).tolist()


np.random.seed(0)
batches = [marks(4) for _ in range(8)]
print('four equal short sounds, marked longer:', batches)
print('one short sound on its own:', [marks(1) for _ in range(3)])
assert all(sum(b) == 1 for b in batches), 'no longer exactly one of them'
assert len({tuple(b) for b in batches}) > 1, 'no longer another one at each call'
assert marks(1) == [1], 'a sound on its own is no longer marked'
np.random.seed(0)
assert [marks(4) for _ in range(8)] == batches, 'no longer by the global random state'
PY
