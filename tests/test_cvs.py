"""Common Vector Spaces beyond their notebook: golden numbers, batches that teach nothing, growing to the last bit,
noise that stays noise, batches of classes.
"""

import hashlib
import itertools
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.data.splits import item_groups
from crossmodal_nb.data.synthetic import make_class_views
from crossmodal_nb.data.views import Batch, View, Views
from crossmodal_nb.datasets import catalogue, load
from crossmodal_nb.datasets.furniture import furniture_views
from crossmodal_nb.datasets.household import stems
from crossmodal_nb.datasets.tuxpaint import stamp_views
from crossmodal_nb.losses.supervised import class_triplet
from crossmodal_nb.methods.base import Method
from crossmodal_nb.methods.cvs import CVS, PKSampler, leaky_scores
from crossmodal_nb.methods.multistage_cvs import MCVS, RVS, Prototypes
from crossmodal_nb.methods.saving import find
from crossmodal_nb.metrics.average_precision import mean_ap
from crossmodal_nb.nn.layers import AlignedAttention

golden = json.loads((Path(__file__).parent / 'golden' / 'supervised.json').read_text())


def tensor(v):
    return torch.tensor(v, dtype=torch.float64)


def close(a, b):
    return torch.testing.assert_close(
        torch.as_tensor(a), torch.as_tensor(b, dtype=torch.float64), rtol=1e-10, atol=1e-12
    )


selects = pytest.mark.parametrize('select,name', dict(tf='tf', semi_mean='semi_mean', all='batch_all_mean').items())

WIDE = dict(image=12, text=10, audio=6, video=8, mesh=7)
SIGNAL = dict(image=2.0, text=3.0, audio=1.5, video=1.5, mesh=2.0)


def world(n=120, seed=0, classes=5, wide=WIDE, **signal):
    return make_class_views(n, wide, SIGNAL | signal, classes, seed=seed)


train, test = world(), world(60, seed=1)
run = dict(epochs=2, batch=40, accelerator='cpu')
small = dict(dim=16, hidden=16, K=4)


def bare(cls=CVS, views=('a', 'b'), classes=2, wide=2, **how):
    "Built, not fitted: as it is before the first step"
    m = cls(**dict(dim=2, hidden=2) | how)
    m.views, m.classes, m.active = {v: dict(pooled=wide) for v in views}, classes, torch.arange(classes)
    m.build()
    return m.eval()


def count(*modules):
    return sum(p.numel() for p in {id(p): p for m in modules for p in m.parameters()}.values())


# ---------------------------------------------------------------- golden numbers
def four(x, yx, w, yw, margin, select):
    own = torch.eye(len(x), dtype=torch.bool)
    return dict(
        intra_X=class_triplet(x, yx, x, yx, margin, select, own),
        intra_W=class_triplet(w, yw, w, yw, margin, select, own),
        X_to_W=class_triplet(x, yx, w, yw, margin, select),
        W_to_X=class_triplet(w, yw, x, yx, margin, select),
    )


@selects
@pytest.mark.parametrize('margin', (1.0, 3.0))
def test_triplets(select, name, margin):
    given, want = golden['triplet']['inputs'], golden['triplet']['expected'][f'margin_{margin}']
    got = four(
        tensor(given['X']),
        torch.tensor(given['labels_X']),
        tensor(given['W']),
        torch.tensor(given['labels_W']),
        margin,
        select,
    )
    for k, v in got.items():
        close(v, want[k][name])


@selects
def test_triplets_of_unit_vectors_as_the_method_sums_them(select, name):
    given, want = golden['triplet_unit']['inputs'], golden['triplet_unit']['expected']
    x, w = (
        torch.stack([t.cos(), t.sin()], 1).requires_grad_()
        for t in (tensor(given[k]).deg2rad() for k in ('deg_X', 'deg_W'))
    )
    yx, yw = (torch.tensor(given[k]) for k in ('labels_X', 'labels_W'))
    for k, v in four(x, yx, w, yw, 1.0, select).items():
        close(v, want[k][name])
    m = bare(block=False, select=select, beta=2.0).double()
    batch = Batch(a=View(x.detach(), y=yx), b=View(w.detach(), y=yw, item=100 + torch.arange(len(w))))
    batch.seed = 0
    out = m.losses(dict(a=3 * x, b=w / 7), batch)  # length is no matter: the method makes it 1
    close(out['triplet'], want[f'total_{name}'])
    torch.testing.assert_close(out['loss'], out['ce'] + 2 * out['triplet'])
    assert gradcheck(lambda x, w: m.losses(dict(a=x, b=w), batch)['triplet'], (x, w))


