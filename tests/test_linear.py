"CCA against independent numbers, and where it could break: offsets, float32, orders, ranks, files."
import json, warnings
from pathlib import Path
import pytest, torch
from crossmodal_nb.data import View, Views, gaussian_world
from crossmodal_nb.methods.base import Method, arithmetic, compare, find, nearest
from crossmodal_nb.methods.linear import CCA, MCCA, PLS, Moments, aligned, cca, correlations, stream

golden = json.loads((Path(__file__).parent/'golden'/'unsupervised.json').read_text())
double = lambda x: torch.tensor(x, dtype=torch.double)
near = lambda a, b: torch.allclose(a, double(b), rtol=1e-8, atol=1e-9)
views_of = lambda X, Y: Views(x=View(X), y=View(Y))

@pytest.mark.parametrize('name', golden['cca']['cases'])
def test_golden_cca(name):
    g, case = golden['cca'], golden['cca']['cases'][name]
    X, Y = double(g['X']), double(g['Y'])
    m = CCA(3, ridge=(case['rx'], case['ry']), ridge_unit='blend' if case['blend'] else 'absolute', rho_power=0)
    at = 0
    for n in g['chunks']: m.partial_fit(views_of(X[at:at+n], Y[at:at+n])); at += n
    assert near(m.moments.cov, g['joint_cov']) and near(m.moments.mean, g['mean_x'] + g['mean_y'])
    assert near(m.solution.W[0], case['Wx']) and near(m.solution.W[1], case['Wy']) and near(m.solution.sigma, case['singular_values'])
    assert near(m.encode('x', X), case['proj_x']) and near(m.encode('y', Y), case['proj_y'])
    assert near(m.rho, case['pearson_of_projections']) and near(m.correlations(views_of(X, Y)), case['pearson_of_projections'])

@pytest.mark.parametrize('orders', [(0, 1, 2), (2, 0, 1)])
def test_golden_streaming(orders):
    g = golden['streaming_cov_offset']
    chunks = (double(g['data_minus_offset']) + double(g['offset'])).split(g['chunks'])
    m, parts = Moments(), Moments()
    for i in orders: m.update(chunks[i]); parts.merge(Moments().update(chunks[i]))
    for x in (m, parts): assert (x.cov - double(g['cov'])).abs().max() < 1e-8   # the file asks for 1e-6

def test_golden_similarity():
    g = golden['similarity']
    for ours, theirs in dict(pearson='pearson', cosine='cosine', dot='dot', euclid='neg_euclidean').items():
        assert near(compare(double(g['Zx']), double(g['Zy']), ours), g[theirs]), ours

def test_golden_arithmetic():
    g = golden['arithmetic']
    E = double(g['E']); q = arithmetic(E[:3], [1, -1, 1])
    assert g['expr'] == '+0 -1 +2' and near(q, g['query'])
    order, s = nearest(q, E)
    assert order.tolist() == g['ranking_all'] and nearest(q, E, exclude=[0, 1, 2])[0].tolist() == g['ranking_excluding_operands']
    assert torch.allclose(s, double(g['cosine'])[order], rtol=1e-8)

@pytest.mark.parametrize('rho', [(.9, .7, .5), (.99,), (.3, .2)])
def test_recovers_the_population(rho):
    n = 20_000
    m = CCA(len(rho), ridge=0).fit(gaussian_world(n, rho=rho, dtype=torch.double))
    assert (m.rho - double(rho)).abs().max() < 3 / n**.5
    assert (m.correlations(gaussian_world(n, rho=rho, seed=1, dtype=torch.double)) - double(rho)).abs().max() < 3 / n**.5

@pytest.mark.parametrize('offset', [0, 1e3])
def test_float32_chunks_hold_the_accuracy(offset):
    w = gaussian_world(20_000, dims=dict(a=60, b=40), rho=(.9, .5, .1))
    f32 = Views({k: View(v.x + offset) for k, v in w.items()})
    f64 = Views({k: View(v.x.double()) for k, v in f32.items()})
    a, b = CCA(40).fit(f32).solution, CCA(40).fit(f64).solution
    assert (a.sigma - b.sigma).abs().max() < 1e-6
    assert (a.rho - b.rho)[:20].abs().max() < 1e-6   # later directions have almost equal sigma and may turn among themselves

@pytest.mark.parametrize('dtype, offset, most', [(torch.double, 0, 1e-13), (torch.double, 1e4, 1e-12),
                                                 (torch.float, 0, 5e-7), (torch.float, 100, 5e-7)])
def test_sorted_rows_change_nothing(dtype, offset, most):
    "A first chunk far from the rest: a fixed shift would cancel digits, merged moments do not"
    x = (gaussian_world(9000, dtype=torch.double)['a'].x + offset).to(dtype)
    truth, m = torch.cov(x.double().T), Moments()
    for c in x[x[:, 0].argsort()].split(500): m.update(c)
    sd = truth.diagonal().sqrt()
    assert ((m.cov - truth) / sd / sd[:, None]).abs().max() < most

