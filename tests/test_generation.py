"Measures of generated pictures and captions against naive twins and cases whose value is known."

import math

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist, pdist

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.metrics.captions import cider, grams, overlap_scores, words
from crossmodal_nb.metrics.generation import diversity, fid, kid, memorisation, nearest_distance, relative_spread

rng = np.random.default_rng(0)


def sample(n, q=3, shift=0.0):
    return shift + rng.normal(size=(n, q))


def naive_kid(x, y):
    def k(a, b):
        return (sum(u * v for u, v in zip(a, b)) / len(a) + 1) ** 3

    def inside(z):
        return np.mean([k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j])

    return inside(x) + inside(y) - 2 * np.mean([k(a, b) for a in x for b in y])


def test_kid_equals_a_loop():
    x, y = sample(20), sample(25, shift=0.5)
    assert kid(x, y, 4).value == pytest.approx(naive_kid(x, y))


def test_kid_is_unbiased_and_its_interval_covers():
    "Twenty pictures: the mean over 300 samples is the value of the distributions, and about 95 % of intervals hold it"
    delta = 0.7
    expected = 3 * delta**2 + 3 * delta**4 + (delta**3 + 3 * delta) ** 2
    found = [kid(sample(40, 1, delta), sample(40, 1), 8, seed) for seed in range(300)]
    values = np.array([f.value for f in found])
    assert abs(values.mean() - expected) < 3 * values.std() / 300**0.5
    assert np.mean([f.low <= expected <= f.high for f in found]) > 0.85
    equal = [kid(sample(40, 1), sample(40, 1), 8).value for _ in range(300)]
    assert abs(np.mean(equal)) < 3 * np.std(equal) / 300**0.5 and min(equal) < 0


def test_the_frechet_distance_is_that_of_the_formula():
    x, y = sample(50, 4), sample(60, 4, 1.0) @ rng.normal(size=(4, 4))
    Sx, Sy = np.cov(x.T), np.cov(y.T)
    gap = ((x.mean(0) - y.mean(0)) ** 2).sum()
    assert fid(x, y) == pytest.approx(gap + np.trace(Sx + Sy - 2 * sqrtm(Sx @ Sy).real))
    assert fid(x, x) == pytest.approx(0, abs=1e-6)
    wide = sample(5, 12)  # fewer pictures than columns
    assert fid(wide, wide + 0.5) == pytest.approx(12 * 0.25, abs=1e-6)


def test_fid_of_different_widths_is_the_difference_of_deviations():
    x = sample(5000, 1)
    assert fid(3 * x, x) == pytest.approx(4 * x.var(ddof=1) + 4 * x.mean() ** 2)


def test_diversity_and_spread_equal_loops():
    samples = sample(6 * 4).reshape(6, 4, 3)
    np.testing.assert_allclose(diversity(samples).numpy(), [pdist(s).mean() for s in samples])
    x, y = sample(9), sample(12)
    assert relative_spread(x, y) == pytest.approx(pdist(x).mean() / pdist(y).mean())
    assert relative_spread(np.zeros((5, 3)), y) == 0


def test_memorisation():
    train, held, fresh = sample(200), sample(80), sample(80)
    np.testing.assert_allclose(nearest_distance(fresh, train).numpy(), cdist(fresh, train).min(1))
    m = memorisation(fresh, held, train)
    assert m.ratio == pytest.approx(np.median(cdist(fresh, train).min(1)) / np.median(cdist(held, train).min(1)))
    assert m.low < m.ratio < m.high and m.low < 1 < m.high
    copied = memorisation(train[:80], held, train)
    assert copied.ratio == copied.high == 0 and copied.closer == 1
    with pytest.raises(InputError, match='nothing about memory'):
        memorisation(fresh, train[:80], train)


def test_pictures_can_be_given_as_they_are():
    x, y = sample(20 * 12).reshape(20, 3, 2, -1), sample(20 * 12).reshape(20, 3, 2, -1)
    assert kid(x, y, 3).value == pytest.approx(naive_kid(x.reshape(20, -1), y.reshape(20, -1)))


@pytest.mark.parametrize('blocks', [1, 10])
def test_too_few_pictures_for_kid(blocks):
    with pytest.raises(InputError, match='two rows'):
        kid(sample(19), sample(40), blocks)


