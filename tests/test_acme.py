"ACME and the losses it is made of: golden numbers with gradients, the released code's faults, collapse, and the pantry"

import json
import math
import random

import pytest
import torch
import torch.nn.functional as F

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.core.settings import settings
from crossmodal_nb.data.synthetic import make_class_views, make_gaussian_views
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.datasets.ingredients import ingredient, pantry, sets, singular
from crossmodal_nb.evaluation.retrieval import evaluate_rows
from crossmodal_nb.evaluation.selection import checker
from crossmodal_nb.losses.adversarial import modality_bce, wgan_gp
from crossmodal_nb.losses.contrastive import triplet
from crossmodal_nb.losses.supervised import batch_hard, positive_weight, rescale_losses
from crossmodal_nb.methods.acme import ACME, Halved, Translation, modality_read, set_scores, threshold
from crossmodal_nb.methods.base import Method
from crossmodal_nb.nn.trainer import Collapse

golden = json.loads((settings().root / 'tests/golden/recipe.json').read_text())


def tensor(x):
    return torch.as_tensor(x, dtype=torch.float64)


def near(got, want):
    return torch.testing.assert_close(torch.as_tensor(got), tensor(want), rtol=1e-8, atol=1e-9)


item, view = torch.arange(3).repeat(2), torch.arange(2).repeat_interleave(3)

# losses

hard = {
    'acme_1_batch_hard': {},
    'xmrs_1_intra': dict(metric='cosine'),
    'xmrs_2_cross_only': dict(metric='cosine', modality=view),
    'xmrs_3_mean_negative': dict(metric='cosine', mining='mean'),
    'xmrs_4_many_views': dict(metric='cosine'),
}


def given(name):
    gold = golden[name]
    case = gold if 'image' in gold or 'codes' in gold else golden['xmrs_1_intra']
    return (
        (tensor(case['codes']), torch.tensor(case['item']), gold)
        if 'codes' in case
        else (tensor(case['image'] + case['recipe']), item, gold)
    )


@pytest.mark.parametrize('name', hard)
def test_batch_hard(name):
    z, i, gold = given(name)
    near(batch_hard(z, i, gold['margin'], **hard[name]), gold['loss'])
    assert math.isclose(
        sum(max(0, gold['margin'] + p - n) for p, n in zip(gold['hardest_positive'], gold['negative'])) / len(z),
        gold['loss'],
    )
    near(
        batch_hard(z, i, 9.0, **hard[name]), 9 + (tensor(gold['hardest_positive']) - tensor(gold['negative'])).mean()
    )  # every hinge open
    assert torch.autograd.gradcheck(lambda z: batch_hard(z, i, gold['margin'], **hard[name]), z.requires_grad_())


def test_the_order_of_rows_does_not_matter():
    z, i, gold = given('xmrs_4_many_views')
    p = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))
    for options in (dict(), dict(metric='cosine'), dict(mining='mean'), dict(modality=torch.tensor([0] * 3 + [1] * 8))):
        mixed = options | (dict(modality=options['modality'][p]) if 'modality' in options else {})
        near(batch_hard(z[p], i[p], **mixed), batch_hard(z, i, **options).item())


def test_pairs_across_views_only_is_the_triplet_of_the_house():
    z = torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    near(
        2 * batch_hard(z, torch.arange(10).repeat(2), 0.3, 'cosine', modality=torch.arange(2).repeat_interleave(10)),
        triplet(z[:10], z[10:], 0.3, 'max').item(),
    )


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('metric', ['euclid', 'cosine'])
def test_finite_whatever_the_codes(dtype, metric):
    for z in (
        torch.zeros(6, 4),
        torch.ones(6, 4),
        torch.tensor([[1.0, 0], [1, 0], [-1, 0]]).repeat(2, 1),
        1e20 * torch.ones(6, 2) if dtype == torch.float32 else torch.ones(6, 2),
    ):
        z = z.to(dtype).requires_grad_()
        loss = batch_hard(z, item, metric=metric)
        loss.backward()
        assert loss.isfinite() and z.grad.isfinite().all() and loss.dtype == torch.float32
    assert batch_hard(torch.full((6, 2), torch.nan), item, metric=metric).isnan()


