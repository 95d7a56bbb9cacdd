"""CPU seconds and peak memory of the published experiments: this build against another one, entry by entry.

    python tests/bench_manifest.py --against ../old                          one run of each entry that both builds have
    python tests/bench_manifest.py --against ../old gaze_didec cvs_digits    some entries
    python tests/bench_manifest.py --table                                   the table of what was measured before

Both builds run the first run of an entry (first seed, first fold) through papermill, each its own notebook with the
parameters of its own manifest, in turns, with one thread. Long entries are reduced as `reduced` says, alike in both
builds: a parameter of that name, if the build's manifest has it, is replaced (`a.b`: the field b of a).

This build keeps what no seed changes, as `crossmodal run` does: its first run keeps its fits in an empty folder, and a
second run (the next seed or fold) restores those that are the same. All runs of an entry cost as many first ones as
its last sweep begins, and second ones for the rest; in the other build all cost what the first does.

CPU seconds are those of papermill, its kernel and their children (`os.wait4`). Data must be there in both
builds, each with a folder `work/features` of its own: a run that encodes is measured again. `--turns 2` takes the
faster of two turns.
"""

import argparse
import copy
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

here = Path(__file__).resolve().parents[1]
grids = {'CCA-ITQ': [{'ridge': 1.0}], 'DSCMR': [{'lam': 1.0, 'eta': 0.1}], 'DSCMR-Hash': [{'lam': 1.0, 'eta': 0.1}]}
labels = {
    'classical': {'SM': ['SM', [{'C': 0.01}, {'C': 0.1}]]},
    'deep': {},
    'lams': [1.0],
    'etas': [0.1],
    'more': [],
} | {'refit': ['SM', 'DSCMR'], 'released': {}}
# entry: what is smaller than in the manifest, in both builds
reduced = {
    'gaze_didec': {'folds': [0], 'trainer.epochs': 10},
    'gaze_flickr8k': {'trainer.epochs': 3},
    'vilbert_flickr8k': {'members': 1, 'first.trainer.epochs': 2, 'second.trainer.epochs': 1},
    'dcca_flickr8k': {'trainer.epochs': 2},
    'clip_flickr8k': {'trainer.epochs': 2},
    'cvs_household': {'trainer.epochs': 8},
    'cvs_furniture': {'trainer.epochs': 8},
    'cvs_digits': {'trainer.epochs': 3},
    'cvs_ablation': {'trainer.epochs': 4},
    'cvs_world': {'trainer.epochs': 2},
    'cvs_stages_wikipedia': {'trainer.epochs': 4},
    'dscmr_wikipedia': {'trainer.epochs': 10, **labels},
    'dscmr_wikipedia_words': {'trainer.epochs': 10, **labels},
    'dscmr_recipes': {'trainer.epochs': 10, **labels},
    'dscmr_emoji': {'trainer.epochs': 10, **labels},
    'dscmr_tuxpaint': {'trainer.epochs': 10, **labels},
    'hashing_wikipedia': {'trainer.epochs': 5, 'bits': [16], 'grids': grids, 'large': 100000},
    'hashing_recipes': {'trainer.epochs': 5, 'bits': [16], 'grids': grids},
    'hashing_emoji': {'trainer.epochs': 5, 'bits': [16], 'grids': grids},
    'ht_lite_recipes': {'trainer.epochs': 2},
    'ht_full_recipes': {'trainer.epochs': 1},
    'ht_transfer': {'folds': [{'fold': 0}], 'trainer.epochs': 5, 'alone.epochs': 2},
    'xmrs_emoji': {'trainer.epochs': 4},
    'xmrs_tuxpaint': {'trainer.epochs': 4},
}
# The earlier build draws the ablation of a loss from its settings, today's learns it beside them: as many trainings
reduced_before = {
    name: {'lams': [0.0, 1.0], 'etas': [0.0, 0.1]} for name, smaller in reduced.items() if smaller.get('lams')
}
left_out = {'recipe1m', 'cost'}  # they measure times of their own


def manifest(root):
    return tomllib.loads((root / 'nbs/experiments/experiments.toml').read_text())


def put(params, name, value):
    "Set `a.b` in nested parameters"
    *path, last = name.split('.')
    for part in path:
        params = params.setdefault(part, {})
    params[last] = value


def run_of(root, name, number):
    "Notebook and parameters of the first (0) or second (1) run of an entry"
    entry = manifest(root)[name]
    params, sweep = copy.deepcopy(entry.get('params', {})), entry.get('sweep', {})
    runs = itertools.product(*sweep.values())
    for key, value in zip(sweep, next(itertools.islice(runs, number, None))):
        put(params, key, value)
    if entry.get('final'):
        params['final'] = True
    smaller = reduced.get(name, {}) | ({} if root == here else reduced_before.get(name, {}))
    for key, value in smaller.items():
        if key.partition('.')[0] in params:
            put(params, key, value)
    return root / 'nbs/experiments' / entry['notebook'], params


