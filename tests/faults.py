"""What a killed process, a damaged file, a full disk and a folder that cannot be written leave behind, counted.

Commands run on a tiny world of 40 rows, in processes forked from this one. `faults.c` counts their write operations and
those of all their children below the world; at the k-th one it kills them (before it, or after half of it is written),
or the disk is full from there on. Then everything is read again and compared with an undisturbed world: each result
must be the earlier one or the new one, and the same command must end with the new one. Linux, with a C compiler.

    python tests/faults.py --seed 1                      # a few points
    python tests/faults.py --seed 1 --full --out FILE    # all of them: about half an hour of one core
"""

import argparse
import collections
import contextlib
import ctypes
import hashlib
import json
import mmap
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

here = Path(__file__).parent
modes = dict(count=0, kill=1, tear=2, full=3)


# ---------------------------------------------------------------- the library that disturbs, and what is shared with it
class Control:
    "The memory that `faults.c` shares with us"

    layout = struct.Struct('=qqiiii512s')

    def __init__(self, path, root):
        self.path, self.root = Path(path), str(root)
        with open(path, 'r+b') as f:
            self.memory = mmap.mmap(f.fileno(), self.layout.size)

    def set(self, mode='count', at=0, log=False):
        self.path.with_name(f'{self.path.name}.log').write_text('')
        values = 0, at, modes[mode], 0, 0, log, self.root.encode()
        self.memory[:] = self.layout.pack(*values)

    def arm(self, leader):
        struct.pack_into('=ii', self.memory, 20, leader, 1)

    def disarm(self):
        struct.pack_into('=i', self.memory, 24, 0)

    @property
    def count(self):
        return struct.unpack_from('=q', self.memory)[0]

    def log(self):
        "(operation, path) of each write of the last command"
        lines = self.path.with_name(f'{self.path.name}.log').read_text(errors='replace').splitlines()
        return [tuple(line.split('\t', 1)) for line in lines if '\t' in line]


def preloaded():
    "Start this script again with the library; only there it returns"
    if 'FAULTS_CONTROL' in os.environ:
        return Path(os.environ['FAULTS_CONTROL']).parent
    memory = '/dev/shm' if os.access('/dev/shm', os.W_OK) else None
    kept = os.environ.get('FAULTS_FOLDER')  # stages stay there for the next time
    folder = Path(kept or tempfile.mkdtemp(prefix='faults-', dir=memory))
    try:
        folder.mkdir(exist_ok=True)
        build = ['cc', '-O1', '-shared', '-fPIC', '-o', folder / 'faults.so', here / 'faults.c', '-ldl']
        subprocess.run(build, check=True)
        (folder / 'control').write_bytes(bytes(Control.layout.size))
        (folder / 'control.log').write_text('')
        more = dict(LD_PRELOAD=str(folder / 'faults.so'), FAULTS_CONTROL=str(folder / 'control'), OMP_NUM_THREADS='1')
        home = folder / 'home'
        home.mkdir(exist_ok=True)
        more |= dict(
            HOME=str(home), PYTHONDONTWRITEBYTECODE='1', HF_HUB_OFFLINE='1', PYDEVD_DISABLE_FILE_VALIDATION='1'
        )
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=os.environ | more).returncode)
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


# ---------------------------------------------------------------- commands in forked processes
@dataclass
class Done:
    "How a command ended"

    code: int
    out: str  # Standard output
    err: str  # Standard error
    left: int = 0  # Processes that outlived it

    @property
    def text(self):
        return f'{self.out}\n{self.err}'


class Forks:
    "Runs functions in processes of their own, which have all modules loaded already"

    def __init__(self, folder, quick=False):
        self.folder, self.world = folder, folder / 'world'
        self.control = Control(folder / 'control', self.world)
        self.control.set()
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # orphans of commands become children of this process
        preload(quick)

    def run(self, task, mode='count', at=0, log=False, ordinary=False, limit=400):
        "Run a list of arguments of `crossmodal`, or a function, in the world"
        self.control.set(mode, at, log)
        outputs = self.folder / 'stdout', self.folder / 'stderr'
        child = os.fork()
        if child == 0:
            self._child(task, outputs, ordinary)
        code = self._wait(child, limit)
        self.control.disarm()
        left = self._end_children()
        return Done(code, *(f.read_text(errors='replace') for f in outputs), left)

    def _child(self, task, outputs, ordinary):
        code = 70
        try:
            os.setsid()
            for stream, output in enumerate(outputs, 1):
                os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), stream)
            os.chdir(self.world)
            if ordinary:
                give_up_privileges()
            self.control.arm(os.getpid())
            code = perform(task)
        except SystemExit as e:
            code = e.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)

    def _wait(self, child, limit):
        end = time.time() + limit
        while time.time() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise TimeoutError(f'a command took more than {limit} s')

    def _end_children(self):
        "Kill what a command has left running for some seconds; how many processes it was"
        import psutil

        ended, patience = set(), time.time() + 5
        while time.time() < patience and any(
            c.is_running() and c.status() != psutil.STATUS_ZOMBIE for c in psutil.Process().children(recursive=True)
        ):
            time.sleep(0.05)
        while children := psutil.Process().children():
            for c in children:
                if c.status() != psutil.STATUS_ZOMBIE:
                    ended.add(c.pid)
                    with contextlib.suppress(psutil.NoSuchProcess):
                        c.kill()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, 0)[0]:
                    pass
        return len(ended)

    def ask(self, look):
        "What a function without arguments gives, called in a process of its own in the world; plain data"
        answer = self.folder / 'answer'

        def tell():
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                answer.write_text(json.dumps(look()))
            return 0

        done = self.run(tell)
        if done.code:
            raise RuntimeError(done.text)
        return json.loads(answer.read_text())


