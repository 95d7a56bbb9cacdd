"""Every way in which people keep pairs, through the commands: `data add`, `try`, and for one of them `search`, `board`
and `book`.

    CROSSMODAL_FULL=1 python -m pytest tests/test_own_layouts.py -s     all of them to the end: more items, every method
"""

import io
import itertools
import json
import os
import re
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from test_own import crossmodal, prepare

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.data.folder_reader import read_folder

full = bool(int(os.environ.get('CROSSMODAL_FULL', 0)))
N = 160 if full else 96

# ================================================================ a small world: what is drawn, played and told

colours = dict(
    red=(200, 30, 30),
    green=(30, 140, 50),
    blue=(40, 70, 200),
    yellow=(235, 205, 40),
    purple=(130, 40, 150),
    orange=(240, 130, 20),
)
shapes = dict(circle=0, square=4, triangle=3, star=10, cross=12)
grounds = dict(white=(250, 250, 250), black=(20, 20, 20), grey=(140, 140, 140))
places = ('left', 'right')
scenes = list(itertools.product(colours, shapes, grounds, places))  # 180
russian = dict(
    red='красный красная красное',
    green='зелёный зелёная зелёное',
    blue='синий синяя синее',
    yellow='жёлтый жёлтая жёлтое',
    purple='лиловый лиловая лиловое',
    orange='оранжевый оранжевая оранжевое',
    circle='круг',
    square='квадрат',
    triangle='треугольник',
    star='звезда',
    cross='крест',
    white='белом',
    black='чёрном',
    grey='сером',
    left='слева',
    right='справа',
)


def scene(i):
    "Colour, shape, ground and place of item `i`, all different"
    return scenes[i * 77 % len(scenes)]


def picture(i, size=64):
    "The scene as a drawing"
    colour, shape, ground, place = scene(i)
    drawn = Image.new('RGB', (size, size), grounds[ground])
    centre, radius = (size * (0.3 if place == 'left' else 0.7), size * (0.4 + i % 3 / 10)), size / 4
    corners = shapes[shape]
    if not corners:
        box = [c + s * radius for s in (-1, 1) for c in centre]
        ImageDraw.Draw(drawn).ellipse(box, fill=colours[colour])
        return drawn
    angle = 2 * np.pi * (np.arange(corners) + 0.5 * (corners == 4)) / corners - np.pi / 2
    reach = radius * np.where(np.arange(corners) % dict(star=2, cross=3).get(shape, corners + 1), 1, 0.4)
    points = np.stack([centre[0] + reach * np.cos(angle), centre[1] + reach * np.sin(angle)], 1)
    ImageDraw.Draw(drawn).polygon([*map(tuple, points)], fill=colours[colour])
    return drawn


def caption(i, k=0):
    colour, shape, ground, place = scene(i)
    return (
        f'A {colour} {shape} on the {place} of a {ground} sheet.',
        f'On a {ground} ground, to the {place}, somebody drew a {shape} in {colour}.',
        f'{place} {colour} {shape}, {ground} paper',
        f'The {shape} is {colour} and stands on the {place}; all around it is {ground}.',
        f'There is one {shape} here: {colour}, {place} of the middle, with {ground} behind it.',
    )[k]


def in_russian(i):
    colour, shape, ground, place = scene(i)
    form = russian[colour].split()[shape == 'star']
    return f'{form.capitalize()} {russian[shape]} {russian[place]} на {russian[ground]} листе'


def png(drawn):
    buffer = io.BytesIO()
    drawn.save(buffer, 'PNG')
    return buffer.getvalue()


waves = ('sine', 'square', 'saw', 'noise')
pitches = dict(deep=110, low=220, middling=440, high=880, shrill=1760)
courses = ('steady', 'rising', 'falling', 'pulsing', 'fading')
speeds = ('slowly', 'quickly')
sounds = list(itertools.product(waves, pitches, courses, speeds))  # 200


