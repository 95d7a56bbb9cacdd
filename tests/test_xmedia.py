"""The owners' files: made here under their names, in every format, sound and damaged; and the digits of a package.

CROSSMODAL_FUZZ=1000 python -m pytest tests/test_xmedia.py       examples a format (25 unless told)
"""

import importlib.util
import json
import os
import sys

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch
from hypothesis import given, settings
from test_datasets import crossing, well_formed
from test_fuzz import Sandbox, damaged, fuzz, reads_or_says, snapshot

from crossmodal_nb.core.checks import InputError, MissingError
from crossmodal_nb.data.array_files import tables
from crossmodal_nb.datasets import catalogue, data_digest, load, multilabel
from crossmodal_nb.datasets.audit import audit
from crossmodal_nb.datasets.digits import digit_views
from crossmodal_nb.datasets.multilabel import layouts, matrices
from crossmodal_nb.datasets.split_files import joined, read_split, write_split
from crossmodal_nb.datasets.xmedia import info, keys, schemas

hdf5 = pytest.mark.skipif(not importlib.util.find_spec('h5py'), reason='the package h5py is not here')
few = settings(fuzz, max_examples=int(os.environ.get('CROSSMODAL_FUZZ', 25)))
WIDTHS = dict(image=4, text=5, audio=2, video=4, mesh=3)


@pytest.fixture(scope='module')
def sandbox():
    s = Sandbox()
    with pytest.MonkeyPatch.context() as m:
        for module in ('xmedia', 'multilabel'):
            m.setattr(f'crossmodal_nb.datasets.{module}.isolated', s.isolated)
        yield s
    s.process.terminate()


def arrays(name, n=(40, 20), first=1, classes=None, seed=0):
    "Sound arrays of a file; audio has half of the rows of an image"
    g, out, (_, parts, c, views) = np.random.default_rng(seed), {}, schemas[name]
    for p, m in zip(parts, n):
        for v, (f, lab) in views.items():
            k = m // 2 if v == 'audio' else m
            out[f.format(p)] = g.random((k, WIDTHS[v]))
            y = np.arange(k)[:, None] % (classes or c) + first
            shared = lab == lab.format(p) and p != parts[0]
            out[lab.format(p)] = np.concatenate([out[lab.format(p)], y]) if shared else y
    return out


def write(root, name, x, how='mat'):
    stem = schemas[name][0]
    if how == 'npz':
        np.savez(root / f'{stem}.npz', **x)
    elif how == 'each':
        for k in x:
            scipy.io.savemat(root / f'{k}.mat', {k: x[k]})
    elif how == '7.3':
        import h5py

        with h5py.File(root / f'{stem}.mat', 'w', userblock_size=512) as f:
            for k in x:
                f[k] = np.asarray(x[k]).T
        with open(root / f'{stem}.mat', 'r+b') as f:
            f.write(b'MATLAB 7.3 MAT-file'.ljust(124) + b'\x00\x02IM')
    else:
        scipy.io.savemat(root / f'{stem}.mat', x, do_compression=how == 'compressed', format='4' if how == '4' else '5')
    return root


formats = ['mat', 'compressed', '4', 'npz', 'each', pytest.param('7.3', marks=hdf5)]


# ---------------------------------------------------------------- what is sound
@pytest.mark.parametrize('how', formats)
@pytest.mark.parametrize('name', schemas)
def test_every_set_in_every_format(name, how, tmp_path, sandbox):
    x = arrays(name, n=(400, 200) if name == 'birds' else (40, 20))
    write(tmp_path, name, x, how)
    s = load(name, tmp_path)
    well_formed(s)
    assert crossing(s) == [] and list(s['train']) == list(schemas[name][3]) and data_digest(name, tmp_path)
    _, parts, classes, views = schemas[name]
    for v, (f, lab) in views.items():
        rows = sum(len(p[v]) for p in s.values())
        assert rows == sum(len(x[f.format(p)]) for p in parts) and all(
            p[v].x.shape[1] == WIDTHS[v] and 0 <= p[v].y.min() and p[v].y.max() < classes for p in s.values()
        )
        if name != 'birds':
            assert (
                np.allclose(s['test'][v].x, x[f.format(parts[1])].astype('f4'))
                and s['test'][v].y.tolist() == (x[lab.format(parts[1])][-len(s['test'][v]) :].ravel() - 1).tolist()
            )
    i, j, _ = s['train'].pairs('image', 'text')
    assert len(i) == (0 if name.startswith('xmedia') else len(s['train']['image'])) and torch.equal(i, j)