def give_up_privileges():
    "From now on permissions hold for this process and its children, also where it belongs to root"
    libc, override, read = ctypes.CDLL(None, use_errno=True), 1, 2
    for privilege in (override, read):
        libc.prctl(24, privilege, 0, 0, 0)
    header, data = ctypes.create_string_buffer(struct.pack('=Ii', 0x20080522, 0)), ctypes.create_string_buffer(24)
    libc.capget(header, data)
    kept = [word & ~(1 << override | 1 << read) if i < 3 else word for i, word in enumerate(struct.unpack('=6I', data))]
    if libc.capset(header, ctypes.create_string_buffer(struct.pack('=6I', *kept), 24)):
        raise OSError(ctypes.get_errno(), 'capset')


def perform(task):
    if callable(task):
        return task()
    from crossmodal_nb.cli import app

    app(task, prog_name='crossmodal')


def preload(quick):
    "Import what commands need, and read the package once"
    import joblib  # noqa: F401
    import papermill
    import sklearn.cross_decomposition  # noqa: F401
    import torch

    from crossmodal_nb import cli, explorer, search, trial, verification  # noqa: F401
    from crossmodal_nb.data import folder_reader  # noqa: F401
    from crossmodal_nb.encoders.text import TfIdf
    from crossmodal_nb.methods import dual_encoder, linear  # noqa: F401
    from crossmodal_nb.report import book, staging  # noqa: F401
    from crossmodal_nb.runs import reach, runner  # noqa: F401

    if quick:
        papermill.execute_notebook = execute_here
    torch.set_num_threads(1)
    TfIdf.shard = 9  # stores are written in several steps
    reach.index()


def execute_here(notebook, output, parameters, cwd, **options):
    "A notebook without a kernel of its own, for `--quick`: its cells in this process, as papermill writes them"
    from papermill.iorw import load_notebook_node, write_ipynb
    from papermill.parameterize import parameterize_notebook

    page = parameterize_notebook(load_notebook_node(str(notebook)), parameters)
    write_ipynb(page, str(output))
    sources = [c.source for c in page.cells if c.cell_type == 'code']
    names = dict(In=sources, display=print, __name__='__main__')
    os.chdir(cwd)
    for source in sources:
        exec(compile(source, 'cell', 'exec'), names)
    write_ipynb(page, str(output))


# ---------------------------------------------------------------- the world
words = (
    'apple bread carrot date egg fig grape honey iris juice kale lemon mint nut olive pear quince rice salt tea'.split()
)


def table():
    "40 rows: a title of two words, a text that holds them among others, a class, a split"
    draw, lines = random.Random(7), ['title,text,label,split']
    for i in range(40):
        a, b = words[i % 20], words[(i * 7 + 3) % 20]
        rest = ' '.join(draw.sample(words, 3))
        split = 'test' if i % 5 == 4 else 'valid' if i % 5 == 3 else 'train'
        lines.append(f'{a} with {b} {i},{b} and {a} then {rest},{("sweet", "savoury")[i % 2]},{split}')
    return '\n'.join(lines) + '\n'


encoder = ['--encoder', 'text=TfIdf']
mine = 'work/records/first'
tried = ['try', 'mine']


def empty_world(world):
    "A checkout without experiments of the project, with the hand-written pages of its book"
    root = here.parent
    world.mkdir()
    (world / 'settings.ini').write_text('[crossmodal]\n')
    (world / 'nbs' / 'experiments').mkdir(parents=True)
    (world / 'nbs' / 'experiments' / 'experiments.toml').write_text('')
    shutil.copy(root / 'nbs' / 'experiments' / '02_try.ipynb', world / 'nbs' / 'experiments')  # what `data add` names
    (world / 'book').mkdir()
    for f in root.joinpath('book').iterdir():
        if f.suffix in ('.yml', '.bib') or f.name in ('index.md', 'references.md', 'glossary.md'):
            shutil.copy(f, world / 'book')
    for folder in ('_extra', '_static'):
        shutil.copytree(root / 'book' / folder, world / 'book' / folder)
    (world / 'mine.csv').write_text(table())


