"""The owners' files: made here under their names, in every format, sound and damaged; and the digits of a package.

    CROSSMODAL_FUZZ=1000 python -m pytest tests/test_xmedia.py       examples a format (25 unless told)
"""
import importlib.util, os, sys
import numpy as np, pytest, scipy.io, scipy.sparse, torch
from hypothesis import given, settings
from crossmodal_nb.core import InputError, MissingError
from crossmodal_nb.datasets import audit, catalogue, data_digest, load
from crossmodal_nb.datasets.xmedia import digit_views, files, info, keys, schemas, tables
from test_datasets import crossing, well_formed
from test_fuzz import Sandbox, damaged, fuzz, reads_or_says, snapshot

hdf5 = pytest.mark.skipif(not importlib.util.find_spec('h5py'), reason='the package h5py is not here')
few = settings(fuzz, max_examples=int(os.environ.get('CROSSMODAL_FUZZ', 25)))
WIDTHS = dict(image=4, text=5, audio=2, video=4, mesh=3)

@pytest.fixture(scope='module')
def sandbox():
    s = Sandbox()
    with pytest.MonkeyPatch.context() as m: m.setattr('crossmodal_nb.datasets.xmedia.isolated', s.isolated); yield s
    s.process.terminate()

def arrays(name, n=(40, 20), first=1, classes=None, seed=0):
    "Sound arrays of a file; audio has half of the rows of an image"
    g, out, (_, parts, c, views) = np.random.default_rng(seed), {}, schemas[name]
    for p, m in zip(parts, n):
        for v, (f, l) in views.items():
            k = m // 2 if v == 'audio' else m
            out[f.format(p)] = g.random((k, WIDTHS[v]))
            y = np.arange(k)[:, None] % (classes or c) + first
            shared = l == l.format(p) and p != parts[0]
            out[l.format(p)] = np.concatenate([out[l.format(p)], y]) if shared else y
    return out

def write(root, name, x, how='mat'):
    stem = schemas[name][0]
    if how == 'npz': np.savez(root/f'{stem}.npz', **x)
    elif how == 'each':
        for k in x: scipy.io.savemat(root/f'{k}.mat', {k: x[k]})
    elif how == '7.3':
        import h5py
        with h5py.File(root/f'{stem}.mat', 'w', userblock_size=512) as f:
            for k in x: f[k] = np.asarray(x[k]).T
        with open(root/f'{stem}.mat', 'r+b') as f: f.write(b'MATLAB 7.3 MAT-file'.ljust(124) + b'\x00\x02IM')
    else: scipy.io.savemat(root/f'{stem}.mat', x, do_compression=how == 'compressed', format='4' if how == '4' else '5')
    return root

formats = ['mat', 'compressed', '4', 'npz', 'each', pytest.param('7.3', marks=hdf5)]

# ---------------------------------------------------------------- what is sound
@pytest.mark.parametrize('how', formats)
@pytest.mark.parametrize('name', schemas)
def test_every_set_in_every_format(name, how, tmp_path, sandbox):
    x = arrays(name, n=(400, 200) if name == 'birds' else (40, 20)); write(tmp_path, name, x, how)
    s = load(name, tmp_path)
    well_formed(s); assert crossing(s) == [] and list(s['train']) == list(schemas[name][3]) and data_digest(name, tmp_path)
    _, parts, classes, views = schemas[name]
    for v, (f, l) in views.items():
        rows = sum(len(p[v]) for p in s.values())
        assert rows == sum(len(x[f.format(p)]) for p in parts) and all(p[v].x.shape[1] == WIDTHS[v] and 0 <= p[v].y.min() and p[v].y.max() < classes for p in s.values())
        if name != 'birds':
            assert np.allclose(s['test'][v].x, x[f.format(parts[1])].astype('f4')) and s['test'][v].y.tolist() == (x[l.format(parts[1])][-len(s['test'][v]):].ravel() - 1).tolist()
    i, j, _ = s['train'].pairs('image', 'text')
    assert len(i) == (0 if name.startswith('xmedia') else len(s['train']['image'])) and torch.equal(i, j)

