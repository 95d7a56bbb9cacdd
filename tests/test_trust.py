"What is read is what was written: a byte that changed is noticed, and a result is replaced as a whole or not at all."

import contextlib
import json
import os
import re
import shutil
import sqlite3
import warnings

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from crossmodal_nb.cli import app
from crossmodal_nb.core import checksums
from crossmodal_nb.core.checks import InputError, MissingError
from crossmodal_nb.core.files import atomic, read_notebook, sealed, whole_folder, write_notebook
from crossmodal_nb.core.settings import settings
from crossmodal_nb.data.images import Images
from crossmodal_nb.data.synthetic import make_gaussian_views
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.encoders import extraction, store
from crossmodal_nb.methods.base import Method
from crossmodal_nb.methods.linear import CCA
from crossmodal_nb.runs import record
from crossmodal_nb.search import Index
from crossmodal_nb.verification import verify


class Lengths:
    "An encoder without weights: the number of each letter a text has"

    key, shard = 'lengths', 4

    def __init__(self, fails_at=None):
        self.calls, self.fails_at = 0, fails_at

    def __call__(self, texts):
        self.calls += len(texts)
        if self.fails_at is not None and self.calls > self.fails_at:
            raise KeyboardInterrupt
        return dict(pooled=torch.tensor([[float(t.count(c)) for c in 'abcde'] for t in texts]))


def texts(n=18):
    return Views(text=View([f'{"abcde"[i % 5] * (i + 1)}' for i in range(n)], [f't{i}' for i in range(n)]))


def flip(path, at=-3):
    "Another byte in the same place, with the times of before"
    data, was = bytearray(path.read_bytes()), path.stat()
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


damages = dict(
    flipped=flip,
    zeroed=lambda p: p.write_bytes(bytes(p.stat().st_size)),
    emptied=lambda p: p.write_bytes(b''),
    truncated=lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    gone=lambda p: p.unlink(),
    foreign=lambda p: p.write_bytes(b'{"rows": 3}'),
)


# ---------------------------------------------------------------- feature stores
@pytest.mark.parametrize('damage', damages)
@pytest.mark.parametrize('name', ['pooled.npy', 'rows.npy', 'ids.txt', 'meta.json'])
def test_a_damaged_store_is_made_again(name, damage, tmp_path):
    views = texts()
    good = extraction.features(views, dict(text=Lengths()), tmp_path)['text'].x['pooled'].clone()
    folder = store.store(views['text'], Lengths(), tmp_path)
    damages[damage](folder / name)
    with pytest.raises((InputError, MissingError), match=re.escape(str(folder))):
        store.stored(folder)
    with pytest.warns(UserWarning, match='it is made again now'):
        again = extraction.features(views, dict(text=Lengths()), tmp_path)['text'].x['pooled']
    assert torch.equal(good, again) and store.stored(folder)[1]['n'] == 18


@pytest.mark.parametrize('damage', damages)
@pytest.mark.parametrize('name', ['pooled.npy', 'rows.npy', 'meta.json'])
def test_nothing_is_copied_from_a_damaged_store(name, damage, tmp_path):
    views, more = texts(), texts(24)
    extraction.features(views, dict(text=Lengths()), tmp_path)
    damages[damage](store.store(views['text'], Lengths(), tmp_path) / name)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        x = extraction.features(more, dict(text=Lengths()), tmp_path)['text'].x['pooled']
    assert torch.equal(x, Lengths()(more['text'].x)['pooled'])


@pytest.mark.parametrize('damage', damages)
@pytest.mark.parametrize('name', ['pooled.npy', 'rows.npy', 'progress.json', 'plan'])
def test_an_interrupted_store_resumes_only_from_what_was_written(name, damage, tmp_path):
    views = texts()
    with contextlib.suppress(KeyboardInterrupt):
        extraction.features(views, dict(text=Lengths(fails_at=9)), tmp_path)
    folder = store.store(views['text'], Lengths(), tmp_path)
    damages[damage](folder.with_name(f'{folder.name}.part') / name)
    encoder = Lengths()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        x = extraction.features(views, dict(text=encoder), tmp_path)['text'].x['pooled']
    assert torch.equal(x, Lengths()(views['text'].x)['pooled'])


def test_an_interrupted_store_resumes(tmp_path):
    views, encoder = texts(), Lengths()
    with contextlib.suppress(KeyboardInterrupt):
        extraction.features(views, dict(text=Lengths(fails_at=9)), tmp_path)
    extraction.features(views, dict(text=encoder), tmp_path)
    assert encoder.calls == 18 - 8  # two shards of four were there


