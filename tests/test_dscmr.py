"Methods that learn from labels: what their lessons do not say"

import pytest
import torch
import torch.nn.functional as F

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.data.synthetic import make_class_views
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.evaluation.selection import checker
from crossmodal_nb.methods.acmr import ACMR, nearest_non_match
from crossmodal_nb.methods.base import Method
from crossmodal_nb.methods.cmgan import CMGAN
from crossmodal_nb.methods.dscmr import DSCMR, ClassOrdered, DSCMRReference, orders
from crossmodal_nb.methods.semantic import SCM, SM, LabelledCCA

deep = (DSCMR, DSCMRReference, ACMR, CMGAN)


def world(n=120, classes=4, seed=0, views=('image', 'text'), label=lambda y: y):
    "Row i of all views is one item"
    results = make_class_views(
        n, {v: 12 + 4 * j for j, v in enumerate(views)}, dict.fromkeys(views, 1.5), classes=classes, seed=seed
    )
    return Views({v: View(x.x, y=label(x.y)) for v, x in results.items()})


def short(cls):
    return cls(
        **cls.example().get_params(deep=False)
        | (
            dict(epochs=2)
            if cls is DSCMRReference
            else dict(trainer=dict(epochs=2, batch=40, lr=3e-3, accelerator='cpu'))
        )
    )


def several(y):
    return F.one_hot(y, 5) | F.one_hot((y + 1) % 5, 5)


@pytest.mark.parametrize('order', orders)
@pytest.mark.parametrize(
    'label',
    [
        lambda y: torch.where(torch.arange(len(y)) % 4 == 0, -1, y),
        lambda y: several(y) * (torch.arange(len(y)) % 4 > 0)[:, None],
    ],
)
def test_rows_without_a_label_are_never_dealt(order, label):
    dealt = ClassOrdered(world(label=label), order)
    assert len(dealt.shared_items) == 90
    for seed in range(20):
        batch = dealt.batch(dealt.shared_items[:16], seed=seed)
        assert (
            all((v.item % 4 > 0).all() and torch.equal(v.item, batch.item) for v in batch.values())
            and len(batch.item) == 16
        )


def test_an_item_has_several_rows():
    w = world()
    twice = Views(
        image=w['image'],
        text=View(torch.cat([w['text'].x] * 2), y=torch.cat([w['text'].y] * 2), item=torch.cat([w['text'].item] * 2)),
    )
    for order in orders:
        batch = ClassOrdered(twice, order).batch(torch.arange(30), seed=1)
        assert torch.equal(batch['image'].item, batch['text'].item) and torch.equal(batch['image'].y, batch['text'].y)


@pytest.mark.parametrize('cls', deep)
@pytest.mark.parametrize('views', [('image', 'text'), ('image', 'text', 'audio')])
def test_several_labels_and_views(cls, views):
    m = short(cls).fit(world(views=views, label=several))
    assert m.classes == 5 and all(torch.isfinite(m.encode(v, x.x)).all() for v, x in world(views=views, seed=1).items())


@pytest.mark.parametrize('cls', deep)
def test_the_seed_decides(cls):
    w = world()
    a, b = short(cls).fit(w), (torch.randn(7), short(cls).fit(w))[1]
    assert torch.equal(a.encode('image', w['image'].x), b.encode('image', w['image'].x))


@pytest.mark.parametrize('cls', (*deep, SM, SCM, LabelledCCA))
def test_what_cannot_be_learnt_from_is_refused(cls):
    def m():
        return short(cls) if cls in deep else cls()

    with pytest.raises(InputError, match='no labels'):
        m().fit(Views({v: View(x.x) for v, x in world().items()}))
    with pytest.raises(InputError, match='class'):
        m().fit(world(label=torch.zeros_like))


def test_labels_of_different_kinds_are_refused():
    w = world()
    with pytest.raises(InputError, match='different kinds'):
        short(DSCMR).fit(Views(image=w['image'], text=View(w['text'].x, y=several(w['text'].y))))


def test_a_negative_shares_no_label():
    u, v, y = torch.randn(40, 3), torch.randn(40, 3), several(torch.arange(40) % 5)
    has, n = nearest_non_match(u, v, y)
    assert len(has) == 40 and ((y[has] * y[n[has]]).sum(1) == 0).all()
    d = torch.cdist(u, v)
    for i in has.tolist():
        assert d[i, n[i]] <= min(d[i, j] for j in range(40) if not (y[i] * y[j]).any()) + 1e-5


def test_a_class_that_one_view_lacks_is_never_said(tmp_path):
    w = world(classes=5)
    few = Views(image=w['image'], text=w['text'][w['text'].y != 2])
    m = SM().fit(few)
    p = m.encode('text', w['text'].x)
    assert p.shape[1] == 5 and (p[:, 2] == 0).all() and torch.allclose(p.sum(1), torch.ones(len(p)))
    m.save(tmp_path / 'm')
    assert torch.equal(Method.load(tmp_path / 'm').encode('text', w['text'].x), p)


def test_two_classes():
    w = world(classes=2)
    p = SM().fit(w).encode('image', w['image'].x)
    assert (
        torch.allclose(p.sum(1), torch.ones(len(p))) and ((p[:, 1] > 0.5).long() == w['image'].y).double().mean() > 0.8
    )


def test_the_released_loop_keeps_its_best_epoch():
    w, valid, reported = world(), world(seed=1), iter([0.5, 0.7, 0.7, 0.6])
    kept = []

    def check(m):
        kept.append({k: v.clone() for k, v in m.state_dict().items()})
        return next(reported)

    m = DSCMRReference(**DSCMRReference.example().get_params(deep=False) | dict(epochs=4)).fit(w, check)
    assert (
        all(torch.equal(v, kept[1][k]) for k, v in m.state_dict().items())
        and checker(valid, relevance='label')(m) > 0.25
    )