def sweep(*dims):
    def write():
        from crossmodal_nb import trial

        trial.write_entry('first', dict(notebook='first.ipynb', final=True, sweep=dict(dims=[[d] for d in dims])))
        return 0

    return write


def index_of(dim):
    return ['index', 'mine', *encoder, '--set', f'dim={dim}', '--split', 'test']


def interrupted():
    "Leaves unfinished stores: the process ends at the third shard"
    from crossmodal_nb.encoders.text import TfIdf

    calls, whole = [], TfIdf.__call__

    def fails(self, rows):
        calls.append(1)
        if len(calls) == 3:
            os._exit(0)
        return whole(self, rows)

    TfIdf.__call__ = fails
    perform(['features', 'mine', *encoder])


def package_archive(folder):
    "The package of recipes, packed again from what is unpacked on this machine; None if it is not here"
    from crossmodal_nb.core.fetch import packages
    from crossmodal_nb.core.settings import settings

    name = f'{packages["recipes"][1]}-{packages["recipes"][2]}'
    found = [d / 'packages' / name for d in settings(here).data if (d / 'packages' / name).is_dir()]
    if not found:
        return None
    with zipfile.ZipFile(folder / 'recipes.zip', 'w', zipfile.ZIP_DEFLATED) as z:
        for f in sorted(p for p in found[0].rglob('*') if p.is_file() and not p.name.startswith('SHA256')):
            z.write(f, f.relative_to(found[0]))
    return folder / 'recipes.zip'


def from_archive(archive):
    "Packages come from an archive of this machine instead of a registry"
    from crossmodal_nb.core import fetch

    client, name, version, _, *rest = fetch.packages['recipes']
    sha = hashlib.sha256(archive.read_bytes()).hexdigest()
    fetch.packages['recipes'] = (client, name, version, sha, *rest)

    def download(client, package, version, folder):
        folder.mkdir(parents=True)
        return Path(shutil.copy(archive, folder / 'recipes.zip'))

    fetch._download = download


class Worlds:
    "The stages of the world; each is made when it is first asked for, and copied"

    def __init__(self, forks):
        self.forks, self.copies = forks, forks.folder / 'stages'
        self.copies.mkdir(exist_ok=True)
        add = ['data', 'add', 'mine', 'mine.csv', '--text', 'title', '--text', 'text', '--label', 'label']
        self.add = [*add, '--split', 'split', '--licence', 'CC BY 4.0']
        first = ['features', 'mine', *encoder], ['new', 'first', 'mine', *encoder], sweep(2), ['run', 'first']
        self.stages = {  # name: the stage before, and commands
            'added': ('empty', [self.add]),
            'interrupted': ('added', [interrupted]),
            'one run': ('added', [*first, index_of(2), ['publish', 'first'], sweep(2, 3, 4)]),
            'one book': ('one run', [['book', '--only-mine']]),
            'ran': ('one run', [['run', 'first', '-j', '2']]),
            'ran, one book': ('one book', [['run', 'first', '-j', '2']]),
            'all': ('ran', [['explore', 'mine'], keep_method, ['publish', 'first']]),
            'trained': ('added', [[*tried, *encoder, '--method', 'CLIP', '--epochs', '1', '--seeds', '1']]),
            'published': ('all', [without_records]),
            'fetched': ('empty', [['data', 'get', 'recipes']]),
        }

    def go(self, name):
        "Make the world what it was at a stage"
        if not (self.copies / name).exists():
            self._make(name)
        shutil.rmtree(self.forks.world, ignore_errors=True)
        copy_of(self.copies / name, self.forks.world)

    def _make(self, name):
        if name == 'empty':
            shutil.rmtree(self.forks.world, ignore_errors=True)
            empty_world(self.forks.world)
        else:
            before, tasks = self.stages[name]
            self.go(before)
            for task in tasks:
                done = self.forks.run(task)
                if done.code:
                    raise RuntimeError(f'{task}: {done.text}')
        copy_of(self.forks.world, self.copies / name)


def without_records():
    shutil.rmtree('work/records')
    return 0


def copy_of(a, b):
    subprocess.run(['cp', '-a', '--reflink=auto', a, b], check=True)


