"The command line, as a person meets it: small checkouts, and real processes where it matters."

import json
import os
import subprocess
import sys

import pytest
from conftest import manifest

from crossmodal_nb import cli
from crossmodal_nb.core.checks import InputError
from crossmodal_nb.core.settings import settings
from crossmodal_nb.runs import record


def process(*args, at):
    "The program as a process of its own"
    return subprocess.run(
        [sys.executable, '-c', 'from crossmodal_nb.cli import app; app(prog_name="crossmodal")', *map(str, args)],
        cwd=at,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, 'NO_COLOR': '1', 'COLUMNS': '140'},
    )


def crossmodal(*args, at):
    "The program in this process: the same, without seconds of imports"
    from typer.testing import CliRunner

    from crossmodal_nb.cli import app

    old = os.getcwd()
    os.chdir(at)
    try:
        return CliRunner().invoke(app, list(map(str, args)))
    finally:
        os.chdir(old)


def test_help_is_quick_and_complete(tmp_path):
    heavy = (
        "import sys, crossmodal_nb.cli; print({'torch', 'transformers', 'matplotlib', 'pandas', 'sklearn', "
        "'jupyter_book'} & set(sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, '-c', heavy], capture_output=True, text=True, cwd=tmp_path).stdout.strip()
        == 'set()'
    )
    said = process('--help', at=tmp_path).stdout
    commands = ('data', 'features', 'plan', 'run', 'board', 'trace', 'export', 'book', 'publish', 'readme')
    assert all(f'\n  {c} ' in said for c in commands)


long_commands = [
    ('data', 'add', 'mine', 'pairs.csv'),
    ('data', 'get', 'emoji'),
    ('data', 'show', 'mine'),
    ('features', 'emoji'),
    ('try', 'emoji'),
    ('run',),
    ('index', 'emoji'),
    ('explore', 'emoji'),
    ('book',),
    ('data',),
    ('plan',),
    ('board',),
    ('trace', 'cca_emoji'),
    ('export', 'csv'),
    ('search', 'emoji', 'a red apple'),
    ('imagine', 'emoji', 'a red apple'),
    ('describe', 'emoji', 'apple.png'),
]


@pytest.mark.parametrize('command', long_commands, ids=' '.join)
def test_a_long_command_says_what_it_does_before_it_imports_torch(command, tmp_path):
    "Its first step begins, at once or after a second, while nothing heavy is imported"
    code = """
import sys
from crossmodal_nb.core.progress import Progress
def begin(step):
    print(step.name, step.delay, 'torch.nn' in sys.modules, 'numpy' in sys.modules)  # a stand-in for torch may be there
    sys.exit(7)
Progress.__enter__ = begin
from crossmodal_nb.cli import app
app(sys.argv[1:])
"""
    done = subprocess.run([sys.executable, '-c', code, *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 7, done.stdout + done.stderr
    *_, delay, torch, numpy = done.stdout.split()
    assert float(delay) <= 1 and (torch, numpy) == ('False', 'False')


def test_the_first_line_comes_at_once(checkout):
    "Also where the output is piped; results alone are on the standard output"
    done = process('index', 'gaussian', at=checkout)
    assert done.stderr.startswith('gaussian: reading …') and 'Ask it: crossmodal search gaussian' in done.stdout
    assert '…' not in done.stdout


@pytest.mark.parametrize('width', [80, 120])
def test_tables_fit_the_screen(width):
    from crossmodal_nb.cli import table_text

    numbers = ['R@10 (%)', '100.0† (100.0)', '[100.0, 100.0]', '100.0', '100.0', '100.0']
    head = ['method', 'setting', 'metric', 'score', 'interval', 'chance', 'null', 'ceiling']
    rows = [['CCA, textbook', 'scope all at once, on unseen', *numbers], ['CLIP', 'pool all', *numbers]]
    lines = table_text([head, *rows], width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(sum(n in line for line in lines) == 2 for n in ('[100.0, 100.0]', '100.0† (100.0)', 'R@10 (%)'))


@pytest.mark.parametrize('command', [('readme',), ('publish', 'x')])
def test_commands_that_need_a_checkout_say_so(tmp_path, command):
    done = crossmodal(*command, at=tmp_path)
    assert done.exit_code == 1 and 'checkout' in done.stderr and 'Traceback' not in done.stderr


def test_the_nearest_name_is_offered(checkout):
    assert "'board'" in crossmodal('bord', at=checkout).stderr
    assert "'emoji'" in crossmodal('data', 'get', 'emojy', at=checkout).stderr
    done = crossmodal('run', 'tyo', at=checkout)
    assert done.exit_code == 1 and "'toy'" in done.stderr and 'Traceback' not in done.stderr
    assert isinstance(crossmodal('--traceback', 'run', 'tyo', at=checkout).exception, ValueError)


def test_data_lists_licences_and_says_how(checkout):
    said = crossmodal('data', at=checkout).stdout
    assert 'CC BY-SA 4.0' in said and 'flickr8k' in said
    done = crossmodal('data', 'get', 'flickr8k', at=checkout)
    assert done.exit_code == 1 and 'not here' in done.stdout and 'Licence' in done.stdout
    assert crossmodal('data', 'get', 'gaussian', at=checkout).exit_code == 0


def test_data_get_prepares_what_is_here(checkout, monkeypatch):
    from crossmodal_nb.datasets import flickr

    (checkout / 'work' / 'data' / 'flickr8k').mkdir(parents=True)
    monkeypatch.setattr(
        flickr, 'prepare', lambda name, root: f'{name}: 8,000 photos imported from {root.name}', raising=False
    )
    done = crossmodal('data', 'get', 'flickr8k', at=checkout)
    assert (
        done.exit_code == 0
        and 'flickr8k: ready' in done.stdout
        and 'flickr8k: 8,000 photos imported from flickr8k\n' in done.stdout
    )


@pytest.fixture
def folder(tmp_path):
    "Twelve captioned photos, one of them damaged; the checkout shares this one's packages"
    import numpy as np
    from PIL import Image

    from crossmodal_nb.core.settings import settings

    at, packages = tmp_path / 'mine', settings().work / 'data' / 'packages'
    packages.mkdir(parents=True, exist_ok=True)
    (tmp_path / 'work' / 'data').mkdir(parents=True)
    (tmp_path / 'work' / 'data' / 'packages').symlink_to(packages)
    for i in range(12):
        stem = at / ('train' if i < 8 else 'valid' if i < 10 else 'test') / f'{i:02}'
        stem.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 60, 3), np.uint8)).save(stem.with_suffix('.png'))
        stem.with_suffix('.txt').write_text(
            f'A caption of photo {i}\nAnother one of {i}' + ', and so on' * 40 * (i == 3)
        )
    (at / 'train' / '05.png').write_bytes((at / 'train' / '05.png').read_bytes()[:500])
    return at


