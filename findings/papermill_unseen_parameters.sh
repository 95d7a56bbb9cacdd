#!/usr/bin/env bash
# papermill 2.7.0: `inspect_notebook`, and with it the warning about unknown parameters, reads a parameters cell line by line.
# What surprised:
#   * parameters assigned two at a time (`seed, fold = 0, 1`) are not seen at all: inspection lists neither, and a run that
#     overrides one warns that it is unknown and overrides it all the same;
#   * one annotated with a union written `float | None` is not seen either, while the same written `Optional[float]` is.
# Why it matters: whoever checks names by inspection refuses parameters that work, or takes the warning for noise.
# Source: papermill/translators.py, PythonTranslator.PARAMETER_PATTERN and inspect (release 2.7.0).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install --quiet papermill==2.7.0 ipykernel==7.1.0 nbformat==5.10.4
env/bin/python - <<'PY'
import logging, sys
from importlib.metadata import version
import nbformat, papermill

print({name: version(name) for name in ('papermill', 'nbformat', 'ipykernel')}, 'Python', sys.version.split()[0])
cell = nbformat.v4.new_code_cell('seed, fold = 0, 1\nrate: float | None = 0.1\nscale: Optional[float] = 0.1\nsteps: int = 3')
cell.metadata['tags'] = ['parameters']
typing = nbformat.v4.new_code_cell('from typing import Optional')
notebook = nbformat.v4.new_notebook(cells=[typing, cell, nbformat.v4.new_code_cell('print(seed, fold, rate, scale, steps)')])
notebook.metadata['kernelspec'] = dict(name='python3', display_name='python3', language='python')
nbformat.write(notebook, 'in.ipynb')

seen = list(papermill.inspect_notebook('in.ipynb'))
print('inspection sees:', seen)

warned = []
class Keep(logging.Handler):
    def emit(self, record): warned.append(record.getMessage())
logging.getLogger('papermill').addHandler(Keep())
papermill.execute_notebook('in.ipynb', 'out.ipynb', dict(fold=7), progress_bar=False, kernel_name='python3')
printed = nbformat.read('out.ipynb', 4).cells[-1].outputs[0]['text'].strip()
unknown = [w for w in warned if 'fold' in w]
print('a run with fold=7 prints:', printed)
print('and warns:', unknown)
assert seen == ['scale', 'steps'], 'inspection has changed'
assert printed == '0 7 0.1 0.1 3' and unknown, 'overriding or the warning has changed'
PY