def test_unknown_options_are_refused():
    z = torch.randn(6, 4)
    for bad in (dict(metric='dot'), dict(mining='max')):
        with pytest.raises(InputError):
            batch_hard(z, item, **bad)
    with pytest.raises(InputError):
        modality_bce(z[:, 0], z[:, 1], 'generator')
    for bad in (dict(form='gan'), dict(sides='text'), dict(metric='dot')):
        with pytest.raises(InputError):
            ACME(**bad)


def test_modality_bce():
    gold = golden['acme_2_modality_bce']
    a, b = (tensor(gold[k]).requires_grad_() for k in ('logit_image', 'logit_recipe'))
    for x, k in zip(torch.autograd.grad(modality_bce(a, b), (a, b)), ('grad_disc_image', 'grad_disc_recipe')):
        near(x, gold[k])
    for role, k in (
        ('critic', 'discriminator_loss'),
        ('minimax', 'L_MA'),
        ('minimax', 'encoder_minimax'),
        ('non-saturating', 'encoder_nonsaturating'),
    ):
        near(modality_bce(a, b, role).detach(), gold[k])
    near(modality_bce(0 * a, 0 * b, 'minimax').detach(), gold['perfectly_confused'])
    assert (
        modality_bce(torch.tensor([999.0]), torch.tensor([-999.0])) == 0
        and modality_bce(torch.tensor([-999.0]), torch.tensor([999.0])) == 2 * 999
    )


def test_wgan_gp():
    gold = golden['acme_3_wgan_gp']
    a, b, alpha, w = (tensor(gold[k]) for k in ('image', 'recipe', 'alpha', 'w'))
    alpha, w = alpha[:, None], w.requires_grad_()
    got = wgan_gp(lambda x: x @ w + gold['b'], a, b, alpha)
    near(got['penalty'].detach(), gold['gp_linear'])
    near(got['loss'].detach(), gold['critic_loss'])
    near(torch.autograd.grad(got['loss'], w)[0], gold['grad_w'])
    W1, b1, w2 = (tensor(gold['mlp'][k]) for k in ('W1', 'b1', 'w2'))
    near(
        wgan_gp(lambda x: F.leaky_relu(x @ W1.T + b1, gold['mlp']['slope']) @ w2, a, b, alpha)['penalty'],
        gold['mlp']['gp'],
    )
    a.requires_grad_()
    near(
        torch.autograd.grad(wgan_gp(lambda x: (x @ w) ** 2, a, b, alpha, 100.0)['loss'], a)[0],
        torch.autograd.grad(-((a @ w) ** 2).mean(), a)[0].tolist(),
    )  # the penalty does not teach codes
    constant = wgan_gp(
        torch.nn.Linear(4, 1).apply(lambda m: (m.weight.data.zero_(), m.bias.data.fill_(3))),
        a.float(),
        b.float(),
        alpha.float(),
    )
    assert constant['penalty'] == 1 and constant['apart'] == 0 and constant['loss'] == 10


def test_ingredients():
    gold = golden['acme_4_ingredients']
    x, y, w = (tensor(gold[k]) for k in ('logits', 'target', 'pos_weight'))
    x.requires_grad_()
    loss = F.binary_cross_entropy_with_logits(x, y)
    near(loss.detach(), gold['bce'])
    near(torch.autograd.grad(loss, x)[0], gold['grad_bce'])
    near(F.binary_cross_entropy_with_logits(x, y, pos_weight=w).detach(), gold['bce_weighted'])
    assert math.isclose(set_scores(x.detach(), y.bool())['F1'], gold['micro_f1_at_half'], rel_tol=1e-6)
    right = torch.tensor([[0, 3, -1, -1, -1], [2, -1, -1, -1, -1]])
    near(F.multilabel_margin_loss(x.sigmoid(), right).detach(), gold['margin_on_sigmoid_right'])
    near(F.multilabel_margin_loss(x.sigmoid(), y.long()).detach(), gold['margin_on_sigmoid_as_released'])


def test_total():
    gold = golden['acme_5_total']
    hard, align, image, text = map(tensor, gold['terms'])
    near(hard + 0.005 * align + 0.002 * rescale_losses(image, text), gold['total'])
    near(
        F.cross_entropy(tensor(gold['class_logits']), torch.tensor(gold['classes']), ignore_index=0),
        gold['class_ce_background_ignored'],
    )


