"A saved space is asked: by words, pictures, sounds, vectors; from Python and from the command line."

import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import process

from crossmodal_nb import search as engine
from crossmodal_nb.core.checks import InputError, MissingError
from crossmodal_nb.core.files import sealed
from crossmodal_nb.data.modality import modality
from crossmodal_nb.data.sounds import Sounds
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.encoders.audio import MFCC
from crossmodal_nb.encoders.description import build_encoder, describe_encoder
from crossmodal_nb.encoders.extraction import features
from crossmodal_nb.encoders.image import EfficientNetLite
from crossmodal_nb.encoders.text import TfIdf
from crossmodal_nb.methods.linear import CCA
from crossmodal_nb.methods.similarity import product, sides
from crossmodal_nb.search import Index, nearest


@pytest.fixture(scope='module')
def noises(tmp_path_factory):
    "Forty tones and their names: the pitch is what both share"
    import soundfile

    folder, g = tmp_path_factory.mktemp('noises'), np.random.default_rng(0)
    paths, words, pitches = [], [], ('deep', 'low', 'high', 'shrill')
    for i in range(40):
        k, t = i % 4, np.arange(8000) / 16000
        soundfile.write(
            folder / f'{i:02}.wav', 0.5 * np.sin(2 * np.pi * 150 * 3**k * t) + 0.01 * g.standard_normal(8000), 16000
        )
        paths.append(folder / f'{i:02}.wav')
        words.append(f'a {pitches[k]} tone')
    raw = Views(sound=View(Sounds(paths)), text=View(words))
    encoders = dict(sound=MFCC(), text=TfIdf(20).fit(words))
    data = features(raw, encoders, folder / 'features')
    return Index(CCA(3, 1.0).fit(data), data, encoders, raw, 'tones'), folder


def test_words_find_sounds_and_sounds_find_words(noises):
    index, folder = noises
    found = index.search('shrill', k=10)
    assert (
        {int(f['id']) % 4 for f in found} == {3}
        and found[0]['shown'].endswith('.wav')
        and [f['rank'] for f in found] == list(range(1, 11))
    )
    assert {f['shown'] for f in index.search(folder / '01.wav', k=5)} == {'a low tone'}
    vector = features(Views(text=View(['low'])), dict(text=index.encoders['text']), folder / 'more')['text'].x[
        'pooled'
    ][0]
    assert [f['id'] for f in index.search(vector, view='text', k=5)] == [f['id'] for f in index.search('low', k=5)]


def test_saved_and_asked_from_the_command_line(noises, tmp_path):
    index, folder = noises
    index.save(tmp_path / 'i')
    index.save(tmp_path / 'i')
    again = Index.load(tmp_path / 'i')
    assert again.search('deep', k=4) == index.search('deep', k=4) and repr(again) == repr(index)
    assert not [
        f for f in (tmp_path / 'i').rglob('*') if f.is_file() and f.suffix not in ('.json', '.safetensors', '.lock')
    ]

    def ask(*a):
        return process('search', tmp_path / 'i', *a, at=tmp_path)

    good = ask('deep', '-k', '3')
    assert (
        good.returncode == 0
        and len(good.stdout.splitlines()) == 4
        and index.search('deep', k=1)[0]['shown'] in good.stdout
    )
    for words, output in (
        (['  '], 'empty'),
        (['lost.wav'], 'there is no such file'),
        (['deep', '--view', 'txt'], "did you mean 'text'"),
        (['deep', '--in', 'image'], 'gallery'),
    ):
        bad = ask(*words)
        assert bad.returncode == 1 and output in bad.stderr and 'Traceback' not in bad.stderr, bad.stderr


def test_what_cannot_be_asked_is_said(noises, tmp_path):
    index, _ = noises
    Image.new('RGB', (8, 8)).save(tmp_path / 'picture.png')
    (tmp_path / 'broken.wav').write_text('no sound')
    np.save(tmp_path / 'wide.npy', np.zeros(7))
    with pytest.raises(InputError, match="kind 'image'"):
        index.search(tmp_path / 'picture.png')
    with pytest.raises(InputError, match='broken.wav'):
        index.search(tmp_path / 'broken.wav')
    with pytest.raises(ValueError, match='wide'):
        index.search(tmp_path / 'wide.npy', view='text')
    with pytest.raises(InputError, match='ending'):
        index.search(tmp_path / 'strange.xyz')
    with pytest.raises(InputError, match='k is 0'):
        index.search('deep', k=0)
    with pytest.raises(MissingError, match='index.json'):
        Index.load(tmp_path)
    with pytest.raises(InputError, match='raw rows'):
        Index(index.method, Views(), dict(text=index.encoders['text']))


