"Recipe1M on look-alikes in its exact formats: import, kills, choices, photos, and what is wrong with a folder."

import contextlib
import importlib
import json
import multiprocessing
import os
import random
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import lookalike
import numpy as np
import pytest
import torch
from hypothesis import given
from test_fuzz import damaged, fuzz, put, snapshot, sound_views

from crossmodal_nb.core.checks import InputError, MissingError
from crossmodal_nb.datasets import data_digest, load, recipe1m_import
from crossmodal_nb.datasets.recipe1m import prepare, recipe1m
from crossmodal_nb.datasets.recipe1m_import import Table, imported
from crossmodal_nb.datasets.recipe1m_photos import schemes
from crossmodal_nb.datasets.recipe1m_recipes import counts, selected, source


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


@pytest.fixture
def work(tmp_path, monkeypatch):
    "A work folder of one's own: settings are found from the working directory"
    (tmp_path / 'settings.ini').write_text('[crossmodal]\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'work' / 'imports'


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    return lookalike.make(tmp_path_factory.mktemp('recipe1m'), 400, pictures=32)


@pytest.fixture
def own(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / 'own')  # a copy to damage


def edit(path, change):
    x = json.loads(path.read_text())
    change(x)
    path.write_text(json.dumps(x))


def bytes_of(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


# what is in it


def test_tables_hold_the_files(folder, work, monkeypatch):
    monkeypatch.setattr(recipe1m_import, 'shard', 64)
    raw = json.loads((folder / 'layer1.json').read_text())
    t = imported(folder / 'layer1.json', 'recipes')
    assert len(t) == 400 and len(list(t.folder.glob('*.arrow'))) == 7
    for i in (0, 63, 64, 399):
        assert t.get('title', i) == raw[i]['title'] and t.get('instructions', i) == [
            x['text'] for x in raw[i]['instructions']
        ]
    assert t.meta['sha256'] == __import__('hashlib').sha256((folder / 'layer1.json').read_bytes()).hexdigest()
    previous = {p: p.stat().st_mtime_ns for p in t.folder.iterdir()}
    os.utime(folder / 'layer1.json')  # touched: hashed again, but nothing is replaced
    assert imported(folder / 'layer1.json', 'recipes').folder == t.folder and previous == {
        p: p.stat().st_mtime_ns for p in t.folder.iterdir()
    }


def test_byte_order_mark_and_unescaped_text(own, work):
    raw = (own / 'layer1.json').read_text()
    (own / 'layer1.json').write_bytes(
        b'\xef\xbb\xbf' + json.dumps(json.loads(raw), ensure_ascii=False, indent=1).encode()
    )
    raw = {r['id']: r['title'] for r in json.loads(raw)}
    titles = recipe1m(own, images='none', select='all')['train']['title']
    assert all(titles.x[i].split() == __import__('html').unescape(raw[r]).split() for i, r in enumerate(titles.ids))


def test_the_official_filter(own, work):
    s = source(own)
    raw, det = (json.loads((own / f).read_text()) for f in ('layer1.json', 'det_ingrs.json'))
    with_photo = {r['id'] for r in json.loads((own / 'layer2.json').read_text())}
    removed = (own / 'remove1M.txt').read_text().split()

    def kept(out):
        valid = {d['id']: len({x['text'] for x, v in zip(d['ingredients'], d['valid']) if v}) for d in det}
        return {
            r['id']
            for r in raw
            if r['id'] in with_photo and len(r['instructions']) < 20 and valid[r['id']] + 1 < 20 and r['id'] not in out
        }

    ids = np.array([r['id'] for r in raw])
    assert set(ids[selected(s) >= 0]) == kept(removed[1:]) and set(ids[selected(s, first_id_quirk=False) >= 0]) == kept(
        removed
    )
    edit(
        own / 'layer2.json',
        lambda x: (
            x.append(dict(id=removed[0], images=[dict(id='0123456789.jpg')])) if removed[0] not in with_photo else None
        ),
    )
    assert len(kept(removed)) < len(ids) and (selected(source(own)) >= 0).sum() - (
        selected(source(own), first_id_quirk=False) >= 0
    ).sum() in (0, 1)
    results = {c['name']: c for c in counts(s)}
    assert results['recipes_all']['total'] == 400 and results['recipes_filtered']['total'] == len(kept(removed[1:]))
    assert results['recipes_all']['train'] == sum(r['partition'] == ('train') for r in raw) and results[
        'recipes_with_image'
    ]['total'] == len(with_photo)


def test_listed_ids(own, work):
    ids = [r['id'] for r in json.loads((own / 'layer2.json').read_text())]
    for name, some in (('train', ids[:9]), ('val', ids[9:12]), ('test', ids[12:20])):
        (own / f'{name}.txt').write_text('\n'.join(some))
    d = recipe1m(own, select='listed', images='none')
    assert {s: v['title'].ids for s, v in d.items()} == {
        s: [i for i in order(own) if i in set(x)]
        for s, x in zip(('train', 'valid', 'test'), (ids[:9], ids[9:12], ids[12:20]))
    }
    (own / 'val.txt').write_text(ids[0])
    with pytest.raises(InputError, match='val.txt: 1 ids stand in an earlier list'):
        recipe1m(own, select='listed', images='none')


def order(root):
    return [r['id'] for r in json.loads((root / 'layer1.json').read_text())]


def test_photo_policies(folder, work):
    photos = {r['id']: [x['id'] for x in r['images']] for r in json.loads((folder / 'layer2.json').read_text())}
    for policy, limit in (('first', 1), ('random5', 5), ('random_all', 99), ('all_pairs', 99)):
        d = recipe1m(folder, select='with_image', images=policy)
        for split, v in d.items():
            m = 1 if split != 'train' and policy.startswith('random') else limit
            assert v['image'].ids == [f'{r}#{k}' for r in v['title'].ids for k in range(min(m, len(photos[r])))]
            assert [p.name for p in v['image'].x.paths] == [
                photos[i.split('#')[0]][int(i.split('#')[1])] for i in v['image'].ids
            ]
            names = dict(zip(v['title'].item.tolist(), v['title'].ids))
            assert [names[i] for i in v['image'].item.tolist()] == [i.split('#')[0] for i in v['image'].ids]
    b = d['train'].batch(d['train']['title'].item[:8], seed=1), d['train'].batch(d['train']['title'].item[:8], seed=2)
    assert (
        all(i.split('#')[0] == t for x in b for i, t in zip(x['image'].ids, x['title'].ids))
        and b[0]['image'].ids != b[1]['image'].ids
    )


def test_photos_lying_on_their_side_stand_up(folder, work):
    x = recipe1m(folder, select='with_image', images='all_pairs')['train']['image'].x
    assert {im.size for im in x[torch.arange(len(x))]} == {(32, 24)}
    from PIL import Image

    assert {Image.open(p).size for p in x.paths} == {(32, 24), (24, 32)}


@pytest.mark.parametrize('scheme', schemes)
def test_schemes(own, work, scheme):
    names = [
        (r['partition'], x['id'])
        for r, p in zip(
            *(
                sorted(
                    (x for x in json.loads((own / f).read_text()) if x['id'] in with_photos(own)), key=lambda x: x['id']
                )
                for f in ('layer1.json', 'layer2.json')
            )
        )
        for x in p['images']
    ]
    old = {n: own / 'images' / s / '/'.join(n[:4]) / n for s, n in names}
    aside = own / 'aside'
    aside.mkdir()
    for n, p in old.items():
        p.rename(aside / n)
    shutil.rmtree(own / 'images')
    for s, n in names:
        p = own / scheme.format(split=s, tree='/'.join(n[:4]), name=n)
        p.parent.mkdir(parents=True, exist_ok=True)
        (aside / n).rename(p)
    assert prepare('recipe1m', own).endswith(f'photos on disk       {len(names)} of {len(names)}, as {scheme}')
    assert recipe1m(own)['train']['image'].x[0].mode == 'RGB'


def with_photos(root):
    return {r['id'] for r in json.loads((root / 'layer2.json').read_text())}


def test_missing_photos(own, work):
    lost = sorted((own / 'images' / 'train').rglob('*.jpg'))[:3]
    for p in lost:
        p.unlink()
    with pytest.raises(MissingError, match='3 of .* photos are not there'):
        recipe1m(own, select='with_image')
    with pytest.warns(UserWarning, match='they are left out'):
        d = recipe1m(own, select='with_image', images='all_pairs', missing=0.1)
    full = recipe1m(own, select='with_image', images='none')
    gone = {p.name for p in lost}
    assert not gone & {p.name for p in d['train']['image'].x.paths} and set(d['train']['title'].ids) <= set(
        full['train']['title'].ids
    )
    assert set(d['train']['image'].item.tolist()) == set(d['train']['title'].item.tolist())
    shutil.copy(sorted((own / 'images' / 'test').rglob('*.jpg'))[0], lost[0])  # what was missing is looked for again
    with pytest.raises(MissingError, match='2 of'):
        recipe1m(own, select='with_image')


def test_texts(folder, work):
    raw = {r['id']: r for r in json.loads((folder / 'layer1.json').read_text())}
    v = recipe1m(
        folder, select='all', images='none', components=('title', 'ingredients', 'instructions', 'all', 'detected')
    )['train']
    from crossmodal_nb.datasets.recipes import components

    for i, name in enumerate(v['all'].ids):
        r = raw[name]
        c = components(r['title'], [x['text'] for x in r['ingredients']], [x['text'] for x in r['instructions']])
        assert {k: v[k].x[i] for k in c} == c
    assert '1/2 cup' in ''.join(
        recipe1m(folder, select='all', images='none', fix_fractions=True)['train']['ingredients'].x
    )
    assert (
        '12 cup' in ''.join(v['ingredients'].x)
        and '&amp;' not in ''.join(v['ingredients'].x)
        and 'red_' not in ''.join(v['detected'].x)
    )
    some = v['title'][torch.tensor([5, 2])]
    assert some.x[torch.arange(2)] == [v['title'].x[5], v['title'].x[2]] and some.x.digest != v['title'].x.digest


def test_languages_and_nutrition(own, work):
    raw = json.loads((own / 'layer1.json').read_text())
    (own / 'layer1.de.json').write_text(json.dumps([r | dict(title='Suppe ' + r['id']) for r in raw[::2]]))
    d = recipe1m(own, select='all', images='none', languages=('de',), nutrition=True)['train']
    assert d['title_de'].x[1] == 'Suppe ' + d['title_de'].ids[1] and 0 < len(d['title_de']) < len(d['title'])
    assert set(d['title_de'].item.tolist()) <= set(d['title'].item.tolist()) and d['nutrition'].x.shape[1] == 6


def test_load_digest_and_sample(folder, work, monkeypatch):
    monkeypatch.setenv('CROSSMODAL_DATA', str(folder.parent))
    (folder.parent / 'recipe1m').exists() or (folder.parent / 'recipe1m').symlink_to(folder)
    small = load('recipe1m', sample=20)
    assert 15 <= sum(len(v['title']) for v in small.values()) <= 25
    assert data_digest('recipe1m') == data_digest('recipe1m', images='all_pairs') is not None
    with pytest.raises(InputError, match="did you mean 'images'"):
        load('recipe1m', imagse='first')


def test_another_process_can_have_the_texts(folder, work):
    import pickle

    x = recipe1m(folder, images='none')['train']['all'].x
    assert pickle.loads(pickle.dumps(x))[3] == x[3] and len(pickle.dumps(x)) < 10_000


# kills

KILLED = """
import time
from crossmodal_nb.datasets import recipe1m_import as r
def run(file, write=r._write, written=[]):
    def slow(*a):
        while len(written) == 5: time.sleep(1)      # ten times five of 59 shards: it cannot end before it is killed
        time.sleep(.01); write(*a); time.sleep(.01)
        written.append(a)
    r.shard, r._write = 256, slow
    r.imported(file, 'recipes')
"""


def test_ten_kills(tmp_path, work, monkeypatch):
    monkeypatch.setattr(recipe1m_import, 'shard', 256)
    root, luck = lookalike.make(tmp_path / 'big', 15_000), random.Random(0)
    undisturbed = bytes_of(imported(root / 'layer1.json', 'recipes').folder)
    shutil.rmtree(tmp_path / 'work')
    (tmp_path / 'killed.py').write_text(KILLED)
    monkeypatch.syspath_prepend(tmp_path)
    context = multiprocessing.get_context('forkserver')  # a process that has torch already starts in milliseconds
    context.set_forkserver_preload(['crossmodal_nb.datasets.recipe1m'])
    kills, visited = 0, 0
    while kills < 10:
        p = context.Process(target=importlib.import_module('killed').run, args=(root / 'layer1.json',))
        p.start()

        def n():
            return len(list(work.glob('*.part/*.arrow'))) if work.exists() else 0

        while n() <= visited and p.is_alive():
            time.sleep(0.002)
        if not p.is_alive():
            break
        time.sleep(luck.random() * 0.08)
        p.kill()
        p.join()
        kills += 1
        visited = n()
        assert not [
            f for f in work.iterdir() if f.is_dir() and not f.name.endswith('.part')
        ]  # nothing is taken for whole
    assert kills == 10, p.exitcode
    assert bytes_of(imported(root / 'layer1.json', 'recipes').folder) == undisturbed


def test_a_file_that_changes_under_way_is_begun_anew(own, work, monkeypatch):
    monkeypatch.setattr(recipe1m_import, 'shard', 64)

    calls = []

    def dies(path, batch):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(path, batch)

    write = recipe1m_import._write
    monkeypatch.setattr(recipe1m_import, '_write', dies)
    with pytest.raises(KeyboardInterrupt):
        imported(own / 'layer1.json', 'recipes')
    monkeypatch.setattr(recipe1m_import, '_write', write)
    edit(own / 'layer1.json', lambda x: x[0].update(title='Another'))
    t = imported(own / 'layer1.json', 'recipes')
    assert t.get('title', 0) == 'Another' and len(t) == 400


# what is wrong


def wrong(x, i, **changes):
    x[i].update(changes)


def without(x, i, key):
    x[i].pop(key)


@pytest.mark.parametrize(
    'file, change, says',
    [
        ('layer1.json', lambda x: without(x, 7, 'id'), r"layer1.json, record 7: no 'id'"),
        ('layer1.json', lambda x: without(x, 7, 'title'), r"record 7 \(id '\w+'\): no 'title'"),
        ('layer1.json', lambda x: wrong(x, 9, id=x[3]['id']), r"the id '\w+' is in records 3, 9"),
        (
            'layer1.json',
            lambda x: wrong(x, 5, partition='trian'),
            r"record 5 .*no partition 'trian'; did you mean 'train'",
        ),
        ('layer1.json', lambda x: wrong(x, 5, title=None), r'record 5 .*title is null'),
        ('layer1.json', lambda x: wrong(x, 5, title=12), r'record 5 '),
        ('layer1.json', lambda x: wrong(x, 5, ingredients='salt'), r'record 5 '),
        ('layer1.json', lambda x: wrong(x, 5, title='\ud800'), r'record 5 '),
        ('layer1.json', lambda x: wrong(x, 5, id='../x'), r"record 5 .*id is not a plain name: '../x'"),
        ('layer1.json', lambda x: x.insert(3, 'what?'), r'record 3: '),
        ('layer1.json', lambda x: x.clear(), 'the list is empty'),
        (
            'layer2.json',
            lambda x: wrong(x, 2, id='ffffffffff'),
            r'layer2.json: 1 ids are not in layer1.json: ffffffffff',
        ),
        (
            'layer2.json',
            lambda x: wrong(x, 2, images=[dict(id='../../etc/passwd')]),
            r'record 2 .*images is not a plain name',
        ),
        (
            'layer2.json',
            lambda x: wrong(x, 2, images=[dict(id='/etc/passwd')]),
            r'record 2 .*images is not a plain name',
        ),
        ('det_ingrs.json', lambda x: wrong(x, 4, valid=[True]), r'record 4 .*marks'),
        (
            'recipes_with_nutritional_info.json',
            lambda x: x[1]['nutr_values_per100g'].update(fat=float('nan')),
            r'record 1 .*NaN',
        ),
    ],
)
def test_what_is_wrong_is_named(own, work, file, change, says):
    edit(own / file, change)
    with pytest.raises(InputError, match=says):
        recipe1m(own, nutrition=True)
    if 'records' not in says:
        return
    assert not [
        f for f in work.iterdir() if f.name.startswith('recipes-') and f.is_dir() and not f.name.endswith('.part')
    ]


def test_truncated_and_mixed_encodings(own, work):
    full = (own / 'layer1.json').read_bytes()
    (own / 'layer1.json').write_bytes(full[: len(full) // 2])
    with pytest.raises(InputError, match=r'layer1.json, record \d+, byte \d+: .*truncated'):
        recipe1m(own)
    offset = full.index(b'Salad') if b'Salad' in full else 900
    (own / 'layer1.json').write_bytes(full[:offset] + b'\xe9\xff' + full[offset:])
    with pytest.raises(InputError, match=rf'layer1.json, byte {offset}: not UTF-8'):
        recipe1m(own)
    (own / 'layer1.json').write_bytes(full)
    assert len(recipe1m(own)['train']['title'])


def test_a_string_of_100_mb(own, work):
    with open(own / 'layer1.json', 'w') as f:
        f.write('[{"id": "a", "title": "')
        f.write('x' * 100_000_000)
        f.write('"}]')
    with pytest.raises(InputError, match=r'record 0, byte 1: an element of more than 64 MB'):
        recipe1m(own)


def test_absent_files(own, work):
    (own / 'det_ingrs.json').unlink()
    with pytest.raises(MissingError, match='the official filter needs it'):
        recipe1m(own)
    assert len(recipe1m(own, select='with_image')['train']['image'])
    (own / 'layer2.json').unlink()
    with pytest.raises(MissingError, match='choose images="none"'):
        recipe1m(own, select='all')
    (own / 'layer1.json').unlink()
    with pytest.raises(MissingError, match='layer1.json'):
        recipe1m(own, select='all', images='none')


# any damage at all

tiny = snapshot(lambda root: lookalike.make(root, 12))


@fuzz
@given(damaged(tiny))
def test_any_damage(files):
    with tempfile.TemporaryDirectory() as d, contextlib.chdir(d), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        (Path(d) / 'settings.ini').write_text('[crossmodal]')
        (Path(d) / 'outside.txt').write_text('not yours')
        root = put(Path(d) / 'set', files)
        for options in (dict(select='filtered'), dict(select='all', nutrition=True)):
            try:
                sound_views(recipe1m(root, images='none', **options), root)
            except InputError as e:
                assert str(e).strip() and len(str(e)) < 5000
        for f in (Path(d) / 'work' / 'imports').glob('*/'):  # whatever is left, is whole
            t = Table(f)
            assert not f.name.endswith('.part') and all(len(t.column(c)) == len(t) for c in t.columns)
