"Correcting hubs: against plain loops, for every method, within an index, on bad input."

import json

import numpy as np
import pytest
import torch
from test_contract import classes, in_one_space, short, sides, world

from crossmodal_nb import search
from crossmodal_nb.core.checks import InputError
from crossmodal_nb.data.synthetic import make_gaussian_views
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.evaluation.classics import classics
from crossmodal_nb.evaluation.retrieval import evaluate_rows, query_ranks, score_function
from crossmodal_nb.evaluation.selection import checker, grid_search
from crossmodal_nb.methods.base import Method, check_score_invariance
from crossmodal_nb.methods.dual_encoder import CLIP
from crossmodal_nb.methods.hashing import Hash
from crossmodal_nb.methods.hubness import Corrected, corrections, hub_offsets
from crossmodal_nb.methods.linear import CCA
from crossmodal_nb.methods.rerank import Ensemble, Rerank
from crossmodal_nb.methods.similarity import compare
from crossmodal_nb.metrics.geometry import antihubs, hubness, k_occurrences
from crossmodal_nb.runs.record import board
from crossmodal_nb.search import Index


@pytest.fixture(scope='module')
def hubs():
    "A space in which rows near the centre are hubs: training, validation and test views"
    wide = dict(dims=dict(a=40, b=40), rho=0.8 * torch.linspace(1, 0.4, 20), world=4)
    sizes = dict(train=900, valid=200, test=200)
    splits = {s: make_gaussian_views(n, seed=i, **wide) for i, (s, n) in enumerate(sizes.items())}
    splits['test'].split = 'test'
    return splits


@pytest.fixture(scope='module')
def corrected(hubs):
    return Corrected(CCA(20, 0.1, similarity='euclid'), bank=400).fit(hubs['train'])


def naive_qb_norm(train_test, test_test, beta):
    "Querybank normalisation as released: exponentials, sums, a loop over queries"
    retrieved = {int(row.argmax()) for row in train_test}
    total = np.exp(beta * train_test).sum(0)
    out = np.exp(beta * test_test)
    for i, row in enumerate(test_test):
        if int(row.argmax()) in retrieved:
            out[i] = out[i] / total
    return out


@pytest.mark.parametrize('similarity', ['cosine', 'dot', 'euclid'])
def test_qb_norm_equals_an_independent_loop(hubs, similarity):
    m = CCA(20, 0.1, similarity=similarity).fit(hubs['train'])
    c, test = Corrected(m, 'querybank', bank=60, beta=7.0).fill_bank(hubs['train']), hubs['test']
    for a, b in (('a', 'b'), ('b', 'a')):
        bank = c.bank_codes[a][b]
        gallery = m.encode(b, test[b].x)
        loop = naive_qb_norm(
            compare(bank, gallery, similarity).double().numpy(),
            m.score(a, test[a].x, b, test[b].x).double().numpy(),
            7.0,
        )
        s = c.score(a, test[a].x, b, test[b].x).double().numpy()
        assert len(bank) == 60 and (s.argsort(1) == loop.argsort(1)).mean() > 0.999
        plain = (m.score(a, test[a].x, b, test[b].x).argsort(1).numpy() == loop.argsort(1)).all(1)
        assert 0 < plain.mean() < 1  # some queries are corrected, others are not


@pytest.mark.parametrize('how', ['csls', 'inverted'])
def test_offsets_equal_an_independent_loop(hubs, how):
    m, test = CCA(20, 0.1).fit(hubs['train']), hubs['test']
    c = Corrected(m, how, bank=500, k=7, beta=5.0).fill_bank(hubs['train'])
    bank, s = c.bank_codes['b']['a'], m.score('b', test['b'].x, 'a', test['a'].x).double()
    near = compare(m.encode('a', test['a'].x), bank).double()  # gallery × bank
    if how == 'csls':
        expected = 2 * s - torch.stack([row.sort().values[-7:].mean() for row in near])
        made = 2 * c.score('b', test['b'].x, 'a', test['a'].x).double()
    else:
        expected = (5 * s).exp() / torch.stack([(5 * row).exp().mean() for row in near])
        made = (5 * c.score('b', test['b'].x, 'a', test['a'].x).double()).exp()
    assert torch.allclose(made, expected, atol=1e-5)


