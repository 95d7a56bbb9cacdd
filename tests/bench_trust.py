"""What verification costs in a run whose features are kept: the notebook of `crossmodal try` on recipes by TF-IDF, in
one process, with verification and with verification taken out, in turn. The aim is at most 3 %.

    python tests/bench_trust.py --repeats 9
"""

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

from faults import execute_here

from crossmodal_nb.core.settings import settings

here = Path(__file__).parent


@contextlib.contextmanager
def unverified():
    "Stores, packages, records and saved methods are read as they are"
    with contextlib.ExitStack() as stack:
        for module in ('encoders.store', 'core.fetch', 'search', 'verification'):
            stack.enter_context(mock.patch(f'crossmodal_nb.{module}.check_files', lambda *args: None))
        stack.enter_context(mock.patch('crossmodal_nb.core.files.check_seal', lambda content, *args: content))
        yield


def seconds(notebook, params, output):
    "Of the processor and by the clock, of one run"
    from crossmodal_nb.core import fetch

    fetch._checked.cache_clear()  # as in a process of its own
    start = time.process_time(), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        execute_here(notebook, output, params | dict(out=str(output.with_suffix('.json'))), output.parent)
    return time.process_time() - start[0], time.perf_counter() - start[1]


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--repeats', type=int, default=9)
    o = p.parse_args()
    machine = settings(here)
    params = dict(dataset='recipes', encoders=dict(text='TfIdf'), methods=['CCA'])
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path('work').mkdir()
        Path('work/data').symlink_to(machine.work / 'data')
        notebook, output = machine.nbs_path / 'experiments' / '02_try.ipynb', Path(folder) / 'page.ipynb'
        seconds(notebook, params, output)  # features are computed
        took = dict(verified=[], unverified=[])
        for _ in range(o.repeats):
            took['verified'].append(seconds(notebook, params, output))
            with unverified():
                took['unverified'].append(seconds(notebook, params, output))
    for i, clock in enumerate(('processor', 'clock')):
        a, b = (statistics.median(t[i] for t in took[k]) for k in took)
        pairs = [v[i] / u[i] - 1 for v, u in zip(took['verified'], took['unverified'])]
        print(
            f'{clock}: verified {a:.3f} s, not verified {b:.3f} s, {100 * statistics.median(pairs):+.1f} % (of pairs)'
        )


if __name__ == '__main__':
    main()
