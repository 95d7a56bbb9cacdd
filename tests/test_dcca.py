"Deep CCA beyond its notebook: the last map, what it is fitted on and when, and what the triplet differentiates."

import copy

import pytest
import torch

from crossmodal_nb.data.synthetic import make_gaussian_views
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.losses.contrastive import pairwise_cosine, triplet
from crossmodal_nb.losses.correlation import cca_corr, standardised
from crossmodal_nb.methods.base import Method
from crossmodal_nb.methods.dcca import DCCA, DCCAE, DGCCA, projected
from crossmodal_nb.methods.linear import CCA, MCCA
from crossmodal_nb.methods.moments import correlations

small = dict(dim=4, hidden=16, dropout=0.0)
run = dict(epochs=2, batch=100, accelerator='cpu')
train, valid = make_gaussian_views(300), make_gaussian_views(200, seed=1)


def randn(*s, seed=0):
    return torch.randn(*s, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def raw(m, views):
    return Views({v: view.with_features(m.raw(v, view.x)) for v, view in views.items()})


def test_the_last_map_is_the_linear_cca_of_the_codes():
    m = DCCA(**small, trainer=run).fit(train)
    c = CCA(4, m.final_ridge).fit(raw(m, train))
    for v in train:
        assert torch.allclose(m.encode(v, valid[v].x), c.encode(v, m.raw(v, valid[v].x)), atol=1e-5)
    assert torch.allclose(correlations(m, train), c.rho, atol=1e-4)


def test_it_is_that_of_the_best_epoch_not_of_the_last():
    visited = []

    def check(m):
        visited.append(copy.deepcopy(m))
        return -float(m.epoch != 1)  # the second of four is the best

    m = DCCA(**small, trainer=run | dict(epochs=4, lr=0.05)).fit(train, check)
    best, last = CCA(4, m.final_ridge).fit(raw(visited[1], train)), CCA(4, m.final_ridge).fit(raw(visited[3], train))
    z, x = m.encode('a', valid['a'].x), visited[1].raw('a', valid['a'].x)
    assert torch.equal(m.raw('a', valid['a'].x), x) and torch.allclose(z, best.encode('a', x), atol=1e-5)
    assert not torch.allclose(z, last.encode('a', x), atol=1e-2)


def test_a_check_sees_a_map_of_a_sample_and_the_end_sees_all():
    m = DCCA(**small, trainer=run).fit(train)

    def W():
        return m.last['a'].W.clone()

    full = W()
    m.before_eval(train, max_items=300)
    assert torch.allclose(W(), full, atol=1e-4)
    m.before_eval(train, max_items=100)
    assert not torch.allclose(W(), full, atol=1e-2) and correlations(m, valid)[0] > 0.6
    first = W()
    m.before_eval(train, max_items=100)
    assert torch.equal(W(), first)  # the same sample each time


def test_five_captions_weigh_as_one():
    "Rows of views may differ in number: the last map is fitted on exactly `views.pairs`"
    twice = Views(a=train['a'], b=View(train['b'].x.repeat(2, 1), item=torch.arange(300).repeat(2)))
    single, two = (DCCA(**small, trainer=run).fit(v) for v in (train, twice))
    two.load_state_dict(single.state_dict())
    two.before_eval(twice, max_items=None)
    for v in train:
        assert torch.allclose(two.encode(v, valid[v].x), single.encode(v, valid[v].x), atol=1e-4)


@pytest.mark.parametrize('cls', (DCCA, DCCAE, DGCCA))
def test_saved_with_its_map_and_its_batch(cls, tmp_path):
    m = cls(**small, trainer=run | dict(batch=256)).fit(train)  # 256: a Trainer's default, not this family's
    m.save(tmp_path)
    again = Method.load(tmp_path)
    assert again.trainer.batch == 256 and cls().trainer.batch == 1024 == cls(trainer=dict(epochs=2)).trainer.batch
    for k, v in m.state_dict().items():
        assert torch.equal(again.state_dict()[k], v), k
    for v in train:
        assert torch.equal(again.encode(v, valid[v].x), m.encode(v, valid[v].x))


def test_more_coordinates_than_directions_are_all_used():
    "CCA of 8 and 6 columns has 6 directions; the other coordinates must not stay at zero"
    m = DCCA(dim=12, hidden=16, dropout=0.0, trainer=run).fit(train)
    assert all((m.raw(v, valid[v].x).std(0) > 1e-3).all() for v in train)


def test_loss_is_the_named_objective():
    z = dict(a=randn(90, 4), b=randn(90, 4, seed=1))
    a, b = map(standardised, z.values())

    def loss(**k):
        return DCCA(**small, **k).losses(z, Views(make_gaussian_views(90)))['loss']

    for objective, scale in (('tracenorm', 4), ('frobenius_sq', 4), ('sqrt_trace', 2)):
        assert torch.isclose(loss(objective=objective), -cca_corr(a, b, 1e-3, objective) / scale)
    assert loss(objective='soft_decorrelation', w_decorrelate=1.0) > loss(
        objective='soft_decorrelation', w_decorrelate=0.0
    )
    with pytest.raises(ValueError, match='tracenorm'):
        DCCA(objective='tracenrom')


def test_triplet_gradient():
    "That of whitening by Cholesky with the rotations held: against differences"
    a, b, r = randn(30, 3), randn(30, 3, seed=1), 1e-3 * torch.eye(3)

    def white(z):
        z = standardised(z)
        return torch.linalg.solve_triangular(torch.linalg.cholesky(z.T @ z / 30 + r), z.T, upper=False).T

    U, rho, Vt = torch.linalg.svd(white(a).T @ white(b) / 30)  # of the point where the gradient is taken

    def held(a):
        return triplet(white(a) @ U * rho, white(b) @ Vt.T * rho, 0.3)

    x = a.clone().requires_grad_()
    value = triplet(*projected(x, b, 1e-3), 0.3)
    (grad,) = torch.autograd.grad(value, x)
    assert torch.isclose(value, held(a))
    for i, j in ((0, 0), (7, 1), (29, 2)):
        e = torch.zeros_like(a)
        e[i, j] = 1e-6
        assert abs((held(a + e) - held(a - e)) / 2e-6 - grad[i, j]) < 1e-6


def test_triplet_is_blind_to_mixing_as_the_correlation_is():
    a, b, M = randn(200, 4), randn(200, 4, seed=1), randn(4, 4, seed=2)
    assert torch.allclose(
        pairwise_cosine(*projected(a @ M, b, 1e-10)), pairwise_cosine(*projected(a, b, 1e-10)), atol=1e-6
    )
    assert not torch.allclose(pairwise_cosine(a @ M, b), pairwise_cosine(a, b), atol=0.1)


def test_views():
    five = make_gaussian_views(120, dims=dict(a=8, b=7, c=6, d=5, e=6))
    m = DGCCA(**small, trainer=run).fit(five)
    assert all(correlations(m, five.select('a', v))[0] > 0.5 for v in 'bcde')
    for cls in (DCCA, DCCAE):
        with pytest.raises(ValueError, match='DGCCA'):
            cls(**small).fit(five)
    with pytest.raises(ValueError, match='views'):
        DGCCA(**small).fit(Views(five, f=five['a']))


def test_dgcca_before_training_is_a_generalised_cca():
    "Heads that begin as MCCA and do not learn: the last map can only be the MCCA of their codes"
    three = make_gaussian_views(400, dims=dict(a=8, b=7, c=6))
    m = DGCCA(**small | dict(hidden=0), final_ridge=1e-6, trainer=dict(epochs=0, accelerator='cpu')).fit(three)
    want = MCCA(4, 1e-6).fit(raw(m, three))
    for v in (three.select('a', 'b'), three.select('b', 'c')):
        assert torch.allclose(correlations(m, v), correlations(want, raw(m, v)), atol=1e-3)


def test_autoencoder_needs_pooled():
    grid = Views({v: View(dict(grid=torch.randn(60, 3, 8))) for v in 'ab'})
    with pytest.raises(ValueError, match='pooled'):
        DCCAE(dim=8, hidden=8, parts=('grid',), init='random', trainer=run).fit(grid)


def test_doubles_and_halves_are_coded_alike():
    m = DCCA(**small, trainer=run).fit(train)
    z = m.encode('a', valid['a'].x)
    assert torch.allclose(m.encode('a', valid['a'].x.double()), z) and z.dtype == torch.float32
    assert torch.allclose(m.encode('a', valid['a'].x.half()), z, atol=0.05)
