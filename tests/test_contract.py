"""What every method must obey, whatever it does inside. Classes are discovered, not listed: a new family is held to
this by existing.
"""

import inspect
import json

import numpy as np
import pytest
import torch
from sklearn.base import clone

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.data.synthetic import make_class_views, make_gaussian_views
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.datasets import load
from crossmodal_nb.encoders.extraction import features
from crossmodal_nb.encoders.text import TfIdf
from crossmodal_nb.evaluation.retrieval import evaluate_rows
from crossmodal_nb.methods.base import Method, check_score_invariance
from crossmodal_nb.methods.saving import methods
from crossmodal_nb.methods.similarity import unit

classes = methods()


def world(n=240, seed=0, cls=None):
    """Two labelled views paired by item: what they share is the class, and a latent beside it; in one space for a
    method that needs that
    """
    return in_one_space(cls, _world(240, 0), _world(n, seed))


def in_one_space(cls, train, views):
    "Views as they are; for a method that needs a space of both, as towers that were trained on `train` encode them"
    if not getattr(cls, 'joint_space', False):
        return views
    towers = classes['linear:CCA'](dim=24).fit(train)
    return Views({v: x.with_features(towers.encode(v, x.x)) for v, x in views.items()})


def _world(n, seed):
    wide = dict(image=72, text=64)
    by_class, by_item = (
        make_class_views(n, wide, dict(image=2.0, text=2.0), seed=seed),
        make_gaussian_views(n, wide, rho=(0.95,) * 12, seed=seed),
    )
    return Views({v: View(by_class[v].x + by_item[v].x / by_item[v].x.std(), y=by_class[v].y) for v in wide})


def new(cls):
    return cls.example() if hasattr(cls, 'example') else cls()


@pytest.fixture(scope='module', params=classes, ids=str)
def fitted(request):
    return new(classes[request.param]).fit(world(cls=classes[request.param]))


@pytest.fixture
def test(request):
    fitted = request.getfixturevalue('fitted') if 'fitted' in request.fixturenames else None
    return world(90, seed=1, cls=type(fitted))


def sides(m, test, a='image', b='text'):
    return m, a, test[a].x, b, test[b].x


def test_there_are_methods():
    assert {'linear:CCA', 'linear:MCCA', 'linear:GCCA', 'linear:PLS', 'linear:KCCA'} <= set(classes)


def test_two_laws(fitted, test):
    assert check_score_invariance(*sides(fitted, test)) == dict(gallery=True, queries=True)
    assert check_score_invariance(*sides(fitted, test, 'text', 'image')) == dict(gallery=True, queries=True)


def test_galleries_of_another_size(fitted, test):
    if hasattr(fitted, 'second'):
        pytest.skip('which k a re-ranker looks at depends on the gallery')
    m, a, xa, b, xb = sides(fitted, test)
    assert torch.allclose(m.score(a, xa, b, xb[:31]), m.score(a, xa, b, xb)[:, :31], atol=1e-5, rtol=1e-4)


def test_blocks_are_score(fitted, test):
    m, a, xa, b, xb = sides(fitted, test)
    full, visited = m.score(a, xa, b, xb), []
    for where, block in m.score_batches(a, xa, b, xb, rows=37):
        assert torch.allclose(block, full[where], atol=1e-5, rtol=1e-4)
        visited += range(len(xa))[where]
    assert visited == list(range(len(xa))) and full.shape == (len(xa), len(xb)) and full.isfinite().all()


def test_a_plain_tensor_is_its_own_pooled(fitted, test):
    m, a, xa, b, xb = sides(fitted, test)
    if m.parts == ('pooled',):
        assert torch.equal(m.score(a, dict(pooled=xa), b, dict(pooled=xb)), m.score(a, xa, b, xb))


def test_saved_and_loaded_scores_the_same(fitted, test, tmp_path):
    fitted.save(tmp_path / 'm')
    fitted.save(tmp_path / 'm')  # twice: overwriting is fine
    again = Method.load(tmp_path / 'm')
    assert type(again) is type(fitted) and str(again).replace('(', '[').replace(')', ']') == str(fitted).replace(
        '(', '['
    ).replace(')', ']')
    assert again.views == fitted.views and list(again.history) == list(fitted.history)
    assert torch.equal(again.score(*sides(again, test)[1:]), fitted.score(*sides(fitted, test)[1:]))
    assert not [f for f in (tmp_path / 'm').iterdir() if f.suffix not in ('.json', '.safetensors')]