@pytest.mark.parametrize(
    'case,there',
    dict(
        full={},
        no_Wi=dict(wi=False),
        no_Ws=dict(ws=False),
        no_Wis=dict(wis=False),
        only_Wis=dict(wi=False, ws=False),
        rvs=dict(split=True),
    ).items(),
)
def test_aligned_attention(case, there):
    given, want, block = (
        golden['aligned_attention']['inputs'],
        golden['aligned_attention']['expected'][case],
        AlignedAttention(3, **there).double(),
    )
    for name, key in dict(i='Wi', s='Ws', both='Wis', e='We').items() | (
        dict(e_s='Wse').items() if 'split' in there else set()
    ):
        if layer := getattr(block, name):
            layer.weight.data = tensor(given[key]).T  # a Linear keeps its matrix transposed
    gi, gs = (tensor(given[k]).requires_grad_() for k in ('gi', 'gs'))
    for a, key in zip(block.weights(gi, gs), ('alpha_ie', 'alpha_se') if case == 'rvs' else ('alpha',) * 2):
        close(a, want[key])
    for z, key in zip(block(gi, gs), ('gi', 'gs')):
        close(z, F.normalize(tensor(want[f'{key}_out'])))
        if case != 'rvs':
            close(z, want[f'{key}_l2'])
    assert gradcheck(block, (gi, gs))
    for w in filter(None, (block.e, block.e_s)):
        w.weight.data.zero_()
    for z, g in zip(block(gi, gs), (gi, gs)):
        close(z, F.normalize(g))  # even weights change nothing


def test_counts_of_blocks_and_parameters():
    want, D = golden['block_counts'], 512
    distinct, split, wide = (
        *(int(v) for v in want['params_per_block_D512'].values()),
        {int(k): v for k, v in want['head_params'].items()},
    )
    with torch.device('meta'):  # shapes without numbers
        assert (
            (count(AlignedAttention(D)), count(AlignedAttention(D, split=True)))
            == (distinct, split)
            == (4 * D**2, 5 * D**2)
        )
        for off in ('wi', 'ws', 'wis'):
            assert count(AlignedAttention(D, **{off: False})) == 3 * D**2  # what is left out has no parameters
        for j, n in enumerate(want['n']):
            c, m, r = (bare(cls, [f'm{i}' for i in range(n)], dim=D, hidden=D) for cls in (CVS, MCVS, RVS))
            new = [[k for k in x.aligned if f'm{n - 1}' in k] for x in (m, r)]
            assert [len(c.aligned), len(m.aligned), len(r.aligned)] == [
                want[k][j] for k in ('cvs_total', 'mcvs_total', 'rvs_total')
            ]
            assert [len(k) for k in new] == [want[k][j] for k in ('mcvs_new', 'rvs_new')]
            assert (
                count(c.aligned) == count(m.aligned) == want['cvs_total'][j] * distinct
                and count(r.aligned) == split + (n - 2) * 3 * D**2
            )
        for d, parameters in wide.items():
            assert count(bare(dim=D, hidden=D, wide=d).heads['a']) == parameters


def test_cross_entropy():
    given, want = golden['cross_entropy']['inputs'], golden['cross_entropy']['expected']
    logits, y, f, yes = (
        tensor(given['logits']).requires_grad_(),
        torch.tensor(given['labels']),
        tensor(given['f']),
        tensor(given['y']),
    )
    m = bare(classes=3, dim=3).double()
    m.classifier.weight.data, m.classifier.bias.data = torch.eye(3).double(), tensor([0.0, 0, 0])
    close(m.entropy(logits, y), want['softmax_ce'])
    close(F.cross_entropy(logits, y), want['softmax_ce'])
    close(torch.autograd.grad(m.entropy(logits, y), logits)[0], (logits.softmax(1) - F.one_hot(y)).detach() / 3)

    def printed(f):
        return -(yes * f.log() + (1 - yes) * (1 - f.log())).mean()  # equation 3.1.4 as it is printed …

    close(F.binary_cross_entropy(f, yes), want['bce_correct'])
    close(printed(f), want['as_printed'])
    assert (
        printed(tensor([0.9, 1e-100, 1e-100])) < -100 < 0 < F.binary_cross_entropy(tensor([0.9, 1e-100, 1e-100]), yes)
    )  # … has no least value


