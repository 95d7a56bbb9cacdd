"""How long commands take: `python tests/bench_commands.py [--against DIR] [--turns 3] [--cold]`.

Each command runs as its own process in this checkout and, in turns with it, in another one (`DIR`, a checkout with its
own environment in `.venv`, or with that of this one). Printed are medians of CPU seconds, with those of children, and
of seconds by the clock. `--cold` forgets, before each turn, the answers that a checkout keeps; sums of files stay.
"""

import argparse
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import time
from pathlib import Path

root = Path(__file__).parent.parent
commands = [['plan'], ['plan', 'cca_emoji'], ['board'], ['data'], ['--help']]
program = 'from crossmodal_nb.cli import app; app()'


def python(checkout):
    own = checkout / '.venv' / 'bin' / 'python'
    return str(own) if own.exists() else sys.executable


def measured(checkout, command):
    "CPU seconds, seconds by the clock, and seconds until the first line is there"
    environment = os.environ | dict(PYTHONPATH=str(checkout))
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    args = [python(checkout), '-c', program, *command]
    with subprocess.Popen(args, cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as p:
        p.stdout.readline()
        first = time.monotonic() - start
        p.stdout.read()
    if p.returncode:
        raise SystemExit(f'{checkout}: crossmodal {" ".join(command)} ended with {p.returncode}')
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.monotonic() - start, first


def forget(checkout):
    store = checkout / 'work' / 'digests.sqlite'
    if store.exists():
        with sqlite3.connect(store) as database:
            database.execute('DROP TABLE IF EXISTS answers')


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--against', type=Path, help='another checkout')
    parser.add_argument('--turns', type=int, default=3)
    parser.add_argument('--cold', action='store_true')
    given = parser.parse_args()
    sides = dict(here=root) | (dict(there=given.against.resolve()) if given.against else {})
    print(f'{"command":<18}{"side":<8}{"CPU s":>8}{"clock s":>10}{"first line s":>14}')
    for command in commands:
        taken = {name: [] for name in sides}
        for turn in range(given.turns + (not given.cold)):
            for name, checkout in sides.items():
                if given.cold:
                    forget(checkout)
                seconds = measured(checkout, command)
                if turn or given.cold:  # the first turn only fills caches
                    taken[name].append(seconds)
        for name, several in taken.items():
            cpu, clock, first = map(statistics.median, zip(*several))
            print(f'{" ".join(command):<18}{name:<8}{cpu:>8.2f}{clock:>10.2f}{first:>14.2f}', flush=True)


if __name__ == '__main__':
    main()