def test_features_end_to_end(checkout, folder):
    "Refused, allowed, there already; in a process of its own once"
    call = ('features', 'captions', '--root', folder, '--tokens', 64)
    done = process(*call, at=checkout)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert '05.png' in done.stderr and 'not a readable image' in done.stderr and 'skip=' in done.stderr
    done = crossmodal(*call, '--skip', 0.5, at=checkout)
    assert done.exit_code == 0, done.output
    assert (
        '1 of 8 rows' in done.stdout
        and 'left out:\n  train/05.png' in done.stdout
        and done.stdout.count(' 1 skipped') == 1
    )
    last = done.stdout.splitlines()[-1]
    assert last.startswith('captions: 35 rows in 6 stores (') and 'MB on disk' in last and '% truncated' in done.stdout
    stores = [
        line.split('; ')[-1] for line in done.stdout.splitlines() if line.startswith(('train/', 'valid/', 'test/'))
    ]
    assert len(stores) == 6 and all(os.path.exists(os.path.join(s, 'meta.json')) for s in stores)
    again = crossmodal(*call, '--skip', 0.5, at=checkout).stdout
    assert again.count('there already') == 6 and '(35 were there, 0 copied, 0 computed)' in again
    (folder / 'train' / '05.png').write_bytes(
        (folder / 'train' / '06.png').read_bytes() + b' '
    )  # mended: one row is new
    mended = crossmodal(*call, at=checkout)
    assert (
        mended.exit_code == 0
        and mended.stdout.splitlines()[-1].startswith('captions: 36 rows in 6 stores (')
        and '1 computed)' in mended.stdout
    )


def test_features_of_one_view_with_options(checkout, folder):
    for end in ('png', 'txt'):
        (folder / 'train' / f'05.{end}').unlink()
    done = crossmodal(
        'features',
        'captions',
        '--root',
        folder,
        '--view',
        'image',
        '--flip',
        '--crop',
        'top left',
        '--grid',
        '--option',
        'sample=6',
        at=checkout,
    )
    assert done.exit_code == 0 and 'captions: 6 rows in 3 stores (0 were there, 0 copied, 6 computed)' in done.stdout, (
        done.output
    )
    meta = json.loads(next((checkout / 'work' / 'features').glob('EfficientNetLite-*/*/meta.json')).read_text())
    assert meta['preprocessing'].startswith('mirrored, shorter side 256 bicubic, top left 224') and list(
        meta['parts']
    ) == ['pooled', 'grid']
    for wrong, said in (
        (('--view', 'imag'), "'image'"),
        (('--option', 'smaple=3'), "'sample'"),
        (('--option', 'name'), 'KEY=VALUE'),
        (('--crop', 'top lft'), "'top left'"),
        (('--skip', 1), 'from 0 to below 1'),
    ):
        done = crossmodal('features', 'captions', '--root', folder, *wrong, at=checkout)
        assert done.exit_code == 1 and said in done.stderr and 'Traceback' not in done.stderr, (wrong, done.stderr)


