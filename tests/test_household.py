"""Stamps, furniture, and both by class: packages made here in the layout of the real ones; sounds, meshes and videos
through the store.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from test_cli import crossmodal
from test_datasets import crossing, damage, well_formed

from crossmodal_nb.core import debian
from crossmodal_nb.core.checks import InputError, MissingError
from crossmodal_nb.data.images import Cutouts
from crossmodal_nb.data.meshes import Mesh, Meshes, Turntable, spin
from crossmodal_nb.data.sounds import Sounds
from crossmodal_nb.data.splits import assign, item_groups
from crossmodal_nb.data.views import Views
from crossmodal_nb.datasets import catalogue, class_names, data_digest, load
from crossmodal_nb.datasets.audit import stems
from crossmodal_nb.datasets.furniture import credits, furniture_views
from crossmodal_nb.datasets.household import household_map
from crossmodal_nb.datasets.tuxpaint import stamp_stem, stamp_views, stem
from crossmodal_nb.encoders.audio import MFCC, LogMel
from crossmodal_nb.encoders.base import Encoder
from crossmodal_nb.encoders.extraction import features
from crossmodal_nb.encoders.mesh import MeshGeometry
from crossmodal_nb.encoders.store import meta
from crossmodal_nb.encoders.video import Video

embree = pytest.mark.skipif(not importlib.util.find_spec('embreex'), reason='the package embreex is not here')
built = pytest.mark.skipif(not shutil.which('dpkg-deb'), reason='dpkg-deb is not here')
STAMPS, THINGS = 9, 6  # of a class
WORDS = (
    'ash bay elm fir ivy oak sky tea yew'.split()
)  # names that differ by more than a number, a colour or a side are no siblings
FOLDERS = (
    'animals/mammals',
    'vehicles/auto',
    'plants/trees',
    'food/fruit',
    'household/dishes',
    'clothes/hats',
    'household/electronics',
    'household/tools',
    'household/washing',
    'sports',
    'people/cartoon',
    'town/roadsigns',
)
NAMES = (
    ('Deer', 'Deer', 'Chicken', 'Horse', 'Cat', 'Dog'),
    'Sedan',
    'Flowers',
    ('Bread', 'Bread', 'Butter', 'Milk', 'Apples', 'Steak'),
    'Teapot',
    'Skirt',
    'Laptop',
    'Hammer',
    'Toaster',
    'Basketball',
    'Mannequin',
    'Mailbox',
)


def tone(path, hertz):
    soundfile.write(path, np.sin(2 * np.pi * hertz * np.arange(1600) / 8000) / 2, 8000)


def box(path, w, h, d):
    "A box of twelve triangles with red sides"
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = ''.join(f'v {x} {y} {z}\n' for x in (0, w) for y in (0, h) for z in (0, d))
    path.write_text(
        f'mtllib {path.stem}.mtl\n{corners}usemtl side\nf 1 2 4 3\nf 5 6 8 7\nf 1 3 7 5\nf 2 4 8 6\nusemtl end\nf 1 '
        '2 6 5\nf 3 4 8 7\n'
    )
    path.with_suffix('.mtl').write_text('newmtl side\nKd 1 0 0\n\nnewmtl end\nKd .5 .5 .5\n')


def tuxpaint(root):
    """Of the nine stamps of a folder, 0 and 1 share their caption, 2 and 3 their recording, 4 and 5 their picture: six
    groups
    """
    at = root / 'tuxpaint-stamps-default' / 'usr/share/tuxpaint/stamps'
    for c, where in enumerate([*FOLDERS, 'symbols/alphabets/english', 'symbols/math']):
        (at / where).mkdir(parents=True)
        for i in range(STAMPS):
            stamp = at / where / f'{Path(where).name}-{WORDS[i]}'
            Image.new('RGBA', (12, 8), (200, 10 * c, 10 * (5 if i == 4 else i), 255)).save(stamp.with_suffix('.png'))
            stamp.with_suffix('.txt').write_text(
                f'Thing {c} {max(i, 1)}.\nfr.utf8=Chose {c} {max(i, 1)}.\n'
                + (f'de.utf8=Ding {c} {max(i, 1)}.\n' if i else '')
            )
            tone(f'{stamp}_desc_fr.wav', 100 + 20 * c + (3 if i == 2 else i))
            if i % 2:
                tone(stamp.with_suffix('.wav'), 900 + 20 * c + i)
    shutil.copy(at / FOLDERS[0] / 'mammals-ash.png', at / FOLDERS[0] / 'mammals-ash_mirror.png')
    (at / FOLDERS[3] / 'drawn.svg').write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><rect width="9" height="9" fill="#808000"/></svg>'
    )
    return root


def furniture(root):
    "The first two of the six objects of a class have one name"
    at, k, lines, german = (
        root / 'sweethome3d-furniture' / 'usr/share/sweethome3d/furniture' / 'Maker',
        0,
        ['license=Public domain'],
        [],
    )
    for c, names in enumerate(NAMES):
        for i, name in enumerate(
            [f'{names} {WORDS[max(i, 1)]}' for i in range(THINGS)] if isinstance(names, str) else names
        ):
            k += 1
            box(at / 'maker' / f'm{k}' / f'm{k}.obj', 1 + i, 2 + c, 1)
            Image.new('RGBA', (8, 8), (k, 0, i, 255)).save(at / 'maker' / f'm{k}.png')
            lines += [
                f'id#{k}=Maker#{k:03}',
                f'name#{k}={name}',
                f'category#{k}=Category {c % 3}',
                f'icon#{k}=/maker/m{k}.png',
                f'model#{k}=/maker/m{k}/m{k}.obj',
                f'creator#{k}=Someone',
                f'width#{k}={10 + i}',
                f'depth#{k}=20',
                f'height#{k}={30 + c}',
            ]
            if i:
                german.append(f'name#{k}=St\\u00fcck {k}')
    (at / 'PluginFurnitureCatalog.properties').write_text('\n'.join(lines), 'latin-1')
    (at / 'PluginFurnitureCatalog_de.properties').write_text('\n'.join(german), 'latin-1')
    return root


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    return furniture(tuxpaint(tmp_path_factory.mktemp('debian')))


def where(splits, group):
    return [{group[i] for v in views.values() for i in v.item.tolist()} for views in splits.values()]


def apart(a, b, c):
    return not (a & b or a & c or b & c)


# ---------------------------------------------------------------- the data sets
def test_stamps(both):
    splits = load('tuxpaint', both, texts=('text', 'de', 'fr'), effects=True)
    well_formed(splits)
    assert crossing(splits) == []
    n = {k: sum(len(v[k]) for v in splits.values()) for k in splits['train']}
    assert n == dict(
        image=13 * STAMPS + 1, text=13 * STAMPS, de=13 * (STAMPS - 1), fr=13 * STAMPS, speech=13 * STAMPS, effect=12 * 4
    )  # no letters, no mirrored, no spoken digits
    assert not any(i.startswith('symbols/alphabets') or 'mirror' in i for v in splits.values() for i in v['image'].ids)
    assert class_names('tuxpaint', both)[splits['train']['image'].y[0]] == splits['train']['image'].ids[0].split('/')[0]
    assert len(class_names('tuxpaint', both, label='subfolder')) > len(class_names('tuxpaint', both))


def test_no_group_of_stamps_is_torn(both):
    group = item_groups(stamp_views(both), stems('tuxpaint', both))
    assert len(set(group.values())) == 14 * 6 + 1 and apart(*where(load('tuxpaint', both), group))
    items = list(group)
    one_by_one = assign(
        [str(i) for i in items], np.arange(len(items)), 'tuxpaint'
    )  # were every stamp its own group, some would be torn
    assert not apart(*({group[items[i]] for i in part} for part in one_by_one.values()))


def test_a_stem_is_a_name_without_number_colour_size_and_side():
    assert {stamp_stem(f'halloween/{n}') for n in ('grave-b', 'grave-c', 'grave')} == {'halloween/grave'}
    assert {stamp_stem(f'food/{n}') for n in ('apple', 'apple_red', 'Apple2', 'greenapple')} == {
        'food/apple'
    } and stamp_stem('food/apple_core') == 'food/apple core'
    assert {stamp_stem(f'people/eye{n}') for n in ('', '_green_left', '_brown_left', '2')} == {'people/eye'}
    assert stamp_stem('food/orange') == 'food/orange' and stamp_stem('money/001') == stamp_stem('money/002') == 'money/'
    assert stamp_stem('symbols/alphabets/asl/asl_a') != stamp_stem('symbols/alphabets/asl/asl_b')
    assert (
        stem(['parking', 'slot', '45°']) == 'parking slot'
        and stem(['sofa', '2', 'seats']) == stem(['clear', 'sofa']) == 'sofa'
    )


def test_siblings_stay_together(both, tmp_path):
    "A stamp in six colours, a thing in six sizes"
    root = tmp_path / 'debian'
    shutil.copytree(both, root)
    for i, colour in enumerate('red green blue yellow black white'.split()):
        Image.new('RGB', (9, 9), (i, 77, 99)).save(
            root / 'tuxpaint-stamps-default' / 'usr/share/tuxpaint/stamps' / 'sports' / f'ball_{colour}.png'
        )
    catalogue = (
        root
        / 'sweethome3d-furniture'
        / 'usr/share/sweethome3d/furniture'
        / 'Maker'
        / 'PluginFurnitureCatalog.properties'
    )
    text = catalogue.read_text('latin-1')
    for i, word in enumerate(WORDS[1:6]):
        text = text.replace(f'=Laptop {word}', f'=Laptop {10 + i}')
    catalogue.write_text(text, 'latin-1')
    for name, options, select in (
        ('tuxpaint', {}, lambda v: [i for i in v['image'].ids if '/ball_' in i]),
        ('household', {}, lambda v: [i for i in v['image'].ids if '/ball_' in i]),
        ('furniture', {}, lambda v: [t for t in v['name'].x if t.startswith('Laptop')]),
    ):
        results = [len(select(v)) for v in load(name, root, **options).values()]
        assert sorted(results)[:2] == [0, 0] and max(results) == 6


def test_the_split_ignores_the_options(both):
    ids = [
        [v['image'].ids for v in load('tuxpaint', both, **o).values()]
        for o in ({}, dict(texts='de', speech=None, size=32, label='subfolder'))
    ]
    assert ids[0] == ids[1]
    with_letters = load('tuxpaint', both, alphabets=True)
    assert all(set(a) <= set(v['image'].ids) for a, v in zip(ids[0], with_letters.values()))


def test_pieces(both):
    splits = load('furniture', both, texts=('name', 'de'))
    well_formed(splits)
    assert crossing(splits) == []
    assert sum(len(v['mesh']) for v in splits.values()) == 12 * THINGS and sum(
        len(v['de']) for v in splits.values()
    ) == 12 * (THINGS - 1)
    first = splits['train']
    assert (
        first['mesh'].item.tolist()
        == first['video'].item.tolist()
        == first['icon'].item.tolist()
        == first['name'].item.tolist()
    )
    assert (
        apart(*where(splits, item_groups(furniture_views(both), stems('furniture', both))))
        and 'Stück' in first['de'].x[0]
    )
    m = first['mesh'].x[0]
    assert (
        isinstance(m, Mesh) and len(m.faces) == 12 and np.ptp(m.points, 0)[2] == 20 and np.ptp(m.points, 0)[1] >= 30
    )  # in cm, as the catalogue says
    assert sorted(set(map(tuple, m.colours.tolist()))) == [(128, 128, 128), (255, 0, 0)]
    assert credits(both)[first['mesh'].ids[0]].endswith('Someone, CC0') and class_names('furniture', both) == [
        f'Category {k}' for k in range(3)
    ]


@pytest.mark.parametrize('repeat', range(3))
def test_five_folds_of_a_household(both, repeat):
    kin = stems('household', both)
    group = item_groups(stamp_views(both), kin) | {
        i: g + 10**6 for i, g in item_groups(furniture_views(both), kin).items()
    }
    tested = {k: [] for k in ('image', 'mesh')}
    for fold in range(5):
        splits = load('household', both, fold=fold, repeat=repeat)
        well_formed(splits)
        assert crossing(splits) == [] and apart(*where(splits, group))
        for views in splits.values():
            assert (
                list(views) == ['image', 'text', 'speech', 'mesh', 'video']
                and views['mesh'].item.tolist() == views['video'].item.tolist()
            )
            assert not set(views['image'].item.tolist()) & set(views['mesh'].item.tolist()) and set(
                views['speech'].item.tolist()
            ) <= set(views['image'].item.tolist())
        for k, visited in tested.items():
            visited += splits['test'][k].item.tolist()
        assert all(len(set(splits['train'][k].y.tolist())) == 12 for k in splits['train'])
    assert {k: (len(v), len(set(v))) for k, v in tested.items()} == dict(
        image=(12 * STAMPS + 1,) * 2, mesh=(12 * THINGS,) * 2
    )


def test_folds_repeat_and_differ(both):
    def ids(**o):
        return load('household', both, **o)['test']['mesh'].ids

    assert (
        ids() == ids() != ids(repeat=1)
        and not set(ids()) & set(ids(fold=1))
        and ids(fold=1) == load('household', both)['valid']['mesh'].ids
    )
    assert class_names('household', both) == list(household_map) and len(household_map) == 12


def test_wrong_names(both):
    for options, says in (
        (dict(fold=5), 'fold'),
        (dict(text='xx'), 'household text view'),
        (dict(speech='xx'), 'spoken language'),
    ):
        with pytest.raises(InputError, match=says):
            load('household', both, **options)
    with pytest.raises(InputError, match='tuxpaint label'):
        load('tuxpaint', both, label='foldr')
    with pytest.raises(InputError, match='furniture text view'):
        load('furniture', both, texts='nme')


# ---------------------------------------------------------------- damaged files
@pytest.mark.parametrize(
    'name,hurt,says',
    [
        (
            'furniture',
            lambda r: damage(next(r.rglob('*Catalog.properties')), 'width#1=', 'wide#1='),
            'object 1 has no width',
        ),
        (
            'furniture',
            lambda r: damage(next(r.rglob('*Catalog.properties')), 'width#1=10', 'width#1=wide'),
            'object 1: its size or rotation is no number',
        ),
        (
            'furniture',
            lambda r: damage(next(r.rglob('*Catalog.properties')), 'width#1=10', 'width#1=10\nmodelRotation#1=1 0'),
            'a rotation has nine numbers',
        ),
        ('furniture', lambda r: next(r.rglob('*Catalog.properties')).unlink(), 'no catalogues'),
        ('furniture', lambda r: next(r.rglob('m7.obj')).unlink(), 'm7.obj'),
        ('tuxpaint', lambda r: next(r.rglob('mammals-fir.txt')).write_bytes(b'A \xff'), r'mammals-fir\.txt: not UTF-8'),
        ('tuxpaint', lambda r: [p.unlink() for e in ('png', 'svg') for p in r.rglob(f'*.{e}')], 'no stamps'),
        ('household', lambda r: shutil.rmtree(r / 'sweethome3d-furniture'), 'holds no sweethome3d-furniture'),
    ],
)
def test_a_damaged_package_is_named(name, hurt, says, tmp_path):
    furniture(tuxpaint(tmp_path))
    hurt(tmp_path)
    with pytest.raises(InputError, match=says):
        _ = load(name, tmp_path)['train']['mesh' if name == 'furniture' else 'image'].x.digest


@pytest.mark.parametrize(
    'make,text,says',
    [
        (Sounds, b'RIFF', 'not a readable sound'),
        (Cutouts, b'PNG', 'not a readable image'),
        (Meshes, b'v 0 0 0\n', 'without triangles'),
        (Meshes, b'v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n', 'not numbers'),
        (Meshes, b'v 0 0 0\nf 1 2 9\n', 'mesh'),
        (Meshes, b'\xff\xfe', 'mesh'),
    ],
)
def test_a_damaged_file_is_named(make, text, says, tmp_path):
    bad = tmp_path / f'bad.{dict(Sounds="wav", Cutouts="png", Meshes="obj")[make.__name__]}'
    bad.write_bytes(text)
    with pytest.raises(InputError, match=says) as e:
        make([bad])[0]
    assert bad.name in str(e.value)
    bad.unlink()
    for ask in (lambda x: x[0], lambda x: x.digest, lambda x: x.keys([0])):
        with pytest.raises(MissingError, match=bad.name):
            ask(make([bad]))


# ---------------------------------------------------------------- encoders
class Colour(Encoder):
    spec = dict(name='Colour')

    def prepare(self, row):
        return torch.from_numpy(np.array(row)).float() if isinstance(row, Image.Image) else row

    def __call__(self, rows):
        return {'pooled': torch.stack([self.prepare(r).mean((0, 1)) for r in rows])}


@embree
def test_every_modality_through_the_store(both, tmp_path):
    test = load('household', both, frames=3, size=24)['test']
    encoders = dict(image=Colour(), speech=[MFCC(), LogMel()], mesh=MeshGeometry(), video=Video(Colour()))
    done = features(test, encoders, tmp_path)
    assert {k: v.x['pooled'].shape[1] for k, v in done.items() if k != 'text'} == dict(
        image=3, speech=157, mesh=76, video=6
    )
    assert all(torch.isfinite(v.x['pooled']).all() for k, v in done.items() if k != 'text')
    few = Views(mesh=test['mesh'][[2, 0]], speech=test['speech'][[1]])
    again = features(few, dict(mesh=MeshGeometry(), speech=MFCC()), tmp_path)
    assert torch.equal(again['mesh'].x['pooled'], done['mesh'].x['pooled'][[2, 0]]) and torch.equal(
        again['speech'].x['pooled'], done['speech'].x['pooled'][[1], :29]
    )
    assert meta(few['mesh'], MeshGeometry(), tmp_path)['copied'] == 2  # known by content, not by name


@embree
def test_no_modality_is_another_in_disguise(both, tmp_path):
    "Repainted, an object keeps its geometry and changes its video"
    plain = next(both.rglob('m9.obj'))
    shutil.copytree(plain.parent, tmp_path / 'm9')
    red, blue = plain, tmp_path / 'm9' / 'm9.obj'
    damage(blue.with_suffix('.mtl'), 'Kd 1 0 0', 'Kd 0 0 1')
    mesh, video = Meshes([red, blue]), Turntable([red, blue], frames=2, size=24)
    assert torch.equal(*MeshGeometry()(mesh[[0, 1]])['pooled']) and mesh.keys([0]) != mesh.keys([1])
    a, b = Video(Colour())(video[[0, 1]])['pooled']
    assert a[0] > b[0] + 5 and b[2] > a[2] + 5 and video.keys([0]) != video.keys([1])


@embree
def test_a_turn_ends_where_it_began(tmp_path):
    box(tmp_path / 'a.obj', 3, 1, 1)
    wide, narrow, *rest = [np.asarray(f).astype(int) for f in spin(Meshes([tmp_path / 'a.obj'])[0], 4, 48, 0)]

    def ink(f):
        return (f.min(-1) < 255).sum()

    assert (
        ink(wide) > 2 * ink(narrow)
        and abs(ink(wide) - ink(rest[0])) < 0.02 * ink(wide)
        and abs(ink(wide) / 48**2 - 3 / 11) < 0.03
    )  # 3 × 1 of a circle of diameter √11


def test_without_embreex(both, monkeypatch):
    monkeypatch.setitem(sys.modules, 'trimesh.ray.ray_pyembree', None)
    with pytest.raises(MissingError, match='crossmodal_nb.render'):
        load('furniture', both)['test']['video'].x[0]


# ---------------------------------------------------------------- Debian
def offer(
    folder, monkeypatch, version='9', name='tuxpaint-stamps-default', fill=lambda at: (at / 'x.txt').write_text('x')
):
    "An `apt-get` that hands over a package made here, and notes each download"
    tree = folder / 'tree'
    (tree / 'DEBIAN').mkdir(parents=True)
    (tree / 'usr').mkdir()
    fill(tree / 'usr')
    (tree / 'DEBIAN' / 'control').write_text(
        f'Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: nobody '
        '<nobody@localhost>\nDescription: none\n'
    )
    deb = folder / f'{name}_{version}_all.deb'
    subprocess.run(['dpkg-deb', '--build', '--root-owner-group', str(tree), str(deb)], check=True, capture_output=True)
    (folder / 'apt-get').write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >> {folder}/log\ncase "$*" in *download*) cp "{deb}" . ;; esac\n'
    )
    (folder / 'apt-get').chmod(0o755)
    monkeypatch.setenv('PATH', f'{folder}{os.pathsep}{os.environ["PATH"]}')
    return folder / 'log'


@built
def test_a_package_is_fetched_once_by_an_ordinary_user(checkout, tmp_path, monkeypatch):
    log = offer(tmp_path / 'apt', monkeypatch)
    done = crossmodal('data', 'get', 'tuxpaint', at=checkout)
    assert 'no digest is known for version 9' in done.stderr
    assert done.exit_code == 0 and 'fetching 161 MB' in done.output and 'ready' in done.output
    folder = checkout / 'work' / 'data' / 'debian' / 'tuxpaint-stamps-default'
    assert (folder / 'usr' / 'x.txt').read_text() == 'x' and folder.name in (folder / 'SHA256').read_text()
    again = crossmodal('data', 'get', 'tuxpaint', at=checkout)
    output = log.read_text()
    assert again.exit_code == 0 and 'fetching' not in again.output and output.count('download') == 1
    assert (
        all(
            k in output
            for k in (
                'Dir::State=',
                'Dir::State::lists=',
                'Dir::Cache=',
                'Dir::State::status=/var/lib/dpkg/status',
                'APT::Sandbox::User= ',
            )
        )
        and 'sudo' not in output
    )
    monkeypatch.chdir(checkout)
    ready = {r['name']: r['ready'] for r in catalogue()}
    assert ready['tuxpaint'] and not ready['household'] and not ready['furniture']  # half of it is not all of it
    with pytest.raises(MissingError, match='holds no tuxpaint-stamps-default/usr/share/tuxpaint/stamps'):
        load('tuxpaint')


@built
def test_archives_inside_are_unpacked_and_bad_ones_leave_nothing(tmp_path, monkeypatch):
    import zipfile

    def fill(at):
        with zipfile.ZipFile(at / 'Maker.sh3f', 'w') as z:
            z.writestr('maker/a.obj', 'v 0 0 0')

    offer(tmp_path / 'good', monkeypatch, name='sweethome3d-furniture', fill=fill)
    with pytest.warns(UserWarning):
        folder = debian.obtain('sweethome3d-furniture', tmp_path / 'into')
    assert (folder / 'usr' / 'Maker' / 'maker' / 'a.obj').is_file() and not list(folder.rglob('*.sh3f'))

    def evil(at):
        with zipfile.ZipFile(at / 'Maker.sh3f', 'w') as z:
            z.writestr('../../../../escaped.txt', 'gotcha')

    offer(tmp_path / 'evil', monkeypatch, name='sweethome3d-furniture', fill=evil)
    with pytest.warns(UserWarning), pytest.raises(InputError, match='outside'):
        debian.obtain('sweethome3d-furniture', tmp_path / 'other')
    assert not [p for p in (tmp_path / 'other').iterdir() if not p.name.startswith('.')] and not list(
        tmp_path.rglob('escaped.txt')
    )


@built
def test_several_processes_download_once(tmp_path, monkeypatch):
    log = offer(tmp_path / 'apt', monkeypatch)
    code = (
        'import warnings; warnings.simplefilter("ignore"); from crossmodal_nb.core.debian import obtain; '
        f'print(obtain("tuxpaint-stamps-default", {str(tmp_path / "into")!r}))'
    )
    both = [subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert len({p.communicate(timeout=600)[0] for p in both}) == 1 and log.read_text().count('download') == 1


@built
def test_known_versions_must_be_what_they_were(tmp_path, monkeypatch):
    offer(tmp_path / 'apt', monkeypatch, version='2022.06.04-1')
    with pytest.raises(InputError, match='expected 6db6c1bfc870'):
        debian.obtain('tuxpaint-stamps-default', tmp_path / 'into')


def test_elsewhere_the_message_says_what_to_do(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    done = crossmodal('data', 'get', 'tuxpaint', at=checkout)
    assert (
        done.exit_code == 1
        and 'no apt-get' in done.output
        and 'or Ubuntu' in done.output
        and 'work/data/debian/tuxpaint-stamps-default' in done.output
    )
    monkeypatch.chdir(checkout)
    with pytest.raises(MissingError, match='crossmodal data get tuxpaint'):
        load('tuxpaint')


@built
def test_offline_is_told(tmp_path, monkeypatch):
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'apt-get').write_text('#!/bin/sh\necho "E: Unable to locate package" >&2\nexit 100\n')
    (tmp_path / 'bin' / 'apt-get').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path / "bin"}{os.pathsep}{os.environ["PATH"]}')
    with pytest.raises(RuntimeError, match='Unable to locate package\n.*package sources'):
        debian.obtain('tuxpaint-stamps-default', tmp_path / 'into')


# ---------------------------------------------------------------- the real ones
def real():
    ready = {r['name']: r for r in catalogue()}['household']
    if not ready['ready']:
        pytest.skip(f'household is not on this machine: {ready["how"]}')


def test_counts_of_the_packages():
    real()
    n = {k: sum(len(v[k]) for v in load('household').values()) for k in ('image', 'text', 'speech', 'mesh', 'video')}
    assert n == dict(image=412, text=412, speech=410, mesh=300, video=300)
    n = {
        k: sum(len(v[k]) for v in load('tuxpaint', alphabets=True, effects=True).values())
        for k in ('image', 'text', 'speech', 'effect')
    }
    assert n == dict(image=950, text=950, speech=925, effect=106)
    for name, options in (
        ('tuxpaint', dict(effects=True)),
        ('furniture', dict(texts=('name', 'fr'))),
        ('household', dict(repeat=1)),
    ):
        assert crossing(load(name, **options)) == []
    assert sum(len(v['mesh']) for v in load('furniture').values()) == 820 and data_digest('household') != data_digest(
        'tuxpaint'
    )
