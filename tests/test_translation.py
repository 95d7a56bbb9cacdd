"Translators against naive twins; their measures on cases whose value is known; clear words for what does not fit."

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.data.synthetic import make_gaussian_views
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.evaluation.retrieval import evaluate
from crossmodal_nb.evaluation.translation import translation_rows
from crossmodal_nb.methods.linear import CCA
from crossmodal_nb.methods.translation import (
    CodePairs,
    ConditionalMean,
    MeanFeatures,
    MLPTranslator,
    NearestMixture,
    RidgeTranslator,
    Translated,
    paired_codes,
)

wide = dict(image=14, text=10)
tags = dict(query='text', gallery='image', split='test')


def world(n=200, seed=0):
    "Pairs, of which some items have two texts"
    views = make_gaussian_views(n, wide, rho=(0.95,) * 6, seed=seed)
    more = torch.arange(0, n, 3)
    text = torch.cat([views['text'].x, views['text'].x[more] + 0.1])
    return Views(image=views['image'], text=View(text, item=torch.cat([torch.arange(n), more])))


@pytest.fixture(scope='module')
def space():
    return CCA(dim=6, ridge=1e-2).fit(world())


@pytest.fixture(scope='module')
def pairs(space):
    return paired_codes(space, world(), 'text', 'image')


def test_pairs_weigh_items_alike(space, pairs):
    views = world()
    assert len(pairs.codes) == len(views['text']) and float(pairs.weight.sum()) == pytest.approx(200)
    for row in (0, 1, 205):
        item = int(views['text'].item[row])
        assert torch.equal(pairs.features[row], views['image'].x[item].float()) and pairs.item[row] == item
    own = paired_codes(space, views, 'text', 'text')
    assert torch.equal(own.features, views['text'].x.float()) and torch.allclose(own.weight, pairs.weight)


@pytest.mark.parametrize('ridge', [1e-3, 0.5])
def test_ridge_is_that_of_scikit_learn(pairs, ridge):
    codes, features, w = pairs.codes.double(), pairs.features.double(), pairs.weight
    center = (w @ codes) / w.sum()
    variance = (w @ (codes - center) ** 2) / (w.sum() - 1)  # as `Moments` divides
    twin = Ridge(alpha=float(ridge * variance.mean() * (w.sum() - 1)))
    twin.fit(codes.numpy(), features.numpy(), sample_weight=w.numpy())
    predicted = RidgeTranslator(ridge).fit(pairs).predict(pairs.codes)
    np.testing.assert_allclose(predicted.numpy(), twin.predict(codes.numpy()), atol=1e-3)


@pytest.mark.parametrize('source, target', [('text', 'image'), ('image', 'text')])
def test_the_conditional_mean_is_least_squares_on_the_codes(space, source, target):
    pairs = paired_codes(space, world(), source, target)
    w = pairs.weight.sqrt()[:, None]
    X = torch.cat([pairs.codes.double(), torch.ones(len(w), 1)], 1)
    solution = torch.linalg.lstsq(X * w, pairs.features.double() * w).solution
    predicted = ConditionalMean(space, source).fit(pairs).predict(pairs.codes)
    torch.testing.assert_close(predicted.double(), X @ solution, atol=1e-4, rtol=1e-4)


def test_the_conditional_mean_survives_coordinates_that_carry_nothing():
    views = make_gaussian_views(400, wide, rho=(0.95,) * 2, seed=3)
    wider = CCA(dim=10, ridge=1e-3, rho_power=4).fit(views)
    p = paired_codes(wider, views, 'text', 'image')
    (r2, _) = translation_rows(ConditionalMean(wider, 'text').fit(p), p, p.features.mean(0), boot=0, **tags)
    assert 0 < r2['value'] < 1


def naive_mixture(codes, known, features, weight, k, temperature):
    out = []
    for z in codes:
        s = [float(z @ c / z.norm() / c.norm()) for c in known]
        near = sorted(range(len(s)), key=lambda j: -s[j])[:k]
        share = np.array([float(weight[j]) * np.exp(s[j] / temperature) for j in near])
        out.append(sum(a * features[j] for a, j in zip(share / share.sum(), near)))
    return torch.stack(out)


@pytest.mark.parametrize('k', [1, 7, 1000])
def test_a_mixture_equals_a_loop(space, pairs, k):
    codes = paired_codes(space, world(20, 1), 'text', 'image').codes
    predicted = NearestMixture(k, 0.2).fit(pairs).predict(codes)
    torch.testing.assert_close(
        predicted, naive_mixture(codes, pairs.codes, pairs.features, pairs.weight, k, 0.2), atol=1e-4, rtol=1e-4
    )


def test_the_network_learns_and_repeats_itself(space, pairs):
    trainer = dict(epochs=8, batch=50, lr=3e-3, accelerator='cpu')
    first, second = (MLPTranslator(hidden=32, dropout=0.1, trainer=trainer).fit(pairs) for _ in range(2))
    codes = paired_codes(space, world(50, 1), 'text', 'image')
    assert torch.equal(first.predict(codes.codes), second.predict(codes.codes))
    (r2, _) = translation_rows(first, codes, pairs.features.mean(0), boot=0, **tags)
    assert r2['value'] > 0.1 and first.history[-1]['loss'] < first.history[0]['loss']


