"An index that draws and writes: made, asked and refused from the command line, and kept as a whole."

import random
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from test_own import crossmodal, prepare
from test_strangers import changed

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.methods.decoders import SpaceDecoders, draw_codes, write_codes
from crossmodal_nb.methods.linear import CCA
from crossmodal_nb.search import Index

colours = dict(red=(220, 20, 20), green=(20, 200, 20), blue=(30, 30, 220), black=(10, 10, 10))


def nearest_colour(picture):
    "The name of the colour in its middle"
    x, y = (n // 2 for n in picture.size)
    middle = np.array(picture.convert('RGB').getpixel((x, y)))
    return min(colours, key=lambda c: abs(middle - np.array(colours[c])).sum())


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A checkout with squares and what they are called, and an index of them that draws and writes"
    home, draw = prepare(tmp_path_factory.mktemp('home')), random.Random(0)
    rows = ['picture,title']
    for i in range(80):
        name = draw.choice(list(colours))
        shade = tuple(min(255, max(0, c + draw.randint(-9, 9))) for c in colours[name])
        Image.new('RGB', (16, 16), shade).save(home / f'{i:02}.png')
        rows.append(f'{i:02}.png,a {name} square {draw.choice(["here", "there"])} {i}')
    (home / 'pairs.csv').write_text('\n'.join(rows))
    crossmodal(home, 'data', 'add', 'squares', 'pairs.csv', '--licence', 'CC BY-SA 4.0')
    said = index(home, '--translate', '--flow', 1)
    assert 'PCADecoder' in said and 'Flow' in said and 'crossmodal imagine squares WORDS' in said
    return home


def index(home, *more, **options):
    return crossmodal(home, 'index', 'squares', '--set', 'dim=4', '--encoder', 'text=tfidf', *more, **options)


def test_a_picture_is_drawn_of_words(home):
    said = crossmodal(home, 'imagine', 'squares', 'a red square!', '--by', 'linear')
    assert 'a-red-square.png: 32 × 32 pixels, enlarged 8 times, by PCADecoder' in said
    assert 'Learnt from squares: CC BY-SA 4.0; yours' in said and 'share-alike' in said
    with Image.open(home / 'a-red-square.png') as picture:
        assert picture.size == (256, 256) and nearest_colour(picture) == 'red'
        assert picture.text == dict(Description='a red square!', Copyright='CC BY-SA 4.0; yours')


def test_nothing_is_overwritten_in_silence(home):
    def ask(*more, **options):
        return crossmodal(home, 'imagine', 'squares', 'blue', '--by', 'linear', '--into', 'b.png', *more, **options)

    (home / 'b.png').write_text('mine')
    assert 'b.png is there already' in ask(fails=True) and (home / 'b.png').read_text() == 'mine'
    ask('--replace')
    assert nearest_colour(Image.open(home / 'b.png')) == 'blue'


def test_the_flow_draws_one_picture_of_each_seed(home):
    def ask(*more):
        said = crossmodal(home, 'imagine', 'squares', 'green', '--steps', 2, '--scale', 1, '--into', 'f.png', *more)
        return said, np.asarray(Image.open(home / 'f.png')).astype(int)

    said, both = ask('--seed', 0, '--seed', 7, '--guidance', 1)
    assert 'by Flow(' in said and '2 steps, guidance 1, seeds 0, 7' in said and both.shape == (32, 64, 3)
    _, second = ask('--seed', 7, '--guidance', 1, '--replace')
    assert abs(both[:, 32:] - second).max() <= 1 and abs(both[:, :32] - second).max() > 1


def test_a_picture_is_described(home):
    Image.new('RGB', (40, 30), colours['green']).save(home / 'new.png')
    said = crossmodal(home, 'describe', 'squares', 'new.png')
    caption, words = said.splitlines()
    assert 'green' in caption and re.match(r'words: .*green \d+ %', words)
    assert crossmodal(home, 'describe', 'squares', 'new.png', '--beam', 1).startswith('a ')


@pytest.mark.parametrize(
    'arguments, words',
    [
        (('imagine', 'squares', ' '), 'empty'),
        (('imagine', 'squares', 'zebra'), 'all words are unknown'),
        (('imagine', 'squares', '00.png'), 'the name of a image'),
        (('imagine', 'squares', 'red', '--by', 'magic'), 'no decoder of pictures here'),
        (('imagine', 'squares', 'red', '--into', 'x.jpg'), 'PNG'),
        (('imagine', 'nothing', 'red'), 'no data set'),
        (('describe', 'squares', 'red'), 'no picture'),
        (('describe', 'squares', 'lost.png'), 'no such file'),
        (('describe', 'squares', 'broken.png'), 'broken.png'),
        (('index', 'squares', '--flow', '2'), 'give --translate'),
        (('index', 'gaussian', '--translate'), 'a view of pictures and a view of texts'),
    ],
)
def test_what_cannot_be_done_is_said(home, arguments, words):
    (home / 'broken.png').write_text('no picture')
    before = sorted(home.glob('*'))
    assert words in crossmodal(home, *arguments, fails=True)
    assert sorted(home.glob('*')) == before


def test_an_index_without_decoders_says_how_to_make_them(home):
    index(home, '--into', 'plain')
    for command, query in (('imagine', 'red'), ('describe', '00.png')):
        assert '`crossmodal index squares --translate`' in crossmodal(home, command, 'plain', query, fails=True)


def test_an_index_without_pictures_says_that(home):
    views = Views(a=View(torch.randn(20, 4)), b=View(torch.randn(20, 4)))
    plain = Index(CCA(dim=2, ridge=1.0).fit(views), views)
    with pytest.raises(InputError, match='here is only: a .numbers., b .numbers.'):
        plain.imagine('red')


# ---------------------------------------------------------------- as files


@pytest.fixture
def kept(home, tmp_path):
    shutil.copytree(home / 'work' / 'index' / 'squares', tmp_path / 'i')
    return tmp_path / 'i'


def test_saved_decoders_answer_as_before(home, kept, tmp_path):
    first = Index.load(kept)
    first.save(tmp_path / 'again')
    again = Index.load(tmp_path / 'again')
    code = first.embeddings[first.decoders.text][first.decoders.image][:3]
    for kind in ('linear', 'flow'):
        pictures = [draw_codes(d, code, kind, steps=2) for d in (first.decoders, again.decoders)]
        assert [p.tobytes() for p in pictures[0]] == [p.tobytes() for p in pictures[1]]
    assert write_codes(first.decoders, code) == write_codes(again.decoders, code)
    assert repr(first.decoders) == repr(again.decoders) and again.decoders.attribution == 'CC BY-SA 4.0; yours'


@pytest.mark.parametrize('part', ['linear', 'flow', 'head', 'captioner'])
@pytest.mark.parametrize('damage', ['changed', 'lost'])
def test_a_damaged_decoder_is_refused_and_found_by_verify(kept, part, damage):
    from crossmodal_nb.verification import kinds

    (file,) = (kept / 'decoders' / part).glob('*.safetensors')
    file.write_bytes(file.read_bytes()[:-1] + b'x') if damage == 'changed' else file.unlink()
    for read in (Index.load, kinds['index'][2]):
        with pytest.raises(InputError, match='not what was saved|not there any more'):
            read(kept)


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda d: d['files'].update({'../method': d['files']['head']}), 'is no decoder'),
        (lambda d: d['files']['head'].update({'../../../private.png': 'x'}), 'is no decoder'),
        (lambda d: d['files'].pop('head'), 'there is no head'),
        (lambda d: d['words'].pop(), 'words'),
        (lambda d: d.update(size='x'), 'size cannot be read'),
        (lambda d: d.clear(), 'image, text'),
    ],
)
def test_an_index_of_somebody_else_names_only_its_own_files(kept, change, words):
    changed(kept, lambda info: change(info['decoders']))
    with pytest.raises(InputError, match=words):
        Index.load(kept)


