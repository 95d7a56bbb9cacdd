"The runner with real kernels: refusals, failures that are kept, kill and resume, and what makes a record stale."

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import manifest, notebook, ok
from typer.testing import CliRunner

from crossmodal_nb.cli import app
from crossmodal_nb.core.checksums import answers
from crossmodal_nb.runs import keys, record, runner

root = Path(__file__).parent.parent
cli = [sys.executable, '-c', 'from crossmodal_nb.cli import app; app()']


def crossmodal(house, *args, check=None):
    "What the program prints, in this process: without seconds of imports. A crash is raised"
    with contextlib.chdir(house):
        done = CliRunner().invoke(app, args)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    if check is not None:
        assert done.exit_code == check, done.output
    return done.output


def records(house, folder='records'):
    return [json.loads(f.read_text()) for f in sorted((house / 'work' / folder).rglob('*.json'))]


def test_runs_once_then_keeps(house):
    crossmodal(house, 'run', check=0)
    (r,) = records(house)
    assert r['status'] == 'ok' and r['rows'][0]['value'] == 0.5 and r['seconds'] > 0 and r['experiment'] == 'toy'
    old = (house / 'work' / 'records' / 'toy' / f'{r["key"]}.json').stat().st_mtime_ns
    assert '0 to run' in crossmodal(house, 'run', check=0)
    assert (house / 'work' / 'records' / 'toy' / f'{r["key"]}.json').stat().st_mtime_ns == old


def test_undeclared_parameter_is_refused_with_the_nearest(house):
    manifest(house, '[toy]\nnotebook = "10_toy.ipynb"\nparams = {levle = 0.5}\n')
    output = crossmodal(house, 'run')
    assert "'levle'" in output and "'level'" in output and not (house / 'work' / 'records').exists()


def test_an_unknown_chapter_is_refused_with_the_nearest(house):
    manifest(house, '[toy]\nnotebook = "10_toy.ipynb"\nchapter = "dta"\n')
    output = crossmodal(house, 'plan')
    assert "'dta'" in output and "'data'" in output
    manifest(house, '[toy]\nnotebook = "10_toy.ipynb"\nchapter = "data"\n')
    assert 'new' in crossmodal(house, 'plan', check=0)


@pytest.mark.parametrize('name', ['api_key', 'password'])
def test_a_secret_is_refused(house, name):
    nb = house / 'nbs' / 'experiments' / '10_toy.ipynb'
    nb.write_text(nb.read_text().replace('level = 0.1', f"level = 0.1\\n{name} = ''"))
    manifest(house, f'[toy]\nnotebook = "10_toy.ipynb"\nparams = {{{name} = "x"}}\n')
    assert 'secret' in crossmodal(house, 'run')


def test_unknown_experiment_gets_the_nearest(house):
    assert "'toy'" in crossmodal(house, 'run', 'tyo')


def test_a_failure_is_kept_and_the_others_go_on(house):
    notebook(house, 'print("half way")\n1/0', '20_bad')
    manifest(house, '[bad]\nnotebook = "20_bad.ipynb"\n[toy]\nnotebook = "10_toy.ipynb"\n')
    output = crossmodal(house, 'run', check=1)
    by_experiment = {r['experiment']: r for r in records(house)}
    assert (
        by_experiment['toy']['status'] == 'ok'
        and by_experiment['bad']['status'] == 'failed'
        and 'ZeroDivisionError' in by_experiment['bad']['error']
        and 'ZeroDivisionError' in output
    )
    (half,) = (house / 'work' / 'records' / 'bad').glob('*.part.ipynb')
    assert 'half way' in half.read_text()


def test_a_change_makes_stale_and_says_which(house):
    crossmodal(house, 'run', check=0)
    notebook(house, ok + '\n# another line\nx = 1')
    output = crossmodal(house, 'plan', check=0)
    assert 'stale' in output and 'notebook' in output
    assert '0 to run' in crossmodal(house, 'run', check=0) and '1 to run' in crossmodal(
        house, 'run', '--stale', check=0
    )


def test_a_summary_alone_reads_what_is_there_and_is_stale_when_that_is_made_anew(house):
    notebook(house, ok, '20_both')
    manifest(house, '[toy]\nnotebook = "10_toy.ipynb"\n[both]\nnotebook = "20_both.ipynb"\nneeds = ["toy"]\n')
    crossmodal(house, 'run', check=0)
    notebook(house, ok + '\nx = 1')
    notebook(house, ok + '\ny = 1', '20_both')
    assert '1 to run' in crossmodal(house, 'run', 'both', '--stale', '--only', check=0)
    status = {line.split()[0]: line for line in crossmodal(house, 'plan', check=0).splitlines() if line}
    assert 'stale' in status['toy'] and 'kept' in status['both']
    assert '1 to run' in crossmodal(house, 'run', 'toy', '--stale', check=0)
    status = {line.split()[0]: line for line in crossmodal(house, 'plan', check=0).splitlines() if line}
    assert 'kept' in status['toy'] and 'data changed' in status['both']


def test_a_report_is_computed_here_and_leaves_what_was_published(house):
    manifest(house, '[toy]\nnotebook = "10_toy.ipynb"\nreport = true\n')
    crossmodal(house, 'run', check=0)
    shutil.move(house / 'work' / 'records', house / 'book' / 'records')
    published = {f: f.read_bytes() for f in (house / 'book' / 'records').rglob('*') if f.is_file()}
    assert 'published' in crossmodal(house, 'run', check=0) and not records(house)
    crossmodal(house, 'run', '--report', check=0)
    assert len(records(house)) == 1 and published == {
        f: f.read_bytes() for f in (house / 'book' / 'records').rglob('*') if f.is_file()
    }


