"Processes that are killed, stopped, or run into each other: nobody computes on, and nothing is computed twice."

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
from conftest import manifest, notebook, ok
from test_book import small
from test_runner import cli, crossmodal, records, root

from crossmodal_nb.core import files
from crossmodal_nb.core.files import locked
from crossmodal_nb.report import book
from crossmodal_nb.runs import kernels, runner

busy = """
import os, subprocess, sys
from pathlib import Path
begun, free = Path(f'../../begun{level}'), Path('../../free')
if not free.exists():
    subprocess.Popen([sys.executable, '-c', 'import signal; signal.sigwait({signal.SIGINT})'])
    begun.write_text(str(os.getpid()))
    while not free.exists():
        sum(range(10_000))
with open('../../computed', 'a') as f:
    f.write(f'{level} ')
"""
quick = 'from crossmodal_nb.runs import record\nrecord.machine = dict  # without a second of torch\n' + ok
two = (
    '[one]\nnotebook = "10_toy.ipynb"\nparams = {level = 0.5}\n'
    '[two]\nnotebook = "10_toy.ipynb"\nparams = {level = 0.25}\n'
)


@contextlib.contextmanager
def started(folder, *args, path='', program=cli):
    "The program in a process, which is killed at the end, with the processes that it has then"
    environment = os.environ | dict(PYTHONPATH=os.pathsep.join([path, str(root)]))
    pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pipes['preexec_fn'] = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # nohup may be around these tests
    with subprocess.Popen([*program, *args], cwd=folder, env=environment, **pipes) as p:
        try:
            yield p
        finally:
            for each in [*descendants(p), p]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()


def descendants(program):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(program.pid).children(recursive=True)
    return []


def wait_for(program, *files):
    while not all(f.exists() for f in files):
        assert program.poll() is None, program.stderr.read()
        time.sleep(0.05)


def ended(process):
    "Computes no more: gone, or dead and not yet reaped by who has adopted it"
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def all_end(processes):
    "Waits until all have ended; a loaded machine may take its time"
    until = time.monotonic() + 60
    while not all(map(ended, processes)) and time.monotonic() < until:
        time.sleep(0.05)
    return all(map(ended, processes))


def waits(program, task):
    "The line in which a process says for whom it waits"
    while 'waiting' not in (line := program.stdout.readline()):
        assert line, program.stderr.read()
    assert f'another process that {task} (process ' in line and f' on {socket.gethostname()}, since ' in line
    return int(line.split('(process ')[1].split()[0])


def test_a_killed_run_leaves_nobody_computing_and_who_waits_goes_on(house):
    notebook(house, busy + quick)
    manifest(house, two)
    with started(house, 'run', '-j', '2') as killed:
        wait_for(killed, house / 'begun0.5', house / 'begun0.25')
        processes = descendants(killed)
        busy_kernels = {int((house / f'begun{level}').read_text()) for level in (0.5, 0.25)}
        assert busy_kernels < {p.pid for p in processes}
        with started(house, 'run', 'one') as second:
            key = next((house / 'work' / 'records' / 'one').glob('*.part.ipynb')).name.split('.')[0]
            assert waits(second, f'computes one {key}') in {p.pid for p in processes}
            killed.kill()
            assert all_end(processes) and not records(house)
            (house / 'free').touch()
            assert '1 ran, 0 failed' in second.communicate()[0] and second.returncode == 0
    assert [(r['experiment'], r['status']) for r in records(house)] == [('one', 'ok')]


facts = """
import json, os, sys
from pathlib import Path
import matplotlib
import numpy as np
if level == 0.25:
    os._exit(3)
names = sorted(n for n in os.environ if not n.startswith(('JPY_', 'PYTEST_')))
own = os.getpgrp() == os.getpid()
said = [os.getcwd(), __name__, sys.executable, names, os.environ['OWN'], matplotlib.get_backend(), own]
Path(f'../../{level}.json').write_text(json.dumps([said, 'lightning_fabric' in sys.modules, np.random.random()]))
"""