# ---------------------------------------------------------------- records
def run_record(folder, value=0.25, **more):
    row = dict(query='a', gallery='b', metric='R@1', value=value, split='valid', pool='all', n=40, relevance='item')
    content = dict(
        experiment=folder.name,
        notebook='10_cca',
        key='0123456789',
        digests=dict(notebook='n', params='p', fit='f', measure='m', data='d'),
        params=dict(seed=3),
        rows=[row],
        tables=dict(ranks=dict(CCA=dict(item=np.arange(5), rank=np.ones(5)))),
        history=[],
        status='ok',
        selected_by='valid',
    )
    record.write(folder / '0123456789.json', content | more)
    return folder / '0123456789.json'


@pytest.mark.parametrize('damage', [*damages, 'edited'])
def test_a_record_that_was_changed_does_not_count(damage, tmp_path):
    path = run_record(tmp_path / 'toy')
    assert record.read(path)['rows'][0]['value'] == 0.25
    if damage == 'edited':
        path.write_text(path.read_text().replace('0.25', '0.999'))
    else:
        damages[damage](path)
    with pytest.warns(UserWarning, match=re.escape(str(path))):
        assert record.read(path) is None


@pytest.mark.parametrize('damage', damages)
def test_arrays_of_a_record_are_verified(damage, tmp_path):
    path = run_record(tmp_path / 'toy')
    damages[damage](next(path.parent.glob('*.npz')))
    with pytest.warns(UserWarning, match=re.escape(str(path))):
        assert record.read(path) is None


def test_a_record_may_hold_any_word(tmp_path):
    path = run_record(tmp_path / 'toy', tables=dict(classes=['ROWS', 'rows', 'null'], rows=None), note='"rows": null')
    assert record.read(path)['tables']['classes'] == ['ROWS', 'rows', 'null']


def test_an_invalid_notebook_is_named(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('1')])
    notebook.cells[0]['execution_count'] = 'x'
    (tmp_path / 'a.ipynb').write_text(json.dumps(notebook))
    with pytest.raises(InputError, match=r'a\.ipynb: not a readable notebook'):
        read_notebook(tmp_path / 'a.ipynb')


def test_the_valid_record_wins_not_the_newest_file(tmp_path, monkeypatch):
    "A folder that was restored from elsewhere brings a stale record with a new file time"
    (tmp_path / 'settings.ini').write_text('[crossmodal]\n')
    monkeypatch.chdir(tmp_path)
    folder = settings().work / 'records' / 'toy'
    good = run_record(folder, 0.25, key='good', started='2026-01-01 10:00')
    good = good.rename(folder / 'good.json')
    run_record(folder, 0.75, key='stale', started='2026-01-02 10:00').rename(folder / 'stale.json')
    monkeypatch.setattr(record, 'is_stale', lambda r: r['key'] == 'stale')
    assert [r['key'] for r in record.runs('toy')] == ['good']
    monkeypatch.setattr(record, 'is_stale', lambda r: True)
    assert [r['key'] for r in record.runs('toy')] == ['stale']  # neither is valid: the one that was made last


def test_folds_stand_in_their_order_wherever_and_whenever_they_ran(tmp_path, monkeypatch):
    (tmp_path / 'settings.ini').write_text('[crossmodal]\n')
    monkeypatch.chdir(tmp_path)
    s = settings()
    for fold, root in ((2, s.book), (0, s.work), (1, s.book)):
        digests = dict(notebook='n', params=f'{fold}', fit='f', measure='m', data='d')
        path = run_record(root / 'records' / 'toy', digests=digests, params=dict(fold=fold))
        path.rename(path.with_name(f'{9 - fold}.json'))
    assert [record.fold_of(r) for r in record.runs('toy')] == [0, 1, 2]


# ---------------------------------------------------------------- methods and indexes
@pytest.fixture
def cca():
    return CCA(dim=2).fit(make_gaussian_views(60, seed=0))


@pytest.mark.parametrize('damage', damages)
@pytest.mark.parametrize('pattern', ['method.json', '*.safetensors'])
def test_a_damaged_method_is_refused(cca, pattern, damage, tmp_path):
    cca.save(tmp_path / 'm')
    path = next((tmp_path / 'm').glob(pattern))
    damages[damage](path)
    with pytest.raises((InputError, FileNotFoundError), match=re.escape(str(tmp_path / 'm'))):
        Method.load(tmp_path / 'm')


