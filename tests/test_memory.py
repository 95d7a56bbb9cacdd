"Peak memory of what experiments do at full size: against a plain way, in numbers and in megabytes."

import platform
import subprocess
import sys

import pytest
import torch
from scipy.sparse import csr_matrix
from test_contract import sides, world
from test_cross import world as pairs_of_sets

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.methods.anchors import ASIF, SparseCodes
from crossmodal_nb.methods.base import Method
from crossmodal_nb.methods.captioner import Captioner
from crossmodal_nb.methods.hubness import Corrected, corrections, hub_offsets, subtract_offsets
from crossmodal_nb.methods.linear import CCA
from crossmodal_nb.methods.moments import regularised
from crossmodal_nb.methods.similarity import compare, unit
from crossmodal_nb.methods.translation import CodePairs, NearestMixture, RidgeTranslator
from crossmodal_nb.methods.two_stream import mean_of
from crossmodal_nb.methods.vilbert import ViLBERT


def peak_mb(code: str) -> float:
    "Megabytes that some lines add to the peak of a process, after they have run once at a small size `n = 60`"
    body = '\n'.join(f'    {line}' for line in code.strip().splitlines())
    script = f"""
import re, torch
from crossmodal_nb.data.synthetic import make_gaussian_views
torch.set_num_threads(1)
def run(n):
{body}
def peak():
    return int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]) / 1e3
run(60)
before = peak()
run(None)
print(peak() - before)
"""
    return float(subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True).stdout)


linux = pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')


@pytest.fixture(scope='module')
def anchored():
    train, test = world(150), world(60, seed=1)
    return Corrected(ASIF(20, 4), bank=100, k=5, beta=5.0).fit(train), test


@pytest.mark.parametrize('transductive', [False, True])
@pytest.mark.parametrize('how', corrections)
def test_corrected_anchors_equal_dense_codes(anchored, how, transductive):
    m = anchored[0].with_params(how=how, transductive=transductive)
    a, xa, b, xb = sides(*anchored)[1:]
    queries, gallery = (m.method.encode(v, x) for v, x in ((a, xa), (b, xb)))
    bank = queries if transductive else m.bank_codes[a][b].to_dense()
    offset = hub_offsets(unit(bank), unit(gallery), 'cosine', how, m.k, m.beta)
    active = torch.zeros(len(gallery), dtype=torch.bool)
    active[compare(bank, gallery).argmax(1)] = True
    dense = subtract_offsets(compare(queries, gallery), offset, active if how == 'querybank' else None)
    assert torch.allclose(m.score(a, xa, b, xb), dense, atol=1e-6)


def test_a_saved_bank_of_anchors_is_as_small(anchored, tmp_path):
    m, test = anchored
    m.save(tmp_path / 'm')
    again = Method.load(tmp_path / 'm')
    assert torch.equal(again.score(*sides(again, test)[1:]), m.score(*sides(m, test)[1:]))
    kept = {k: t for k, t in m.state()[0].items() if k.startswith('bank.image.text')}
    assert max(t.numel() for t in kept.values()) == 20 * 100  # k anchors a row, of 100 rows


@linux
def test_corrected_anchors_need_no_dense_codes():
    "8,000 anchors: dense codes of the bank are 96 MB a view, those of k = 50 are 1 MB"
    more = peak_mb(
        """
        from crossmodal_nb.evaluation.selection import checker
        from crossmodal_nb.methods.anchors import ASIF
        from crossmodal_nb.methods.hubness import Corrected
        train = make_gaussian_views(n or 8000, dict(a=16, b=16), seed=0)
        m = Corrected(ASIF(50 if n is None else 20), bank=3000).fit(train)
        checker(make_gaussian_views(n or 500, dict(a=16, b=16), seed=1))(m)
    """.replace('\n        ', '\n')
    )
    assert more < 90


def test_vilbert_begins_as_cca_of_whole_rows_in_float64():
    train = pairs_of_sets(96)
    m = ViLBERT(width=8, heads=2, text_layers=1, image_layers=1, connections=1, use_pooled=True, ridge=0.5)
    m.infer_schema(train)
    m.build()
    m.init_from_data(train)
    scaled = {v: m.in_whole[v][0](train[v].x['pooled']).double() for v in m.roles}
    cca = CCA(1, 0.5).fit(Views({v: View(x, item=train[v].item) for v, x in scaled.items()})).with_params(dim=4)
    for v, layer, W in zip(m.roles, (m.in_v, m.in_t), cca.solution.W):
        W = W[:, :4] * cca.rho
        assert torch.allclose(m.in_whole[v][1].weight[:4].double(), W.T, atol=1e-6)
        i = torch.arange(len(train[v]))
        X = mean_of(*m.sets(v, train[v].x, i)).detach().double()
        X, Z = X - X.mean(0), (scaled[v] - scaled[v].mean(0)) @ W
        R = torch.linalg.solve(regularised(X.T @ X, 0.5, 'trace'), X.T @ Z)
        assert torch.allclose(layer.weight[:4].double(), R.T, atol=1e-6)