def test_rows_keep_features_and_label_together(tmp_path, sandbox):
    x = arrays('xmedianet', first=0)
    x['I_tr'][:, 0] = x['I_labs'][:40, 0]
    write(tmp_path, 'xmedianet', x)
    s = load('xmedianet', tmp_path)
    for v in (s['train']['image'], s['valid']['image']):
        assert v.x[:, 0].long().tolist() == v.y.tolist() == [int(i.split('/')[1]) for i in v.ids]
    assert s['test']['image'].ids[0] == 'I_labs/40' and s['test']['image'].y.tolist() == list(range(20))


def test_the_split_ignores_the_views(tmp_path, sandbox):
    write(tmp_path, 'xmedia', arrays('xmedia', (200, 40)))
    a, b = load('xmedia', tmp_path), load('xmedia', tmp_path, views=('mesh', 'text'))
    assert (
        list(b['test']) == ['mesh', 'text']
        and all(a[s][v].ids == b[s][v].ids for s in a for v in b[s])
        and 0.05 < len(a['valid']['text']) / 200 < 0.25
    )
    small = {k: x for k, x in arrays('xmedia').items() if 'A_' not in k and 'Aud' not in k}
    write(tmp_path, 'xmedia', small)  # a file without sounds
    assert len(load('xmedia', tmp_path, views=('image', 'text', 'video', 'mesh'))['test']['mesh']) == 20
    for bad in (('image',), ('image', 'image'), ('image', 'sound')):
        with pytest.raises(InputError, match="two to five|no view 'sound'"):
            load('xmedia', tmp_path, views=bad)


@pytest.mark.parametrize('name', ['xmedia', 'xmedianet'])
def test_halves(name, tmp_path, sandbox):
    write(tmp_path, name, arrays(name, (40, 30)))
    a, b, full = (load(name, tmp_path, **o) for o in (dict(half='first'), dict(half='second'), {}))
    for v, m in (('image', 15), ('audio', 7)):
        assert (
            len(a['train'][v]) == (20 if v == 'audio' else 40)
            and a['test'][v].ids == full['test'][v].ids[:m] == b['valid'][v].ids
            and a['valid'][v].ids == b['test'][v].ids
        )
        assert a['test'][v].ids + a['valid'][v].ids == full['test'][v].ids
    with pytest.raises(InputError, match="half of the test rows 'frist'"):
        load(name, tmp_path, half='frist')


def test_birds(tmp_path, sandbox):
    write(tmp_path, 'birds', arrays('birds', (800,)))
    s = load('birds', tmp_path)
    classes = {k: set(v['image'].y.tolist()) for k, v in s.items()}
    assert (
        len(classes['train']) == 150
        and len(classes['test']) == 50
        and not classes['test'] & (classes['train'] | classes['valid'])
    )
    assert len(s['test']['text']) == 200 and all(v['image'].ids == v['text'].ids for v in s.values())
    assert set(load('birds', tmp_path, unseen=[0, 199])['test']['text'].y.tolist()) == {0, 199}
    assert (
        set(load('birds', tmp_path, unseen=30)['test']['text'].y.tolist()) < classes['test']
    )  # fewer by the same hash
    assert (
        len(set(torch.cat([v['image'].y for v in load('birds', tmp_path, zero_shot=False).values()]).tolist())) == 200
    )
    for bad in (0, -3, 200, [200], []):
        with pytest.raises(InputError, match='unseen='):
            load('birds', tmp_path, unseen=bad)


def test_samples_and_audit(tmp_path, sandbox):
    x = arrays('pascal')
    x['test_img'][3] = x['train_img'][5]
    write(tmp_path, 'pascal', x, 'each')
    assert sum(len(v['image']) for v in load('pascal', tmp_path, sample=12).values()) == 12
    assert [(r['view'], r['groups']) for r in audit('pascal', tmp_path) if '+test' in r['splits']] == [
        ('image', 1)
    ]  # told, not dropped