def test_two_methods_in_one_folder_keep_their_tensors(cca, tmp_path):
    cca.save(tmp_path)
    (tmp_path / 'method.json').rename(tmp_path / 'first.json')
    CCA(dim=1).fit(make_gaussian_views(60, seed=1)).save(tmp_path)
    (tmp_path / 'method.json').unlink()
    (tmp_path / 'first.json').rename(tmp_path / 'method.json')
    assert Method.load(tmp_path).dim == 2


@pytest.fixture
def index(cca):
    return Index(cca, make_gaussian_views(60, seed=2), name='toy')


@pytest.mark.parametrize('damage', damages)
@pytest.mark.parametrize('pattern', ['index.json', '*.safetensors', 'method/method.json', 'method/*.safetensors'])
def test_a_damaged_index_is_refused(index, pattern, damage, tmp_path):
    index.save(tmp_path / 'i')
    damages[damage](next((tmp_path / 'i').glob(pattern)))
    with pytest.raises((InputError, FileNotFoundError), match=re.escape(str(tmp_path / 'i'))):
        Index.load(tmp_path / 'i')


def test_an_index_of_two_parts_is_refused(index, tmp_path):
    "The codes of one method and another method, each undamaged"
    index.save(tmp_path / 'i')
    shutil.rmtree(tmp_path / 'i' / 'method')
    CCA(dim=2).fit(make_gaussian_views(60, seed=1)).save(tmp_path / 'i' / 'method')
    with pytest.raises((InputError, MissingError), match=re.escape(str(tmp_path / 'i' / 'method'))):
        Index.load(tmp_path / 'i')


@pytest.mark.parametrize('step', ['method', 'codes'])
def test_a_failed_index_leaves_the_last_one(index, step, tmp_path, monkeypatch):
    index.save(tmp_path / 'i')
    before = {p.name: p.read_bytes() for p in (tmp_path / 'i').rglob('*') if p.is_file()}

    def full(*args, **options):
        raise OSError(28, 'No space left on device')

    if step == 'method':
        monkeypatch.setattr(CCA, 'save', full)
    else:
        monkeypatch.setattr('crossmodal_nb.search.save_tensors', full)
    with pytest.raises(OSError, match=f'{re.escape(str(tmp_path / "i"))}.*What was there is unchanged'):
        index.save(tmp_path / 'i')
    assert before == {p.name: p.read_bytes() for p in (tmp_path / 'i').rglob('*') if p.is_file()}
    assert not list(tmp_path.glob('*.part'))


def test_a_whole_folder_survives_a_killed_writer(tmp_path):
    folder = tmp_path / 'r'
    with whole_folder(folder) as new:
        (new / 'a').write_text('1')
    if os.fork() == 0:
        with whole_folder(folder) as new:
            (new / 'a').write_text('half')
            os._exit(9)
    os.wait()
    assert (folder / 'a').read_text() == '1'
    with whole_folder(folder) as new:
        assert not list(new.iterdir())
        (new / 'a').write_text('2')
    assert (folder / 'a').read_text() == '2' and [p.name for p in tmp_path.glob('.r.*.part')] == []


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / 'real').mkdir()
    (tmp_path / 'link').symlink_to('real')
    for text in '12':
        with whole_folder(tmp_path / 'link') as new:
            (new / 'a').write_text(text)
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'real' / 'a').read_text() == '2'
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != '.lock') == ['link', 'real']


def test_where_folders_cannot_be_swapped_nothing_is_lost(tmp_path, monkeypatch):
    "Three renames; killed after the first one, or the second one fails"
    from crossmodal_nb.core import files

    monkeypatch.setattr(files.ctypes, 'CDLL', lambda *args, **options: object())
    folder = tmp_path / 'r'
    for text in '12':
        with whole_folder(folder) as new:
            (new / 'a').write_text(text)
    assert (folder / 'a').read_text() == '2' and not list(tmp_path.glob('*.part'))
    folder.rename(tmp_path / '.r.77.part.old.part')
    with contextlib.suppress(ZeroDivisionError), whole_folder(folder) as new:
        raise ZeroDivisionError
    assert (folder / 'a').read_text() == '2'
    replace, count = os.replace, []

    def fails_once(a, b):
        count.append(a)
        if len(count) == 2:
            raise OSError(5, 'Input/output error', str(a))
        replace(a, b)

    monkeypatch.setattr(os, 'replace', fails_once)
    with pytest.raises(OSError, match='What was there is unchanged'), whole_folder(folder) as new:
        (new / 'a').write_text('3')
    assert (folder / 'a').read_text() == '2'


