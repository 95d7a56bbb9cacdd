"Packed records: nothing is rounded, damage is named, and the two files are one record."

import json
import math
import random
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from crossmodal_nb.runs import packing, record

root = Path(__file__).parent.parent
sys.path.insert(0, str(root / 'tools'))
from pack_records import pack, same  # noqa: E402

doubles = [0.1, 1 / 3, 5e-324, 1.7e308, -0.0, 1e22, 123456789.123456, 0.1 + 0.2, 2.0**53 + 2, 1e-7, 3.0]
awkward = dict(
    floats=doubles * 3,
    six=[float(f'{random.Random(i).lognormvariate(0, 9):.6g}') for i in range(500)],
    infinite=[math.inf, -math.inf, *doubles],
    whole=[*range(-5, 300), 2**62],
    large=[2**70, *range(20)],
    mixed=[1, 1.0, True, False, None, 'a', '1'] * 5,
    once=[1, 1.0, True, None, 'a', [1], dict(a=1), 2.5, 'b'],
    short=[1.5, 2],
    empty=dict(a=[], b={}, c=''),
    figures=['0.10 0.25 3.00 0.10 0.00 1.00 2.00 9.99', '1 2 3 4 5 6 7 8', '1 2.5 3 4 5 6 7 8', '01 2 3 4 5 6 7 8'],
    texts=[f'item {i}' for i in range(20)],
    lists=[['a', 1.0], ['a', 1], []] * 8,
    rows=[dict(a=1.5, b='x')] * 6 + [dict(b='y', a=2), dict(a=0.1), {}, dict(c=[dict(d=1)] * 9, a=None)] * 3,
    arrays=[np.arange(40), np.array([[0.25, -0.0], [math.nan, 1 / 3]]), np.ones((2, 3), np.float16), np.zeros((0, 4))],
    booleans=np.array([True, False]),
)


def good(folder, name='0123456789', **more):
    content = dict(
        experiment='e', notebook='n', key=name, status='ok', digests=dict(notebook='n', params='p'), params={}
    )
    path = folder / 'e' / f'{name}.json'
    packing.write_packed(path, content | dict(rows=[], tables={}, history=[], selected_by='') | more)
    return path


def test_everything_comes_back_to_the_last_bit(tmp_path):
    row = dict(query='a', metric='R@1', split='test', value=0.25)
    rows = [row | dict(n=i, value=i / 7) for i in range(50)]
    path = good(tmp_path, rows=rows, tables=awkward, history=rows[:9])
    back = record.read(path, named=True)
    assert same(back['tables'], awkward) and same(back['rows'], rows) and same(back['history'], rows[:9])
    assert not same(back['tables'], awkward | dict(short=[1.5, 2.0]))  # the comparison sees a type
    lists = back['tables']['lists']
    lists[0].append('changed')
    assert lists[3] == ['a', 1.0]  # equal values are not one object


def test_a_long_table_stands_beside_the_record(tmp_path):
    table = {f'method {i}': dict(note='größer', score=i / 7, ranks=np.arange(i % 3)) for i in range(200)}
    path = good(tmp_path, tables=dict(a=table))
    assert path.stat().st_size < 2000 and same(record.read(path, named=True)['tables']['a'], table)


@pytest.mark.parametrize('fields', packing.marks)
def test_fields_that_mean_something_else_are_refused(tmp_path, fields):
    with pytest.raises(ValueError, match='Rename one'):
        good(tmp_path, tables=dict(a=dict.fromkeys(fields, '1')))
    assert not [*tmp_path.glob('e/*')]


def left_out(path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        assert record.read(path) is None
    (warning,) = caught
    return str(warning.message)


def test_a_file_of_arrays_that_is_absent_or_damaged_is_named(tmp_path):
    path = good(tmp_path, tables=awkward)
    (arrays,) = path.parent.glob('*.npz')
    content = arrays.read_bytes()
    for i in (0, len(content) // 2, len(content) - 1):
        arrays.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
        assert arrays.name in left_out(path) and str(path) in left_out(path)
    arrays.write_bytes(content[:-1])
    assert arrays.name in left_out(path)
    arrays.unlink()
    assert arrays.name in left_out(path)
    arrays.write_bytes(content)
    assert record.read(path)
    other = good(tmp_path / 'other', tables=dict(a=doubles))
    name = next(other.parent.glob('*.npz')).name
    (path.parent / name).write_bytes((other.parent / name).read_bytes())
    text = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in text.items() if k != 'content'} | dict(packed=name)))  # of another
    assert name in left_out(path)


