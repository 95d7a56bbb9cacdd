"""What the trainer promises and a notebook cannot show: several processes are one, a killed run resumes, and nothing
fails in silence.

Run as a script, this file is what the tests start: `train OUT` fits every case (alone or under torchrun) and writes the
weights, `killed OUT` is killed again and again and then ends.
"""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from crossmodal_nb.core.files import load_tensors, save_tensors
from crossmodal_nb.data.synthetic import make_gaussian_views
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.methods.dcca import DCCA, DCCAE, DGCCA
from crossmodal_nb.methods.dual_encoder import CLIP, SigLIP, Triplet
from crossmodal_nb.nn.trainer import Collapse


class Double:
    "A method whose weights are float64"

    def build(self):
        super().build()
        self.double()


class CLIP64(Double, CLIP):
    pass


class DCCA64(Double, DCCA):
    pass


def world(n=202, seed=0, dtype=torch.float32):
    wide = dict(image=24, text=16)
    v = make_gaussian_views(n, wide, rho=(0.9,) * 6, seed=seed, dtype=dtype)
    return Views(
        image=v['image'], text=View(v['text'].x.repeat(2, 1), item=v['text'].item.repeat(2))
    )  # two texts an item: one is drawn


def how(**run):
    return dict(dim=6, hidden=16, dropout=0.0, trainer=dict(dict(epochs=2, batch=50, accelerator='cpu'), **run))


def cases(**run):
    "name: (unfitted method, its training data)"
    make = dict(CLIP=CLIP, SigLIP=SigLIP, Triplet=Triplet, DCCA=DCCA, DCCAE=DCCAE, DGCCA=DGCCA)
    out = {name: (cls(**how(**run)), world()) for name, cls in make.items()}
    out |= {f'{name}, chunk': (make[name](**how(chunk=9, **run)), world()) for name in ('CLIP', 'DCCA')}
    out['DCCA, triplet'] = DCCA(**how(**run), w_triplet=1.0), world()
    return out | {f'{cls.__name__}': (cls(**how(**run)), world(dtype=torch.double)) for cls in (CLIP64, DCCA64)}


def fits(names=None, **run):
    return {k: m.fit(v) for k, (m, v) in cases(**run).items() if not names or k in names}


def weights(m):
    return torch.cat([p.detach().flatten().double() for p in m.parameters()])


def off(m, w):
    return float((weights(m) - w).norm() / w.norm())


def train(out):
    results = fits()
    if int(os.environ.get('RANK', 0)) == 0:
        save_tensors(out, {k: weights(m) for k, m in results.items()}, {k: m.history for k, m in results.items()})


def one(folder=None, epochs=20):
    m = DCCA(
        dim=6, hidden=16, dropout=0.2, trainer=dict(epochs=epochs, batch=50, lr=0.01, accelerator='cpu', ckpt=folder)
    )
    valid = world(60, seed=1)

    def check(m):
        return float(m.score('image', valid['image'].x, 'text', valid['text'].x).diagonal().mean())

    return m.fit(world(), check)


def killed(out, kills=4):
    """Children that train into one folder, each killed without warning in the midst of it; then one that ends. A fork
    starts at no cost
    """
    folder, deaths = Path(out).parent / 'run', []
    for _ in range(2):
        t = time.time()
        m = one()
        full = time.time() - t  # how long it takes, unbroken
    save_tensors(Path(out).parent / 'unbroken' / 'end.json', m.state_dict(), dict(history=m.history))
    while True:
        child = os.fork()
        if not child:
            try:
                m = one(str(folder))
                save_tensors(out, m.state_dict(), dict(history=m.history))
                os._exit(0)
            except BaseException as e:
                print(repr(e), file=sys.stderr, flush=True)
                os._exit(1)
        if len(deaths) < kills:
            had = epochs_in(folder)  # every other one lives until it has kept an epoch, however slow the machine
            while (
                len(deaths) % 2
                and epochs_in(folder) == had
                and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            ):
                time.sleep(0.001)
            time.sleep(random.uniform(0.05, 0.2) * full)
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            deaths.append(epochs_in(folder))
            continue
        assert os.WEXITSTATUS(status) == 0, f'failed after {deaths}'
        if len(deaths) == kills:
            return print(json.dumps(deaths))
        shutil.rmtree(folder)  # it was too quick for us: again