def sound(i, rate=16000):
    "A tone or a noise; the quick ones are shorter"
    wave, pitch, course, speed = sounds[i * 77 % len(sounds)]
    t = np.arange(int(rate * (0.4 if speed == 'quickly' else 0.6))) / rate
    steep = 2.0 if speed == 'quickly' else 0.7
    bend = dict(rising=1, falling=-0.4).get(course, 0) * steep
    phase = np.cumsum(pitches[pitch] * (1 + bend * t)) / rate
    cycle = phase % 1
    noise = np.random.default_rng(i).normal(size=len(t))
    smooth = max(1, int(2000 / pitches[pitch]))
    played = dict(
        sine=np.sin(2 * np.pi * phase),
        square=np.sign(cycle - 0.5),
        saw=2 * cycle - 1,
        noise=np.convolve(noise, np.ones(smooth) / smooth**0.5, 'same') / 3,
    )[wave]
    loud = dict(pulsing=np.sin(2 * np.pi * 4 * steep * t) > 0, fading=np.exp(-5 * steep * t)).get(course, 1.0)
    return 0.4 * np.clip(played, -1, 1) * loud


def heard(i):
    wave, pitch, course, speed = sounds[i * 77 % len(sounds)]
    named = dict(sine='whistle', square='buzzer', saw='string', noise='wind')[wave]
    return f'A {pitch} {named}, {course} {speed}'


# ================================================================ layouts: each writes a folder, and says what to add


def russian_table(root, n=N):
    "A CSV with pictures, Russian texts and labels, as a spreadsheet saves it"
    (root / 'pictures').mkdir(parents=True)
    lines = ['номер;файл;подпись;форма']
    for i in range(n):
        picture(i).save(root / 'pictures' / f'рисунок {i:03}.png')
        lines.append(f'{i};pictures/рисунок {i:03}.png;{in_russian(i)};{russian[scene(i)[1]]}')
    (root / 'таблица.csv').write_text('\n'.join(lines) + '\n', encoding='utf-8-sig')
    return [root / 'таблица.csv', '--label', 'форма']


def texts_beside(root, n=N):
    "A caption file beside each picture"
    root.mkdir(parents=True)
    for i in range(n):
        picture(i).convert('RGB').save(root / f'IMG_{i:04}.JPG', format='JPEG')
        (root / f'IMG_{i:04}.txt').write_text(caption(i) + '\n')
    return [root]


def imagefolder(root, n=N):
    "The imagefolder layout: a folder and a metadata file for each split"
    bounds = dict(train=0.7, validation=0.85, test=1.0)
    for i in range(n):
        part = next(s for s, b in bounds.items() if i < b * n)
        (root / part).mkdir(parents=True, exist_ok=True)
        picture(i).save(root / part / f'{i:05}.png')
        row = dict(file_name=f'{i:05}.png', text=caption(i), label=scene(i)[1])
        with open(root / part / 'metadata.jsonl', 'a') as f:
            f.write(json.dumps(row) + '\n')
    return [root]