def test_hyper_parameters(fitted):
    cls = type(fitted)
    for p in inspect.signature(cls).parameters.values():
        assert p.kind is not p.VAR_KEYWORD, f'{cls.__name__} swallows misspelt hyper-parameters'
        assert p.default is not p.empty or hasattr(cls, 'example'), f'{cls.__name__}: {p.name} has no default'
        assert hasattr(fitted, p.name), f'{cls.__name__} does not keep {p.name}'
    with pytest.raises(TypeError):
        cls(similaritty='cosine')


def test_bad_input_is_refused(fitted, test):
    m, a, xa, b, xb = sides(fitted, test)
    bad = xa.clone()
    bad[5, 2] = float('nan')
    with pytest.raises(ValueError, match='NaN'):
        m.score(a, bad, b, xb)
    with pytest.raises(ValueError, match="'image'"):
        m.score('imaje', xa, b, xb)
    with pytest.raises(ValueError, match='wide'):
        m.score(a, xa[:, :7], b, xb)
    with pytest.raises(RuntimeError, match='not fitted'):
        new(type(m)).score(a, xa, b, xb)


def test_finds_partners(fitted):
    "Not a benchmark: on its own training rows every method must beat chance clearly, by label at least"
    train = world(cls=type(fitted))
    s = fitted.score('image', train['image'].x, 'text', train['text'].x)
    assert (train['text'].y[s.argmax(1)] == train['image'].y).double().mean() > 0.3  # chance is .2


@pytest.fixture(scope='module')
def recipes(tmp_path_factory):
    "Real texts of two views, as weighted words"
    raw, pair = load('recipes', sample=900), ('ingredients', 'instructions')
    encoders = {v: TfIdf(300, sublinear_tf=True).fit(raw['train'][v].x) for v in pair}
    return {
        split: features(raw[split].select(*pair), encoders, tmp_path_factory.mktemp('features'))
        for split in ('train', 'test')
    }


@pytest.mark.parametrize('name', classes)
def test_beats_the_null_on_real_data(name, recipes):
    """Partners never seen in training (of the same dish, where labels are learnt) are found more often than by any
    shuffled ranking of the same scores
    """
    relevance, metric = ('label', 'mAP') if getattr(classes[name], 'supervised', False) else ('item', 'R@10')
    train, test = (in_one_space(classes[name], recipes['train'], recipes[s]) for s in ('train', 'test'))
    scores = evaluate_rows(new(classes[name]).fit(train), test, relevance, boot=0, split='test')
    for r in scores:
        if r['metric'] == metric:
            assert r['value'] > r['null_high'], r


class Leaky(Method):
    "Mixes into each query the gallery row at its own position, as a pairwise context would"

    def __init__(self, similarity='cosine'):
        self.similarity = similarity

    def fit(self, train, validate=None):
        self.infer_schema(train)
        return self

    def state(self):
        return {}, {}

    def restore(self, tensors, data):
        pass

    def encode(self, view, x, target=None):
        return self.validate_input(view, x)['pooled'][:, :64]

    def score_batches(self, a, xa, b, xb, rows=1024):
        za, zb = unit(self.encode(a, xa)), unit(self.encode(b, xb))
        n = min(len(za), len(zb))
        za = torch.cat([za[:n] + zb[:n], za[n:]])
        for i in range(0, len(za), rows):
            yield slice(i, min(i + rows, len(za))), za[i : i + rows] @ zb.T


def test_the_laws_can_fail(test):
    m = Leaky().fit(world())
    n = len(test['image'])
    assert (m.score(*sides(m, test)[1:]).argmax(1) == torch.arange(n)).double().mean() > 0.9  # looks splendid
    assert check_score_invariance(*sides(m, test)) == dict(gallery=False, queries=False)
    with pytest.raises(ValueError, match='crossmodal_nb.methods'):
        m.save('nowhere')


# scikit-learn's contract