def test_sampling_and_synthesis_of_xmrs():
    """Nothing here uses them: the shares of languages, and the two terms of the picture generator, checked with torch
    directly
    """
    for name, (pairs, rest) in dict(
        released=(['de-en', 'ru-en'], ['de', 'ru', 'fr']), with_ko=(['de-en', 'ru-en'], ['de', 'ru', 'fr', 'ko'])
    ).items():
        want = {'en': 0.25} | dict.fromkeys(pairs, 0.25 / len(pairs)) | dict.fromkeys(rest, 0.5 / len(rest))
        assert want == pytest.approx(golden['xmrs_5_sampling'][name])
    gold = golden['xmrs_6_synthesis']
    mu, logvar = tensor(gold['mu']), tensor(gold['logvar'])
    kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).mean()
    near(kl, gold['kl_mean'])
    near(2 * kl, gold['kl_term'])
    z, _, _ = given('xmrs_1_intra')
    near(32 * (1 - F.cosine_similarity(z[:3], z[3:])).mean(), gold['cycle'])


# ACME


def world(n=160, seed=0, names=('image', 'text'), label=lambda y: y):
    w, c = (
        make_gaussian_views(n, {v: 20 + 2 * j for j, v in enumerate(names)}, rho=(0.95,) * 8, seed=seed),
        make_class_views(
            n, {v: 20 + 2 * j for j, v in enumerate(names)}, dict.fromkeys(names, 1.0), classes=4, seed=seed
        ),
    )
    return Views({v: View(w[v].x + c[v].x, y=label(c[v].y)) for v in names})


def basketed(w, size=7):
    first = next(iter(w.values()))
    return Views(w | dict(basket=View(first.x[:, :size] > first.x[:, :size].median(0).values)))


def short(**k):
    return ACME(
        **ACME.example().get_params(deep=False) | dict(trainer=dict(epochs=3, batch=40, lr=3e-3, accelerator='cpu')) | k
    )


@pytest.mark.parametrize('names', [('image', 'text'), ('title', 'steps')])
def test_saved_with_a_basket(names, tmp_path):
    w, test = basketed(world(names=names)), world(60, 1, names)
    m = short().fit(w, checker(test))
    m.save(tmp_path / 'm')
    again = Method.load(tmp_path / 'm')
    a, b = names
    assert list(again.views) == list(names) and again.names == 7 and again.classes == 4
    assert torch.equal(again.score(a, test[a].x, b, test[b].x), m.score(a, test[a].x, b, test[b].x))
    assert torch.equal(again.ingredients(test[a].x), m.ingredients(test[a].x)) and m.ingredients(test[a].x).shape == (
        60,
        7,
    )
    assert (
        torch.equal(again.translate(a, test[a].x), m.translate(a, test[a].x))
        and m.translate(a, test[a].x).shape == test[b].x.shape
    )
    assert all(k in m.history[-1] for k in ('triplet', 'align', 'translate', 'ingredients', 'class', 'check'))
    with pytest.raises(ValueError, match='basket'):
        m.encode('basket', w['basket'].x)
    s = set_scores(m.ingredients(w[a].x), w['basket'].x, threshold(m.ingredients(w[a].x), w['basket'].x))
    assert s['F1'] > 0.6


@pytest.mark.parametrize('form', ['bce', 'wgan_gp'])
@pytest.mark.parametrize('sides', ['both', 'second'])
@pytest.mark.parametrize('within', [True, False])
def test_every_form_learns(form, sides, within):
    w = basketed(world(label=lambda y: torch.where(torch.arange(len(y)) % 3 > 0, y, -1)))
    m = short(
        form=form,
        sides=sides,
        same_view_negatives=within,
        balance=within,
        warmup_epochs=0,
        metric='cosine' if within else 'euclid',
    ).fit(w)
    assert m.history[-1]['loss'] < m.history[0]['loss'] and all(math.isfinite(v) for r in m.history for v in r.values())


def test_whose_codes_unlearn():
    w = world()
    m = short(w_translate=0.0, w_class=0.0).fit(w)
    m.eval()
    m.epoch, batch = 2, w.batch(torch.arange(40))
    for form in ('bce', 'wgan_gp'):
        for sides, moved in (('both', {'image', 'text'}), ('second', {'text'})):
            m.form, m.sides = form, sides
            m.zero_grad()
            m(batch)['align'].backward()
            assert {v for v in w if any(p.grad is not None and p.grad.any() for p in m.heads[v].parameters())} == moved


