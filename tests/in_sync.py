"""The package and the notebooks must be what nbdev makes of the notebooks: export and clean a copy, and compare."""

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

root = Path(__file__).parent.parent
made = ('crossmodal_nb', 'nbs')
skip = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')


def differences(a, b):
    d = filecmp.dircmp(
        a, b, ignore=['__pycache__', '.ipynb_checkpoints', 'names.toml']
    )  # the map of names is no module
    yield from (f'{Path(a).name}/{f} has no notebook' for f in d.left_only)
    yield from (f'{Path(a).name}/{f} was not exported' for f in d.right_only)
    yield from (
        f'{Path(a).name}/{f} is not what nbdev makes of it'
        for f in filecmp.cmpfiles(a, b, d.common_files, shallow=False)[1]
    )
    for sub in d.common_dirs:
        yield from differences(Path(a) / sub, Path(b) / sub)


with tempfile.TemporaryDirectory() as tmp:
    for f in ('pyproject.toml', 'settings.ini'):
        shutil.copy(root / f, tmp)
    shutil.copytree(root / 'nbs', Path(tmp) / 'nbs', ignore=skip)
    for command in ('nbdev-export', 'nbdev-clean'):
        subprocess.run(
            [Path(sys.executable).with_name(command)], cwd=tmp, check=True, env=os.environ | dict(PYTHONPATH=tmp)
        )
    found = [d for m in made for d in differences(root / m, Path(tmp) / m)]
if found:
    sys.exit('not in sync; run `nbdev-export` and `nbdev-clean`:\n  ' + '\n  '.join(found))
print('in sync: the package and the notebooks are what nbdev makes of them')