# ---------------------------------------------------------------- what is not
def but(**change):
    return lambda x: {
        k: v for k, v in (x | {k: c(x[k]) if callable(c) else c for k, c in change.items()}).items() if v is not None
    }


def at(i, value):
    return lambda v: np.where(np.arange(v.size).reshape(v.shape) == i, value, v.astype(float))


@pytest.mark.parametrize(
    'change,says',
    [
        (but(d3_te=None), 'no array d3_te; it holds A_te, A_tr, I_te_CNN'),
        (but(teAudCat=None), 'no array teAudCat'),
        (but(trImgCat=lambda v: v[1:]), 'I_tr_CNN has 40 rows, but trImgCat only 39 labels'),
        (but(I_tr_CNN=lambda v: v[1:]), 'trImgCat has 40 labels, but I_…_CNN 39 rows'),
        (but(V_te_CNN=lambda v: v[:, 1:]), 'V_tr_CNN has 4 columns, V_te_CNN has 3'),
        (but(trTxtCat=at(7, 21)), 'trTxtCat has classes 1 to 20, but its number 7 .from 0. is 21'),
        (but(teVidCat=at(0, -1)), 'teVidCat has classes 1 to 20, .* is -1'),
        (but(teVidCat=at(0, 0)), 'classes 0 to 19, .* is 20'),
        (but(trImgCat=at(2, 1.5)), 'trImgCat .* is 1.5'),
        (but(trImgCat=np.eye(40, 20)), r'trImgCat is of shape \(40, 20\); one class per row'),
        (but(A_tr=at(5, np.nan)), 'A_tr: NaN or Inf in 1 of 20 rows: 2'),
        (but(A_tr=at(5, np.inf)), 'A_tr: NaN or Inf'),
        (but(A_tr=at(5, 1e300)), 'A_tr: NaN or Inf'),
        (but(trImgCat=at(0, np.nan)), 'trImgCat: NaN'),
        (but(T_tr_BOW=lambda v: v * 1j), 'T_tr_BOW is complex128'),
        (but(T_tr_BOW=np.array(['a', 'b'])), 'T_tr_BOW is <U1'),
        (but(T_tr_BOW=np.zeros((40, 2, 2))), r'T_tr_BOW is float64 of shape \(40, 2, 2\)'),
        (but(T_tr_BOW=np.zeros((0, 4))), 'T_tr_BOW is float64 of shape'),
        (but(T_tr_BOW=np.array([{}, []], dtype=object)), 'T_tr_BOW is object'),
        (but(T_tr_BOW=scipy.sparse.eye(40, 5)), 'T_tr_BOW is cs[cr]_'),
    ],
)
def test_bad_arrays_are_named(change, says, tmp_path, sandbox):
    write(tmp_path, 'xmedia', dict(sorted(change(arrays('xmedia')).items())))
    with pytest.raises(InputError, match=r'XMediaFeatures\.mat: .*' + says):
        load('xmedia', tmp_path)


@pytest.mark.parametrize(
    'change,says',
    [
        (but(train_img=lambda v: v[:, 0]), r'train_img is of shape \(40,\); a matrix'),
        (but(train_img_lab=np.array([{}] * 40)), 'ValueError.* Object arrays'),
        (but(test_txt=np.float32(3)), r'test_txt is float32 of shape \(\)'),
        (but(test_img=lambda v: v[:9]), 'test_txt has 20 rows|test_img_lab has 20 labels, but …_img 9 rows'),
    ],
)
def test_bad_arrays_of_an_npz_are_named(change, says, tmp_path, sandbox):
    write(tmp_path, 'nuswide', change(arrays('nuswide')), 'npz')
    with pytest.raises(InputError, match=r'nuswide\.npz: .*' + says):
        load('nuswide', tmp_path)


