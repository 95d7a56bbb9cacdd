#!/usr/bin/env bash
# torchmetrics 1.9.0: some of its retrieval metrics take a score of zero or less for "not retrieved".
# What surprised:
#   * cosines and negative distances are lawful scores, yet a relevant item whose score is not above 0 counts as missing in
#     `RetrievalMAP`, `RetrievalMRR`, `RetrievalPrecision` and `RetrievalRecall`: a perfect order of negative scores has 0;
#   * `RetrievalHitRate`, `RetrievalNormalizedDCG` and `RetrievalRPrecision` read the same scores as an order, and give 1:
#     one evaluation reports a hit rate of 1 at rank 1 beside a recall of 0 at rank 1.
# Why it matters: metrics of one table disagree about what was retrieved, and adding a constant to all scores changes
# some of them. Ranks, or scores moved above 0, make all of them agree.
# Source: torchmetrics/functional/retrieval/{average_precision,reciprocal_rank,precision,recall}.py (release 1.9.0).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install --quiet torchmetrics==1.9.0 torch==2.14.1 numpy==2.4.6
env/bin/python - <<'PY'
import sys
from importlib.metadata import version
import torch
from torchmetrics import retrieval

print({name: version(name) for name in ('torchmetrics', 'torch')}, 'Python', sys.version.split()[0])
metrics = {
    'MAP': retrieval.RetrievalMAP(),
    'MRR': retrieval.RetrievalMRR(),
    'recall at 1': retrieval.RetrievalRecall(top_k=1),
    'precision at 1': retrieval.RetrievalPrecision(top_k=1),
    'hit rate at 1': retrieval.RetrievalHitRate(top_k=1),
    'NDCG': retrieval.RetrievalNormalizedDCG(),
    'R-precision': retrieval.RetrievalRPrecision(),
}
relevant, query = torch.tensor([1, 0, 0, 0]), torch.zeros(4, dtype=torch.long)
cosines = torch.tensor([-0.1, -0.2, -0.3, -0.4])  # the relevant item comes first
seen = {
    shift: {name: float(metric(cosines + shift, relevant, indexes=query)) for name, metric in metrics.items()}
    for shift in (0, 1)
}
for shift, values in seen.items():
    print(f'cosines + {shift}:', values)
assert set(seen[1].values()) == {1.0}
assert [name for name, value in seen[0].items() if value == 0] == ['MAP', 'MRR', 'recall at 1', 'precision at 1']
PY
