"""Today's build against another one, a line a target: `python tests/bench_all.py --against DIR [--only NAME …]`.

`DIR` is a checkout of the other build, with its own environment in `.venv` or with that of this one. A ratio that a
script of this folder prints stands as it is (ONNX Runtime against PyTorch, the store against a naive loop, the
protocol against its bare products); commands are measured in turns; the manifest is what `bench_manifest.py` has
measured, entry by entry. What takes an hour is run only where it is named: `--only 'make test' 'make report'`.
"""

import argparse
import ctypes
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

here = Path(__file__).resolve().parents[1]
long = ('make test', 'make report')


def python(checkout, *args, **more):
    "The output of a Python program in a checkout, and its CPU seconds with those of its children"
    own = checkout / '.venv' / 'bin' / 'python'
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [str(own) if own.exists() else sys.executable, *map(str, args)],
        cwd=checkout,
        env=os.environ | dict(PYTHONPATH=str(checkout)) | more,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f'{checkout}: {" ".join(map(str, args))} ended with {done.returncode}\n{done.stderr[-2000:]}')
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def found(pattern, text):
    "The numbers of the first line that a pattern describes"
    match = re.search(pattern, text)
    return match.groups() if match else ('?',)


def encoders(_):
    said, _ = python(here, 'tests/bench_encoders.py', 128)
    for engine, library, targets in (
        ('onnx', 'ONNX Runtime', ('≥ 1.7', '≥ 1.3', '≥ 1.3')),
        ('openvino', 'OpenVINO, bfloat16', ('≥ 3', '≥ 1.9', '≥ 1.9')),
    ):
        for what, target in zip(('Lite0, pictures', 'MiniLM, short texts', 'MiniLM, long texts'), targets):
            yield f'{what}: {library} / PyTorch', target, *found(rf'{what} +{engine} .*ratio ([\d.]+)', said)


def photos(_):
    said, _ = python(here, 'tests/bench_features.py', 128)
    for what in ('photos 500 x 375, EfficientNet', 'the same, ONNX Runtime', 'photos 4000 x 3000, EfficientNet'):
        yield f'{what}: store / naive loop', '≥ 3', *found(rf'{what} .*ratio ([\d.]+)', said)


def commands(other):
    said, _ = python(here, 'tests/bench_commands.py', '--against', other)
    for name in ('plan', 'board'):
        (cpu,), (before,) = (found(rf'(?m)^{name} +{side} +([\d.]+)', said) for side in ('here', 'there'))
        yield f'crossmodal {name}, nothing changed, CPU s', '≤ 2', f'{cpu} (before {before})'
    said, _ = python(here, 'tests/bench_commands.py', '--against', other, '--cold', '--turns', 2)
    yield 'crossmodal plan, nothing kept, CPU s', '≤ 10', *found(r'(?m)^plan +here +([\d.]+)', said)


def manifest(_):
    said, _ = python(here, 'tests/bench_manifest.py', '--table')
    yield 'the manifest, CPU seconds / before', '≤ 0.7', *found(r'all, weighted by runs.* ([\d.]+)\s*$', said)


def recipe1m(other):
    for checkout, name in ((here, ''), (other, ', before')):
        said, _ = python(checkout, 'tests/bench_recipe1m.py', '--share', 0.1)
        yield (
            f"Recipe1M's protocol / its bare products{name}",
            '≤ 1.4',
            *found(r'bare products[^%]*?ratio ([\d.]+)', said),
        )


def sizes(other):
    for what, target, folder in (('records', '≤ 12', 'book/records'), ('a checkout', '≤ 45', '.')):
        mb = []
        for checkout in (here, other):
            listed = subprocess.run(['git', 'ls-files', '-z', folder], cwd=checkout, capture_output=True, text=True)
            mb.append(sum((checkout / f).lstat().st_size for f in listed.stdout.split('\0') if f) / 1e6)
        yield f'{what}, MB', target, f'{mb[0]:.1f} (before {mb[1]:.1f})'
    base = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=other, capture_output=True, text=True).stdout.strip()
    grown = subprocess.run(
        ['git', 'rev-list', '--objects', '--disk-usage', f'{base}..HEAD'], cwd=here, capture_output=True, text=True
    ).stdout
    yield 'growth of the history, MB', '≤ 15', f'{int(grown) / 1e6:.1f}' if grown else 'unknown: the base is not here'


def cpu_seconds(command, folder):
    "CPU seconds of a command and of all that it starts, also of what outlives it: the server that forks kernels does"
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER (Linux): orphans become children of this process
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile() as said:
        program = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)
        while (ended := os.wait())[0] != program.pid:  # an orphan is reaped when it ends: tests look for it
            pass
        if code := os.waitstatus_to_exitcode(ended[1]):
            said.seek(0)
            raise SystemExit(
                f'{folder}: {" ".join(map(str, command))} ended with {code}\n{said.read()[-2000:].decode()}'
            )
    left = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=60)[1]
    for orphan in left:
        orphan.kill()
    psutil.wait_procs(left)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def make(target):
    "CPU seconds of a target of the Makefile, in a fresh clone of each build"

    def measured(other):
        seconds = []
        for checkout in (here, other):
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run(['git', 'clone', '-q', checkout, f'{folder}/clone'], check=True)
                subprocess.run(['make', '.venv/.installed'], cwd=f'{folder}/clone', check=True, capture_output=True)
                seconds.append(cpu_seconds(['make', target], f'{folder}/clone'))
        yield (
            f'make {target}, CPU s',
            dict(test='≤ 0.5 ×', report='≤ 720')[target],
            '{:.0f} (before {:.0f})'.format(*seconds),
        )

    return measured


parts = dict(encoders=encoders, photos=photos, commands=commands, manifest=manifest, recipe1m=recipe1m, sizes=sizes)
parts |= {name: make(name.split()[1]) for name in long}


def main():
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument('--against', type=Path, required=True, help='a checkout of the other build')
    asked.add_argument('--only', nargs='+', choices=parts, default=[p for p in parts if p not in long])
    given = asked.parse_args()
    print(f'{"what":60} {"target":>8}  measured')
    for part in given.only:
        for what, target, value in parts[part](given.against.resolve()):
            print(f'{what:60} {target:>8}  {value}', flush=True)


if __name__ == '__main__':
    main()