@hdf5
def test_a_newest_matlab_file_stays_inside_itself(tmp_path, monkeypatch):
    import h5py

    write(tmp_path, 'birds', dict(image=np.eye(2)), '7.3')
    p = tmp_path / 'birds.mat'
    with h5py.File(tmp_path / 'other.h5', 'w') as f:
        f['secret'] = np.eye(2)
    with h5py.File(p, 'r+') as f:
        f['link'] = h5py.ExternalLink(str(tmp_path / 'other.h5'), 'secret')
        f.create_group('struct')
        f.create_dataset('raw', (2, 2), 'f8', external=[(str(tmp_path / 'other.h5'), 0, 32)])
        layout = h5py.VirtualLayout((2, 2), 'f8')
        layout[:] = h5py.VirtualSource(str(tmp_path / 'other.h5'), 'secret', (2, 2))
        f.create_virtual_dataset('virtual', layout)
    assert tables(p, ['image'])['image'].tolist() == np.eye(2).tolist()
    for k in ('link', 'struct', 'raw', 'virtual'):
        with pytest.raises(InputError, match=rf'birds\.mat: {k} is a struct, or lies elsewhere'):
            tables(p, [k])
    monkeypatch.setitem(sys.modules, 'h5py', None)
    with pytest.raises(
        InputError, match=r'birds\.mat: a file of MATLAB 7\.3 is read with the package h5py: `pip install h5py`'
    ):
        tables(p, ['image'])


def test_what_is_absent_says_where_to_ask(tmp_path):
    for name in schemas:
        with pytest.raises(MissingError) as e:
            load(name, tmp_path)
        assert (
            all(k in str(e.value) for k in keys(name))
            and f'{tmp_path} holds no {schemas[name][0]}.mat' in str(e.value)
            and '://' not in str(e.value)
        )
    write(tmp_path, 'pascal', arrays('pascal'), 'each')
    (tmp_path / 'test_txt.mat').unlink()
    with pytest.raises(MissingError, match=r'holds no test_txt\.mat'):
        load('pascal', tmp_path)
    assert (
        data_digest('pascal', tmp_path) is None
        and not info['xmedia']['embedded']
        and {r['name'] for r in catalogue()} >= {*schemas, 'digits'}
    )


def test_one_bad_file_of_six_is_named(tmp_path, sandbox):
    write(tmp_path, 'pascal', arrays('pascal'), 'each')
    (tmp_path / 'test_txt.mat').write_bytes(b'MATLAB, but no more')
    with pytest.raises(InputError, match=r'test_txt\.mat: not readable'):
        load('pascal', tmp_path)


def test_end_to_end_in_a_process_of_its_own(tmp_path):
    p = write(tmp_path, 'xmedia', arrays('xmedia')) / 'XMediaFeatures.mat'
    assert len(load('xmedia', tmp_path)['test']['mesh']) == 20
    p.write_bytes(p.read_bytes()[:700])
    with pytest.raises(InputError, match=r'XMediaFeatures\.mat'):
        load('xmedia', tmp_path)


@pytest.mark.parametrize(
    'name,how',
    [
        ('xmedia', 'mat'),
        ('xmedianet', 'compressed'),
        ('pascal', 'each'),
        ('nuswide', 'npz'),
        ('birds', '4'),
        pytest.param('nuswide', '7.3', marks=hdf5),
    ],
)
def test_damaged_files(name, how, sandbox):
    sound = snapshot(lambda root: write(root, name, arrays(name, (30, 10)), how))
    options = dict(unseen=5) if name == 'birds' else {}
    assert reads_or_says(lambda root: load(name, root, **options), sound)

    @few
    @given(damaged(sound))
    def run(hurt):
        reads_or_says(lambda root: load(name, root, **options), hurt)

    run()


# ---------------------------------------------------------------- several labels a row: the sets of hashing
SMALL = dict(queries=20, train=60)


def hashed(n=120, labels=5, seed=0):
    "Pictures (their first number is the row's), words, labels"
    g = np.random.default_rng(seed)
    x, t, y = g.random((n, 7)), 1.0 * (g.random((n, 9)) < 0.4), 1.0 * (g.random((n, labels)) < 0.4)
    x[:, 0], t[:, 0], y[:, 0] = range(n), 1, np.arange(n) % 2
    y[:, 1] = 1 - y[:, 0]
    return x, t, y