def test_a_summary_of_published_runs_holds_where_their_data_is_absent(house, monkeypatch):
    manifest(house, '[toy]\nnotebook = "10_toy.ipynb"\n[both]\nnotebook = "10_toy.ipynb"\nneeds = ["toy"]\n')
    crossmodal(house, 'run', check=0)
    shutil.move(house / 'work' / 'records', house / 'book' / 'records')
    monkeypatch.chdir(house)
    original = keys.digests
    monkeypatch.setattr(record, 'digests', lambda *a: original(*a) | dict(data=None))
    assert [j['status'] for j in runner.plan()] == ['published'] * 2 and all(
        j['key'] == j['path'].stem for j in runner.plan()
    )


def test_what_the_manifest_no_longer_asks_for_is_set_aside(house):
    crossmodal(house, 'run', check=0)
    manifest(house, '[toy]\nnotebook = "10_toy.ipynb"\nparams = {level = 0.7}\n')
    crossmodal(house, 'run', check=0)
    kept, aside = (
        [json.loads(f.read_text()) for f in (house / 'work' / 'records' / 'toy').glob(p)]
        for p in ('*.json', 'superseded/*.json')
    )
    assert [r['params']['level'] for r in kept] == [0.7] and [r['params']['level'] for r in aside] == [0.5]


def test_test_split_needs_final(house):
    notebook(house, ok.replace("'valid'", "'test'"))
    assert 'final' in crossmodal(house, 'run', check=1)


def test_a_smoke_run_tries_every_experiment():
    "`make test` runs their notebooks once; a method's template and `crossmodal try` are no entries"
    folder = root / 'nbs' / 'experiments'
    entries = runner.manifest(folder / 'experiments.toml').values()
    notebooks = {p.name for p in folder.glob('[0-9]*.ipynb')} - {'00_method.ipynb', '02_try.ipynb'}
    assert {e['notebook'] for e in entries} == notebooks


def test_smoke_has_a_folder_of_its_own(house):
    crossmodal(house, 'run', '--smoke', check=0)
    assert not records(house) and records(house, 'smoke')[0]['rows'][0]['value'] == 0.1


def test_killed_run_leaves_nothing_half_and_the_next_one_finishes(house):
    wait = """
import os, time
from pathlib import Path
begun, parent = Path('../../begun'), os.getppid()
if not begun.exists():
    begun.touch()
    while os.getppid() == parent: time.sleep(.05)
    os._exit(1)
"""
    notebook(house, wait + ok)
    p = subprocess.Popen(
        [*cli, 'run'],
        cwd=house,
        env=os.environ | dict(PYTHONPATH=str(root)),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    while not (house / 'begun').exists():
        assert p.poll() is None
        time.sleep(0.05)
    os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    assert not records(house) and list((house / 'work' / 'records').rglob('*.part.ipynb'))
    crossmodal(house, 'run', check=0)
    assert [r['status'] for r in records(house)] == ['ok']


def test_outside_a_checkout_the_experiments_are_those_of_the_package(tmp_path):
    assert 'cca_emoji' in crossmodal(tmp_path, 'plan', 'cca_emoji', check=0)


def test_a_second_plan_reads_only_what_has_changed(house, monkeypatch):
    crossmodal(house, 'run', check=0)
    first, reads, read = crossmodal(house, 'plan', check=0), [], record.read
    monkeypatch.setattr(record, 'read', lambda *args, **more: reads.append(args) or read(*args, **more))
    monkeypatch.setattr(keys, 'index', lambda: pytest.fail('the code is looked at'))
    assert crossmodal(house, 'plan', check=0) == first and ' kept ' in first and not reads
    (file,) = (house / 'work' / 'records' / 'toy').glob('*.json')
    text, state = file.read_text(), file.stat()
    file.write_text(text.replace('"ok"', '"no"'))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))  # of equal size and age
    assert 'is left out' in crossmodal(house, 'plan', check=0) and reads
    file.write_text(text)
    assert crossmodal(house, 'plan', check=0) == first


def test_a_data_set_is_read_again_when_a_byte_below_its_folder_has_changed(tmp_path, monkeypatch):
    (tmp_path / 'settings.ini').write_text('[crossmodal]\n')
    monkeypatch.chdir(tmp_path)
    folder, entry = tmp_path / 'set', dict(embedded=False)
    (folder / 'inner').mkdir(parents=True)
    file = folder / 'inner' / 'a'
    file.write_text('12')
    monkeypatch.setattr(runner, 'find_entry', lambda name: (None, entry))
    monkeypatch.setattr(runner, 'find_folder', lambda entry, root: (folder, []))
    monkeypatch.setattr(runner, 'files_asked', lambda name, options: options)
    reads = []

    def look(name, root=None, **options):
        reads.append(name)
        return file.read_text()

    def digest(**options):
        with answers('test') as ask:
            return runner._once(look, ask, 'code')('set', **options)

    assert [digest(), digest(), digest(part=1), digest(part=1)] == ['12'] * 4 and len(reads) == 2
    state = file.stat()
    file.write_text('21')
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert digest() == '21' and len(reads) == 3
    (folder / 'b').write_text('')
    assert digest() == '21' and len(reads) == 4
    (folder / 'elsewhere').symlink_to(tmp_path)  # what is there is not watched
    assert digest() == digest() == '21' and len(reads) == 6
    (folder / 'elsewhere').unlink()
    (folder / 'inside').symlink_to('inner')
    assert digest() == digest() == '21' and len(reads) == 7
    entry['own'] = True
    assert digest() == digest() == '21' and len(reads) == 9
