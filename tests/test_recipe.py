"Hierarchical transformers: golden numbers, the faults of the released code, and what the lessons do not say"

import itertools
import json
from pathlib import Path

import pytest
import torch

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.data.synthetic import make_gaussian_views
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.encoders.base import Ragged
from crossmodal_nb.encoders.extraction import features
from crossmodal_nb.encoders.text import GloVe
from crossmodal_nb.encoders.text_lines import Lines, LineWords
from crossmodal_nb.evaluation.retrieval import random_run
from crossmodal_nb.evaluation.selection import checker
from crossmodal_nb.losses.contrastive import triplet
from crossmodal_nb.methods.base import Method, check_score_invariance
from crossmodal_nb.methods.dual_encoder import CLIP
from crossmodal_nb.methods.linear import CCA
from crossmodal_nb.methods.recipe_network import average
from crossmodal_nb.methods.recipe_transformer import HT, together
from crossmodal_nb.methods.score_fusion import RawFeatures, ScoreFusion
from crossmodal_nb.methods.similarity import unit


def tensors(x):
    return (
        {k: tensors(v) for k, v in x.items()}
        if isinstance(x, dict)
        else torch.tensor(x, dtype=torch.float64)
        if isinstance(x, (list, float))
        else x
    )


golden = {
    k.split('_')[1]: tensors(v)
    for k, v in json.loads((Path(__file__).parent / 'golden' / 'recipe.json').read_text()).items()
    if k.startswith('ht_')
}


def near(a, b):
    torch.testing.assert_close(a.detach(), b, rtol=1e-8, atol=1e-9)


texts = ('title', 'ingredients', 'instructions')


# --- golden numbers
@pytest.fixture
def small():
    m = HT(width=3, dim=5, heads=1, ff=4)
    m.views = {v: dict(pooled=3) for v in (*texts, 'image')}
    m.build()
    m.double()
    for k, v in golden['1']['g'].items():
        m.g[k].load_state_dict(dict(weight=v['W'], bias=v['b']))
    return m


def test_six_pairs_and_their_mean(small):
    e = golden['1']['e']
    for b, a in itertools.permutations(texts, 2):
        near(triplet(e[a], small.predict_component(b, a, e[b]), 0.3), golden['1']['pairs'][f'{b}>{a}'])
    near(small.losses(e, None)['loss'], golden['1']['recipe_loss'])


def test_gradient_of_a_projection(small):
    b, a = golden['2']['pair'].split('>')
    triplet(golden['1']['e'][a], small.predict_component(b, a, golden['1']['e'][b]), 0.3).backward()
    near(small.g[golden['2']['pair']].weight.grad, golden['2']['grad_W'])
    near(small.g[golden['2']['pair']].bias.grad, golden['2']['grad_b'])
    small.zero_grad()
    small.losses(golden['1']['e'], None)['loss'].backward()  # in the whole loss it is one of six
    near(small.g[golden['2']['pair']].weight.grad, golden['2']['grad_W'] / 6)


def test_paired_and_text_only_steps(small):
    near(small.losses(golden['1']['e'], None)['loss'], golden['3']['text_only_step'])
    small.merged = lambda z: golden['3']['recipe']
    results = small.losses(golden['1']['e'] | dict(image=golden['3']['image']), None)
    near(results['pair'], golden['3']['paired_only'])
    near(results['loss'], golden['3']['paired_step'])
    small.pair_weight = 2.0
    near(
        small.losses(golden['1']['e'] | dict(image=golden['3']['image']), None)['loss'],
        golden['3']['paired_step'] + golden['3']['paired_only'],
    )


def test_the_trap_is_the_collapsed_loss():
    m = HT()
    m.views = {v: {} for v in texts}
    assert m.collapse_loss(4) == pytest.approx(float(golden['3']['collapsed']))
    identical = {v: torch.ones(4, 128) for v in texts}
    m.projections = 'none'
    assert float(m.losses(identical, None)['loss']) == pytest.approx(m.collapse_loss(4), abs=1e-6)


def test_two_levels():
    g = golden['4']
    words = average(g['tokens'], g['mask'])
    near(words, g['sentences'])
    near(average(words[None], g['mask'].any(1)[None])[0], g['component'])
    near(
        average(words[None], g['mask'].sum(1)[None])[0], g['flat_mean_differs']
    )  # lines weighed by their words: as `flat` has it