def test_other_weights_are_another_space(noises, tmp_path):
    index, _ = noises
    index.save(tmp_path / 'i')
    info = json.loads((tmp_path / 'i' / 'index.json').read_text())
    info['encoders']['text'][0]['weights'][0] += 1
    (tmp_path / 'i' / 'index.json').write_text(json.dumps(info))
    with pytest.raises(InputError, match='not what was saved'):
        Index.load(tmp_path / 'i')
    (tmp_path / 'i' / 'index.json').write_text(json.dumps(sealed(info)))
    with pytest.raises(InputError, match='weights'):
        Index.load(tmp_path / 'i')
    info['encoders']['text'][0]['type'] = 'os:system'
    (tmp_path / 'i' / 'index.json').write_text(json.dumps(sealed(info)))
    with pytest.raises(InputError, match='module of an encoder'):
        Index.load(tmp_path / 'i')
    assert Index.load(tmp_path / 'i', encoders=dict(text=index.encoders['text'])).search('low', k=2) == index.search(
        'low', k=2
    )


@pytest.mark.parametrize('similarity', ['cosine', 'dot', 'euclid'])
def test_blocks_and_faiss_are_exact(similarity, monkeypatch):
    g = torch.Generator().manual_seed(0)
    q, z = torch.randn(9, 16, generator=g), torch.randn(1000, 16, generator=g)
    full = product(*sides(q, z, similarity), similarity)
    want = full.topk(12).values

    def exact(s, i, atol=1e-5):  # scores of blocks differ by rounding, so rows are compared by their scores
        assert torch.allclose(s, want, atol=atol) and torch.allclose(full.gather(1, i), want, atol=atol)
        assert all(len(set(r)) == 12 for r in i.tolist())

    for block in (1, 7, 999, 5000):
        exact(*nearest(q, z, 12, similarity, block))
    monkeypatch.setattr(engine, 'large', 1000)
    exact(*nearest(q, z, 12, similarity), atol=1e-3)
    assert nearest(q, z, 5000, similarity)[1].shape == (9, 1000)


@pytest.mark.parametrize('large', [1, 10**9])
@pytest.mark.parametrize('similarity', ['cosine', 'dot', 'euclid'])
@pytest.mark.parametrize('queries', [1, 30])
def test_of_equal_scores_the_earlier_row_comes_first(monkeypatch, large, similarity, queries):
    monkeypatch.setattr(engine, 'large', large)
    g = torch.Generator().manual_seed(0)
    kinds, indices = (
        torch.eye(7),
        torch.randint(7, (5000,), generator=g),
    )  # rows of seven kinds: every score is equal to some 700 others
    q = torch.randint(7, (queries,), generator=g)
    for k in (1, 10, 700, 1500, 5000):
        s, i = nearest(kinds[q], kinds[indices], k, similarity, block=512)
        for row, kind in zip(i, q):
            want = torch.cat([(indices == kind).nonzero()[:, 0], (indices != kind).nonzero()[:, 0]])[:k]
            assert torch.equal(row, want)


def test_a_large_gallery_keeps_the_order_of_its_rows():
    "The real size from which FAISS searches"
    codes = torch.eye(4).repeat(engine.large // 4 + 10, 1)
    for n in (1, 25):
        s, i = nearest(torch.eye(4)[2:3].expand(n, 4), codes, 50)
        assert (s == 1).all() and torch.equal(i, (2 + 4 * torch.arange(50)).expand(n, 50))


def test_arithmetic_moves_towards_what_is_added(noises):
    index, _ = noises

    def share(found, k):
        return np.mean([int(f['id']) % 4 == k for f in found])

    assert (
        share(index.search('deep', k=10, plus=['shrill'], minus=['deep']), 3)
        == 1.0
        > share(index.search('deep', k=10), 3)
    )


def test_hostile_text_is_shown_as_text(noises):
    index, _ = noises
    shown = str(
        index.show(
            '<script>alert(1)</script>', [dict(rank=1, score=0.5, id='<b>', view='text', shown='"><img src=x>', row=0)]
        )
    )
    assert '<script>' not in shown and '<img src=x>' not in shown and '&lt;script&gt;' in shown


def test_what_is_a_query(tmp_path):
    assert [
        modality(q) for q in ('words', 'two words.png', 'x.JPG', 'x.obj', 'x.npy', np.zeros(2), Image.new('L', (2, 2)))
    ] == ['text', 'text', 'image', 'mesh', 'numbers', 'numbers', 'image']
    e = EfficientNetLite(flip=True, version=1)
    assert build_encoder(describe_encoder(e)).key == e.key
