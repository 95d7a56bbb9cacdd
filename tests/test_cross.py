"""What the cross-encoder's notebook cannot say well: processes, kill and resume, laws and round trips with real parts,
empty masks.
"""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.encoders.base import Ragged
from crossmodal_nb.methods import masked_pretraining
from crossmodal_nb.methods.base import Method, check_score_invariance
from crossmodal_nb.methods.dual_encoder import CLIP, SigLIP, Triplet
from crossmodal_nb.methods.hard_negatives import HardNegative, nearest_items, random_negatives
from crossmodal_nb.methods.linear import CCA
from crossmodal_nb.methods.masked_pretraining import hidden_cells, hidden_words
from crossmodal_nb.methods.rerank import Rerank
from crossmodal_nb.methods.similarity import unit
from crossmodal_nb.methods.vilbert import ViLBERT
from crossmodal_nb.nn.layers import Attention, Block, CoAttention, box_code, spatial_code

golden = json.loads((Path(__file__).parent / 'golden' / 'unsupervised.json').read_text())
small = dict(width=16, heads=2, text_layers=2, image_layers=1, connections=1, dropout=0.0, n_visual_words=8, pool=5)
quick = dict(epochs=2, batch=16, lr=3e-3, accelerator='cpu')


def double(x):
    return torch.tensor(x, dtype=torch.double)


def world(n=64, seed=0, captions=2, side=4, ids=True):
    "Pictures of side² cells that show a vector somewhere, captions of 3 to 7 tokens that say it"
    g, mix = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(99)
    A, B, z = torch.randn(4, 12, generator=mix), torch.randn(4, 10, generator=mix), torch.randn(n, 4, generator=g)
    grid = 0.3 * torch.randn(n, side**2, 12, generator=g)
    grid[torch.arange(n), torch.randint(side**2, (n,), generator=g)] += z @ A
    length, item = torch.randint(3, 8, (n * captions,), generator=g), torch.arange(n).repeat_interleave(captions)
    flat = (z @ B)[item].repeat_interleave(length, 0) + 0.3 * torch.randn(int(length.sum()), 10, generator=g)
    text = dict(tokens=Ragged(flat.half(), length), pooled=z[item] @ B + 0.1 * torch.randn(len(item), 10, generator=g))
    if ids:
        text['ids'] = Ragged(torch.randint(50, (len(flat), 1), generator=g).int(), length)
    return Views(
        image=View(dict(grid=grid.half(), pooled=grid.mean(1)), item=3 * torch.arange(n)),
        text=View(text, item=3 * item),
    )


def sides(views, a='image', b='text'):
    return a, views[a].x, b, views[b].x


def plain(history):
    return [{k: v for k, v in r.items() if k != 'seconds'} for r in history]


def test_golden_co_attention():
    g = golden['co_attention']
    co = CoAttention(3, 2, g['bi_hidden'], g['heads']).double()
    for me, own, opposite in ((co.a, 'v', 't'), (co.b, 't', 'v')):
        for layer, name in (
            (me.query, f'q_{own}'),
            (me.key, f'k_{opposite}'),
            (me.value, f'v_{opposite}'),
            (me.out, f'o_{own}'),
        ):
            layer.weight.data, layer.bias.data = double(g['params'][f'W{name}']).T, double(g['params'][f'b{name}'])
    v, t = double(g['V_image_tokens'])[None], double(g['T_text_tokens'])[None]
    mask_v, mask_t = (torch.tensor([g[k]]).bool() for k in ('image_mask', 'text_mask'))
    zv, zt, V, T = co(v, t, mask_v, mask_t)
    cv, ct = co.a.look(v, t, mask_t)[0], co.b.look(t, v, mask_v)[0]
    for name, value in dict(
        attn_image_queries_over_text=V,
        attn_text_queries_over_image=T,
        context_for_image=cv,
        context_for_text=ct,
        image_out_residual_layernorm=zv,
        text_out_residual_layernorm=zt,
    ).items():
        torch.testing.assert_close(value[0], double(g[name]), rtol=1e-8, atol=1e-9)


def test_golden_spatial_code():
    g = golden['spatial_code']
    torch.testing.assert_close(spatial_code(g['grid']), double(g['codes_row_major']))
    torch.testing.assert_close(
        box_code(double([g['example']['box_xyxy']]), g['example']['image_wh']), double([g['example']['code']])
    )
    assert spatial_code(1).tolist() == [g['whole_image']]


