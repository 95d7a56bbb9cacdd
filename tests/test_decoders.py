"What writes and draws is saved as a method is: each class comes back the same, and no other class is looked up."

import importlib
import inspect
import json
import pkgutil

import pytest
import torch
from sklearn.base import clone

import crossmodal_nb.methods
from crossmodal_nb.core.checks import InputError
from crossmodal_nb.core.files import sealed
from crossmodal_nb.data.synthetic import make_gaussian_views
from crossmodal_nb.methods.captioner import Captioner, write
from crossmodal_nb.methods.flow import Flow, draw
from crossmodal_nb.methods.linear import CCA
from crossmodal_nb.methods.saving import Decoder, methods
from crossmodal_nb.methods.translation import ConditionalMean, MLPTranslator, RidgeTranslator, paired_codes
from crossmodal_nb.methods.words import WordsHead


def discovered():
    "Every concrete decoder of the package, also one of a module that nothing else imports"
    for m in pkgutil.iter_modules(crossmodal_nb.methods.__path__):
        importlib.import_module(f'crossmodal_nb.methods.{m.name}')
    found, todo = [], [Decoder]
    while todo:
        children = todo.pop().__subclasses__()
        todo += children
        found += [c for c in children if not inspect.isabstract(c) and c.__module__.startswith('crossmodal_nb.')]
    return sorted(set(found), key=lambda c: c.__name__)


classes = discovered()
trainer = dict(epochs=2, batch=20, accelerator='cpu')
space = CCA(dim=4, ridge=1e-2).fit(make_gaussian_views(60, dict(image=12, text=10), seed=0))
pairs = paired_codes(space, make_gaussian_views(60, dict(image=12, text=10), seed=0), 'text', 'image')
texts = [('red' if z[0] > 0 else 'blue') + (' dog' if z[1] > 0 else ' cat') for z in pairs.codes]
examples = {
    Captioner: lambda: Captioner(width=8, layers=1, heads=2, prefix=2, trainer=trainer),
    ConditionalMean: lambda: ConditionalMean(space, 'text'),
    Flow: lambda: Flow((8, 8), context=8, trainer=trainer),
    MLPTranslator: lambda: MLPTranslator(hidden=8, trainer=trainer),
}


def new(cls):
    return examples.get(cls, cls)()


def fit(decoder):
    if isinstance(decoder, Captioner):
        return decoder.fit(pairs.codes, texts)
    if isinstance(decoder, Flow):
        return decoder.fit(pairs.codes, pairs.features)
    if isinstance(decoder, WordsHead):
        return decoder.fit(pairs.codes, torch.tensor([['red' in t, 'dog' in t] for t in texts]))
    return decoder.fit(pairs)


def answers(decoder):
    "What it makes of some codes, as tensors or texts"
    codes = pairs.codes[:7]
    if isinstance(decoder, Captioner):
        return write(decoder, codes, beam=3)
    if isinstance(decoder, Flow):
        return draw(decoder, codes, 3).tolist()
    return (decoder.logits if isinstance(decoder, WordsHead) else decoder.predict)(codes).tolist()


def assert_equal(some, others):
    "Texts are the same; numbers too, but for the rounding of products whose operands lie elsewhere in memory"
    if isinstance(some[0], str):
        assert some == others
    else:
        assert torch.allclose(torch.tensor(some), torch.tensor(others), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope='module', params=classes, ids=lambda c: c.__name__)
def fitted(request):
    return fit(new(request.param))


def test_none_of_them_is_a_method():
    assert {'Captioner', 'Flow', 'PCADecoder', 'NearestMixture', 'WordsHead'} <= {c.__name__ for c in classes}
    assert not set(classes) & set(methods().values())


def test_what_was_saved_comes_back(fitted, tmp_path):
    fitted.save(tmp_path / 'd')
    assert {f.suffix for f in (tmp_path / 'd').iterdir() if f.name[0] != '.'} == {'.json', '.safetensors'}
    for cls in (type(fitted), Decoder):
        again = cls.load(tmp_path / 'd')
        assert type(again) is type(fitted)
        assert_equal(answers(again), answers(fitted))
        assert json.dumps(again.plain_params()) == json.dumps(fitted.plain_params())
        assert list(again.history) == list(fitted.history)


def test_saved_again_it_is_the_same_file(fitted, tmp_path):
    fitted.save(tmp_path / 'a')
    type(fitted).load(tmp_path / 'a').save(tmp_path / 'b')
    assert (tmp_path / 'a' / 'method.json').read_text() == (tmp_path / 'b' / 'method.json').read_text()


def test_changed_tensors_are_refused(fitted, tmp_path):
    fitted.save(tmp_path)
    (file,) = tmp_path.glob('*.safetensors')
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match='not what was saved'):
        Decoder.load(tmp_path)


@pytest.mark.parametrize('cls', classes, ids=lambda c: c.__name__)
def test_nothing_is_saved_before_fit(cls, tmp_path):
    decoder = clone(new(cls))
    assert decoder.get_params(deep=False).keys() == new(cls).get_params(deep=False).keys()
    with pytest.raises(RuntimeError, match='call fit before save'):
        decoder.save(tmp_path / 'd')
    assert not (tmp_path / 'd').exists()


@pytest.mark.parametrize(
    'change, words',
    [
        ({'class': 'os:system'}, 'no class of a Decoder'),
        ({'class': 'crossmodal_nb.methods.linear:CCA'}, 'no class of a Decoder'),
        ({'class': 7}, 'no class of a Decoder'),
        ({'params': dict(ridge=0.1, command='rm')}, 'not what a RidgeTranslator saves'),
        ({'class': 'crossmodal_nb.methods.pictures:PCADecoder', 'params': {}}, 'not what a PCADecoder saves'),
    ],
)
def test_only_decoders_of_the_package_are_made(change, words, tmp_path):
    RidgeTranslator().fit(pairs).save(tmp_path)
    info = json.loads((tmp_path / 'method.json').read_text())
    (tmp_path / 'method.json').write_text(json.dumps(sealed(info | change)))
    with pytest.raises(InputError, match=words):
        Decoder.load(tmp_path)


def test_a_class_loads_its_own_kind(tmp_path):
    RidgeTranslator().fit(pairs).save(tmp_path)
    with pytest.raises(InputError, match='no class of a WordsHead'):
        WordsHead.load(tmp_path)
