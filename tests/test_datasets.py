"""Every layout and every bad input of the datasets, with fixtures made here; the real sets where their folders are."""

import csv
import hashlib
import json
import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from crossmodal_nb.core.checks import InputError, MissingError
from crossmodal_nb.data.array_folders import read_features
from crossmodal_nb.data.content import normalise
from crossmodal_nb.data.views import Views
from crossmodal_nb.datasets import catalogue, class_names, data_digest, load
from crossmodal_nb.datasets.audit import audit

SPLITS = ('train', 'valid', 'test')


def photos(folder, names):
    for i, n in enumerate(names):
        (folder / n).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype='uint8')).save(folder / n)


def here(name):
    ready = {r['name']: r for r in catalogue()}[name]
    if not ready['ready']:
        pytest.skip(f'{name} is not on this machine: {ready["how"]}')


def crossing(splits):
    "Row contents (normalised text, file bytes, numbers) that occur in more than one split"

    def keys(x):
        if hasattr(x, 'paths'):
            return [hashlib.sha256(p.read_bytes()).hexdigest() for p in x.paths]
        return [normalise(t) or None for t in x] if isinstance(x, list) else [r.numpy().tobytes() for r in x]

    bad = []
    for view in splits['train']:
        visited = {}
        for s, v in splits.items():
            for k, i in zip(keys(v[view].x), v[view].ids):
                if k is not None and visited.setdefault(k, s) != s:
                    bad.append((view, i, s, visited[k]))
    return bad


def well_formed(splits):
    assert list(splits) == list(SPLITS)
    items = [set(i for v in splits[s].values() for i in v.item.tolist()) for s in SPLITS]
    assert not (items[0] & items[1] or items[0] & items[2] or items[1] & items[2])
    assert all(
        isinstance(v, Views) and all(len(x) and len(set(x.ids)) == len(x.ids) for x in v.values())
        for v in splits.values()
    )
    assert len({tuple(v) for v in splits.values()}) == 1


# ---------------------------------------------------------------- sets that come as packages
@pytest.mark.parametrize(
    'name,options',
    [
        ('emoji', {}),
        ('emoji', dict(texts=('name', 'short', 'de', 'zh'), label='subgroup')),
        ('recipes', {}),
        ('recipes', dict(labelled=True)),
        ('recipes', dict(language='de')),
        ('recipes', dict(language='da')),
        ('gaussian', {}),
        ('classes', {}),
    ],
)
def test_no_group_crosses_splits(name, options):
    splits = load(name, **options)
    well_formed(splits)
    assert crossing(splits) == []
    assert all(r['splits'] in SPLITS for r in audit(name, **options))


def test_the_split_ignores_the_options():
    a, b = load('emoji'), load('emoji', texts=('ja', 'short'), label='subgroup', size=32)
    assert [v['image'].ids for v in a.values()] == [v['image'].ids for v in b.values()]


def test_counts_of_the_packages():
    assert sum(len(v['image']) for v in load('emoji').values()) == 1903
    assert [sum(len(v['all']) for v in load('recipes', language=lang).values()) for lang in ('en', 'de', 'da')] == [
        3129,
        341,
        156,
    ]
    y = torch.cat([v['all'].y for v in load('recipes').values()])
    assert len(class_names('recipes')) == 27 and y.min() == -1 and (y >= 0).sum() > 1700


def test_sample_nests_and_keeps_proportions():
    full, a, b = load('recipes'), load('recipes', sample=60), load('recipes', sample=600)
    for s in SPLITS:
        assert set(a[s]['title'].ids) <= set(b[s]['title'].ids) <= set(full[s]['title'].ids)
        assert abs(len(b[s]['title']) - 600 * len(full[s]['title']) / 3129) <= 1
    assert len(load('emoji', sample=10**6)['train']['image']) == len(load('emoji')['train']['image'])
    with pytest.raises(ValueError, match='sample is 0'):
        load('recipes', sample=0)


def test_views_of_a_recipe_are_aligned_and_all_is_in_order():
    v = load('recipes', sample=50)['train']
    for t, i, s, annotations in zip(*(v[k].x for k in ('title', 'ingredients', 'instructions', 'all'))):
        assert annotations == f'{t}\n{i}\n{s}'
    assert all(torch.equal(v['title'].item, v[k].item) for k in v)


def test_drawings_stay_lazy_and_are_named_by_content():
    x = load('emoji')['test']['image'].x
    assert len(x.take([0, 2])) == 2 and x[torch.tensor([2])][0].size == (224, 224) and x[0].mode == 'RGB'
    assert x.take([0]).digest != x.take([1]).digest and x.digest != load('emoji', size=64)['test']['image'].x.digest