# ---------------------------------------------------------------- a method and a training, saved
def training(folder, epochs):
    from crossmodal_nb.data.synthetic import make_gaussian_views
    from crossmodal_nb.methods.dual_encoder import CLIP
    from crossmodal_nb.nn.trainer import Trainer

    trainer = Trainer(epochs=epochs, batch=20, ckpt=str(folder), accelerator='cpu', devices=1)
    return CLIP(dim=2, trainer=trainer).fit(make_gaussian_views(40, seed=0))


def keep_method():
    from crossmodal_nb.data.synthetic import make_gaussian_views
    from crossmodal_nb.methods.linear import CCA

    CCA(dim=2).fit(make_gaussian_views(60, seed=0)).save('work/kept/method')
    training(Path('work/kept/training'), 2)
    return 0


# ---------------------------------------------------------------- everything that can be read, by public readers
def see_features():
    from crossmodal_nb.core.files import digest
    from crossmodal_nb.encoders.store import stored

    out = {}
    for folder in sorted(Path('work/features').glob('*/[!.]*')):
        if folder.is_dir() and folder.suffix != '.part':
            x, _ = stored(folder)
            out[str(folder)] = digest(*(x[p] for p in sorted(x)))
    return out


def scores(record):
    kept = ('method', 'metric', 'query', 'gallery', 'pool', 'split', 'value', 'low', 'high')
    return sorted(json.dumps([r.get(k) for k in kept]) for r in record['rows'])


def see_records(local=True):
    from crossmodal_nb.runs.record import runs

    where = [r for r in runs('first') if r['published'] != local]
    return {f'{r["experiment"]} {r["params"]["dims"]}': scores(r) for r in where}


def see_tried():
    from crossmodal_nb.runs.record import runs

    return {f'{r["experiment"]} {r["params"]["seed"]}': scores(r) for r in runs('try_mine')}


def see_published():
    from crossmodal_nb.core.files import digest, read_notebook
    from crossmodal_nb.report.pages import good_records

    records = good_records(Path('book/records/first'))
    page = Path('book/pages/first.ipynb')
    out = {f'published {r["params"]["dims"]}': scores(r) for r in records}
    if page.exists():
        notebook = read_notebook(page)
        out['page'] = digest([c['source'] for c in notebook.cells] + [c.get('outputs') for c in notebook.cells])
        if notebook.metadata['crossmodal']['key'] not in {r['key'] for r in records}:
            out['page'] = 'its record is not there'
    return out


def see_index():
    from crossmodal_nb.search import Index

    out = {}
    for folder in sorted(Path('work/index').glob('[!.]*')):
        asked = Index.load(folder)
        for query in ('bread and apple', 'tea', 'salt with lemon'):
            hits = asked.search(query, view='text', gallery='title', k=3)
            out[f'{folder.name}: {query}'] = [[h['id'], round(h['score'], 4), h['shown']] for h in hits]
    return out


def see_book():
    from crossmodal_nb.core.files import digest

    html = Path('book/_build/html')
    pages = sorted(p for p in html.rglob('*') if p.suffix in ('.html', '.csv', '.js') and p.is_file())
    return {'book': digest(*[w for p in pages for w in (str(p), p)])} if pages else {}


def see_own():
    import tomllib

    from crossmodal_nb.datasets import own

    manifest = Path('work/experiments.toml')
    tries = tomllib.loads(manifest.read_text()) if manifest.exists() else {}
    return {f'own {k}': v for k, v in own.own().items()} | {f'entry {k}': v for k, v in tries.items()}


def see_package():
    from crossmodal_nb.core.files import digest
    from crossmodal_nb.datasets import load

    if not list(Path('work/data/packages').glob('[!.t]*')):
        return {}
    data = load('recipes')
    return {s: digest(*(w for v in views.values() for w in (list(v.x)[:50], v.ids))) for s, views in data.items()}


def see_kept():
    from crossmodal_nb.core.files import digest
    from crossmodal_nb.methods.base import Method

    state, _ = Method.load('work/kept/method').state()
    return dict(method=digest(*(state[k] for k in sorted(state))))


def see_training():
    from crossmodal_nb.core.files import digest

    state, _ = training(Path('work/kept/training'), 2).state()
    return dict(training=digest(*(state[k] for k in sorted(state))))


def seen(looks):
    "{result: what it is}, of several readers; a reader that fails says so"

    def look_at_all():
        out = {}
        for look in looks:
            try:
                out |= look()
            except Exception as e:
                out[look.__name__] = f'{type(e).__name__}: {e}'
        return out

    return look_at_all


# ---------------------------------------------------------------- commands, and what they may leave behind
@dataclass
class Command:
    "A command that writes"

    name: str
    stage: str  # The world before it
    task: object  # As in `Forks.run`
    looks: tuple  # What it changes
    slow: bool = False  # It starts other programs: fewer points, where each write is asked for


