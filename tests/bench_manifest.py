"""CPU seconds and peak memory of the published experiments: this build against another one, entry by entry.

    python tests/bench_manifest.py --against ../old                          one run of each entry that both builds have
    python tests/bench_manifest.py --against ../old gaze_didec cvs_digits    some entries
    python tests/bench_manifest.py --table                                   the table of what was measured before

Both builds run the first run of an entry (first seed, first fold) through papermill, each its own notebook with the
parameters of its own manifest, in turns, with one thread. Long entries are reduced as `reduced` says, alike in both
builds: a parameter of that name, if the build's manifest has it, is replaced (`a.b`: the field b of a). Nothing is
restored from kept fits.

CPU seconds are those of papermill, its kernel and their children (`os.wait4`). A run is counted as often as the entry
runs in this build. Data must be there, and encoded once in both builds, each with a folder `work/features` of its own
(`--turns 2` takes the faster of two turns).
"""

import argparse
import copy
import itertools
import json
import os
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


def first_run(root, name):
    "Notebook and parameters of the first run of an entry, and how many runs it has"
    entry = manifest(root)[name]
    params, sweep = copy.deepcopy(entry.get('params', {})), entry.get('sweep', {})
    for key, values in sweep.items():
        put(params, key, values[0])
    if entry.get('final'):
        params['final'] = True
    smaller = reduced.get(name, {}) | ({} if root == here else reduced_before.get(name, {}))
    for key, value in smaller.items():
        if key.partition('.')[0] in params:
            put(params, key, value)
    return root / 'nbs/experiments' / entry['notebook'], params, len(list(itertools.product(*sweep.values())))


def measured(root, name):
    "CPU seconds, peak memory in MB and the rows of one run"
    notebook, params, _ = first_run(root, name)
    with tempfile.TemporaryDirectory() as folder:
        record, errors = Path(folder) / 'record.json', Path(folder) / 'errors.txt'
        given = Path(folder) / 'params.yml'
        given.write_text(json.dumps(params | dict(out=str(record))))  # JSON is YAML
        command = ['-m', 'papermill', notebook, f'{folder}/out.ipynb', '-f', given, '--cwd', notebook.parent]
        path = os.pathsep.join([str(root), *filter(None, [os.environ.get('BENCH_PATH')])])
        env = os.environ | dict(PYTHONPATH=path, OMP_NUM_THREADS='1', CROSSMODAL_FITTED='')
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


def show(results):
    "One line an entry, and the sum weighted by runs"
    print(f'{"entry":26} {"runs":>4} {"before s":>9} {"now s":>9} {"ratio":>6} {"before MB":>9} {"now MB":>7}  reduced')
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
    asked.add_argument('--turns', type=int, default=1)
    asked.add_argument('--only', choices=['before', 'now'], help='measure one side, keep the other')
    asked.add_argument('--table', action='store_true', help='only print what was measured before')
    asked.add_argument('--results', type=Path, default=here / 'work/bench_manifest.json')
    given = asked.parse_args()
    results = json.loads(given.results.read_text()) if given.results.exists() else {}
    if not given.table:
        builds = dict(before=given.against.resolve(), now=here)
        both = [n for n in manifest(builds['before']) if n in manifest(here) and n not in left_out]
        names = given.entries or [n for n in both if not manifest(here)[n].get('needs')]
        for name in names:
            kept = results.get(name, {}) if results.get(name, {}).get('reduced') == reduced.get(name, {}) else {}
            entry = kept | dict(runs=first_run(here, name)[2], reduced=reduced.get(name, {}))
            for turn in range(given.turns):
                for which in (given.only,) if given.only else builds:
                    m = measured(builds[which], name)
                    print(f'{name} {which} {m}', flush=True)
                    entry[which] = m if not turn or m['cpu'] < entry[which]['cpu'] else entry[which]
            results[name] = entry
            given.results.write_text(json.dumps(results, indent=1))
    show({n: r for n, r in results.items() if {'before', 'now'} <= r.keys()})


if __name__ == '__main__':
    main()