# ---------------------------------------------------------------- names and folders
@pytest.mark.parametrize(
    'call,error,says',
    [
        (lambda: load('emoij'), ValueError, "did you mean 'emoji'"),
        (lambda: load('recipes', langage='de'), ValueError, "did you mean 'language'"),
        (lambda: load('recipes', language='en-us'), ValueError, 'recipe language'),
        (lambda: load('recipes', language='de', labelled=True), ValueError, 'only English'),
        (lambda: load('emoji', texts=('nmae',)), ValueError, "did you mean 'name'"),
        (lambda: load('emoji', label='categry'), ValueError, "did you mean 'category'"),
        (lambda: load('arrays'), ValueError, 'needs root'),
        (lambda: load('captions', root='no/such/folder'), FileNotFoundError, 'no/such/folder'),
    ],
)
def test_wrong_names_get_the_right_ones(call, error, says):
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize('name', ['wikipedia', 'flickr8k', 'public_domain_recipes'])
def test_a_missing_folder_names_the_folders_searched(name, tmp_path, monkeypatch):
    (tmp_path / 'settings.ini').write_text('[crossmodal]\ndata = one two\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('CROSSMODAL_DATA', str(tmp_path / 'mine'))
    with pytest.raises(FileNotFoundError) as e:
        load(name)
    assert all(str(tmp_path / d / name) in str(e.value) for d in ('mine', 'one', 'two')) and 'How to obtain it' in str(
        e.value
    )
    assert data_digest(name) is None and not {r['name']: r for r in catalogue()}[name]['ready']


def test_an_incomplete_folder_names_what_is_missing(tmp_path):
    (tmp_path / 'raw_features.mat').write_bytes(b'')
    with pytest.raises(FileNotFoundError, match='holds no trainset_txt_img_cat.list, testset'):
        load('wikipedia', tmp_path)


# ---------------------------------------------------------------- captions
NAMES = [f'p{i}.jpg' for i in range(12)]


def flickr(root):
    photos(root / 'Flicker8k_Dataset', NAMES)
    (root / 'Flickr8k.token.txt').write_text(
        ''.join(f'{n}#{k}\tcaption {k} of <i>{n}</i> , naïve .\n' for n in NAMES for k in range(5)), encoding='utf-8'
    )
    for s, ns in (('train', NAMES[:6]), ('dev', NAMES[6:8]), ('test', NAMES[8:11])):
        (root / f'Flickr_8k.{s}Images.txt').write_text('\n'.join(ns))
    return root


def test_flickr8k_tokens_and_split_files(tmp_path):
    s = load('flickr8k', flickr(tmp_path))
    well_formed(s)
    assert [(len(v['image']), len(v['text'])) for v in s.values()] == [(6, 30), (2, 10), (3, 15)]  # p11 is in no split
    t = s['test']['text']
    assert t.ids[6] == 'p9.jpg#1' and t.x[6] == 'caption 1 of <i>p9.jpg</i> , naïve .'  # text stays as it stands
    ra, rb, w = s['test'].pairs('image', 'text')
    assert len(ra) == 15 and w.sum().item() == pytest.approx(3)
    assert data_digest('flickr8k', tmp_path) == data_digest('flickr8k', tmp_path)
    previous = data_digest('flickr8k', tmp_path)
    photos(tmp_path / 'Flicker8k_Dataset', ['extra.jpg'])
    assert data_digest('flickr8k', tmp_path) != previous


def kaggle(root):
    photos(root / 'Images', NAMES)
    with open(root / 'captions.txt', 'w', newline='') as f:
        csv.writer(f).writerows([['image', 'caption']] + [[n, f'{n}, quoted "{k}"'] for n in NAMES for k in range(5)])


def flickr30k(root):
    photos(root / 'flickr30k_images', NAMES)
    (root / 'results.csv').write_text(
        'image_name| comment_number| comment\n'
        + ''.join(f'{n}| {k}| {n}, quoted "{k}\n' for n in NAMES for k in range(5))
    )


def tsv(root):
    photos(root, NAMES)
    (root / 'pairs.tsv').write_text(
        'image\ttext\n' + ''.join(f'{n}\t{n}, quoted {k}\n' for n in NAMES for k in range(5))
    )


def jsonl(root):
    photos(root / 'img', NAMES)
    (root / 'pairs.jsonl').write_text(
        '\n'.join(
            json.dumps(dict(img_path=f'img/{n}', sentences=[f'{n}, quoted {k}' for k in range(5)])) for n in NAMES
        )
    )


def karpathy(root):
    photos(root / 'images', NAMES)
    sp = ['train'] * 6 + ['restval'] * 2 + ['val'] * 2 + ['test'] * 2
    (root / 'dataset_mine.json').write_text(
        json.dumps(
            dict(
                images=[
                    dict(filename=n, split=s, sentences=[dict(raw=f'{n}, quoted {k}') for k in range(5)])
                    for n, s in zip(NAMES, sp)
                ]
            )
        )
    )


def folder(root):
    photos(root, [f'{"train" if i < 8 else "test"}/{n}' for i, n in enumerate(NAMES)])
    for p in root.rglob('*.jpg'):
        p.with_suffix('.txt').write_text('\n'.join(f'{p.name}, quoted {k}' for k in range(5)))


@pytest.mark.parametrize('make', [kaggle, flickr30k, tsv, jsonl, karpathy, folder])
def test_layouts_of_pairs(make, tmp_path):
    make(tmp_path)
    s = load('captions', tmp_path)
    assert (
        sum(len(v['image']) for v in s.values()) == 12
        and sum(len(v['text']) for v in s.values()) == 60
        and crossing(s) == []
    )
    for v in s.values():
        ra, rb, w = v.pairs('image', 'text')
        assert len(ra) == 5 * len(v['image'])
        assert all(
            v['text'].x[b].startswith(v['image'].ids[a].split('/')[-1]) for a, b in zip(ra.tolist(), rb.tolist())
        )
        assert all(im.size == (8, 8) for im in v['image'].x[torch.arange(len(v['image']))])
    if make is karpathy:
        assert [len(v['image']) for v in s.values()] == [8, 2, 2]
    if make is folder:
        assert len(s['test']['image']) == 4 and len(s['train']['image']) + len(s['valid']['image']) == 8
    if make is flickr30k:
        assert any('"4' in t for t in s['train']['text'].x)


def test_columns_split_group_label_and_several_texts(tmp_path):
    photos(tmp_path, NAMES)
    rows = [
        dict(
            image=n,
            title=f'dish {i // 2}',
            ingredients=f'thing {i}',
            split='train' if i < 8 else 'val' if i < 10 else 'test',
            group=i // 2,
            label='soup' if i % 4 < 2 else 'cake',
        )
        for i, n in enumerate(NAMES)
    ]
    (tmp_path / 'mine.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    with pytest.warns(UserWarning, match=r'columns left out: ingredients \(texts\)'):
        assert list(load('captions', tmp_path)['train']) == ['image', 'text']
    s = load('captions', tmp_path, roles=dict(text=['title', 'ingredients']))
    well_formed(s)
    assert list(s['train']) == ['image', 'title', 'ingredients'] and [len(v['image']) for v in s.values()] == [8, 2, 2]
    assert s['train']['image'].item.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and class_names('captions', tmp_path) == [
        'cake',
        'soup',
    ]
    assert s['test']['ingredients'].y.tolist() == [1 if i % 4 < 2 else 0 for i in (10, 11)]
    assert len(s['test']['title']) == 1  # one item says it twice


def damage(path, old, new, count=1):
    path.write_text(path.read_text().replace(old, new, count))


@pytest.mark.parametrize(
    'hurt,says',
    [
        (
            lambda r: (r / 'Images' / 'p3.jpg').unlink(),
            r"captions\.txt, line 17: no file 'p3\.jpg' among the 12 files of .*near is: Images/p\d\.jpg.*5 of 60 rows",
        ),
        (lambda r: damage(r / 'captions.txt', 'image,caption', 'image'), r'no captions found.*captions\.txt'),
        (lambda r: damage(r / 'captions.txt', 'image,caption', 'image,'), r'two views are needed; there is: image'),
        (lambda r: damage(r / 'captions.txt', '"p0.jpg, quoted ""0"""', ''), r'captions\.txt, line 2: empty: text'),
        (lambda r: (r / 'captions.txt').write_text('image,caption\np0.jpg,"open'), r'quotation mark'),
        (lambda r: (r / 'captions.txt').write_bytes(b'image,caption\np0.jpg,caf\xe9\n'), r'not UTF-8'),
        (lambda r: (r / 'captions.txt').write_text(''), r'no captions found.*captions\.txt'),
        (lambda r: (r / 'captions.txt').write_text('image,caption\n'), r'captions\.txt: no rows in it'),
        (
            lambda r: (
                (r / 'more.token.txt').write_text('p0.jpg caption without a tab\n'),
                (r / 'captions.txt').unlink(),
            ),
            r'line 1: expected name\.jpg#0, a tab',
        ),
        (
            lambda r: ((r / 'x.jsonl').write_text('{"image": "p0.jpg",\n'), (r / 'captions.txt').unlink()),
            r'x\.jsonl, line 1: not valid json',
        ),
        (
            lambda r: ((r / 'x.jsonl').write_text('{"image": "p0.jpg", "text": 5}\n'), (r / 'captions.txt').unlink()),
            r'two views are needed.*image \(image\), text \(number\)',
        ),
        (
            lambda r: (
                (r / 'dataset_x.json').write_text('{"images": [{"filename": "p0.jpg", "split": "train"}]}'),
                (r / 'captions.txt').unlink(),
            ),
            r'image 0: expected an object with filename and sentences',
        ),
        (
            lambda r: (r / 'dataset_x.json').write_text('[1'),
            r'dataset_x\.json, record 0, byte 0: the file is expected to be an object',
        ),
        (
            lambda r: (
                damage(r / 'captions.txt', 'image,caption\n', 'image,caption,split\n')
                or (r / 'captions.txt').write_text(
                    (r / 'captions.txt').read_text().replace('\r', '').replace('"\n', '",trian\n')
                )
            ),
            r"did you mean 'train'",
        ),
    ],
)
def test_bad_captions_are_named(hurt, says, tmp_path):
    kaggle(tmp_path)
    (tmp_path / 'captions.txt').write_text((tmp_path / 'captions.txt').read_text())
    hurt(tmp_path)
    with pytest.raises(ValueError, match=says):
        load('captions', tmp_path)


@pytest.mark.parametrize(
    'row,says',
    [
        ('{"image": "p0.jpg", "text": 5}', 'line 1: text is .5., not a text'),
        ('{"image": "p0.jpg", "text": "half \\ud83d"}', r"text: character 5 is '\\ud83d', one half of a character"),
        ('{"image": "../outside.jpg", "text": "a"}', r"line 1: '\.\./outside\.jpg' leads out of the folder"),
        ('["p0.jpg"]', 'line 1: expected an object'),
        ('[' * 99999, 'line 1: not valid json'),
    ],
)
def test_json_lines_are_not_taken_on_trust(row, says, tmp_path):
    photos(tmp_path / 'set', NAMES)
    photos(tmp_path, ['outside.jpg'])
    rows = [row, *(json.dumps(dict(image=n, text=f'picture of {n}')) for n in NAMES)]
    (tmp_path / 'set' / 'x.jsonl').write_text('\n'.join(rows))
    with pytest.raises(InputError, match=says):
        load('captions', tmp_path / 'set')


@pytest.mark.parametrize(
    'more, left_out',
    [
        (dict(caption='b'), 'caption'),
        ({'../../x': 'some other words'}, '../../x'),
        (dict(width=16), 'width'),
        (dict(text=['picture', None]), ''),
        (dict(image=['p0.jpg']), ''),
        (dict(label=1), ''),
    ],
)
def test_json_lines_with_more_than_a_text(more, left_out, tmp_path):
    "A column without a role is left out with a word; a list holds several texts, and empty ones are none"
    photos(tmp_path, NAMES)
    rows = [dict(image=n, text=f'picture of {n}') for n in NAMES]
    rows[0] |= more
    (tmp_path / 'x.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        s = load('captions', tmp_path)
    assert list(s['train']) == ['image', 'text'] and sum(len(v['text']) for v in s.values()) == len(NAMES)
    assert left_out in ' '.join(str(w.message) for w in said)


def test_pictures_without_a_text_are_left_out_with_a_word(tmp_path):
    kaggle(tmp_path)
    photos(tmp_path / 'Images', ['stray.jpg'])
    with pytest.warns(UserWarning, match=r'1 files without a row are left out: Images/stray\.jpg'):
        assert sum(len(v['image']) for v in load('captions', tmp_path).values()) == len(NAMES)


def test_equal_captions_of_a_published_set_all_count(tmp_path):
    flickr(tmp_path)
    damage(tmp_path / 'Flickr8k.token.txt', 'caption 1 of <i>p9', 'caption 0 of <i>p9')
    assert len(load('flickr8k', tmp_path)['test']['text']) == 15
    with pytest.warns(UserWarning, match='without a row'):
        assert len(load('captions', tmp_path)['test']['text']) == 14


def test_split_files_that_contradict(tmp_path):
    flickr(tmp_path)
    (tmp_path / 'Flickr_8k.devImages.txt').write_text('p0.jpg\np6.jpg\n')
    with pytest.raises(ValueError, match='p0.jpg is in two split files'):
        load('flickr8k', tmp_path)
    (tmp_path / 'Flickr_8k.devImages.txt').write_text('p6.jpg\nnobody.jpg\n')
    with pytest.raises(ValueError, match='Flickr8k.token.txt: nobody.jpg of the split files has no caption'):
        load('flickr8k', tmp_path)


def test_no_captions_at_all(tmp_path):
    photos(tmp_path, NAMES[:2])
    with pytest.raises(FileNotFoundError, match='no captions found'):
        load('captions', tmp_path)


def test_a_truncated_jpeg_is_named(tmp_path):
    flickr(tmp_path)
    bad = tmp_path / 'Flicker8k_Dataset' / 'p9.jpg'
    bad.write_bytes(bad.read_bytes()[:-200])
    s = load('flickr8k', tmp_path)
    with pytest.raises(ValueError, match=r'p9\.jpg: not a readable image'):
        s['test']['image'].x[torch.arange(3)]


def test_audit_tells_what_crosses_an_official_split(tmp_path):
    flickr(tmp_path)
    d = tmp_path / 'Flicker8k_Dataset'
    (d / 'p8.jpg').write_bytes((d / 'p0.jpg').read_bytes())
    damage(
        tmp_path / 'Flickr8k.token.txt', 'caption 2 of <i>p10.jpg</i> , naïve .', 'Caption 1 of <i>p7.jpg</i>, naïve!'
    )
    rows = {(r['view'], r['kind']): r for r in audit('flickr8k', tmp_path, near=True)}
    assert rows['image', 'file']['splits'] == 'train+test' and sorted(rows['image', 'file']['example']) == [
        'p0.jpg',
        'p8.jpg',
    ]
    assert rows['text', 'text, normalised']['splits'] == 'valid+test' and ('text', 'text, exact') not in rows
    assert rows['image', 'picture, difference hash']['groups'] == 1
    assert len(load('flickr8k', tmp_path)['test']['image']) == 3  # nothing was dropped


def test_own_split_keeps_equal_pictures_and_equal_texts_together(tmp_path):
    names = [f'{i}.jpg' for i in range(90)]
    photos(tmp_path, names)
    for i in range(0, 90, 9):
        (tmp_path / f'{i + 1}.jpg').write_bytes((tmp_path / f'{i}.jpg').read_bytes())
    (tmp_path / 't.csv').write_text(
        'image,text\n'
        + ''.join(
            f'{n},{"The same," if i % 9 == 4 else "text"} {i // 18 if i % 9 == 4 else i}\n'.replace('same,', 'same')
            for i, n in enumerate(names)
        )
    )
    s = load('captions', tmp_path)
    assert crossing(s) == [] and sum(r['groups'] for r in audit('captions', tmp_path) if r['kind'] == 'file') == 10


# ---------------------------------------------------------------- COCO
def coco(root, n=(40, 20)):
    annotations, i = [], 0
    for part, m in zip(('train2014', 'val2014'), n):
        ids = range(i + 1, i + 1 + m)
        i += m
        images = [dict(id=k, file_name=f'COCO_{part}_{k:012d}.jpg') for k in ids]
        photos(root / part, [im['file_name'] for im in images])
        notes = [dict(id=1000 - 7 * k + j, image_id=k, caption=f'caption {j} of {k}') for k in ids for j in (2, 0, 1)]
        (root / 'annotations').mkdir(exist_ok=True)
        (root / 'annotations' / f'captions_{part}.json').write_text(json.dumps(dict(images=images, annotations=notes)))
        (root / 'annotations' / f'fixations_{part}.json').write_text(
            json.dumps(dict(images=images[:12], annotations=[dict(fixations=[[1, 1]] * 50)] * 9))
        )
        annotations += [
            dict(
                filename=im['file_name'],
                split='train' if part == 'train2014' else ('restval', 'val', 'test')[im['id'] % 3],
            )
            for im in images
        ]
    (root / 'dataset_coco.json').write_text(json.dumps(dict(images=annotations)))
    return root


@pytest.mark.filterwarnings('ignore:coco')
def test_coco_in_its_three_splits(tmp_path):
    coco(tmp_path)
    loaded = {s: load('coco', tmp_path, split=s) for s in ('karpathy', '2014', 'salicon')}
    for s in loaded.values():
        well_formed(s)
    n = {k: [len(v['image']) for v in s.values()] for k, s in loaded.items()}
    assert (
        n['karpathy'] == [47, 6, 7]
        and n['2014'][2] == 20
        and sum(n['2014']) == 60
        and n['salicon'][2] == 12
        and sum(n['salicon']) == 24
    )
    t = loaded['2014']['test']['text']
    assert (
        t.x[:3] == ['caption 0 of 41', 'caption 1 of 41', 'caption 2 of 41']
        and t.ids[2] == 'COCO_val2014_000000000041.jpg#2'
    )  # by annotation id
    assert all(len(v['text']) == len(v['image']) for v in load('coco', tmp_path, per_image=1).values())
    assert (
        data_digest('coco', tmp_path) != data_digest('coco', tmp_path, split='salicon')
        and class_names('coco', tmp_path) is None
    )
    with pytest.warns(UserWarning, match='coco, salicon: 12 photos in test, officially 5000'):
        load('coco', tmp_path, split='salicon')


def notes(root, change, part='train2014', kind='captions'):
    p = root / 'annotations' / f'{kind}_{part}.json'
    d = json.loads(p.read_text())
    change(d)
    p.write_text(json.dumps(d))


@pytest.mark.parametrize(
    'hurt,says',
    [
        (
            lambda r: notes(r, lambda d: d['annotations'][4].update(image_id=999)),
            r'captions_train2014\.json, annotation 4: its image 999 is not among the images',
        ),
        (lambda r: notes(r, lambda d: d['images'].append(d['images'][0])), r'image 40: the id 1 is there twice'),
        (
            lambda r: notes(r, lambda d: d['images'][1].update(file_name='../../etc/passwd')),
            r"image 1: '\.\./\.\./etc/passwd' is not a plain file name",
        ),
        (
            lambda r: notes(r, lambda d: d.update(annotations=d['annotations'][3:])),
            r'images without captions: COCO_train2014_000000000001\.jpg',
        ),
        (
            lambda r: notes(r, lambda d: d['annotations'][1].update(id=d['annotations'][0]['id'])),
            'the same annotation id twice',
        ),
        (lambda r: notes(r, lambda d: d['annotations'][0].update(caption=' ')), 'annotation 0: the caption is empty'),
        (
            lambda r: notes(r, lambda d: d['annotations'][0].update(id='7')),
            "annotation 0: id is '7'; a whole number is needed",
        ),
        (
            lambda r: notes(r, lambda d: d['annotations'][0].pop('caption')),
            "annotation 0: no 'caption'; there is: 'id', 'image_id'",
        ),
        (lambda r: notes(r, lambda d: d.pop('images')), "there is no list 'images'"),
        (
            lambda r: (r / 'train2014' / 'COCO_train2014_000000000003.jpg').unlink(),
            r'1 of 60 photos are not there: train2014/COCO_train2014_000000000003\.jpg',
        ),
        (lambda r: damage(r / 'dataset_coco.json', 'restval', 'rest'), "split .*'rest'"),
        (
            lambda r: damage(r / 'dataset_coco.json', 'COCO_train2014_000000000003', 'nobody'),
            'without captions: .nobody',
        ),
        (
            lambda r: damage(r / 'annotations' / 'captions_val2014.json', 'of 50"', 'of 50'),
            r'captions_val2014\.json, record',
        ),
    ],
)
@pytest.mark.filterwarnings('ignore:coco')
def test_bad_coco_is_named(hurt, says, tmp_path):
    hurt(coco(tmp_path))
    with pytest.raises(InputError, match=says):
        load('coco', tmp_path)


@pytest.mark.filterwarnings('ignore:coco, ')
def test_coco_with_missing_photos(tmp_path):
    for k in (3, 5):
        (coco(tmp_path) if k == 3 else tmp_path).joinpath('train2014', f'COCO_train2014_{k:012d}.jpg').unlink()
    with pytest.raises(MissingError, match='2 of 60'):
        load('coco', tmp_path, missing=0.03)
    with pytest.warns(UserWarning, match='2 of 60 photos are not there: .*; they are left out'):
        s = load('coco', tmp_path, missing=0.04)
    assert (
        len(s['train']['image']) == 45
        and len(s['train']['text']) == 135
        and not any('00003.jpg' in i for i in s['train']['text'].ids)
    )


# ---------------------------------------------------------------- arrays
def make_arrays(root, n=40, **more):
    g = np.random.default_rng(0)
    root.mkdir(exist_ok=True, parents=True)
    for k, p in dict(image=5, title=4, audio=3).items():
        np.save(root / f'{k}.npy', g.standard_normal((n, p)).astype('float32'))
    np.save(root / 'labels.npy', np.arange(n) % 3)
    (root / 'ids.txt').write_text('\n'.join(f'{root.name}{i}' for i in range(n)))


def test_arrays_in_one_folder_with_and_without_split(tmp_path):
    make_arrays(tmp_path)
    s = load('arrays', tmp_path)
    well_formed(s)
    assert set(s['train']) == {'image', 'title', 'audio'} and sum(len(v['image']) for v in s.values()) == 40
    (tmp_path / 'split.txt').write_text('\n'.join(['train'] * 25 + ['valid'] * 5 + ['test'] * 10))
    t = load('arrays', tmp_path)
    assert (
        [len(v['audio']) for v in t.values()] == [25, 5, 10]
        and t['test']['image'].ids[0] == f'{tmp_path.name}30'
        and t['test']['title'].y[0] == 0
    )
    assert torch.equal(t['test']['image'].x, torch.as_tensor(np.load(tmp_path / 'image.npy')[30:]))


def test_arrays_in_split_folders_and_multi_hot(tmp_path):
    for s in ('train', 'test'):
        make_arrays(tmp_path / s)
        np.save(tmp_path / s / 'labels.npy', np.eye(4, dtype=bool)[np.arange(40) % 4])
    s = load('arrays', tmp_path)
    well_formed(s)
    assert (
        len(s['test']['image']) == 40
        and len(s['train']['image']) + len(s['valid']['image']) == 40
        and s['test']['image'].y.shape == (40, 4)
    )


def test_arrays_of_different_sizes_belong_together_by_label(tmp_path):
    make_arrays(tmp_path)
    (tmp_path / 'ids.txt').unlink()
    (tmp_path / 'labels.npy').unlink()
    np.save(tmp_path / 'audio.npy', np.random.default_rng(1).standard_normal((16, 3)))
    with pytest.raises(ValueError, match='neither ids nor labels'):
        load('arrays', tmp_path)
    for k, n in (('image', 40), ('title', 40), ('audio', 16)):
        np.save(tmp_path / f'{k}.labels.npy', np.arange(n) % 2)
    s = load('arrays', tmp_path)
    well_formed(s)
    assert (
        s['train'].pairs('image', 'audio', by='label')[0].numel() and not s['train'].pairs('image', 'audio')[0].numel()
    )


@pytest.mark.parametrize(
    'hurt,says',
    [
        (lambda r: (r / 'ids.txt').write_text('one\ntwo'), r'ids\.txt: 2 rows, but .*\.npy has 40'),
        (lambda r: np.save(r / 'labels.npy', np.zeros(39, int)), r'labels\.npy: 39 rows'),
        (
            lambda r: np.save(r / 'image.npy', np.where(np.arange(200).reshape(40, 5) == 33, np.nan, 1.0)),
            r'image\.npy: NaN or Inf in 1 of 40 rows: .*6',
        ),
        (lambda r: np.save(r / 'image.npy', np.where(np.arange(200).reshape(40, 5) == 33, np.inf, 1.0)), r'NaN or Inf'),
        (
            lambda r: np.save(r / 'image.npy', np.array([{}] * 40, dtype=object), allow_pickle=True),
            r'image\.npy: not a readable array',
        ),
        (lambda r: np.save(r / 'image.npy', np.array(['a'] * 40)), r'image\.npy: <U1 of shape'),
        (
            lambda r: (r / 'image.npy').write_bytes((r / 'image.npy').read_bytes()[:300]),
            r'image\.npy: not a readable array',
        ),
        (lambda r: (r / 'split.txt').write_text('\n'.join(['trian'] + ['test'] * 39)), r"did you mean 'train'"),
        (lambda r: (r / 'split.txt').write_text('\n'.join(['test'] * 40)), r'the splits are test; train is needed'),
        (
            lambda r: np.save(r / 'labels.npy', np.arange(40) / 2),
            r'labels\.npy: labels are whole numbers; there is \[0\.5\]',
        ),
        (
            lambda r: np.save(r / 'labels.npy', np.full((40, 3), 2)),
            r'labels\.npy: int64 of shape \(40, 3\); labels are',
        ),
        (lambda r: np.save(r / 'image.npy', np.full((40, 2), 1e300)), r'image\.npy: 40 rows have numbers beyond 3e38'),
        (lambda r: np.save(r / 'image.npy', np.ones((40, 2), complex)), r'image\.npy: complex128 of shape \(40, 2\)'),
        (
            lambda r: (r / 'ids.txt').write_text('\n'.join([*map(str, range(39)), ''])),
            r'ids\.txt: 39 rows|line 40: the line is empty',
        ),
        (
            lambda r: (
                (r / 'image.ids.txt').write_text('\n'.join(f'other{i}' for i in range(40))),
                (r / 'labels.npy').unlink(),
            ),
            r'ids of audio and image have none in common',
        ),
    ],
)
def test_bad_arrays_are_named(hurt, says, tmp_path):
    make_arrays(tmp_path)
    hurt(tmp_path)
    with pytest.raises(ValueError, match=says):
        load('arrays', tmp_path)


def test_arrays_in_split_folders_must_agree(tmp_path):
    for s in ('train', 'test'):
        make_arrays(tmp_path / s)
    np.save(tmp_path / 'test' / 'audio.npy', np.ones((40, 9)))
    with pytest.raises(InputError, match='different views or widths'):
        load('arrays', tmp_path)
    make_arrays(tmp_path / 'test')
    (tmp_path / 'test' / 'ids.txt').write_text((tmp_path / 'train' / 'ids.txt').read_text())
    with pytest.raises(InputError, match='an item has rows in test and in train'):
        load('arrays', tmp_path)


def test_the_same_id_twice_is_two_rows_of_one_item(tmp_path):
    make_arrays(tmp_path)
    (tmp_path / 'ids.txt').write_text('\n'.join(['twin'] * 2 + [str(i) for i in range(38)]))
    images = [v['image'] for v in load('arrays', tmp_path).values()]
    assert sum(map(len, images)) == 40 and len({i for v in images for i in v.item.tolist()}) == 39


def test_arrays_split_by_the_file_of_one_view(tmp_path):
    "Views are joined by their items, so a split of one view is a split of all"
    make_arrays(tmp_path)
    (tmp_path / 'image.split.txt').write_text('\n'.join(['train'] * 25 + ['val'] * 5 + ['test'] * 10))
    assert [len(v['audio']) for v in load('arrays', tmp_path).values()] == [25, 5, 10]
    (tmp_path / 'image.split.txt').unlink()
    (tmp_path / 'split.txt').write_text('\n'.join(['train'] * 30 + ['val'] * 10))
    with pytest.warns(UserWarning, match='there is no test split: 15 % of train are taken'):
        assert sum(len(v['audio']) for v in load('arrays', tmp_path).values()) == 40


def test_ids_that_only_one_view_has_are_said(tmp_path):
    make_arrays(tmp_path)
    (tmp_path / 'audio.ids.txt').write_text('\n'.join(f'{tmp_path.name}{i}' for i in range(2, 42)))
    with pytest.warns(UserWarning, match=r'2 of 42 items have no row of audio: \w+0, \w+1'):
        load('arrays', tmp_path)


def test_a_view_that_ties_most_items_into_one_group_is_named(tmp_path):
    "A column of ones has nothing to tell: without it the rest can be split"
    make_arrays(tmp_path)
    np.save(tmp_path / 'odd.npy', np.arange(80).reshape(40, 2) > 4)
    with pytest.raises(InputError, match=rf'37 of 40 items have the same odd \({tmp_path.name}3\): it ties them'):
        load('arrays', tmp_path)


def test_arrays_of_every_type_and_a_large_one_stays_on_disk(tmp_path):
    x = np.arange(24).reshape(12, 2)
    for kind in ('>f8', '<f2', 'g', '>i2', 'u2', 'u8', '?', 'i1'):
        np.save(tmp_path / 'x.npy', x.astype(kind))
        y = read_features(tmp_path / 'x.npy')
        assert torch.equal(torch.from_numpy(y).double(), torch.from_numpy(x.astype(kind).astype('f8')))
        assert (y.dtype == np.float32) == (np.dtype(kind).kind == 'f')
    np.save(tmp_path / 'x.npy', x.astype('f4'))
    assert not isinstance(read_features(tmp_path / 'x.npy').base, np.memmap)
    mapped = read_features(tmp_path / 'x.npy', in_memory=0)
    assert isinstance(mapped.base, np.memmap) and np.array_equal(mapped, x)


def test_a_single_array_is_not_cross_modal(tmp_path):
    np.save(tmp_path / 'image.npy', np.ones((3, 2)))
    with pytest.raises(FileNotFoundError, match='at least two'):
        load('arrays', tmp_path)


def test_the_digest_cache_sees_a_change(tmp_path):
    make_arrays(tmp_path)
    a = data_digest('arrays', tmp_path)
    x = np.load(tmp_path / 'image.npy')
    x[0, 0] += 1
    np.save(tmp_path / 'image.npy', x)
    os.utime(tmp_path / 'image.npy', (1, 1))
    assert data_digest('arrays', tmp_path) != a


# ---------------------------------------------------------------- wikipedia and public-domain recipes, made and real
def wiki(root):
    import scipy.io

    g = np.random.default_rng(0)
    scipy.io.savemat(
        root / 'raw_features.mat',
        dict(I_tr=g.random((60, 128)), T_tr=g.random((60, 10)), I_te=g.random((20, 128)), T_te=g.random((20, 10))),
    )
    for s, n in (('train', 60), ('test', 20)):
        (root / f'{s}set_txt_img_cat.list').write_text(''.join(f'{s}t{i}\t{s}i{i}\t{i % 10 + 1}\n' for i in range(n)))
    (root / 'categories.list').write_text('\n'.join('abcdefghij'))


def test_wikipedia_layout_and_its_faults(tmp_path):
    wiki(tmp_path)
    s = load('wikipedia', tmp_path)
    well_formed(s)
    assert (
        len(s['test']['image']) == 20
        and s['test']['text'].ids[3] == 'testt3'
        and s['test']['text'].y[3] == 3
        and class_names('wikipedia', tmp_path)[3] == 'd'
    )
    with pytest.raises(FileNotFoundError, match='raw_features_tfidf.mat'):
        load('wikipedia', tmp_path, text='both')
    damage(tmp_path / 'testset_txt_img_cat.list', 'testt0\ttesti0\t1\n', '')
    with pytest.raises(ValueError, match='19 ids, but the matrix I_te has 20 rows'):
        load('wikipedia', tmp_path)
    damage(tmp_path / 'testset_txt_img_cat.list', 'testt1\ttesti1', 'testt1 testi1')
    with pytest.raises(ValueError, match=r'testset_txt_img_cat\.list, line 1'):
        load('wikipedia', tmp_path)


@pytest.mark.parametrize(
    'line,says',
    [
        ('testt1\ttesti1\t11', 'class 11, but categories.list has 10'),
        ('testt1\ttesti1\t0', 'class 0'),
        ('testt1\ttesti1\t²', 'line 2: expected'),
        ('testt1\ttesti1', 'line 2: expected'),
        ('testt0\ttesti1\t2', 'the same text id twice'),
        ('testt1\ttesti0\t2', 'the same image id twice'),
    ],
)
def test_a_wrong_line_of_the_wikipedia_lists(line, says, tmp_path):
    from crossmodal_nb.datasets.wikipedia import _names

    wiki(tmp_path)
    damage(tmp_path / 'testset_txt_img_cat.list', 'testt1\ttesti1\t2', line)
    with pytest.raises(InputError, match=says):
        _names(tmp_path, 'te')


def test_wikipedia_itself():
    here('wikipedia')
    s = load('wikipedia', text='both')
    well_formed(s)
    assert len(s['train']['image']) + len(s['valid']['image']) == 2173 and s['test']['text'].x.shape == (693, 1010)
    assert class_names('wikipedia')[:2] == ['art', 'biology'] and torch.bincount(s['test']['image'].y).tolist() == [
        34,
        88,
        96,
        85,
        65,
        58,
        51,
        41,
        71,
        104,
    ]
    assert {r['splits'] for r in audit('wikipedia')} >= {'train+test'}  # the official split tears equal pictures apart


def test_flickr8k_itself():
    here('flickr8k')
    s = load('flickr8k')
    assert [(len(v['image']), len(v['text'])) for v in s.values()] == [(6000, 30000), (1000, 5000), (1000, 5000)]
    assert s['train']['image'].x[0].size == (224, 224)


def test_public_domain_recipes_folds():
    here('public_domain_recipes')
    for repeat in (0, 1):
        folds = [load('public_domain_recipes', repeat=repeat, fold=f) for f in range(5)]
        for s in folds:
            well_formed(s)
            assert crossing(s) == []
        tests = [i for s in folds for i in s['test']['image'].ids]
        assert len(tests) == len(set(tests)) == 138 and {len(s['test']['image']) for s in folds} <= {27, 28}
    assert sum(len(v['all']) for v in load('public_domain_recipes', photos=False).values()) == 410
    with pytest.raises(ValueError, match='fold is 5'):
        load('public_domain_recipes', fold=5)


def test_public_domain_recipes_layout(tmp_path):
    (tmp_path / 'content').mkdir()
    photos(tmp_path / 'images', [f'r{i}.jpg' for i in range(10)])
    for i in range(12):
        (tmp_path / 'content' / f'r{i}.md').write_text(
            f'---\ntitle: "Dish {chr(97 + i)}"\ntags: [t]\n---\n![x](/pix/r{i}.webp)\n## Ingredients\n- salt '
            f'{i}\n## Directions\n1. Stir {i}\n'
        )
    s = load('public_domain_recipes', tmp_path, label='tags')
    assert (
        sum(len(v['image']) for v in s.values()) == 10
        and s['train']['all'].y.shape[1] == 1
        and class_names('public_domain_recipes', tmp_path, label='tags') == ['t']
    )
    (tmp_path / 'content' / 'bad.md').write_text('no head')
    with pytest.raises(ValueError, match=r'bad\.md: the page has no head'):
        load('public_domain_recipes', tmp_path)


@pytest.mark.parametrize(
    'head,says',
    [
        ('title: [a]', 'no head with a title'),
        ('title: "half \\ud83d"', 'half a character'),
        ('title: x\ntags: {a: b}', 'tags is not a list'),
        ('title: x\ntags: soup', 'tags is not a list'),
        ('title: ""', 'no head with a title'),
        ('title: *x', 'no head with a title'),
    ],
)
def test_a_bad_head_is_named(head, says, tmp_path):
    (tmp_path / 'content').mkdir()
    (tmp_path / 'images').mkdir()
    (tmp_path / 'content' / 'bad.md').write_text(f'---\n{head}\n---\n## Ingredients\n- tea\n## Directions\n- brew\n')
    with pytest.raises(InputError, match=rf'bad\.md: .*{says}'):
        load('public_domain_recipes', tmp_path, photos=False)


def test_a_photo_outside_the_folder_is_no_photo(tmp_path):
    (tmp_path / 'set' / 'content').mkdir(parents=True)
    photos(tmp_path, ['secret.jpg'])
    photos(tmp_path / 'set' / 'images', ['r.jpg'])
    (tmp_path / 'set' / 'content' / 'r.md').write_text(
        '---\ntitle: 7\n---\n![x](/pix/../../secret.webp)\n## Ingredients\n- tea\n## Directions\n- brew\n'
    )
    with pytest.raises(InputError, match='names a photo that lies in'):
        load('public_domain_recipes', tmp_path / 'set')


# ---------------------------------------------------------------- flow graphs and the LMDB release
def flow(root, n=20):
    photos(root, [f'photos/r{i}-{k}.png' for i in range(n) for k in range(2)])
    for i in range(n):
        names = [f'photos/r{i}-{k}.png' for k in range(2)]
        (root / f'r{i}.json').write_text(
            json.dumps(
                dict(
                    recipe_id=f'r{i}',
                    lang='en' if i % 2 else 'ja',
                    steps=[
                        dict(step=1, text='Chop the onion.', tokens=['Chop', 'the', 'onion', '.'], images=names),
                        dict(step=2, text='Serve.', tokens=['Serve', '.'], images=[]),
                    ],
                    entities=[
                        dict(id='e1', step=1, start=2, end=3, tag='F', surface='onion'),
                        dict(id='e2', step=2, start=0, end=1, tag='Ac', surface='Serve'),
                    ],
                    edges=[dict(src='e1', dst='e2', label='Targ')],
                    boxes=[dict(image=names[0], xyxy=[1, 2, 8, 7.5], entity_id='e1', attribute='doing')],
                )
            )
        )
    return root


def test_flow_graphs(tmp_path):
    from crossmodal_nb.datasets.flowgraphs import boxes

    s = load('flowgraphs', flow(tmp_path))
    well_formed(s)
    assert sum(len(v['image']) for v in s.values()) == 40 and sum(len(v['text']) for v in s.values()) == 40
    for k, v in s.items():
        ra, rb, w = v.pairs('image', 'text')
        assert (
            len(ra) == len(v['image'])
            and (w == 0.5).all()
            and all(
                v['image'].ids[a].split('-')[0] == f"photos/{v['text'].ids[b].split('/')[0]}"
                for a, b in zip(ra.tolist(), rb.tolist())
            )
        )
        assert {b['recipe'] for b in boxes(tmp_path) if b['split'] == k} == {i.split('/')[0] for i in v['text'].ids}
    assert (
        len(boxes(tmp_path, 'ja')) == 10
        and boxes(tmp_path)[0]['image'].exists()
        and sum(len(v['text']) for v in load('flowgraphs', tmp_path, lang='ja').values()) == 20
    )
    with pytest.raises(InputError, match="no recipe language 'jp'. There is: en, ja"):
        load('flowgraphs', tmp_path, lang='jp')


@pytest.mark.parametrize(
    'hurt,says',
    [
        (lambda r: r['boxes'][0].update(xyxy=[8, 2, 1, 7]), 'is no box inside a photo of 8 × 8'),
        (lambda r: r['boxes'][0].update(xyxy=[1, 2, 8, 9]), 'no box inside'),
        (lambda r: r['boxes'][0].update(xyxy=[1, 2, 8]), 'not four numbers'),
        (lambda r: r['boxes'][0].update(xyxy=[1, 2, 8, float('nan')]), 'not four numbers'),
        (lambda r: r['boxes'][0].update(image='photos/r4-0.png'), "'photos/r4-0.png' is no photo of this recipe"),
        (lambda r: r['boxes'][0].update(entity_id='e9'), "no entity 'e9'"),
        (lambda r: r['boxes'][0].update(attribute='did'), "attribute 'did'"),
        (lambda r: r['entities'][0].update(start=1, end=2), "surface is 'onion', but the tokens are 'the'"),
        (lambda r: r['entities'][0].update(end=5), 'tokens 2 to 5, but step 1 has 4'),
        (lambda r: r['entities'][0].update(step=3), 'there is no step 3'),
        (lambda r: r['entities'][1].update(id='e1'), "the id 'e1' is there twice"),
        (lambda r: r['edges'][0].update(src='x'), "no entity 'x'"),
        (lambda r: r['steps'][1].update(step=1), 'step 1 is not above'),
        (lambda r: r['steps'][0].update(images=['../x.png']), 'is not the name of a photo'),
        (lambda r: r['steps'][0].update(images=['/etc/x.png']), 'is not the name of a photo'),
        (lambda r: r['steps'][0]['images'].append('photos/none.png'), 'is not there'),
        (lambda r: r['steps'][0]['images'].append('photos/link.png'), 'leads out of the folder'),
        (lambda r: r.update(recipe_id='r4'), 'the same recipe_id'),
        (lambda r: r.update(lang='Japanese'), 'lang is a code'),
        (lambda r: r.pop('edges'), "no 'edges'"),
        (lambda r: r['steps'].clear(), 'no steps'),
    ],
)
def test_bad_flow_graphs_are_named(hurt, says, tmp_path):
    flow(tmp_path / 'set', 6)
    photos(tmp_path, ['secret.png'])
    (tmp_path / 'set' / 'photos' / 'link.png').symlink_to(tmp_path / 'secret.png')
    p = tmp_path / 'set' / 'r3.json'
    r = json.loads(p.read_text())
    hurt(r)
    p.write_text(json.dumps(r))
    with pytest.raises(InputError, match=says) as e:
        load('flowgraphs', tmp_path / 'set')
    assert 'recipe 0' in str(e.value)


@pytest.mark.filterwarnings('ignore:recipe1m_lmdb')
def test_the_lmdb_release(tmp_path, monkeypatch):
    import lmdb

    (tmp_path / 'settings.ini').write_text('[crossmodal]\n')
    monkeypatch.chdir(tmp_path)
    root = tmp_path / 'set'
    root.mkdir()
    for part, n in (('train', 30), ('val', 8), ('test', 8)):
        keys = [f'{part[0]}{i:09x}' for i in range(n)][::-1]  # the list need not be sorted
        with lmdb.open(str(root / f'{part}_lmdb'), map_size=2**24) as env, env.begin(write=True) as txn:
            for k in keys:
                txn.put(
                    k.encode(),
                    pickle.dumps(
                        dict(
                            ingrs=np.zeros(20, 'u2'),
                            intrs=np.full((2, 1024), int(k[1:], 16), 'f4'),
                            classes=0,
                            imgs=[dict(id=f'{k}.jpg')],
                        )
                    ),
                )
        (root / f'{part}_keys.pkl').write_bytes(pickle.dumps(keys))
        photos(root / 'images' / part, ['/'.join([*k[:4], f'{k}.jpg']) for k in keys])
    with pytest.warns(UserWarning, match='30 recipes in train, officially 238999'):
        s = load('recipe1m_lmdb', root)
    well_formed(s)
    assert (
        list(s['test']) == ['instructions', 'ingredients', 'image']
        and s['train']['instructions'].x[:, 0].tolist() == list(range(30))
        and (s['test']['image'].y == -1).all()
    )
    assert s['train']['image'].x.paths[3].name == f'{s["train"]["instructions"].ids[3]}.jpg' and data_digest(
        'recipe1m_lmdb', root
    )
    store = next(p for p in (tmp_path / 'work' / 'imports').iterdir() if p.is_dir())
    stamp = store.stat().st_mtime_ns
    s['train']['image'].x.paths[3].unlink()
    with pytest.raises(MissingError, match='1 of 30 recipes of train have no photo .*: t000000003'):
        load('recipe1m_lmdb', root)
    with pytest.warns(UserWarning, match='left out'):
        t = load('recipe1m_lmdb', root, missing=0.05)
    assert (
        len(t['train']['image']) == 29
        and len(t['train'].pairs('image', 'instructions')[0]) == 29
        and store.stat().st_mtime_ns == stamp
    )  # read once