def named_as(layout, x, t, y, queries=20):
    parts = [slice(None)] if len(layout) == 1 else [slice(0, queries), slice(queries, None)]
    return {k: v[p] for names, p in zip(layout, parts) for k, v in zip(names, (x, t, y))}


def stored(root, x, how='mat'):
    if how == 'npz':
        np.savez(root / 'all.npz', **x)
    elif how == 'each':
        for k in x:
            scipy.io.savemat(root / f'some-{k}.mat', {k: x[k]})
    elif how == 'mixed':
        for j, k in enumerate(x):
            scipy.io.savemat(root / f'{k}.mat', {k: x[k]}) if j % 2 else np.savez(root / f'{k}.npz', **{k: x[k]})
    elif how in ('7.3', 'h5', 'python'):
        import h5py

        with h5py.File(root / ('all.h5' if how == 'h5' else 'all.mat'), 'w', userblock_size=512 * (how == '7.3')) as f:
            for k in x:
                f[k] = x[k].T if how == '7.3' else x[k]
        if how == '7.3':
            with open(root / 'all.mat', 'r+b') as f:
                f.write(b'MATLAB 7.3 MAT-file'.ljust(124) + b'\x00\x02IM')
    else:
        scipy.io.savemat(root / 'all.mat', x, do_compression=how == 'compressed', format='4' if how == '4' else '5')
    return root


def together(s, x, t, y):
    "Every row still has its own words and labels"
    for v in s.values():
        rows = v['image'].x[:, 0].long()
        assert (
            torch.equal(rows, v['image'].item)
            and torch.equal(rows, v['text'].item)
            and v['image'].ids == v['text'].ids == [str(i) for i in rows.tolist()]
        )
        assert (
            np.array_equal(v['text'].x, t[rows])
            and np.array_equal(v['text'].y, y[rows])
            and np.allclose(v['image'].x, x[rows])
            and torch.equal(v['image'].y, v['text'].y)
        )


@pytest.mark.parametrize(
    'how',
    ['mat', 'compressed', '4', 'npz', 'each', 'mixed', *(pytest.param(h, marks=hdf5) for h in ('7.3', 'h5', 'python'))],
)
@pytest.mark.parametrize('layout', [0, 3, 4, 7])
def test_matrices_in_every_format(layout, how, tmp_path, sandbox):
    x = hashed()
    stored(tmp_path, named_as(layouts[layout], *x), how)
    s = load('mirflickr', tmp_path, train=60, database=True, **({} if layout > 3 else dict(queries=20)))
    together(s, *x)
    assert list(s) == ['train', 'valid', 'test', 'database'] and sorted(
        torch.cat([v['text'].item for v in s.values()]).tolist()
    ) == list(range(120))
    assert (
        len(s['test']['text']) == 20
        and len(s['train']['text']) + len(s['valid']['text']) == 60
        and len(s['valid']['text'])
    )
    if layout > 3:
        assert s['test']['text'].item.tolist() == list(range(20))
    well_formed({k: v for k, v in s.items() if k != 'database'})
    assert data_digest('mirflickr', tmp_path)


@pytest.mark.parametrize('name,seed', [('mirflickr', 6), ('iapr', 8)])
def test_the_split_is_that_of_torchcmh(name, seed, tmp_path, sandbox):
    stored(tmp_path, named_as(layouts[0], *hashed()))
    a = load(name, tmp_path, **SMALL, database=True)
    np.random.seed(seed)
    order = np.random.permutation(120)
    assert a['test']['image'].item.tolist() == sorted(order[:20]) and a['database']['image'].item.tolist() == sorted(
        order[80:]
    )
    assert (
        list(load(name, tmp_path, **SMALL)) == ['train', 'valid', 'test']
        and load(name, tmp_path, seed=1, **SMALL)['test']['text'].ids != a['test']['text'].ids
    )
    assert (
        not set(a['valid']['text'].ids) - set(map(str, order[20:80]))
        and len(joined(*(a[s] for s in ('train', 'valid', 'database')))['text']) == 100
    )
    assert sum(len(v['text']) for v in load(name, tmp_path, sample=12, **SMALL, database=True).values()) == 12
    for bad in (dict(queries=0), dict(train=0), dict(queries=61), dict(seed=-1), dict(queries=None)):
        with pytest.raises(InputError, match=rf'{name}: queries=\d+, train=\d+, seed=-?\d+, with 120 pairs'):
            load(name, tmp_path, **SMALL | bad)


