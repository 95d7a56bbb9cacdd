"CCA against independent numbers, and where it could break: offsets, float32, orders, ranks, files."

import json
from pathlib import Path

import pytest
import torch

from crossmodal_nb.core.files import sealed
from crossmodal_nb.data.synthetic import make_gaussian_views
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.methods import linear as linear_module
from crossmodal_nb.methods.base import Method
from crossmodal_nb.methods.linear import CCA, MCCA, PLS, aligned
from crossmodal_nb.methods.moments import Kept, Moments, correlations, kept_moments, kept_solutions, stream
from crossmodal_nb.methods.saving import find
from crossmodal_nb.methods.similarity import arithmetic, compare, nearest

golden = json.loads((Path(__file__).parent / 'golden' / 'unsupervised.json').read_text())


def double(x):
    return torch.tensor(x, dtype=torch.double)


def near(a, b):
    return torch.allclose(a, double(b), rtol=1e-8, atol=1e-9)


def views_of(X, Y):
    return Views(x=View(X), y=View(Y))


@pytest.mark.parametrize('name', golden['cca']['cases'])
def test_golden_cca(name):
    g, case = golden['cca'], golden['cca']['cases'][name]
    X, Y = double(g['X']), double(g['Y'])
    m = CCA(3, ridge=(case['rx'], case['ry']), ridge_unit='blend' if case['blend'] else 'absolute', rho_power=0)
    start = 0
    for n in g['chunks']:
        m.partial_fit(views_of(X[start : start + n], Y[start : start + n]))
        start += n
    assert near(m.moments.cov, g['joint_cov']) and near(m.moments.mean, g['mean_x'] + g['mean_y'])
    assert (
        near(m.solution.W[0], case['Wx'])
        and near(m.solution.W[1], case['Wy'])
        and near(m.solution.sigma, case['singular_values'])
    )
    assert near(m.encode('x', X), case['proj_x']) and near(m.encode('y', Y), case['proj_y'])
    assert near(m.rho, case['pearson_of_projections']) and near(
        m.correlations(views_of(X, Y)), case['pearson_of_projections']
    )


@pytest.mark.parametrize('orders', [(0, 1, 2), (2, 0, 1)])
def test_golden_streaming(orders):
    g = golden['streaming_cov_offset']
    chunks = (double(g['data_minus_offset']) + double(g['offset'])).split(g['chunks'])
    m, parts = Moments(), Moments()
    for i in orders:
        m.update(chunks[i])
        parts.merge(Moments().update(chunks[i]))
    for x in (m, parts):
        assert (x.cov - double(g['cov'])).abs().max() < 1e-8  # the file asks for 1e-6


def test_golden_similarity():
    g = golden['similarity']
    for ours, theirs in dict(pearson='pearson', cosine='cosine', dot='dot', euclid='neg_euclidean').items():
        assert near(compare(double(g['Zx']), double(g['Zy']), ours), g[theirs]), ours


def test_golden_arithmetic():
    g = golden['arithmetic']
    E = double(g['E'])
    q = arithmetic(E[:3], [1, -1, 1])
    assert g['expr'] == '+0 -1 +2' and near(q, g['query'])
    order, s = nearest(q, E)
    assert (
        order.tolist() == g['ranking_all']
        and nearest(q, E, exclude=[0, 1, 2])[0].tolist() == g['ranking_excluding_operands']
    )
    assert torch.allclose(s, double(g['cosine'])[order], rtol=1e-8)


@pytest.mark.parametrize('rho', [(0.9, 0.7, 0.5), (0.99,), (0.3, 0.2)])
def test_recovers_the_population(rho):
    n = 20_000
    m = CCA(len(rho), ridge=0).fit(make_gaussian_views(n, rho=rho, dtype=torch.double))
    assert (m.rho - double(rho)).abs().max() < 3 / n**0.5
    assert (
        m.correlations(make_gaussian_views(n, rho=rho, seed=1, dtype=torch.double)) - double(rho)
    ).abs().max() < 3 / n**0.5


@pytest.mark.parametrize('offset', [0, 1e3])
def test_float32_chunks_hold_the_accuracy(offset):
    w = make_gaussian_views(20_000, dims=dict(a=60, b=40), rho=(0.9, 0.5, 0.1))
    f32 = Views({k: View(v.x + offset) for k, v in w.items()})
    f64 = Views({k: View(v.x.double()) for k, v in f32.items()})
    a, b = CCA(40).fit(f32).solution, CCA(40).fit(f64).solution
    assert (a.sigma - b.sigma).abs().max() < 1e-6
    assert (a.rho - b.rho)[
        :20
    ].abs().max() < 1e-6  # later directions have almost equal sigma and may turn among themselves


