"""What the notebook of saliency cannot say well: the head against other solvers, in pieces and in half precision, and
bad input.
"""

import math
from functools import partial

import numpy as np
import pytest
import torch

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.metrics.saliency import Saliency, interpolated, kl


def world(n=30, side=3, d=6, seed=0, noise=0.0):
    "A planted direction, a planted centre, and noise in what is measured"
    g = torch.Generator().manual_seed(seed)
    x, w, b = (
        torch.randn(n, side**2, d, generator=g) * torch.linspace(0.1, 3, d) + 5,
        torch.linspace(-1, 1, d),
        -(torch.linspace(-1, 1, side**2) ** 2),
    )
    return x, (x @ w / 3 + b + noise * torch.randn(n, side**2, generator=g)).softmax(1)


Convex = partial(Saliency, hidden=0)
Both = pytest.mark.parametrize('Head', [Convex, partial(Saliency, hidden=4)], ids=['convex', 'hidden'])


def weights(head):
    return torch.cat([head.f.weight[0], head.b - head.b.mean()])


def objective(x, t, l2):
    "Loss and gradient in double precision, from the formula and nothing of the head's"
    x, t = x.double().numpy(), t.double().numpy()
    z = (x - x.mean((0, 1))) / x.std((0, 1))

    def f(theta):
        w, b = theta[: z.shape[2]], theta[z.shape[2] :]
        s = z @ w + b
        s = s - s.max(1, keepdims=True)
        p = np.exp(s)
        p /= p.sum(1, keepdims=True)
        return -(t * np.log(p)).sum(1).mean() + l2 * w @ w, np.concatenate(
            [((p - t)[..., None] * z).sum((0, 1)) / len(z) + 2 * l2 * w, (p - t).mean(0)]
        )

    return f


# ---------------------------------------------------------------- one answer, whoever finds it
@pytest.mark.parametrize('l2', [1e-3, 0.3, 30.0])
def test_the_least_loss_is_found(l2):
    from scipy.optimize import approx_fprime, minimize

    x, t = world(noise=1.0)
    f, theta = objective(x, t, l2), np.linspace(-1, 1, 15)
    assert np.allclose(
        approx_fprime(theta, lambda v: f(v)[0], 1e-7), f(theta)[1], atol=1e-5
    )  # the judge's own gradient
    best, head = minimize(f, np.zeros(15), jac=True, method='BFGS', options=dict(gtol=1e-8)), Convex(l2).fit(x, t)
    mine = torch.cat([head.f.weight[0], head.b]).double().numpy()
    assert f(mine)[0] - best.fun < 1e-5 and np.abs(f(mine)[1]).max() < 5e-3
    assert torch.allclose(head.f.weight[0], torch.tensor(best.x[:6]).float(), atol=2e-3)


def test_two_places_are_a_logistic_regression_of_differences():
    from sklearn.linear_model import LogisticRegression

    x, t = world(200, d=4)
    x, t = x[:, [0, 8]], torch.nn.functional.one_hot(t[:, [0, 8]].argmax(1), 2).float()
    t[::7] = t[::7].flip(1)  # not separable
    head = Convex(0.05).fit(x, t)
    z = ((x - x.mean((0, 1))) / x.flatten(0, 1).std(0, correction=0)).numpy()
    reference = LogisticRegression(C=1 / (2 * 0.05 * 200), tol=1e-8, max_iter=1000).fit(z[:, 1] - z[:, 0], t[:, 1])
    assert (
        np.allclose(head.f.weight, reference.coef_, atol=1e-3)
        and abs(float(head.b[1] - head.b[0]) - reference.intercept_[0]) < 1e-3
    )


def test_the_hidden_layer_stands_on_a_least_loss():
    x, t = world(noise=0.5)
    head = Saliency(0.01, hidden=4).fit(x, t)
    z, parameters = (x.double() - head.mean) / head.sd, [head.b.double(), *(p.double() for p in head.f.parameters())]

    def loss(b, W, c, v):
        return -(t * ((z @ W.T + c).relu() @ v[0] + b).log_softmax(1)).sum(1).mean() + 0.01 * (
            W.square().sum() + v.square().sum()
        )

    minimum = float(loss(*parameters))
    g = torch.Generator().manual_seed(0)
    for step in (1e-2, 1e-1):
        for _ in range(20):
            assert (
                float(loss(*(p + step * torch.randn(p.shape, generator=g).double() for p in parameters)))
                > minimum - 1e-6
            )
    assert [*torch.autograd.functional.jacobian(loss, tuple(parameters))][0].abs().max() < 5e-3