def commands(worlds):
    other = ['other', *worlds.add[3:]]
    return [
        Command('features', 'added', ['features', 'mine', *encoder], (see_features, see_own)),
        Command('run', 'one run', ['run', 'first'], (see_records, see_features), True),
        Command('run -j 2', 'one run', ['run', 'first', '-j', '2'], (see_records, see_features), True),
        Command('index', 'ran', index_of(3), (see_index,)),
        Command('publish', 'ran', ['publish', 'first'], (see_published,)),
        Command('book', 'ran, one book', ['book', '--only-mine'], (see_book,), True),
        Command('data get', 'empty', ['data', 'get', 'recipes'], (see_package,)),
        Command('data add', 'added', [*worlds.add[:2], *other], (see_own,)),
    ]


kinds = ('right', 'healed', 'refused', 'wrong', 'half', 'unnamed', 'differing')


@dataclass
class Tally:
    "A row of the table"

    what: str  # A command, or a kind of file
    fault: str  # kill, full, locked, damage
    points: int = 0
    counts: collections.Counter = field(default_factory=collections.Counter)
    left: int = 0  # Points after which processes went on
    examples: list = field(default_factory=list)  # What went wrong

    def add(self, outcome, example=''):
        self.points += 1
        self.counts[outcome] += 1
        if outcome in kinds[3:]:
            self.examples.append(f'{outcome}: {example}')
            print(f'    {outcome.upper()} {self.what}: {example[:300]} … {example[300:][-1500:]}', flush=True)

    def row(self):
        counts = {k: self.counts[k] for k in kinds}
        return dict(what=self.what, fault=self.fault, points=self.points, left=self.left, **counts)


def compared(before, after, now):
    "What is neither the earlier nor the new result: (outcome, which one); nothing if all are"
    for k, v in now.items():
        if k.startswith('see_'):
            return 'half', f'{k}: {v}'
        if v not in (before.get(k), after.get(k)) or (v is None):
            return ('half' if k in ('book', 'page') else 'wrong'), f'{k}: {str(v)[:300]}'
    for k in before.keys() & after.keys() - now.keys():
        return 'half', f'{k} is gone'
    return None


def named(text, world):
    "Whether a message names something in the world and says what to do"
    path = re.search(rf'{re.escape(str(world))}/\S+|\b(work|book)/\S+', text)
    remedy = re.search(
        r'\b(delete|restore|make|made again|run|removed|free|choose|mend|replace|fetch|fetched)\b', text.lower()
    )
    return bool(path and remedy)


class Campaign:
    "All faults of one seed"

    def __init__(self, forks, worlds, seed, out):
        self.forks, self.worlds, self.seed, self.out, self.rows = forks, worlds, seed, out, []

    def undisturbed(self, c):
        "What is there before and after a command, its number of writes, and which they are"
        self.worlds.go(c.stage)
        before = self.forks.ask(seen(c.looks))
        done = self.forks.run(c.task, log=True)
        count, log = self.forks.control.count, self.forks.control.log()
        after = self.forks.ask(seen(c.looks))
        if done.code or before == after:
            raise RuntimeError(f'{c.name}: {done.text}')
        return before, after, count, log

    def strata(self, n, points):
        "So many numbers from 1 to n, one of each part of equal length"
        edges = [round(i * n / points) for i in range(points + 1)]
        return [self.draw.randint(a + 1, b) for a, b in zip(edges, edges[1:]) if b > a]

    def begin(self, what, fault):
        self.draw = random.Random(f'{self.seed} {what} {fault}')  # the same points, whatever else is asked for
        self.rows.append(Tally(what, fault))
        return self.rows[-1]

    def end(self, row):
        if self.out:
            write_row(self.out, row.row() | dict(seed=self.seed))
        print(' '.join(f'{k}={v}' for k, v in row.row().items()), flush=True)

    # kills
    def kills(self, c, points):
        before, after, count, _ = self.undisturbed(c)
        row = self.begin(c.name, 'kill')
        for at in self.strata(count, points):
            mode = self.draw.choice(('kill', 'tear'))
            self.worlds.go(c.stage)
            done = self.forks.run(c.task, mode, at)
            row.left += done.left > 0
            place = f'{mode} at write {at} of {count}'
            self.judge(row, c, before, after, place, done)
        self.end(row)

    def judge(self, row, c, before, after, place, done=None):
        "Read everything, run the command again, read everything"
        now = self.forks.ask(seen(c.looks))
        if wrong := compared(before, after, now):
            return row.add(wrong[0], f'{place}: {wrong[1]}')
        again = self.forks.run(c.task)
        if again.code or 'Traceback' in again.text:
            return row.add(
                'unnamed' if not named(again.text, self.forks.world) else 'differing', f'{place}: {again.text}'
            )
        final = self.forks.ask(seen(c.looks))
        if final != after:
            changed = [k for k in {*final, *after} if final.get(k) != after.get(k)]
            return row.add('differing', f'{place}: {changed} {str(final.get(changed[0]))[:300]}')
        return row.add('right')

    # a full disk, and folders that cannot be written
    def full(self, c, points):
        before, after, count, log = self.undisturbed(c)
        at = [k for k, (name, _) in enumerate(log, 1) if name in ('write', 'mkdir')]
        row = self.begin(c.name, 'full')
        if len(at) > points:
            at = [at[k - 1] for k in self.strata(len(at), points)]
        for k in at:
            self.worlds.go(c.stage)
            done = self.forks.run(c.task, 'full', k)
            self.message(row, c, before, after, f'full at {k} of {count}, {log[k - 1][1]}', done)
        self.end(row)

    def locked(self, c, points):
        before, after, _, log = self.undisturbed(c)
        self.worlds.go(c.stage)
        folders = sorted({p for _, path in log if (p := Path(path).parent).is_dir()})
        row = self.begin(c.name, 'locked')
        for folder in folders if len(folders) <= points else self.draw.sample(folders, points):
            self.worlds.go(c.stage)
            with unwritable(folder):
                done = self.forks.run(c.task, ordinary=True)
            self.message(row, c, before, after, f'not writable: {folder}', done)
        self.end(row)

    def message(self, row, c, before, after, place, done):
        "A command that could not write says so, or did without"
        if 'Traceback' in done.text or (done.code and not named(done.text, self.forks.world)):
            return row.add('unnamed', f'{place}: exit {done.code}: {done.text}')
        if not done.code:
            now = self.forks.ask(seen(c.looks))
            if now != after:
                return row.add(
                    'half', f'{place}: exit 0, but {[k for k in after if now.get(k) != after[k]]}: {done.text}'
                )
        had = row.counts['right']
        self.judge(row, c, before, after, place)
        if done.code and row.counts['right'] > had:
            row.counts['right'] -= 1
            row.counts['refused'] += 1