def test_two_space_score(small):
    q, g = golden['5']['query'], golden['5']['gallery']
    e = golden['1']['e']
    a, b = small.posed({q: e[q]}, (g,)), small.posed({g: e[g]}, (q,))
    near(unit(a) @ unit(b).T, golden['5']['score'])

    def cos(x, y):
        return unit(x) @ unit(y).T

    small.space = 'one'  # that of the earlier view
    near(
        cos(small.posed({q: e[q]}, (g,)), small.posed({g: e[g]}, (q,))),
        cos(e[q], small.predict_component(g, q, e[g])).detach(),
    )
    small.space = 'raw'
    near(cos(small.posed({q: e[q]}, (g,)), small.posed({g: e[g]}, (q,))), cos(e[q], e[g]))


def test_sets_are_the_mean_of_their_pairs(small):
    e = golden['1']['e']
    own, missing = ('ingredients', 'instructions'), 'title'
    full = unit(small.posed({v: e[v] for v in own}, (missing,))) @ unit(small.posed({missing: e[missing]}, own)).T
    single = [unit(small.posed({v: e[v]}, (missing,))) @ unit(small.posed({missing: e[missing]}, (v,))).T for v in own]
    near(full, (sum(single) / 2).detach())
    back = (
        unit(small.posed({missing: e[missing]}, own[::-1]))
        @ unit(small.posed({v: e[v] for v in own[::-1]}, (missing,))).T
    )
    near(back, full.T.detach())
    with pytest.raises(InputError, match='hold title'):
        small.posed({missing: e[missing]}, ('title', 'ingredients'))


# --- missing components
def test_a_missing_component_is_what_the_others_say(small):
    e = golden['1']['e']
    output = [small.predict_component(b, 'title', e[b]) for b in texts[1:]]
    near(small.completed({v: e[v] for v in texts[1:]})['title'], (sum(output) / 2).detach())
    holes = e | dict(title=e['title'].clone())
    holes['title'][1] = 0
    out = small.completed(holes)['title']
    near(out[1], (sum(output) / 2)[1].detach())
    near(out[[0, 2, 3]], e['title'][[0, 2, 3]])
    pair = holes | dict(ingredients=e['ingredients'].clone())
    pair['ingredients'][1] = 0  # then only one is left to say something
    near(
        small.completed(pair)['title'][1],
        small.predict_component('instructions', 'title', e['instructions'])[1].detach(),
    )
    assert not small.predict_component('title', 'ingredients', holes['title'])[1].any()


def test_rows_without_a_component_are_no_rivals(small):
    e = golden['1']['e']
    holes = (
        e
        | dict(title=torch.cat([e['title'], torch.zeros(1, 3).double()]))
        | {v: torch.cat([e[v], e[v][:1]]) for v in texts[1:]}
    )
    pairs = golden['1']['pairs']
    pair = [
        triplet(x[a], small.predict_component(b, a, x[b]), 0.3)
        for x in [{v: holes[v] for v in texts[1:]}]
        for b, a in itertools.permutations(texts[1:], 2)
    ]
    near(
        small.losses(holes, None)['loss'], ((sum(v for k, v in pairs.items() if 'title' in k) + sum(pair)) / 6).detach()
    )


def words_of(z, n, g):  # n texts whose lines say the signs of z
    return [
        '\n'.join(f'{w}{k} {"up" if v > 0 else "down"}{k} of it' for k, v in enumerate(row))
        for row in z.tolist()
        for w in [g]
    ]


@pytest.fixture(scope='module')
def texty(tmp_path_factory):
    """Recipes whose three texts share signs, as lines of words; some have no ingredients, and one has nothing but its
    title
    """
    out, folder = {}, tmp_path_factory.mktemp('lines')
    for s, n in dict(train=160, test=60).items():
        z = torch.randn(n, 6, generator=torch.Generator().manual_seed(n))
        x = dict(
            title=[' '.join(t.split('\n')) for t in words_of(z[:, :4], n, 'dish')],
            ingredients=words_of(z, n, 'food'),
            instructions=words_of(z[:, 1:], n, 'step'),
        )
        for i in (3, 5, 7):
            x['ingredients'][i] = ''
        x['instructions'][5] = ' \n'
        out[s] = Views({v: View(t, [f'{s}{i}' for i in range(n)]) for v, t in x.items()})
    known = sorted({w for v in out['train'].values() for t in v.x for w in t.split()})
    vectors = GloVe(known, torch.randn(len(known), 12, generator=torch.Generator().manual_seed(0)))
    numbers = LineWords(min_count=2, wide=12).fit([t for v in out['train'].values() for t in v.x])
    lines, words = (
        {s: features(v, {k: e for k in texts}, folder) for s, v in out.items()} for e in (Lines(vectors), numbers)
    )
    return dict(lite=lines, full=words, vocabulary=numbers.vocabulary)