def test_a_captioner_is_validated_in_blocks():
    g = torch.Generator().manual_seed(0)
    codes, texts = torch.randn(300, 5, generator=g), ['a red dog', 'a cat', 'dog'] * 100
    m = Captioner(16, 1, 2, 2, 0.0, max_words=3, trainer=dict(epochs=1, batch=50, accelerator='cpu'))
    m.fit(codes, texts, valid=(codes, texts))
    with torch.no_grad():
        whole = float(m.loss(codes, m.vocabulary.encode(texts, 3)))
        assert m._check(codes, texts)(m) == pytest.approx(-whole, abs=1e-6)
    assert m.history[0]['check'] == pytest.approx(-whole, abs=1e-6)


def test_translators_read_in_blocks():
    g = torch.Generator().manual_seed(0)
    codes, features = torch.randn(5000, 6, generator=g), torch.randn(5000, 4, generator=g)
    pairs = CodePairs(codes, features, torch.rand(5000, generator=g).double(), torch.arange(5000))
    m = RidgeTranslator(0.1).fit(pairs)
    w = pairs.weight / pairs.weight.sum()
    X, Y = (x.double() - w @ x.double() for x in pairs[:2])
    S = X.T @ (w[:, None] * X)
    W = torch.linalg.solve(S + 0.1 * S.trace() / 6 * torch.eye(6), X.T @ (w[:, None] * Y))
    assert torch.allclose(m.map.double(), W, atol=1e-6)
    near = NearestMixture(3, 0.1).fit(pairs).predict(codes[:300])
    s, j = (unit(codes[:300]) @ unit(codes).T).topk(3, 1)
    share = (s / 0.1 + pairs.weight[j].float().log()).softmax(1)
    assert torch.allclose(near, (share[..., None] * features[j]).sum(1), atol=1e-6)


@linux
def test_a_captioner_needs_no_logits_of_all_held_out_texts():
    "3,000 texts of 9 words among 1,004: the logits are 108 MB, with their logarithms twice as much"
    more = peak_mb(
        """
        from crossmodal_nb.methods.captioner import Captioner
        texts = [' '.join(f'w{(7 * i + k) % 1000}' for k in range(8)) for i in range(3000)][: n or 3000]
        codes = torch.randn(len(texts), 4)
        settings = dict(layers=1, heads=2, min_count=1, max_words=8)
        m = Captioner(16, **settings, trainer=dict(epochs=1, batch=10, accelerator='cpu')).fit(codes[:20], texts[:20])
        m.build(4, type(m.vocabulary).read(texts, 1))
        with torch.no_grad():
            m.eval()._check(codes, texts)(m)
    """.replace('\n        ', '\n')
    )
    assert more < 90


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='another allocator')
def test_a_long_step_gives_back_what_its_threads_have_freed():
    code = """
import re
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from crossmodal_nb.core.progress import Progress
def now():
    return int(re.search(r'VmRSS:\\s*(\\d+)', open('/proc/self/status').read())[1]) / 1e3
kept, before = [], now()
def work(i):
    rows = [np.ones(12_000) for _ in range(400)]
    kept.append(np.ones(100))
with Progress('threads', delay=60):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(32)))
    inside = now()
print(inside - before, now() - before)
"""
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    inside, after = map(float, run.stdout.split())
    assert inside > 60 and after < inside / 2


@pytest.mark.parametrize(('part', 'wrong'), [('column', 7), ('column', -1), ('start', 99)])
def test_sparse_codes_of_a_strange_file_read_no_other_memory(part, wrong):
    "Columns and rows that are not there are refused, not looked up"
    rows = torch.tensor([[0.6, 0.8, 0], [0, 0, 1.0]]).numpy()
    good = SparseCodes(csr_matrix(rows)).tensors()
    assert torch.equal(SparseCodes.from_tensors(**good).to_dense(), torch.from_numpy(rows))
    bad = {name: t.clone() for name, t in good.items()}
    bad[part][-1] = wrong
    with pytest.raises(InputError, match='not the codes of anchors'):
        SparseCodes.from_tensors(**bad)


@linux
def test_numbers_are_checked_without_a_copy_of_them():
    "Grids of half precision, 200 MB: in single precision they are 400 MB"
    more = peak_mb(
        """
        from crossmodal_nb.data.views import check_finite
        grid = torch.zeros(1, 81, 1280, dtype=torch.half).expand(n or 1000, -1, -1)
        check_finite(grid, range(len(grid)))
    """.replace('\n        ', '\n')
    )
    assert more < 60