def test_files_on_their_side(tmp_path, sandbox):
    x, t, y = hashed()
    stored(tmp_path, dict(XAll=x, YAll=t.T, LAll=y.T))
    together(load('iapr', tmp_path, **SMALL), x, t, y)  # as one public file lies
    for shapes, says in (
        (((40, 9), (41, 9), (40, 5)), 'XAll is 40 × 9, YAll is 41 × 9, LAll is 40 × 5: there is no number'),
        (((9, 5), (5, 9), (9, 5)), '5 and 9 both could be'),
    ):
        stored(tmp_path, {k: np.ones(s) for k, s in zip(('XAll', 'YAll', 'LAll'), shapes)})
        with pytest.raises(InputError, match=says):
            load('iapr', tmp_path, **SMALL)


def test_pairs_without_label_or_word(tmp_path, sandbox):
    x, t, y = hashed()
    y[:3], t[2:5] = 0, 0
    stored(tmp_path, named_as(layouts[0], x, t, y))
    with pytest.warns(UserWarning, match='mirflickr: 3 pairs have no label, 3 no word; these 5 are left out'):
        s = load('mirflickr', tmp_path, **SMALL, database=True)
    together(s, x, t, y)
    assert sum(len(v['text']) for v in s.values()) == 115 and min(v['text'].item.min() for v in s.values()) == 5
    with pytest.warns(UserWarning, match='iapr: .* these 5 are kept'):
        assert sum(len(v['text']) for v in load('iapr', tmp_path, **SMALL, database=True).values()) == 120


@pytest.mark.parametrize(
    'change,says',
    [
        (
            but(LAll=None),
            r'pictures, words and labels are expected as XAll YAll LAll, or .*; the files hold XAll, YAll',
        ),
        (but(XAll=np.zeros((2, 2, 3, 120))), r'XAll is of shape \(2, 2, 3, 120\): pixels\. .* as XAll'),
        (
            but(LAll=lambda v: v.argmax(1)[:, None] + 2),
            r'LAll needs a column for each label, with 0 or 1, but its row \d+ \(from 0\) has [2-5]',
        ),
        (but(LAll=lambda v: v[:, :1]), 'LAll needs .* it has one column'),
        (but(LAll=at(11, -1)), r'LAll needs .* row 2 \(from 0\) has -1'),
        (but(XAll=at(15, np.nan)), 'XAll: NaN or Inf in 1 of 120 rows: 2'),
        (but(YAll=at(15, np.inf)), 'YAll: NaN or Inf'),
        (but(YAll=scipy.sparse.eye(120, 9)), 'YAll is cs[cr]_'),
        (but(YAll=np.array([['a']] * 120)), r'YAll is <U1 of shape'),
        (but(YAll=np.zeros((120, 2, 2))), r'YAll is float64 of shape \(120, 2, 2\)'),
    ],
)
def test_bad_matrices_are_named(change, says, tmp_path, sandbox):
    stored(tmp_path, change(named_as(layouts[0], *hashed())))
    with pytest.raises(InputError, match=f'{tmp_path}.*{says}'):
        load('mirflickr', tmp_path, **SMALL)