def learner(form, **k):
    return HT(
        form, **dict(width=32, dim=32, heads=2, ff=32, trainer=dict(epochs=8, batch=32, lr=3e-3, accelerator='cpu')) | k
    )


@pytest.mark.parametrize('form', ['lite', 'full'])
@pytest.mark.parametrize('flat', [False, True])
def test_both_forms_learn_save_and_obey(texty, form, flat, tmp_path):
    data = texty[form]
    m = learner(form, flat=flat).fit(data['train'])
    assert checker(data['test'], 'R@10')(m) > 2 * 10 / 60 and m.history[-1]['loss'] < m.history[0]['loss']
    pair = together(data['test'], 'title', 'ingredients+instructions')
    (a, x), (b, y) = ((k, v.x) for k, v in pair.items())
    for q in ((a, x, b, y), (b, y, a, x)):
        assert check_score_invariance(m, *q) == dict(gallery=True, queries=True)
    m.save(tmp_path / 'm')
    again = Method.load(tmp_path / 'm')
    assert torch.equal(again.score(a, x, b, y), m.score(a, x, b, y)) and (again.words, again.single) == (
        m.words,
        m.single,
    )
    assert not m.encode('ingredients', data['test']['ingredients'].x)[
        [3, 5, 7]
    ].any()  # nothing there, and nothing crashes
    assert torch.isfinite(m.score(b, y, a, x)).all()
    nothing = {
        k: v.take([3, 5]) if isinstance(v, Ragged) else v[[3, 5]] for k, v in data['test']['ingredients'].x.items()
    }
    assert not m.encode('ingredients', nothing).any()  # a batch of nothing


def test_units_of_the_full_form(texty):
    m = learner('full', trainer=dict(epochs=1, batch=32)).fit(texty['full']['train'])
    assert set(m.lower) == set(texts) and set(m.upper) == {
        'ingredients',
        'instructions',
    }  # a title has one line: five units in all
    assert m.words <= texty['vocabulary'] and len({id(p) for p in m.embed.parameters()}) == 1
    assert set(learner('full', flat=True).fit(texty['full']['train']).upper) == set()


def test_words_beyond_the_vocabulary_are_unknown(texty):
    m = learner('full', trainer=dict(epochs=1, batch=32)).fit(texty['full']['train'])
    x = dict(words=Ragged(torch.full((1, 12), 10**6, dtype=torch.int32), torch.tensor([1])))
    assert torch.isfinite(m.encode('title', x)).all()


# --- batches
def world(n=240, pictures=60, seed=0):
    w = make_gaussian_views(n, dict(image=10, title=8, ingredients=9, instructions=12), rho=(0.95,) * 4, seed=seed)
    return Views({k: v[:pictures] if k == 'image' else v for k, v in w.items()})


class Watching(HT):
    "Remembers what it was given"

    def forward(self, batch, chunk=0):
        self.__dict__.setdefault('seen', []).append((self.epoch, 'image' in batch, batch.item.clone()))
        return super().forward(batch, chunk)


def quick(cls=HT, **k):
    return cls(
        width=16, dim=16, heads=2, ff=16, trainer=dict(dict(epochs=3, batch=16, lr=1e-3, accelerator='cpu'), **k)
    )


def test_batches_alternate_and_every_picture_is_seen_once_an_epoch_in_a_new_order():
    m = quick(Watching).fit(world(pictures=64))
    epochs = [[s for s in m.seen if s[0] == e] for e in range(3)]
    for steps in epochs:
        assert [paired for _, paired, _ in steps] == [False, True] * 4
        assert {len(i) for _, p, i in steps if p} == {16} and {len(i) for _, p, i in steps if not p} == {32}
        pictures = torch.cat([i for _, p, i in steps if p])
        assert torch.equal(pictures.sort().values, torch.arange(64)) and all(
            (i >= 64).all() for _, p, i in steps if not p
        )
        assert all(len(i.unique()) == len(i) for *_, i in steps)
    one, two = (torch.cat([i for _, p, i in e if p]) for e in epochs[:2])
    assert not torch.equal(one, two)  # the released loader never shuffles


@pytest.mark.parametrize('n, pictures, batch', [(240, 7, 64), (240, 239, 64), (70, 40, 500)])
def test_few_of_either_kind(n, pictures, batch):
    m = quick(Watching, epochs=2, batch=batch).fit(world(n, pictures))
    assert {p for _, p, _ in m.seen} == {False, True} and m.history[-1]['pair'] > 0