def epochs_in(folder):
    state = folder / 'state.json'
    return len(json.loads(state.read_text())['history']) if state.exists() else 0


def script(*command):
    r = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stderr[-3000:]
    return r.stdout


if __name__ == '__main__':
    torch.set_num_threads(1)  # a fork of a process with threads of OpenMP would wait for them for ever
    dict(train=train, killed=killed)[sys.argv[1]](sys.argv[2])
    raise SystemExit


@pytest.fixture(scope='module')
def alone():
    return fits()


# ---- several processes are one


def test_two_processes_by_torchrun_are_one(alone, tmp_path):
    "Every loss, with and without the gradient cache, in float32 and in float64"
    script(
        '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', 2, __file__, 'train', tmp_path / 'two.json'
    )
    results, info = load_tensors(tmp_path / 'two.json')
    assert set(results) == set(alone)
    far = {k: off(m, results[k]) for k, m in alone.items()}
    assert all(d < (1e-10 if '64' in k else 1e-5) for k, d in far.items()), far
    for k, m in alone.items():
        for mine, theirs in zip(m.history, info[k], strict=True):
            assert all(abs(mine[t] - theirs[t]) <= 1e-4 * abs(mine[t]) + 1e-7 for t in mine if t != 'seconds'), (
                k,
                mine,
                theirs,
            )


def test_two_processes_by_devices_are_one(alone):
    "The parent starts them; the method comes back fitted, and codes the same"
    two = fits(['CLIP, chunk'], devices=2)['CLIP, chunk']
    assert off(two, weights(alone['CLIP, chunk'])) < 1e-5
    x, y = world(40, seed=2)['image'].x, alone['CLIP, chunk']
    assert torch.allclose(two.encode('image', x), y.encode('image', x), rtol=1e-3, atol=1e-5)


def test_gradient_cache_is_exact(alone):
    "A batch coded nine rows at a time: the weights of the whole batch, and the learned scale"
    for name in ('CLIP', 'DCCA'):
        assert off(alone[f'{name}, chunk'], weights(alone[name])) < 1e-5
    a, b = (alone[k].log_scale.item() for k in ('CLIP', 'CLIP, chunk'))
    assert abs(a - b) < 1e-6 and abs(a - math.log(1 / 0.07)) > 1e-4  # and it did learn


# ---- a killed run resumes


def test_killed_and_resumed_is_unbroken(tmp_path):
    "kill -9 at random moments, dropout on, with a check and a last map: the same weights and history, bit for bit"
    deaths = json.loads(script(__file__, 'killed', tmp_path / 'end.json'))  # epochs kept at each
    assert len(deaths) == 4 and max(deaths) > 0, deaths
    (state, info), (unbroken, full) = (load_tensors(f / 'end.json') for f in (tmp_path, tmp_path / 'unbroken'))
    assert state.keys() == unbroken.keys() and all(torch.equal(state[k], v) for k, v in unbroken.items())

    def same(h):
        return [{k: v for k, v in r.items() if k != 'seconds'} for r in h]

    assert same(info['history']) == same(full['history']) and len(full['history']) == 20


def test_a_folder_belongs_to_one_run(tmp_path):
    one(str(tmp_path), epochs=2)
    with pytest.raises(ValueError, match='other settings'):
        one(str(tmp_path), epochs=3)


# ---- nothing fails in silence