# ---------------------------------------------------------------- batches that teach nothing
def cost(m, y, x=None):
    "The triplets' part of a batch of 8 with labels y, and every gradient of the whole loss"
    g = torch.Generator().manual_seed(0)
    batch = Batch(
        {v: View(torch.randn(8, 6, generator=g) if x is None else x, y=y, item=torch.arange(8)) for v in m.views}
    )
    batch.seed = 0
    out = m.train()(batch)
    m.zero_grad()
    out['loss'].backward()
    return float(out['triplet'].detach()), [p.grad for p in m.parameters() if p.grad is not None]


@selects
@pytest.mark.parametrize('block', (True, False))
def test_a_batch_without_triplets_costs_nothing(select, name, block):
    assert golden['triplet_degenerate']['expected'] == 0
    z = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    loss = class_triplet(z, y := torch.tensor(golden['triplet_degenerate']['labels']), z, y, 1.0, select)
    loss.backward()
    assert loss == 0 and not z.grad.any()

    def new(**how):
        return bare(views='abc', classes=4, wide=6, dim=8, hidden=8, select=select, block=block, **how)

    constant, some = torch.zeros(8, dtype=torch.long), torch.arange(8) % 2
    spread = F.normalize(torch.randn(6, generator=torch.Generator().manual_seed(1)), dim=0) * (
        2.0 * some[:, None] - 1
    )  # two classes, at opposite poles
    for m, y, x in (
        (new(), constant, None),
        (new(margin=0.0) if select == 'semi_mean' else new(margin=-9.0), some, None),
        (new(), constant, torch.zeros(8, 6)),
        (new(), constant, spread),
    ):
        value, grads = cost(m, y, x)
        assert value == 0 and grads and all(g.isfinite().all() for g in grads), (select, y, x)
    assert cost(new(), some)[0] > 0  # and others do cost something


# ---------------------------------------------------------------- growing
ORDER = ('audio', 'video', 'mesh')
KINDS = {
    'MCVS': (MCVS, {}),
    'RVS': (RVS, {}),
    'RVS, second reference': (RVS, dict(reference='text')),
    'Prototypes': (Prototypes, {}),
}
kinds = pytest.mark.parametrize('kind', KINDS)


def grown(kind, **how):
    "Fitted on two views, with all that could let the old drift: weight decay, dropout, standardised input"
    cls, own = KINDS[kind]
    return cls(**small | own | dict(dropout=0.4, trainer=run | dict(wd=0.5, lr=1e-2)) | how).fit(
        train.select('image', 'text')
    )


@torch.no_grad()
def seen(m, views):
    "SHA-256 of every tensor, of every score matrix of two views in each mode, and of the codes of each view"

    def sha(t):
        return hashlib.sha256(t.contiguous().numpy().tobytes()).hexdigest()

    out, mode = {f'tensor {k}': sha(v) for k, v in m.state_dict().items()}, m.mode
    for u in views:
        out[f'codes {u}'] = sha(m.encode(u, test[u].x))
    for m.mode, (u, v) in itertools.product(('context', 'all_pairs'), itertools.permutations(views, 2)):
        out[f'scores {u}→{v} {m.mode}'] = sha(m.score(u, test[u].x, v, test[v].x))
    m.mode = mode
    return out


def changed(old, new):
    return [k for k in old if new.get(k) != old[k]]


@kinds
def test_what_is_old_stays_to_the_last_bit(kind, tmp_path):
    m = grown(kind)
    for view in ORDER:
        old, previous = list(m.views), seen(m, list(m.views))
        m.save(tmp_path / view)
        m = Method.load(tmp_path / view)  # the next stage may be another day
        assert changed(previous, seen(m, old)) == []
        m.add_view(view, train)
        current = seen(m, [*old, view])
        assert changed(previous, current) == [] and set(previous) < set(current)
        assert {r['stage'] for r in m.history[-2:]} == {view} and any(
            k.startswith(f'tensor heads.{view}.') for k in current
        )