def test_all_have_pictures_or_none():
    full = quick(Watching, epochs=1).fit(world(64, 64))
    assert all(p for _, p, _ in full.seen)
    bare = quick(Watching, epochs=1).fit(world(64).select(*texts))
    assert not any(p for _, p, _ in bare.seen) and not hasattr(bare, 'merge')
    with pytest.raises(InputError, match='no item'):
        quick().fit(Views(image=View(torch.randn(5, 3), item=torch.arange(900, 905)), **world().select(*texts)))


def test_a_run_goes_on_where_it_was(tmp_path):
    full = quick(epochs=4).fit(world())

    class Stop(Exception):
        pass

    def check(m):
        if m.epoch == 2:
            raise Stop
        return 0.0

    with pytest.raises(Stop):
        quick(epochs=4, ckpt=str(tmp_path)).fit(world(), check)
    again = quick(epochs=4, ckpt=str(tmp_path)).fit(world())
    assert [r['epoch'] for r in again.history] == [0, 1, 2, 3]
    assert torch.equal(full.encode('title', world()['title'].x), again.encode('title', world()['title'].x))


# --- from texts alone to pictures
def test_the_second_fit_begins_where_the_first_ended():
    w = world()
    first = quick().fit(w.select(*texts))
    second = quick(epochs=0).start_from(first).fit(w)
    for v in texts:
        assert torch.equal(first.encode(v, w[v].x), second.encode(v, w[v].x))
    assert torch.equal(
        first.score('title', w['title'].x, 'ingredients', w['ingredients'].x),
        second.score('title', w['title'].x, 'ingredients', w['ingredients'].x),
    )
    old = {k: v.clone() for k, v in first.state_dict().items()}
    quick().start_from(first).fit(w)
    assert all(torch.equal(old[k], v) for k, v in first.state_dict().items())  # the first is left alone


def test_loading_is_strict(tmp_path):
    w = world()
    first = quick(epochs=1).fit(w.select(*texts))
    with pytest.raises(InputError, match='no place'):
        HT(width=32, dim=16, heads=2, ff=16, trainer=dict(epochs=1)).start_from(first).fit(w)
    with pytest.raises(InputError, match='no place'):
        quick().start_from(first).fit(w.select('image', 'title', 'ingredients'))
    tensors, data = first.state()
    with pytest.raises(RuntimeError, match='Missing'):
        first.restore({k: v for k, v in list(tensors.items())[1:]}, data)


def test_the_vocabulary_of_texts_alone_holds_for_pictures(texty):
    first = learner('full', trainer=dict(epochs=1, batch=32)).fit(texty['full']['train'])
    few = Views({v: x[:4] for v, x in texty['full']['train'].items()})
    few = Views(
        image=View(torch.randn(4, 5)),
        **{
            v: View(dict(words=Ragged(*(t.packed().flat, t.length))), item=torch.arange(4))
            for v, x in few.items()
            for t in [x.x['words']]
        },
    )
    assert learner('full', trainer=dict(epochs=1, batch=4)).start_from(first).fit(few).words == first.words


# --- ladder
@pytest.mark.parametrize('projections, n', [('six', 6), ('one', 1), ('none', 0)])
def test_projections(projections, n):
    m = HT(projections=projections, width=16, dim=16, heads=2, ff=16, trainer=dict(epochs=1, batch=32)).fit(world())
    assert len(m.g) == n and torch.isfinite(m.score('image', world()['image'].x, 'title', world()['title'].x)).all()
    if not n:
        a, b = (
            m.with_params(space=s).score('title', world()['title'].x, 'ingredients', world()['ingredients'].x)
            for s in ('two', 'raw')
        )
        assert torch.allclose(a, b, atol=1e-6)


def test_names_are_checked():
    m = quick(epochs=1).fit(world())
    with pytest.raises(InputError, match="'titel'"):
        m.encode('titel+ingredients', {})
    with pytest.raises(InputError, match='none of them'):
        m.encode('title+ingredients', {})
    with pytest.raises(InputError, match='same rows'):
        together(world(), 'image+title')
    with pytest.raises(InputError, match='form'):
        HT(form='light')
    with pytest.raises(RuntimeError, match='not fitted'):
        HT().encode('title+ingredients', {})


def test_a_sum_of_methods_is_random_if_one_of_them_is():
    "A fusion with a trained network varies from run to run, so one run of it allows no verdict"
    assert random_run(ScoreFusion(RawFeatures(), CLIP()))
    assert not random_run(ScoreFusion(RawFeatures(), CCA()))