def test_arrays_that_are_there_twice_or_do_not_fit(tmp_path, sandbox):
    x = hashed()
    stored(tmp_path, named_as(layouts[0], *x))
    np.savez(tmp_path / 'more.npz', LAll=x[2])
    with pytest.raises(InputError, match=r'more\.npz: LAll is in all\.mat, too'):
        load('iapr', tmp_path, **SMALL)
    (tmp_path / 'more.npz').unlink()
    two = named_as(layouts[4], *x)
    stored(tmp_path, two | dict(VTest=two['VTest'][:, 1:]))
    with pytest.raises(InputError, match=r'VTest has 6 columns, VDatabase has 7'.replace('VTest', 'V.*', 1)):
        load('iapr', tmp_path, train=60)
    stored(tmp_path, two)
    with pytest.raises(InputError, match='queries=20, but the file says which rows are queries: 20'):
        load('iapr', tmp_path, **SMALL)
    stored(tmp_path, dict(images=np.zeros((120, 2, 2, 3)), YAll=x[1], LAll=x[2]))
    np.savez(tmp_path / 'features.npz', XAll=x[0])
    together(load('iapr', tmp_path, **SMALL), *x)  # features beside pixels
    stored(tmp_path, named_as(layouts[7], *x) | dict(zip(layouts[6][1], (v[30:] for v in x))))
    (tmp_path / 'features.npz').unlink()
    assert len(load('iapr', tmp_path, train=60, database=True)['database']['text']) == 30  # I_db before I_tr


@hdf5
def test_hdf5_stays_inside_itself(tmp_path):
    import h5py

    x, t, y = hashed()
    with h5py.File(tmp_path / 'other.hdf5', 'w') as f:
        f['secret'] = x
    with h5py.File(tmp_path / 'all.h5', 'w') as f:
        f['XAll'] = h5py.ExternalLink(str(tmp_path / 'other.hdf5'), 'secret')
        f['YAll'], f['LAll'] = t, y
    with pytest.raises(InputError, match='XAll is a struct, or lies elsewhere'):
        matrices(tmp_path, [tmp_path / 'all.h5'])
    with h5py.File(tmp_path / 'all.h5', 'w') as f:
        f.create_dataset('XAll', x.shape, 'f8', external=[(str(tmp_path / 'other.hdf5'), 0, x.nbytes)])
        f['YAll'], f['LAll'] = t, y
    with pytest.raises(InputError, match='XAll is a struct, or lies elsewhere'):
        matrices(tmp_path, [tmp_path / 'all.h5'])
    with h5py.File(tmp_path / 'all.h5', 'w') as f:
        f['XAll'] = np.array([[b'a']] * 120)
        f['YAll'], f['LAll'] = t, y
    with pytest.raises(InputError, match='XAll is .S1 of shape'):
        matrices(tmp_path, [tmp_path / 'all.h5'])


def test_absent_matrices_say_where_to_ask(tmp_path):
    for name in ('mirflickr', 'iapr'):
        with pytest.raises(MissingError, match='XAll .* LAll') as e:
            load(name, tmp_path)
        assert (
            '://' not in str(e.value)
            and data_digest(name, tmp_path) is None
            and not multilabel.info[name]['publishable']
        )


# ---------------------------------------------------------------- split files
def test_a_split_is_written_and_read(tmp_path, sandbox):
    stored(tmp_path, named_as(layouts[0], *hashed()))
    s = load('mirflickr', tmp_path, seed=3, **SMALL, database=True)
    old = data_digest('mirflickr', tmp_path)
    write_split(s, path := tmp_path / 'split.json')
    back = load('mirflickr', tmp_path, database=True)
    assert all(
        back[k][v].ids == s[k][v].ids and torch.equal(back[k][v].x, s[k][v].x) for k in s for v in s[k]
    ) and list(load('mirflickr', tmp_path)) == ['train', 'valid', 'test']
    assert (
        load('mirflickr', tmp_path, **SMALL)['test']['text'].ids != s['test']['text'].ids
    )  # what is asked for is drawn
    assert data_digest('mirflickr', tmp_path) != old == data_digest('mirflickr', tmp_path, seed=3)
    path.write_text(
        json.dumps({k: dict(rows=v['text'].item.tolist()[::-1]) for k, v in s.items() if k in ('train', 'test')})
    )
    ours = load('mirflickr', tmp_path)  # by hand
    assert ours['test']['text'].ids == s['test']['text'].ids and set(ours['train']['text'].ids) | set(
        ours['valid']['text'].ids
    ) == set(s['train']['text'].ids)
    with pytest.raises(InputError, match='split.json: it has no database'):
        load('mirflickr', tmp_path, database=True)
    write_split(
        all_of := load('iapr', tmp_path, queries=20, train=100, database=True), path
    )  # nothing is left for a database
    assert len(all_of['database']['text']) == len(load('iapr', tmp_path, database=True)['database']['text']) == 0