def test_folders_of_similar_names_leave_each_other_alone(tmp_path):
    with whole_folder(tmp_path / 'news.v2') as other:
        with whole_folder(tmp_path / 'news') as new:
            (new / 'a').write_text('1')
        (other / 'b').write_text('2')
    assert (tmp_path / 'news.v2' / 'b').read_text() == '2' and (tmp_path / 'news' / 'a').read_text() == '1'


def test_an_error_about_another_file_is_not_about_the_disk(tmp_path):
    for write in (lambda: whole_folder(tmp_path / 'r'), lambda: atomic(tmp_path / 'a.txt')):
        with pytest.raises(FileNotFoundError) as e, write():
            open(tmp_path / 'picture.png').close()
        assert 'free some space' not in str(e.value)


def test_an_index_leaves_no_locks(index, tmp_path):
    index.save(tmp_path / 'i')
    assert [p.name for p in tmp_path.rglob('*.lock')] == ['.i.lock']


def test_an_older_file_without_a_digest_still_loads(cca, tmp_path):
    cca.save(tmp_path)
    path = tmp_path / 'method.json'
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != 'content'}))
    assert Method.load(tmp_path).dim == 2
    assert sealed(json.loads(path.read_text()))['content']


# ---------------------------------------------------------------- inputs that changed
def test_pictures_that_were_swapped_are_noticed(tmp_path):
    "Two files of equal size change places, and get the times they had"
    from crossmodal_nb.datasets import data_digest

    for name, colour in (('a', 1), ('b', 2)):
        Image.new('L', (8, 8), colour).save(tmp_path / f'{name}.bmp')
        (tmp_path / f'{name}.txt').write_text(f'picture {name}')
    images = Images([tmp_path / 'a.bmp', tmp_path / 'b.bmp'])
    before = images.digest, store.row_keys(images).tolist(), data_digest('folder', tmp_path)
    times = (tmp_path / 'a.bmp').stat().st_mtime_ns
    (tmp_path / 'a.bmp').rename(tmp_path / 'c.bmp')
    (tmp_path / 'b.bmp').rename(tmp_path / 'a.bmp')
    (tmp_path / 'c.bmp').rename(tmp_path / 'b.bmp')
    for name in 'ab':
        os.utime(tmp_path / f'{name}.bmp', ns=(times, times))
    after = images.digest, store.row_keys(images).tolist(), data_digest('folder', tmp_path)
    assert before[1] == after[1][::-1] and before[0] != after[0] and before[2] != after[2]


def test_an_edited_file_of_a_package_is_refused(tmp_path):
    from crossmodal_nb.core import fetch

    folder = tmp_path / 'emoji-2.16.0'
    shutil.copytree(fetch.fetch('emoji'), folder)
    assert fetch.fetch('emoji', tmp_path) == folder
    flip(next(folder.rglob('*.json')))
    fetch._checked.cache_clear()
    with pytest.raises(InputError, match='it will be fetched again'):
        fetch.fetch('emoji', tmp_path)


def test_a_damaged_cache_of_checksums_begins_anew(tmp_path, monkeypatch):
    (tmp_path / 'settings.ini').write_text('[crossmodal]\n')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a').write_text('12')
    sums = checksums.folder_sums(tmp_path, ['a'])
    checksums.check_files(tmp_path, sums, 'Make it again')
    store = settings().work / 'digests.sqlite'

    def later_pages(path):
        data = path.read_bytes()
        path.write_bytes(data[:4096] + b'x' * max(4096, len(data) - 4096))

    for damage in (*damages.values(), later_pages):
        damage(store)
        checksums.check_files(tmp_path, sums, 'Make it again')
        assert checksums.folder_sums(tmp_path, ['a']) == sums
        checksums.remember({tmp_path / f'{i}': [i, i, i, i, 'x' * 64] for i in range(300)})