@pytest.mark.parametrize(
    'what,broken,moves',
    [
        *(
            ('lr_multipliers', lambda self, epoch: {}, moves)
            for moves in ('tensor heads.image.', 'tensor classifier.', 'scores image→text context')
        ),
        ('learning', property(lambda self: list(self.views)), 'tensor context.text'),
        ('turns', CVS.turns, 'codes image'),
        (
            'init_from_data',
            lambda self, train: [self.heads[v][0].fit(test[v].x) for v in self.views],
            'tensor heads.image.0.',
        ),
    ],
)
def test_this_test_can_fail(what, broken, moves, monkeypatch):
    m = grown('MCVS')
    m.heads['text'][-1].bias.data += 1  # its context is out of date, and stays so
    previous = seen(m, ['image', 'text'])
    monkeypatch.setattr(MCVS, what, broken)
    assert any(k.startswith(moves) for k in changed(previous, seen(m.add_view('video', train), ['image', 'text'])))


def test_fitting_again_changes_everything():
    m = CVS(**small, trainer=run).fit(train.select('image', 'text'))
    previous = seen(m, ['image', 'text'])
    current = seen(m.fit(train.select('image', 'text', 'audio')), ['image', 'text'])
    assert {k for k in previous if not k.startswith('tensor')} <= set(changed(previous, current))


def learns(m):
    "How many numbers the stage has trained"
    still = m.lr_multipliers(0)
    return sum(p.numel() for n, p in m.named_parameters() if n not in still)


@pytest.mark.parametrize('reference', ('image', 'text'))
def test_the_reference_is_one_in_all_blocks(reference, tmp_path):
    m, D, shared = (
        grown('RVS', reference=reference),
        small['dim'],
        lambda m: [{getattr(b.first[0], w).weight.data_ptr() for b in m.aligned.values()} for w in 'ie'],
    )
    own = {w: next(iter(m.aligned.values())).get_parameter(f'{w}.weight').clone() for w in 'ie'}
    assert learns(m) == count(m)  # the first stage learns all
    for n, view in enumerate(ORDER, 3):
        m.add_view(view, train)
        assert (
            learns(m) == count(m.heads[view]) + 3 * D**2
            and list(m.aligned)[-1] == f'{reference}×{view}'
            and len(m.aligned) == n - 1
        )
        assert all(len(p) == 1 for p in shared(m))
        for b in m.aligned.values():
            assert all(torch.equal(getattr(b.first[0], w).weight, v) for w, v in own.items())
        assert len(
            {b.get_parameter(f'{w}.weight').data_ptr() for b in m.aligned.values() for w in ('s', 'both', 'e_s')}
        ) == 3 * (n - 1)
    m.save(tmp_path)
    again = Method.load(tmp_path)
    assert all(len(p) == 1 for p in shared(again)) and count(again) == count(m)


def test_the_others_learn_more_blocks():
    m, p = grown('MCVS'), grown('Prototypes')
    for n, view in enumerate(ORDER, 2):
        assert learns(m.add_view(view, train)) == count(m.heads[view]) + n * 4 * small['dim'] ** 2
        assert learns(p.add_view(view, train)) == count(p.heads[view]) and not p.aligned


# ---------------------------------------------------------------- noise
NOISE = dict(image=24, text=20, audio=16)


def noisy(n, seed):
    return make_class_views(n, NOISE, dict(image=0.0, text=3.0, audio=2.0), seed=seed)


leaking = dict(
    dim=32, hidden=64, K=4, gain=32.0, partner=(0, 1), trainer=dict(epochs=10, batch=60, lr=2e-3, accelerator='cpu')
)


def precision(order, yq, yg):
    "mAP of rankings"
    hit = (yg[order] == yq[:, None]).double()
    return float(((hit.cumsum(1) / torch.arange(1, hit.shape[1] + 1) * hit).sum(1) / hit.sum(1)).mean())


def at_chance(scores, yq, yg, noise='queries', n=1000, q=0.999):
    """Quantile of the mAP when the labels of the noise are permuted: they mean nothing, so each order is as likely.
    (Where the gallery is noise, the queries of a class are alike, and lucky or not together. Were *their* labels
    permuted one by one, the null would be too narrow: in 60 worlds it "found" something in 28 % at p = .01)
    """
    g, order = torch.Generator().manual_seed(0), scores.argsort(dim=1, descending=True)

    def shuffled(y):
        return y[torch.randperm(len(y), generator=g)]

    tied = bool((scores.sort(1).values.diff() == 0).any())  # equal scores share their places, and an order has none
    assert abs(precision(order, yq, yg) - mean_ap(scores, (yq, yg))) < (1e-3 if tied else 1e-6)
    return float(
        tensor(
            [precision(order, *((shuffled(yq), yg) if noise == 'queries' else (yq, shuffled(yg)))) for _ in range(n)]
        ).quantile(q)
    )