@pytest.mark.skipif(not kernels.forks(), reason='kernels are not forked on this system')
def test_a_forked_kernel_is_like_a_new_one_and_one_that_dies_takes_no_other_along(house, monkeypatch):
    monkeypatch.setenv('OWN', 'a value')
    notebook(house, facts + quick)
    levels = [0.5, 0.25, 0.125, 0.75]
    entries = [f'[toy{n}]\nnotebook = "10_toy.ipynb"\nparams = {{level = {x}}}\n' for n, x in enumerate(levels)]
    told = []
    for some in entries[:2], entries[1:]:
        manifest(house, ''.join(some))
        with started(house, 'run') as program:  # not in this process, whose server may have begun with other imports
            told.append(program.communicate()[0])
    new, imported, _ = json.loads((house / '0.5.json').read_text())
    assert not imported
    (first, yes, a), (second, _, b) = (json.loads((house / f'{x}.json').read_text()) for x in (0.125, 0.75))
    assert first == second == new and yes and a != b
    assert all('1 failed' in t and 'Kernel died' in t for t in told)
    assert [(r['experiment'], r['status']) for r in records(house)] == [
        ('toy0', 'ok'),
        ('toy1', 'failed'),
        ('toy2', 'ok'),
        ('toy3', 'ok'),
    ]


@pytest.mark.skipif(not kernels.forks(), reason='kernels are not forked on this system')
def test_forked_kernels_end_with_a_killed_run(house):
    notebook(house, busy + quick)
    manifest(house, two + '[three]\nnotebook = "10_toy.ipynb"\n')
    with started(house, 'run') as killed:
        wait_for(killed, house / 'begun0.5')
        processes = descendants(killed)
        assert int((house / 'begun0.5').read_text()) in {p.pid for p in processes}
        killed.kill()
        assert all_end(processes) and not records(house)


asked_to_end = """
import asyncio
from multiprocessing.context import BaseContext
from crossmodal_nb.runs.kernels import ForkingManager

BaseContext.set_forkserver_preload = lambda *_: None  # without seconds of torch

async def main():
    for how in 'terminate', 'kill':
        manager = ForkingManager()
        await manager.start_kernel()
        await getattr(manager.provisioner, how)()
        print(how, await manager.provisioner.wait())

asyncio.run(main())
"""


@pytest.mark.skipif(not kernels.forks(), reason='kernels are not forked on this system')
def test_a_forked_kernel_ends_when_jupyter_asks_for_it(tmp_path):
    with started(tmp_path, program=[sys.executable, '-c', asked_to_end]) as program:
        said, complaints = program.communicate()
    assert said.splitlines() == [f'terminate {-signal.SIGTERM}', f'kill {-signal.SIGKILL}'], complaints


def test_what_another_process_has_computed_meanwhile_is_taken(house, monkeypatch):
    notebook(house, busy + quick)
    (house / 'free').touch()
    monkeypatch.chdir(house)
    (job,) = runner.plan()
    for said in (' s', ' of another process'):
        failed, line, _ = runner._execute(job)
        assert not failed and line.endswith(said)
    assert (house / 'computed').read_text() == '0.5 ' and records(house)[0]['status'] == 'ok'


@pytest.mark.parametrize('sent, jobs', [('SIGTERM', '1'), ('SIGHUP', '2')])
def test_a_signal_ends_a_run_with_one_line(house, sent, jobs):
    notebook(house, busy + quick)
    with started(house, 'run', '-j', jobs) as program:
        wait_for(program, house / 'begun0.5')
        processes = descendants(program)
        program.send_signal(getattr(signal, sent))
        error = program.communicate()[1]
    assert program.returncode == 128 + getattr(signal, sent)
    assert f'crossmodal: stopped by {sent}. ' in error and 'Task exception' not in error
    assert all_end(processes) and not records(house)
    (house / 'free').touch()
    assert '1 ran, 0 failed' in crossmodal(house, 'run', check=0)