def test_the_codes_go_against_the_critic():
    "A small step of the heads along their gradient makes the critic pay more, a step of the critic makes it pay less"
    for form in ('bce', 'wgan_gp'):
        w = world()
        m = short(form=form, w_align=1.0).fit(w)
        m.eval()
        m.epoch, batch = 2, w.batch(torch.arange(80))
        for part, sign in (('heads', 1), ('critic', -1)):
            m.zero_grad()
            old = m(batch)['align']
            old.backward()
            with torch.no_grad():
                for n, p in m.named_parameters():
                    if n.startswith(part) and p.grad is not None:
                        p -= 1e-4 * p.grad
            if form == 'bce' or part == 'critic':
                assert sign * (float(m(batch)['align'].detach()) - float(old.detach())) > 0


def test_the_seed_decides_and_the_basket_does_not_move_the_start():
    w = basketed(world())
    a, b = (short().fit(w) for _ in range(2))
    assert torch.equal(a.encode('image', w['image'].x), b.encode('image', w['image'].x))
    a, b = (short(w_ingredients=k, trainer=dict(epochs=0)).fit(w) for k in (0.0, 1.0))
    assert torch.equal(a.encode('text', w['text'].x), b.encode('text', w['text'].x))


def test_labels():
    multi_label = world(label=lambda y: F.one_hot(y, 5))
    assert short().fit(multi_label).classes == 5 and 'class' in short().fit(multi_label).history[0]
    for w in (Views({v: View(x.x) for v, x in world().items()}), world(label=lambda y: 0 * y - 1)):
        assert 'class' not in short().fit(w).history[0]


def test_what_it_cannot_learn_from():
    three = make_gaussian_views(60, dict(a=8, b=8, c=8))
    with pytest.raises(ValueError, match='takes 2 views'):
        short().fit(three)
    with pytest.raises(RuntimeError, match='basket'):
        short().fit(world()).ingredients(world()['image'].x)


class Zeroed(ACME):
    "After its first epoch somebody makes all codes equal, but never quite to one point"

    def after_step(self):
        if self.epoch >= 1:
            for h in self.heads.values():
                for p in h.parameters():
                    p.data.zero_()
                h.linear.weight.data.normal_(0, 1e-6, generator=torch.Generator().manual_seed(0))
                h.linear.bias.data.fill_(1.0)


def test_collapse():
    options = dict(epochs=5, batch=4, lr=1e-3, accelerator='cpu')
    with pytest.raises(Collapse, match='for 50 steps the triplet has been its margin, 0.3'):
        Zeroed(**short().get_params(deep=False) | dict(trainer=options)).fit(world())
    with pytest.raises(Collapse, match='three times in a row'):
        Zeroed(**short().get_params(deep=False) | dict(trainer=options | dict(batch=80))).fit(
            world(), checker(world(60, 1))
        )
    assert len(short(trainer=options | dict(epochs=2)).fit(world()).history) == 2  # 80 steps, and no collapse


def test_halved():
    values = iter([0.2, 0.4, 0.1, 0.19, 0.21, 0.1, 0.19, 0.1])
    check = Halved(lambda m: next(values))
    assert [check(None) for _ in range(7)] == [0.2, 0.4, 0.1, 0.19, 0.21, 0.1, 0.19]
    with pytest.raises(Collapse, match='0.4'):
        check(None)
    worse = iter([-2.0, -5.0, -9.0, -9.0, -20.0])
    check = Halved(lambda m: next(worse))  # a median rank, negated: half of it means nothing
    assert [check(None) for _ in range(5)][-1] == -20


# what is asked of it


def test_translation_is_judged_by_rank():
    class Knows(ACME):
        def translate(self, view, x):
            return self.standard(opposite[view], truth[opposite[view]])

    w, t = world(), world(60, 1)
    opposite, truth = dict(image='text', text='image'), {v: x.x for v, x in t.items()}
    m = Knows(**short().get_params(deep=False)).fit(w)
    rows = evaluate_rows(Translation(m), t, boot=0, permutations=2)
    assert all(r['value'] == 1 for r in rows if r['metric'] in ('R@1', 'medR')) and all(
        r['chance'] == pytest.approx(1 / 60) for r in rows if r['metric'] == 'R@1'
    )