@pytest.fixture(scope='module', params=(CVS, MCVS))
def taught(request):
    "MCVS grows the noise last"
    return request.param(**leaking).fit(
        noisy(300, 2).select(*(NOISE if request.param is CVS else ('text', 'audio', 'image')))
    )


@pytest.mark.parametrize(
    'a,b,noise',
    [
        ('image', 'text', 'queries'),
        ('image', 'audio', 'queries'),
        ('text', 'image', 'gallery'),
        ('audio', 'image', 'gallery'),
    ],
)
def test_noise_stays_noise_and_the_leak_does_not(taught, a, b, noise):
    unseen = noisy(150, 3)
    y = unseen[a].y, unseen[b].y
    for taught.mode in ('context', 'all_pairs'):
        s = taught.score(a, unseen[a].x, b, unseen[b].x)
        assert mean_ap(s, y) <= at_chance(s, *y, noise)
    leak = leaky_scores(taught, unseen, a, b)
    assert mean_ap(leak, y) > at_chance(leak, *y, noise)


def test_what_is_no_noise_is_found(taught):
    unseen = noisy(150, 3)
    y = unseen['text'].y, unseen['audio'].y
    for taught.mode in ('context', 'all_pairs'):
        s = taught.score('text', unseen['text'].x, 'audio', unseen['audio'].x)
        assert mean_ap(s, y) > at_chance(s, *y) + 0.1


# ---------------------------------------------------------------- batches of classes
def uneven(sizes):
    "Views sorted by class: `sizes` = {view: rows of each class}"
    out = Views()
    for j, (v, ns) in enumerate(sizes.items()):
        y = torch.cat([torch.full((n,), c) for c, n in enumerate(ns)])
        out[v] = View(torch.randn(len(y), 3), y=y, item=torch.arange(len(y)) + 10_000 * j)
    return out


@pytest.mark.parametrize(
    'sizes',
    [
        dict(image=[40] * 6, text=[40] * 6, audio=[40] * 6),
        dict(image=[100] * 6, audio=[10] * 6),
        dict(image=[40] * 5, text=[3, 1, 2, 5, 40]),
        dict(image=[40, 40, 0, 40], text=[0, 40, 40, 40]),
        dict(image=[1, 1], text=[1, 1]),
    ],
    ids=['sorted', 'ten times rarer', 'fewer than K', 'not in all views', 'one row each'],
)
@pytest.mark.parametrize('size,K', [(24, 8), (10, 4), (5, 8), (64, 2)])
def test_no_batch_is_of_one_class(sizes, size, K):
    views = uneven(sizes)
    own = PKSampler(views, K)
    shared = {c for c in range(6) if all(c < len(n) and n[c] for n in sizes.values())}
    assert set(own.classes.tolist()) == shared and len(own.shared_items) >= max(len(v) for v in views.values())
    met = set()
    for seed, ids in enumerate(own.shared_items[torch.randperm(len(own.shared_items))].split(size) * 3):
        if len(ids) < size and seed:
            continue  # a trainer leaves out the last, short one
        batch = own.batch(ids, seed=seed)
        y = batch['image'].y
        identical = y[:, None] == y
        assert len(y.unique()) >= 2 and all(torch.equal(v.y, y) for v in batch.values())  # and so in every view
        assert (identical.sum(1) >= 2).all() and (~identical).any(1).all()  # a positive beside itself, and a negative
        met |= set(y.tolist())
    assert met == shared


def test_the_trainer_draws_them_from_sorted_views(monkeypatch):
    drawn, losses = [], CVS.losses
    monkeypatch.setattr(
        CVS, 'losses', lambda self, g, batch: drawn.append([v.y for v in batch.values()]) or losses(self, g, batch)
    )
    CVS(**small, trainer=run).fit(Views({v: x[x.y.sort().indices] for v, x in train.items()}))
    assert len(drawn) == 2 * 3 and all(len(y) == 40 and len(y.unique()) == 5 for ys in drawn for y in ys)


# ---------------------------------------------------------------- classes in stages
def part(views, classes):
    return Views({v: x[torch.isin(x.y, torch.tensor(classes))] for v, x in views.items()})