def test_block_is_pytorchs():
    "The same weights in torch's own encoder layer give the same numbers"
    torch.manual_seed(0)
    ours, theirs = (
        Block(12, 3).double(),
        nn.TransformerEncoderLayer(12, 3, 48, 0.0, 'gelu', 1e-12, batch_first=True).double(),
    )
    a, t = ours.attention, theirs.self_attn
    for p in ('weight', 'bias'):
        getattr(t, f'in_proj_{p}').data = torch.cat([getattr(m, p) for m in (a.query, a.key, a.value)]).data
    for mine, its in (
        (a.out, t.out_proj),
        (a.norm, theirs.norm1),
        (ours.ffn.f[0], theirs.linear1),
        (ours.ffn.f[2], theirs.linear2),
        (ours.ffn.norm, theirs.norm2),
    ):
        its.load_state_dict(mine.state_dict())
    x, mask = torch.randn(4, 6, 12).double(), torch.arange(6) < torch.tensor([6, 4, 1, 3])[:, None]
    torch.testing.assert_close(ours(x, mask)[mask], theirs(x, src_key_padding_mask=~mask)[mask])


def test_a_set_that_sees_nothing_stays_finite():
    y, A = Attention(4, 4, 4, 2)(torch.randn(2, 3, 4), torch.randn(2, 5, 4), torch.zeros(2, 5, dtype=torch.bool))
    assert y.isfinite().all() and A.isfinite().all()


@pytest.fixture(scope='module')
def mined():
    "Fitted with both phases and hard negatives"
    train = world()
    return ViLBERT(**small, pretrain_epochs=1, trainer=quick).mine(CCA(dim=4).fit(train), train).fit(train)


def test_learns_the_pairing():
    train, test = world(200), world(40, seed=1, captions=1)
    m = ViLBERT(**small, trainer=quick | dict(epochs=12)).fit(train)
    s = m.score(*sides(test))
    assert (s.argsort(1, descending=True)[:, :8] == torch.arange(40)[:, None]).any(
        1
    ).double().mean() > 0.4  # chance is .2


def test_reads_the_first_part_that_a_view_has(mined):
    assert mined.views == dict(image=dict(grid=12), text=dict(tokens=10)) and mined.roles == ('image', 'text')
    swapped = ViLBERT(**small, trainer=quick | dict(epochs=0)).fit(world().select('text', 'image'))
    assert swapped.roles == ('image', 'text')
    vectors = Views({v: View(w.x['pooled'], item=w.item) for v, w in world().items()})
    assert ViLBERT(**small, trainer=quick | dict(epochs=0)).fit(vectors).roles == ('image', 'text')


def test_says_what_it_lacks(mined):
    views = world(ids=False)
    with pytest.raises(InputError, match='both have grid'):
        ViLBERT(**small).fit(Views(a=views['image'], b=views['image']))
    with pytest.raises(InputError, match='tokens and ids'):
        ViLBERT(**small, pretrain_epochs=1).fit(views)
    with pytest.raises(InputError, match='regions'):
        ViLBERT(pretrain=('region',))
    with pytest.raises(InputError, match='heads=3'):
        ViLBERT(heads=3)
    with pytest.raises(InputError, match='connections'):
        ViLBERT(image_layers=1)
    with pytest.raises(InputError, match='not square'):
        ViLBERT(**small).fit(Views(views, image=View(dict(grid=torch.randn(64, 6, 12)), item=views['image'].item)))
    with pytest.raises(InputError, match='larger batches'):
        random_negatives(torch.tensor([1, 1, 1]), 1, torch.Generator())
    with pytest.raises(InputError, match='other training items'):
        ViLBERT(**small).mine(CCA(dim=2).fit(views), views).fit(world(32))
    with pytest.raises(InputError, match='itself'):
        mined.score('image', views['image'].x, 'image', views['image'].x)
    with pytest.raises(TypeError, match='scores pairs'):
        mined.encode('image', views['image'].x)
    with pytest.raises(InputError, match="'image'"):
        mined.score('imaje', views['image'].x, 'text', views['text'].x)