def test_rows_keep_features_and_label_together(tmp_path, sandbox):
    x = arrays('xmedianet', first=0); x['I_tr'][:, 0] = x['I_labs'][:40, 0]; write(tmp_path, 'xmedianet', x)
    s = load('xmedianet', tmp_path)
    for v in (s['train']['image'], s['valid']['image']): assert v.x[:, 0].long().tolist() == v.y.tolist() == [int(i.split('/')[1]) for i in v.ids]
    assert s['test']['image'].ids[0] == 'I_labs/40' and s['test']['image'].y.tolist() == list(range(20))

def test_the_split_ignores_the_views(tmp_path, sandbox):
    write(tmp_path, 'xmedia', arrays('xmedia', (200, 40)))
    a, b = load('xmedia', tmp_path), load('xmedia', tmp_path, views=('mesh', 'text'))
    assert list(b['test']) == ['mesh', 'text'] and all(a[s][v].ids == b[s][v].ids for s in a for v in b[s]) and .05 < len(a['valid']['text']) / 200 < .25
    small = {k: x for k, x in arrays('xmedia').items() if 'A_' not in k and 'Aud' not in k}; write(tmp_path, 'xmedia', small)       # a file without sounds
    assert len(load('xmedia', tmp_path, views=('image', 'text', 'video', 'mesh'))['test']['mesh']) == 20
    for bad in (('image',), ('image', 'image'), ('image', 'sound')):
        with pytest.raises(InputError, match="two to five|no view 'sound'"): load('xmedia', tmp_path, views=bad)

@pytest.mark.parametrize('name', ['xmedia', 'xmedianet'])
def test_halves(name, tmp_path, sandbox):
    write(tmp_path, name, arrays(name, (40, 30)))
    a, b, whole = (load(name, tmp_path, **o) for o in (dict(half='first'), dict(half='second'), {}))
    for v, m in (('image', 15), ('audio', 7)):
        assert len(a['train'][v]) == (20 if v == 'audio' else 40) and a['test'][v].ids == whole['test'][v].ids[:m] == b['valid'][v].ids and a['valid'][v].ids == b['test'][v].ids
        assert a['test'][v].ids + a['valid'][v].ids == whole['test'][v].ids
    with pytest.raises(InputError, match="half of the test rows 'frist'"): load(name, tmp_path, half='frist')

def test_birds(tmp_path, sandbox):
    write(tmp_path, 'birds', arrays('birds', (800,)))
    s = load('birds', tmp_path); classes = {k: set(v['image'].y.tolist()) for k, v in s.items()}
    assert len(classes['train']) == 150 and len(classes['test']) == 50 and not classes['test'] & (classes['train'] | classes['valid'])
    assert len(s['test']['text']) == 200 and all(v['image'].ids == v['text'].ids for v in s.values())
    assert set(load('birds', tmp_path, unseen=[0, 199])['test']['text'].y.tolist()) == {0, 199}
    assert set(load('birds', tmp_path, unseen=30)['test']['text'].y.tolist()) < classes['test']            # fewer by the same hash
    assert len(set(torch.cat([v['image'].y for v in load('birds', tmp_path, zero_shot=False).values()]).tolist())) == 200
    for bad in (0, -3, 200, [200], []):
        with pytest.raises(InputError, match='unseen='): load('birds', tmp_path, unseen=bad)

def test_samples_and_audit(tmp_path, sandbox):
    x = arrays('pascal'); x['test_img'][3] = x['train_img'][5]; write(tmp_path, 'pascal', x, 'each')
    assert sum(len(v['image']) for v in load('pascal', tmp_path, sample=12).values()) == 12
    assert [(r['view'], r['groups']) for r in audit('pascal', tmp_path) if '+test' in r['splits']] == [('image', 1)]     # told, not dropped

