"""The suite under another instruction set and another number of threads: what it asks must hold on anybody's processor.

`python tests/processors.py --setting sse` runs the lessons of the module notebooks and then the tests, with the kernels
of an old processor; `--part 1/8` a part of both, chosen by their names. Left out unless `--all`: what cannot depend on
the processor (the browser, the book, the wheel, the looks of the source); and from a part what mostly waits, for files
or for processes of its own. The last line is pytest's; the exit status is 0 if nothing failed.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

root = Path(__file__).parent.parent
# PyTorch's own kernels, its convolutions, its BLAS; NumPy's and SciPy's BLAS; threads of them all
variables = (
    'ATEN_CPU_CAPABILITY',
    'ONEDNN_MAX_CPU_ISA',
    'MKL_ENABLE_INSTRUCTIONS',
    'OPENBLAS_CORETYPE',
    'OMP_NUM_THREADS',
)
settings = dict(
    sse=('default', 'SSE41', 'SSE4_2', 'Nehalem', '2'),
    avx2=('avx2', 'AVX2', 'AVX2', 'Haswell', '4'),
    haswell=('avx2', 'AVX2', 'AVX2', 'Haswell', '1'),
)
settings = {name: dict(zip(variables, values)) for name, values in settings.items()}
settings |= {f'own{n}': dict(OMP_NUM_THREADS=str(n)) for n in (1, 2, 4)}  # the machine's own kernels
elsewhere = (  # patterns of names
    'test_browser',
    'test_book',
    'test_wheel',
    'test_house',
    'test_runner',
    'test_recipe_folder',
    'report/staging',
    'report/book',
    'cli',
)
waiting = (
    'test_choices',
    'test_cli',
    'test_cluster',
    'test_contract',
    'test_datasets',
    'test_features',
    'test_fuzz',
    'test_hub',
    'test_own.*',
    'test_recipe1m',
    'test_train',
    'test_trust',
    'test_xmedia',
    'core/fetch',
    'core/debian',
    'data/.*',
    'datasets/.*',
    'runs/runner',
    'profiling',
)

REPORT = '''
import torch, threadpoolctl, numpy, scipy.linalg
print(f'PyTorch {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads', flush=True)
for lib in threadpoolctl.threadpool_info():
    where = lib['filepath'].rpartition('/')[2]
    kind = lib['internal_api'], lib['version'], lib.get('architecture')
    print(*kind, f"{lib['num_threads']} threads, {where}", flush=True)
torch.ones(64, 64) @ torch.ones(64, 64)
torch.nn.Conv2d(3, 8, 3)(torch.ones(2, 3, 64, 64))
'''


def used(env):
    "[str]: the kernels that run under `env`, by what the libraries say themselves"
    env = env | dict(MKL_VERBOSE='1', ONEDNN_VERBOSE='1')
    report = subprocess.run([sys.executable, '-c', REPORT], env=env, capture_output=True, text=True, check=True).stdout
    telling = 'PyTorch|openblas|mkl|blis|MKL_VERBOSE oneMKL|onednn_verbose.*,cpu,isa:'
    return [line for line in report.splitlines() if re.match(telling, line)]


def part(text):
    "'K/N' as (K, N)"
    k, n = map(int, text.split('/')) if re.fullmatch(r'\d+/\d+', text) else (0, 0)
    if not 1 <= k <= n:
        raise argparse.ArgumentTypeError(f'{text!r} is no part, like 1/8, 2/8, … 8/8')
    return k, n


def files():
    "The lessons, and the tests"
    notebooks = root.glob('nbs/**/*.ipynb')
    lessons = [p for p in notebooks if not {'experiments', '.ipynb_checkpoints'} & set(p.parts) and p.stem != 'index']
    return lessons, list(root.glob('tests/test_*.py'))


def name(path):
    "`metrics/ranking` of a lesson (without the number that orders its folder), `test_metrics` of a test"
    if path.suffix == '.py':
        return path.stem
    path = path.relative_to(root / 'nbs')
    return str(path.with_name(re.sub(r'^\d+_', '', path.stem)))


def chosen(paths, part, left_out):
    "Of `paths` those of part (k, n), all for (1, 1), by a hash of their names: a new file moves no other"
    k, n = part

    def mine(p):
        return int(hashlib.sha256(name(p).encode()).hexdigest(), 16) % n == k - 1

    return [p for p in sorted(paths) if not re.fullmatch('|'.join(left_out), name(p)) and mine(p)]


if __name__ == '__main__':
    known = '; '.join(f'{k}: ' + ' '.join(f'{n}={v}' for n, v in s.items()) for k, s in settings.items())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--setting', choices=settings, required=True, help=known)
    parser.add_argument('--part', type=part, metavar='K/N', help='1/8 … 8/8: a part, without the files that wait')
    parser.add_argument('--all', action='store_true', help='also what cannot depend on the processor')
    given = parser.parse_args()
    setting = settings[given.setting]
    env = os.environ | setting | dict(OMP_WAIT_POLICY='PASSIVE')  # threads that wait leave the cores to others
    left_out = (() if given.all else elsewhere) + (waiting if given.part else ())
    lessons, tests = (chosen(paths, given.part or (1, 1), left_out) for paths in files())
    print(f'{given.setting}:', *(f'{k}={v}' for k, v in setting.items()), *used(env), sep='\n  ')
    print('left out:', ', '.join(left_out) or 'nothing')
    print(f'{len(lessons)} lessons, {len(tests)} test files', flush=True)
    paths = '|'.join(re.escape(str(p.relative_to(root / 'nbs'))) for p in lessons)
    commands = (
        [Path(sys.executable).with_name('nbdev_test'), '--path-re', f'nbs/({paths})$', '--n-workers', '2', '--timing'],
        [sys.executable, '-m', 'pytest', '-q', '-rfEs', '-n', '2', '--dist', 'worksteal', *tests],
    )
    failed = [subprocess.run(c, cwd=root, env=env).returncode for c in commands]
    sys.exit(max(failed))