def write_row(path, row):
    "Add a row to a file of measurements, or replace it"
    rows = json.loads(path.read_text())['rows'] if path.exists() else []
    rows = [r for r in rows if (r['what'], r['fault']) != (row['what'], row['fault'])] + [row]
    part = path.with_suffix('.part')
    part.write_text(json.dumps(dict(rows=rows), indent=1) + '\n')
    os.replace(part, path)


@contextlib.contextmanager
def unwritable(folder):
    "Nobody may write in a folder, or to its files"
    modes = {f: f.stat().st_mode for f in (folder, *folder.iterdir()) if f == folder or f.is_file()}
    for f, mode in modes.items():
        f.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for f, mode in modes.items():
            if f.exists():
                f.chmod(mode)


# ---------------------------------------------------------------- damages
def truncated(data, other, draw):
    return data[: len(data) // 2]


def emptied(data, other, draw):
    return b''


def zeroed(data, other, draw):
    return bytes(len(data))


def flipped(data, other, draw):
    at, bit = draw.randrange(max(1, len(data))), 1 << draw.randrange(8)
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :] if data else data


def swapped(data, other, draw):
    return other


def foreign(data, other, draw):
    return draw.choice([b'[]', b'{"rows": 3}', b'null', b'{}', b'"text"', b'[[1, 2], {"a": null}]'])


def gone(data, other, draw):
    return None


damages = truncated, emptied, zeroed, flipped, swapped, foreign, gone


def guarded(look):
    "A reader as a command: an expected error is its message"

    def command():
        from crossmodal_nb.core.checks import InputError, MissingError

        warnings.showwarning = lambda message, *place: print(f'note: {message}', file=sys.stderr)
        try:
            print(json.dumps(look()))
        except (InputError, MissingError, FileNotFoundError) as e:
            print(f'crossmodal: {e}', file=sys.stderr)
            return 1
        return 0

    return command


def stage_book():
    from crossmodal_nb.report.staging import stage

    return str(stage(only_mine=True))


def stage_shards():
    from crossmodal_nb.report.staging import shards

    return {name: hashlib.sha256(data).hexdigest() for name, data in shards(['work/explorer']).items()}


def see_staged():
    from crossmodal_nb.core.files import digest

    stage = Path('book/_stage')
    files = [f for f in stage.rglob('*') if f.is_file()]
    return {str(f): digest(f) for f in files if f.suffix in ('.ipynb', '.csv', '.js') or f.name == 'index.md'}


def see_explorer():
    from crossmodal_nb.core.files import digest

    return {str(f): digest(f) for f in Path('work/explorer').glob('*.js')}


def run_again():
    "Runs whose records are gone, whose fits are kept"
    shutil.rmtree('work/records')
    return perform(['run', 'try_mine'])


