"""Damaged files. Whatever was done to a file, a loader reads it or says what is wrong with it (`InputError`): nothing
else escapes, and nothing half-made is left behind.

    CROSSMODAL_FUZZ=1000 python -m pytest tests/test_fuzz.py          examples a loader (default 100, always the same)
"""

import contextlib
import importlib
import io
import json
import multiprocessing
import os
import pickle
import signal
import struct
import tarfile
import tempfile
import warnings
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import test_datasets as sound
import test_gaze as gazed
import test_own_data as own
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.core.fetch import unpack
from crossmodal_nb.data.folder_reader import read_folder
from crossmodal_nb.data.pickles import unpickled
from crossmodal_nb.data.readers import _limit
from crossmodal_nb.datasets import load
from crossmodal_nb.datasets.flowgraphs import boxes

# ================================================================ for every loader: import these
#
#     files = snapshot(make)                             # {name: bytes} of a small sound folder; make(root) writes it
#
#     @fuzz
#     @given(damaged(files))                             # the same folder with one to three things wrong
#     def test_my_loader(hurt): reads_or_says(lambda root: load('mine', root), hurt)

fuzz = settings(
    max_examples=int(os.environ.get('CROSSMODAL_FUZZ', 100)),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)

pictures = ('.jpg', '.png')
odd_bytes = [
    b'\x00',
    b'\xff',
    b'\xed\xa0\x80',
    b'"',
    b"'",
    b',',
    b'\n',
    b'\r\n',
    b'\t',
    b'|',
    b'#',
    b'../',
    b'{',
    b']',
    b'---\n',
    b'!!int ',
    b'&a *a',
    b'\xef\xbb\xbf',
    b'\x1c',
    '\u2028'.encode(),
    b'9' * 5000,
    b'x' * 200_000,
    b'[' * 100_000,
    b'\\ud800',
    b'1e999',
    b'-',
]
odd_values = [
    None,
    True,
    0,
    -1,
    3.5,
    10**30,
    1e308,
    float('nan'),
    '',
    ' ',
    'x' * 200_000,
    '../../outside.txt',
    '/etc/passwd',
    'a\x00b',
    '\ud800',
    '\n',
    '..',
    'a.jpg',
    'naïve',
    [],
    {},
    [[]],
    {'id': 1},
    [None, 1],
    ['a', 'b'],
    10**5000,
]
odd_files = ['absent', 'empty', 'folder', 'link outside', 'dangling link', 'link to itself', 'link to a device']


class Files(dict):
    "{name: bytes, or what is in its place}; shows only what was changed"

    def __init__(self, files):
        super().__init__(files)
        self.sound = dict(files)

    def __repr__(self):
        return str({k: v[:300] for k, v in self.items() if v != self.sound.get(k)})


def snapshot(make):
    "{name: bytes} of what `make(root)` writes"
    with tempfile.TemporaryDirectory() as d:
        make(root := Path(d))
        return Files({str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob('*')) if p.is_file()})


@st.composite
def damaged(draw, files, at_most=3):
    "`files` with one to `at_most` damages; a value is bytes, or the name of something that is not a file"
    files = Files(files)
    notes = [f for f in files if not f.endswith(pictures)]
    for _ in range(draw(st.integers(1, at_most))):
        f = draw(st.sampled_from(notes * 4 + list(files)))
        if isinstance(files[f], str):
            continue
        kinds = [broken_bytes, broken_bytes, broken_lines, broken_file] + [broken_json] * 4 * f.endswith(
            ('.json', '.jsonl')
        )
        files[f] = draw(st.sampled_from(kinds))(draw, files[f])
    return files


def broken_file(draw, data):
    return draw(st.sampled_from(odd_files))