def test_a_killed_book_takes_its_builder_along_and_the_next_one_builds(tmp_path):
    small(tmp_path)
    fake = tmp_path / 'fake' / 'jupyter_book' / 'cli'
    fake.mkdir(parents=True)
    for folder in (fake, fake.parent):
        (folder / '__init__.py').touch()
    (fake / 'main.py').write_text(
        'import os, sys, time\nfrom pathlib import Path\n\ndef main():\n    Path("building").touch()\n'
        '    while not Path("free").exists(): time.sleep(.05)\n'
        '    html = Path(sys.argv[sys.argv.index("--path-output") + 1]) / "_build" / "html"\n'
        '    html.mkdir(parents=True)\n    (html / "index.html").touch()\n'
    )
    with started(tmp_path, 'book', path=str(tmp_path / 'fake')) as killed:
        wait_for(killed, tmp_path / 'building')
        processes = descendants(killed)
        assert len(processes) > 1
        with started(tmp_path, 'book', path=str(tmp_path / 'fake')) as second:
            assert waits(second, 'builds this report') == killed.pid
            killed.kill()
            assert all_end(processes) and not (tmp_path / 'book' / '_build' / 'html').exists()
            (tmp_path / 'free').touch()
            assert 'index.html' in second.communicate()[0] and second.returncode == 0


def test_a_published_page_does_not_say_on_which_machine_another_process_worked(tmp_path):
    with locked(tmp_path / 'a', 'fits CCA'):
        who = files._who(tmp_path / '.a.owner')
    assert f'{os.getpid()} on {socket.gethostname()}' in who
    assert book._nameless(f'waiting for another process that fits CCA{who}', tmp_path).endswith('that fits CCA')


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='this system has no device that is always full')
def test_a_full_disk_stops_neither_later_entries_nor_the_summary(house, monkeypatch):
    notebook(house, quick)
    manifest(house, two)
    monkeypatch.chdir(house)
    job = runner.plan(['one'])[0]
    half, record = job['path'].with_suffix('.part.ipynb'), job['path']
    record.parent.mkdir(parents=True)
    half.symlink_to('/dev/full')
    record.with_name(f'.{record.name}.{os.getpid()}.part').symlink_to('/dev/full')
    output = crossmodal(house, 'run', check=1)
    assert '1 ran, 1 failed' in output and output.count('No space left on device') == 2
    assert (
        f'FAILED: {half}: ' in output and f'its record was not written: [Errno 28] could not write {record}' in output
    )
    assert [(r['experiment'], r['status']) for r in records(house)] == [('two', 'ok')]


@pytest.mark.parametrize('start', ['spawn(forever, 2)', 'isolated(forever, 0)'])
def test_workers_end_with_the_process_that_started_them(tmp_path, start):
    (tmp_path / 'busy.py').write_text(
        'import os\nfrom pathlib import Path\n\ndef forever(*args):\n'
        '    Path(f"begun{os.environ.get(\'RANK\', 1)}").touch()\n    while True: sum(range(10_000))\n'
    )
    code = (
        'from busy import forever\nfrom crossmodal_nb.core.processes import spawn\n'
        f'from crossmodal_nb.data.readers import isolated\n{start}'
    )
    with started(tmp_path, code, path=str(tmp_path), program=[sys.executable, '-c']) as killed:
        wait_for(killed, tmp_path / 'begun1')
        processes = descendants(killed)
        killed.kill()
        assert all_end(processes)


@pytest.mark.skipif(sys.platform != 'linux', reason='orphans are adopted on Linux')
def test_a_benchmark_counts_what_outlives_its_command():
    burn = 'import time\nwhile time.process_time() < 1: pass'
    orphan = ['sh', '-c', '"$0" -c "$1" > /dev/null 2>&1 &', sys.executable, burn]
    program = f'import bench_all; print(bench_all.cpu_seconds({orphan}, "."))'
    said = subprocess.run(
        [sys.executable, '-c', program], cwd=root / 'tests', capture_output=True, text=True, check=True
    )
    assert float(said.stdout) >= 1
