"""What the losses notebook cannot say well: one law and one set of bad inputs for every loss, gradients against
differences, precision.
"""

import warnings

import pytest
import torch
from torch.autograd import gradcheck

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.losses.adversarial import gradient_reversal
from crossmodal_nb.losses.contrastive import (
    info_nce,
    masked_region_kl,
    pairwise_cosine,
    queue_nce,
    rerank_nce,
    sigmoid_pairs,
    triplet,
    triplet_hinge,
)
from crossmodal_nb.losses.correlation import barlow_twins, cca_corr, gcca_corr, l2_after_bn, soft_decorrelation
from crossmodal_nb.losses.hashing import dcmh, dcmh_rows, label_affinity, seph
from crossmodal_nb.losses.supervised import acmr_triplet, dscmr, semi_hard_triplet

MINING, POSITIVES = ('mean', 'sum', 'max', 'adaptive', 'semi-hard'), ('mask', 'supcon', 'inside')


def masked(a, b, item):
    target = torch.outer(item, torch.arange(a.shape[1])).sin().softmax(1)  # what a region shows depends on its item
    return masked_region_kl(a, target.to(torch.promote_types(a.dtype, torch.float32)), item % 2 == 0)


def unknown(item):
    return (item[:, None] - item).abs() <= 1  # also pairs of one item, which stay matches