@pytest.mark.parametrize('name', ['pascal', 'nuswide', 'xmedianet', 'xmedia'])
def test_other_sets_keep_theirs_too(name, tmp_path, sandbox):
    write(tmp_path, name, arrays(name, (200, 40)))
    s = load(name, tmp_path)
    write_split(s, tmp_path / 'mine.json')
    back = read_split(tmp_path / 'mine.json', joined(*s.values()))
    assert all(back[k][v].ids == s[k][v].ids and torch.equal(back[k][v].item, s[k][v].item) for k in s for v in s[k])
    changed = arrays(name, (200, 40))
    changed = {k: v[::-1] if 'lab' in k.lower() or 'Cat' in k else v for k, v in changed.items()}
    write(tmp_path, name, changed)
    with pytest.raises(InputError, match=r'mine\.json: the rows of (train|test) have other labels'):
        read_split(tmp_path / 'mine.json', joined(*load(name, tmp_path).values()))


@pytest.mark.parametrize(
    'change,says',
    [
        (lambda s: s.pop('test'), 'expected to have train and test'),
        (lambda s: s.update(query={}), 'expected to have'),
        (lambda s: s.update(train=[1]), 'train needs "rows"'),
        (lambda s: s['train'].update(rows=[]), 'train needs "rows"'),
        (lambda s: s['train'].update(rows=[True]), 'train needs "rows"'),
        (lambda s: s['test']['rows'].append(120), 'test names row 120, which is not in the data'),
        (lambda s: s['test']['rows'].append('../x'), r'test names row \.\./x'),
        (lambda s: s['test']['rows'].append(s['train']['rows'][0]), r'row \d+ is in train and in test'),
        (lambda s: s['test']['rows'].pop(), 'the rows of test are not those that were written'),
        (lambda s: s['test'].update(sha256=7), 'the rows of test are not'),
        (lambda s: s['database'].update(labels=''), 'the rows of database have other labels'),
    ],
)
def test_a_wrong_split_file_is_told(change, says, tmp_path, sandbox):
    stored(tmp_path, named_as(layouts[0], *hashed()))
    write_split(load('iapr', tmp_path, **SMALL, database=True), path := tmp_path / 'split.json')
    output = json.loads(path.read_text())
    change(output)
    path.write_text(json.dumps(output))
    with pytest.raises(InputError, match=f'{path}: .*{says}'):
        load('iapr', tmp_path)


@pytest.mark.parametrize('how', ['mat', 'each', 'npz', pytest.param('h5', marks=hdf5), pytest.param('7.3', marks=hdf5)])
def test_damaged_matrices_and_splits(how, sandbox):
    def make(root):
        stored(root, named_as(layouts[0 if how != 'each' else 4], *hashed(40)), how)
        write_split(
            load('iapr', root, train=12, **({} if how == 'each' else dict(queries=20)), database=True),
            root / 'split.json',
        )

    sound = snapshot(make)
    assert reads_or_says(lambda root: load('iapr', root, database=True), sound)

    @few
    @given(damaged(sound))
    def run(hurt):
        reads_or_says(lambda root: load('iapr', root), hurt)

    run()


# ---------------------------------------------------------------- digits
def test_digits():
    s = load('digits')
    well_formed(s)
    assert crossing(s) == [] and [len(v['pix']) for v in s.values()] == [1424, 289, 287]
    rows = {
        v: torch.cat([p[v].x for p in load('digits', views=(v, 'fou' if v != 'fou' else 'mor')).values()])
        for v in digit_views
    }
    assert {v: x.shape[1] for v, x in rows.items()} == dict(fou=76, fac=216, kar=64, pix=240, zer=47, mor=6) and {
        len(x) for x in rows.values()
    } == {2000}
    assert torch.equal(rows['pix'], rows['pix'].round()) and rows['pix'].min() == 0 and rows['pix'].max() == 6
    for bad in (digit_views, ('pix',), ('pix', 'pixel')):
        with pytest.raises(InputError, match='two to five|no view'):
            load('digits', views=bad)
    assert data_digest('digits') == data_digest('digits', views=('pix', 'kar'))
