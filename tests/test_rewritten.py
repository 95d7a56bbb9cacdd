"""Code that was written anew with the same results, beside what it was before: table `rewritten` of names.toml."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom

from crossmodal_nb.core import memory
from crossmodal_nb.core.checks import InputError
from crossmodal_nb.data.synthetic import make_gaussian_views
from crossmodal_nb.data.views import View, Views, check_finite
from crossmodal_nb.encoders.image import EfficientNetLite
from crossmodal_nb.encoders.store import mapped
from crossmodal_nb.evaluation import retrieval
from crossmodal_nb.methods.anchors import ASIF
from crossmodal_nb.methods.end_to_end import Tower
from crossmodal_nb.methods.hubness import Corrected
from crossmodal_nb.methods.linear import CCA
from crossmodal_nb.metrics.average_precision import _ap_cut
from crossmodal_nb.nn.layers import Standard
from crossmodal_nb.runs import keys, reach

package = Path(keys.__file__).parent.parent
experiments = sorted((package.parent / 'nbs' / 'experiments').glob('[0-9]*.ipynb'))


def test_each_line_is_about_code_that_there_is():
    table = tomllib.loads((package / 'names.toml').read_text())['rewritten']
    index = reach.index()
    notebooks = {keys.notebook_digest(path, index) for path in experiments}
    for was, now in table.items():
        assert now in index.contents.values() or was in notebooks or now in table, f'{was} = "{now}"'


def old_check_finite(x, ids, name='x'):
    "In one sum, of a copy where the numbers are short"
    if not (isinstance(x, (torch.Tensor, np.ndarray)) and torch.as_tensor(x).is_floating_point()) or not len(x):
        return
    x = torch.as_tensor(x)
    if x.sum(dtype=torch.float32 if x.dtype.itemsize < 4 else None).isfinite():
        return
    bad = (~x.isfinite()).flatten(1).any(1) if x.dim() > 1 else ~x.isfinite()
    bad = bad.nonzero().ravel().tolist()
    if bad:
        names = ', '.join(str(ids[i]) for i in bad[:5]) + (' …' if len(bad) > 5 else '')
        raise InputError(f'{name}: NaN or Inf in {len(bad)} of {len(x)} rows: {names}. Repair or remove them')


def old_input_check(x, name):
    "What `Schema.validate_input` did before it called `check_finite`"
    if isinstance(x, torch.Tensor) and not x.sum(dtype=torch.float64).isfinite():
        old_check_finite(x, range(len(x)), name)


def with_value(value, *places, n=9000, dtype=torch.float32):
    x = torch.ones(n, 3, dtype=dtype)
    for place in places:
        x[place] = value
    return x


rows = dict(
    finite=with_value(0),
    nan=with_value(float('nan'), 0),
    last=with_value(float('nan'), (-1, -1)),
    many=with_value(float('inf'), *range(3, 9000, 1000)),
    opposite=torch.cat([with_value(float('inf'), 5), with_value(-float('inf'), 8000)]),
    beyond=with_value(3e38, slice(0, 9000, 2)),  # the sum is not finite, each number is
    half=with_value(6e4, slice(None), dtype=torch.float16),
    half_nan=with_value(float('nan'), 4096, dtype=torch.float16),
    bfloat=with_value(3e38, slice(None), dtype=torch.bfloat16),
    double=with_value(1e308, slice(None), dtype=torch.float64),
    line=torch.tensor([1.0, float('nan')]),
    empty=torch.zeros(0, 3),
    whole=torch.ones(5, 3, dtype=torch.long),
    grid=with_value(float('nan'), 4095)[:, :, None].expand(-1, -1, 2),
    numpy=with_value(float('inf'), 7).numpy(),
    words=['one', 'two'],
)


def said(check, *given):
    try:
        check(*given)
    except InputError as e:
        return str(e)


@pytest.mark.parametrize('case', rows)
def test_numbers_are_checked_in_blocks_of_rows_as_at_once(case):
    x = rows[case]
    now = said(check_finite, x, range(len(x)), 'image')
    assert now == said(old_check_finite, x, range(len(x)), 'image')
    if isinstance(x, torch.Tensor):
        assert now == said(old_input_check, x, 'image')
    assert (now is None) == (case in ('finite', 'beyond', 'half', 'bfloat', 'double', 'empty', 'whole', 'words'))


def test_mapped_parts_are_those_of_the_files_also_after_their_pages_were_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, 'limit', 4)
    parts = dict(pooled=torch.randn(3000, 40), grid=torch.randn(3000, 9, 40).half())
    for name, x in parts.items():
        np.save(tmp_path / f'{name}.npy', x)
    x = mapped(tmp_path)
    for _ in range(20):
        for name in parts:
            assert torch.equal(x[name], parts[name])
        memory._give_back()
    x['pooled'][5] = 0  # yours
    for _ in range(3):
        memory._give_back()
        assert not x['pooled'][5].any() and torch.equal(x['pooled'][6:], parts['pooled'][6:])
    assert torch.equal(torch.from_numpy(np.load(tmp_path / 'pooled.npy')), parts['pooled'])


def old_standard(x, mask=None):
    "The mean and the standard deviation of all columns at once"
    x = (x if mask is None else x[mask]).flatten(0, -2).double()
    sd = x.std(0, correction=0)
    return x.mean(0).float(), torch.where(sd > 1e-6, sd, 1.0).float()


@pytest.mark.parametrize('threads', [1, 2])
@pytest.mark.parametrize('shape', [(500, 49, 1280), (4096, 2000), (3, 5), (1, 7)])
def test_columns_are_scaled_some_at_a_time_as_at_once(shape, threads):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 1
    x[..., 1] = 4.0  # constant
    mask = torch.arange(shape[0] * shape[1]).reshape(shape[:2]) % 3 > 0 if len(shape) > 2 else None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer = Standard(shape[-1])
        layer.fit(x, mask)
        mean, sd = old_standard(x, mask)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(layer.mean, mean) and torch.equal(layer.sd, sd)


@pytest.mark.parametrize('relevance', ['item', 'label'])
@pytest.mark.parametrize('missing', [0, 7])
def test_both_directions_compare_the_codes_of_one_pass(relevance, missing, monkeypatch):
    made, encoded = make_gaussian_views(90, seed=0), []
    labels = torch.arange(90) % 3
    a, b = (View(v.x, y=labels, item=v.item) for v in made.values())
    views = Views(dict(zip(made, (a[torch.arange(missing, 90)] if missing else a, b))))

    class Counted(CCA):
        def encode(self, view, x, target=None):
            encoded.append(view)
            return super().encode(view, x, target=target)

    method = Counted(dim=2).fit(made)
    options = dict(relevance=relevance, pools=['all', 20] if relevance == 'item' else ['all'], boot=20, permutations=5)
    rows, once = retrieval.evaluate_rows(method, views, **options), len(encoded)
    keep = retrieval.score_function
    monkeypatch.setattr(retrieval, 'score_function', lambda *args: keep(*args[:6]))
    assert retrieval.evaluate_rows(method, views, **options) == rows and len(encoded) - once == 4
    assert once == (3 if relevance == 'item' and missing else 2)  # queries without an answer are left out


@pytest.mark.parametrize('method', [CCA(dim=2), Corrected(ASIF(k=5), k=3)])  # codes as a tensor, and sparse ones
def test_codes_of_many_rows_are_those_of_one_gather(method, monkeypatch):
    n = 2**15 + 9
    views, rows, encode = make_gaussian_views(n, seed=0), [], type(method).encode
    a, b = views
    method.fit(views.subset(torch.arange(20)))

    def counted(self, view, x, target):
        rows.append(len(x))
        return encode(self, view, x, target)

    monkeypatch.setattr(type(method), 'encode', counted)
    scores = retrieval.score_function(method, a, views[a], b, views[b], items=torch.arange(1, n))
    assert rows == [2**15, 8] * 2  # never all of them
    at_once = [method.encode(v, views[v].x[1:], target) for v, target in ((a, b), (b, a))]
    some = torch.tensor([0, 2**15 - 1, 2**15, n - 2])  # of the rows that were kept
    old, new = (
        torch.cat([block for _, block in blocks])
        for blocks in (method.code_scores(a, at_once[0], b, at_once[1])(some, some), scores(some + 1, some + 1))
    )
    assert torch.equal(old, new)


@pytest.mark.parametrize('n', [1, 64, 70])
def test_a_tower_reads_some_pictures_at_a_time_as_at_once(n, monkeypatch):
    size = (n, 224, 224, 3)
    pictures = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tower = Tower(EfficientNetLite()).eval()
    with torch.no_grad():
        some = tower(pictures)
        monkeypatch.setattr(Tower, 'block', n)
        assert (some - tower(pictures)).abs().max() <= 1e-5 and some.shape == (n, 1280)  # equal, on most processors


def old_ap_cut(g, e, r, h, m, D, inner, higher):
    "With the chances of every query, although many are cut alike"
    ap = np.zeros(len(g))
    for x in range(int(np.minimum(r, m).max()) + 1):
        s = x / m * ((h + 1) * D + (x - 1) / np.maximum(m - 1, 1) * inner)
        ap += hypergeom.pmf(x, e, r, m) * (higher + s) / np.maximum(h + x, 1)
    return ap


def test_chances_of_a_cut_are_computed_once_for_equal_cuts():
    rng = np.random.default_rng(0)
    for n, kinds in ((1, 1), (300, 7), (50, 50)):
        e = rng.integers(20, 90, kinds)
        r, m = rng.integers(1, e), rng.integers(1, e)
        e, r, m = (x[rng.integers(0, kinds, n)] for x in (e, r, m))
        g, h = rng.integers(0, 9, (2, n))
        args = g, e, np.minimum(r, e), h, np.minimum(m, e), *rng.random((3, n))
        assert np.array_equal(_ap_cut(*args), old_ap_cut(*args))
