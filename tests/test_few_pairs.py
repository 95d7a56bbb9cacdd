"""Aligning frozen encoders with few pairs: every method against a naive twin, what released code does where it differs
from the paper, and clear words for too little data.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.data.synthetic import make_gaussian_views
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.evaluation.retrieval import evaluate_rows
from crossmodal_nb.losses.contrastive import info_nce, sigmoid_positives
from crossmodal_nb.losses.structure import jensen_shannon, released_divergence, similarity_levels, structure_loss
from crossmodal_nb.methods.anchors import ASIF, sparse_relative
from crossmodal_nb.methods.dual_encoder import CLIP, SigLIP, Triplet
from crossmodal_nb.methods.fusemix import FuseMix, scheduled_alpha
from crossmodal_nb.methods.linear import CCA
from crossmodal_nb.methods.maps import CSA, Procrustes, RidgeMap
from crossmodal_nb.methods.sail import SAIL
from crossmodal_nb.methods.structured import Structured
from crossmodal_nb.metrics.representations import choose_layers, cka, mutual_knn

wide = dict(image=14, text=10)
few_steps = dict(epochs=3, batch=16, accelerator='cpu')


def world(n=60, seed=0):
    return make_gaussian_views(n, wide, rho=(0.98,) * 6, seed=seed)


def scores(m, views):
    return m.score('image', views['image'].x, 'text', views['text'].x)


def cosines(x, y):
    return np.array([[u @ v / np.linalg.norm(u) / np.linalg.norm(v) for v in y] for u in x])


# Anchors


def naive_asif(q, anchors, k, power, negatives):
    "Relative representations, row by row and number by number"
    out = []
    for row in cosines(q, anchors):
        kept = sorted(range(len(row)), key=lambda j: (-row[j], j))[:k]
        r = [row[j] if j in kept else 0.0 for j in range(len(row))]
        if negatives == 'clamp':
            r = [max(v, 0.0) for v in r]
        r = np.array([v**power if v else 0.0 for v in r])
        out.append(r / np.linalg.norm(r) if r.any() else r)
    return np.array(out)


@pytest.mark.parametrize('k', [3, 20, 59])
@pytest.mark.parametrize('negatives', ['clamp', 'released'])
def test_asif_equals_a_loop(k, negatives):
    train, test = world(59), world(20, 1)
    m = ASIF(k, 4, negatives).fit(train)
    x, y = (naive_asif(test[v].x.numpy(), train[v].x.numpy(), k, 4, negatives) for v in wide)
    np.testing.assert_allclose(m.encode('image', test['image'].x).numpy(), x, atol=1e-5)
    np.testing.assert_allclose(scores(m, test).numpy(), x @ y.T, atol=1e-5)


def test_the_released_asif_takes_opposites_for_alike():
    "With all anchors kept, an even power turns a negative cosine into a positive one; clamped, it is 0"
    s = np.array([[0.5, -0.9, 0.1]], dtype=np.float32)
    released, clamped = (sparse_relative(s, 3, 8, n).toarray()[0] for n in ('released', 'clamp'))
    assert released.argmax() == 1 and clamped.argmax() == 0 and clamped[1] == 0
    assert np.array_equal(sparse_relative(s, 2, 8, 'released').toarray(), sparse_relative(s, 2, 8).toarray())


def test_ties_keep_the_earlier_anchors():
    s = np.array([[0.2, 0.7, 0.2, 0.2, 0.9]], dtype=np.float32)
    assert sparse_relative(s, 3, 1).toarray()[0].nonzero()[0].tolist() == [0, 1, 4]


def test_pairs_come_and_go_without_training():
    train, test = world(80), world(20, 1)
    whole = ASIF(10).fit(train)
    grown = ASIF(10).fit(train.subset(range(30))).partial_fit(train.subset(range(30, 80)))
    assert torch.equal(scores(grown, test), scores(whole, test))
    grown.forget(range(30))
    assert torch.equal(scores(grown, test), scores(ASIF(10).fit(train.subset(range(30, 80))), test))
    with pytest.raises(InputError, match='no pair of item 3'):
        grown.forget([3])
    with pytest.raises(InputError, match='k=10, but there are only 5 pairs'):
        scores(grown.forget(range(30, 75)), test)
    with pytest.raises(InputError, match='whole number'):
        ASIF(power=1.5, negatives='released')
    other = Views(image=View(torch.randn(4, 3)), text=View(torch.randn(4, 10)))
    with pytest.raises(InputError, match='earlier ones'):
        whole.partial_fit(other)
    assert torch.equal(scores(whole, test), scores(ASIF(10).fit(train), test))


# Closed forms


def test_the_ridge_map_is_scikit_learns():
    from sklearn.linear_model import Ridge

    train, test = world(40), world(15, 1)
    x, y = (train[v].x.double().numpy() for v in wide)
    variance = x.var(0, ddof=1).sum() / 14
    want = Ridge(alpha=2.0 * variance * 39).fit(x, y).predict(test['image'].x.double().numpy()) - y.mean(0)
    m = RidgeMap(2.0, 'second').fit(train)
    np.testing.assert_allclose(m.encode('image', test['image'].x.double()).numpy(), want, rtol=1e-4, atol=1e-5)
    in_x, in_y = (scores(m.with_params(space=s), test) for s in ('first', 'second'))
    torch.testing.assert_close(scores(m.with_params(space='both'), test), (in_x + in_y) / 2, rtol=1e-4, atol=1e-5)
    assert torch.equal(scores(m.with_params(ridge=5.0), test), scores(RidgeMap(5.0, 'second').fit(train), test))


@pytest.mark.parametrize('whiten', [False, True])
def test_procrustes_is_scipys(whiten):
    from scipy.linalg import orthogonal_procrustes
    from sklearn.decomposition import PCA

    train, test = world(50), world(15, 1)
    pca = {v: PCA(6, whiten=whiten, svd_solver='full').fit(train[v].x.double().numpy()) for v in wide}
    a, b = (pca[v].transform(train[v].x.double().numpy()) for v in wide)
    rotation = orthogonal_procrustes(a, b)[0]
    u, v = (pca[v].transform(test[v].x.double().numpy()) for v in wide)
    m = Procrustes(6, whiten).fit(train)
    np.testing.assert_allclose(scores(m, test).numpy(), cosines(u @ rotation, v), atol=1e-4)


def test_csa_has_the_numerator_of_half_weighted_cca_and_another_norm():
    train, test = world(300), world(40, 1)
    cca = CCA(8, 0.1, rho_power=0).fit(train)
    a, b = (cca.encode(v, test[v].x.double()).numpy() for v in wide)
    rho = cca.rho.numpy()
    csa = CSA(8, 0.1, normalise=False).fit(train)
    got = csa.score('image', test['image'].x.double(), 'text', test['text'].x.double()).numpy()
    numerator = [[sum(r * u * v for r, u, v in zip(rho, x, y)) for y in b] for x in a]
    want = [[n / math.dist(x, 0 * x) / math.dist(y, 0 * y) for n, y in zip(row, b)] for row, x in zip(numerator, a)]
    np.testing.assert_allclose(got, want, atol=1e-9)
    half = cca.with_params(rho_power=0.5)
    dot = scores(half.with_params(similarity='dot'), test)
    np.testing.assert_allclose(dot.numpy(), numerator, rtol=1e-3, atol=1e-4)
    assert not np.allclose(scores(half, test).numpy(), got, atol=0.05)
    equal = scores(csa.with_params(equal=True), test)
    np.testing.assert_allclose(equal.numpy(), cosines(a, b), atol=1e-4)


def test_csa_takes_rows_at_length_one():
    train, test = world(100), world(20, 1)
    longer = Views({v: View(x.x * torch.linspace(0.1, 9, len(x))[:, None]) for v, x in train.items()})
    torch.testing.assert_close(scores(CSA(5).fit(longer), test), scores(CSA(5).fit(train), test), rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match='12 pairs for 14 columns: without a ridge'):
        CSA(5, ridge=0).fit(world(12))


@pytest.mark.filterwarnings('ignore:.*training correlations say nothing')
@pytest.mark.parametrize(
    'make',
    [
        lambda: RidgeMap(),
        lambda: Procrustes(1),
        lambda: CSA(1),
        lambda: ASIF(2),
        lambda: CLIP(dim=4, hidden=0, trainer=few_steps),
        lambda: SAIL(dim=4, trainer=few_steps),
        lambda: Structured(CLIP(dim=4, hidden=0, trainer=few_steps)),
    ],
)
def test_two_pairs_give_numbers_or_a_reason(make):
    test = world(6, 1)
    s = scores(make().fit(world(2)), test)
    assert s.shape == (6, 6) and s.isfinite().all()


@pytest.mark.parametrize('make', [RidgeMap, lambda: Procrustes(1)])
def test_one_pair_is_too_few(make):
    with pytest.raises(InputError, match='two pairs'):
        scores(make().fit(world(1)), world(4, 1))


def test_more_dimensions_than_pairs():
    with pytest.raises(InputError, match='dim=8, but only 4 principal components'):
        scores(Procrustes(8).fit(world(5)), world(4, 1))
    assert Procrustes(8).fit(world(5)).rank == 4


# Structure


def naive_structure(before, after, tau, levels):
    def power(z):
        z = np.array([r / np.linalg.norm(r) for r in z])
        z = z - z.mean(0)
        e = np.exp(z @ z.T / tau)
        first = e / e.sum(1, keepdims=True)
        return [np.linalg.matrix_power(first, level) for level in range(1, levels + 1)]

    def js(p, q):
        m = (p + q) / 2
        return sum(a * math.log(a / c) + b * math.log(b / c) for a, b, c in zip(p, q, m)) / 2

    pairs = enumerate(zip(power(before), power(after)), 1)
    return sum(np.mean([js(p, q) for p, q in zip(P, Q)]) / level for level, (P, Q) in pairs) / levels


def test_structure_equals_a_loop_and_has_a_gradient():
    g = np.random.default_rng(0)
    x, z = g.standard_normal((9, 6)), g.standard_normal((9, 4))
    for levels in (1, 3):
        got = structure_loss(torch.tensor(x), torch.tensor(z), 0.2, levels)
        assert got.item() == pytest.approx(naive_structure(x, z, 0.2, levels), rel=1e-9)
    t = torch.tensor(z, requires_grad=True)
    for divergence in ('js', 'released'):
        for weighting in ('inverse', 'equal'):
            assert torch.autograd.gradcheck(
                lambda t, w=weighting, d=divergence: structure_loss(torch.tensor(x), t, 0.2, 2, w, d), t
            )
    assert all(torch.allclose(p.sum(1), torch.ones(9).double()) for p in similarity_levels(torch.tensor(x), 0.2, 3))


def test_the_released_divergence_is_not_jensen_shannon():
    p, q = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double()
    assert jensen_shannon(p, q).item() == pytest.approx(math.log(2))
    released = [released_divergence(p, q, eps).item() for eps in (1e-4, 1e-8, 1e-12)]
    assert math.log(2) < released[0] < released[1] - 4 < released[2] - 8
    g = torch.Generator().manual_seed(0)
    p, q = (torch.rand(200, 7, generator=g).double().pow(9).softmax(1) for _ in range(2))
    js = jensen_shannon(p, q)
    assert (js >= 0).all() and (js <= math.log(2)).all()
    from scipy.spatial.distance import jensenshannon

    np.testing.assert_allclose(js, jensenshannon(p.numpy(), q.numpy(), axis=1) ** 2, rtol=1e-4)


@pytest.mark.parametrize('inner', [CLIP, SigLIP, Triplet])
def test_without_weight_the_regulariser_changes_nothing(inner):
    train, test = world(64), world(20, 1)
    plain = inner(dim=6, hidden=8, trainer=few_steps).fit(train)
    beside = Structured(inner(dim=6, hidden=8, trainer=few_steps), weight=0).fit(train)
    torch.testing.assert_close(scores(beside, test), scores(plain, test), rtol=1e-4, atol=1e-5)


def test_the_weight_warms_up_and_unpaired_rows_join():
    pairs, more = world(32), world(60, 5)
    views = Views(
        image=View(torch.cat([pairs['image'].x, more['image'].x]), item=[*range(32), *range(100, 160)]),
        text=pairs['text'],
    )
    settings = dict(dim=6, hidden=8, init='random', trainer=dict(few_steps, batch=16))
    fits = {n: Structured(CLIP(**settings), 5.0, warmup=100, unpaired=n).fit(views) for n in (0, 20)}
    assert not fits[0].extra and {v: len(x['pooled']) for v, x in fits[20].extra.items()} == dict(image=60)
    assert int(fits[20].step) == 6
    assert not torch.equal(scores(fits[0], pairs), scores(fits[20], pairs))
    with pytest.raises(InputError, match='FuseMix cannot be regularised'):
        Structured(FuseMix())


# Heads


def test_fusemix_trains_on_halves_as_released():
    train = world(16)
    m = FuseMix(dim=6, dropout=0, trainer=few_steps)
    m.infer_schema(train)
    m.build()
    batch = train.batch(range(16), seed=7)
    lam = np.random.default_rng(7).beta(1.0, 1.0)
    mixed = {v: lam * x.x[:8] + (1 - lam) * x.x[8:] for v, x in batch.items()}
    z = {v: m.net(v, dict(pooled=x.float())) for v, x in mixed.items()}
    want = info_nce(z['image'], z['text'], 1 / 0.07)
    logits = nn.functional.normalize(z['image'], dim=1) @ nn.functional.normalize(z['text'], dim=1).T / 0.07
    by_hand = sum(nn.functional.cross_entropy(s, torch.arange(8)) for s in (logits, logits.T)) / 2
    torch.testing.assert_close(m(batch)['loss'], want)
    torch.testing.assert_close(want, by_hand)
    with torch.no_grad():
        m.tau.fill_(3.0)
    m.after_step()
    assert m.tau == 0.5


@pytest.mark.parametrize('n', [7, 2])
def test_fusemix_needs_halves(n):
    with pytest.raises(InputError, match=f'a batch of {n} pairs cannot be cut into two halves'):
        FuseMix(trainer=few_steps).fit(world(n))
    s = scores(FuseMix(alpha=0, dim=4, trainer=few_steps).fit(world(7)), world(5, 1))
    assert s.isfinite().all()


def test_alpha_goes_from_its_first_value_to_its_last():
    for schedule in ('cosine', 'exponential'):
        line = [scheduled_alpha(e, 10, 0.1, 0.8, schedule) for e in range(11)]
        assert line[0] == pytest.approx(0.1) and line[-1] == pytest.approx(0.8) and line == sorted(line)
    assert scheduled_alpha(5, 10, 0.1, 0.9, 'exponential') == pytest.approx(0.3)
    with pytest.raises(InputError, match='above 0'):
        FuseMix(alpha=1.0, alpha_first=0.0)


def test_all_captions_are_positives():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 5, generator=g).double(), torch.randn(7, 5, generator=g).double()
    item_b = torch.tensor([0, 0, 1, 2, 2, 2, 9])
    total = 0.0
    for i, u in enumerate(a):
        for j, v in enumerate(b):
            sign = 1 if item_b[j] == i else -1
            total += math.log1p(math.exp(-sign * (4 * float(u @ v / u.norm() / v.norm()) - 1)))
    got = sigmoid_positives(a, b, torch.arange(3), item_b, 4.0, -1.0)
    assert got.item() == pytest.approx(total / 3)
    a.requires_grad_()
    assert torch.autograd.gradcheck(lambda a: sigmoid_positives(a, b, torch.arange(3), item_b, 4.0, -1.0), a)


def test_sail_learns_from_all_captions_of_a_batch():
    x = world(40)
    text = View(torch.cat([x['text'].x, x['text'].x + 0.1]), item=[*range(40), *range(40)])
    m = SAIL(captions=2, expansion=1, dim=6, trainer=few_steps)
    batch = m.training_views(Views(image=x['image'], text=text)).batch(range(10))
    assert len(batch['image']) == 10 and len(batch['text']) == 20
    m.fit(Views(image=x['image'], text=text))
    s = m.score('image', x['image'].x, 'text', text.x)
    assert s.shape == (40, 80) and s.isfinite().all()


# Before any training


def test_mutual_neighbours_and_cka_equal_loops():
    x, y = (world(25)[v].x.double().numpy() for v in wide)

    def near(z, i):
        s = cosines(z[[i]], z)[0]
        s[i] = -9
        return set(np.argsort(-s)[:4])

    want = np.mean([len(near(x, i) & near(y, i)) / 4 for i in range(25)])
    assert mutual_knn(x, y, 4) == pytest.approx(want)

    def hsic(a, b):
        "Song et al. 2012, as a sum over tuples of different rows"
        n, K, L = len(a), (a - a.mean(0)) @ (a - a.mean(0)).T, (b - b.mean(0)) @ (b - b.mean(0)).T
        pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
        first = sum(K[i, j] * L[i, j] for i, j in pairs) / (n * (n - 1))
        second = sum(K[i, j] * L[i, q] for i, j in pairs for q in range(n) if q not in (i, j))
        third = sum(
            K[i, j] * sum(L[q, r] for q in range(n) for r in range(n) if len({i, j, q, r}) == 4) for i, j in pairs
        )
        return first - 2 * second / (n * (n - 1) * (n - 2)) + third / (n * (n - 1) * (n - 2) * (n - 3))

    a, b = x[:9], y[:9]
    assert cka(a, b) == pytest.approx(hsic(a, b) / (hsic(a, a) * hsic(b, b)) ** 0.5, rel=1e-6)


def test_layers_are_chosen_and_too_few_rows_refused():
    x = world(40)
    noise = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    chosen, scored = choose_layers({3: noise, 9: x['image'].x}, {6: x['text'].x, 12: noise.roll(7, 0)})
    assert chosen == (9, 6) and len(scored) == 4 and scored[chosen] == max(scored.values())
    with pytest.raises(InputError, match='10 neighbours need at least 11 rows, and there are 5'):
        mutual_knn(noise[:5], noise[:5])
    with pytest.raises(InputError, match='need at least 4 rows'):
        cka(noise[:3], noise[:3])
    with pytest.raises(InputError, match='5 and 4 rows'):
        mutual_knn(noise[:5], noise[:4])
    assert cka(torch.ones(6, 2), noise[:6]) == 0


def test_all_of_them_find_partners():
    train, test = world(200), world(50, 1)
    made = [RidgeMap(), CSA(6, 0.1), ASIF(100, 4), FuseMix(dim=16, trainer=dict(few_steps, epochs=30))]
    for m in made:
        rows = evaluate_rows(m.fit(train), test, boot=0, permutations=0)
        value = np.mean([r['value'] for r in rows if r['metric'] == 'R@10'])
        assert value > 2 * 10 / 50, (m, value)
