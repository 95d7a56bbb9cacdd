"""A small, seeded part of the fault campaign (see `faults.py`): commands are killed, files are damaged, the disk is
full, a folder cannot be written; no number is wrong, nothing is shown by half, and every message names a file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

possible = sys.platform == 'linux' and shutil.which('cc')
pytestmark = pytest.mark.skipif(not possible, reason='faults are made on Linux, with a C compiler: apt-get install gcc')
script = Path(__file__).parent / 'faults.py'


def campaign(folder, *options):
    "Rows of the campaign's table"
    command = [sys.executable, script, '--seed', '3', '--quick', *options, '--out', folder / 'rows.json']
    environment = {k: v for k, v in os.environ.items() if not k.startswith('FAULTS_')}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert (folder / 'rows.json').exists(), done.stdout[-3000:] + done.stderr[-3000:]
    rows = json.loads((folder / 'rows.json').read_text())['rows']
    for r in rows:
        assert r['points'] and r['right'] + r['healed'] + r['refused'] == r['points'], done.stdout[-5000:]
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return rows


def test_faults_leave_nothing_wrong(tmp_path):
    only = ['features', 'run', 'data add', 'records', 'executed pages', 'unfinished features', 'own catalogue']
    rows = campaign(tmp_path, '--only', *only)
    assert {(r['what'], r['fault']) for r in rows} >= {('features', f) for f in ('kill', 'full', 'locked', 'damage')}
    assert sum(r['points'] for r in rows if r['fault'] == 'damage') >= 15