def counts(name):
    "How many runs of an entry there are, and how many of them begin its last sweep"
    lengths = [len(values) for values in manifest(here)[name].get('sweep', {}).values()]
    return math.prod(lengths), math.prod(lengths[:-1])


def encoded(root):
    "Bytes of all features"
    return sum(f.stat().st_size for f in (root / 'work/features').rglob('*') if f.is_file())


def measured(root, name, number, fitted, kept=None):
    "The cost of a run that has nothing to encode; it keeps its fits in a folder, where it finds those of another one"
    while True:
        there = encoded(root)
        shutil.rmtree(fitted, ignore_errors=True)
        if kept:
            shutil.copytree(kept, fitted)
        found = papermill(root, name, number, fitted)
        if encoded(root) == there:
            return found
        print(f'{name} has encoded features in {root}, and is measured again', flush=True)


def papermill(root, name, number, fitted):
    "CPU seconds, peak memory in MB and the rows of one run"
    notebook, params = run_of(root, name, number)
    with tempfile.TemporaryDirectory() as folder:
        record, errors = Path(folder) / 'record.json', Path(folder) / 'errors.txt'
        given = Path(folder) / 'params.yml'
        given.write_text(json.dumps(params | dict(out=str(record))))  # JSON is YAML
        command = ['-m', 'papermill', notebook, f'{folder}/out.ipynb', '-f', given, '--cwd', notebook.parent]
        path = os.pathsep.join([str(root), *filter(None, [os.environ.get('BENCH_PATH')])])
        env = os.environ | dict(PYTHONPATH=path, OMP_NUM_THREADS='1', CROSSMODAL_FITTED=str(fitted))
        with open(errors, 'w') as file:
            process = subprocess.Popen(
                [sys.executable, *map(str, command), '--no-progress-bar', '-k', 'python3'],
                cwd=root,
                env=env,
                stdout=file,
                stderr=file,
            )
            _, status, used = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f'{name} failed in {root}:\n{errors.read_text()[-3000:]}')
        rows = json.loads(record.read_text()).get('rows', [])
    return dict(cpu=used.ru_utime + used.ru_stime, mb=used.ru_maxrss / 1e3, rows=len(rows))


def turn(against, name):
    "The other build's first run, then the first and the second of this one"
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / 'first', Path(folder) / 'second'
        yield 'before', measured(against, name, 0, first)
        yield 'now', measured(here, name, 0, first)
        if counts(name)[0] > 1:
            yield 'next', measured(here, name, 1, second, kept=first)


def show(results):
    "One line an entry, and the sums over all of its runs"
    heads = f'{"before s":>9} {"first s":>9} {"next s":>9} {"ratio":>6} {"before MB":>9} {"now MB":>7}'
    print(f'{"entry":26} {"runs":>4} {heads}  reduced')
    before = now = 0.0
    for name, r in sorted(results.items(), key=lambda x: -x[1]['runs'] * x[1]['before']['cpu']):
        n, firsts, later = r['runs'], r['firsts'], r.get('next', r['now'])
        costs = n * r['before']['cpu'], firsts * r['now']['cpu'] + (n - firsts) * later['cpu']
        before, now = before + costs[0], now + costs[1]
        less = ', '.join(f'{k} {v}' if not isinstance(v, dict) else k for k, v in r['reduced'].items())
        print(
            f'{name:26} {n:4} {r["before"]["cpu"]:9.1f} {r["now"]["cpu"]:9.1f} {later["cpu"]:9.1f} '
            f'{costs[1] / costs[0]:6.2f} {r["before"]["mb"]:9.0f} {r["now"]["mb"]:7.0f}  {less[:60]}'
        )
    if results:
        print(f'{"all runs":31} {before:9.0f} {"":9} {now:9.0f} {now / before:6.2f}')


def main():
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument('entries', nargs='*')
    asked.add_argument('--against', type=Path, help='a checkout of the other build')
    asked.add_argument('--turns', type=int, default=1)
    asked.add_argument('--table', action='store_true', help='only print what was measured before')
    asked.add_argument('--results', type=Path, default=here / 'work/bench_manifest.json')
    given = asked.parse_args()
    results = json.loads(given.results.read_text()) if given.results.exists() else {}
    if not given.table:
        before = given.against.resolve()
        both = [n for n in manifest(before) if n in manifest(here) and n not in left_out]
        names = given.entries or [n for n in both if not manifest(here)[n].get('needs')]
        for name in names:
            runs, firsts = counts(name)
            entry = dict(runs=runs, firsts=firsts, reduced=reduced.get(name, {}))
            for _ in range(given.turns):
                for which, m in turn(before, name):
                    print(f'{name} {which} {m}', flush=True)
                    entry[which] = min(m, entry.get(which, m), key=lambda m: m['cpu'])
            results[name] = entry
            given.results.write_text(json.dumps(results, indent=1))
    show(results)


if __name__ == '__main__':
    main()
