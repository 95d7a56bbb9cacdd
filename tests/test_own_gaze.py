"Own pictures, texts and fixations: each way in which somebody keeps fixations is read, and each mistake is named."

import contextlib
import shutil

import numpy as np
import pytest
import test_gaze as gazed
from PIL import Image, ImageDraw
from test_datasets import notes
from test_own import crossmodal, home  # noqa: F401 (`home` is a fixture)

from crossmodal_nb.core.checks import InputError, MissingError
from crossmodal_nb.data.folder_reader import read_folder
from crossmodal_nb.data.gaze_maps import painted
from crossmodal_nb.datasets import data_digest, load

N = 24
COLOURS = 'red green blue yellow white black orange purple'.split()


def spot(i):
    "Where the shape of a picture is, and where everybody looks: x, y"
    return 20 + 5 * (i % 8), 15 + 7 * (i // 8 % 5)


def fixations(i, viewer=0):
    "(x, y, duration) of a viewer: most of the time on the shape, a moment in the corner"
    x, y = spot(i)
    return [(x + viewer % 2, y, 400), (70, 3, 100)]


def lines(i, viewer=0):
    return [f'{x},{y},{t}' for x, y, t in fixations(i, viewer)]


def pictures(root, n=N):
    "Pictures of 80 × 60 pixels in `photos/`, two texts for each in a table"
    (root / 'photos').mkdir(parents=True)
    rows = ['image,caption']
    for i in range(n):
        im, (x, y) = Image.new('RGB', (80, 60), '#777777'), spot(i)
        ImageDraw.Draw(im).rectangle([x - 4, y - 4, x + 4, y + 4], fill=COLOURS[i % 8])
        im.putpixel((0, 0), (i, i, i))
        im.save(root / 'photos' / f'p{i:02}.png')
        rows += [f'p{i:02}.png,{words} {COLOURS[i % 8]} square of kind {i}' for words in ('a', 'there is a')]
    (root / 'pairs.csv').write_text('\n'.join(rows))
    return root


def write(path, head, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join([head, *rows]) + '\n')


def a_file_for_each_picture(root, folder='fixations'):
    for i in range(N):
        write(root / folder / f'p{i:02}.csv', 'x,y,duration', lines(i) + lines(i, 1))


def a_file_for_each_viewer(root):
    for i in range(N):
        for v in (0, 1):
            write(root / 'fixations' / f'p{i:02}_viewer{v}.csv', 'x,y,duration', lines(i, v))


def a_folder_for_each_viewer(root):
    for i in range(N):
        for v in (0, 1):
            rows = [line.replace(',', '\t') for line in lines(i, v)]
            write(root / 'fixations' / f'viewer{v}' / f'p{i:02}.tsv', 'Fix_X\tFix_Y\tDuration [ms]', rows)


def one_table(root):
    rows = [f'p{i:02}.png,{v},{line}' for i in range(N) for v in (0, 1) for line in lines(i, v)]
    write(root / 'fixations.csv', 'stimulus,viewer,x,y,duration', rows)


def a_table_for_each_viewer(root):
    for v in (0, 1):
        write(root / 'gaze' / f'{v}.csv', 'picture,x,y,dur', [f'p{i:02},{s}' for i in range(N) for s in lines(i, v)])


def maps_of(splits):
    "{name of the picture: its map}"
    return {
        name.rpartition('/')[2].removesuffix('.png'): m
        for views in splits.values()
        for name, m in zip(views['gaze'].ids, views['gaze'].x[:])
    }


@pytest.mark.parametrize(
    'write_fixations',
    [
        a_file_for_each_picture,
        a_file_for_each_viewer,
        a_folder_for_each_viewer,
        one_table,
        a_table_for_each_viewer,
        lambda root: a_file_for_each_picture(root, 'gaze'),
    ],
)
def test_ways_to_keep_fixations(write_fixations, tmp_path):
    "The same maps, however they are kept: their maximum is where the shape is, as long as it was looked at longest"
    write_fixations(pictures(tmp_path))
    splits, report = read_folder(tmp_path)
    assert set(splits['train']) == {'image', 'text', 'gaze'} and report.views['text'] == ('text', 2 * N)
    assert f'{4 * N} fixations of {N} pictures, weighted by their duration' in report.gaze and not report.warnings
    assert report.gaze in str(report)
    for views in splits.values():
        assert views['gaze'].ids == views['image'].ids and views['gaze'].item.tolist() == views['image'].item.tolist()
    maps = maps_of(splits)
    assert len(maps) == N
    for i in range(N):
        m, (x, y) = maps[f'p{i:02}'], spot(i)
        row, col = np.unravel_index(m.argmax(), m.shape)
        assert m.shape == (60, 80) and m.max() == 1 and abs(row - y) <= 1 and abs(col - x) <= 1
        assert 0.15 < m[3, 70] < 0.45  # a quarter of the time, near the edge
    assert maps_of(load('gaze', tmp_path))['p00'].tolist() == maps['p00'].tolist()


def test_without_durations_each_fixation_weighs_the_same(tmp_path):
    pictures(tmp_path)
    for i in range(N):
        write(tmp_path / 'fixations' / f'p{i:02}.csv', 'x,y', ['20.4,30', '60,30.9'])
    splits, report = read_folder(tmp_path)
    m = maps_of(splits)['p05']
    assert 'of equal weight' in report.gaze and m[30, 20] == pytest.approx(m[30, 60], abs=0.01)
    narrow, wide = (maps_of(load('gaze', tmp_path, sigma=s))['p05'] for s in (1.0, 8.0))
    assert narrow.mean() < m.mean() < wide.mean()
    with pytest.raises(InputError, match='sigma is -1'):
        load('gaze', tmp_path, sigma=-1.0)


def test_maps_of_sixteen_bits_keep_their_levels(tmp_path):
    "Scaled, not cut off at 255"
    pictures(tmp_path)
    ramp = np.linspace(0, 65535, 80 * 60).reshape(60, 80).astype(np.uint16)
    (tmp_path / 'maps').mkdir()
    for i in range(N):
        Image.fromarray(ramp).save(tmp_path / 'maps' / f'p{i:02}.png')
    assert len(np.unique(painted(tmp_path / 'maps' / 'p00.png'))) == ramp.size
    splits, report = read_folder(tmp_path)
    m = maps_of(splits)['p07']
    assert (
        report.gaze == f'maps/: maps of {N} pictures'
        and np.allclose(m, ramp / 65535)
        and splits['train']['gaze'].x.digest
    )


def test_a_picture_that_a_table_names_is_no_map(tmp_path):
    "Photos and drawings of the same names, of which the table names those in `maps/`"
    root = pictures(tmp_path)
    shutil.copytree(root / 'photos', root / 'maps')
    for i in range(N):
        Image.new('RGB', (8, 8), (5 * i, 0, 0)).save(root / 'maps' / f'p{i:02}.png')
    (root / 'pairs.csv').write_text((root / 'pairs.csv').read_text().replace('\np', '\nmaps/p'))
    splits, report = read_folder(root)
    assert set(splits['train']) == {'image', 'text'} and splits['train']['image'].x[0].size == (8, 8)


def test_what_was_fixated_belongs_to_the_digest(tmp_path):
    a_file_for_each_picture(pictures(tmp_path))
    before = data_digest('gaze', tmp_path)
    path = tmp_path / 'fixations' / 'p03.csv'
    path.write_text(path.read_text().replace('400', '401'))
    assert before and data_digest('gaze', tmp_path) != before


# ---------------------------------------------------------------- what is left out, and what is refused


def test_a_fixation_outside_of_its_picture_is_left_out_and_told(tmp_path):
    a_file_for_each_picture(pictures(tmp_path))
    path = tmp_path / 'fixations' / 'p03.csv'
    path.write_text(path.read_text() + '80,20,100\n-0.5,20,100\n79.9,59.9,100\n')
    splits, report = read_folder(tmp_path)
    assert f'{4 * N + 1} fixations of {N}' in report.gaze
    assert report.notes == [
        f'2 of {4 * N + 3} fixations lie outside of their pictures and are left out (photos/p03.png)'
    ]
    with pytest.warns(UserWarning, match=f'2 of {4 * N + 3} fixations'):
        load('gaze', tmp_path)


def test_a_picture_that_nobody_looked_at(tmp_path):
    "One in a hundred is left out and named, more are refused"
    a_file_for_each_picture(pictures(tmp_path))
    (tmp_path / 'fixations' / 'p04.csv').write_text('x,y,duration\n')
    (tmp_path / 'fixations' / 'p05.csv').unlink()
    with pytest.raises(InputError, match=r'about 2 of 24 pictures: photos/p04.png, photos/p05.png; at most 1 %'):
        read_folder(tmp_path)
    splits, report = read_folder(tmp_path, max_skipped=0.1)
    assert f'of {N - 2} pictures' in report.gaze and report.gaze.endswith('; none of photos/p04.png, photos/p05.png')
    assert len(report.skipped) == 4 and sum(len(v['image']) for v in splits.values()) == N - 2
    assert 'p04' not in maps_of(splits)


@pytest.mark.parametrize(
    'name, text, says',
    [
        ('fixations/p03.csv', 'col,row\n10,20\n', r'p03.csv: no column x.*this one has: col, row'),
        (
            'fixations/p03.csv',
            'x,y,duration\n0.1,0.25,9\n0.5,0.5,9\n0.9,0.75,9\n',
            r'p03.csv: .*multiply x by',
        ),
        (
            'fixations/p99.csv',
            'x,y,duration\n10,20,100\n',
            r'no picture for fixations/p99.csv.*near is: .*p09.png',
        ),
        ('fixations/p03.csv', 'x,y,duration\n10,20,-5\n', r'p03.csv, line 2: duration is -5; a positive'),
        ('fixations/p03.csv', 'x,y,duration\n10,"20,5",100\n', r"p03.csv, line 2: y is '20,5', not a number"),
        ('fixations/p03.csv', 'x,y\n10,20\n', r'p00.csv has a duration, fixations/p03.csv has none'),
        ('fixations/p03_2.csv', 'x,y,duration\n10,20,100\n', r'p03.csv and fixations/p03_2.csv would both be of'),
        ('fixations/p03.csv', 'x,x,y\n10,20,30\n', r'p03.csv: the head names a column twice'),
        ('fixations.csv', 'image,x,y\np03,20,30\n', r'fixations in fixations.csv and in fixations/'),
    ],
)
@pytest.mark.filterwarnings('ignore')
def test_bad_files_are_named(name, text, says, tmp_path):
    a_file_for_each_picture(pictures(tmp_path))
    (tmp_path / name).write_text(text)
    for read in (read_folder, lambda root: load('gaze', root)):
        with pytest.raises(InputError, match=f'(?i){says}'):
            read(tmp_path)


def test_pixels_of_the_screen_are_noticed(tmp_path):
    pictures(tmp_path)
    rows = [f'p{i:02},{900 + x},{500 + y}' for i in range(N) for x, y, _ in fixations(i)]
    write(tmp_path / 'fixations.csv', 'image,x,y', rows)
    with pytest.raises(InputError, match=r'48 of 48 fixations lie outside.*on photos/p00.png of 80 × 60.*the screen'):
        read_folder(tmp_path)


def test_a_folder_without_gaze(tmp_path):
    pictures(tmp_path)
    with pytest.raises(MissingError, match='no gaze beside one view of pictures. Expected: .*fixations/p1.csv'):
        load('gaze', tmp_path)


# ---------------------------------------------------------------- data sets that others published


@pytest.mark.filterwarnings('ignore:coco')
def test_salicon_leaves_out_what_lies_outside(tmp_path):
    gazed.salicon(tmp_path)
    notes(tmp_path, lambda d: d['annotations'][2].update(fixations=[[5, 5], [41, 5], [5, 61]]), kind='fixations')
    with pytest.warns(UserWarning, match='salicon: 2 of 49 fixations are outside'):
        splits = load('salicon', tmp_path, sigma=1.0)
    rows = [r for v in splits.values() for r in v['gaze'].x.rows]
    assert [[40, 60], [[4, 4]]] in rows


def test_osie_says_what_it_leaves_out(tmp_path):
    gazed.osie(tmp_path)
    with pytest.warns(UserWarning, match='osie: 14 of 42 fixations are outside'):
        load('osie', tmp_path)


# ---------------------------------------------------------------- the commands


def test_five_lines_with_fixations(home):  # noqa: F811
    "Add, show, try and new: gaze is a view, but none of the two that are related"
    one_table(pictures(home / 'pictures'))
    found = crossmodal(home, 'data', 'add', 'looked_at', 'pictures')
    assert f'{4 * N} fixations of {N} pictures, weighted by their duration' in found and '(24 map)' in found
    crossmodal(home, 'try', 'looked_at', '--epochs', 1, '--seeds', 1, '--method', 'CCA')
    board = crossmodal(home, 'board', 'looked_at')
    assert 'image→text' in board and 'gaze' not in board
    crossmodal(home, 'new', 'second_look', 'looked_at')
    assert '1 ran, 0 failed' in crossmodal(home, 'run', 'second_look')
    with contextlib.chdir(home):
        assert set(load('looked_at')['train']) == {'image', 'text', 'gaze'}


def test_the_gaze_experiment_on_own_data(home):  # noqa: F811
    "`40_gaze` takes the name of an own data set"
    a_file_for_each_viewer(pictures(home / 'viewed'))
    crossmodal(home, 'data', 'add', 'viewed', 'viewed')
    with open(home / 'work' / 'experiments.toml', 'a') as f:
        f.write(
            '\n[gaze_viewed]\nnotebook = "40_gaze.ipynb"\nparams = {dataset = "viewed", pool = 2, draws = 1, trainer = '
            '{epochs = 1, batch = 8, lr = 0.003}}\n'
        )
    assert '1 ran, 0 failed' in crossmodal(home, 'run', 'gaze_viewed')