def test_the_view_is_read_off_held_out_items():
    class Codes:
        def __init__(self, f):
            self.f = f

        def encode(self, v, x):
            return self.f(v, x)

    w = Views(a=View(torch.randn(200, 30)), b=View(torch.randn(200, 30)))
    assert (
        modality_read(Codes(lambda v, x: x + 3 * (v == 'a')), w) > 0.95
        and abs(modality_read(Codes(lambda v, x: x), w) - 0.5) < 0.12
    )  # 30 numbers, 100 items: it would fit what it was shown
    five = Views(a=w['a'], b=View(torch.randn(1000, 30), item=torch.arange(1000) % 200))
    assert (
        abs(modality_read(Codes(lambda v, x: x), five) - 0.5) < 0.12
    )  # five captions a photo are no reason to guess "caption"


def test_threshold_by_trying_all():
    g = torch.Generator().manual_seed(0)
    for ties in (False, True):
        s, y = torch.randn(20, 6, generator=g), torch.rand(20, 6, generator=g) < 0.3
        if ties:
            s = s.round()
        best = max(set_scores(s, y, float(t))['F1'] for t in s.flatten())
        assert math.isclose(set_scores(s, y, threshold(s, y))['F1'], best)
    assert set_scores(torch.full((2, 3), -1.0), torch.zeros(2, 3, dtype=torch.bool))['IoU'] == 1


# the pantry


def test_lines():
    assert [
        singular(w)
        for w in 'eggs tomatoes cherries leaves asparagus swiss peas hummus couscous radishes peaches'.split()
    ] == 'egg tomato cherry leaf asparagus swiss pea hummus couscous radish peach'.split()
    for line, name in {
        '½ cup sugar': 'sugar',
        '1 (8-ounce) package cream cheese': 'cream cheese',
        'Kosher salt and freshly ground black pepper, to taste': 'kosher salt black pepper',
        '': '',
        '* * *': '',
        '2': '',
        '3 - 4 carrots': 'carrot',
        '100 g / 1⁄2 cups butter': 'butter',
        "250 grams of ''agnolotti''": 'agnolotti',
        'Crème fraîche': 'crème fraîche',
    }.items():
        assert ingredient(line) == name, line


def test_any_line_has_a_name_or_none():
    r = random.Random(0)
    for _ in range(2000):
        line = ''.join(r.choice('ab 1⁄2()<>,/-–éß中\'"½\t') for _ in range(r.randrange(40)))
        name = ingredient(line)
        assert name == ' '.join(name.split()) and not any(c.isdigit() for c in name)


def test_only_training_rows_have_a_say():
    def rows(*t):
        return Views(text=View(list(t)))

    raw = dict(
        train=rows('salt', 'salt\negg', 'egg'), valid=rows('salt\nsaffron'), test=rows('saffron', 'saffron', 'egg')
    )
    got, names = pantry(raw, 'text', min_items=2)
    assert (
        names == ['egg', 'salt']
        and got['test'].x.tolist() == [[False, False], [False, False], [True, False]]
        and got['train'].x.dtype == torch.bool
    )
    changed = raw | dict(test=rows(*['truffle'] * 50))
    assert pantry(changed, 'text', min_items=2)[1] == names
    with pytest.raises(InputError, match='3 training items'):
        pantry(raw, 'text', min_items=3)
    with pytest.raises(InputError):
        pantry(raw, 'text', 'nouns')


def test_detected_and_words():
    raw = dict(train=Views(text=View(['egg\nblack pepper', 'black pepper'])))
    assert pantry(raw, 'text', 'detected', 1)[1] == ['black pepper', 'egg']
    captions = dict(train=Views(text=View(['The dogs run', 'a dog'], item=[5, 5])))
    got, names = pantry(captions, 'text', 'words', 1)
    assert names == ['dog', 'run'] and len(got['train']) == 1 and got['train'].item.tolist() == [5]


def test_lazy_texts():
    class Lazy:
        def __init__(self, t):
            self.t = t

        def __len__(self):
            return len(self.t)

        def __getitem__(self, i):
            return self.t[i] if isinstance(i, int) else [self.t[j] for j in i.tolist()]

        def take(self, i):
            return Lazy(
                [self.t[j] for j in range(len(self.t))[i]] if isinstance(i, slice) else [self.t[int(j)] for j in i]
            )

    texts = [f'salt\n{k % 7} egg{"s" * (k % 2)}' for k in range(2500)]
    assert sets(View(Lazy(texts)), 'ingredients') == sets(View(texts), 'ingredients')


def test_positive_weight():
    assert positive_weight(torch.tensor([[True, True, False]] + [[True, False, False]] * 3)).tolist() == [0, 3, 10]
