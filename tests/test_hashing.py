"""Hashing beyond its notebook: extremes, codes without a 0, several rows an item, labels that say little, kill and
resume, several processes, towers.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.data.synthetic import make_class_views
from crossmodal_nb.data.views import View, Views, concat_rows
from crossmodal_nb.encoders import text
from crossmodal_nb.evaluation.selection import checker
from crossmodal_nb.losses.hashing import dcmh, label_affinity
from crossmodal_nb.methods import end_to_end, seph
from crossmodal_nb.methods.base import Method
from crossmodal_nb.methods.dcmh import DCMH, DCMHEndToEnd
from crossmodal_nb.methods.hashing import CCAITQ, DSCMRHash, Hash, imbalance, itq, labelled_items, quantisation
from crossmodal_nb.methods.saving import methods
from crossmodal_nb.methods.seph import SePH, logistic, seph_codes
from crossmodal_nb.nn.trainer import Trainer

WIDE = dict(image=24, text=20, audio=12)


def world(n=120, classes=4, seed=0, views=('image', 'text')):
    "Row i of all views is one item"
    return Views(
        {
            v: View(x.x, y=x.y)
            for v, x in make_class_views(n, WIDE, dict(image=2.0, text=2.0, audio=2.0), classes, seed=seed).items()
        }
    ).select(*views)


train, test = world(), world(60, seed=1)
run = dict(epochs=4, batch=40, lr=3e-3, accelerator='cpu')
hashes = {name: c for name, c in methods().items() if issubclass(c, Hash)}
small = {
    CCAITQ: {},
    DCMH: dict(gamma=10.0, hidden=32, trainer=run),
    DCMHEndToEnd: dict(gamma=10.0, hidden=32, trainer=run),
    SePH: dict(anchors=40, iterations=40),
    DSCMRHash: dict(hidden=32, trainer=run),
}
each_method = pytest.mark.parametrize('cls', small)


def new(cls, **k):
    return cls(**dict(bits=16) | small[cls] | k)


def randn(*s, seed=0):
    return torch.randn(*s, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_all_are_here():
    assert set(hashes.values()) == set(small)


# ---------------------------------------------------------------- codes
@each_method
def test_codes_are_signs_and_there_is_no_0(cls, monkeypatch):
    m = new(cls).fit(train)
    z = m.encode('image', test['image'].x)
    assert (
        z.shape == (60, 16)
        and z.dtype == torch.float32
        and set(z.unique().tolist()) <= {-1.0, 1.0}
        and m.encode('text', test['text'].x[:0]).shape == (0, 16)
    )
    monkeypatch.setattr(
        cls, 'real', lambda self, view, x: torch.tensor([[0.0, -0.0, 1e-300, -1e-30]], dtype=torch.double)
    )
    assert m.encode('image', test['image'].x).tolist() == [[1.0, 1.0, 1.0, -1.0]]
    with pytest.raises(InputError, match='bits is 0'):
        new(cls, bits=0)


@each_method
@pytest.mark.parametrize('bits', (1, 3, 70))
def test_any_number_of_bits(cls, bits, tmp_path):
    m = new(cls, bits=bits).fit(train)
    m.save(tmp_path)
    assert m.encode('text', test['text'].x).shape == (60, bits) and torch.equal(
        Method.load(tmp_path).real('text', test['text'].x), m.real('text', test['text'].x)
    )


@each_method
def test_fitted_again_it_is_new(cls):
    m = new(cls).fit(world(90, seed=3)).fit(train)
    assert torch.equal(m.real('image', test['image'].x), new(cls).fit(train).real('image', test['image'].x))


@each_method
def test_more_views_or_a_word_about_it(cls):
    three = world(views=WIDE)
    if cls is CCAITQ:
        with pytest.raises(ValueError, match='2 views'):
            new(cls).fit(three)
    else:
        assert new(cls).fit(three).score('audio', three['audio'].x, 'text', three['text'].x).shape == (120, 120)


# ---------------------------------------------------------------- labels
learners = pytest.mark.parametrize('cls', [c for c in small if c is not CCAITQ])


@learners
def test_labels_that_say_little(cls):
    y = train['image'].y.clone()
    y[:30] = -1
    y[30] = 77  # some have none, one is alone in its class, numbers have gaps
    some = Views({v: View(x.x, y=y) for v, x in train.items()})
    m = new(cls).fit(some)
    assert m.real('image', test['image'].x).isfinite().all()
    if cls is not DSCMRHash:
        assert labelled_items(some)[1].tolist() == list(range(30, 120))
    for labels, message in ((None, 'no labels'), (0 * y, 'one class'), (torch.full((120,), -1), 'no item')):
        with pytest.raises(InputError, match=message):
            new(cls).fit(Views({v: View(x.x, y=labels) for v, x in train.items()}))
    unpaired = Views({v: View(x.x, y=x.y, item=1000 * j + torch.arange(120)) for j, (v, x) in enumerate(train.items())})
    with pytest.raises(InputError, match='in every one'):
        new(cls).fit(unpaired)


@learners
def test_several_labels_an_item_and_items_with_none(cls):
    y = F.one_hot(train['image'].y, 5) | F.one_hot((train['image'].y + 1) % 4, 5)
    y[:7] = 0
    multi_label = Views({v: View(x.x, y=y) for v, x in train.items()})
    m = new(cls).fit(multi_label)
    assert m.real('text', test['text'].x).isfinite().all()


@learners
def test_one_hot_labels_are_classes(cls):
    hot = Views({v: View(x.x, y=F.one_hot(x.y, 4)) for v, x in train.items()})
    first, two = (new(cls).fit(v).real('image', test['image'].x) for v in (train, hot))
    assert torch.allclose(first, two, atol=1e-3)


@learners
def test_several_rows_of_an_item(cls):
    "Five captions a picture, rows in any order: one code an item"
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    captions = concat_rows(
        *[train['text'].with_features(train['text'].x + 0.1 * randn(120, 20, seed=s).float()) for s in range(5)]
    )[order]
    five = Views(image=train['image'], text=captions)
    m = new(cls).fit(five)
    if isinstance(m, DCMH):
        assert (
            m.stored.shape == (2, 120, 16)
            and m.items.tolist() == list(range(120))
            and torch.equal(m.y, train['image'].y)
        )
    assert checker(test, relevance='label')(m) > 0.3  # chance is .25


def test_what_is_shared_by_nobody_cannot_be_learnt():
    with pytest.raises(InputError, match='no two of 9'):
        seph_codes(torch.arange(9), 8)


# ---------------------------------------------------------------- DCMH
def losses(m, f, g, at, views=train):
    batch = views.batch(torch.as_tensor(at), seed=0)
    return m.losses(dict(image=f, text=g), batch)


def test_dcmh_is_the_loss_of_all_items():
    "With every item in the batch it is the loss of the paper, of the view that learns, over n²"
    m = new(DCMH).fit(train)
    m.eval()
    m.epoch = 0
    f, g = randn(120, 16).float().requires_grad_(), m.stored[1]
    s = train['image'].y[:, None] == train['image'].y
    B = torch.where(m.stored.sum(0) < 0, -1.0, 1.0)
    assert torch.equal(m.B, B)
    full = dcmh(f, g, s, B, m.gamma, m.eta)
    batch_losses = losses(m, f, g, range(120))
    assert torch.allclose(
        torch.autograd.grad(batch_losses['loss'], f)[0] * 120**2,
        torch.autograd.grad(full['loss'], f)[0],
        rtol=1e-4,
        atol=1e-2,
    )
    assert torch.allclose(batch_losses['nll'] * 120**2, full['nll'], rtol=1e-4)


@pytest.mark.parametrize('size', (0.0, 1e-20, 1e4, 1e10))
def test_dcmh_at_the_extremes(size):
    m = new(DCMH, gamma=0.0, eta=0.0).fit(train)
    m.train()
    m.epoch = 0
    m.stored.fill_(size)
    f = torch.full((2, 16), -size).requires_grad_()
    loss = losses(m, f, f.detach(), [3, 8])['loss']
    (grad,) = torch.autograd.grad(loss, f)
    assert loss.isfinite() and grad.isfinite().all() and (m.B == 1).all()  # sign(0) and the sign of what cancels
    if size == 0:
        assert abs(loss.item() - math.log(2)) < 1e-6


def test_dcmh_writes_only_while_it_learns_and_only_in_its_turn():
    m = new(DCMH).fit(train)
    f, g, old = randn(3, 16).float(), randn(3, 16, seed=1).float(), m.stored.clone()
    m.eval()
    losses(m, f, g, [4, 5, 6])
    assert torch.equal(m.stored, old)
    for m.epoch, new_rows in ((4, f), (7, g)):
        m.train()
        losses(m, f, g, [4, 5, 6])
        assert torch.equal(m.stored[m.epoch % 2, 4:7], new_rows)
    changed = (m.stored != old).any(2)
    assert changed[:, 4:7].all() and changed.sum() == 6
    assert [m.lr_multipliers(e) for e in range(3)] == [
        {'heads.image.': 1.0, 'heads.text.': 0.0},
        {'heads.image.': 0.0, 'heads.text.': 1.0},
        {'heads.image.': 1.0, 'heads.text.': 0.0},
    ]


def test_one_network_waits_while_the_other_learns():
    visited = []
    new(DCMH, trainer=run).fit(
        train, lambda m: visited.append({k: v.clone() for k, v in m.state_dict().items()}) or float(m.epoch)
    )
    for e in range(1, 4):
        for v, j in (('image', 0), ('text', 1)):
            moved = any(
                not torch.equal(visited[e][k], visited[e - 1][k]) for k in visited[e] if k.startswith(f'heads.{v}.')
            )
            assert moved == (e % 2 == j)


def test_dcmh_is_saved_without_its_store_and_goes_on_with_it(tmp_path):
    m = new(DCMH).fit(train)
    m.save(tmp_path)
    again = Method.load(tmp_path)
    assert 'stored' in m.state_dict() and 'stored' not in again.state_dict()
    assert torch.equal(again.fit(train).real('text', test['text'].x), m.real('text', test['text'].x))


def fit(cls, dropout=0.3, validate=lambda m: -abs(m.epoch - 3.0), **trainer):
    return new(cls, dropout=dropout, trainer=run | dict(epochs=5) | trainer).fit(train, validate)


def plain(history):
    return [{k: v for k, v in r.items() if k != 'seconds'} for r in history]


taught = pytest.mark.parametrize('cls', (DCMH, DSCMRHash))


@taught
@pytest.mark.parametrize('epochs', (1, 2, 3))
def test_killed_and_resumed(cls, epochs, tmp_path, monkeypatch):
    full, keep, kept = fit(cls), Trainer._keep, []

    def dying(*args):
        keep(*args)
        kept.append(1)
        if len(kept) == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, '_keep', dying)
    with pytest.raises(KeyboardInterrupt):
        fit(cls, ckpt=str(tmp_path))
    again = fit(cls, ckpt=str(tmp_path))
    assert len(kept) == 5 and plain(again.history) == plain(full.history)
    assert all(torch.equal(p, again.state_dict()[name]) for name, p in full.state_dict().items())


@taught
def test_two_processes_are_one(cls):
    first, two = fit(cls, 0.0, None, epochs=3), fit(cls, 0.0, None, epochs=3, devices=2)
    for r, s in zip(plain(first.history), plain(two.history), strict=True):
        assert all(r[k] == pytest.approx(s[k], rel=1e-4, abs=1e-6) for k in r)
    for name, p in first.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], p, rtol=1e-3, atol=1e-4)


def test_end_to_end(monkeypatch, tmp_path):
    """A small random transformer for texts, vectors as they are: the tower waits until `unfreeze_epoch`, then learns
    when its view does
    """
    from transformers import BertConfig

    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    monkeypatch.setitem(end_to_end.learnable, 'MiniLM', lambda: text.Bert(config, layer=-1, unit=True))
    y = torch.arange(24) % 3
    words = ['a red circle', 'the large blue sea', 'bread']
    views = Views(
        image=View(F.one_hot(y, 3).float() + 0.1 * randn(24, 3).float(), y=y), text=View([words[k] for k in y], y=y)
    )
    visited = []

    def check(m):
        visited.append({k: v.clone() for k, v in m.state_dict().items() if k.startswith('towers')})
        return float(m.epoch)

    m = DCMHEndToEnd(
        unfreeze_epoch=2,
        encoder_lr_scale=0.5,
        bits=8,
        gamma=1.0,
        eta=0.01,
        hidden=16,
        trainer=dict(epochs=6, batch=12, lr=0.01, accelerator='cpu'),
    ).fit(views, check)
    moved = [any(not torch.equal(b[k], a[k]) for k in a) for a, b in zip(visited, visited[1:])]
    assert moved == [False, False, True, False, True] and list(m.towers) == [
        'text'
    ]  # epochs 1 to 5; the text's turn is in odd ones
    m.save(tmp_path)
    again = Method.load(tmp_path)
    assert torch.equal(again.real('text', views['text'].x), m.real('text', views['text'].x))
    s = m.score('image', views['image'].x, 'text', views['text'].x)
    assert s[y[:, None] == y].mean() > s[y[:, None] != y].mean()


# ---------------------------------------------------------------- SePH
def test_unified_codes_are_those_of_bayes():
    "p(b | x₁ … x_V) ∝ p(b) Π p(b | x_v) / p(b), by hand, over both values of each bit"
    three, y = world(views=WIDE), torch.tensor([0, 0, 0, 1]).repeat(30)  # bits are far from even
    three = Views({v: View(x.x + 2 * randn(*x.x.shape, seed=9).float(), y=y, item=x.item) for v, x in three.items()})
    m = new(SePH).fit(three)
    prior, odds = m.tensors['prior'].exp(), [m.real(v, three[v].x) for v in three]
    assert (prior.log().abs() > 0.5).any()

    def weigh(b):
        return torch.stack([torch.sigmoid(b * o) / torch.sigmoid(b * prior.log()) for o in odds]).prod(
            0
        ) * torch.sigmoid(b * prior.log())

    sure = (weigh(1) / weigh(-1)).log().abs() > 1e-6  # a bit that is as likely +1 as -1 is decided by rounding
    assert sure.double().mean() > 0.99
    assert torch.equal(m.unified(three)[sure], torch.where(weigh(1) >= weigh(-1), 1.0, -1.0)[sure])
    assert (
        m.unified(three) != torch.where(sum(odds) < 0, -1.0, 1.0)
    ).any()  # without the prior it would be another code


def test_unified_codes_follow_the_items():
    "Rows in any order, several an item, items that a view has not"
    m = new(SePH).fit(train)
    r = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    shuffled = Views(image=test['image'][torch.arange(40)], text=test['text'][torch.cat([r, r])])
    assert shuffled.shared_items.tolist() == list(range(40))
    assert (m.unified(shuffled) == m.unified(test)[:40]).double().mean() > 0.995  # but for logits of about 0


def test_a_row_twice_at_half_the_weight_is_a_row():
    K, B = randn(50, 8), torch.where(randn(50, 3, seed=1) < 0, -1.0, 1.0).double()
    first, two = (
        logistic(K, B, 0.3),
        logistic(torch.cat([K, K]), torch.cat([B, B]), 0.3, torch.full((100, 1), 0.5).double()),
    )
    assert torch.allclose(first, two, atol=1e-5)


@pytest.mark.parametrize('l2', (1e-2, 1.0, 100.0))
def test_logistic_is_at_its_minimum(l2):
    K, B = (
        randn(200, 30) * torch.logspace(0, -4, 30),
        torch.where(randn(200, 5, seed=1) < 0, -1.0, 1.0).double(),
    )  # badly conditioned
    W = logistic(K, B, l2).requires_grad_()
    (grad,) = torch.autograd.grad(F.softplus(-B * (K @ W)).sum() + l2 / 2 * W.square().sum(), W)
    assert grad.abs().max() < 1e-4


def test_few_rows_many_anchors_and_columns_that_say_nothing():
    x = torch.cat([train['image'].x, torch.ones(120, 2)], 1)
    x[:60] = x[60:]  # 60 distinct rows, two constant columns
    y = (train['image'].y).clone()
    y[:60] = y[60:]
    odd = Views(image=View(x, y=y), text=View(train['text'].x, y=y))
    m = new(SePH, anchors=500).fit(odd)
    assert len(m.tensors['anchors.image']) == 60 and m.real('image', 1e6 * x).isfinite().all()


def test_a_sample_of_the_items_is_seeded():
    a, b, c = (new(SePH, max_items=50, seed=s).fit(train).real('text', test['text'].x) for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_the_best_codes_met_with_are_kept():
    y = train['image'].y
    C, history = seph_codes(y, 8, iterations=30, generator=torch.Generator().manual_seed(0))
    assert len(history) == 31 and torch.isclose(
        seph.seph(C, label_affinity(y))['loss'], torch.tensor(min(r['loss'] for r in history)), rtol=1e-4
    )


# ---------------------------------------------------------------- ITQ and the hybrid
@pytest.mark.parametrize('bits', (5, 6, 31))
def test_itq_keeps_inner_products_and_never_gets_worse(bits):
    V = randn(200, 5) * torch.tensor([9.0, 3.0, 1.0, 1e-3, 0.0])
    R, errors = itq(V, bits, 30)
    assert torch.allclose(V @ R @ R.T @ V.T, V @ V.T) and all(b <= a + 1e-12 for a, b in zip(errors, errors[1:]))
    assert errors == pytest.approx(itq(1e6 * V, bits, 30)[1])  # whatever the unit
    with pytest.raises(ValueError, match='coordinates'):
        itq(V, 4)


def test_more_bits_than_canonical_coordinates():
    m = CCAITQ(64).fit(train)
    assert m.cca.dim == 20 and m.R.shape == (20, 64) and CCAITQ(8).fit(train).R.shape == (8, 8)


def test_gradients_of_quantisation_and_balance():
    z = randn(6, 4).requires_grad_()
    assert gradcheck(quantisation, z) and gradcheck(imbalance, z)


def test_quantisation_enters_slowly():
    m = new(DSCMRHash, gamma=5.0).fit(train)
    batch = train.batch(torch.arange(30), seed=0)
    z = {v: randn(30, 16, seed=j).float() for j, v in enumerate(train)}
    for m.epoch in range(4):
        out = m.losses(z, batch)
        assert torch.isclose(
            out['loss'],
            out['J1']
            + m.lam * out['J2']
            + m.eta * out['J3']
            + m.epoch / 3 * 5 * out['quantisation']
            + m.beta * out['balance'],
        )
    identical = DSCMRHash(
        gamma=0.0,
        beta=0.0,
        **{k: v for k, v in new(DSCMRHash).get_params(deep=False).items() if k not in ('gamma', 'beta')},
    ).fit(train)
    from crossmodal_nb.methods.dscmr import DSCMR

    real = DSCMR(lam=0.3, eta=0.3, dim=16, hidden=32, trainer=run).fit(train)
    assert torch.allclose(
        identical.real('image', test['image'].x), real.encode('image', test['image'].x), rtol=1e-4, atol=1e-5
    )