def test_features_of_numbers(checkout):
    done = crossmodal('features', 'gaussian', '--option', 'n=40', at=checkout)
    assert (
        done.exit_code == 0
        and 'a: numbers already, nothing to encode' in done.stdout
        and 'gaussian: 0 rows in 0 stores' in done.stdout
    )


def test_run_keep_board(checkout):
    assert 'new' in crossmodal('plan', at=checkout).stdout
    done = process('run', at=checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = (checkout / 'work' / 'records' / 'toy').glob('*.json')
    assert json.loads(record.read_text())['rows'][0]['value'] == 0.25 and record.with_suffix('.ipynb').exists()
    assert 'kept' in crossmodal('plan', at=checkout).stdout and '25.0' in crossmodal('board', at=checkout).stdout
    assert '0 to run' in crossmodal('run', at=checkout).stdout
    manifest(checkout, '[toy]\nnotebook = "10_toy.ipynb"\nparams = {by = 5}\nfinal = true\n')
    assert 'new' in crossmodal('plan', at=checkout).stdout


def test_a_smoke_run_stays_out_of_the_records(checkout):
    assert crossmodal('run', '--smoke', at=checkout).exit_code == 0
    assert not (checkout / 'work' / 'records').exists() and list((checkout / 'work' / 'smoke').rglob('*.json'))
    assert crossmodal('run', '--smoke', '--into', checkout / 'elsewhere', at=checkout).exit_code == 0 and list(
        (checkout / 'elsewhere').rglob('*.json')
    )


def test_a_failure_is_reported_kept_and_counted(checkout):
    manifest(checkout, '[good]\nnotebook = "10_toy.ipynb"\n[toy]\nnotebook = "10_toy.ipynb"\nparams = {by = 0}\n')
    done = crossmodal('run', at=checkout)
    assert done.exit_code == 1 and 'ZeroDivisionError' in done.stdout and '1 ran, 1 failed' in done.stdout
    assert 'failed' in crossmodal('plan', at=checkout).stdout


@pytest.mark.parametrize(
    'bad, said',
    [
        ('params = {dateset = "emoji"}', "'dataset'"),
        ('params = {api_key = "x"}', 'secret'),
        ('paramz = {by = 3}', "'params'"),
        ('needs = ["tyo"]', "'toy'"),
    ],
)
def test_the_manifest_is_checked_before_anything_runs(checkout, bad, said):
    manifest(checkout, f'[toy]\nnotebook = "10_toy.ipynb"\n{bad}\n')
    done = crossmodal('run', at=checkout)
    assert done.exit_code == 1 and said in done.stderr and not (checkout / 'work').exists()


def test_a_long_leaderboard_is_listed_first_and_its_contents_are_kept(tmp_path, monkeypatch, capsys):
    def made(k, scores):
        row = dict(split='test', query='a', gallery='b', metric='R@1', value=0.5)
        (tmp_path / f'{k}').write_text('.' * scores)
        return dict(
            experiment='many',
            params=dict(dataset=f'set{k}'),
            path=str(tmp_path / f'{k}'),
            selected_by='',
            rows=[row | dict(method=str(m)) for m in range(scores)],
        )

    def said(*names):
        merged.clear()
        cli.board(list(names))
        return capsys.readouterr().out

    records, merged, board = [made(0, 151), made(1, 150)], [], record.board
    monkeypatch.setattr(settings(), 'work', tmp_path)
    monkeypatch.setattr(record, 'runs', lambda brief: records)
    monkeypatch.setattr(record, 'board', lambda some: merged.append(len(some)) or board(some))
    contents = said()
    assert 'set0      many      151' in contents and '301 scores' in contents and '50.0' not in contents
    assert len(merged) == 2 and said() == contents and not merged
    records[1] = made(1, 160)
    assert '311 scores' in said() and len(merged) == 1
    assert said('set1').count('50.0') == 160 and said('many').count('50.0') == 311
    with pytest.raises(InputError, match="'set1'"):
        said('set2')


def test_a_folder_is_tried_by_its_name(tmp_path):
    with pytest.raises(InputError, match='crossmodal data add NAME'):
        cli.try_methods(str(tmp_path))