def test_features_that_cannot_be_compared():
    with pytest.raises(InputError, match='same encoder'):
        kid(sample(20), sample(20, 4), 2)
    broken = sample(20)
    broken[3, 1] = np.nan
    for measure in (kid, fid, relative_spread):
        with pytest.raises(InputError, match='NaN'):
            measure(broken, sample(20))
    with pytest.raises(InputError, match='two rows'):
        fid(sample(1), sample(5))
    with pytest.raises(InputError, match='two or more pictures'):
        diversity(sample(5))
    with pytest.raises(InputError, match='all real pictures are equal'):
        relative_spread(sample(5), np.ones((5, 3)))


# Captions

references = [
    ['A red apple on a table.', 'an apple that is red'],
    ['a blue car', 'the blue car drives', 'a car'],
    ['two dogs run on a beach', 'dogs on the beach'],
]
candidates = ['a red apple', 'a blue dog on a beach', 'two dogs run on a beach']


def naive_cider(candidate, captions, pictures):
    "Equation by equation, every n-gram as a string"
    total = 0.0
    for n in range(1, 5):

        def count(text, n=n):
            t = words(text)
            return [' '.join(t[i : i + n]) for i in range(len(t) - n + 1)]

        vocabulary = sorted({g for p in pictures for c in p for g in count(c)} | set(count(candidate)))

        def vector(text, count=count, vocabulary=vocabulary):
            found = count(text)
            return np.array(
                [
                    found.count(w)
                    / max(len(found), 1)
                    * math.log(len(pictures) / max(1, sum(any(w in count(c) for c in p) for p in pictures)))
                    for w in vocabulary
                ]
            )

        for c in captions:
            a, b = vector(candidate), vector(c)
            if a.any() and b.any():
                total += a @ b / np.linalg.norm(a) / np.linalg.norm(b) / len(captions) / 4
    return total


def test_cider_equals_a_loop():
    expected = [naive_cider(c, r, references) for c, r in zip(candidates, references)]
    np.testing.assert_allclose(cider(candidates, references), expected)
    assert expected[2] > 0.5 and min(expected) > 0
    corpus = [*references, ['a house'], ['a red house', 'houses']]
    np.testing.assert_allclose(
        cider(candidates, references, corpus), [naive_cider(c, r, corpus) for c, r in zip(candidates, references)]
    )


def test_words_of_every_script_are_read():
    assert words("Über 3 Äpfel, don't") == ['über', '3', 'äpfel', 'don', 't'] and words('…') == []
    assert cider(['', 'кот'], [['a cat'], ['кот']]).tolist() == [0, 0.25]


def test_bleu_is_the_formula():
    "Modified precisions and the brevity penalty, counted by hand"
    hits, tries, length, nearest = [0] * 4, [0] * 4, 0, 0
    for c, r in zip(candidates, references):
        tokens, texts = c.split(), [t.lower().replace('.', ' .').split() for t in r]
        length += len(tokens)
        nearest += min((len(t) for t in texts), key=lambda n: (abs(n - len(tokens)), n))
        for n in range(1, 5):
            counted = grams(tokens, n)
            hits[n - 1] += sum(min(k, max(grams(t, n)[g] for t in texts)) for g, k in counted.items())
            tries[n - 1] += sum(counted.values())
    penalty = min(1, math.exp(1 - nearest / length))
    expected = 100 * penalty * math.exp(sum(math.log(h / t) for h, t in zip(hits, tries)) / 4)
    found = overlap_scores(candidates, references)
    assert found['BLEU-4'] == pytest.approx(expected) and 'version' in found['signatures']['chrF']


def test_captions_that_cannot_be_scored():
    for metric in (cider, overlap_scores):
        with pytest.raises(InputError, match='references for 3'):
            metric(candidates[:2], references)
        with pytest.raises(InputError, match='at least one'):
            metric([], [])
        with pytest.raises(InputError, match='caption 1'):
            metric(candidates, [references[0], [], references[2]])
        with pytest.raises(InputError, match='a list of one text'):
            metric(candidates, [references[0], 'a text', references[2]])
    with pytest.raises(InputError, match='give a corpus'):
        cider(candidates[:1], references[:1])
