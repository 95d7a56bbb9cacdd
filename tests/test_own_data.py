"Data of other people: each way in which somebody keeps pairs is read, and each mistake is named."

import csv
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import unicodedata
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossmodal_nb.core.checks import InputError, MissingError
from crossmodal_nb.core.settings import settings
from crossmodal_nb.data.folder_reader import read_folder
from crossmodal_nb.data.modality import modality
from crossmodal_nb.data.roles import column_roles
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.datasets import class_names, data_digest, load
from crossmodal_nb.datasets.own import read_files
from crossmodal_nb.evaluation.retrieval import evaluate_rows
from crossmodal_nb.methods.linear import CCA

N = 24
COLOURS = (
    'red blue green tiny large old new wet dry soft hard cold warm sweet sour bitter salty loud quiet fast'.split()
)


def words(i):
    return f'a {COLOURS[i % 20]} thing of kind {i} on a {COLOURS[(i * 7 + 3) % 20]} table'


def pictures(root, names=None, n=N):
    "Different small pictures in a folder"
    for i, name in enumerate(names or [f'p{i:03}.png' for i in range(n)]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        kind = dict(format='JPEG') if name.endswith('.jfif') else {}
        Image.fromarray(pixels).save(root / name, **kind)
    return root


def table(path, head, rows, mark=','):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', newline='', encoding='utf-8') as f:
        csv.writer(f, delimiter=mark).writerows([head, *rows])


def pairs(name='p{:03}.png', n=N):
    return [[name.format(i), words(i)] for i in range(n)]


def sizes(splits):
    return [len(v.shared_items) for v in splits.values()]


@pytest.fixture(autouse=True)
def own_work_folder(tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp('here'))
    with open('settings.ini', 'w') as f:
        f.write('[crossmodal]\n')


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize('mark', ',;|\t')
@pytest.mark.parametrize('head', [['filepath', 'title'], ['image_file', 'caption'], ['Image', 'Text']])
def test_heads_and_separators(head, mark, tmp_path):
    pictures(tmp_path)
    table(tmp_path / 'pairs.csv', ['', *head], [[i, *r] for i, r in enumerate(pairs())], mark)
    splits, report = read_folder(tmp_path)
    assert set(splits['train']) == {'image', 'text'} and sum(sizes(splits)) == N
    assert report.roles == {head[0]: 'image', head[1]: 'text'} and report.guessed == head


@pytest.mark.parametrize('head', ['english;german (formal, polite, old)', 'a,b;c', 'en;"de, new"'])
def test_a_separator_divides_the_rows_too(head, tmp_path):
    "And a cell may be long"
    lines = [f'"{words(i)}, or ""so""";{german(i)}' for i in range(N)]
    (tmp_path / 'a.csv').write_text('\n'.join(['', head, *lines, f'a long one;{"so " * 70_000}']))
    splits, report = read_folder(tmp_path)
    assert report.items == N + 1 and list(splits['train']) == [h.strip('"') for h in head.split(';')]


def write_jsonl(p, rows):
    p.write_text('\n'.join(map(json.dumps, rows)))


def write_parquet(p, rows):
    pandas = pytest.importorskip('pandas')
    pandas.DataFrame(rows).to_parquet(p)


def write_excel(p, rows):
    pytest.importorskip('openpyxl')
    import pandas

    pandas.DataFrame(rows).to_excel(p, index=False)


@pytest.mark.parametrize(
    'name, write', [('a.jsonl', write_jsonl), ('a.parquet', write_parquet), ('a.xlsx', write_excel)]
)
def test_other_tables_keep_what_is_written(name, write, tmp_path):
    "Nothing becomes empty by its spelling"
    pictures(tmp_path)
    labels = ['NA', 'nan', 'null', '007']
    write(tmp_path / name, [dict(image=f'p{i:03}.png', text=words(i), label=labels[i % 4]) for i in range(N)])
    splits, report = read_folder(tmp_path)
    assert report.classes == sorted(labels) and report.labelled == N


def test_unknown_columns_are_left_out_and_named(tmp_path):
    pictures(tmp_path)
    rows = [dict(file_name=f'p{i:03}.png', text=words(i), id=i, width=16, url='https://x.org/a') for i in range(N)]
    write_jsonl(tmp_path / 'metadata.jsonl', rows)
    with pytest.warns(UserWarning, match='columns left out: id .*width .*url'):
        assert set(load('folder', tmp_path)['train']) == {'image', 'text'}


def test_roles_are_taken_as_given(tmp_path):
    pictures(tmp_path)
    table(
        tmp_path / 'a.csv',
        ['image', 'text', 'notes', 'mood'],
        [[*r, words(i + 50), 'ab'[i % 2]] for i, r in enumerate(pairs())],
    )
    splits, report = read_folder(tmp_path, roles=dict(text=['text', 'notes'], label='mood'))
    assert set(splits['train']) == {'image', 'text', 'notes'} and report.classes == ['a', 'b']
    with pytest.raises(InputError, match="did you mean 'notes'"):
        read_folder(tmp_path, roles=dict(text='note'))
    with pytest.raises(InputError, match="no role 'texts'; did you mean 'text'"):
        read_folder(tmp_path, roles=dict(texts='text'))


@pytest.mark.parametrize('how', ['columns', 'list', 'rows', 'list in a cell'])
def test_several_texts_of_one_item(how, tmp_path):
    pictures(tmp_path)
    texts = [[f'{words(i)}, no. {k}' for k in range(3)] for i in range(N)]
    if how == 'columns':
        table(
            tmp_path / 'a.csv',
            ['image', *(f'caption_{k}' for k in range(3))],
            [[f'p{i:03}.png', *t] for i, t in enumerate(texts)],
        )
    elif how == 'list':
        write_jsonl(tmp_path / 'a.jsonl', [dict(image=f'p{i:03}.png', raw=t) for i, t in enumerate(texts)])
    elif how == 'rows':
        table(tmp_path / 'a.csv', ['image', 'caption'], [[f'p{i:03}.png', s] for i, t in enumerate(texts) for s in t])
    else:
        table(tmp_path / 'a.csv', ['image', 'captions'], [[f'p{i:03}.png', str(t)] for i, t in enumerate(texts)])
    splits, report = read_folder(tmp_path)
    assert report.several == dict(image=0, text=N) and report.views['text'] == ('text', 3 * N)
    train = splits['train']
    for a, b, _ in zip(*train.pairs('image', 'text')):
        assert train['text'].ids[b].startswith(train['image'].ids[a] + '#')


def test_labels_blank_several_and_one(tmp_path):
    pictures(tmp_path)
    rows = [[*r, ['dog', '', 'cat'][i % 3]] for i, r in enumerate(pairs())]
    table(tmp_path / 'a.csv', ['image', 'caption', 'label'], rows)
    splits, report = read_folder(tmp_path)
    assert report.classes == ['cat', 'dog'] and report.labelled == 16
    assert sum(int((v['image'].y < 0).sum()) for v in splits.values()) == 8
    assert class_names('folder', tmp_path) == ['cat', 'dog']
    table(tmp_path / 'a.csv', ['image', 'caption', 'label'], [*rows, *[[*r, 'wet'] for r in pairs()[:6]]])
    splits, report = read_folder(tmp_path)
    y = torch.cat([v['image'].y for v in splits.values()])
    assert report.multi_label and y.shape == (N, 3) and y.sum(0).tolist() == [8, 8, 6]
    assert report.merged == 6 and int((y.sum(1) == 0).sum()) == 6


def test_items_by_a_column(tmp_path):
    rows = [
        [f'{words(i)} ({k})', f'ein Ding {i}, das {COLOURS[i % 20]} ist, {k}', f'i{i}']
        for i in range(N)
        for k in (0, 1)
    ]
    table(tmp_path / 'a.csv', ['en', 'de', 'item'], rows)
    splits, report = read_folder(tmp_path / 'a.csv')
    assert set(splits['train']) == {'en', 'de'} and report.items == N and report.several == dict(en=N, de=N)
    assert all(v['en'].item.unique().numel() * 2 == len(v['en']) for v in splits.values())


def german(i):
    return f'ein Ding {i}, das {COLOURS[i % 20]} ist'


@pytest.mark.parametrize('n', [12, N])
@pytest.mark.parametrize('head', [['source', 'target'], ['en', 'de'], ['target', 'source'], ['set', 'category']])
def test_two_columns_of_texts_are_two_views(head, n, tmp_path):
    table(tmp_path / 'a.csv', head, [[words(i), german(i)] for i in range(n)])
    splits, report = read_folder(tmp_path)
    assert set(splits['train']) == {*head} and report.classes == [] and report.split_source.startswith(('by', 'groups'))


SPECIES = ['snowy owl', 'golden eagle', 'house wren']


@pytest.mark.parametrize(
    'column, value, role',
    [
        ('fold', lambda i: i % 5, None),
        ('set', lambda i: ('toys', 'tools', 'test')[i % 3], None),
        ('set', lambda i: ('train', 'train', 'val', 'TEST')[i % 4], 'split'),
        ('group', lambda i: i % 2, None),
        ('group', lambda i: i % 10, None),
        ('group_id', lambda i: i // 2, 'item'),
        ('category', lambda i: f'c{i}', None),
        ('label', lambda i: words(i % 3), None),
        ('label', lambda i: SPECIES[i % 3], 'label'),
        ('class', lambda i: i % 11, 'label'),
        ('tags', lambda i: f"['wet', '{'ab'[i % 2]}']", 'label'),
    ],
)
def test_a_guess_by_name_agrees_with_the_values(column, value, role, tmp_path):
    pictures(tmp_path)
    table(tmp_path / 'a.csv', ['image', 'text', column], [[*r, value(i)] for i, r in enumerate(pairs())])
    report = read_folder(tmp_path)[1]
    assert report.roles == dict(image='image', text='text') | ({column: role} if role else {})
    assert role or column in report.left_out
    cells = dict(image=['p.png'] * N, text=[words(i) for i in range(N)]) | {column: [value(i) for i in range(N)]}
    assert column_roles(cells, dict(label=column)).label == [column]  # a role that is told holds
    assert column_roles(cells, dict(item=column)).item == column


def test_text_pairs_and_vectors(tmp_path):
    write_jsonl(tmp_path / 'a.jsonl', [dict(text=words(i), embedding=[i, 1.5, -i]) for i in range(40)])
    splits, _ = read_folder(tmp_path)
    assert splits['train']['vector'].x.shape[1] == 3 and splits['train']['text'].x[0].startswith('a ')


def test_split_names(tmp_path):
    pictures(tmp_path)
    part = ['training'] * 14 + ['dev'] * 5 + ['eval'] * 5
    table(tmp_path / 'a.csv', ['image', 'text', 'subset'], [[*r, s] for r, s in zip(pairs(), part)])
    splits, report = read_folder(tmp_path)
    assert sizes(splits) == [14, 5, 5] and report.split_source == 'column subset'
    table(
        tmp_path / 'a.csv',
        ['image', 'text', 'split'],
        [[*r, 'tost' if i == 3 else 'train'] for i, r in enumerate(pairs())],
    )
    with pytest.raises(InputError, match=r"line 5.*did you mean 'tst'|line 5.*did you mean 'test'"):
        read_folder(tmp_path)


# ---------------------------------------------------------------- what is refused, and why


@pytest.mark.parametrize(
    'head, rows, says',
    [
        (['image', 'text'], [['p000.png', 'a dog'], *pairs()[1:3]], 'no item in'),
        (['image', 'text'], [[r[0], 'a photo'] for r in pairs()], "24 of 24 items have the same text, 'a photo'"),
        (
            ['image', 'text', 'label', 'split'],
            [[*r, 'ab'[i // 12], ('train', 'test')[i // 12]] for i, r in enumerate(pairs())],
            r'no class of test \(b\) is in train.*by whole class',
        ),
        (['image', 'text', 'split'], [[*r, 'test'] for r in pairs()], 'the splits are test; train is needed'),
        (['image', 'text'], pairs('q{:03}.png'), r"no file 'q000.png' among.*near is"),
        (['image', 'text'], [['p000.png', ''], *pairs()[1:]], r'line 2: empty: text \(1 of 24 rows'),
        (['image', 'width'], [[r[0], 16] for r in pairs()], r'two views are needed.*image \(image\), width \(number\)'),
        (['image', 'text'], [['https://x.org/a.jpg', r[1]] for r in pairs()], 'not downloaded'),
        (['image', 'text'], [['../../p.png', r[1]] for r in pairs()], 'leads out of the folder'),
    ],
)
def test_useless_data_is_refused_with_the_reason(head, rows, says, tmp_path):
    pictures(tmp_path)
    table(tmp_path / 'a.csv', head, rows)
    with pytest.raises(InputError, match=says):
        read_folder(tmp_path)


def test_a_hundredth_of_damaged_rows_is_left_out_and_named(tmp_path):
    pictures(tmp_path / 'flickr30k_images')
    lines = ['image_name| comment_number| comment']
    lines += [f'p{i:03}.png| {k}| {words(i)} | {k} .' for i in range(N) for k in range(5)]
    lines[20] = 'p003.png| 4   A bird sits on a fence .'
    (tmp_path / 'results.csv').write_text('\n'.join(lines))
    splits, report = read_folder(tmp_path)
    assert (
        len(report.skipped) == 1
        and report.skipped[0].startswith('results.csv, line 21: 2 fields')
        and report.rows == 120
    )
    assert '1 of 120 rows are left out: results.csv, line 21' in str(report)
    (tmp_path / 'results.csv').write_text('\n'.join(lines).replace('p004.png| 0|', 'p004.png 0'))
    with pytest.raises(InputError, match='at most 1 %'):
        read_folder(tmp_path)


def test_a_text_of_another_encoding_is_named(tmp_path):
    pictures(tmp_path)
    table(tmp_path / 'a.csv', ['image', 'text'], pairs())
    data = (tmp_path / 'a.csv').read_bytes().replace(b'thing of kind 3 ', 'naïve thing '.encode('latin-1'))
    (tmp_path / 'a.csv').write_bytes(data)
    with pytest.raises(InputError, match=r'a.csv: not UTF-8 text \(line 5.*iconv'):
        read_folder(tmp_path)
    (tmp_path / 'a.csv').write_bytes(data.decode('latin-1').encode('utf-16'))
    assert any('naïve' in t for v in read_folder(tmp_path)[0].values() for t in v['text'].x)


@pytest.mark.parametrize('mark', [',', ';', '\t'])
def test_a_first_line_may_name_the_mark(mark, tmp_path):
    "As Excel reads it"
    rows = [(image, text, 'ab'[i % 2]) for i, (image, text) in enumerate(pairs())]
    pictures(tmp_path)
    table(tmp_path / 'a.csv', ['image', 'text', 'label'], rows, mark)
    plain = read_folder(tmp_path)
    (tmp_path / 'a.csv').write_text(f'sep={mark}\n' + (tmp_path / 'a.csv').read_text())
    splits, report = read_folder(tmp_path)
    assert report.roles == plain[1].roles and report.items == plain[1].items
    assert [t for v in splits.values() for t in v['text'].x] == [t for v in plain[0].values() for t in v['text'].x]


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    'spell',
    [
        lambda d, n: str((d / 'images' / n).resolve()),
        lambda d, n: f'./images/{n}',
        lambda d, n: f'images\\{n}',
        lambda d, n: f'{d.name}/images/{n}',
        lambda d, n: n,
        lambda d, n: n.removesuffix('.png'),
        lambda d, n: n.upper(),
        lambda d, n: f'/home/somebody/data/images/{n}',
        lambda d, n: f'../images/{n}',
        lambda d, n: f'{d}/tables/../images/{n}',
    ],
)
def test_spellings_of_a_path(spell, tmp_path):
    pictures(tmp_path / 'images')
    rows = [[spell(tmp_path, f'p{i:03}.png'), words(i)] for i in range(N)]
    table(tmp_path / 'tables' / 'a.csv', ['image', 'caption'], rows)
    splits, report = read_folder(tmp_path)
    assert sum(sizes(splits)) == N and report.notes == []


@pytest.mark.parametrize('stray', ['dogs/{}', 'dogs\\{}', 'somebody/dogs/{}', '/dogs/{}'])
@pytest.mark.parametrize('folder', ['cats/', ''])
def test_a_folder_that_is_not_there_makes_no_wrong_pairs(folder, stray, tmp_path):
    pictures(tmp_path, [f'{folder}p{i:03}.png' for i in range(N)])
    cats = pairs(folder + 'p{:03}.png')
    dogs = [[stray.format(f'p{i:03}.png'), words(i + N)] for i in range(N)]
    table(tmp_path / 'a.csv', ['image', 'text'], [*dogs, *cats])
    with pytest.raises(InputError, match=r'line 2: no file .*dogs.*p000.png.*means it too \(24 of 48 rows'):
        read_folder(tmp_path)
    table(tmp_path / 'a.csv', ['image', 'text'], [dogs[3], *cats * 5])
    splits, report = read_folder(tmp_path)
    assert len(report.skipped) == 1 and sum(len(v['text']) for v in splits.values()) == N  # one text a cat
    table(tmp_path / 'a.csv', ['image', 'text'], [*dogs, *[[f'wolves/{n}', t] for n, t in pairs()]])
    with pytest.raises(InputError, match='48 of 48 rows'):
        read_folder(tmp_path)
    table(tmp_path / 'a.csv', ['image', 'text'], dogs)  # the folder was renamed
    assert f'{N} files were found by their name alone' in str(read_folder(tmp_path)[1])


@pytest.mark.parametrize('ending', ['.tif', '.tiff', '.jfif', '.avif', '.ppm', '.PNG'])
def test_endings(ending, tmp_path):
    pictures(tmp_path, [f'p{i:03}{ending}' for i in range(N)])
    table(tmp_path / 'a.csv', ['image', 'caption'], pairs('p{:03}' + ending))
    assert read_folder(tmp_path)[0]['train']['image'].x[0].size == (8, 8)


def test_linked_folders_accents_and_droppings(tmp_path):
    far = pictures(tmp_path / 'far', [unicodedata.normalize('NFD', f'crème{i:03}.png') for i in range(N)])
    root = tmp_path / 'mine'
    root.mkdir()
    (root / 'images').symlink_to(far, target_is_directory=True)
    table(root / 'a.csv', ['image', 'caption'], pairs(unicodedata.normalize('NFC', 'images/crème{:03}.png')))
    pictures(root / '.ipynb_checkpoints', ['p-checkpoint.png'])
    table(root / '.ipynb_checkpoints' / 'a-checkpoint.csv', ['image', 'caption'], pairs())
    (root / '__MACOSX').mkdir()
    (root / '__MACOSX' / '._p.png').write_bytes(b'\0\5')
    (root / 'images' / '._a.csv').write_bytes(b'\0\5')
    splits, report = read_folder(root)
    assert sum(sizes(splits)) == N and report.unused == []


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize('picture', ['p{:03}.png', 'P{:03}.PNG'])
@pytest.mark.parametrize('name', ['{}.txt', '{}.png.txt', '{}.caption', '{}.json', '{}.TXT', '{}.JSON'])
def test_a_text_beside_each_file(name, picture, tmp_path):
    pictures(tmp_path, map(picture.format, range(N)))
    for i in range(N):
        text = json.dumps(dict(caption=words(i), seed=i)) if 'json' in name.lower() else words(i)
        (tmp_path / name.format(f'p{i:03}')).write_text(text)
    splits, report = read_folder(tmp_path)
    assert sum(sizes(splits)) == N and report.layout == 'text beside each file'


@pytest.mark.parametrize('name', ['orchids.csv', 'kids.csv', 'devices.csv', 'lemmas.csv', 'videos/grids.csv'])
def test_names_of_tables(name, tmp_path):
    "Lists of names and splits are no tables, but a word that ends like them is one"
    pictures(tmp_path)
    table(tmp_path / name, ['image', 'text'], pairs())
    for other in ('ids', 'image_ids', 'train-split', 'my.split'):
        table(tmp_path / f'{other}.csv', ['id'], [['p000']])
    assert read_folder(tmp_path)[1].files == [tmp_path / name]


def test_texts_without_a_picture_are_named(tmp_path):
    pictures(tmp_path)
    for name in (*(f'p{i:03}' for i in range(N)), 'README', 'p999'):
        (tmp_path / f'{name}.txt').write_text(words(0) + name)
    splits, report = read_folder(tmp_path)
    assert sum(sizes(splits)) == N and report.unused == ['README.txt', 'p999.txt']
    assert '2 files without a row are left out: README.txt, p999.txt' in str(report)


def test_translations_in_an_object_are_columns(tmp_path):
    write_jsonl(tmp_path / 'a.jsonl', [dict(translation=dict(en=words(i), de=f'ein Ding {i}')) for i in range(N)])
    assert set(read_folder(tmp_path)[0]['train']) == {'translation.en', 'translation.de'}


def test_folders_of_splits_and_classes(tmp_path):
    names = [f'{("train", "train", "val", "test")[i % 4]}/{("cat", "dog")[i // 12]}/p{i}.png' for i in range(N)]
    pictures(tmp_path, names)
    for i, name in enumerate(names):
        (tmp_path / name).with_suffix('.txt').write_text(words(i))
    splits, report = read_folder(tmp_path)
    assert sizes(splits) == [12, 6, 6] and report.classes == ['cat', 'dog'] and report.labelled == N


@pytest.mark.parametrize('layout', ['metadata in each', 'a table for each', 'one table'])
def test_splits_in_folders(layout, tmp_path):
    parts = dict(train=range(16), validation=range(16, 20), test=range(20, 24))
    rows = {s: [[f'p{i:03}.png', words(i)] for i in r] for s, r in parts.items()}
    for s, r in rows.items():
        pictures(tmp_path / 'x', [f'{s}/p{i:03}.png' for i in parts[s]])
        where = dict(zip(('metadata in each', 'a table for each'), (f'{s}/metadata.csv', f'{s}.csv')))
        if layout in where:
            prefix = '' if layout == 'metadata in each' else f'{s}/'
            table(tmp_path / 'x' / where[layout], ['file_name', 'text'], [[prefix + n, t] for n, t in r])
    if layout == 'one table':
        table(tmp_path / 'x' / 'a.csv', ['file_name', 'text'], [[f'{s}/{n}', t] for s, r in rows.items() for n, t in r])
    splits, report = read_folder(tmp_path / 'x')
    assert sizes(splits) == [16, 4, 4], report


def test_sounds(tmp_path):
    soundfile = pytest.importorskip('soundfile')
    for i in range(N):
        soundfile.write(tmp_path / f's{i}.wav', np.sin(np.arange(800) * (i + 1) / 50), 16000)
    table(tmp_path / 'metadata.csv', ['file_name', 'text'], pairs('s{}.wav'))
    splits, _ = read_folder(tmp_path)
    assert list(splits['train']) == ['audio', 'text'] and splits['train']['audio'].x[0].rate == 16000


@pytest.mark.parametrize('head', ['File-Name', 'file_name', 'image'])
def test_names_without_endings_are_what_their_files_are(head, tmp_path):
    "A spreadsheet of sounds calls them rec_000, and its column of names says nothing of sounds"
    soundfile = pytest.importorskip('soundfile')
    (tmp_path / 'clips').mkdir()
    for i in range(N):
        soundfile.write(tmp_path / 'clips' / f'rec_{i}.wav', np.sin(np.arange(800) * (i + 1) / 50), 16000)
    table(tmp_path / 'a.csv', [head, 'What is heard', 'Class'], [[f'rec_{i}', words(i), 'ab'[i % 2]] for i in range(N)])
    for path in (tmp_path, tmp_path / 'a.csv'):
        _, report = read_files(path, dict(label='Class'))
        assert report.views == {'audio': ('audio', N), 'text': ('text', N)} and report.classes == ['a', 'b']
        assert report.roles == {head: 'audio', 'What is heard': 'text', 'Class': 'label'}
        assert report.guessed == [head, 'What is heard']
    assert load('folder', tmp_path)['train']['audio'].x[0].rate == 16000
    with pytest.raises(InputError, match=f'the files of column {head} are audio, not image. Say so: --audio {head}'):
        read_files(tmp_path, dict(image=head))


def test_classes_in_a_column_called_shape_are_no_meshes(tmp_path):
    pictures(tmp_path, [f'{i}.png' for i in range(N)])
    rows = [[f'{i}.png', words(i), ('circle', 'square')[i % 2]] for i in range(N)]
    table(tmp_path / 'a.csv', ['image', 'caption', 'shape'], rows)
    _, report = read_files(tmp_path)
    assert list(report.views) == ['image', 'text'] and report.left_out == {'shape': 'no known role'}
    _, report = read_files(tmp_path, dict(label='shape'))
    assert report.classes == ['circle', 'square']
    table(tmp_path / 'a.csv', ['image', 'caption', 'shape'], [[*row[:2], f'thing_{i}'] for i, row in enumerate(rows)])
    with pytest.raises(InputError, match="no file 'thing_0'"):  # names, each once: files are meant
        read_files(tmp_path)


def coco(root):
    for part, ids in (('train', range(16)), ('val', range(16, 24))):
        pictures(root, [f'{part}2017/{i:012}.png' for i in ids])
        images = [dict(id=i, file_name=f'{i:012}.png') for i in ids]
        notes = [dict(id=10 * i + k, image_id=i, caption=f'{words(i)} {k}') for i in ids for k in (0, 1)]
        (root / 'annotations').mkdir(exist_ok=True)
        path = root / 'annotations' / f'captions_{part}2017.json'
        path.write_text(json.dumps(dict(info={}, images=images, annotations=notes)))


def test_coco_and_karpathy(tmp_path):
    coco(tmp_path / 'coco')
    splits, report = read_folder(tmp_path / 'coco')
    assert len(splits['valid'].shared_items) == 8 and report.several['text'] == N and report.layout == 'COCO'
    pictures(tmp_path / 'k')
    images = [
        dict(filename=f'p{i:03}.png', split=('train', 'restval', 'val', 'test')[i % 4], sentences=[dict(raw=words(i))])
        for i in range(N)
    ]
    (tmp_path / 'k' / 'dataset_k.json').write_text(json.dumps(dict(images=images)))
    assert sizes(read_folder(tmp_path / 'k')[0]) == [12, 6, 6]


# ---------------------------------------------------------------- archives


def png(i):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(buffer, 'PNG')
    return buffer.getvalue()


def write_tar(path, ids, extra=(), mode='w'):
    with tarfile.open(path, mode) as shard:
        for i in ids:
            for ending, data in (
                ('png', png(i)),
                ('txt', words(i).encode()),
                ('json', b'{"width": 8, "caption": "x"}'),
            ):
                member = tarfile.TarInfo(f'{i:06}.{ending}')
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
        for member in extra:
            shard.addfile(member)


def leftovers():
    folder = settings().work / 'imports'
    return [p for p in folder.glob('*') if p.is_dir()] if folder.exists() else []


def test_tar_shards(tmp_path):
    link = tarfile.TarInfo('../../evil.png')
    link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
    write_tar(tmp_path / '00000.tar', range(12), [link])
    write_tar(tmp_path / '00001.tar', range(12, N))
    splits, report = read_folder(tmp_path)
    assert sum(sizes(splits)) == N and report.layout == 'tar, table' and 'width' in report.left_out
    assert np.array_equal(np.asarray(splits['train']['image'].x[0]).shape, (8, 8, 3)) and len(leftovers()) == 1
    assert sizes(read_folder(tmp_path)[0]) == sizes(splits) and len(leftovers()) == 1  # not unpacked again
    assert data_digest('folder', tmp_path)


@pytest.mark.parametrize('ending', ['.tar', '.tar.gz', '.tgz', '.TGZ'])
def test_one_tar_is_read_whatever_its_folder_is_called(ending, tmp_path):
    path = tmp_path / 'test' / f'data{ending}'
    path.parent.mkdir()
    write_tar(path, range(N), mode='w' if ending == '.tar' else 'w:gz')
    for given in (path, path.parent):
        splits, report = read_folder(given)
        assert sum(sizes(splits)) == N and report.layout == 'tar, table' and 'split' not in report.roles
    assert sum(sizes(read_folder(path.parent, table=path.name)[0])) == N and data_digest('folder', path.parent)


def test_a_single_packed_file_is_no_tar(tmp_path):
    with gzip.open(tmp_path / 'p.csv.gz', 'wt') as f:
        f.write('en,de\n' + '\n'.join(f'{words(i)},{german(i)}' for i in range(N)))
    for path, options in ((tmp_path / 'p.csv.gz', {}), (tmp_path, dict(table='p.csv.gz')), (tmp_path, {})):
        with pytest.raises((InputError, MissingError), match='p.csv.gz.*gunzip'):
            read_folder(path, **options)


def test_nothing_is_left_of_a_damaged_archive(tmp_path):
    write_tar(tmp_path / '0.tar', range(12))
    data = (tmp_path / '0.tar').read_bytes()
    (tmp_path / '0.tar').write_bytes(data[: len(data) // 2 + 100])
    with pytest.raises(InputError, match='0.tar'):
        read_folder(tmp_path)
    assert leftovers() == []
    write_tar(tmp_path / '0.tar', range(1))  # sound, but too little for three splits
    with pytest.raises(InputError, match='no item in'):
        read_folder(tmp_path)
    assert leftovers() == []


def test_parquet_with_embedded_files(tmp_path):
    pandas = pytest.importorskip('pandas')
    for s, ids in (('train', range(16)), ('test', range(16, N))):
        rows = dict(image=[dict(bytes=png(i), path=None) for i in ids], caption=[words(i) for i in ids])
        pandas.DataFrame(rows).to_parquet(tmp_path / f'{s}-00000-of-00001.parquet')
    splits, report = read_folder(tmp_path)
    assert len(splits['test'].shared_items) == 8 and splits['train']['image'].x[0].size == (8, 8)


def saved(root):
    datasets = pytest.importorskip('datasets')
    features = datasets.Features(
        image=datasets.Image(), text=datasets.Value('string'), label=datasets.ClassLabel(names=['dog', 'cat'])
    )
    part = dict(image=[dict(bytes=png(i), path=None) for i in range(N)], text=list(map(words, range(N))))
    part = datasets.Dataset.from_dict(part | dict(label=[i % 2 for i in range(N)]), features)
    datasets.DatasetDict(train=part).save_to_disk(root)


def test_saved_by_the_datasets_library(tmp_path):
    saved(tmp_path / 'set')
    splits, report = read_folder(tmp_path / 'set')
    assert sum(sizes(splits)) == N and report.classes == ['cat', 'dog'] and 'valid and test are taken' in str(report)


script = """
import sys
from crossmodal_nb.data.folder_reader import read_folder
print(read_folder(sys.argv[1])[1].items)
"""


def test_an_archive_is_read_by_a_script_without_a_main_guard(tmp_path):
    "The process that reads it does not run the script again"
    write_tar(tmp_path / '0.tar', range(N))
    (tmp_path / 'script.py').write_text(script)
    done = subprocess.run(
        [sys.executable, tmp_path / 'script.py', tmp_path / '0.tar'],
        capture_output=True,
        text=True,
        env=os.environ | dict(PYTHONPATH=str(Path(__file__).parent.parent)),
    )
    assert done.stdout == f'{N}\n', done.stderr


def test_zips(tmp_path):
    pictures(tmp_path / 'mine' / 'images')
    table(tmp_path / 'mine' / 'a.csv', ['image', 'caption'], pairs())
    with zipfile.ZipFile(tmp_path / 'mine.zip', 'w') as z:
        for p in sorted((tmp_path / 'mine').rglob('*')):
            z.write(p, p.relative_to(tmp_path))
    assert sum(sizes(read_folder(tmp_path / 'mine.zip')[0])) == N
    with zipfile.ZipFile(tmp_path / 'bad.zip', 'w') as z:
        z.writestr('../../evil.txt', 'x')
    with pytest.raises(InputError, match='outside'):
        read_folder(tmp_path / 'bad.zip')
    assert len(leftovers()) == 1


def shards(root):
    write_tar(root / '0.tar', range(N))


def zipped(root):
    with zipfile.ZipFile(root / 'mine.zip', 'w') as z:
        for i in range(N):
            z.writestr(f'mine/p{i}.png', png(i))
            z.writestr(f'mine/p{i}.txt', words(i))


def embedded(root):
    import pandas

    rows = dict(image=[dict(bytes=png(i), path=f'p{i}.png') for i in range(N)], caption=list(map(words, range(N))))
    pandas.DataFrame(rows).to_parquet(root / 'a.parquet')


def excel(root):
    import pandas

    pandas.DataFrame(dict(en=list(map(words, range(N))), de=[f'ein Ding {i}' for i in range(N)])).to_excel(
        root / 'a.xlsx', index=False
    )


def metadata_of_splits(root):
    for s, ids in dict(train=range(16), validation=range(16, 20), test=range(20, N)).items():
        pictures(root, [f'{s}/p{i:03}.png' for i in ids])
        write_jsonl(
            root / s / 'metadata.jsonl', [dict(file_name=f'p{i:03}.png', text=words(i), label='ab'[i % 2]) for i in ids]
        )


def arrays(root):
    g = np.random.default_rng(0)
    for view in ('image', 'text'):
        np.save(root / f'{view}.npy', g.normal(size=(N, 4)))
    np.save(root / 'labels.npy', np.arange(N)[:, None] % 3)
    (root / 'ids.txt').write_text('\n'.join(f'lot#{i}' for i in range(N)))
    (root / 'split.txt').write_text('\n'.join(['train'] * 14 + ['val'] * 5 + ['test'] * 5))


def test_what_the_fuzz_test_damages_is_sound(tmp_path):
    for make in (shards, zipped, embedded, metadata_of_splits, arrays):
        (tmp_path / make.__name__).mkdir()
        make(tmp_path / make.__name__)
        assert sum(sizes(read_folder(tmp_path / make.__name__)[0])) == N


# ---------------------------------------------------------------- arrays and the registry


def test_arrays_of_five_texts_a_picture(tmp_path):
    g = np.random.default_rng(0)
    np.save(tmp_path / 'image.npy', g.normal(size=(40, 6)))
    np.save(tmp_path / 'text.npy', g.normal(size=(200, 5)))
    with pytest.raises(InputError, match='5 rows for each.*p1#0'):
        read_folder(tmp_path)
    np.save(tmp_path / 'ids.npy', np.arange(40))
    (tmp_path / 'ids.npy').rename(tmp_path / 'image.ids.npy')
    np.save(tmp_path / 'text.ids.npy', np.arange(200) // 5)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        splits = load('folder', tmp_path)
    assert sum(sizes(splits)) == 40 and set(splits['train']) == {'image', 'text'}


def test_files_beside_arrays_that_are_not_read_are_named(tmp_path):
    "Rows would be paired by their number, though a file says otherwise under a name that is not read"
    g = np.random.default_rng(0)
    for name in ('image', 'text'):
        np.save(tmp_path / f'{name}.npy', g.normal(size=(40, 6)))
        (tmp_path / f'{name}_ids.txt').write_text('\n'.join(f'i{k}' for k in g.permutation(40)))
    (tmp_path / 'README.txt').write_text('what this is')
    (note,) = read_files(tmp_path)[1].notes
    assert note.startswith('not read: image_ids.txt, text_ids.txt. ') and 'VIEW.ids.txt' in note
    for name in ('image', 'text'):
        (tmp_path / f'{name}_ids.txt').rename(tmp_path / f'{name}.ids.txt')
    assert read_files(tmp_path)[1].notes == []
    np.save(tmp_path / 'text.npy', g.normal(size=(30, 6)))
    (tmp_path / 'text.ids.txt').rename(tmp_path / 'names.txt')
    with pytest.raises(InputError, match='text 30 rows.*Not read beside the arrays: names.txt'):
        read_files(tmp_path)
    (tmp_path / 'ids.csv').write_text('id\n1')
    with pytest.raises(MissingError, match='Not read beside the arrays: ids.csv, names.txt'):
        read_files(tmp_path)


@pytest.mark.parametrize('shape, says', [((40, 4, 4, 3), 'one vector a row'), ((1, 40), 'Transpose it')])
def test_arrays_of_odd_shapes(shape, says, tmp_path):
    g = np.random.default_rng(0)
    np.save(tmp_path / 'image.npy', g.normal(size=(40, 6)))
    np.save(tmp_path / 'text.npy', g.normal(size=shape))
    with pytest.raises(InputError, match=says):
        read_folder(tmp_path)


def test_a_column_of_labels_is_a_class_a_row(tmp_path):
    arrays(tmp_path)
    y = load('folder', tmp_path)['train']['image'].y
    assert y.dim() == 1 and y.tolist() == [i % 3 for i in range(14)]


def test_nothing_there(tmp_path):
    with pytest.raises(MissingError, match='no such file'):
        read_folder(tmp_path / 'nowhere')
    pictures(tmp_path)
    with pytest.raises(MissingError, match=r'Looked for a table.*There is: 24 pictures.*p000.png'):
        read_folder(tmp_path)
    table(tmp_path / 'a.csv', ['image', 'caption'], pairs())
    table(tmp_path / 'b.csv', ['image', 'caption'], pairs())
    with pytest.raises(InputError, match='several caption files.*table='):
        read_folder(tmp_path)
    assert sum(sizes(read_folder(tmp_path, table='b.csv')[0])) == N


# ---------------------------------------------------------------- what a view takes


def test_no_label_is_one_thing_and_labels_are_numbers():
    with pytest.raises(InputError, match='encode_labels'):
        View(torch.zeros(2, 2), y=['cat', 'dog'])
    codes, hot = torch.tensor([0, -1, 1]), torch.tensor([[1, 0], [0, 0], [0, 1]])
    assert View(torch.zeros(3, 2), y=codes).has_label.tolist() == View(torch.zeros(3, 2), y=hot).has_label.tolist()


def test_queries_without_a_label_are_left_out_of_both_kinds_of_labels():
    g = torch.Generator().manual_seed(0)
    z, y = torch.randn(60, 4, generator=g), torch.arange(60) % 3
    x = {k: z @ torch.randn(4, w, generator=g) for k, w in dict(a=8, b=6).items()}
    codes = torch.where(torch.arange(60) % 4 == 0, -1, y)
    hot = torch.nn.functional.one_hot(y, 3) * (codes >= 0)[:, None]
    scores = []
    for labels in (codes, hot):
        views = Views({k: View(v, y=labels) for k, v in x.items()})
        rows = evaluate_rows(CCA(dim=3).fit(views), views, 'label', boot=0, permutations=0)
        scores.append([(r['n'], round(r['value'], 6)) for r in rows if r['metric'] == 'mAP'])
    assert scores[0] == scores[1] and scores[0][0][0] == 45


@pytest.mark.parametrize(
    'rows, says',
    [
        (['x', None], 'row r1 is None'),
        (['x', float('nan')], 'row r1 is nan'),
        (['x', 3], r'row r1 is 3 \(int\), not a text'),
        ([['x', 'y'], ['z']], 'lists of texts'),
        (['x', '\ud83d'], 'row r1: character 0 is .*one half'),
    ],
)
def test_rows_that_are_no_text_are_named(rows, says):
    with pytest.raises(InputError, match=says):
        View(rows, ['r0', 'r1'])


def test_columns_of_other_libraries_are_taken():
    pandas = pytest.importorskip('pandas')
    series = View(pandas.Series(['x', 'y'], index=[5, 6]), ids=[1, 2])
    assert series.x == ['x', 'y'] and series.ids == ['1', '2'] and View(np.array(['x', 'y'])).x == ['x', 'y']


def test_a_path_that_exists_is_never_words(tmp_path):
    for ending in ('.tif', '.jfif', '.avif', '.ppm'):
        pictures(tmp_path, [f'p{ending}'])
        assert modality(str(tmp_path / f'p{ending}')) == 'image'
    (tmp_path / 'a.xyz').write_text('')
    for path in (tmp_path, tmp_path / 'a.xyz'):
        with pytest.raises(InputError):
            modality(str(path))
    assert modality('a dog') == 'text'