@pytest.mark.parametrize('scope,active', dict(stage=[3, 4, 5], seen=[0, 1, 2, 3, 4, 5]).items())
def test_stages(scope, active):
    views = world(classes=7, wide=dict(image=12, text=10))
    m = CVS(**small, n_classes=7, trainer=run | dict(wd=0.0, lr=1e-2)).fit(part(views, [0, 1, 2]))
    assert m.classes == 7 and m.active.tolist() == [0, 1, 2]
    old, remaining = {k: v.clone() for k, v in m.state_dict().items()}, [c for c in range(7) if c not in active]
    m.fit_classes(views, [3, 4, 5], scope=scope)
    assert m.active.tolist() == active and len(m.history) == 4
    for k in ('classifier.weight', 'classifier.bias'):  # rows outside of it have not moved
        moved = (m.state_dict()[k] != old[k]).reshape(7, -1).any(1)
        assert moved.nonzero().ravel().tolist() == active
    assert all(
        (v != old[k]).any() for k, v in m.state_dict().items() if k.endswith('weight')
    )  # and nothing else is frozen

    z, y = torch.randn(9, small['dim'], requires_grad=True), torch.tensor(active).repeat(9)[:9]
    loss = m.entropy(z, y)
    loss.backward()
    assert (
        not m.classifier.weight.grad[remaining].any()
        and not m.classifier.bias.grad[remaining].any()
        and z.grad.isfinite().all()
    )
    torch.testing.assert_close(
        loss, F.cross_entropy(m.classifier(z)[:, active], torch.tensor([active.index(c) for c in y.tolist()]))
    )


# ---------------------------------------------------------------- what is told
def two():
    return train.select('image', 'text')


def relabelled(y, view='text'):
    return Views(two() | {view: View(train[view].x, y=y)})


@pytest.mark.parametrize(
    'views,says',
    [
        (lambda: relabelled(None), "'text' has no labels"),
        (lambda: relabelled(F.one_hot(train['text'].y)), 'labels of the views are of different kinds'),
        (lambda: relabelled(torch.full((120,), -1)), '0 classes .*text: 0'),
        (lambda: relabelled(torch.zeros(120, dtype=torch.long)), '1 classes .*text: 1'),
        (lambda: relabelled(train['text'].y + 4), '1 classes'),
    ],
)
def test_labels_that_cannot_be_used(views, says):
    for cls in (CVS, MCVS, RVS, Prototypes):
        with pytest.raises(InputError, match=says):
            cls(**small, trainer=run).fit(views())


def test_what_cannot_grow():
    m = grown('MCVS')
    kept = seen(m, ['image', 'text'])
    high, plain = (
        Views({v: View(x.x, y=x.y + 3) for v, x in train.items()}),
        Views(train | dict(audio=View(train['audio'].x))),
    )
    for views, view, says in (
        (train, 'text', "'text' is there already: image, text"),
        (train.select('text', 'audio'), 'audio', 'rows of image'),
        (high, 'audio', "'audio' has class 7, but the classifier knows 5"),
        (plain, 'audio', "'audio' has no labels"),
    ):
        with pytest.raises(InputError, match=says):
            m.add_view(view, views)
    assert changed(kept, seen(m, ['image', 'text'])) == [] and list(m.views) == [
        'image',
        'text',
    ]  # and nothing has happened
    m.add_view('audio', train)
    with pytest.raises(InputError, match="'audio' is there already"):
        m.add_view('audio', train)


def test_what_else_cannot_be():
    with pytest.raises(InputError, match="(?s)reference among the first two views.*'audio'.*image, text"):
        RVS('audio', **small, trainer=run).fit(train)
    with pytest.raises(InputError, match='17 classes.*dim is 16'):
        Prototypes(**small, n_classes=17, trainer=run).fit(two())
    for leak in (lambda: CVS(mode='paired'), lambda: find('cvs:leaky_scores')):  # the leak is not for choice
        with pytest.raises(InputError):
            leak()
    with pytest.raises(RuntimeError, match='call fit first'):
        CVS(**small).fit_classes(train, [0, 1])
    m = CVS(**small, trainer=run).fit(two())
    with pytest.raises(InputError, match='class 7 is new to the classifier, which knows 5'):
        m.fit_classes(Views({v: View(x.x, y=x.y + 3) for v, x in two().items()}), [6, 7])
    with pytest.raises(InputError, match='scope'):
        m.fit_classes(two(), [0, 1], scope='all')


