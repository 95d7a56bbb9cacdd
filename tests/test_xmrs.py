"Several languages of one item: what the lessons do not say"

import json
import os
import subprocess
import sys

import pytest
import torch

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.core.settings import settings
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.datasets import load
from crossmodal_nb.datasets.emoji import emoji_stems, languages
from crossmodal_nb.datasets.multilingual import (
    apart_from,
    by_language,
    copies,
    counts,
    permuted,
    script,
    spoken,
    stacked_languages,
    standing,
    standings,
    tongue,
)
from crossmodal_nb.encoders.base import Ragged
from crossmodal_nb.encoders.extraction import features
from crossmodal_nb.encoders.subwords import Grams, Pieces, Translated, augmented, shares, translations, united
from crossmodal_nb.encoders.text import Bert
from crossmodal_nb.evaluation.retrieval import evaluate_rows
from crossmodal_nb.losses.supervised import batch_hard
from crossmodal_nb.methods.base import Method
from crossmodal_nb.methods.xmrs import XMRS, MultiText, TokenBag

gold = json.loads((settings().root / 'tests/golden/recipe.json').read_text())


def double(x):
    return torch.tensor(x, dtype=torch.float64)


def same(x, y):
    return torch.testing.assert_close(x, double(y), rtol=1e-8, atol=1e-9)


small = dict(
    vocabulary=2**12,
    width=16,
    dim=16,
    hidden=32,
    dropout=0.1,
    warmup_epochs=8,
    trainer=dict(epochs=30, batch=36, lr=1e-2, accelerator='cpu'),
)


