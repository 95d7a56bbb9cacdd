"""Rewrite published records in packed form: `python tools/pack_records.py [FOLDER]` (by default `book/records`).

Each record is read, written, read again and compared before it replaces the old one. Packed ones are left as they are.
"""

import sys
from pathlib import Path

import numpy as np

from crossmodal_nb.core.files import read_json
from crossmodal_nb.core.settings import settings
from crossmodal_nb.runs import packing, record


def same(a, b):
    "Whether two values are equal to the last bit, in types and in the order of fields, too"
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    return repr(a) == repr(b)


def pack(
    folder: Path,  # With a folder of records for each entry
) -> tuple[int, int]:  # How many were rewritten, and how many could not be read
    "Pack all records below a folder. An `AssertionError` names the first that would not come back as it was"
    done = left = 0
    for path in sorted(folder.glob('*/*.json')):
        if 'packed' in read_json(path):
            continue
        if (old := record.read(path)) is None:
            left += 1
            continue
        old.pop('arrays', None)
        trial = path.with_name(f'{path.stem}-packed.json')
        packing.write_packed(trial, old)
        back = record.read(trial)
        (arrays,) = path.parent.glob(f'{trial.stem}.*.npz')
        arrays.unlink()
        trial.unlink()
        assert same(old, back), f'{path}: does not come back as it was'
        packing.write_packed(path, old)
        done += 1
    return done, left


if __name__ == '__main__':
    done, left = pack(Path(sys.argv[1]) if sys.argv[1:] else settings().book / 'records')
    print(f'{done} packed, {left} cannot be read')