# ---------------------------------------------------------------- what is not
def but(**change): return lambda x: {k: v for k, v in (x | {k: c(x[k]) if callable(c) else c for k, c in change.items()}).items() if v is not None}
def at(i, value): return lambda v: np.where(np.arange(v.size).reshape(v.shape) == i, value, v.astype(float))

@pytest.mark.parametrize('change,says', [
    (but(d3_te=None), 'no array d3_te; it holds A_te, A_tr, I_te_CNN'), (but(teAudCat=None), 'no array teAudCat'),
    (but(trImgCat=lambda v: v[1:]), 'I_tr_CNN has 40 rows, but trImgCat only 39 labels'), (but(I_tr_CNN=lambda v: v[1:]), 'trImgCat has 40 labels, but I_…_CNN 39 rows'),
    (but(V_te_CNN=lambda v: v[:, 1:]), 'V_tr_CNN has 4 columns, V_te_CNN has 3'), (but(trTxtCat=at(7, 21)), 'trTxtCat has classes 1 to 20, but its number 7 .from 0. is 21'),
    (but(teVidCat=at(0, -1)), 'teVidCat has classes 1 to 20, .* is -1'), (but(teVidCat=at(0, 0)), 'classes 0 to 19, .* is 20'), (but(trImgCat=at(2, 1.5)), 'trImgCat .* is 1.5'),
    (but(trImgCat=np.eye(40, 20)), r'trImgCat is of shape \(40, 20\); one class a row'), (but(A_tr=at(5, np.nan)), 'A_tr: NaN or Inf in 1 of 20 rows: 2'),
    (but(A_tr=at(5, np.inf)), 'A_tr: NaN or Inf'), (but(A_tr=at(5, 1e300)), 'A_tr: NaN or Inf'), (but(trImgCat=at(0, np.nan)), 'trImgCat: NaN'),
    (but(T_tr_BOW=lambda v: v * 1j), 'T_tr_BOW is complex128'), (but(T_tr_BOW=np.array(['a', 'b'])), 'T_tr_BOW is <U1'), (but(T_tr_BOW=np.zeros((40, 2, 2))), r'T_tr_BOW is float64 of shape \(40, 2, 2\)'),
    (but(T_tr_BOW=np.zeros((0, 4))), 'T_tr_BOW is float64 of shape'), (but(T_tr_BOW=np.array([{}, []], dtype=object)), 'T_tr_BOW is object'), (but(T_tr_BOW=scipy.sparse.eye(40, 5)), 'T_tr_BOW is cs[cr]_')])
def test_bad_arrays_are_named(change, says, tmp_path, sandbox):
    write(tmp_path, 'xmedia', dict(sorted(change(arrays('xmedia')).items())))
    with pytest.raises(InputError, match=r'XMediaFeatures\.mat: .*' + says): load('xmedia', tmp_path)

@pytest.mark.parametrize('change,says', [
    (but(train_img=lambda v: v[:, 0]), r'train_img is of shape \(40,\); a matrix'), (but(train_img_lab=np.array([{}] * 40)), 'ValueError.* Object arrays'),
    (but(test_txt=np.float32(3)), r'test_txt is float32 of shape \(\)'), (but(test_img=lambda v: v[:9]), 'test_txt has 20 rows|test_img_lab has 20 labels, but …_img 9 rows')])
def test_bad_arrays_of_an_npz_are_named(change, says, tmp_path, sandbox):
    write(tmp_path, 'nuswide', change(arrays('nuswide')), 'npz')
    with pytest.raises(InputError, match=r'nuswide\.npz: .*' + says): load('nuswide', tmp_path)