@pytest.mark.parametrize(
    'dtype, offset, most',
    [(torch.double, 0, 1e-13), (torch.double, 1e4, 1e-12), (torch.float, 0, 5e-7), (torch.float, 100, 5e-7)],
)
def test_sorted_rows_change_nothing(dtype, offset, most):
    "A first chunk far from the rest: a fixed shift would cancel digits, merged moments do not"
    x = (make_gaussian_views(9000, dtype=torch.double)['a'].x + offset).to(dtype)
    truth, m = torch.cov(x.double().T), Moments()
    for c in x[x[:, 0].argsort()].split(500):
        m.update(c)
    sd = truth.diagonal().sqrt()
    assert ((m.cov - truth) / sd / sd[:, None]).abs().max() < most


def test_item_weights_equal_repeated_rows():
    w = make_gaussian_views(300, dtype=torch.double)
    k = torch.randint(0, 4, (300,), generator=torch.Generator().manual_seed(0))
    again = Views({v: View(x.x.repeat_interleave(k, 0)) for v, x in w.items()})
    assert torch.allclose(CCA(6).fit(w, weight=k).encode('b', w['b'].x), CCA(6).fit(again).encode('b', w['b'].x))
    for bad in (-k.double(), k[:5]):
        with pytest.raises(ValueError, match='weight'):
            CCA(6).fit(w, weight=bad)


def test_five_captions_count_once():
    "Each caption repeated five times is each caption once: a pair weighs 1/(pairs of its item)"
    w = make_gaussian_views(400, dtype=torch.double)
    five = Views(a=w['a'], b=View(w['b'].x.repeat(5, 1), item=torch.arange(400).repeat(5)))
    assert sum(len(x) for x, _, _ in stream(five)) == 2000
    first, large = CCA(6).fit(w), CCA(6).fit(five)
    assert torch.allclose(first.encode('a', w['a'].x), large.encode('a', w['a'].x)) and torch.allclose(
        large.correlations(five), first.rho
    )
    assert torch.allclose(correlations(MCCA(6).fit(w), w), correlations(MCCA(6).fit(five), five), atol=1e-6)
    rows, weight = aligned(five)
    assert torch.isclose(weight.sum(), double(400.0)) and set(rows['b'].tolist()) == set(range(2000))


def test_a_copy_does_not_see_later_rows():
    w, more = make_gaussian_views(200, dtype=torch.double), make_gaussian_views(200, seed=1, dtype=torch.double)
    m = CCA(3).fit(w)
    n = m.with_params(rho_power=0, ridge=0.1)
    old = n.encode('a', w['a'].x)
    m.partial_fit(more)
    assert torch.equal(n.encode('a', w['a'].x), old) and torch.equal(n.with_params(dim=3).encode('a', w['a'].x), old)
    n.partial_fit(more)
    assert torch.allclose(n.rho, m.with_params(ridge=0.1).rho)


def test_clear_errors():
    w = make_gaussian_views(100)
    with pytest.raises(TypeError):
        CCA(dims=3)
    with pytest.raises(TypeError):
        CCA().with_params(dims=3)
    with pytest.raises(ValueError, match="'trace'"):
        CCA(ridge_unit='trce')
    with pytest.raises(ValueError, match='ridge'):
        CCA(ridge=-1)
    with pytest.raises(ValueError, match='ridge'):
        CCA(ridge=1.5, ridge_unit='blend')
    with pytest.raises(ValueError, match='dim'):
        CCA(dim=0)
    with pytest.raises(ValueError, match='dim=7.*6 canonical'):
        CCA(7).fit(w).encode('a', w['a'].x)
    with pytest.raises(ValueError, match='dim=7.*6 wide'):
        PLS(7).fit(w)
    with pytest.raises(ValueError, match='same item'):
        CCA(2).fit(Views(a=w['a'], b=View(w['b'].x, item=torch.arange(100) + 500)))
    with pytest.raises(ValueError, match='MCCA'):
        CCA(2).fit(make_gaussian_views(50, dims=dict(a=4, b=4, c=4)))
    with pytest.raises(ValueError, match='earlier'):
        CCA(2).fit(w).partial_fit(make_gaussian_views(50, dims=dict(a=8, b=7)))
    with pytest.raises(ValueError, match='merge'):
        CCA(2).fit(w).merge(CCA(2).fit(make_gaussian_views(50, dims=dict(a=8, b=7))))
    with pytest.raises(ValueError, match='constant'):
        _ = CCA(1, ridge=0).fit(Views(a=w['a'], b=View(torch.ones(100, 4)))).rho
    with pytest.raises(TypeError, match='features'):
        CCA(2).fit(Views(a=w['a'], b=View(['word'] * 100)))
    with pytest.warns(UserWarning, match='held-out'):
        _ = CCA(2).fit(make_gaussian_views(6)).rho