def test_the_offsets_of_a_gallery_are_computed_once(hubs, monkeypatch):
    asked = []
    monkeypatch.setattr('crossmodal_nb.methods.hubness.hub_offsets', lambda *a: asked.append(a) or hub_offsets(*a))
    c, (a, b) = Corrected(CCA(20, 0.1), bank=500).fit(hubs['train']), hubs['test'].values()

    def asked_by(m, gallery=b.x):
        before = len(asked)
        return m.score('a', a.x, 'b', gallery), len(asked) - before

    first, n = asked_by(c)
    again, m = asked_by(c)
    assert torch.equal(first, again) and (n, m) == (1, 0)
    assert asked_by(c, b.x[:50])[1] == 1 and asked_by(c.with_params(k=3))[1] == 1 and asked_by(c)[1] == 0
    changed = b.x.clone()
    changed[3] += 1
    assert asked_by(c, changed)[1] == 1  # another content of the same size
    other, n = asked_by(c.fill_bank(hubs['valid']))
    assert n == 1 and not torch.equal(first, other)
    assert [asked_by(c.with_params(how=how))[1] for how in ('inverted', 'inverted')] == [1, 0]
    for n in range(20):
        asked_by(c, b.x[: 20 + n])
    assert len(c.offsets) == 8


def test_recall_rises_and_hubs_fall(hubs, corrected):
    plain, valid = corrected.method, checker(hubs['valid'])
    s = plain.score(*sides(plain, hubs['valid'], 'a', 'b')[1:])
    for how in corrections:
        m = corrected.with_params(how=how, beta=5.0)
        t = m.score(*sides(m, hubs['valid'], 'a', 'b')[1:])
        assert valid(m) > valid(plain) + 0.02
        assert hubness(t) < hubness(s) - 0.5 and antihubs(t) <= antihubs(s)
    often = np.bincount(s.topk(10).indices.ravel(), minlength=200)
    assert (k_occurrences(s) == often).all() and antihubs(s) == (often == 0).mean() > 0


scores_pairs = {'rerank:Rerank', 'vilbert:ViLBERT'}  # all others compare codes, or bits


def why_not(name):
    "The reason why a class has no codes to correct, if it has none"
    if issubclass(classes[name], Hash):
        return 'Hamming'
    return 'scores pairs' if name in scores_pairs else None


@pytest.fixture(scope='module')
def views():
    return world(150), world(60, seed=1)


@pytest.mark.parametrize('name', [n for n in classes if n != 'hubness:Corrected'])
def test_every_method(name, views, tmp_path):
    "Both laws hold, with a bank; without one the second fails. What is kept is saved"
    train, test = (in_one_space(classes[name], views[0], v) for v in views)
    if reason := why_not(name):
        with pytest.raises(InputError, match=reason):
            Corrected(short(name))
        return
    m = Corrected(short(name), bank=100).fit(train)
    for how in corrections:
        c = m.with_params(how=how)
        assert check_score_invariance(*sides(c, test)) == dict(gallery=True, queries=True)
        assert not torch.equal(c.score(*sides(c, test)[1:]), m.method.score(*sides(m, test)[1:]))
    assert check_score_invariance(*sides(c, test, 'text', 'image')) == dict(gallery=True, queries=True)
    transductive = m.with_params(transductive=True)
    assert check_score_invariance(*sides(transductive, test)) == dict(gallery=True, queries=False)
    m.save(tmp_path / 'm')
    again = Method.load(tmp_path / 'm')
    assert torch.equal(again.score(*sides(again, test)[1:]), m.score(*sides(m, test)[1:]))
    with pytest.raises(InputError, match='fit again'):
        again.with_params(bank=101)


@pytest.mark.parametrize('name', ['cvs:CVS', 'multistage_cvs:MCVS', 'multistage_cvs:RVS'])
def test_partners_at_test(name, views):
    "With contexts as partners CVS compares codes, whose scores are its own; with every item as partner it does not"
    m = short(name).fit(views[0])
    c, queries = Corrected(m, bank=100).fill_bank(views[0]), sides(m, views[1])[1:]
    offset = c.hub_statistics('image', 'text', m.encode('text', views[1]['text'].x, target='image'))['offset']
    assert torch.allclose(c.score(*queries), m.score(*queries) - offset, atol=1e-6)
    with pytest.raises(InputError, match="mode='context'"):
        Corrected(short(name).set_params(mode='all_pairs'))


def test_a_cross_encoder_in_its_first_stage(tmp_path):
    train, test = world(120), world(40, seed=1)
    rerank = Rerank.example()
    plain = rerank.fit(train)
    first = Corrected(plain.first, bank=100).fill_bank(train)
    m = Rerank(first, plain.second, k=5)
    assert check_score_invariance(*sides(m, test), atol=1e-4) == dict(gallery=True, queries=True)
    best = m.score(*sides(m, test)[1:]).topk(5).indices.sort().values
    assert torch.equal(best, first.score(*sides(first, test)[1:]).topk(5).indices.sort().values)
    m.save(tmp_path / 'm')
    again = Method.load(tmp_path / 'm')
    assert torch.equal(again.score(*sides(again, test)[1:]), m.score(*sides(m, test)[1:]))