@hdf5
def test_a_newest_matlab_file_stays_inside_itself(tmp_path, monkeypatch):
    import h5py
    write(tmp_path, 'birds', dict(image=np.eye(2)), '7.3'); p = tmp_path/'birds.mat'
    with h5py.File(tmp_path/'other.h5', 'w') as f: f['secret'] = np.eye(2)
    with h5py.File(p, 'r+') as f:
        f['link'] = h5py.ExternalLink(str(tmp_path/'other.h5'), 'secret'); f.create_group('struct')
        f.create_dataset('raw', (2, 2), 'f8', external=[(str(tmp_path/'other.h5'), 0, 32)])
        layout = h5py.VirtualLayout((2, 2), 'f8'); layout[:] = h5py.VirtualSource(str(tmp_path/'other.h5'), 'secret', (2, 2)); f.create_virtual_dataset('virtual', layout)
    assert tables(p, ['image'])['image'].tolist() == np.eye(2).tolist()
    for k in ('link', 'struct', 'raw', 'virtual'):
        with pytest.raises(InputError, match=rf'birds\.mat: {k} is a struct, or lies elsewhere'): tables(p, [k])
    monkeypatch.setitem(sys.modules, 'h5py', None)
    with pytest.raises(InputError, match=r'birds\.mat: a file of MATLAB 7\.3 is read with the package h5py: `pip install h5py`'): tables(p, ['image'])

def test_what_is_absent_says_where_to_ask(tmp_path):
    for name in schemas:
        with pytest.raises(MissingError) as e: load(name, tmp_path)
        assert all(k in str(e.value) for k in keys(name)) and f'{tmp_path} holds no {schemas[name][0]}.mat' in str(e.value) and '://' not in str(e.value)
    write(tmp_path, 'pascal', arrays('pascal'), 'each'); (tmp_path/'test_txt.mat').unlink()
    with pytest.raises(MissingError, match=r'holds no test_txt\.mat'): load('pascal', tmp_path)
    assert data_digest('pascal', tmp_path) is None and not info['xmedia']['embedded'] and {r['name'] for r in catalogue()} >= {*schemas, 'digits'}

def test_one_bad_file_of_six_is_named(tmp_path, sandbox):
    write(tmp_path, 'pascal', arrays('pascal'), 'each'); (tmp_path/'test_txt.mat').write_bytes(b'MATLAB, but no more')
    with pytest.raises(InputError, match=r'test_txt\.mat: not readable'): load('pascal', tmp_path)

def test_end_to_end_in_a_process_of_its_own(tmp_path):
    p = write(tmp_path, 'xmedia', arrays('xmedia'))/'XMediaFeatures.mat'
    assert len(load('xmedia', tmp_path)['test']['mesh']) == 20
    p.write_bytes(p.read_bytes()[:700])
    with pytest.raises(InputError, match=r'XMediaFeatures\.mat'): load('xmedia', tmp_path)

@pytest.mark.parametrize('name,how', [('xmedia', 'mat'), ('xmedianet', 'compressed'), ('pascal', 'each'), ('nuswide', 'npz'), ('birds', '4'), pytest.param('nuswide', '7.3', marks=hdf5)])
def test_damaged_files(name, how, sandbox):
    sound = snapshot(lambda root: write(root, name, arrays(name, (30, 10)), how))
    options = dict(unseen=5) if name == 'birds' else {}
    assert reads_or_says(lambda root: load(name, root, **options), sound)
    @few
    @given(damaged(sound))
    def run(hurt): reads_or_says(lambda root: load(name, root, **options), hurt)
    run()

# ---------------------------------------------------------------- digits
def test_digits():
    s = load('digits')
    well_formed(s); assert crossing(s) == [] and [len(v['pix']) for v in s.values()] == [1424, 289, 287]
    rows = {v: torch.cat([p[v].x for p in load('digits', views=(v, 'fou' if v != 'fou' else 'mor')).values()]) for v in digit_views}
    assert {v: x.shape[1] for v, x in rows.items()} == dict(fou=76, fac=216, kar=64, pix=240, zer=47, mor=6) and {len(x) for x in rows.values()} == {2000}
    assert torch.equal(rows['pix'], rows['pix'].round()) and rows['pix'].min() == 0 and rows['pix'].max() == 6
    for bad in (digit_views, ('pix',), ('pix', 'pixel')):
        with pytest.raises(InputError, match='two to five|no view'): load('digits', views=bad)
    assert files('digits') == ['digits'] and data_digest('digits') == data_digest('digits', views=('pix', 'kar'))