def test_saved_files(tmp_path):
    w = make_gaussian_views(100)
    m = CCA(3).fit(w)
    m.save(tmp_path / 'm')
    info = json.loads((tmp_path / 'm' / 'method.json').read_text())
    assert info['class'] == 'crossmodal_nb.methods.linear:CCA' and info['params']['ridge'] == 1e-3
    assert info['views'] == {'a': {'pooled': 8}, 'b': {'pooled': 6}}
    m.partial_fit(make_gaussian_views(50, seed=1)).save(tmp_path / 'm')
    assert len(list((tmp_path / 'm').glob('*.safetensors'))) == 1
    blob = next((tmp_path / 'm').glob('*.safetensors'))
    blob.write_bytes(blob.read_bytes()[:-1] + b'!')
    with pytest.raises(ValueError, match='not what was saved'):
        Method.load(tmp_path / 'm')
    for evil in ('os:system', 'crossmodal_nb.core:spawn', '../linear:CCA', 'linear:CCAZooMethod', 'base:Method'):
        (tmp_path / 'm' / 'method.json').write_text(json.dumps(sealed({**info, 'class': evil})))
        with pytest.raises(ValueError, match='no method'):
            Method.load(tmp_path / 'm')
    with pytest.raises(FileNotFoundError):
        Method.load(tmp_path / 'none')
    with pytest.raises(ValueError, match="did you mean 'linear:CCA'"):
        find('linaer:CCA')


def test_check_is_asked_about_held_out_rows():
    w, v = make_gaussian_views(200), make_gaussian_views(100, seed=1)
    m = CCA(2).fit(w, validate=lambda m: m.correlations(v).mean())
    assert m.history == [dict(check=pytest.approx(m.correlations(v).mean().item()))]


def dependent(n, p=50, q=40, same=10, seed=0, dtype=torch.float32, offset=0.0):
    """Two views that share five factors; the last `same` columns are mixtures, or multiples, of others, and one column
    is constant
    """
    g = torch.Generator().manual_seed(seed)
    z, A, B = (torch.randn(n, w, generator=g, dtype=torch.double) for w in (5, p, q))
    A[:, :5] += z
    B[:, :5] += z
    if same:
        A[:, -same:], B[:, -same:] = (
            A[:, :same] @ torch.randn(same, same, generator=g, dtype=torch.double),
            3 * B[:, :same],
        )
    A[:, 20] = 1 / 3
    return Views(a=View((A + offset).to(dtype)), b=View((B + offset).to(dtype)))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('ridge', [0.0, 1e-9])
@pytest.mark.parametrize('n, same, offset', [(600, 10, 0.0), (600, 10, 30.0), (5000, 10, 0.0), (30, 0, 0.0)])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_rank_follows_the_precision_of_the_rows(dtype, n, same, offset, ridge):
    for seed in range(3):
        truth = CCA(1, ridge=0.0).fit(dependent(n, same=same, seed=seed, dtype=torch.float64)).solution
        assert len(truth.rho) == (30 if same else n - 1)
        got = CCA(1, ridge=ridge).fit(dependent(n, same=same, seed=seed, dtype=dtype, offset=offset)).solution
        if dtype != torch.float64 and not ridge:
            assert len(got.rho) == len(truth.rho)
        assert got.rho.max() <= 1 and got.rho.min() >= -1
        assert torch.allclose(got.rho[:10], truth.rho[:10], atol=0.05 if dtype == torch.bfloat16 else 5e-3)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('unit, ridge', [('trace', 1e-3), ('absolute', 1e-3), ('blend', 1e-3), ('trace', 10.0)])
@pytest.mark.parametrize('n', [30, 600])
def test_rho_is_a_correlation_also_where_only_the_ridge_varies(n, unit, ridge):
    views = dependent(n)
    m = CCA(1, ridge, unit).fit(views)
    full = m.with_params(dim=m.rank, rho_power=0)
    assert m.solution.rho.abs().max() <= 1 and torch.allclose(
        full.correlations(views)[:5], m.solution.rho[:5], atol=1e-3
    )
    if n == 600:
        assert (m.solution.rho[30:].abs() < 1e-3).all()  # ten of forty directions vary by rounding alone


