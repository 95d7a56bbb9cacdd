"""What ASIF costs beside its two bare products: `python tests/bench_few_pairs.py`, in seconds of the processor."""

import torch
from bench_hubness import compared

from crossmodal_nb.methods.anchors import ASIF
from crossmodal_nb.methods.similarity import unit


def rows(n, mixing, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, len(mixing), generator=g) @ mixing + 3 * torch.randn(n, mixing.shape[1], generator=g)


def bare(m, queries):
    for view, x in queries.items():
        for block in unit(x).split(m.block):
            block @ m.anchors[view].T


if __name__ == '__main__':
    torch.set_num_threads(1)
    mixing = {'image': torch.randn(64, 1280), 'text': torch.randn(64, 384)}
    m = ASIF().fit({v: rows(30_000, M, 1) for v, M in mixing.items()})
    queries = {'image': rows(1000, mixing['image'], 2), 'text': rows(5000, mixing['text'], 3)}
    products, scores = compared(
        lambda: bare(m, queries), lambda: m.score('image', queries['image'], 'text', queries['text']), repeats=5
    )
    print(
        f'30,000 anchors, 1,000 × 5,000: bare products {products:.2f} s, ASIF {scores:.2f} s, {scores / products:.2f} ×'
    )