def broken_bytes(draw, data):
    """Cut, flip, insert, delete, repeat; half of the time near the beginning of a page of 4,096 bytes, where the
    structure is
    """
    n = len(data)
    i = (
        draw(st.integers(0, n))
        if draw(st.booleans())
        else min(n, 4096 * draw(st.integers(0, n // 4096)) + draw(st.integers(0, 64)))
    )
    j = min(n, i + draw(st.sampled_from([1, 2, 8, 100, 4096])))
    how = draw(st.sampled_from(['cut', 'flip', 'insert', 'delete', 'repeat', 'random']))
    if how == 'cut':
        return data[:i]
    if how == 'flip':
        return data[:i] + bytes(255 - b for b in data[i : i + 1]) + data[i + 1 :]
    if how == 'insert':
        return data[:i] + draw(st.sampled_from(odd_bytes)) + data[i:]
    if how == 'delete':
        return data[:i] + data[j:]
    if how == 'repeat':
        return data[:j] + data[i:j] + data[j:]
    junk = draw(st.binary(min_size=1, max_size=12))
    return data[:i] + junk + data[i + len(junk) :]


def broken_lines(draw, data):
    lines = data.split(b'\n')
    i, j = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
    how = draw(st.sampled_from(['drop', 'twice', 'swap', 'odd']))
    if how == 'drop':
        del lines[i]
    elif how == 'twice':
        lines.insert(j, lines[i])
    elif how == 'swap':
        lines[i], lines[j] = lines[j], lines[i]
    else:
        lines[i] = draw(st.sampled_from(odd_bytes))
    return b'\n'.join(lines)


def broken_json(draw, data):
    "Another value or type, a key less, an element twice, two places swapped; other bytes if it is no json any more"
    try:
        full = (
            [json.loads(label) for label in data.split(b'\n') if label.strip()] if b'\n{' in data else json.loads(data)
        )
    except (ValueError, RecursionError):
        return broken_bytes(draw, data)
    position = []

    def walk(x):
        for k in x if isinstance(x, dict) else range(len(x)) if isinstance(x, list) else ():
            position.append((x, k))
            walk(x[k])

    walk(full)
    if not position:
        return b'null'
    (x, k), (y, label) = draw(st.sampled_from(position)), draw(st.sampled_from(position))
    how = draw(st.sampled_from(['value', 'value', 'delete', 'twice', 'copy', 'rename']))
    if how == 'value':
        x[k] = draw(st.sampled_from(odd_values))
    elif how == 'delete':
        del x[k]
    elif how == 'copy':
        x[k] = json.loads(json.dumps(y[label]))
    elif how == 'twice' and isinstance(x, list):
        x.append(x[k])
    elif isinstance(x, dict):
        x[draw(st.sampled_from(['id', 'image', '', '../x', 'ID ', '\ud800']))] = x.pop(k)
    with unlimited_digits():
        return ('\n'.join(map(json.dumps, full)) if b'\n{' in data else json.dumps(full)).encode()


@contextlib.contextmanager
def unlimited_digits():
    import sys

    n = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(n)


def put(root, files):
    "Write `files` into `root`"
    for name, data in files.items():
        p = root / name
        p.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, bytes):
            p.write_bytes(data)
        elif data == 'empty':
            p.write_bytes(b'')
        elif data == 'folder':
            p.mkdir()
        elif data != 'absent':
            p.symlink_to(
                {
                    'link outside': root.parent / 'outside.txt',
                    'dangling link': root / 'nowhere',
                    'link to itself': p,
                    'link to a device': '/dev/zero',
                }[data]
            )
    return root


def reads_or_says(read, files):
    """Does `read(root)` return sound views of `files`, or raise an InputError? Anything else fails. True when it
    returned
    """
    with tempfile.TemporaryDirectory() as d, contextlib.chdir(d), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        (Path(d) / 'settings.ini').write_text('[crossmodal]\n')
        (Path(d) / 'outside.txt').write_text('not yours')
        root = put(Path(d) / 'set', files)
        try:
            splits = read(root)
        except InputError as e:
            assert str(e).strip() and len(str(e)) < 5000
            splits = None
        if isinstance(splits, dict):
            sound_views(splits, root)
        produced = [p for p in (Path(d) / 'work').rglob('*') if p.is_dir() and p.parent.name == 'imports']
        assert not [p for p in produced if p.name.endswith('.part')] and (splits is not None or not produced), (
            f'left behind: {produced}'
        )
        return splits is not None


def sound_views(splits, root):
    items = [{i for v in views.values() for i in v.item.tolist()} for views in splits.values()]
    assert sum(map(len, items)) == len(set().union(*items))  # no item in two splits
    for v in (v for views in splits.values() for v in views.values()):
        assert len(v.x) == len(v.ids) == len(v.item) and (v.y is None or len(v.y) == len(v.ids))
        '\n'.join(v.ids).encode()
        if hasattr(v.x, 'paths'):
            inside = (root, root.parent / 'work' / 'imports')
            assert all(any(Path(os.path.normpath(p)).is_relative_to(d) for d in inside) for p in v.x.paths)
        elif isinstance(v.x, list):
            '\n'.join(v.x).encode()


class Sandbox:
    "`base.isolated` for thousands of calls: one process, which forks for each"

    def __init__(self):
        context = multiprocessing.get_context('spawn')
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()

    def isolated(self, f, path, *args, memory=2**32):
        self.pipe.send((f, path, args))
        kind, value = pickle.loads(self.pipe.recv_bytes())
        if kind == 'ok':
            return value
        if kind == 'says':
            raise InputError(value)
        assert kind == 'died' and value != signal.SIGALRM, f'{path}: {kind} {value}'
        raise InputError(f'{path}: the reader crashed')


def _serve(pipe):
    libraries = ('lmdb', 'scipy.io', 'pandas', 'pyarrow.parquet', 'openpyxl', 'datasets')
    own = ('datasets.recipe1m_lmdb', 'datasets.wikipedia', 'data.archives', 'data.tables')
    for module in (*libraries, *(f'crossmodal_nb.{m}' for m in own)):
        importlib.import_module(module)

    _limit(2**32)
    while True:
        try:
            f, path, args = pipe.recv()
        except EOFError:
            return
        r, w = os.pipe()
        if not (pid := os.fork()):
            signal.alarm(20)
            try:
                out = ('ok', f(path, *args))
            except Exception as e:
                out = ('says', f'{path}: {type(e).__name__} {str(e)[:1000]}')
            with open(w, 'wb') as file:
                file.write(pickle.dumps(out))
            os._exit(0)
        os.close(w)
        with open(r, 'rb') as file:
            out = file.read()
        died = os.waitpid(pid, 0)[1]
        pipe.send_bytes(pickle.dumps(('died', died & 127)) if died else out)


@pytest.fixture(scope='module')
def sandbox():
    s = Sandbox()
    with pytest.MonkeyPatch.context() as m:
        for module in ('wikipedia', 'recipe1m_lmdb'):
            m.setattr(f'crossmodal_nb.datasets.{module}.isolated', s.isolated)
        for module in ('tables', 'archives'):
            m.setattr(f'crossmodal_nb.data.{module}.isolated', s.isolated)
        yield s
    s.process.terminate()


# ================================================================ captions
layouts = dict(
    tokens=sound.flickr,
    captions_txt=sound.kaggle,
    results_csv=sound.flickr30k,
    tsv=sound.tsv,
    jsonl=sound.jsonl,
    karpathy=sound.karpathy,
    folder=sound.folder,
)


@pytest.mark.parametrize('layout', layouts)
def test_captions(layout):
    @fuzz
    @given(damaged(snapshot(layouts[layout])))
    def run(hurt):
        reads_or_says(lambda root: load('flickr8k' if layout == 'tokens' else 'captions', root), hurt)

    run()


@st.composite
def tables(draw):
    "Rows of any json at all, with names that readers care about"
    value = st.one_of(st.sampled_from(odd_values), st.text(max_size=9), st.sampled_from(sound.NAMES))
    name = st.sampled_from(
        ['image', 'text', 'caption', 'split', 'group', 'label', 'where', 'sentences', 'title', '../x', '']
    )
    with unlimited_digits():
        return '\n'.join(
            json.dumps(draw(st.dictionaries(name, value, max_size=4))) for _ in range(draw(st.integers(1, 4)))
        ).encode()


def test_any_jsonl():
    photos = {f: b for f, b in snapshot(sound.jsonl).items() if f.endswith('.jpg')}

    @fuzz
    @given(tables())
    def run(table):
        reads_or_says(lambda root: load('captions', root), photos | {'pairs.jsonl': table})

    run()


# ================================================================ data of other people
own_layouts = {k: make for k, make in layouts.items() if k != 'tokens'} | dict(
    metadata=own.metadata_of_splits,
    coco=own.coco,
    excel=own.excel,
    arrays=own.arrays,
    tar=own.shards,
    zip=own.zipped,
    parquet=own.embedded,
    saved=own.saved,
)


@pytest.mark.parametrize('layout', own_layouts)
def test_own_folder(layout, sandbox):
    files = snapshot(own_layouts[layout])
    assert reads_or_says(lambda root: read_folder(root)[0], files)

    @fuzz
    @given(damaged(files))
    def run(hurt):
        reads_or_says(lambda root: read_folder(root)[0], hurt)

    run()


def test_any_own_jsonl():
    photos = {f: b for f, b in snapshot(sound.jsonl).items() if f.endswith('.jpg')}

    @fuzz
    @given(tables())
    def run(table):
        reads_or_says(lambda root: read_folder(root)[0], photos | {'pairs.jsonl': table})

    run()


def coco(root):
    combined = []
    for part, ids in (('train2014', range(1, 9)), ('val2014', range(9, 13))):
        images = [dict(id=i, file_name=f'COCO_{part}_{i:012d}.jpg', height=8, width=8) for i in ids]
        sound.photos(root / part, [im['file_name'] for im in images])
        notes = [
            dict(id=9 * im['id'] + k, image_id=im['id'], caption=f'caption {k} of {im["id"]}')
            for im in images
            for k in range(2)
        ]
        (root / 'annotations').mkdir(exist_ok=True)
        (root / 'annotations' / f'captions_{part}.json').write_text(
            json.dumps(dict(info={}, images=images, annotations=notes))
        )
        fixations = [dict(id=i, image_id=i, worker_id=1, fixations=[[1, 2]]) for i in ids]
        (root / 'annotations' / f'fixations_{part}.json').write_text(
            json.dumps(dict(annotations=fixations, images=images[:3], type='fixations'))
        )
        combined += [
            dict(
                filename=im['file_name'],
                split=('train', 'restval', 'val', 'test')[sum(im['id'] > k for k in (8, 9, 11))],
            )
            for im in images
        ]
    (root / 'dataset_coco.json').write_text(json.dumps(dict(images=combined)))


@pytest.mark.parametrize('split', ['karpathy', '2014', 'salicon'])
def test_coco(split):
    files = {
        f: b
        for f, b in snapshot(coco).items()
        if ('fixations' in f) <= (split == 'salicon') and ('dataset' in f) <= (split == 'karpathy')
    }
    assert reads_or_says(lambda root: load('coco', root, split=split), files)

    @fuzz
    @given(damaged(files), st.sampled_from([0.0, 0.2]))
    def run(hurt, missing):
        reads_or_says(lambda root: load('coco', root, split=split, missing=missing), hurt)

    run()


# ================================================================ gaze
gaze = dict(didec=partial(gazed.didec, n=12), osie=gazed.osie, salicon=gazed.salicon, gaze=gazed.own)


def with_maps(name, root, **options):
    "The views, after every map was drawn"
    splits = load(name, root, **options)
    for views in splits.values():
        assert views['gaze'].ids == views['image'].ids
        for m in views['gaze'].x[range(len(views['gaze']))]:
            assert m.ndim == 2 and m.dtype == np.float32 and np.isfinite(m).all() and 0 <= m.min() and m.max() <= 1
    return splits


@pytest.mark.parametrize('name', gaze)
def test_gaze(name):
    files, few = snapshot(gaze[name]), {} if name == 'gaze' else dict(sigma=1.0)
    assert reads_or_says(lambda root: with_maps(name, root, **few), files)

    @fuzz
    @given(damaged(files))
    def run(hurt):
        reads_or_says(lambda root: with_maps(name, root, **few), hurt)

    run()


def first(part, **values):
    return lambda d: d[part][0].update(values)


def unseen(**values):
    return lambda d: (d['images'][0].update(values), d['annotations'].pop(0))


@pytest.mark.filterwarnings('ignore:coco')
@pytest.mark.parametrize(
    'change',
    [
        first('images', height=10**10),
        unseen(height=-5),
        unseen(width=0),
        first('annotations', fixations=[[10**400, 1]]),
        first('annotations', fixations=[[True, 'x']]),
        first('annotations', fixations=[[float('nan'), 1]]),
    ],
    ids='huge negative flat beyond words nan'.split(),
)
def test_salicon_frames(change, tmp_path):
    sound.notes(gazed.salicon(tmp_path), change, kind='fixations')
    with pytest.raises(InputError, match='fixations_train2014'):
        with_maps('salicon', tmp_path)


@pytest.mark.parametrize('name', ['../stimuli/1.jpg', 'ABSOLUTE', 'a\x00b', 'x' * 300, '', '.', 'stimuli\\1.jpg'])
def test_osie_names(name, tmp_path):
    import scipy.io

    gazed.osie(tmp_path)
    sound.photos(tmp_path, ['outside.jpg'])
    name = str(tmp_path / 'outside.jpg') if name == 'ABSOLUTE' else name
    viewers = np.array([(np.array([1.0]), np.array([2.0]))] * 2, dtype=[('fix_x', object), ('fix_y', object)])
    table = np.array([(n, viewers) for n in (name, '2.jpg', '3.jpg')], dtype=[('img', object), ('subjects', object)])
    scipy.io.savemat(tmp_path / 'fixations.mat', dict(fixations=table))
    with pytest.raises(InputError, match='fixations.mat'):
        load('osie', tmp_path)


# ================================================================ arrays
def arrays(root):
    sound.make_arrays(root, n=12)
    (root / 'split.txt').write_text('\n'.join(['train'] * 7 + ['valid'] * 2 + ['test'] * 3))


def arrays_by_folder(root):
    for s in ('train', 'test'):
        sound.make_arrays(root / s, n=6)
        np.save(root / s / 'labels.npy', np.eye(3)[np.arange(6) % 3])


def arrays_of_odd_types(root):
    for i, kind in enumerate(('>f8', 'f2', 'g', '>i2', 'u8', '?')):
        rows = np.arange(48).reshape(12, 4) if kind != '?' else np.arange(12)[:, None] >> np.arange(4) & 1
        np.save(root / f'v{i}.npy', rows.astype(kind))
    (root / 'ids.txt').write_text('\n'.join('abcdefghijkl'))


some_arrays = snapshot(arrays)


@pytest.mark.parametrize('make', [arrays, arrays_by_folder, arrays_of_odd_types])
def test_arrays(make):
    assert reads_or_says(lambda root: load('arrays', root), snapshot(make))

    @fuzz
    @given(damaged(snapshot(make)))
    def run(hurt):
        reads_or_says(lambda root: load('arrays', root), hurt)

    run()


@fuzz
@given(
    st.sampled_from(['<f4', '>f8', '<c8', '<U2', '|O', '<M8[s]', 'i4,f4', '<f16', '<u8', '|b1', '|V0', '(2,)<f4']),
    st.one_of(
        st.just((6, 2)), st.tuples(st.integers(-3, 2**62), st.integers(-3, 2**62)), st.just((2**62,) * 3), st.just(())
    ),
    st.binary(max_size=96),
)
def test_any_npy(kind, shape, data):
    head = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    bad = b'\x93NUMPY\x01\x00' + struct.pack('<H', len(head)) + head + data
    reads_or_says(lambda root: load('arrays', root), some_arrays | {'title.npy': bad})


# ================================================================ recipe pages
def pages(root):
    (root / 'content').mkdir()
    sound.photos(root / 'images', [f'r{i}.jpg' for i in range(8)])
    for i in range(10):
        (root / 'content' / f'r{i}.md').write_text(
            f'---\ntitle: "Dish {chr(97 + i)}"\ntags: [t, "u"]\ndate: 2021-03-04\n---\n![x](/pix/r{i}.webp)\n'
            f'## Ingredients\n- salt {i}\n- [oil](/oil)\n## Directions\n1. Stir {i}\n'
        )


some_pages = snapshot(pages)


@pytest.mark.parametrize('photos', [True, False])
def test_recipe_pages(photos):
    @fuzz
    @given(damaged(snapshot(pages)))
    def run(hurt):
        reads_or_says(lambda root: load('public_domain_recipes', root, photos=photos, label='tags'), hurt)

    run()


@fuzz
@given(
    st.sampled_from(
        [
            '!!int ""',
            '!!bool x',
            '!!timestamp x',
            '2021-99-99',
            '*a',
            '&a [*a]',
            '{a: b}',
            '[' * 2000,
            '"\\UFFFFFFFF"',
            '"\\ud800"',
            '!!python/name:os.system',
            '!!python/object/apply:os.system ["echo gotcha"]',
            'null',
            '7',
            '? x',
            '<<: *a',
            '%TAG',
            '"\\x00"',
            '|',
            '>-',
        ]
    ),
    st.sampled_from(['title', 'tags']),
)
def test_any_yaml_head(value, key):
    text = '---\ntitle: Tea\ntags: []\n---\n## Ingredients\n- tea\n## Directions\n- brew\n'
    old = {'title': 'title: Tea', 'tags': 'tags: []'}[key]
    reads_or_says(
        lambda root: load('public_domain_recipes', root, photos=False),
        some_pages | {'content/bad.md': text.replace(old, f'{key}: {value}').encode()},
    )


# ================================================================ flow graphs
def flow(root):
    (root / 'photos').mkdir()
    for i in range(4):
        tokens, names = ['Chop', 'the', 'onion', '.'], [f'photos/r{i}-{k}.png' for k in range(2)]
        for p in names:
            Image.new('RGB', (20, 10), (60 * i, 9, 9)).save(root / p)
        r = dict(
            recipe_id=f'r{i}',
            lang='en',
            steps=[
                dict(step=1, text='Chop the onion.', tokens=tokens, images=names),
                dict(step=2, text='Serve.', tokens=['Serve', '.'], images=[]),
            ],
            entities=[
                dict(id='e1', step=1, start=2, end=3, tag='F', surface='onion'),
                dict(id='e2', step=2, start=0, end=1, tag='Ac', surface='Serve'),
            ],
            edges=[dict(src='e1', dst='e2', label='Targ')],
            boxes=[dict(image=names[0], xyxy=[1, 2, 8, 9.5], entity_id='e1', attribute='doing')],
        )
        (root / f'r{i}.json').write_text(json.dumps(r if i else [r]))


def test_flowgraphs():
    assert reads_or_says(lambda root: load('flowgraphs', root), snapshot(flow))

    @fuzz
    @given(damaged(snapshot(flow)))
    def run(hurt):
        reads_or_says(lambda root: boxes(root) and load('flowgraphs', root), hurt)

    run()


# ================================================================ .mat
def wikipedia(root, **how):
    import scipy.io

    g = np.random.default_rng(0)
    scipy.io.savemat(
        root / 'raw_features.mat',
        dict(I_tr=g.random((12, 4)), T_tr=g.random((12, 3)), I_te=g.random((5, 4)), T_te=g.random((5, 3))),
        **how,
    )
    for s, n in (('train', 12), ('test', 5)):
        (root / f'{s}set_txt_img_cat.list').write_text(''.join(f'{s}t{i}\t{s}i{i}\t{i % 3 + 1}\n' for i in range(n)))
    (root / 'categories.list').write_text('\n'.join('abc'))


@pytest.mark.parametrize(
    'how', [{}, dict(do_compression=True), dict(format='4')], ids=['plain', 'compressed', 'format 4']
)
def test_wikipedia(how, sandbox):
    files = snapshot(lambda root: wikipedia(root, **how))
    assert reads_or_says(lambda root: load('wikipedia', root), files)

    @fuzz
    @given(damaged(files))
    def run(hurt):
        reads_or_says(lambda root: load('wikipedia', root), hurt)

    run()


@pytest.mark.parametrize(
    'value',
    [
        np.eye(12, 4) * 1j,
        np.eye(12, 4, dtype=object),
        np.array([['a'] * 4] * 12),
        np.zeros((12, 2, 2)),
        np.zeros((0, 4)),
        np.full((12, 4), np.nan),
        np.full((12, 4), 1e300),
        {'a': 1},
        'sparse',
    ],
    ids='complex cells words cube empty nan huge struct sparse'.split(),
)
def test_a_matrix_of_another_kind(value, tmp_path, sandbox):
    import scipy.io
    import scipy.sparse

    wikipedia(tmp_path)
    x = scipy.io.loadmat(tmp_path / 'raw_features.mat')
    scipy.io.savemat(
        tmp_path / 'raw_features.mat',
        {k: v for k, v in x.items() if k[0] != '_'}
        | dict(I_tr=scipy.sparse.eye(12, 4) if isinstance(value, str) else value),
    )
    with pytest.raises(InputError, match='I_tr is|NaN or Inf'):
        load('wikipedia', tmp_path)


# ================================================================ LMDB and pickles
def record(g, i):
    return dict(
        ingrs=g.integers(1, 99, 20).astype('uint16'),
        intrs=g.random((2, 1024), dtype='float32'),
        classes=i % 4,
        imgs=[dict(id=f'{i:010x}.jpg', url='u')],
    )


def records(protocol):
    "{'train/0000000001': pickle, …, 'train_keys.pkl': pickle}"
    g, out = np.random.default_rng(0), {}
    for part, ids in (('train', range(6)), ('val', range(6, 8)), ('test', range(8, 10))):
        out |= {f'{part}/{i:010x}': pickle.dumps(record(g, i), protocol) for i in ids}
        out[f'{part}_keys.pkl'] = pickle.dumps([f'{i:010x}' for i in ids], protocol)
    return out


def packed(root, entries):
    "The release: entries into databases, the rest beside them"
    import lmdb

    for part in ('train', 'val', 'test'):
        with lmdb.open(str(root / f'{part}_lmdb'), map_size=2**24, sync=False) as env, env.begin(write=True) as txn:
            for k, v in entries.items():
                if k.startswith(f'{part}/') and isinstance(v, bytes):
                    txn.put(k.split('/')[1].encode(), v)
        (root / f'{part}_lmdb' / 'lock.mdb').unlink()
    return put(root, {k: v for k, v in entries.items() if '/' not in k})


def release(root):
    packed(root, records(2))


@pytest.mark.parametrize('protocol', range(6))
def test_every_protocol_reads(protocol, sandbox, tmp_path, monkeypatch):
    (tmp_path / 'settings.ini').write_text('[crossmodal]\n')
    (tmp_path / 'set').mkdir()
    monkeypatch.chdir(tmp_path)
    packed(tmp_path / 'set', records(protocol))
    with pytest.warns(UserWarning, match='officially'):
        s = load('recipe1m_lmdb', tmp_path / 'set')
    g = np.random.default_rng(0)
    r = [record(g, i) for i in range(10)]
    assert [v['instructions'].x.shape[0] for v in s.values()] == [6, 2, 2] and s['train'][
        'instructions'
    ].y.tolist() == [-1, 0, 1, 2, -1, 0]
    assert (
        np.allclose(s['test']['instructions'].x[1], r[9]['intrs'].mean(0), atol=1e-6)
        and s['valid']['ingredients'].x[0].tolist() == r[6]['ingrs'].tolist()
    )


def test_damaged_databases(sandbox):
    files = snapshot(release)
    assert reads_or_says(lambda root: load('recipe1m_lmdb', root), files)

    @fuzz
    @given(damaged(files))
    def run(hurt):
        reads_or_says(lambda root: load('recipe1m_lmdb', root), hurt)

    run()


def test_damaged_records_in_sound_databases(sandbox):
    @fuzz
    @given(st.integers(0, 5).flatmap(lambda protocol: damaged(records(protocol))))
    def run(hurt):
        with tempfile.TemporaryDirectory() as d:
            packed(Path(d), hurt)
            files = snapshot_links(Path(d))
        reads_or_says(
            lambda root: load('recipe1m_lmdb', root), files | {k: v for k, v in hurt.items() if k.endswith('.pkl')}
        )

    run()


def snapshot_links(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob('data.mdb')}


def only_says(data):
    try:
        return unpickled(data, 'x')
    except InputError:
        return None


@fuzz
@given(
    st.integers(0, 5).flatmap(
        lambda p: damaged(
            {f'{p}': pickle.dumps(record(np.random.default_rng(0), 1) | dict(more=[1, 2.5, None, (True, b'x')]), p)},
            at_most=4,
        )
    )
)
def test_damaged_pickles(hurt):
    for data in hurt.values():
        if isinstance(data, bytes):
            only_says(data)


codes = [
    getattr(pickle, n) for n in dir(pickle) if isinstance(getattr(pickle, n), bytes) and len(getattr(pickle, n)) == 1
]
words = [
    b'cnumpy\nndarray\n',
    b'cnumpy\ndtype\n',
    b'cnumpy.core.multiarray\n_reconstruct\n',
    b'cos\nsystem\n',
    b'c__builtin__\neval\n',
    b'cnumpy._core.multiarray\nscalar\n',
    b'\x8c\x05numpy\x8c\x05dtype\x93',
    b'\x8c\x02f4',
    b'K\x03',
    b'(',
    b')',
    b'\x85',
    b'\x86',
    b'q\x00',
    b'h\x00',
    b'j\xff\xff\xff\xff',
    b'r\xff\xff\xff\x7f',
    b'\x8e' + b'\xff' * 8,
    b'\x96' + b'\xff' * 8,
    b'\x8b\xff\xff\xff\x7f',
    b'\x95' + b'\x10' * 8,
    b'I99\n',
    b"S'u2'\n",
    b'N',
    b'}',
    b']',
    b'b',
    b'R',
    b's',
    b'u',
    b'.',
    b'I' + b'9' * 5000 + b'\n',
    b'K\x01\x8a\x01\x05',
]


@fuzz
@given(st.lists(st.one_of(st.sampled_from(codes), st.sampled_from(words), st.binary(max_size=3)), max_size=60))
def test_any_pickle_program(program):
    import sys

    previous = set(sys.modules)
    only_says(b'\x80\x02' + b''.join(program) + b'.')
    imported = {m for m in set(sys.modules) - previous if not m.startswith('encodings.')}  # Python's own, to read text
    assert not imported


class Runs:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize(
    'hostile',
    [
        Runs(os.system, ('touch gotcha',)),
        Runs(eval, ('1',)),
        Runs(__import__, ('antigravity',)),
        Runs(getattr, ('a', 'upper')),
        [Runs(os.remove, ('x',))],
        dict(intrs=Runs(np.load, ('x',))),
        np.array([Runs(eval, ('1',))], dtype=object),
        io.StringIO,
        Runs(np.frombuffer, (b'abcd',)),
    ],
)
def test_hostile_pickles(hostile, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match='none of it was run'):
        unpickled(pickle.dumps(hostile, protocol), 'x')
    assert not list(tmp_path.iterdir())


def test_a_deep_pickle_and_a_large_promise():
    n = 3 * 10**5
    only_says(b'(' * n + b't' * n + b'.')
    only_says(b')' + b'\x85' * n + b'.')
    assert only_says(b'}' + b')' + b'\x85' * n + b'K\x01s.') is None  # as a key: to hash it would overflow the stack
    for promise in (b'\x8e', b'\x96', b'\x8d'):
        assert only_says(b'\x80\x05' + promise + struct.pack('<Q', 2**62) + b'abc.') is None
    array = (
        b'\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00'
        b'\x85U\x01b\x87R(K\x01J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86'
        b'cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00'
        b'tb\x89U\x08abcdefghtb.'
    )
    with pytest.raises(InputError, match='reshape|array'):
        unpickled(array, 'x')


def test_what_python_2_wrote():
    "Protocol 0, by numpy 1 under Python 2: bytes are texts, as 8-bit characters"
    array = (
        "cnumpy.core.multiarray\n_reconstruct\np1\n(cnumpy\nndarray\np2\n(I0\ntp3\nS'b'\np4\ntp5\n"
        "Rp6\n(I1\n(I2\nI2\ntp7\ncnumpy\ndtype\np8\n(S'f4'\np9\nI0\nI1\ntp10\nRp11\n"
        "(I3\nS'<'\np12\nNNNI-1\nI-1\nI0\ntp13\nbI00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00@\\x00\\x00"
        "@@\\x00\\x00\\x80\\xbf'\np14\ntp15\nb"
    )
    data = (
        "(dp0\nS'intrs'\np16\n"
        + array
        + "sS'classes'\np17\nI7\nsS'imgs'\np18\n(lp19\n(dp20\nVid\np21\nVa.jpg\np22\nsas."
    ).encode()
    x = unpickled(data, 'x')
    assert x['intrs'].tolist() == [[1, 2], [3, -1]] and x['classes'] == 7 and x['imgs'] == [{'id': 'a.jpg'}]
    binary = (
        b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02i8K\x00K\x01\x87R(K\x03U\x01<NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbU\x08\xff\xff\xff\xff\xff\xff\xff\xff\x86R."
    )
    assert unpickled(binary, 'x') == -1


# ---------------------------------------------------------------- end to end, in a process of its own
@pytest.mark.parametrize('hurt', ['cut', 'pages'])
def test_a_database_that_crashes_its_reader(hurt, tmp_path, monkeypatch):
    (tmp_path / 'settings.ini').write_text('[crossmodal]\n')
    (tmp_path / 'set').mkdir()
    monkeypatch.chdir(tmp_path)
    release(tmp_path / 'set')
    p = tmp_path / 'set' / 'train_lmdb' / 'data.mdb'
    data = p.read_bytes()
    p.write_bytes(data[:9000] if hurt == 'cut' else data[:8192] + b'\x55' * (len(data) - 8192))
    with pytest.raises(InputError, match='crashed|LMDB|damaged'):
        load('recipe1m_lmdb', tmp_path / 'set')
    assert not [p for p in (tmp_path / 'work' / 'imports').iterdir() if p.is_dir()]


def test_a_matrix_larger_than_memory(tmp_path):
    wikipedia(tmp_path)
    p = tmp_path / 'raw_features.mat'
    data = bytearray(p.read_bytes())
    position = data.index(struct.pack('<iii', 5, 8, 12)) + 8
    data[position : position + 8] = struct.pack('<ii', 2**30, 2**20)
    p.write_bytes(data)
    with pytest.raises(InputError, match='raw_features.mat'):
        load('wikipedia', tmp_path)


def test_keys_and_records_must_match(tmp_path, monkeypatch, sandbox):
    (tmp_path / 'settings.ini').write_text('[crossmodal]\n')
    monkeypatch.chdir(tmp_path)
    full = records(4)
    for i, (change, says) in enumerate(
        [
            (
                {'val_keys.pkl': pickle.dumps(['0000000006'])},
                "1 recipes are in the LMDB, but not in the list of keys: '0000000007'",
            ),
            (
                {'val_keys.pkl': pickle.dumps([f'{i:010x}' for i in (6, 7, 77)])},
                "1 recipes are in the list of keys, but not in the LMDB: '000000004d'",
            ),
            ({'val_keys.pkl': pickle.dumps(['0000000006'] * 2)}, 'the same id twice'),
            ({'val_keys.pkl': pickle.dumps(['../x'])}, 'no recipe id'),
            (
                {
                    'val/0000000006': pickle.dumps(
                        pickle.loads(full['val/0000000006']) | dict(intrs=np.zeros((0, 1024), 'f4'))
                    )
                },
                'recipe 0000000006: it has no instructions',
            ),
            (
                {'val/0000000006': pickle.dumps(pickle.loads(full['val/0000000006']) | dict(classes=1049))},
                'class 1049',
            ),
            (
                {
                    'val/0000000006': pickle.dumps(
                        pickle.loads(full['val/0000000006']) | dict(imgs=[dict(id='../../x.jpg')])
                    )
                },
                'not a plain file name',
            ),
        ]
    ):
        (tmp_path / f'{i}').mkdir()
        packed(tmp_path / f'{i}', full | change)
        with pytest.raises(InputError) as e:
            load('recipe1m_lmdb', tmp_path / f'{i}')
        assert says in str(e.value)


def test_a_database_behind_a_link(tmp_path):
    (tmp_path / 'set').mkdir()
    release(tmp_path / 'set')
    (tmp_path / 'set' / 'val_lmdb').rename(tmp_path / 'elsewhere')
    (tmp_path / 'set' / 'val_lmdb').symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(InputError, match='leads out of the folder'):
        load('recipe1m_lmdb', tmp_path / 'set')


# ================================================================ hostile archives
def archive(path, name, kind):
    if path.suffix == '.zip':
        with zipfile.ZipFile(path, 'w') as z:
            z.writestr('fine.txt', 'fine')
            z.writestr(name, 'gotcha')
        return
    with tarfile.open(path, 'w:gz') as t:
        t.addfile(tarfile.TarInfo('fine.txt'))
        member = tarfile.TarInfo(name)
        member.type = kind
        if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            member.linkname = '../outside.txt'
        t.addfile(member)


@pytest.mark.parametrize(
    'file,name,kind',
    [
        ('a.zip', '../escaped.txt', None),
        ('a.zip', 'x/../../escaped.txt', None),
        ('a.zip', '/tmp/crossmodal-escaped.txt', None),
        ('a.tgz', '../escaped.txt', tarfile.REGTYPE),
        ('a.tgz', '/tmp/crossmodal-escaped.txt', tarfile.REGTYPE),
        ('a.tgz', 'link', tarfile.SYMTYPE),
        ('a.tgz', 'link', tarfile.LNKTYPE),
    ],
)
def test_hostile_archives(file, name, kind, tmp_path):
    (tmp_path / 'outside.txt').write_text('not yours')
    archive(tmp_path / file, name, kind)
    with pytest.raises(ValueError, match='the archive is refused'):
        unpack(tmp_path / file, tmp_path / 'out')
    assert (
        not list((tmp_path / 'out').iterdir())
        and not (tmp_path / 'escaped.txt').exists()
        and not Path('/tmp/crossmodal-escaped.txt').exists()
    )


def test_a_zip_member_that_claims_to_be_a_link_becomes_a_file(tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as z:
        link = zipfile.ZipInfo('link')
        link.external_attr = 0o120777 << 16
        z.writestr(link, '../outside.txt')
    unpack(tmp_path / 'a.zip', tmp_path / 'out')
    assert not (tmp_path / 'out' / 'link').is_symlink()