def test_unknown_pairs():
    "None where the cosine is 1; every pair where it is nearly -1, and then nothing is left to tell apart"
    views = world()
    for cls in (CLIP, SigLIP, Triplet):
        plain, none, every = (
            cls(dim=4, unknown=u, trainer=quick | dict(epochs=1)).fit(views).history[-1]['loss']
            for u in (None, {'text': 1.0}, {'text': -0.9999})
        )
        assert plain == none > every and (cls is SigLIP or every == 0)
    with pytest.raises(InputError, match='did you mean'):
        CLIP(unknown={'texts': 0.9}, trainer=quick).fit(views)
    with pytest.raises(InputError, match='a cosine'):
        CLIP(unknown={'text': 1.5}, trainer=quick).fit(views)


def test_unknown_negatives_of_a_cross_encoder():
    views, first = world(), CCA(dim=2).fit(world())
    m = ViLBERT(**small, unknown={'text': 0.5}, trainer=quick | dict(epochs=1)).mine(first, views)
    text = unit(views['text'].x['pooled'].view(64, 2, -1).mean(1))
    assert not (text @ text.T >= 0.5)[torch.arange(len(text))[:, None], m.near['image']].any()
    assert (nearest_items(first, views, 5)['image'] != m.near['image']).any()
    assert m.fit(views).history[-1]['loss'] > 0
    with pytest.raises(InputError, match='higher cosine'):
        ViLBERT(**small, unknown={'text': -0.99}, trainer=quick).fit(views)
    with pytest.raises(InputError, match='no negatives'):
        ViLBERT(**small, unknown={'text': -0.99}).mine(first, views)


def test_laws_and_both_directions(mined):
    test = world(20, seed=1)
    assert (
        check_score_invariance(mined, *sides(test))
        == check_score_invariance(mined, *sides(test, 'text', 'image'))
        == dict(gallery=True, queries=True)
    )
    s = mined.score(*sides(test))
    torch.testing.assert_close(mined.score(*sides(test, 'text', 'image')).T, s, rtol=1e-4, atol=1e-5)
    i, j = torch.tensor([3, 0, 3, 19]), torch.tensor([7, 7, 2, 39])
    image, text = test['image'].x, test['text'].x
    for pairs in (mined.pairs('image', image, i, 'text', text, j), mined.pairs('text', text, j, 'image', image, i)):
        torch.testing.assert_close(pairs, s[i, j], rtol=1e-4, atol=1e-5)


def test_pieces_change_nothing(mined):
    test, tiny = world(12, seed=1), copy.deepcopy(mined)
    tiny.piece = 5
    torch.testing.assert_close(tiny.score(*sides(test)), mined.score(*sides(test)), rtol=1e-4, atol=1e-5)
    b = HardNegative(world(), mined.near, 1).batch(world().shared_items[:16], seed=4)
    grads = []
    for chunk in (0, 7):
        mined.zero_grad()
        mined(b, chunk)['loss'].backward()
        grads.append([p.grad.clone() for p in mined.parameters() if p.grad is not None])
    for g, h in zip(*grads):
        torch.testing.assert_close(g, h, rtol=1e-4, atol=1e-6)


def test_a_text_without_words_is_one_vector(mined):
    x = world(3, seed=1)
    no_words = dict(tokens=Ragged(torch.zeros(0, 10), torch.zeros(2)))
    s = mined.score('image', x['image'].x, 'text', no_words)
    assert s.isfinite().all() and torch.allclose(s[:, 0], s[:, 1], atol=1e-6)
    t = x['text'].x['tokens'].packed()
    mixed = dict(tokens=Ragged(t.flat, torch.cat([t.length, torch.zeros(1, dtype=torch.long)])))
    torch.testing.assert_close(mined.score('image', x['image'].x, 'text', mixed)[:, -1], s[:, 0], rtol=1e-4, atol=1e-5)


def test_attention_maps(mined):
    x, n = world(5, seed=1, captions=1), 5
    maps = mined.attention(*sides(x))
    length = x['text'].x['tokens'].length
    assert maps['image'].shape == (n, 1, 2, 17, length.max()) and maps['text'].shape == (n, 1, 2, length.max(), 17)
    for view in ('image', 'text'):
        torch.testing.assert_close(maps[view].sum(-1), torch.ones(maps[view].shape[:-1]))
    assert (
        torch.equal(maps['mask'].sum(1), length)
        and not maps['image'].masked_select(~maps['mask'][:, None, None, None]).any()
    )
    again = mined.attention(*sides(x, 'text', 'image'))
    assert torch.allclose(again['image'], maps['image'], atol=1e-6)