@Both
@pytest.mark.parametrize('seed', range(5))
def test_a_planted_direction_beats_place(Head, seed):
    (x, t), (x2, t2) = world(60, 4, seed=seed, noise=0.3), world(40, 4, seed=seed + 100, noise=0.3)
    wasted = [
        np.mean([kl(p, m) for p, m in zip(Head(l2).fit(x, t).density(x2).numpy(), t2.numpy())])
        for l2 in (1e-3, math.inf)
    ]
    assert wasted[0] < wasted[1] / 3


def test_from_no_weight_to_place_alone():
    x, t = world(noise=1.0)
    norms = [float(Convex(l2).fit(x, t).f.weight.norm()) for l2 in (1e-3, 0.1, 10.0, 1e4, math.inf)]
    assert sorted(norms, reverse=True) == norms and norms[-1] == 0


@Both
def test_place_alone_is_the_mean_density(Head):
    x, t = world(noise=1.0)
    for l2 in (1e6, math.inf):
        assert torch.allclose(Head(l2).fit(x, t).density(x), t.mean(0).expand(30, -1), atol=1e-4)


# ---------------------------------------------------------------- in pieces, in half precision
@Both
def test_the_same_twice(Head):
    x, t = world(noise=0.5)
    once = Head(0.1).fit(x, t)
    torch.manual_seed(1)
    old = torch.get_rng_state()
    assert once.digest == Head(0.1).fit(x.clone(), t.numpy()).digest != Head(0.2).fit(x, t).digest
    assert torch.equal(old, torch.get_rng_state())


@Both
def test_pieces_do_not_matter(Head):
    x, t = world(noise=0.5)
    full = Head(0.1).fit(x, t)
    for rows in (1, 7, 30):
        head = Head(0.1, rows=rows).fit(x, t)
        assert torch.allclose(head.density(x), full.density(x), atol=1e-3) and (
            head.hidden or torch.allclose(weights(head), weights(full), atol=1e-3)
        )
        assert torch.allclose(torch.cat([head.density(x[:11]), head.density(x[11:])]), head.density(x), atol=1e-6)


@Both
def test_half_precision_from_disk(Head, tmp_path):
    x, t = world(noise=0.5)
    np.save(tmp_path / 'grid.npy', x.half().numpy())
    stored = torch.from_numpy(np.load(tmp_path / 'grid.npy', mmap_mode='c'))
    half, full = Head(0.1, rows=8).fit(stored, t), Head(0.1).fit(x, t)
    assert (
        torch.allclose(half.density(stored), full.density(x), atol=5e-3) and half.density(stored).dtype == torch.float32
    )


@Both
def test_what_is_the_same_everywhere_says_nothing(Head):
    x, t = world(noise=0.5)
    for value in (0.0, 6.0, 1e4):
        more = torch.cat([x, torch.full((30, 9, 1), value)], 2)
        head = Head(0.1).fit(more, t)
        p = head.density(more)
        more[..., -1] += 3
        assert torch.allclose(head.density(more), p, atol=1e-6) and (
            head.hidden or torch.allclose(p, Head(0.1).fit(x, t).density(x), atol=1e-3)
        )


@Both
def test_scale_and_origin_of_the_features_do_not_matter(Head):
    x, t = world(noise=0.5)
    assert torch.allclose(
        Head(0.1).fit(1e4 * x - 7e4, t).density(1e4 * x - 7e4), Head(0.1).fit(x, t).density(x), atol=2e-3
    )


@Both
def test_a_place_nobody_looked_at(Head):
    x, t = world()
    t[:, 4] = 0
    t /= t.sum(1, keepdim=True)
    for l2 in (0.1, math.inf):
        assert (p := Head(l2).fit(x, t).density(x)).isfinite().all() and p[:, 4].max() < 1e-4