def world(noise=0.05, seed=0, speak=('en', 'de', 'ru')):
    "36 things of two words, in three languages without a letter in common"
    g, alphabet = torch.Generator().manual_seed(seed), dict(en='bcdfgh', de='jklmnp', ru='бвгджз')
    image = torch.stack(
        [torch.cat([torch.eye(6)[i // 6], torch.eye(6)[i % 6]]) for i in range(36)]
    ) + noise * torch.randn(36, 12, generator=g)
    rows = [(i, lang, f'{alphabet[lang][i // 6] * 3} {alphabet[lang][i % 6]}o') for i in range(36) for lang in speak]
    return Views(
        image=View(dict(pooled=image)),
        text=View([t for *_, t in rows], [f'{i}@{lang}' for i, lang, _ in rows], item=[i for i, *_ in rows]),
    )


def coded(views, encoder=Grams(vocabulary=2**12)):
    return Views(image=views['image'], text=views['text'].with_features(encoder(views['text'].x)))


@pytest.fixture(scope='module')
def fitted():
    return XMRS(**small).fit(coded(world()))


def first(m, views, lang):
    rows = evaluate_rows(
        m, Views({'image': views['image'], f'text:{lang}': spoken(views['text'], lang)}), boot=0, permutations=0
    )
    return sum(r['value'] for r in rows if r['metric'] == 'R@1') / 2


# -- goldens


@pytest.mark.parametrize(
    'name, how',
    [
        ('xmrs_1_intra', {}),
        ('xmrs_2_cross_only', dict(modality=torch.arange(2).repeat_interleave(3))),
        ('xmrs_3_mean_negative', dict(mining='mean')),
    ],
)
def test_golden_losses(name, how):
    x = gold['xmrs_1_intra']
    z = double(x['image'] + x['recipe']).requires_grad_()
    loss = batch_hard(z, torch.arange(3).repeat(2), gold[name]['margin'], 'cosine', **how)
    same(loss.detach(), gold[name]['loss'])
    loss.backward()
    assert z.grad.isfinite().all() and z.grad.any()


def test_golden_many_views_through_the_method():
    "The method's own heap: pictures, then texts of every language, one item without all of them"
    x = gold['xmrs_4_many_views']
    z, item = double(x['codes']), torch.tensor(x['item'])
    m = XMRS(warmup_epochs=0)
    m.epoch = 0
    batch = Views(image=View(z[:3], item=item[:3]), text=View(z[3:], item=item[3:]))
    same(m.losses(dict(image=z[:3], text=z[3:]), batch)['loss'], x['loss'])
    assert (
        m.losses(dict(image=z[:3], text=z[3:]), batch)['loss']
        != XMRS(warmup_epochs=0, same_view_negatives=False).losses(dict(image=z[:3], text=z[3:]), batch)['loss']
    )
    assert (
        m.losses(dict(image=z[:3], text=z[3:]), batch)['loss']
        > XMRS(warmup_epochs=1).losses(dict(image=z[:3], text=z[3:]), batch)['loss']
    )  # the mean negative is farther


def test_golden_shares():
    assert shares() == pytest.approx(gold['xmrs_5_sampling']['released'], rel=1e-12) and shares(
        ('de', 'ru', 'fr', 'ko')
    ) == pytest.approx(gold['xmrs_5_sampling']['with_ko'], rel=1e-12)


def test_golden_synthesis_terms():
    "Out of scope here (no pixels are made): the two terms of the synthesis, as plain torch"
    x, old = gold['xmrs_6_synthesis'], gold['xmrs_1_intra']
    mu, logvar = double(x['mu']), double(x['logvar'])
    kl = -0.5 * (1 + logvar - mu.square() - logvar.exp()).mean()
    same(kl, x['kl_mean'])
    same(2 * kl, x['kl_term'])
    image, recipe = double(old['image']), double(old['recipe'])

    def away(a, b):
        return 32 * (1 - torch.cosine_similarity(a, b)).mean()

    same(away(image, image) + away(image, recipe), x['cycle'])  # a fake that the picture tower reads as its picture


# -- batches


def test_drawn_by_the_shares_of_the_release():
    output, n = shares(), 6000
    view = Views(
        image=View(torch.zeros(n, 1)),
        text=View(
            ['x'] * (6 * n),
            [f'{i}@{lang}' for i in range(n) for lang in output],
            item=torch.arange(n).repeat_interleave(6),
        ),
    )
    drawn = tongue(MultiText(view, 1, output).batch(torch.arange(n), seed=1)['text'].ids)
    for lang, p in output.items():
        assert abs(drawn.count(lang) / n - p) < 4 * (p * (1 - p) / n) ** 0.5


def test_batches_hold_different_rows_and_are_seeded():
    b = MultiText(world(), 2)
    single, again, second = (b.batch(torch.tensor([4, 9, 2]), seed=s) for s in (1, 1, 2))
    assert (
        single['text'].item.tolist() == [4, 4, 9, 9, 2, 2]
        and single['text'].ids == again['text'].ids != second['text'].ids
    )
    assert all(len({i for i in single['text'].ids if i.startswith(f'{k}@')}) == 2 for k in (4, 9, 2)) and single[
        'image'
    ].item.tolist() == [4, 9, 2]
    visited = {i for s in range(60) for i in b.batch(torch.tensor([4]), seed=s)['text'].ids}
    assert visited == {'4@en', '4@de', '4@ru'}


def test_an_item_without_any_row_of_the_shares_is_not_learnt_from():
    w = world()
    half = Views(
        image=w['image'],
        text=w['text'][
            [i for i, name in enumerate(w['text'].ids) if not name.endswith('@en') or int(name.split('@')[0]) < 18]
        ],
    )
    assert len(MultiText(half, 2, dict(en=1.0)).shared_items) == 18 and len(MultiText(half, 2).shared_items) == 36
    with pytest.raises(ValueError, match='no row for item'):
        MultiText(half, 2, dict(en=1.0)).batch(torch.tensor([20]))


# -- pieces


def test_hashes_are_the_same_in_another_process():
    code = (
        "from crossmodal_nb.encoders.subwords import Grams; print(Grams().key, Grams()(['Füchse 狐 "
        "лиса'])['ids'].flat.ravel().tolist())"
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        check=True,
        cwd=settings().root,
        env=os.environ | dict(PYTHONHASHSEED='7'),
    )
    assert done.stdout == f"{Grams().key} {Grams()(['Füchse 狐 лиса'])['ids'].flat.ravel().tolist()}\n"


@pytest.mark.parametrize('encoder', [Grams(), Pieces(300).fit(['a fox', 'the fox'])], ids=['grams', 'pieces'])
def test_every_character_gives_pieces(encoder):
    texts = [
        chr(c)
        for c in range(0x21, 0x2FA1E, 101)
        if not 0xD800 <= c < 0xE000 and chr(c).strip() and chr(c).isprintable()
    ] + list('狐キ여กქአᒥ🦊%')
    ids = encoder(texts)['ids']
    assert (
        len(ids) == len(texts)
        and int(ids.length.min()) > 0
        and ids.flat.dtype == torch.int32
        and 0 <= int(ids.flat.min())
        and int(ids.flat.max()) < encoder.vocabulary
    )


def test_names_of_pieces_follow_what_they_are():
    keys = {
        Grams().key,
        Grams(n=(2, 3)).key,
        Grams(dense=(1, 2)).key,
        Grams(vocabulary=99).key,
        Grams(max_grams=9).key,
        Pieces(300).fit(['a']).key,
        Pieces(300).fit(['b b b']).key,
        Pieces(301).fit(['a']).key,
    }
    assert len(keys) == 8
    with pytest.raises(RuntimeError, match='fit'):
        Pieces()(['x'])


def test_pieces_through_the_store(tmp_path):
    v = Views(text=world()['text'])
    for _ in range(2):
        f = features(v, dict(text=Grams()), tmp_path)
    assert isinstance(f['text'].x['ids'], Ragged) and torch.equal(
        f['text'].x['ids'][5], Grams()([v['text'].x[5]])['ids'][0]
    )


# -- translations


def test_translations_land_on_their_own_items():
    texts = ['', 'a', ' ', 'b', 'c', '']
    assert translations(texts, lambda ts: [t.upper() for t in ts], 'toy') == ['', 'A', '', 'B', 'C', '']
    for wrong in (lambda ts: ts[:-1], lambda ts: [None] * len(ts), lambda ts: ts + ['x']):
        with pytest.raises(InputError, match="translator 'bad'"):
            translations(texts, wrong, 'bad')


def test_toy_translations_teach_a_language():
    "No machine translation can be had here: a toy translator stands for it, letter by letter"
    w = world(speak=('en',))
    table = str.maketrans('bcdfgh', 'бвгджз')
    view = augmented(w['text'], dict(ru=lambda ts: [t.translate(table).replace('o', 'о') for t in ts]))
    assert counts(view) == dict(en=36, ru=36)
    m = XMRS(**small | dict(shares=shares(('ru',), ()))).fit(coded(Views(image=w['image'], text=view)))
    truth = coded(Views(image=w['image'], text=view))
    assert first(m, truth, 'ru') > 0.5 < first(m, truth, 'en')


def test_a_translator_before_an_encoder_names_its_store():
    back = Translated(lambda ts: [t.lower() for t in ts], 'lower 1', Grams())
    assert torch.equal(back(['FOX', ''])['ids'][0], Grams()(['fox'])['ids'][0]) and back.parts == ('ids',)
    assert back.key not in (
        Translated(back.translator, 'lower 2', Grams()).key,
        Translated(back.translator, 'lower 1', Grams(max_grams=3)).key,
    )


def test_a_multilingual_bert_of_random_weights_is_a_text_tower(tmp_path):
    from transformers import BertConfig

    tower = Bert(
        BertConfig(vocab_size=30522, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32),
        pooling='mean',
        max_tokens=16,
    )
    w = world()
    f = features(w, dict(text=tower), tmp_path)
    m = XMRS(**small).fit(f)
    assert (
        m.views['text'] == dict(pooled=16)
        and not m.bags
        and m.encode('text:de', spoken(f['text'], 'de').x).shape == (36, 16)
    )


# -- the method


def test_languages_shuffled_in_training_are_lost(fitted):
    "Right words, wrong things: the control must destroy what it shuffles, and nothing else"
    w = world()
    m, test = (
        XMRS(**small).fit(coded(Views(image=w['image'], text=permuted(w['text'], ['de'], 1)))),
        coded(world(seed=1)),
    )
    assert first(fitted, test, 'de') > 0.7 and first(m, test, 'de') < 0.2 and first(m, test, 'en') > 0.4


def test_scores_between_languages(fitted):
    t = coded(world(seed=1))
    two = by_language(Views(text=t['text']), ['de', 'en'])
    assert evaluate_rows(fitted, two, boot=0, permutations=0)[0]['value'] > 0.7
    with pytest.raises(ValueError, match="'text'"):
        fitted.encode('txet:de', two['text:de'].x)


def test_pictures_of_any_rows(fitted):
    "Cells of a grid are rows like any others"
    cells = torch.randn(7, 12)
    z = fitted.encode('image', dict(pooled=cells))
    assert z.shape == (7, 16) and torch.allclose(z[2:3], fitted.encode('image', dict(pooled=cells[2:3])), atol=1e-6)


def test_saved_with_its_tower(fitted, tmp_path):
    fitted.save(tmp_path)
    again, x = Method.load(tmp_path), coded(world())['text'].x
    assert (
        torch.equal(again.encode('text:ru', x), fitted.encode('text:ru', x))
        and again.plain_params() == fitted.plain_params()
    )


@pytest.mark.parametrize('attention', [False, True])
def test_a_text_does_not_depend_on_its_neighbours(attention):
    m = XMRS(**small | dict(attention=attention, trainer=dict(epochs=1, batch=36, accelerator='cpu'))).fit(
        coded(world())
    )
    x = Grams(vocabulary=2**12)(['b', 'ccc hof jol ' * 20, ''])['ids']
    z = m.encode('text', dict(ids=x))
    assert z.isfinite().all() and torch.allclose(
        m.encode('text', dict(ids=x.take(torch.tensor([0])))), z[:1], atol=1e-6
    )


def test_words_are_dropped_in_training_only():
    torch.manual_seed(0)
    bag = TokenBag(2**12, 8, drop=0.25)
    x, mask = Grams(vocabulary=2**12)(['bbb co', 'x'] * 50)['ids'].pad()
    kept = (bag.train()(x, mask) - bag.eval()(x, mask)).abs().sum(1) > 1e-9
    assert (
        0.3 < kept.double().mean() < 1
        and torch.equal(bag.eval()(x, mask), bag.eval()(x, mask))
        and bag.train()(x, mask).any(1).all()
    )  # a text never becomes empty


def test_shares_reach_the_batches():
    m = XMRS(**small | dict(shares=dict(en=0.5, de=0.5))).fit(coded(world()))
    test = coded(world(seed=1))
    assert first(m, test, 'en') > 0.7 and first(m, test, 'ru') < 0.3


# -- the datasets


@pytest.fixture(scope='module')
def emoji():
    return load('emoji_tongues')


def test_every_emoji_has_every_language(emoji):
    for v in emoji.values():
        assert set(counts(v['text'])) == set(languages) and set(counts(v['text']).values()) == {len(v['image'])}
        assert v['text'].y.tolist() == [
            dict(zip(v['image'].item.tolist(), v['image'].y.tolist()))[i] for i in v['text'].item.tolist()
        ]


def test_no_variant_is_torn_apart(emoji):
    position_of = {}
    for s, v in emoji.items():
        names = spoken(v['text'], 'en')
        for i, t in zip(names.ids, names.x):
            for stem in emoji_stems(i.split('@')[0], t):
                position_of.setdefault(stem, set()).add(s)
    assert len(position_of) > 1500 and all(len(s) == 1 for s in position_of.values())


def test_languages_and_flags_do_not_change_the_split(emoji):
    few = load('emoji_tongues', languages=['en', 'ja'], flags=False)
    for s in few:
        assert set(few[s]['image'].ids) < set(emoji[s]['image'].ids) and set(tongue(few[s]['text'].ids)) == {'en', 'ja'}
    with pytest.raises(InputError, match="'de'"):
        load('emoji_tongues', languages=['dee'])


def test_what_is_known_of_a_language(emoji):
    scripts = {lang: script(spoken(emoji['train']['text'], lang).x) for lang in languages}
    assert scripts == dict.fromkeys('en de es fr id it pt tr'.split(), 'LATIN') | dict(
        ar='ARABIC', fa='ARABIC', ja='CJK', zh='CJK', ko='HANGUL', ru='CYRILLIC'
    )
    known = {lang: standing(lang, apart_from(lang, languages), scripts) for lang in languages}
    assert known == dict.fromkeys('en de es fr it pt'.split(), standings[2]) | dict.fromkeys(
        'id tr ar fa ja zh'.split(), standings[3]
    ) | dict.fromkeys('ru ko'.split(), standings[4])
    assert all(apart_from(a, [a, b]) == [] for a, b in copies.items())


def test_a_made_up_recipe1m_in_two_languages(tmp_path):
    sys.path.insert(0, str(settings().root / 'tests'))
    try:
        from lookalike import make
    finally:
        sys.path.pop(0)
    folder = make(tmp_path / 'recipe1m', 60)
    table = json.loads((folder / 'layer1.json').read_text())
    (folder / 'layer1.de.json').write_text(
        json.dumps(
            [
                dict(id=r['id'], title=f'{r["title"]} DE', ingredients=r['ingredients'], instructions=r['instructions'])
                for r in table[::2]
            ]
        )
    )
    raw = load('recipe1m', folder, images='none', select='all', components=['title'], languages=['de'])
    text = stacked_languages(raw['train'])['text']
    english, german = spoken(text, 'en'), spoken(text, 'de')
    assert (
        0 < len(german) < len(english)
        and all(t.endswith(' DE') for t in german.x)
        and set(german.item.tolist()) < set(english.item.tolist())
    )
    text_of = dict(zip(english.item.tolist(), english.x))
    assert all(t == f'{text_of[i]} DE' for i, t in zip(german.item.tolist(), german.x))


def test_several_sets_are_one():
    a, b = coded(world()), coded(world(speak=('en',)))
    joined = united(a, b)
    assert (
        len(joined['image']) == 72 == len(joined.shared_items)
        and joined['text'].item[len(a['text']) :].tolist() == list(range(36, 72))
        and torch.equal(joined['text'].x['ids'][len(a['text'])], b['text'].x['ids'][0])
    )