def test_a_modality_that_fails_to_join_leaves_nothing_behind(monkeypatch):
    m = grown('RVS')
    kept, names = seen(m, ['image', 'text']), set(m.state_dict())

    def fails(_):
        raise RuntimeError('stop')

    with pytest.raises(RuntimeError, match='stop'):
        m.add_view('audio', train, validate=fails)
    assert (
        changed(kept, seen(m, ['image', 'text'])) == []
        and set(m.state_dict()) == names
        and list(m.views) == ['image', 'text']
        and not m.newest
    )
    with pytest.raises(InputError, match="class 9 has no rows in image and text"):
        m.fit_classes(two(), [0, 9])
    with pytest.raises(InputError, match='rows of text'):
        m.fit_classes(train.select('image'), [0, 1])
    assert list(m.add_view('audio', train).views) == ['image', 'text', 'audio']


# ---------------------------------------------------------------- half precision, and going on
@pytest.mark.parametrize('cls', (CVS, MCVS, RVS, Prototypes))
def test_half_precision_and_checkpoints(cls, tmp_path):
    assert all(
        v.isfinite().all()
        for v in cls(**small, trainer=run | dict(precision='bf16-mixed')).fit(train).state_dict().values()
    )
    plain, first, again = (
        cls(**small, trainer=run | dict(ckpt=c)).fit(train) for c in (None, str(tmp_path), str(tmp_path))
    )
    for m in (first, again):
        assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), m.state_dict().values()))
    previous, n = {k: v.clone() for k, v in first.state_dict().items()}, len(first.history)
    first.fit_classes(train, [0, 1])  # its checkpoints are its own: it learns
    assert (
        any(not torch.equal(v, previous[k]) for k, v in first.state_dict().items())
        and len(first.history) == n + run['epochs']
    )


# ---------------------------------------------------------------- the real household
def test_no_group_of_the_household_crosses_a_split():
    "The same with packages made for the purpose is in test_household.py"
    row = {r['name']: r for r in catalogue()}['household']
    if not row['ready']:
        pytest.skip(f'household is not on this machine: {row["how"]}')
    stamps, pieces, kin = stamp_views(row['where']), furniture_views(row['where']), stems('household', row['where'])
    group = {i: ('stamp', g) for i, g in item_groups(stamps, kin).items()} | {
        i: ('piece', g) for i, g in item_groups(pieces, kin).items()
    }
    for fold in range(5):
        splits = load('household', fold=fold)
        parts = [{group[i] for v in views.values() for i in v.item.tolist()} for views in splits.values()]
        assert all(not a & b for a, b in itertools.combinations(parts, 2)) and all(
            len(v.y.unique()) == 12 for v in splits['train'].values()
        )


def all_negatives(a, y, b, margin, excluded):
    "Every negative of every anchor and positive looked at, as the triplet was first written"
    d = (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)
    same = y[:, None] == y
    positive = same if excluded is None else same & ~excluded
    i, p = (positive & (~same).any(1, keepdim=True)).nonzero(as_tuple=True)
    near, far, negative = d[i, p][:, None], d[i], ~same[i]
    nearest = torch.where(negative & (far > near), far, torch.inf).amin(1)
    farthest = torch.where(negative, far, -torch.inf).amax(1)
    return (near[:, 0] - torch.where(nearest.isfinite(), nearest, farthest) + margin).relu().mean()


@pytest.mark.parametrize('own', [False, True])
@pytest.mark.parametrize('scale', [0.3, 1.0, 10.0])
def test_the_triplet_and_its_gradient_are_those_of_all_negatives(own, scale):
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 6, (48,), generator=g)
    y[:4] = torch.arange(4) % 2  # every class is there more than once
    x, w = (scale * torch.randn(48, 12, generator=g) + 0.2 * y[:, None] for _ in range(2))
    excluded = torch.eye(48, dtype=torch.bool) if own else None
    results = []
    losses = (
        lambda a, b: class_triplet(a, y, b, y, 1.0, 'tf', excluded),
        lambda a, b: all_negatives(a, y, b, 1.0, excluded),
    )
    for f in losses:
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        value = f(a, a if own else b)
        value.backward()
        results.append((value.detach(), a.grad, torch.zeros_like(b) if own else b.grad))
    assert results[0][0] > 0
    for new, old in zip(*results):
        assert torch.allclose(new, old, rtol=1e-6, atol=1e-7)