@Both
def test_the_prediction_may_be_trained_on_and_needs_no_picture(Head):
    x, t = world()
    head = Head().fit(x, t)
    assert not any(p.requires_grad for p in (head.b, *head.f.parameters())) and head.density(x[:0]).shape == (0, 9)
    weight = torch.ones(1, requires_grad=True)
    (head.density(x) * weight).sum().backward()
    assert weight.grad is not None


# ---------------------------------------------------------------- pixels
def test_maps():
    x, t = world(seed=3)
    head = Convex(0.01).fit(x, t)
    maps, p = head.maps(x, (30, 48)), head.density(x)
    assert maps.shape == (30, 30, 48) and maps.dtype == np.float32 and maps.min() > 0 and (maps.max((1, 2)) == 1).all()
    peaks = [np.unravel_index(m.argmax(), m.shape) for m in maps]
    assert (
        np.mean([r // 10 * 3 + c // 16 == i for (r, c), i in zip(peaks, p.argmax(1).tolist())]) > 0.8
    )  # rows first, columns within
    mirrored = p.view(30, 3, 3).flip(2).flatten(1)
    assert all(
        np.allclose(interpolated(a, (30, 48)), interpolated(b, (30, 48))[:, ::-1], atol=1e-6)
        for a, b in zip(p, mirrored)
    )
    rough, smooth = head.maps(x, (30, 48), blur=0), head.maps(x, (30, 48), blur=0.2)
    assert np.abs(np.diff(smooth, axis=1)).mean() < np.abs(np.diff(rough, axis=1)).mean()


@pytest.mark.parametrize('density', [[1.0], [0, 0, 0, 1], [1e-300, 1, 1, 1], [1e30] * 9])
def test_any_density_is_drawn(density):
    m = interpolated(density, (7, 5))
    assert np.isfinite(m).all() and m.max() == 1 and m.min() >= 0


# ---------------------------------------------------------------- what cannot be used
@pytest.mark.parametrize(
    'call,says',
    [
        (lambda x, t: Saliency(0), 'l2 is 0'),
        (lambda x, t: Saliency(hidden=-1), 'hidden is -1'),
        (lambda x, t: Saliency(math.nan), 'l2 is nan'),
        (lambda x, t: Saliency().fit(x[0], t), r'not \(9, 6\) and \(30, 9\)'),
        (lambda x, t: Saliency().fit(x[:0], t[:0]), 'a grid .* and a density .* are needed'),
        (lambda x, t: Saliency().fit(x, t[:5]), r'not \(30, 9, 6\) and \(5, 9\)'),
        (lambda x, t: Saliency().fit(x, t[:, :4]), r'\(30, 4\)'),
        (lambda x, t: Saliency().fit(x, 2 * t), 'sum to 1'),
        (lambda x, t: Saliency().fit(x, t * math.nan), 'sum to 1'),
        (lambda x, t: Saliency().fit(x, t + torch.tensor([-1.0, 1] + [0] * 7)), '0 or more'),
        (lambda x, t: Saliency().fit(x.index_fill(0, torch.tensor([3]), math.nan), t), 'the grid has NaN'),
        (lambda x, t: Saliency(math.inf).fit(x.index_fill(0, torch.tensor([3]), math.inf), t), 'the grid has NaN'),
        (lambda x, t: Saliency().fit(x, t).density(x[:, :4]), r'\(30, 4, 6\), but the head was fitted on \(n, 9, 6\)'),
        (lambda x, t: Saliency().fit(x, t).density(x[0]), r'\(9, 6\), but the head was'),
        (lambda x, t: Saliency().fit(x, t).density(x.index_fill(0, torch.tensor([3]), math.nan)), 'the grid has NaN'),
        (
            lambda x, t: Saliency().fit(x[:, :8], t[:, :8] / t[:, :8].sum(1, keepdim=True)).maps(x[:, :8]),
            'not that of a square',
        ),
        (lambda x, t: interpolated(t, (8, 8)), 'not that of a square'),
        (lambda x, t: interpolated([], (8, 8)), 'not that of a square'),
        (lambda x, t: interpolated([0] * 4, (8, 8)), 'somewhere above 0'),
        (lambda x, t: interpolated([1, math.nan, 1, 1], (8, 8)), 'without NaN'),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call(*world())


def test_not_fitted():
    with pytest.raises(RuntimeError, match='call fit first'):
        Saliency().maps(world()[0])