def parquet(root, n=N, broken=()):
    "Parquet files with the bytes of the pictures, one for each split, with names of classes"
    import pyarrow
    import pyarrow.parquet

    names = list(shapes)
    kind = dict(names=names, _type='ClassLabel')
    features = dict(image=dict(_type='Image'), caption=dict(dtype='string', _type='Value'), label=kind)
    note = json.dumps(dict(info=dict(features=features)))
    root.mkdir(parents=True)
    for part, ids in dict(train=range(0, 3 * n // 4), test=range(3 * n // 4, n)).items():
        rows = [
            dict(
                image=dict(bytes=b'cut' if i in broken else png(picture(i)), path=None),
                caption=caption(i),
                label=names.index(scene(i)[1]),
            )
            for i in ids
        ]
        written = pyarrow.Table.from_pylist(rows).replace_schema_metadata({'huggingface': note})
        pyarrow.parquet.write_table(written, root / f'{part}-00000-of-00001.parquet')
    return [root]


def shards(root, n=N, broken=()):
    "WebDataset: tar files in which members with the same name up to the first dot are one sample"
    root.mkdir(parents=True)
    for s in range(3):
        with tarfile.open(root / f'shard-{s:06}.tar', 'w') as shard:
            for i in range(s * n // 3, (s + 1) * n // 3):
                note = json.dumps(dict(width=64, height=64, url=f'https://example.org/{i}.png'))
                note = note[: 9 if i in broken else None]
                for ending, data in dict(png=png(picture(i)), txt=caption(i).encode(), json=note.encode()).items():
                    member = tarfile.TarInfo(f'{i:09}.{ending}')
                    member.size = len(data)
                    shard.addfile(member, io.BytesIO(data))
    return [root]


def recordings(root, n=N):
    "Sounds with a table of captions"
    soundfile = pytest.importorskip('soundfile')
    (root / 'clips').mkdir(parents=True)
    lines = ['file_name\tcaption\tduration']
    for i in range(n):
        soundfile.write(root / 'clips' / f'{i:04}.wav', sound(i), 16000)
        lines.append(f'{i:04}.wav\t{heard(i)}\t0.5')
    (root / 'captions.tsv').write_text('\n'.join(lines) + '\n')
    return [root]


def questions(root, n=N):
    "Two columns of text"
    root.mkdir(parents=True)
    rows = ['question,answer,topic']
    for i in range(n):
        colour, shape, ground, place = scene(i)
        asked = (
            f'Where is the {colour} {shape} on the {ground} sheet?',
            f'Which {ground} sheet has a {colour} {shape}, and where?',
        )
        rows.append(f'"{asked[i % 2]}","It is on the {place}: a {colour} {shape}, all {ground} behind it.",{shape}')
    (root / 'faq.csv').write_text('\n'.join(rows) + '\n')
    return [root / 'faq.csv']


def features(root, n=N):
    "Features of pictures and of five captions for each, with ids"
    rng = np.random.default_rng(0)
    root.mkdir(parents=True)
    z = rng.normal(size=(n, 6))
    image = z @ rng.normal(size=(6, 20)) + 0.3 * rng.normal(size=(n, 20))
    text = z.repeat(5, 0) @ rng.normal(size=(6, 14)) + rng.normal(size=(5 * n, 14))
    np.save(root / 'image.npy', image.astype(np.float32))
    np.save(root / 'text.npy', text.astype(np.float32))
    (root / 'image.ids.txt').write_text('\n'.join(f'photo{i:04}.jpg' for i in range(n)) + '\n')
    (root / 'text.ids.txt').write_text('\n'.join(f'photo{i:04}.jpg' for i in range(n) for _ in range(5)) + '\n')
    return [root]


# ================================================================ damaged rows: 1 of 120 is left out, 2 are too many


def table_without_pictures(root, broken):
    russian_table(root, 120)
    for i in broken:
        (root / 'pictures' / f'рисунок {i:03}.png').unlink()


def unreadable_texts_beside(root, broken):
    texts_beside(root, 120)
    for i in broken:
        (root / f'IMG_{i:04}.txt').write_bytes('naïve'.encode('latin-1'))


def imagefolder_without_pictures(root, broken):
    imagefolder(root, 120)
    for i in broken:
        (root / 'train' / f'{i:05}.png').unlink()


def recordings_without_sounds(root, broken):
    recordings(root, 120)
    for i in broken:
        (root / 'clips' / f'{i:04}.wav').unlink()


def questions_with_a_column_more(root, broken):
    questions(root, 120)
    lines = (root / 'faq.csv').read_text().splitlines()
    for i in broken:
        lines[i + 1] += ',more'
    (root / 'faq.csv').write_text('\n'.join(lines))


@pytest.mark.parametrize(
    'make, named',
    [
        (table_without_pictures, r"таблица.csv, line 9: no file 'pictures/рисунок 007.png'"),
        (unreadable_texts_beside, 'IMG_0007.txt: not UTF-8 text'),
        (imagefolder_without_pictures, "train/metadata.jsonl, line 8: no file '00007.png'"),
        (lambda root, broken: parquet(root, 120, broken), 'row 38: image: these bytes are no picture'),
        (lambda root, broken: shards(root, 120, broken), r"shard-000000.tar: member '000000007.json' is not readable"),
        (recordings_without_sounds, "captions.tsv, line 9: no file '0007.wav'"),
        (questions_with_a_column_more, 'faq.csv, line 9: 4 fields'),
    ],
    ids='table beside splits embedded shards recordings questions'.split(),
)
def test_a_damaged_row_is_named_and_two_are_too_many(make, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'settings.ini').write_text('[crossmodal]\n')
    make(tmp_path / 'one', [7])
    splits, report = read_folder(tmp_path / 'one')
    (reason,) = report.skipped
    assert (
        re.search(named, reason) and report.rows == 120 and f'1 of 120 rows are left out: {reason[:20]}' in str(report)
    )
    assert sum(report.splits.values()) == 119
    make(tmp_path / 'two', [7, 9])
    with pytest.raises(InputError, match='2 of 120 rows have a fault; at most 1 %'):
        read_folder(tmp_path / 'two')


# ================================================================ through the commands

# What writes each; what `data add` has to say; a query and words of which a good answer has one
layouts = dict(
    table=(
        russian_table,
        ('image ({n} image), text ({n} text)', '5 classes: звезда', 'номер (numbers)'),
        in_russian(0),
    ),
    beside=(texts_beside, ('text beside each file', 'image ({n} image), text ({n} text)'), caption(0)),
    splits=(imagefolder, ('5 classes: circle', 'column split'), caption(0)),
    embedded=(parquet, ('parquet, table', '5 classes: circle', 'no valid split'), caption(0)),
    shards=(shards, ('tar, table', 'image ({n} image), text ({n} text)', 'url (addresses'), caption(0)),
    recordings=(recordings, ('audio ({n} audio), text ({n} text)', 'duration (numbers)'), heard(0)),
    questions=(
        questions,
        ('question ({n} text), answer ({n} text)', 'topic'),
        'Where is the red star?',
    ),
    vectors=(features, ('arrays', '{n} with several rows of text'), None),
)
to_the_end = list(layouts) if full else ['shards']
quick = ['--sample', 40, '--epochs', 1, '--method', 'CCA']


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A checkout; the features of a layout are found again by the others, as their pictures are the same"
    return prepare(tmp_path_factory.mktemp('home'))


def add(home, name):
    make, told, _ = layouts[name]
    found = crossmodal(home, 'data', 'add', name, *make(home / 'given' / name))
    for words in told:
        assert words.format(n=N) in found, found
    assert f'{N if name != "vectors" else 5 * N} rows' in found and 'are left out: ' not in found
    return found


def try_methods(home, name, *how):
    tried = crossmodal(home, 'try', name, '--seeds', 1, *how)
    record = json.loads(next((home / 'work' / 'records' / f'try_{name}').glob('*.json')).read_text())
    assert 'begin with' in tried and f'crossmodal search {name}' in tried
    return tried, record


@pytest.mark.parametrize('name', [n for n in layouts if n not in to_the_end])
def test_added_and_tried(home, name):
    add(home, name)
    if name not in ('table', 'questions'):
        return  # it differs in how it is read; the whole form tries it, too
    _, record = try_methods(home, name, *quick)
    scores = [r['value'] for r in record['rows'] if r['metric'] == 'medR']
    assert len(scores) == 2 and all(1 <= s <= 40 for s in scores)


def test_to_the_end(home):
    "Search, board and book, too; the whole form says what it found"
    for name in to_the_end:
        start = time.monotonic()
        found = add(home, name)
        tried, record = try_methods(home, name, *([] if full else quick))
        query = layouts[name][2]
        if query is None:
            np.save(home / 'query.npy', np.load(home / 'given' / name / 'image.npy')[0])
            query = 'query.npy'
        view = ['--view', 'image'] if query == 'query.npy' else ['--view', 'question'] if name == 'questions' else []
        hits = crossmodal(home, 'search', name, query, *view, '-k', 5)
        assert len(hits.splitlines()) == 6
        board = crossmodal(home, 'board', name)
        assert f'try_{name}' in board
        if full:
            minutes, means = (time.monotonic() - start) / 60, mean_scores(record['rows'])
            print(f'\n## {name}: {minutes:.1f} min\n{found}\n{tried}\n{query}\n{hits}\n{means}', flush=True)
            assert means['by item, R@10'] > means['by item, R@10, chance']
    built = Path(crossmodal(home, 'book', '--only-mine').split(': ')[-1].strip())
    contents = built.read_text()
    for name in to_the_end:
        assert f'The classic methods on one data set · {name}' in contents
        page = (built.parent / 'results' / f'try_{name}.html').read_text()
        assert 'class="output error"' not in page and 'Traceback' not in page
    assert not list(built.parent.glob('how/*'))


def mean_scores(rows):
    "By item R@10 and by label mAP of every method, means over both directions, and chance"
    out = {}
    for by, metric in (('item', 'R@10'), ('label', 'mAP')):
        judged = [r for r in rows if (r['relevance'], r['metric']) == (by, metric)]
        for method in dict.fromkeys(r['method'] for r in judged):
            values = [r['value'] for r in judged if r['method'] == method]
            out[f'by {by}, {metric}, {method}'] = round(sum(values) / len(values), 3)
        if judged:
            out[f'by {by}, {metric}'] = max(v for k, v in out.items() if k.startswith(f'by {by}'))
            out[f'by {by}, {metric}, chance'] = judged[0]['chance']
    return out