def test_two_numbers_are_called_canonical_correlation():
    w = make_gaussian_views(2000, dtype=torch.double)
    bare, ridged = CCA(3, 0.0).fit(w).solution, CCA(3, 1.0).fit(w)
    assert torch.allclose(bare.sigma, bare.rho, atol=1e-10)
    s = ridged.solution
    assert (s.rho[:3] - s.sigma[:3] > 0.05).all() and torch.allclose(ridged.correlations(w), s.rho[:3], atol=1e-10)


@pytest.mark.filterwarnings('ignore')
def test_the_precision_of_rows_is_remembered(tmp_path):
    views, fine = dependent(600), dependent(600, dtype=torch.float64)

    def rank(m):
        return m.with_params(ridge=0.0).rank

    parts = [views.subset(torch.arange(600)[torch.arange(600) % 2 == k]) for k in (0, 1)]
    joined = CCA(1).partial_fit(parts[0]).partial_fit(parts[1])
    merged = CCA(1).fit(parts[0]).merge(CCA(1).fit(parts[1]))
    joined.save(tmp_path / 'm')
    both = CCA(1).fit(fine).merge(CCA(1).fit(views))
    for m in (joined, merged, Method.load(tmp_path / 'm'), CCA(1).merge(joined), both):
        assert rank(m) == 30
    assert CCA(1).fit(views).fit(fine).moments.eps == torch.finfo(torch.double).eps
    mixed = Views(a=View(views['a'].x), b=View(fine['b'].x))
    assert rank(CCA(1).fit(mixed)) == 30


def test_equal_pairs_are_summed_up_and_solved_once(monkeypatch):
    train, solved, cca = make_gaussian_views(300, dtype=torch.double), [], linear_module.cca
    again = Views({k: View(v.x.clone(), item=v.item) for k, v in train.items()})
    monkeypatch.setattr(linear_module, 'cca', lambda *args: solved.append(args) or cca(*args))
    for kept in (kept_moments, kept_solutions):
        monkeypatch.setattr(kept, 'values', {})
    first, second = CCA(3, ridge=0.1).fit(train), CCA(2, ridge=0.1).fit(again)
    assert first.moments is second.moments
    assert torch.equal(first.solution.W[0], second.solution.W[0]) and len(solved) == 1
    name = next(iter(train))
    plain = Moments()
    for xa, xb, w in stream(train):
        plain.update(xa, xb, weight=w)
    assert torch.equal(plain.M2, first.moments.M2) and torch.equal(plain.mean, first.moments.mean)
    assert torch.equal(plain.cov, (plain.M2.triu() + plain.M2.triu(1).T) / (plain.weight - 1))
    before, codes = first.moments.M2.clone(), second.encode(name, train[name].x)
    first.partial_fit(again)  # rows are added to a copy
    assert first.moments.weight == 600 and second.moments.weight == 300
    assert torch.equal(second.moments.M2, before) and torch.equal(second.encode(name, train[name].x), codes)
    assert first.solution.rho[0] > 0
    assert len(solved) == 2 and first.moments.content is None
    weighted = CCA(2, ridge=0.1).fit(train, weight=torch.ones(300))
    assert weighted.moments is not second.moments


def test_what_is_kept_stays_within_its_limit():
    kept, made = Kept(100), []
    for key in ('a', 'b', 'a', 'c', 'a', 'b', None, 'large'):
        assert kept(key, lambda key=key: made.append(key) or key or 'none', lambda v: 500 if v == 'large' else 50)
    assert made == ['a', 'b', 'c', 'b', None, 'large'] and 'large' not in kept.values


def test_correlations_encode_a_row_of_many_pairs_once():
    g = torch.Generator().manual_seed(0)
    views = Views(
        a=View(torch.randn(40, 6, generator=g)), b=View(torch.randn(200, 5, generator=g), item=torch.arange(200) // 5)
    )
    m, rows = CCA(3, ridge=0.1).fit(views), []
    encode = m.encode
    m.encode = lambda v, x, target=None: rows.append((v, len(x))) or encode(v, x, target)
    got = correlations(m, views)
    za, zb = (encode(v, views[v].x.double()) for v in views)
    za, zb = (z - z.mean(0) for z in (za.repeat_interleave(5, 0), zb))
    assert torch.allclose(got, (za * zb).sum(0) / (za.norm(dim=0) * zb.norm(dim=0)))
    assert rows == [('a', 40), ('b', 200)]
