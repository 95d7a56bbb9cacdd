"""CPU seconds and peak memory of the published experiments: this build against another one, entry by entry.

    python tests/bench_manifest.py --against ../old                          every entry that both builds have
    python tests/bench_manifest.py --against ../old gaze_didec cvs_digits    some entries
    python tests/bench_manifest.py --table                                   the table of what was measured before

Each build is driven by its own `crossmodal run`, with one thread, in a clone with the entry alone in its manifest and
no record or kept fit. The other build does the first run of an entry; all of its runs cost as much. This build does the
first three, of which the later ones restore the fits that no seed changes, and all of its runs cost as much as these in
the mean. What the same command takes when nothing is left to do is subtracted. Long entries are reduced as `reduced`
says, alike in both builds: a parameter of that name, if the build's manifest has it, is replaced (`a.b`: the field b
of a).

CPU seconds count all processes. Data must be there in both builds, each with a folder `work/features` of its own, which
clones share: a run that encodes is measured again.
"""

import argparse
import copy
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import tomlkit
from bench_all import cpu_seconds

from crossmodal_nb.core.settings import settings

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
    'dscmr_emoji_subgroup': {'trainer.epochs': 10, **labels},
    'dscmr_tuxpaint': {'trainer.epochs': 10, **labels},
    'hashing_wikipedia': {'trainer.epochs': 5, 'bits': [16], 'grids': grids, 'large': 100000},
    'hashing_wikipedia_words': {'trainer.epochs': 5, 'bits': [16], 'grids': grids, 'large': 100000},
    'hashing_tuxpaint': {'trainer.epochs': 5, 'bits': [16], 'grids': grids},
    'hashing_recipes': {'trainer.epochs': 5, 'bits': [16], 'grids': grids},
    'hashing_emoji': {'trainer.epochs': 5, 'bits': [16], 'grids': grids},
    'ht_lite_recipes': {'trainer.epochs': 2},
    'ht_full_recipes': {'trainer.epochs': 1},
    'ht_transfer': {'folds': [{'fold': 0}], 'trainer.epochs': 5, 'alone.epochs': 2},
    'acme_public_domain_recipes': {'gan_epochs': 0},  # pictures drawn of recipes are new, and reported apart
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


def smaller(root, name, runs):
    "An entry with its first runs only, reduced; and how many they are"
    entry = {k: v for k, v in copy.deepcopy(manifest(root)[name]).items() if k != 'needs'}
    params, sweep = entry.setdefault('params', {}), entry.pop('sweep', {})
    for key, value in (reduced.get(name, {}) | ({} if root == here else reduced_before.get(name, {}))).items():
        if key.partition('.')[0] in params:
            put(params, key, value)
    *outer, (last, values) = sweep.items() or [(None, [None])]
    for key, first in ((key, values[0]) for key, values in outer):
        put(params, key, first)
    if last:
        entry['sweep'] = {last: values[:runs]}
    return entry, min(runs, len(values))


def all_runs(name):
    return math.prod(len(values) for values in manifest(here)[name].get('sweep', {}).values())


def encoded(root):
    "Bytes of all features"
    return sum(f.stat().st_size for f in (root / 'work/features').rglob('*') if f.is_file())


def measured(root, name, runs):
    "CPU seconds of a run in the mean over the first ones, their peak memory in MB and the rows of one"
    entry, runs = smaller(root, name, runs)
    (root / 'work/features').mkdir(parents=True, exist_ok=True)
    while True:
        there = encoded(root)
        with tempfile.TemporaryDirectory() as folder:
            clone = Path(folder) / 'clone'
            subprocess.run(['git', '-c', 'advice.detachedHead=false', 'clone', '-q', root, clone], check=True)
            (clone / 'nbs/experiments/experiments.toml').write_text(tomlkit.dumps({name: entry}))
            shutil.rmtree(clone / 'book/records')
            (clone / 'work').mkdir()
            for shared in ('data', 'features', 'imports'):
                (clone / 'work' / shared).symlink_to(root / 'work' / shared)
            command(clone, 'plan', name)  # reads all code once, for as many runs as there are
            cpu, mb = command(clone, 'run', name)
            again, _ = command(clone, 'run', name)
            record = json.loads(next((clone / 'work/records' / name).glob('*.json')).read_text())
        if encoded(root) == there:
            return dict(cpu=(cpu - again) / runs, mb=mb, rows=len(record.get('rows', [])), runs=runs)
        print(f'{name} has encoded features in {root}, and is measured again', flush=True)


def command(clone, *args):
    "CPU seconds and peak memory in MB of `crossmodal`"
    os.environ |= dict(PYTHONPATH=str(clone), OMP_NUM_THREADS='1')
    os.environ['CROSSMODAL_DATA'] = os.pathsep.join(map(str, settings(here).data))
    program = [sys.executable, '-c', 'from crossmodal_nb.cli import app; app()', *args]
    with ProcessPoolExecutor(1) as pool:  # a process of its own, whose children are those of this command
        return pool.submit(used, program, clone).result()


def used(program, folder):
    return cpu_seconds(program, folder), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3


def show(results):
    "One line an entry, and the sums over all of its runs"
    heads = f'{"before s":>9} {"now s":>9} {"ratio":>6} {"before MB":>9} {"now MB":>7}'
    print(f'{"entry":26} {"runs":>4} {heads}  reduced')
    before = now = 0.0
    for name, r in sorted(results.items(), key=lambda x: -x[1]['runs'] * x[1]['before']['cpu']):
        a, b, n = r['before'], r['now'], r['runs']
        before, now = before + n * a['cpu'], now + n * b['cpu']
        less = ', '.join(f'{k} {v}' if not isinstance(v, dict) else k for k, v in r['reduced'].items())
        print(
            f'{name:26} {n:4} {a["cpu"]:9.1f} {b["cpu"]:9.1f} {b["cpu"] / a["cpu"]:6.2f} {a["mb"]:9.0f} {b["mb"]:7.0f}'
            f'  {less[:70]}'
        )
    if results:
        print(f'{"all, weighted by runs":31} {before:9.0f} {now:9.0f} {now / before:6.2f}')


def main():
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument('entries', nargs='*')
    asked.add_argument('--against', type=Path, help='a checkout of the other build')
    asked.add_argument('--runs', type=int, default=3, help='of an entry in this build')
    asked.add_argument('--table', action='store_true', help='only print what was measured before')
    asked.add_argument('--results', type=Path, default=here / 'work/bench_manifest.json')
    given = asked.parse_args()
    results = json.loads(given.results.read_text()) if given.results.exists() else {}
    if not given.table:
        builds = dict(before=(given.against.resolve(), 1), now=(here, given.runs))
        both = [n for n in manifest(given.against) if n in manifest(here) and n not in left_out]
        for name in given.entries or [n for n in both if not manifest(here)[n].get('needs')]:
            entry = dict(runs=all_runs(name), reduced=reduced.get(name, {}))
            for which, (root, runs) in builds.items():
                entry[which] = measured(root, name, runs)
                print(f'{name} {which} {entry[which]}', flush=True)
            results[name] = entry
            given.results.write_text(json.dumps(results, indent=1))
    show(results)


if __name__ == '__main__':
    main()