def test_an_ensemble_as_a_whole(hubs):
    members = [CCA(4).fit(hubs['train']), CCA(9).fit(hubs['train'])]
    whole = Corrected(Ensemble(members)).fill_bank(hubs['train'])
    assert check_score_invariance(*sides(whole, hubs['test'], 'a', 'b')) == dict(gallery=True, queries=True)
    with pytest.raises(InputError, match='whole ensemble'):
        Ensemble([members[0], Corrected(members[1])])


def test_three_views_in_every_direction():
    views = make_gaussian_views(300, dims=dict(image=10, text=8, sound=6))
    m = Corrected(classes['linear:MCCA'](4), bank=50).fit(views)
    scores = evaluate_rows(m, views, boot=0, permutations=0)
    assert {(r['query'], r['gallery']) for r in scores} == {(a, b) for a in views for b in views if a != b}
    few = views.subset(torch.arange(40))
    parts = [v.subset(torch.arange(20)) for v in (few, views.subset(torch.arange(20, 40)))]
    whole = m.score('text', few['text'].x, 'sound', few['sound'].x)  # several galleries: each row on its own
    halves = [m.score('text', few['text'].x, 'sound', p['sound'].x) for p in (parts[0], views.subset(range(20, 40)))]
    assert torch.allclose(whole, torch.cat(halves, 1), atol=1e-6)


@pytest.mark.parametrize('how', corrections)
def test_evaluation_in_blocks_and_pools(hubs, corrected, how):
    m, test = corrected.with_params(how=how, beta=5.0), hubs['test']
    s = m.score('a', test['a'].x, 'b', test['b'].x)
    blocks = torch.cat([b for _, b in m.score_batches('a', test['a'].x, 'b', test['b'].x, rows=7)])
    assert torch.allclose(s, blocks, atol=1e-6)
    for r in evaluate_rows(m, test, pools=('all', 50), boot=0, permutations=0):
        if r['query'] == 'a' and r['metric'] == 'R@1' and r['pool'] == 'all':
            assert r['value'] == (s.argmax(1) == torch.arange(200)).double().mean()
    pool = test.subset(torch.arange(50))
    direct = query_ranks(m, pool, 'a', 'b')  # a pool is a gallery of its own, also for first answers
    inside = score_function(m, 'a', test['a'], 'b', test['b'])(torch.arange(50), torch.arange(50))
    inside = torch.cat([b for _, b in inside])
    own = inside.diagonal()[:, None]
    assert torch.equal(torch.as_tensor(direct).double(), (inside > own).sum(1).double() + 1)


def test_the_epoch_and_the_correction_are_chosen_on_validation(hubs):
    clip = CLIP(dim=8, hidden=0, trainer=dict(epochs=2, batch=100, lr=1e-3, accelerator='cpu'))
    grid = [dict(how='csls', k=k) for k in (1, 5)] + [dict(how='inverted', beta=b, bank=50) for b in (5.0, 20.0)]
    tried = grid_search(Corrected(clip), grid, hubs['train'], hubs['valid'])
    assert len({id(m.method) for m in tried.fits}) == 1 and len(tried.method.history) == 2  # one fit, with checks
    assert 'check' in tried.method.history[0] and clip.views is None
    assert tried.scores == [checker(hubs['valid'])(m) for m in tried.fits]


def test_a_trial_corrects_cca(hubs):
    "With few rows, too; its chosen settings are plain data, from which the index is made"
    for train in (hubs['train'], hubs['train'].subset(torch.arange(6))):
        method, settings = classics(train)['CCA with correction']
        tried = grid_search(method, settings, train, hubs['valid'])
        assert len(tried.fits) == 4 and tried.method.k == min(10, len(train['a']))
        again = Corrected(**json.loads(json.dumps(tried.method.plain_params()))).fit(train)
        assert again.method.ridge == tried.setting['method__ridge']
        assert torch.equal(
            again.score(*sides(again, hubs['valid'], 'a', 'b')[1:]),
            tried.method.score(*sides(again, hubs['valid'], 'a', 'b')[1:]),
        )


def test_transductive_scores_are_labelled_and_never_ranked(hubs, corrected):
    def record(m):
        rows = evaluate_rows(m, hubs['test'], boot=0, permutations=0, method='CCA')
        return dict(rows=rows, experiment='e', params={}, selected_by='valid', key='k', published=False)

    transductive = corrected.with_params(transductive=True)
    labelled = record(transductive)
    assert {r['method'] for r in labelled['rows']} == {'CCA (transductive)'} and 'transductive=True' in repr(
        transductive
    )
    assert all(r['transductive'] for r in labelled['rows'])
    assert not board([labelled]) and len(board([record(corrected)])) == len(labelled['rows'])
    wrapped = evaluate_rows(Rerank(transductive, _Pairs(), k=3), hubs['test'], boot=0, permutations=0)
    assert all(r['transductive'] for r in wrapped)


