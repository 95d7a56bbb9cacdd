"""The package and the notebooks must be what nbdev makes of the notebooks: export and clean a copy, and compare."""

import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

root = Path(__file__).parent.parent
generated = ('crossmodal_nb', 'nbs')
skip = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')


def definition_errors(nbs):
    "Notebooks from which nbdev would silently lose code: two of one `default_exp`, or exported cells without any"
    notebooks = {}
    for file in sorted(Path(nbs).rglob('*.ipynb')):
        if '.ipynb_checkpoints' in file.parts:
            continue
        cells = [''.join(c['source']) for c in json.loads(file.read_text())['cells'] if c['cell_type'] == 'code']
        name = str(file.relative_to(nbs))
        modules = [m for s in cells for m in re.findall(r'^#\s*\|\s*default_exp\s+([\w.]+)', s, re.M)]
        for module in modules:
            notebooks.setdefault(module, []).append(name)
        if not modules and any(re.search(r'^#\s*\|\s*export[is]?\s*$', s, re.M) for s in cells):
            yield f'{name} has exported cells, but no default_exp'
    for module, names in notebooks.items():
        if len(names) > 1:
            yield f'{" and ".join(names)} have the same default_exp {module}'


def differences(a, b):
    "Differences between a folder and what nbdev makes of it"
    # the map of names is not generated
    d = filecmp.dircmp(a, b, ignore=['__pycache__', '.ipynb_checkpoints', 'names.toml'])
    yield from (f'{Path(a).name}/{f} has no notebook' for f in d.left_only)
    yield from (f'{Path(a).name}/{f} was not exported' for f in d.right_only)
    unequal = filecmp.cmpfiles(a, b, d.common_files, shallow=False)[1]
    yield from (f'{Path(a).name}/{f} is not what nbdev makes of it' for f in unequal)
    for folder in d.common_dirs:
        yield from differences(Path(a) / folder, Path(b) / folder)


def main():
    errors = list(definition_errors(root / 'nbs'))
    if errors:
        sys.exit('notebooks and modules do not correspond:\n  ' + '\n  '.join(errors))
    with tempfile.TemporaryDirectory() as folder:
        for f in ('pyproject.toml', 'settings.ini'):
            shutil.copy(root / f, folder)
        shutil.copytree(root / 'nbs', Path(folder) / 'nbs', ignore=skip)
        (Path(folder) / 'crossmodal_nb').mkdir()
        shutil.copy(root / 'crossmodal_nb' / '__init__.py', Path(folder) / 'crossmodal_nb')  # the version's only home
        environment = os.environ | dict(PYTHONPATH=folder)
        for command in ('nbdev-export', 'nbdev-clean'):
            subprocess.run([Path(sys.executable).with_name(command)], cwd=folder, check=True, env=environment)
        errors = [d for part in generated for d in differences(root / part, Path(folder) / part)]
    if errors:
        sys.exit('not in sync; run `nbdev-export` and `nbdev-clean`:\n  ' + '\n  '.join(errors))
    print('in sync: the package and the notebooks are what nbdev makes of them')


if __name__ == '__main__':
    main()