small = dict(dim=8, hidden=16, trainer=dict(epochs=7, batch=64, lr=3e-3, accelerator='cpu'))
kinds = {cls.__name__: lambda cls=cls, **k: cls(**small | k) for cls in (DCCA, DGCCA, CLIP, SigLIP, Triplet)}
kinds['DCCA_triplet'] = lambda **k: DCCA(w_triplet=1.0, **small | k)
each_kind = pytest.mark.parametrize('kind', kinds)


def two(n=128, seed=0):
    return make_gaussian_views(n, dict(a=12, b=10), seed=seed)


def sound(m, views):
    assert all(p.isfinite().all() for p in m.state_dict().values())
    assert all(isinstance(x, (int, float)) and abs(x) < float('inf') for r in m.history for x in r.values())
    s = m.score('a', views['a'].x, 'b', views['b'].x)
    assert s.isfinite().all()
    return s


def silenced(m, share):
    "The method, with the last layers of its heads zero for a share of the coordinates"
    begin = m.init_from_data

    def dead(train):
        begin(train)
        with torch.no_grad():
            for h in m.heads.values():
                for layer in (h.linear, h.more[-1]):
                    layer.weight[: int(share * 8)] = 0
                    layer.bias[: int(share * 8)] = 0

    m.init_from_data = dead
    return m


@pytest.mark.filterwarnings('ignore')
@each_kind
def test_dead_units(kind):
    sound(silenced(kinds[kind](), 0.5).fit(two()), two(seed=1))


@pytest.mark.filterwarnings('ignore')
@each_kind
def test_all_zero_outputs_are_told(kind):
    "Without a direction there is no gradient: the run must stop and say so"
    with pytest.raises((Collapse, ValueError), match='all scores are equal|one point|constant'):
        silenced(kinds[kind](), 1.0).fit(two())


@pytest.mark.filterwarnings('ignore')
@each_kind
def test_white_views(kind):
    "Covariances are the identity, and both views are the same: all canonical correlations are equal"
    x = torch.linalg.qr(torch.randn(128, 10, generator=torch.Generator().manual_seed(0)))[0]
    views = Views(a=View(x), b=View(x.clone()))
    s = sound(kinds[kind]().fit(views), views)
    assert (s.argmax(1) == torch.arange(128)).double().mean() > 0.9


@pytest.mark.filterwarnings('ignore')
@each_kind
def test_fewer_rows_than_coordinates(kind):
    sound(kinds[kind](dim=40).fit(two(24)), two(24, seed=1))


@pytest.mark.filterwarnings('ignore')
@each_kind
def test_duplicated_rows(kind):
    views = Views(
        {v: View(view.x[:4].repeat(32, 1)) for v, view in two().items()}
    )  # four things, 32 times each, told to be different
    sound(kinds[kind]().fit(views), views)


@each_kind
def test_a_rate_without_bounds_is_told(kind):
    with pytest.raises(Collapse, match='lr'):
        kinds[kind](trainer=small['trainer'] | dict(lr=float('inf'))).fit(two())


def test_a_check_that_is_no_number_is_told():
    with pytest.raises(Collapse, match='held-out'):
        CLIP(**small).fit(two(), lambda m: float('nan'))


def test_nothing_to_learn_is_told():
    same = Views(a=View(torch.ones(128, 5)), b=View(torch.ones(128, 4)))
    for kind in kinds:
        with pytest.raises(Collapse, match='one point|all scores are equal'):
            kinds[kind](init='random', dropout=0.0).fit(same)


# ---- rows by themselves


@each_kind
def test_one_row_is_coded_as_many(kind):
    "2,500 rows are coded in three blocks, each row as if it were alone"
    m, x = kinds[kind]().fit(two()), two(2500, seed=1)['a'].x
    z = m.encode('a', x)
    for i in (0, 1023, 1024, 2499):
        assert torch.allclose(m.encode('a', x[i : i + 1])[0], z[i], rtol=1e-4, atol=1e-5)
    assert torch.allclose(m.encode('a', x[1000:1100]), z[1000:1100], rtol=1e-4, atol=1e-5) and m.encode(
        'a', x[:0]
    ).shape == (0, m.dim)