class _Pairs(Method):
    "Scores nothing: a second stage"

    views = dict(a=dict(pooled=40), b=dict(pooled=40))

    def fit(self, train, validate=None):
        return self

    def state(self):
        return {}, {}

    def restore(self, tensors, data):
        pass

    def pairs(self, a, xa, i, b, xb, j):
        return torch.zeros(len(i))


@pytest.mark.parametrize('how', corrections)
def test_an_index_keeps_what_it_needs(hubs, corrected, how, tmp_path):
    m, test = corrected.with_params(how=how, beta=5.0), hubs['test']
    index = Index(m, test)
    s = m.score('a', test['a'].x, 'b', test['b'].x)
    m.bank_codes, kept = {}, m.bank_codes  # searching needs no bank
    index.save(tmp_path / 'i')
    for asked in (index, Index.load(tmp_path / 'i')):
        for i in range(12):
            hits = asked.search(test['a'].x[i].numpy(), view='a', k=5)
            assert [h['row'] for h in hits] == s[i].topk(5).indices.tolist()
            assert np.allclose([h['score'] for h in hits], s[i].topk(5).values, atol=1e-4)
    m.bank_codes = kept
    half = [test.subset(torch.arange(i, i + 100)) for i in (0, 100)]
    grown = Index(m, half[0])
    grown.extend(half[1])
    for v, q in (('a', 'b'), ('b', 'a')):
        for name, x in index.hubs[v][q].items():
            assert torch.allclose(grown.hubs[v][q][name].double(), x.double(), atol=1e-5)
    assert not Index(m.method, test).hubs


def test_faiss_subtracts_offsets_too():
    g = torch.Generator().manual_seed(0)
    q, z, offset = torch.randn(4, 8, generator=g), torch.randn(300, 8, generator=g), torch.rand(300, generator=g)
    expected = (compare(q, z) - offset).topk(6)
    for way in (search._blocks, search._faiss):
        s, i = way(*search.sides(q, z, 'cosine'), 6, 'cosine', 64, offset)
        assert torch.equal(i, expected.indices) and torch.allclose(s, expected.values, atol=1e-6)
    assert torch.equal(search.nearest(q, z, 6, 'cosine', offset=offset)[1], expected.indices)


def test_bad_input_is_refused(hubs):
    train, test = hubs['train'], hubs['test']
    m = CCA(4, 0.1).fit(train)
    queries = 'a', test['a'].x, 'b', test['b'].x
    wide = Views(a=View(train['a'].x[:, :7]), b=train['b'])
    nan = train['a'].x.clone()
    nan[3, 2] = float('nan')
    for attempt, words in (
        (lambda: Corrected(m, 'csl'), 'did you mean'),
        (lambda: Corrected(m, k=0), 'at least 1'),
        (lambda: Corrected(m, bank=0), 'at least 1'),
        (lambda: Corrected(m, beta=0.0), 'above 0'),
        (lambda: Corrected(Corrected(m)), 'corrected already'),
        (lambda: Corrected(m).score(*queries), 'no bank of queries'),
        (lambda: Corrected(m).fill_bank(train.subset([])), "view 'a' has no rows"),
        (lambda: Corrected(m).fill_bank(wide), '7 wide'),
        (lambda: Corrected(m).fill_bank(Views(a=View(nan), b=train['b'])), 'NaN'),
        (lambda: Corrected(m, k=11, bank=10).fill_bank(train).score(*queries), 'take k of at most 10'),
        (lambda: Corrected(m).fill_bank(test), 'test split'),
        (
            lambda: (
                Corrected(m, transductive=True).fill_bank(train).hub_statistics('a', 'b', m.encode('b', test['b'].x))
            ),
            'all',
        ),
    ):
        with pytest.raises(ValueError, match=words):
            attempt()
    with pytest.raises(RuntimeError, match='not fitted'):
        Corrected(CCA()).fill_bank(train)
    text_alone = Corrected(m).fill_bank(train.select('b'))
    assert text_alone.score('b', test['b'].x, 'a', test['a'].x).isfinite().all()
    with pytest.raises(InputError, match="view 'a'"):
        text_alone.score(*queries)


@pytest.mark.filterwarnings('ignore')
def test_two_rows_are_enough(hubs):
    two = hubs['train'].subset([0, 1])
    m = Corrected(CCA(1, 1.0), k=2).fit(two)
    for how in corrections:
        s = m.with_params(how=how).score('a', two['a'].x, 'b', two['b'].x)
        assert s.shape == (2, 2) and s.isfinite().all()
    with pytest.raises(InputError, match='k is 10, but the bank has 2 rows'):
        m.with_params(k=10).score('a', two['a'].x, 'b', two['b'].x)