def test_a_record_that_changes_leaves_one_file_of_arrays(tmp_path):
    path = good(tmp_path, tables=dict(a=doubles))
    (first,) = path.parent.glob('*.npz')
    beside = good(tmp_path, '0123456789a', tables=dict(a=doubles))
    good(tmp_path, tables=dict(a=doubles * 2))
    second = [f for f in path.parent.glob(f'{path.stem}.*.npz')]
    assert len(second) == 1 and second != [first] and record.read(path) and record.read(beside)


def test_runs_of_an_entry_share_what_is_the_same(tmp_path):
    content = dict(experiment='e', notebook='n', status='ok', digests=dict(notebook='n', params='p'), params={})
    content |= dict(rows=[], history=[], selected_by='')
    runs = {
        f'{k:010}.json': content
        | dict(key=f'{k:010}', tables=dict(awkward, seed=np.random.default_rng(k).random(500), twice=np.arange(k, 90)))
        for k in range(3)
    }
    written = packing.write_packed_runs(tmp_path, runs)
    assert written == {f.name for f in tmp_path.iterdir()} and len(written) == 7
    (shared,) = tmp_path.glob('shared.*.npz')
    for name, r in runs.items():
        assert same(record.read(tmp_path / name, named=True)['tables'], r['tables'])
        alone = tmp_path / 'alone' / name
        packing.write_packed(alone, r)
        assert sum(f.stat().st_size for f in tmp_path.glob(f'{alone.stem}.*')) < 0.8 * sum(
            f.stat().st_size for f in alone.parent.glob(f'{alone.stem}.*')
        )
    shared.write_bytes(shared.read_bytes()[:-1])
    assert shared.name in left_out(tmp_path / name)
    shared.unlink()
    assert shared.name in left_out(tmp_path / name)
    first = next(iter(runs))
    packing.write_packed(tmp_path / first, runs[first])  # alone, it needs nobody
    assert same(record.read(tmp_path / first, named=True)['tables'], runs[first]['tables'])
    assert packing.write_packed_runs(tmp_path / 'one', {first: runs[first]}) == {
        f.name for f in (tmp_path / 'one').iterdir()
    } and not [*(tmp_path / 'one').glob('shared.*')]


def test_older_records_are_packed_as_they_are_read(tmp_path):
    "One of plain JSON with arrays as text, one with a file of arrays, one that is no record"
    old = dict(item='5 15 27', rank='1 2.5 3', random=False)
    content = dict(experiment='e', notebook='n', key='0123456789', status='ok', params={}, rows=[], history=[])
    content |= dict(digests=dict(notebook='n', params='p'), selected_by='', tables=dict(ranks={'a→b': old}))
    new = dict(item=np.arange(30), rank=np.arange(30) / 4, random=False)
    first, second = (tmp_path / 'e' / f'{k}.json' for k in ('0123456789', '9876543210'))
    record.write(first, content)
    record.write(second, content | dict(key=second.stem, tables=dict(ranks={'a→b': new})))
    (tmp_path / 'e' / 'none.json').write_text('{}')
    before = [record.read(f) for f in (first, second)]
    with pytest.warns(UserWarning, match='none.json'):
        assert pack(tmp_path) == (2, 1)
    after = [record.read(f) for f in (first, second)]
    before[1].pop('arrays')
    assert all(map(same, before, after)) and len([*tmp_path.glob('e/*.npz')]) == 2
    with pytest.warns(UserWarning, match='none.json'):
        assert pack(tmp_path) == (0, 1)


def test_published_records_are_packed_and_readable():
    files = sorted((root / 'book' / 'records').glob('*/*.json'))
    plain = [f.name for f in files if 'packed' not in json.loads(f.read_text())]
    assert files and not plain, 'python tools/pack_records.py packs them'
    size = sum(f.stat().st_size for f in (root / 'book' / 'records').rglob('*.*'))
    assert size <= 12e6