@dataclass
class Kind:
    "Files of one kind, and the commands that read them"

    name: str
    stage: str
    patterns: tuple
    readers: tuple  # (command, what it makes or changes)
    most: int = 3  # So many files
    deletions: tuple = ()  # Damages that are the way to be rid of what a file says
    edits: bool = False  # The user's own text: what it says is taken, as long as no score changes


features_command = ['features', 'mine', *encoder]
search_command = ['search', 'mine', 'bread and apple', '--view', 'text']
get_command = ['data', 'get', 'recipes']
board = ['board'], ()
staging = guarded(stage_book), (see_staged,)


def file_kinds():
    read_features = (features_command, (see_features,))
    records, published = 'work/records/first/', 'book/records/first/'
    index, package = 'work/index/mine/', 'work/data/packages/[!.]*/'
    reads_index = ((search_command, ()), (['explore', 'mine'], (see_explorer,)))
    shows = ['data', 'show', 'mine'], ()
    plan, publishes = (['plan'], ()), (['publish', 'first'], (see_published,))
    manifest = 'work/experiments.toml', 'work/first.ipynb'
    both = f'{published}*.json', f'{published}*.npz'
    return [
        Kind('features', 'all', ('work/features/*/[!.]*/*',), (read_features,)),
        Kind('unfinished features', 'interrupted', ('work/features/*/*.part/*',), (read_features,)),
        Kind('records', 'all', (f'{records}*.json', f'{records}*.npz'), (board, plan, staging), deletions=('gone',)),
        Kind('executed pages', 'all', (f'{records}*.ipynb',), (staging, publishes)),
        Kind('kept fits', 'trained', ('work/fitted/*/*.*',), ((run_again, (see_tried,)),), 1),
        Kind('indexes', 'all', (f'{index}*.*', f'{index}method/*.*'), reads_index),
        Kind('explorer', 'all', ('work/explorer/*.js',), ((guarded(stage_shards), ()),), deletions=('gone',)),
        Kind('checksums', 'all', ('work/digests.sqlite',), (read_features, (search_command, ()))),
        Kind(
            'own catalogue',
            'all',
            ('work/data.toml',),
            (read_features, shows),
            edits=True,
            deletions=('gone', 'emptied'),
        ),
        Kind('own manifest', 'all', manifest, (plan, board), edits=True),
        Kind('published records', 'published', both, (board, staging), 2, deletions=('gone',)),
        Kind('published pages', 'published', ('book/pages/first.ipynb',), (staging,), deletions=('gone',)),
        Kind('packages', 'fetched', (f'{package}SHA256.json', f'{package}*/*.json'), ((get_command, (see_package,)),)),
        Kind('saved methods', 'all', ('work/kept/method/*',), ((guarded(see_kept), ()),)),
        Kind('checkpoints', 'all', ('work/kept/training/*',), ((guarded(see_training), ()),)),
    ]


class Damages:
    "Damages of one file each, and what the commands that read it say"

    def __init__(self, campaign):
        self.c, self.known = campaign, {}

    def kind(self, kind, per_file):
        self.c.worlds.go(kind.stage)
        world, row = self.c.forks.world, self.c.begin(kind.name, 'damage')
        files = [f for p in kind.patterns for f in sorted(world.glob(p)) if f.is_file() and f.name[0] != '.']
        by_suffix = {}
        for f in files:
            by_suffix.setdefault(f.name if kind.name in ('features', 'unfinished features') else f.suffix, []).append(f)
        most = {s: self.c.draw.sample(fs, min(len(fs), kind.most)) for s, fs in by_suffix.items()}
        if 'features' in kind.name:
            most = {s: fs[:1] for s, fs in most.items()}
        for suffix, chosen in most.items():
            for f in chosen:
                siblings = [g for g in by_suffix[suffix] if g != f] or [g for g in files if g != f]
                possible = [d for d in damages if not (d.__name__ in kind.deletions and f.suffix != '.npz')]
                for damage in self.c.draw.sample(possible, min(per_file, len(possible))):
                    self.one(row, kind, f, damage, siblings)
        self.c.end(row)

    def expected(self, kind, n):
        "What an undisturbed world gives"
        if (kind.stage, kind.name, n) not in self.known:
            task, looks = kind.readers[n]
            self.c.worlds.go(kind.stage)
            done = self.c.forks.run(task)
            if done.code:
                raise RuntimeError(f'{kind.name}, reader {n}: {done.text}')
            self.known[kind.stage, kind.name, n] = done.out, self.c.forks.ask(seen(looks))
        return self.known[kind.stage, kind.name, n]

    def one(self, row, kind, file, damage, siblings):
        "One damage; the worst of what its readers make of it"
        place, outcomes = f'{damage.__name__} {file.relative_to(self.c.forks.world)}', []
        seed = self.c.draw.random()
        for n, (task, looks) in enumerate(kind.readers):
            expected = self.expected(kind, n)
            self.c.worlds.go(kind.stage)
            draw = random.Random(seed)
            if not harm(file, damage, siblings, draw):
                return
            done = self.c.forks.run(task)
            now = self.c.forks.ask(seen(looks))
            harmed = [file, *(siblings if damage is swapped else ())]
            outcomes.append(self.outcome(kind, harmed, done, expected, now))
        worst = max(outcomes, key=lambda o: kinds.index(o[0]))
        row.add(worst[0], f'{place}: {worst[1]}')

    def outcome(self, kind, harmed, done, expected, now):
        text = done.text
        if 'Traceback' in text:
            return 'unnamed', text
        told = any(w in text for f in harmed for w in (f.name, str(f.parent))) and named(text, self.c.forks.world)
        if done.code:
            return ('refused' if told else 'unnamed'), text
        out, state = expected
        differing = [k for k in state if k in now and now[k] != state[k]] + [k for k in now if k.startswith('see_')]
        lost = [k for k in state if k not in now]
        if kind.edits:
            return 'right' if not told else 'refused', text
        strictly = [k for k in differing if not k.startswith(('book/_stage', 'page'))]  # these may say what they lack
        if strictly or (differing and not told):
            return 'wrong', f'{differing}: {str(now[differing[0]])[:200]}: {text}'
        if lost and not told:
            return 'half', f'{lost}: {text}'
        if plain(done.out) != plain(out) and not told:
            return 'wrong', f'{text}\ninstead of\n{out}'
        if differing or lost or plain(done.out) != plain(out):
            return 'refused', text
        return ('healed' if told else 'right'), text