def kept(b):
    return (
        torch.randn(9, b.shape[1], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        .bfloat16()
        .to(b.dtype)
    )


LOSSES = {  # name: f(codes, codes, item)
    **{
        f'cca_corr {o}': lambda a, b, item, o=o: cca_corr(a, b, objective=o)
        for o in ('tracenorm', 'frobenius_sq', 'sqrt_trace')
    },
    'cca_corr top 2': lambda a, b, item: cca_corr(a, b, (0.1, 0.01), k=2),
    'gcca_corr two': lambda a, b, item: gcca_corr([a, b]),
    'gcca_corr three': lambda a, b, item: gcca_corr([a, b, a + b], k=2),
    'soft_decorrelation': lambda a, b, item: soft_decorrelation(a) + soft_decorrelation(b),
    'l2_after_bn': lambda a, b, item: l2_after_bn(a, b),
    'barlow_twins': lambda a, b, item: barlow_twins(a, b),
    **{f'triplet {m}': lambda a, b, item, m=m: triplet(a, b, 0.3, m, item) for m in MINING},
    **{
        f'info_nce {p} {d}': lambda a, b, item, p=p, d=d: info_nce(a, b, 14.0, item, p, d)
        for p in POSITIVES
        for d in ('both', 'ab', 'ba')
    },
    'queue_nce': lambda a, b, item: queue_nce(a, b, kept(b), 14.0, item, torch.arange(9)),
    'rerank_nce': lambda a, b, item: rerank_nce(a, b, kept(b), 5, 14.0, item, torch.arange(9)),
    'info_nce distinct': lambda a, b, item: info_nce(a, b, 14.0),
    'sigmoid_pairs': lambda a, b, item: sigmoid_pairs(a, b, 10.0, -10.0, item),
    'triplet unknown': lambda a, b, item: triplet(a, b, 0.3, 'max', item, unknown(item)),
    **{
        f'info_nce unknown {p}': lambda a, b, item, p=p: info_nce(a, b, 14.0, item, p, unknown=unknown(item))
        for p in POSITIVES
    },
    'sigmoid_pairs unknown': lambda a, b, item: sigmoid_pairs(a, b, 10.0, -10.0, item, unknown(item)),
    'masked_region_kl': masked,
    **{
        f'semi_hard_triplet {k}': lambda a, b, item, k=k: semi_hard_triplet(a, item % 3, b, item % 3, kind=k)
        for k in ('tf', 'semi_mean')
    },
    **{
        f'dscmr {f}': lambda a, b, item, f=f: dscmr(a, b, a[:, :3], b[:, :3], item % 3, 0.1, 0.1, f)['loss']
        for f in ('row_mean', 'frobenius')
    },
    'dcmh': lambda a, b, item: dcmh(a, b, item[:, None] == item, torch.where(a + b < 0, -1.0, 1.0))['loss'] / len(a),
    'seph': lambda a, b, item: seph(torch.cat([a, b], 1), label_affinity(item % 3))['loss'],
    'acmr_triplet': lambda a, b, item: acmr_triplet(a, b, -b),
}
BATCH = [
    k for k in LOSSES if k.split()[0] in ('cca_corr', 'gcca_corr', 'soft_decorrelation', 'l2_after_bn', 'barlow_twins')
]
each_loss = pytest.mark.parametrize('name', LOSSES)
each_dtype = pytest.mark.parametrize('dtype', [torch.float32, torch.float64])


def world(n=24, d=4, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(n, d, generator=g, dtype=torch.float64)
    b = a @ torch.randn(d, d, generator=g, dtype=torch.float64) + torch.randn(n, d, generator=g, dtype=torch.float64)
    return a.to(dtype), b.to(dtype), torch.arange(n) * 2 // 3  # two rows in three share their item with another


def gradients(name, a, b, item):
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    loss = LOSSES[name](a, b, item)
    return loss.detach(), *(
        x if x is not None else torch.zeros(()) for x in torch.autograd.grad(loss, (a, b), allow_unused=True)
    )


@each_loss
@each_dtype
def test_the_order_of_the_batch_is_no_matter(name, dtype):
    a, b, item = world(dtype=dtype)
    p = torch.randperm(len(a), generator=torch.Generator().manual_seed(1))
    first, two = gradients(name, a, b, item), gradients(name, a[p], b[p], item[p])
    close = dict(rtol=1e-4, atol=1e-5) if dtype == torch.float32 else dict(rtol=1e-9, atol=1e-10)
    for i, (x, y) in enumerate(zip(first, two)):
        torch.testing.assert_close(x[p] if i and x.dim() else x, y, **close)


@each_loss
def test_gradient_is_that_of_differences(name):
    a, b, item = world(n=8, d=3, seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert gradcheck(lambda a, b: LOSSES[name](a, b, item), (a.requires_grad_(), b.requires_grad_()))


def white(z):
    return torch.linalg.qr(z - z.mean(0))[0] * (len(z) - 1) ** 0.5


HARD = {
    'half the units dead': lambda a, b, i: (
        torch.cat([a[:, :2], torch.full_like(a[:, :2], 0.1)], 1),
        b * torch.tensor([1, 0, 1, 0]).to(b),
        i,
    ),
    'the same dead units': lambda a, b, i: (
        a * torch.tensor([1, 0, 0, 0]).to(a),
        b * torch.tensor([1, 0, 0, 0]).to(b),
        i,
    ),
    'all zero': lambda a, b, i: (0 * a, 0 * b, i),
    'one view zero': lambda a, b, i: (0 * a, b, i),
    'one row zero': lambda a, b, i: (a * (torch.arange(len(a)) > 0)[:, None], b, i),
    'all constant': lambda a, b, i: (torch.full_like(a, 0.1), torch.full_like(b, -0.7), i),
    'white': lambda a, b, i: (white(a), white(a), i),
    'white and opposite': lambda a, b, i: (white(a), -white(a), i),
    'fewer rows than coordinates': lambda a, b, i: (a[:3], b[:3], i[:3]),
    'as many rows as coordinates': lambda a, b, i: (a[:4], b[:4], i[:4]),
    'two rows': lambda a, b, i: (a[:2], b[:2], i[:2]),
    'rows twice': lambda a, b, i: (torch.cat([a, a]), torch.cat([b, b]), torch.cat([i, i])),
    'rows twice, said to differ': lambda a, b, i: (torch.cat([a, a]), torch.cat([b, b]), torch.arange(2 * len(a))),
    'one row repeated': lambda a, b, i: (a[:1].expand_as(a), b[:1].expand_as(b), i),
    'a column repeated': lambda a, b, i: (a[:, :1].expand_as(a), b, i),
    'the same view': lambda a, b, i: (a, a, i),
    'one item': lambda a, b, i: (a, b, 0 * i),
    'huge': lambda a, b, i: (1e6 * a, 1e6 * b, i),
    'tiny': lambda a, b, i: (1e-5 * a, 1e-5 * b, i),
}


@each_loss
@each_dtype
@pytest.mark.parametrize('case', HARD)
@pytest.mark.filterwarnings('ignore:batch of')
def test_finite_whatever_the_codes(name, case, dtype):
    a, b, item = HARD[case](*world(dtype=dtype))
    loss, *grads = gradients(name, a, b, item)
    assert loss.dtype == dtype and loss.dim() == 0 and loss.isfinite()
    for g in grads:
        assert g.isfinite().all() and g.abs().max() < 1e7  # a dead row or unit does not blow up the others


@pytest.mark.parametrize('name', [k for k in LOSSES if k not in BATCH])
def test_one_row_is_a_batch(name):
    for x in gradients(name, *(z[:1] for z in world())):
        assert x.isfinite().all()


@pytest.mark.parametrize('name', BATCH)
def test_one_row_has_no_correlation(name):
    with pytest.raises(ValueError, match='two rows or more, got 1'):
        LOSSES[name](*(z[:1] for z in world()))


@each_loss
def test_not_a_number_stays_one(name):
    a, b, item = world()
    a[0, 0] = torch.nan
    assert LOSSES[name](a, b, item).isnan()


@each_loss
def test_precision(name):
    "bfloat16 codes make a float32 loss, and autocast changes nothing"
    a, b, item = world(dtype=torch.float32)
    a.requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        inside = LOSSES[name](a, b, item)
    outside = LOSSES[name](a, b, item)
    assert torch.equal(inside, outside) and torch.equal(*(torch.autograd.grad(x, a)[0] for x in (inside, outside)))
    low = LOSSES[name](a.bfloat16(), b.bfloat16(), item)
    assert low.dtype == torch.float32 and torch.isclose(
        low, LOSSES[name](a.bfloat16().float(), b.bfloat16().float(), item), rtol=1e-5
    )


def test_learned_scale_and_bias_get_gradients():
    a, b, item = world(dtype=torch.float32)
    s, bias = (torch.tensor(x, requires_grad=True) for x in (2.6, -10.0))
    for loss in (info_nce(a, b, s.exp(), item), sigmoid_pairs(a, b, s.exp(), bias, item)):
        loss.backward()
    assert s.grad.isfinite() and s.grad != 0 and bias.grad != 0


def test_a_gradient_is_turned_round():
    x = torch.ones(2, 2, requires_grad=True)

    def twice(x):
        return gradient_reversal(gradient_reversal(x, 0.5), 3.0)

    for f, want in (
        (lambda x: gradient_reversal(x, 0.5), -0.5),
        (twice, 1.5),
        (lambda x: gradient_reversal(x, 0.0), 0),
    ):
        assert torch.equal(f(x), x) and torch.equal(
            torch.autograd.grad(f(x).sum(), x)[0], torch.full((2, 2), float(want))
        )
    with torch.no_grad():
        assert torch.equal(gradient_reversal(x), x)


def test_batches_of_dcmh_add_up_to_its_gradient():
    f, g, item = world()
    s, b = item[:, None] == item, torch.where(f + g < 0, -1.0, 1.0)
    full = torch.autograd.grad(dcmh(f.requires_grad_(), g, s, b, 0.7, 0.3)['loss'], f)[0]
    for rows in torch.arange(24).split(7):
        x = f.detach()[rows].requires_grad_()
        part = dcmh_rows(x, g, s[rows], b[rows], f.detach().sum(0) - x.detach().sum(0), 0.7, 0.3)['loss']
        torch.testing.assert_close(torch.autograd.grad(part, x)[0], full[rows])


def test_correlation_of_another_library():
    from cca_zoo.linear import CCA

    a, b, _ = world(60, 5)
    mean = CCA(5).fit([a.numpy(), b.numpy()]).score([a.numpy(), b.numpy()])
    assert cca_corr(a, b, 1e-12).item() / 5 == pytest.approx(mean, rel=1e-6)


def test_correlations_are_at_most_one():
    for seed in range(10):
        a, b, _ = world(30, 4, seed=seed)
        for z in (a, b, -a, a.abs()):
            assert 0 <= cca_corr(a, z) <= 4 and 0 <= gcca_corr([a, b, z]) <= 12


def test_a_small_batch_is_told_once_a_call_site():
    a, b, _ = world()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('default')
        for _ in range(3):
            cca_corr(a[:4], b[:4])
        gcca_corr([a[:4], b[:4]])
    assert len(caught) == 2 and all(
        w.filename == __file__ and 'batch of 4 rows for 4 coordinates' in str(w.message) for w in caught
    )
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        cca_corr(a[:6], b[:6])


def test_a_ridge_too_small_is_raised_loudly():
    a = 1e9 * torch.ones(20, 1).double() @ torch.randn(1, 4, generator=torch.Generator().manual_seed(0)).double()
    a = a * torch.linspace(-1, 1, 20).double()[:, None]  # rank 1, entries of 1e9: rounding errors dwarf 1e-3
    with pytest.warns(UserWarning, match='trying ten times that'):
        try:
            assert cca_corr(a, a).isfinite()
        except ValueError as e:
            assert 'larger ridge' in str(e)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match='Give a larger ridge'):
        cca_corr(0 * a, 0 * a, ridge=0.0)


def test_errors_that_help():
    a, b, item = world()
    for call in (
        lambda: cca_corr(a, b, objective='trace_norm'),
        lambda: triplet_hinge(a @ b.T, mining='semihard'),
        lambda: info_nce(a, b, 1.0, positives='masked'),
        lambda: info_nce(a, b, 1.0, direction='ab '),
    ):
        with pytest.raises(InputError, match='did you mean'):
            call()
    with pytest.raises(ValueError, match='row i of a and of b'):
        pairwise_cosine(a, b[:5])
    with pytest.raises(ValueError, match='rows of all views'):
        cca_corr(a, b[:5])
    with pytest.raises(ValueError, match='24 rows'):
        triplet(a, b, item=item[:5])
    with pytest.raises(ValueError, match='two views'):
        gcca_corr([a])
    with pytest.raises(InputError, match='did you mean'):
        dscmr(a, b, a, b, item % 4, form='row-mean')
    with pytest.raises(ValueError, match='labels are \\(24, 3\\), but the classifier says \\(24, 4\\)'):
        dscmr(a, b, a, b, torch.ones(24, 3))
    with pytest.raises(InputError, match='There is: tf, semi_mean'):
        semi_hard_triplet(a, item, b, item, kind='all')
    with pytest.raises(ValueError, match='x has 24 rows and w has 5'):
        semi_hard_triplet(a, item, a[:5], item[:5], self_pairs=True)
    with pytest.raises(ValueError):
        gcca_corr([a, b, a], ridge=(0.1, 0.1))