def test_nothing_hidden_is_no_nan(mined, monkeypatch):
    "No word, no cell, no true pair: each guess costs 0, and every parameter still has a gradient to average"
    none = torch.zeros(16, 16, dtype=torch.bool)
    monkeypatch.setattr(masked_pretraining, 'hidden_cells', lambda n, side, g: (none, none))

    def no_words(ids, tokens, g):
        words, chosen, *rest = hidden_words(ids, tokens, g)
        return words, *[chosen & False] * 3, rest[-1]

    monkeypatch.setattr(masked_pretraining, 'hidden_words', no_words)
    train = world()
    mined.phase = 'pretrain'
    mined.requires_grad_()
    try:
        out = mined(train.batch(train.shared_items[:16], seed=1))
    finally:
        mined.phase = 'finetune'
    mined.zero_grad()
    out['loss'].backward()
    assert out['text'] == out['regions'] == 0 and out['loss'].isfinite()
    assert all(
        p.grad is not None and p.grad.isfinite().all() for name, p in mined.named_parameters() if name != 'hidden'
    )


def test_a_new_model_gives_every_choice_the_same_chance():
    train = world()
    m = ViLBERT(**small, init='random', trainer=quick | dict(epochs=0)).fit(train)
    loss = m(train.batch(train.shared_items, seed=0))['loss']
    assert m.collapse_loss(64) == math.log(5) and abs(loss - m.collapse_loss(64)) < 0.3


def test_hidden_cells_are_whole_blocks():
    covered, zero = hidden_cells(500, 4, torch.Generator().manual_seed(0))
    blocks = covered.view(-1, 2, 2, 2, 2).transpose(2, 3).flatten(3)
    assert torch.equal(blocks.any(-1), blocks.all(-1)) and (covered | ~zero).all()


def test_save_and_load(mined, tmp_path):
    test = world(10, seed=1)
    mined.save(tmp_path)
    again = Method.load(tmp_path)
    assert torch.equal(again.score(*sides(test)), mined.score(*sides(test))) and str(again) == str(mined)
    assert again.history == mined.history and [r['phase'] for r in again.history] == [
        'pretrain',
        'finetune',
        'finetune',
    ]
    assert torch.equal(again.words, mined.words) and torch.equal(again.centres, mined.centres)


def fit(**how):  # both phases, with hard negatives
    train = world()
    return (
        ViLBERT(**small, pretrain_epochs=2, trainer=quick | how)
        .mine(CCA(dim=4).fit(train), train)
        .fit(train, how.pop('check', None))
    )


def test_two_processes_are_one():
    single, two = fit(epochs=1), fit(epochs=1, devices=2)
    for r, s in zip(plain(single.history), plain(two.history), strict=True):
        assert r.keys() == s.keys() and all(r[k] == pytest.approx(s[k], rel=1e-4, abs=1e-6) for k in r if k != 'phase')
    far = {
        name: float((two.state_dict()[name] - p).norm() / p.norm())
        for name, p in single.state_dict().items()
        if p.is_floating_point()
    }
    assert max(v for name, v in far.items() if not name.endswith('key.bias')) < 5e-4, far  # Adam magnifies rounding
    s, t = (
        m.score(*sides(world())) for m in (single, two)
    )  # a softmax is blind to its keys' bias: Adam sees rounding only
    torch.testing.assert_close(t, s, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dies_in', [1, 3])
def test_killed_in_either_phase_and_resumed(dies_in, tmp_path, monkeypatch):
    full = fit()
    from crossmodal_nb.nn.trainer import Trainer

    keep, kept = Trainer._keep, []

    def dying(*args):
        keep(*args)
        kept.append(1)
        if len(kept) == dies_in:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, '_keep', dying)
    with pytest.raises(KeyboardInterrupt):
        fit(ckpt=str(tmp_path))
    again = fit(ckpt=str(tmp_path))
    assert len(kept) == 4 and plain(again.history) == plain(full.history)
    assert all(torch.equal(p, again.state_dict()[name]) for name, p in full.state_dict().items())