def test_item_weights_equal_repeated_rows():
    w = gaussian_world(300, dtype=torch.double)
    k = torch.randint(0, 4, (300,), generator=torch.Generator().manual_seed(0))
    again = Views({v: View(x.x.repeat_interleave(k, 0)) for v, x in w.items()})
    assert torch.allclose(CCA(6).fit(w, weight=k).encode('b', w['b'].x), CCA(6).fit(again).encode('b', w['b'].x))
    for bad in (-k.double(), k[:5]):
        with pytest.raises(ValueError, match='weight'): CCA(6).fit(w, weight=bad)

def test_five_captions_count_once():
    "Each caption repeated five times is each caption once: a pair weighs 1/(pairs of its item)"
    w = gaussian_world(400, dtype=torch.double)
    five = Views(a=w['a'], b=View(w['b'].x.repeat(5, 1), item=torch.arange(400).repeat(5)))
    assert sum(len(x) for x, _, _ in stream(five)) == 2000
    one, many = CCA(6).fit(w), CCA(6).fit(five)
    assert torch.allclose(one.encode('a', w['a'].x), many.encode('a', w['a'].x)) and torch.allclose(many.correlations(five), one.rho)
    assert torch.allclose(correlations(MCCA(6).fit(w), w), correlations(MCCA(6).fit(five), five), atol=1e-6)
    rows, weight = aligned(five)
    assert torch.isclose(weight.sum(), double(400.)) and set(rows['b'].tolist()) == set(range(2000))

def test_a_copy_does_not_see_later_rows():
    w, more = gaussian_world(200, dtype=torch.double), gaussian_world(200, seed=1, dtype=torch.double)
    m = CCA(3).fit(w); n = m.at(rho_power=0, ridge=.1); before = n.encode('a', w['a'].x)
    m.partial_fit(more)
    assert torch.equal(n.encode('a', w['a'].x), before) and torch.equal(n.at(dim=3).encode('a', w['a'].x), before)
    n.partial_fit(more)
    assert torch.allclose(n.rho, m.at(ridge=.1).rho)

def test_clear_errors():
    w = gaussian_world(100)
    with pytest.raises(TypeError): CCA(dims=3)
    with pytest.raises(TypeError): CCA().at(dims=3)
    with pytest.raises(ValueError, match="'trace'"): CCA(ridge_unit='trce')
    with pytest.raises(ValueError, match='ridge'): CCA(ridge=-1)
    with pytest.raises(ValueError, match='ridge'): CCA(ridge=1.5, ridge_unit='blend')
    with pytest.raises(ValueError, match='dim'): CCA(dim=0)
    with pytest.raises(ValueError, match='dim=7.*6 canonical'): CCA(7).fit(w).encode('a', w['a'].x)
    with pytest.raises(ValueError, match='dim=7.*6 wide'): PLS(7).fit(w)
    with pytest.raises(ValueError, match='same item'): CCA(2).fit(Views(a=w['a'], b=View(w['b'].x, item=torch.arange(100) + 500)))
    with pytest.raises(ValueError, match='MCCA'): CCA(2).fit(gaussian_world(50, dims=dict(a=4, b=4, c=4)))
    with pytest.raises(ValueError, match='earlier'): CCA(2).fit(w).partial_fit(gaussian_world(50, dims=dict(a=8, b=7)))
    with pytest.raises(ValueError, match='merge'): CCA(2).fit(w).merge(CCA(2).fit(gaussian_world(50, dims=dict(a=8, b=7))))
    with pytest.raises(ValueError, match='constant'): CCA(1, ridge=0).fit(Views(a=w['a'], b=View(torch.ones(100, 4)))).rho
    with pytest.raises(TypeError, match='features'): CCA(2).fit(Views(a=w['a'], b=View(['word'] * 100)))
    with pytest.warns(UserWarning, match='held-out'): CCA(2).fit(gaussian_world(6)).rho

def test_saved_files(tmp_path):
    w = gaussian_world(100); m = CCA(3).fit(w); m.save(tmp_path/'m')
    about = json.loads((tmp_path/'m'/'method.json').read_text())
    assert about['class'] == 'crossmodal_nb.methods.linear:CCA' and about['params']['ridge'] == 1e-3
    assert about['views'] == {'a': {'pooled': 8}, 'b': {'pooled': 6}}
    m.partial_fit(gaussian_world(50, seed=1)).save(tmp_path/'m')
    assert len(list((tmp_path/'m').glob('*.safetensors'))) == 1
    blob = next((tmp_path/'m').glob('*.safetensors')); blob.write_bytes(blob.read_bytes()[:-1] + b'!')
    with pytest.raises(ValueError, match='not what was saved'): Method.load(tmp_path/'m')
    for evil in ('os:system', 'crossmodal_nb.core:spawn', '../linear:CCA', 'linear:Zoo', 'base:Method'):
        (tmp_path/'m'/'method.json').write_text(json.dumps({**about, 'class': evil}))
        with pytest.raises(ValueError, match='no method'): Method.load(tmp_path/'m')
    with pytest.raises(FileNotFoundError): Method.load(tmp_path/'none')
    with pytest.raises(ValueError, match="did you mean 'linear:CCA'"): find('linaer:CCA')

def test_check_is_asked_about_held_out_rows():
    w, v = gaussian_world(200), gaussian_world(100, seed=1)
    m = CCA(2).fit(w, check=lambda m: m.correlations(v).mean())
    assert m.history == [dict(check=pytest.approx(m.correlations(v).mean().item()))]
