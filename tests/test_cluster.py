"""Beyond one process, on engines that exist: runs on a Dask cluster, moments of CCA in parts, and the code of the guide
`book/cluster.md`. Training by two processes is in test_train.py, feature extraction by two in test_features.py.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from conftest import manifest, notebook
from test_runner import crossmodal, records, root

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.data.synthetic import make_gaussian_views
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.methods.base import Method
from crossmodal_nb.methods.linear import CCA
from crossmodal_nb.runs import runner

guide = root / 'book' / 'cluster.md'


def toy(value, before=''):
    row = f"dict(query='a', gallery='b', metric='R@1', value={value}, split='valid', pool='all')"
    return (
        f"{before}import os\nfrom crossmodal_nb.runs import record\nfrom crossmodal_nb.runs.record import Run, "
        "runs\nrecord.machine = dict          # without a second of torch\n"
        f"Run('10_toy', globals(), [{row}], tables=dict(parent=os.getppid())).save(out)"
    )


@pytest.fixture
def four(house):
    "Two runs, one that fails, and one that reads the records of the first two"
    notebook(house, toy('level'))
    notebook(house, '1/0', '20_bad')
    notebook(
        house,
        toy('sum(r["rows"][0]["value"] for r in runs() if r["status"] == "ok" and r["experiment"] != "bad")'),
        '30_last',
    )
    manifest(
        house,
        '[a]\nnotebook = "10_toy.ipynb"\nparams = {level = 0.5}\n[b]\nnotebook = "10_toy.ipynb"\nparams = {level = '
        '0.25}\n'
        '[bad]\nnotebook = "20_bad.ipynb"\n[last]\nnotebook = "30_last.ipynb"\nneeds = ["a", "b"]\n',
    )
    return house


def test_runs_on_two_dask_workers_are_those_of_one_process(four, monkeypatch):
    output = crossmodal(four, 'run', '--backend', 'dask', '-j', '2', check=1)
    assert (
        '2 workers' in output and 'ZeroDivisionError' in output and '4 to run' in output and '3 ran, 1 failed' in output
    )
    cluster = {r['experiment']: r for r in records(four)}
    assert [cluster[e]['status'] for e in ('a', 'b', 'bad', 'last')] == ['ok', 'ok', 'failed', 'ok']
    assert cluster['last']['rows'][0]['value'] == 0.75  # both were there before it
    assert cluster['a']['tables']['parent'] != cluster['b']['tables']['parent']  # two workers had a kernel each
    assert (
        'ZeroDivisionError' in cluster['bad']['error']
        and len(list((four / 'work' / 'records' / 'bad').glob('*.part.ipynb'))) == 1
    )
    shutil.move(four / 'work' / 'records', four / 'cluster')
    monkeypatch.chdir(four)
    assert runner.run(['a', 'b']) == 0
    alone = {r['experiment']: r for r in records(four)}
    (parent,) = {alone[e]['tables']['parent'] for e in ('a', 'b')}
    assert os.getpid() in (parent, psutil.Process(parent).ppid())  # a kernel may be a fork of another process

    def own(r):
        return {
            k: v
            for k, v in r.items()
            if k not in ('seconds', 'cpu_seconds', 'peak_mb', 'started', 'tables', 'content', 'traceback', 'error')
        }

    assert alone['a']['rows'][0]['value'] == 0.5 and {e: own(r) for e, r in alone.items()} == {
        e: own(cluster[e]) for e in ('a', 'b')
    }


def test_without_dask_it_says_what_to_install(house, monkeypatch):
    monkeypatch.chdir(house)
    monkeypatch.setitem(sys.modules, 'distributed', None)
    with pytest.raises(InputError, match=r"pip install 'crossmodal_nb\[cluster\]'"):
        runner.run(backend='dask')
    with pytest.raises(InputError, match='--backend dask'):
        runner.run(scheduler='tcp://127.0.0.1:1')
    with pytest.raises(InputError, match="'dask'"):
        runner.run(backend='dsak')
    assert not (house / 'work').exists()


@pytest.fixture(scope='module')
def cluster():
    "Two workers of a cluster that was there before; a run may lose its worker once"
    import dask
    from distributed import LocalCluster

    with dask.config.set({'distributed.scheduler.allowed-failures': 1}):
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0) as c:
            yield c


def test_a_worker_that_dies_costs_its_run_another_start(house, monkeypatch, cluster):
    "By the address of a scheduler: one notebook kills its worker once, one always"
    kill = (
        "import os, signal, time\nfrom pathlib import Path\nmark = Path('{0}').resolve()\n{1}mark.touch(); "
        "os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)\n"
    )
    notebook(house, toy('level', kill.format('../../once', 'if not mark.exists(): ')), '20_once')
    notebook(house, toy('level', kill.format('../../always', '')), '30_always')
    manifest(house, '[once]\nnotebook = "20_once.ipynb"\n[always]\nnotebook = "30_always.ipynb"\n')
    monkeypatch.chdir(house)
    for name, failed in (('once', 0), ('always', 1)):
        assert runner.run([name], backend='dask', scheduler=cluster.scheduler_address, into='here') == failed
    by = {r['experiment']: r for f in (house / 'here').rglob('*.json') for r in [json.loads(f.read_text())]}
    assert (house / 'once').exists() and by['once']['status'] == 'ok' and by['once']['rows'][0]['value'] == 0.1
    assert by['always']['status'] == 'failed' and 'lost' in by['always']['error'] and len(by) == 2


def test_a_cluster_that_cannot_work_is_refused(house, monkeypatch, cluster):
    monkeypatch.chdir(house)
    with pytest.raises(InputError, match='no Dask scheduler'):
        runner.run(backend='dask', scheduler='nonsense://127.0.0.1:1')
    monkeypatch.setattr(runner, 'settings', lambda: SimpleNamespace(root='/nowhere', nbs_path=Path('/nowhere/nbs')))
    with pytest.raises(InputError, match='no experiments at /nowhere.*same path'):
        with runner.workers('dask', scheduler=cluster.scheduler_address):
            pass


# ---- the moments of CCA, and the guide's own code


@pytest.fixture
def files(tmp_path):
    w = make_gaussian_views(1001, dims=dict(image=40, text=30), rho=(0.9, 0.7, 0.5), dtype=torch.double)
    for v, x in w.items():
        np.save(tmp_path / f'{v}.npy', (x.x + 5).numpy())
    return tmp_path


def same(m, folder):
    "Whether a CCA of parts is the CCA of all rows in one process"
    x, y = (torch.from_numpy(np.load(folder / f'{v}.npy')) for v in ('image', 'text'))
    first = CCA(**m.get_params(deep=False)).fit(Views(image=View(x), text=View(y)))

    def near(a, b):
        return (a - b).abs().max() < 1e-10 * max(1, b.abs().max())

    return (
        m.moments.weight == len(x)
        and near(m.moments.cov, first.moments.cov)
        and near(m.rho, first.rho)
        and near(m.encode('image', x), first.encode('image', x))
        and near(m.encode('text', y), first.encode('text', y))
    )


def blocks(language):
    return re.findall(rf'```{language}\n(.*?)```', guide.read_text(), re.S)


def block(language, says):
    (results,) = [b for b in blocks(language) if says in b]
    return results


def script(code, folder, *args, by=(sys.executable,)):
    (folder / 'script.py').write_text(code)
    return subprocess.Popen(
        [*by, 'script.py', *map(str, args)],
        cwd=folder,
        env=os.environ | dict(PYTHONPATH=str(root)),
        stdout=subprocess.DEVNULL,
    )


def test_two_processes_each_with_half_of_the_rows(files, monkeypatch):
    "As the guide does it without Dask: each saves what it has seen, one merges"
    code = block('python', 'sys.argv')
    pair = [script(code, files, *part) for part in ((0, 500), (500, 1001))]
    assert [p.wait(timeout=600) for p in pair] == [0, 0]
    assert sorted(Method.load(f).moments.weight for f in files.glob('part-*')) == [500, 501]
    monkeypatch.chdir(files)
    exec(block('python', "glob('part-*')"), output := {})
    assert same(output['whole'], files) and same(Method.load(files / 'cca'), files)
    assert not same(Method.load(files / 'part-500'), files)


def test_the_guides_map_and_reduce_by_dask(files, cluster):
    code, assigned = re.subn(
        r'^address, folder, step = .*$',
        f'address, folder, step = {cluster.scheduler_address!r}, {str(files)!r}, 300',
        block('python', 'client.map'),
        flags=re.M,
    )
    exec(code, output := dict(__name__='__main__'))
    assert assigned == 1 and len(range(0, output['n'], 300)) == 4 and same(output['whole'], files)


def test_the_guides_training_by_torchrun_is_that_of_one_process(files, monkeypatch):
    "The whole script: load, fit, save by the first; weights within 1e-5"
    code, torchrun = (
        block('python', 'CLIP('),
        (sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2'),
    )
    monkeypatch.chdir(files)
    exec(code, {})
    results = [Method.load('clip')]
    shutil.rmtree('clip')
    shutil.rmtree('checkpoints')
    assert script(code, files, by=torchrun).wait(timeout=600) == 0
    results.append(Method.load('clip'))
    first, two = ({k: v.double() for k, v in m.state_dict().items()} for m in results)
    assert len(results[1].history) == 10 and results[1].history[-1]['loss'] < 0.8 * results[1].history[0]['loss']
    assert max(float((first[k] - two[k]).norm() / first[k].norm().clamp(min=1e-6)) for k in first) < 1e-5


def test_every_option_in_the_guide_exists():
    "Of crossmodal, Dask and torchrun, in shell blocks and in yaml"
    import typer
    import yaml
    from distributed.cli import dask_scheduler, dask_worker
    from torch.distributed.run import get_args_parser

    from crossmodal_nb.cli import app

    def options(command):
        return {o for p in command.params for o in (*p.opts, *p.secondary_opts)}

    known = {f'crossmodal {n}': options(c) for n, c in typer.main.get_command(app).commands.items()}
    known |= {
        'dask scheduler': options(dask_scheduler.main),
        'dask worker': options(dask_worker.main),
        'torchrun': set(get_args_parser()._option_string_actions),
    }
    documents = [d for b in blocks('yaml') for d in yaml.safe_load_all(b)]
    commands = [
        ' '.join(c['command'])
        for d in documents
        for c in d['spec'].get('template', {}).get('spec', {}).get('containers', ())
    ]
    visited = set()
    for line in [*commands, *(text_line for b in blocks('bash') for text_line in b.splitlines())]:
        for results in re.finditer(
            r'(crossmodal [a-z]+|dask [a-z]+|torchrun)((?: (?!#|&)\S+)*)', line.partition('#')[0]
        ):
            if results[1] == 'crossmodal ' or line.startswith(('pip', '#SBATCH')):
                continue
            assert results[1] in known, line
            visited.add(results[1])
            for option in re.findall(r'(?<= )--?[a-z][\w-]*', results[2]):
                assert option in known[results[1]], (option, line)
    assert len(documents) == 6 and visited == {
        'crossmodal run',
        'crossmodal features',
        'dask scheduler',
        'dask worker',
        'torchrun',
    }