@pytest.fixture(scope='module')
def rerank():
    return Rerank(CCA(dim=4), ViLBERT(**small, trainer=quick), k=5).fit(world())


def test_rerank_orders_the_top_and_leaves_the_rest(rerank):
    test = world(20, seed=1)
    for a, b in (('image', 'text'), ('text', 'image')):
        s, first, second = (m.score(*sides(test, a, b)) for m in (rerank, rerank.first, rerank.second))
        order, old = s.argsort(1, descending=True), first.argsort(1, descending=True)
        # orders are compared by the scores they order, since nearly equal ones may change places
        ranked, falling = first.gather(1, order), first.gather(1, old)
        torch.testing.assert_close(ranked[:, 5:], falling[:, 5:])
        torch.testing.assert_close(ranked[:, :5].sort(1, descending=True)[0], falling[:, :5])
        alone = rerank.with_params(mix=1.0).score(*sides(test, a, b)).argsort(1, descending=True)
        torch.testing.assert_close(first.gather(1, alone), falling)
        best = second.gather(1, old[:, :5]).sort(1, descending=True)[0]
        torch.testing.assert_close(second.gather(1, order[:, :5]), best, rtol=1e-3, atol=1e-4)
        kept = first.double().scatter(1, order[:, :5], 0)  # the others keep their scores
        torch.testing.assert_close(s.scatter(1, order[:, :5], 0), kept, rtol=1e-5, atol=1e-6)
    assert rerank.with_params(k=500).score(*sides(test)).shape == (20, 40) and rerank.k == 5
    with pytest.raises(InputError, match='mix'):
        rerank.with_params(mx=1)


def test_rerank_laws(rerank):
    test = world(20, seed=1)
    for m in (rerank, rerank.with_params(mix=0.5)):
        assert (
            check_score_invariance(m, *sides(test), atol=1e-3)
            == check_score_invariance(m, *sides(test, 'text', 'image'), atol=1e-3)
            == dict(gallery=True, queries=True)
        )
    blocks = torch.cat([s for _, s in rerank.score_batches(*sides(test), rows=7)])
    torch.testing.assert_close(blocks, rerank.score(*sides(test)), rtol=1e-3, atol=1e-3)


def test_rerank_round_trip(rerank, tmp_path):
    test = world(10, seed=1)
    rerank.save(tmp_path)
    again = Method.load(tmp_path)
    assert torch.equal(again.score(*sides(test)), rerank.score(*sides(test)))
    assert again.history == rerank.history and again.views == rerank.views
    assert str(again.first) == str(rerank.first) and again.k == 5
    described = Rerank(**rerank.plain_params())
    assert type(described.first) is CCA and described.first.dim == 4 and not described.views


def test_rerank_is_judged_as_a_whole():
    visited = []

    def check(m):
        visited.append(type(m))
        return float(len(visited))

    m = Rerank(CCA(dim=4), ViLBERT(**small, trainer=quick), k=5).fit(world(), check)
    assert Rerank in visited and ViLBERT not in visited and m.second.history[-1]['check'] == len(visited)
    assert [r['stage'] for r in m.history][-2:] == ['second', 'second']
    assert m.views == dict(image=dict(pooled=12, grid=12), text=dict(pooled=10, tokens=10))


def test_two_fitted_methods_need_no_fit(mined):
    train = world()
    m = Rerank(CCA(dim=4).fit(train), mined)
    assert m.views and m.score(*sides(train)).isfinite().all()


def test_a_start_as_cca_is_cca():
    "Untrained, ViLBERT ranks about as the CCA it began as; with `use_pooled`, as the CCA of the pooled vectors"
    train, test, right = world(), world(100, seed=1), torch.arange(100)

    def hits(m):
        return float((m.score(*sides(test)).argmax(1) // 2 == right).double().mean())

    begun, blank = (
        hits(ViLBERT(**small | dict(width=128), init=start, use_pooled=True, trainer=quick | dict(epochs=0)).fit(train))
        for start in ('cca', 'random')
    )
    cca = hits(CCA(4, 1.0).fit(train))
    assert begun > max(blank, 0) + 0.2 and begun > 0.6 * cca, (begun, blank, cca)