def test_decoders_are_written_with_the_index_or_nothing_is(home, kept, monkeypatch):
    before = {f: f.read_bytes() for f in kept.rglob('*') if f.is_file()}
    loaded = Index.load(kept)

    def fail(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(loaded.decoders.parts['captioner'], 'save', fail)
    with pytest.raises(OSError, match='could not write'):
        loaded.save(kept)
    assert {f: f.read_bytes() for f in kept.rglob('*') if f.is_file() and f.suffix != '.lock'} == before


# ---------------------------------------------------------------- fitting


def squares(n, seed):
    "Raw rows and features: items with one picture and two texts"
    rng, names = np.random.default_rng(seed), list(colours)
    kinds = rng.integers(4, size=n)
    pictures = [Image.new('RGB', (8, 8), colours[names[k]]) for k in kinds]
    item = torch.arange(n).repeat(2)
    texts = [f'{start} {names[k]} square' for start in ('a', 'the') for k in kinds]
    x = torch.eye(4)[kinds] + 0.05 * torch.from_numpy(rng.normal(size=(n, 4))).float()
    raw = Views(image=View(pictures), text=View(texts, item=item))
    return raw, Views(image=View(x), text=View(torch.cat([x, x]) + 0.01, item=item))


def test_training_rows_only_and_at_most_so_many(monkeypatch):
    from crossmodal_nb.methods import decoders as module

    read = []
    pixels = module.pixels
    monkeypatch.setattr(module, 'pixels', lambda images, size: read.append(len(images)) or pixels(images, size))
    splits = {s: squares(n, k) for k, (s, n) in enumerate(dict(train=50, valid=20, test=30).items())}
    raw, data = ({s: v[k] for s, v in splits.items()} for k in (0, 1))
    space = CCA(dim=3, ridge=1e-2).fit(data['train'])
    made = SpaceDecoders.fit(space, raw, data, size=8, caption_epochs=2, max_items=30)
    assert read == [30, 20]
    other = raw | dict(test=None)
    again = SpaceDecoders.fit(space, other, data | dict(test=None), size=8, caption_epochs=2, max_items=30)
    z = space.encode('text', data['test']['text'].x)
    assert torch.equal(made.parts['linear'].predict(made.read(z)), again.parts['linear'].predict(again.read(z)))
    assert 'square' in made.words and set(made.words) <= {*colours, 'square'}


def test_texts_without_a_common_word_are_said():
    raw, data = squares(12, 0)
    raw['text'] = View([f'word{i}' for i in range(24)], item=raw['text'].item)
    space = CCA(dim=2, ridge=1e-2).fit(data)
    with pytest.raises(InputError, match='hardly two of its texts share a word'):
        SpaceDecoders.fit(space, dict(train=raw), dict(train=data), size=8)