def test_an_answer_counts_only_for_its_question_and_while_it_is_whole(tmp_path, monkeypatch):
    (tmp_path / 'settings.ini').write_text('[crossmodal]\n')
    monkeypatch.chdir(tmp_path)
    found = []

    def ask(question, answer, kind='plans', subject='a'):
        with checksums.answers(kind) as asked:
            return asked(subject, question, lambda: found.append(answer) or answer)

    assert [ask([1], 'x'), ask([1], 'y'), ask([1], 'y', 'others'), ask([1], 'z', subject='b')] == ['x', 'x', 'y', 'z']
    assert [ask([2], 'new'), ask([2], 'newer'), ask([1], 'old')] == ['new', 'new', 'old']
    store = settings().work / 'digests.sqlite'
    with contextlib.closing(sqlite3.connect(store)) as database, database:
        database.execute("UPDATE answers SET answer = '\"bad\"' WHERE kind = 'plans' AND subject = 'a'")
    assert ask([1], 'again') == 'again' and ask([1], 'unasked', subject='b') == 'z'
    for damage in damages.values():
        damage(store)
        assert ask([1], 'found anew', subject='c') == 'found anew'
        assert ask([1], 'not asked', subject='c') in ('found anew', 'not asked')
    store.unlink()
    store.mkdir()  # there can be no cache
    assert [ask([1], 'x'), ask([1], 'y')] == ['x', 'y']
    with pytest.raises(KeyError), checksums.answers('plans') as asked:
        asked('d', [1], dict().popitem)


def test_checksums_without_a_cache(tmp_path, monkeypatch):
    "The cache is held by others, or cannot be made: files are read, and a good cache stays"
    (tmp_path / 'settings.ini').write_text('[crossmodal]\n')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a').write_text('12')
    sums = checksums.folder_sums(tmp_path, ['a'])
    connect = sqlite3.connect
    monkeypatch.setattr(checksums.sqlite3, 'connect', lambda path, timeout: connect(path, timeout=0.1))
    with contextlib.closing(connect(settings().work / 'digests.sqlite')) as held:
        held.execute('BEGIN EXCLUSIVE')
        assert checksums.folder_sums(tmp_path, ['a']) == sums
        checksums.check_files(tmp_path, sums, 'Make it again')
    assert checksums.known_sha256(tmp_path / 'a') == sums['a']
    shutil.rmtree(settings().work)
    settings().work.write_text('no folder')
    checksums.check_files(tmp_path, sums, 'Make it again')