def test_r2_and_cosine_equal_a_loop_over_items(space, pairs):
    judged = paired_codes(space, world(40, 1), 'text', 'image')
    translator = RidgeTranslator().fit(pairs)
    mean = MeanFeatures().fit(pairs).mean
    predicted = translator.predict(judged.codes).numpy()
    true, item = judged.features.numpy(), judged.item.numpy()
    error = reference = cosine = 0.0
    for i in set(item):
        rows = [r for r in range(len(item)) if item[r] == i]
        error += np.mean([((true[r] - predicted[r]) ** 2).sum() for r in rows])
        reference += np.mean([((true[r] - mean.numpy()) ** 2).sum() for r in rows])
        unit = [(true[r] @ predicted[r]) / np.linalg.norm(true[r]) / np.linalg.norm(predicted[r]) for r in rows]
        cosine += np.mean(unit)
    r2, cos = translation_rows(translator, judged, mean, boot=200, **tags)
    assert r2['value'] == pytest.approx(1 - error / reference, abs=1e-5)
    assert cos['value'] == pytest.approx(cosine / 40, abs=1e-5)
    assert r2['n'] == 40 and r2['low'] < r2['value'] < r2['high']


def test_oracle_and_mean_are_bounds(space, pairs):
    judged, own = (paired_codes(space, world(100, 1), v, 'image') for v in ('text', 'image'))
    mean = MeanFeatures().fit(pairs)
    oracle = RidgeTranslator(1e-3).fit(paired_codes(space, world(), 'image', 'image'))
    values = [
        translation_rows(t, p, mean.mean, boot=0, **tags)[0]['value']
        for t, p in ((mean, judged), (RidgeTranslator(1e-3).fit(pairs), judged), (oracle, own))
    ]
    assert values[0] == 0 and values == sorted(values)


def test_translated_retrieval_is_by_cosines_around_the_mean(space, pairs):
    views, test = world(), world(30, 1)
    both = {
        (s, t): RidgeTranslator().fit(paired_codes(space, views, s, t))
        for s, t in (('image', 'text'), ('text', 'image'))
    }
    means = {v: views[v].x.float().mean(0) for v in wide}
    scores = Translated(space, both, means)
    blocks = list(scores.score_batches('text', test['text'].x, 'image', test['image'].x, rows=7))
    x = both['text', 'image'].predict(space.encode('text', test['text'].x)) - means['image']
    y = test['image'].x.float() - means['image']
    naive = torch.tensor([[float(a @ b / a.norm() / b.norm()) for b in y] for a in x])
    torch.testing.assert_close(torch.cat([s for _, s in blocks]), naive, atol=1e-5, rtol=1e-4)
    table = evaluate(scores, test, boot=0, permutations=0)
    assert table.query('metric == "R@10"').value.min() > 2 * 10 / 30
    with pytest.raises(InputError, match="no translator from 'text' to 'sound'"):
        next(scores.score_batches('text', test['text'].x, 'sound', None))


@pytest.mark.parametrize('translator', [MeanFeatures(), RidgeTranslator(), NearestMixture()], ids=repr)
def test_bad_input_is_refused(pairs, translator):
    with pytest.raises(RuntimeError, match='not fitted'):
        type(translator)().predict(pairs.codes)
    translator.fit(pairs)
    with pytest.raises(InputError, match='6 wide'):
        translator.predict(pairs.codes[:, :4])
    with pytest.raises(InputError, match='6 wide'):
        translator.predict(pairs.codes[0])
    with pytest.raises(InputError, match='NaN'):
        translator.predict(pairs.codes * float('nan'))
    with pytest.raises(InputError, match='two pairs'):
        translator.fit(CodePairs(*(x[:1] for x in pairs)))
    other = CodePairs(pairs.codes, pairs.features[:, :3], pairs.weight, pairs.item)
    with pytest.raises(InputError, match='another view'):
        translation_rows(translator.fit(pairs), other, other.features.mean(0), **tags)


def test_settings_that_make_no_sense_are_refused(space, pairs):
    for wrong in (lambda: RidgeTranslator(0), lambda: NearestMixture(0), lambda: NearestMixture(3, 0.0)):
        with pytest.raises(InputError):
            wrong()
    with pytest.raises(InputError, match='image, text'):
        ConditionalMean(space, 'sound').fit(pairs)
    with pytest.raises(InputError, match='this CCA has codes 6'):
        ConditionalMean(space, 'image').fit(pairs)
    apart = Views(image=View(torch.randn(3, 14)), text=View(torch.randn(3, 10), item=torch.arange(3) + 9))
    with pytest.raises(InputError, match='nothing to translate'):
        paired_codes(space, apart, 'text', 'image')
    constant = pairs._replace(features=torch.ones_like(pairs.features))
    with pytest.raises(InputError, match='nothing to predict'):
        translation_rows(MeanFeatures().fit(constant), constant, torch.ones(14), **tags)