def plain(text):
    "Lines without times and rates"
    varying = r'[\d.,]+ (rows/s|s\b)|\d+:\d\d:\d\d|there already|\(.* computed\)|[\d.,]+ MB'
    return [re.sub(varying, '', line) for line in text.splitlines()]


def harm(file, damage, siblings, draw):
    "Whether it changed anything; a swap changes both files"
    data, other = file.read_bytes(), draw.choice(siblings) if siblings else None
    if damage is swapped and other is None:
        return False
    new = damage(data, other and other.read_bytes(), draw)
    if new == data:
        return False
    if damage is swapped:
        other.write_bytes(data)
    file.unlink() if new is None else file.write_bytes(new)
    return True


# ---------------------------------------------------------------- the whole
def main():
    p = argparse.ArgumentParser()
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--kills', type=int, default=2, help='points of each command')
    p.add_argument('--damages', type=int, default=1, help='of each file, at most 7')
    p.add_argument('--writes', type=int, default=1, help='points of a full disk, and folders that cannot be written')
    p.add_argument('--full', action='store_true', help='14 kills, 7 damages, every write')
    p.add_argument('--only', nargs='*', default=(), help='these commands or kinds of files')
    p.add_argument('--quick', action='store_true', help='without other programs: no kernels, no book')
    p.add_argument('--faults', nargs='*', default=('kill', 'full', 'locked', 'damage'))
    p.add_argument('--out', type=Path, help='rows are added to this file, or replaced')
    o = p.parse_args()
    folder, start = preloaded(), time.time()
    if o.full:
        o.kills, o.damages, o.writes = 14, 7, 60
    print(f'seed {o.seed}', flush=True)
    archive = package_archive(folder)
    forks = Forks(folder, o.quick)
    if archive:
        from_archive(archive)
    worlds = Worlds(forks)
    campaign = Campaign(forks, worlds, o.seed, o.out)
    for c in commands(worlds):
        absent = ['run -j 2', 'book'] * o.quick + ['data get'] * (archive is None)
        if c.name in absent or (o.only and c.name not in o.only):
            continue
        few = min(o.writes, 6) if c.slow else o.writes
        for fault, points in dict(kill=o.kills, full=few, locked=few).items():
            if fault in o.faults:
                dict(kill=campaign.kills, full=campaign.full, locked=campaign.locked)[fault](c, points)
    harmed = Damages(campaign)
    for kind in file_kinds():
        if (o.only and kind.name not in o.only) or (kind.name == 'packages' and not archive):
            continue
        if 'damage' in o.faults:
            harmed.kind(kind, o.damages)
    rows = [r.row() | dict(examples=r.examples) for r in campaign.rows]
    bad = sum(r[k] for r in rows for k in kinds[3:])
    print(f'seed {o.seed}: {sum(r["points"] for r in rows)} points, {bad} bad, {time.time() - start:.0f} s')
    raise SystemExit(bad > 0)


if __name__ == '__main__':
    main()