# ---------------------------------------------------------------- everything at once, and words of strangers
@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / 'settings.ini').write_text('[crossmodal]\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def damaged_kinds():
    return sorted({f.kind for f in verify() if f.problem})


def test_verify_reads_everything(home, index, capsys):
    work = settings().work
    extraction.features(texts(), dict(text=Lengths()), work / 'features')
    run_record(work / 'records' / 'toy')
    nbformat.write(nbformat.v4.new_notebook(), work / 'records' / 'toy' / '0123456789.ipynb')
    index.save(work / 'index' / 'toy')
    assert damaged_kinds() == [] and len(list(verify())) == 4
    for kind, pattern in (
        ('features', 'features/*/*/pooled.npy'),
        ('record', 'records/*/*.npz'),
        ('page', 'records/*/*.ipynb'),
        ('index', 'index/toy/method/*.safetensors'),
    ):
        path = next(work.glob(pattern))
        before = path.read_bytes()
        path.write_bytes(before[: len(before) // 2])
        assert damaged_kinds() == [kind]
        done = CliRunner().invoke(app, ['verify'])
        assert done.exit_code == 1 and str(path.parent) in done.stdout and '1 damaged' in done.stdout
        path.write_bytes(before)
    assert 'all as it was written' in CliRunner().invoke(app, ['verify', 'toy']).stdout


def test_words_of_strangers_do_not_steer_the_terminal(home):
    "A label and a file with characters that move the cursor or turn text around"
    odd = '\x1b[2J\u202egnp'
    rows = '\n'.join(f'title {i},words {i} of a text,{odd if i % 2 else "plain"}' for i in range(60))
    (home / f'a{odd}.csv').write_text(f'title,text,label\n{rows}')
    done = CliRunner().invoke(app, ['data', 'add', 'odd', f'a{odd}.csv', '--text', 'title', '--text', 'text'])
    assert done.exit_code == 0 and '\\x1b[2J\\u202e' in done.stdout
    done_wrong = CliRunner().invoke(app, ['data', 'add', 'odd', f'a{odd}.csv', '--text', odd])
    for said in (done.output, done_wrong.output):
        assert '\x1b[2J' not in said and '\u202e' not in said


# ---------------------------------------------------------------- what the fault campaign found
def page_of(path, text='R@1 0.25', **known):
    from nbformat.v4 import new_code_cell, new_notebook, new_output

    cell = new_code_cell('score', outputs=[new_output('stream', text=text)])
    write_notebook(path, new_notebook(cells=[cell]), **known)
    return path


def test_an_edited_page_is_refused(tmp_path):
    path = page_of(tmp_path / '0123456789.ipynb', key='0123456789')
    assert read_notebook(path).cells[0].outputs[0].text == 'R@1 0.25'
    path.write_text(path.read_text().replace('0.25', '0.95'))
    with pytest.raises(InputError, match=r'0123456789\.ipynb: .*not what was saved'):
        read_notebook(path)


def test_a_page_of_another_run_is_refused(tmp_path):
    path = page_of(tmp_path / '0123456789.ipynb', key='0123456789')
    with pytest.raises(InputError, match='the page of another run, 0123456789'):
        read_notebook(path.rename(tmp_path / '9876543210.ipynb'))


def test_a_record_of_another_run_does_not_count(tmp_path):
    path = run_record(tmp_path / 'toy')
    with pytest.warns(UserWarning, match='the record of another run, 0123456789'):
        assert record.read(path.rename(path.with_name('9876543210.json')), named=True) is None


def test_a_run_without_its_page_is_named(tmp_path):
    from crossmodal_nb.report.pages import good_records, with_pages

    run_record(tmp_path / 'toy')
    with pytest.warns(UserWarning, match=re.escape(str(tmp_path / 'toy' / '0123456789.ipynb'))):
        assert with_pages(good_records(tmp_path / 'toy')) == []
    page_of(tmp_path / 'toy' / '0123456789.ipynb', key='0123456789')
    assert len(with_pages(good_records(tmp_path / 'toy'))) == 1


def test_a_run_that_was_killed_after_its_record_runs_again(checkout, monkeypatch):
    from crossmodal_nb.runs import runner

    monkeypatch.chdir(checkout)
    (job,) = runner.plan()
    run_record(job['path'].parent, key=job['key'], digests=job['digests']).rename(job['path'])
    assert [j['status'] for j in runner.plan()] == ['kept']
    job['path'].with_suffix('.part.ipynb').write_text('{}')
    assert [(j['status'], j['why']) for j in runner.plan()] == [('failed', 'it was interrupted')]


@pytest.mark.parametrize('damage', [d for d in damages if d != 'gone'])
def test_a_damaged_space_of_the_explorer_is_refused(index, damage, tmp_path):
    from crossmodal_nb import explorer
    from crossmodal_nb.report.staging import shards

    path = tmp_path / 'toy.js'
    path.write_text(explorer.shard(index)[0])
    assert 'toy.js' in shards([tmp_path])
    damages[damage](path)
    with pytest.raises(InputError, match=re.escape(str(path))):
        shards([tmp_path])


def test_data_that_is_added_twice_is_the_same_data(home):
    rows = '\n'.join(f'title {i},words {i} of a text' for i in range(60))
    (home / 'a.csv').write_text(f'title,text\n{rows}')
    add = ['data', 'add', 'mine', 'a.csv', '--text', 'title', '--text', 'text']
    (home / 'work').mkdir()
    for again in (False, True):
        assert CliRunner().invoke(app, add).exit_code == 0
        if not again:
            (home / 'work' / 'experiments.toml').unlink()  # as if it had been killed before
    assert (home / 'work' / 'experiments.toml').exists()
    done = CliRunner().invoke(app, [*add, '--title', 'Mine'])
    assert done.exit_code == 1 and '--replace' in done.stderr


@pytest.mark.parametrize(
    'error, words',
    [
        (OSError(28, 'No space left on device', 'work/x'), 'work/x.*Free some space'),
        (PermissionError(13, 'Permission denied', 'work/x'), 'work/x.*choose another folder'),
        (KeyError('rows'), "KeyError: 'rows'.*--traceback"),
    ],
)
def test_the_command_line_shows_no_bare_error(error, words, monkeypatch):
    def fails(name=''):
        raise error

    monkeypatch.setattr('crossmodal_nb.verification.verify', fails)
    done = CliRunner().invoke(app, ['verify'])
    assert done.exit_code == 1 and re.search(words, done.stderr) and 'Traceback' not in done.stderr
    done = CliRunner().invoke(app, ['--traceback', 'verify'])
    assert done.exception is error