@pytest.mark.parametrize('name', classes)
def test_sklearn_clones(name):
    m = new(classes[name])
    again = clone(m)
    assert type(again) is classes[name] and again is not m and repr(again) == repr(m)
    given = m.get_params(deep=False)
    assert list(given) == list(inspect.signature(classes[name]).parameters)
    assert given.keys() <= m.get_params().keys()
    lists = {k: list(v) for k, v in given.items() if isinstance(v, tuple)}
    same = classes[name](**given | lists)
    assert all(same.get_params()[k] is v for k, v in lists.items())
    assert clone(same).get_params(deep=False).keys() == given.keys()


@pytest.mark.parametrize('name', classes)
def test_hyper_parameters_are_set(name):
    m = new(classes[name])
    given = m.get_params(deep=False)
    key = next(iter(given))
    assert m.set_params(**{key: given[key]}) is m and m.get_params(deep=False)[key] is given[key]
    with pytest.raises(InputError, match=f'did you mean {key!r}'):
        m.set_params(**{key + 'z': 1})
    if 'trainer' in given:
        epochs = m.trainer.epochs + 1
        assert m.get_params()['trainer__epochs'] == epochs - 1
        assert m.set_params(trainer__epochs=epochs).trainer.epochs == epochs == clone(m).trainer.epochs
        with pytest.raises(InputError, match='epochs'):
            m.set_params(trainer__epoch=3)
    if 'similarity' in given:
        with pytest.raises(ValueError, match='cosine'):
            m.set_params(similarity='cosinus')
        assert m.similarity == given['similarity']  # a refused change changes nothing


@pytest.mark.parametrize('name', classes)
def test_numpy_integers_are_integers(name):
    m = new(classes[name])
    numbers = {k: np.int64(v) for k, v in m.get_params(deep=False).items() if type(v) is int}
    plain = clone(m).set_params(**numbers).plain_params()
    assert plain == m.plain_params() and json.loads(json.dumps(plain)).keys() == plain.keys()


def test_those_within_others():
    m = new(classes['rerank:Rerank'])
    assert m.get_params()['first__dim'] == 8
    assert m.set_params(first__dim=5, k=7).first.dim == 5 and m.k == 7
    tuned = classes['dual_encoder:CLIP'](trainer=dict(epochs=3))
    tuned.trainer.epochs = 4
    assert clone(tuned).trainer.epochs == 4


def short(name):
    m = new(classes[name])
    return m.set_params(trainer__epochs=1, trainer__batch=60) if 'trainer' in m.get_params() else m


@pytest.mark.parametrize('name', ['linear:CCA', 'linear:MCCA', 'linear:PLS', 'dual_encoder:CLIP', 'dcca:DCCA'])
def test_views_dicts_and_lists_are_one(name, tmp_path):
    views = world(180)
    train = Views({v: View(x.x) for v, x in views.items()})
    arrays = {v: x.x.numpy() for v, x in views.items()}
    fits = [
        short(name).fit(data) for data in (train, arrays, list(arrays.values()), tuple(x.x for x in views.values()))
    ]
    codes = fits[0].transform(train)
    assert list(codes) == ['image', 'text'] and fits[2].views.keys() == {'view0', 'view1'}
    for m, data in zip(fits, (train, arrays, list(arrays.values()), list(arrays.values()))):
        z = m.transform(data)
        z = list(z.values()) if isinstance(z, dict) else z
        assert all(torch.equal(a, b) for a, b in zip(codes.values(), z))
    with pytest.raises(ValueError, match='image has 180, text has 179'):
        short(name).fit(arrays | dict(text=arrays['text'][1:]))
    with pytest.raises(ValueError, match='fitted on image, text'):
        fits[0].transform(list(arrays.values())[:1])


@pytest.mark.parametrize('name', classes)
def test_fit_takes_a_dict(name):
    "A dict of `View`s, which also brings labels"
    m = short(name).fit(dict(world(180, cls=classes[name])))
    assert list(m.views) == ['image', 'text']


def test_only_its_own_kind_is_loaded(tmp_path):
    train = world(120)
    m = classes['linear:CCA'](dim=np.int64(5)).fit(train)
    m.save(tmp_path / 'm')
    assert isinstance(classes['linear:CCA'].load(tmp_path / 'm'), classes['linear:CCA'])
    assert Method.load(tmp_path / 'm').dim == 5
    with pytest.raises(InputError, match='holds a CCA, not a CLIP'):
        classes['dual_encoder:CLIP'].load(tmp_path / 'm')
