"Peak memory of what experiments do at full size: against a plain way, in numbers and in megabytes."

import subprocess
import sys

import pytest
import torch
from test_contract import sides, world

from crossmodal_nb.methods.anchors import ASIF
from crossmodal_nb.methods.base import Method
from crossmodal_nb.methods.hubness import Corrected, corrections, hub_offsets, subtract_offsets
from crossmodal_nb.methods.similarity import compare, unit


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
