"""Maps of where people look: the layouts of their owners with fixtures made here, bad input, and the real sets where
their folders are.
"""

import json

import numpy as np
import pytest
import torch
from PIL import ImageColor
from scipy.io import savemat
from test_datasets import coco, damage, here, notes, photos, well_formed

from crossmodal_nb.core.checks import InputError, MissingError
from crossmodal_nb.data.gaze_maps import Maps, given
from crossmodal_nb.data.synthetic import make_gaussian_views
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.datasets import data_digest, gaze_masks, load
from crossmodal_nb.datasets.gaze_masks import Attended, cells, mean_map, views_of
from crossmodal_nb.datasets.shapes import colours
from crossmodal_nb.encoders.base import Ragged
from crossmodal_nb.encoders.extraction import features
from crossmodal_nb.encoders.text import WordPieces
from crossmodal_nb.evaluation.small_pools import SmallPoolEvaluation
from crossmodal_nb.methods.base import Method
from crossmodal_nb.methods.gaze import Gaze
from crossmodal_nb.methods.gaze_masking import GazeMasked, ways_of
from crossmodal_nb.methods.similarity import unit
from crossmodal_nb.nn.trainer import Trainer


def didec(root, n=40):
    "n photos of 640 × 480 with two objects each; who looks at the second one sees it twice"
    names = [str(100 + i) for i in range(n)]
    photos(root / 'images', [f'{k}.jpg' for k in names])
    for part, few in dict(train=names[:-8], val=names[-8:-4], test=names[-4:]).items():
        (root / f'split_{part}.json').write_text(json.dumps({k: ['1', '2'] for k in few}))
    output = [
        dict(image=k, participant=p, normalized_description='' if (k, p) == ('100', '1') else f'een foto {k} van {p}')
        for k in names
        for p in '12'
    ]

    def box(x):
        return dict(segmentation=[[x, 100, x + 100, 100, x + 100, 300, x, 300]], bbox=[x, 100, 100, 200])

    (root / 'annotations_all_participants.json').write_text(json.dumps(output))
    (root / 'imgs2.tsv').write_text(''.join(f'{k}\t9{k}\thttps://somewhere\n' for k in names))
    (root / 'didec_img2objs.json').write_text(
        json.dumps(
            {
                f'9{k}': [dict(id=1, **box(50)), dict(id=2, **box(400) | dict(segmentation=dict(counts=[])))]
                for k in names
            }
        )
    )
    (root / 'scanpaths_DS_CONTENT_bbox.json').write_text(
        json.dumps(
            {
                p: {k: [[[[1, 'dog']], []], [[[2, 'cat']], [[2, 'cat']]]] if p == '1' else [] for k in names}
                for p in '12'
            }
        )
    )
    return root


def osie(root, n=14):
    photos(root / 'stimuli', [f'{k}.jpg' for k in range(n)])
    viewers = np.array(
        [(np.array([400.0, 900.0]), np.array([150.0, 10.0])), (np.float64(399.0), np.float64(152.0))],
        dtype=[('fix_x', object), ('fix_y', object)],
    )
    savemat(
        root / 'fixations.mat',
        dict(
            fixations=np.array([(f'{k}.jpg', viewers) for k in range(n)], dtype=[('img', object), ('subjects', object)])
        ),
    )
    return root


def salicon(root):
    coco(root)
    for part in ('train2014', 'val2014'):

        def sized(d):
            d.update(
                images=[im | dict(height=40, width=60) for im in d['images']],
                annotations=[dict(image_id=im['id'], fixations=[[1, 1], [40, 60]]) for im in d['images']],
            )

        notes(root, sized, part, 'fixations')
    return root


def own(root):
    names = [f'{k}.jpg' for k in range(30)]
    photos(root / 'pairs', names)
    photos(root / 'maps', [n.replace('jpg', 'png') for n in names])
    (root / 'pairs' / 't.csv').write_text('image,text\n' + ''.join(f'{n},a text of {n[:-4]}\n' for n in names))
    return root


@pytest.mark.filterwarnings('ignore:coco', 'ignore:didec', 'ignore:osie')
@pytest.mark.parametrize(
    'name,make,shape',
    [('didec', didec, (480, 640)), ('osie', osie, (600, 800)), ('salicon', salicon, (40, 60)), ('gaze', own, (8, 8))],
)
def test_a_map_for_every_picture(name, make, shape, tmp_path):
    splits = load(name, make(tmp_path))
    well_formed(splits)
    for views in splits.values():
        assert views['gaze'].ids == views['image'].ids and views['gaze'].item.tolist() == views['image'].item.tolist()
        m = views['gaze'].x[0]
        assert m.shape == shape and m.dtype == np.float32 and 0 <= m.min() and m.max() <= 1
    assert data_digest(name, tmp_path)


@pytest.mark.filterwarnings('ignore:didec')
def test_didec_sums_what_was_looked_at(tmp_path):
    with pytest.warns(UserWarning, match='1 descriptions are empty'):
        splits = load('didec', didec(tmp_path), sigma=0.5)
    m = splits['test']['gaze'].x[0]
    assert (
        m[200, 450] == 1 and abs(m[200, 100] - 0.5) < 1e-6 and m[50, 300] == 0
    )  # the second object was met twice, the first once
    folds = [load('didec', tmp_path, fold=f) for f in range(5)]
    tested = [i for f in folds for i in f['test']['image'].ids]
    assert len(tested) == len(set(tested)) == 40 and all(well_formed(f) is None for f in folds)


@pytest.mark.filterwarnings('ignore:osie')
def test_osie_reads_its_own_frame(tmp_path):
    m = load('osie', osie(tmp_path), sigma=1.0)['train']['gaze'].x[0]
    assert m[150, 400] > 0.5 and m[152, 399] > 0.5 and m[10].max() < 1e-6  # x = 900 lies outside and is left out


@pytest.mark.filterwarnings('ignore:coco')
def test_salicon_counts_rows_and_columns_from_one(tmp_path):
    m = load('salicon', salicon(tmp_path), sigma=1.0)['train']['gaze'].x[0]
    assert m[0, 0] == m[39, 59] == 1 and m[20, 30] < 1e-6


@pytest.mark.filterwarnings('ignore:didec')
def test_five_ways_to_see_a_picture(tmp_path):
    train = load('didec', didec(tmp_path))['train']
    visited = views_of(train, mean_map(train['gaze'].x))
    assert list(visited) == ['plain', 'gaze', 'centre', 'other', 'uniform'] and all(
        v.item.tolist() == train['image'].item.tolist() for v in visited.values()
    )
    light = {k: np.asarray(v.x[3]).mean() for k, v in visited.items()}
    assert light['gaze'] < light['plain'] and abs(light['gaze'] - light['uniform']) < 1.5
    keys = {k: v.x.keys(range(4)) for k, v in visited.items() if k not in ('plain', 'other')}
    assert (
        len({k for ks in keys.values() for k in ks}) == 12
    )  # every way of every picture is its own entry of the feature store


@pytest.mark.filterwarnings('ignore:osie')
def test_another_pictures_map_is_never_ones_own(tmp_path):
    train = load('osie', osie(tmp_path, 21), sigma=1.0)['train']
    for j, m in enumerate(train['gaze'].x.rows):
        m[0][0] = j  # each map says whose it is
    second = views_of(train, mean_map(train['gaze'].x), seed=5)['other'].x.maps.rows
    assert sorted(m[0][0] for m in second) == list(range(15)) and all(m[0][0] != j for j, m in enumerate(second))


@pytest.mark.filterwarnings('ignore:coco', 'ignore:didec')
@pytest.mark.parametrize(
    'name,make,hurt,says',
    [
        (
            'didec',
            didec,
            lambda r: damage(r / 'scanpaths_DS_CONTENT_bbox.json', '[[1, "dog"]]', '[[7, "dog"]]'),
            'photo 100 has no object 7',
        ),
        (
            'didec',
            didec,
            lambda r: damage(r / 'scanpaths_DS_CONTENT_bbox.json', '[[1, "dog"]]', '[1, "dog"]'),
            "participant '1', photo '100': not lists",
        ),
        (
            'didec',
            didec,
            lambda r: damage(r / 'scanpaths_DS_CONTENT_bbox.json', '"100"', '"1000"'),
            "photo '1000': it is in no split",
        ),
        (
            'didec',
            didec,
            lambda r: damage(r / 'annotations_all_participants.json', '"participant": "1"', '"person": "1"'),
            "description 0: no 'participant'",
        ),
        (
            'didec',
            didec,
            lambda r: damage(r / 'didec_img2objs.json', '[[50, 100,', '[[50, NaN,'),
            'object 1: no outline and no box',
        ),
        ('didec', didec, lambda r: damage(r / 'split_val.json', '132', '139'), 'a photo is in two splits'),
        ('didec', didec, lambda r: (r / 'images' / '105.jpg').unlink(), 'no photo for 105'),
        ('osie', osie, lambda r: (r / 'fixations.mat').write_bytes(b'nothing'), "not OSIE's table"),
        ('osie', osie, lambda r: (r / 'stimuli' / '3.jpg').unlink(), 'no photo for 3.jpg'),
        (
            'salicon',
            salicon,
            lambda r: notes(r, lambda d: d['annotations'][2].update(fixations=[[float('nan'), 5]]), kind='fixations'),
            'annotation 2: a fixation is not finite',
        ),
        (
            'salicon',
            salicon,
            lambda r: notes(r, lambda d: d['annotations'][2].update(fixations=[[1], [2, 3]]), kind='fixations'),
            'annotation 2: fixations are not pairs',
        ),
        (
            'gaze',
            own,
            lambda r: (r / 'maps' / '3.png').unlink(),
            'nothing in maps/ about 1 of 30 pictures: pairs/3.jpg',
        ),
    ],
)
def test_bad_maps_are_named(name, make, hurt, says, tmp_path):
    hurt(make(tmp_path))
    with pytest.raises((InputError, MissingError), match=says):
        load(name, tmp_path)


@pytest.mark.filterwarnings('ignore:didec')
def test_the_real_ones():
    here('didec')
    here('osie')
    splits = load('didec')
    assert [len(v['image']) for v in splits.values()] == [247, 30, 30] and sum(
        len(v['text']) for v in splits.values()
    ) == 4601
    assert all(m.max() == 1 and 0.01 < m.mean() < 0.6 for m in splits['test']['gaze'].x[[0, 7, 29]])
    assert [len(v['image']) for v in load('osie').values()] == [500, 100, 100]


def test_shapes_are_where_their_maps_are():
    for fold in range(5):
        splits = load('shapes', n=40, fold=fold)
        well_formed(splits)
    assert load('shapes', n=40)['test']['text'].x == load('shapes', n=40)['test']['text'].x and data_digest('shapes')
    views = load('shapes', n=40)['train']
    for x, m, t in zip(views['image'].x[range(9)], views['gaze'].x[range(9)], views['text'].x):
        row, col = np.unravel_index(m.argmax(), m.shape)
        assert (col < 64) == t.endswith('left')
        assert x.getpixel((int(col), int(row))) == ImageColor.getrgb(colours[t.split()[2]])


# ---------------------------------------------------------------- the samplers, in several processes and interrupted
ways = pytest.mark.parametrize(
    'how',
    [
        dict(sampler='queue', size=50, direction='both'),
        dict(sampler='rerank', size=0.1, refresh=3),
        dict(sampler='rerank', size=0.1, refresh=3, probe=3),
    ],
    ids=['queue', 'rerank', 'approximate'],
)


def fit(how, **trainer):
    return Gaze(
        **how, dim=16, hidden=32, dropout=0.0, trainer=dict(epochs=4, batch=48, lr=1e-3, accelerator='cpu') | trainer
    ).fit(make_gaussian_views(150, rho=(0.9,) * 4))


def plain(history):
    return [{k: v for k, v in r.items() if k != 'seconds'} for r in history]


@ways
def test_two_processes_are_one(how):
    first, two = fit(how, epochs=2), fit(how, epochs=2, devices=2)
    for r, s in zip(plain(first.history), plain(two.history), strict=True):
        assert all(r[k] == pytest.approx(s[k], rel=1e-4, abs=1e-6) for k in r)
    for name, p in first.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], p, rtol=1e-3, atol=1e-4)


@ways
def test_killed_and_resumed(how, tmp_path, monkeypatch):
    full, keep, kept = fit(how), Trainer._keep, []

    def dying(*args):
        keep(*args)
        kept.append(1)
        if len(kept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, '_keep', dying)
    with pytest.raises(KeyboardInterrupt):
        fit(how, ckpt=str(tmp_path))
    again = fit(how, ckpt=str(tmp_path))
    assert len(kept) == 4 and plain(again.history) == plain(full.history)
    assert all(torch.equal(p, again.state_dict()[name]) for name, p in full.state_dict().items())


def test_a_file_of_which_every_list_is_opened_is_exact():
    exact, file = (fit(dict(sampler='rerank', size=20, refresh=2) | more, epochs=2) for more in ({}, dict(probe=1000)))
    for r, s in zip(plain(exact.history), plain(file.history), strict=True):
        assert all(r[k] == pytest.approx(s[k], rel=1e-3) for k in r)  # rounding may choose another 20th


# ---------------------------------------------------------------- what a picture looks like, in features and in pixels
def test_a_mirrored_picture_keeps_its_own_cells():
    views, flat = load('shapes', n=12)['train'], np.ones((48, 64), np.float32)
    parts = ways_of(views.select('image', 'gaze'), flat, ('gaze', 'centre', 'cells'))
    x = parts.x
    assert set(x) == {a + b for a in ('pooled', 'gaze', 'centre', 'cells') for b in ('', '_flip')} and all(
        v.shape == (len(views['image']), 1280) for v in x.values()
    )
    assert torch.allclose(x['centre'], x['pooled'], atol=1e-4)  # a map that hides nothing changes nothing
    even = views['gaze'].with_features(Maps(given, [flat.tolist()] * len(views['image'])))
    assert torch.allclose(
        ways_of(Views(image=views['image'], gaze=even), flat, ('cells',)).x['cells_flip'], x['pooled_flip'], atol=2e-2
    )
    mirrored = Views(
        image=views['image'].with_features(Mirrored(views['image'].x)),
        gaze=views['gaze'].with_features(Mirrored(views['gaze'].x)),
    )
    y = ways_of(mirrored, flat, ('gaze', 'cells')).x  # what was mirrored before is as what is mirrored after
    for k in ('gaze', 'cells'):
        assert (
            torch.cosine_similarity(y[k], x[k + '_flip']).min() > 0.97
            and torch.cosine_similarity(y[k], x[k + '_flip']).mean() > torch.cosine_similarity(y[k], x[k]).mean() + 0.02
        )


class Mirrored:
    "Pictures or maps, left and right swapped"

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def _flip(self, v):
        return v[:, ::-1].copy() if isinstance(v, np.ndarray) else v.transpose(0)

    def __getitem__(self, i):
        return self._flip(self.x[i]) if isinstance(i, (int, np.integer)) else [self._flip(v) for v in self.x[i]]

    def take(self, i):
        return Mirrored(self.x.take(i))

    @property
    def digest(self):
        return 'mirrored' + self.x.digest

    def keys(self, i):
        return ['mirrored' + k for k in self.x.keys(i)]


def test_pixels_are_plain_or_seen_through_their_map():
    views = load('shapes', n=100)['train']
    raw = Views(
        image=views['image'].with_features(Attended(views['image'].x, views['gaze'].x)),
        text=View(torch.randn(60, 4), item=views['image'].item),
    )
    ids = raw.shared_items[:40]
    drawn = {p: GazeMasked(raw, p, 'gaze').batch(ids, seed=3)['image'].x for p in (0.0, 0.5, 1.0)}
    pictures, plain_ = (
        {p: [np.asarray(v) for v in x[torch.arange(40)]] for p, x in drawn.items()},
        [np.asarray(v) for v in views['image'].x[torch.arange(40)]],
    )

    def same(p):
        return sum(np.array_equal(a, b) for a, b in zip(pictures[p], plain_))

    assert same(0.0) == 40 and same(1.0) == 0 and 10 < same(0.5) < 30
    assert all(np.array_equal(a, b) or np.array_equal(a, c) for a, b, c in zip(pictures[0.5], plain_, pictures[1.0]))
    again = GazeMasked(raw, 0.5, 'gaze').batch(ids, seed=3)['image'].x
    assert np.array_equal(drawn[0.5].a, again.a) and not np.array_equal(
        drawn[0.5].a, GazeMasked(raw, 0.5, 'gaze').batch(ids, seed=4)['image'].x.a
    )


def test_from_pixels_and_pieces(tmp_path):
    views = load('shapes', n=40)['train']
    text = features(views.select('text'), dict(text=WordPieces(60, 16).fit(views['text'].x)), cache=tmp_path)['text']
    raw = Views(image=views['image'].with_features(Attended(views['image'].x, views['gaze'].x)), text=text)
    m = Gaze(
        mask_prob=0.5,
        image='EfficientNetLite',
        dim=8,
        hidden=16,
        lstm=8,
        trainer=dict(epochs=1, batch=8, lr=1e-3, accelerator='cpu'),
    ).fit(raw)
    old, new = Gaze(image='EfficientNetLite').pixels()[0].state_dict(), m.students['image'].state_dict()
    assert any(not torch.equal(old[k], new[k]) for k in old)  # the encoder has learnt, too
    m.save(tmp_path / 'm')
    again = Method.load(tmp_path / 'm')
    for v, x in (('image', views['image'].x), ('text', text.x)):
        assert torch.equal(again.encode(v, x), m.encode(v, x))
    unknown = dict(ids=Ragged(torch.full((3, 1), 59_999), torch.tensor([3])))
    assert m.encode('text', unknown).isfinite().all()  # a piece that was never seen is the unknown one


@pytest.mark.parametrize(
    'how,says',
    [
        (dict(mask_prob=1.5), 'mask_prob is 1.5'),
        (dict(sampler='queue', size=0), 'size is 0'),
        (dict(sampler='rank'), "'rank'"),
        (dict(image='ResNet'), "'ResNet'"),
    ],
)
def test_bad_settings(how, says):
    with pytest.raises(InputError, match=says):
        Gaze(**how)


def test_a_probability_needs_something_to_see_through():
    with pytest.raises(InputError, match="no view has a part 'gaze'"):
        Gaze(mask_prob=0.5).fit(make_gaussian_views(60))


def test_a_map_is_drawn_once_for_each_size(monkeypatch):
    monkeypatch.setattr(gaze_masks, '_kept', {})
    monkeypatch.setattr(gaze_masks, 'REDUCED', 6)
    drawn = []

    def draw(row):
        drawn.append(row)
        return np.random.default_rng(row).random((48, 64), np.float32)

    maps = Maps(draw, [1, 2, 3])
    means, shares = [mean_map(maps, (12, 16)) for _ in range(2)], [cells(maps, 4) for _ in range(2)]
    assert sorted(drawn) == [1, 1, 2, 2, 3, 3] and np.array_equal(*means) and np.array_equal(*shares)
    small = np.stack([draw(row).reshape(12, 4, 16, 4).mean((1, 3)) for row in (1, 2, 3)])
    assert np.allclose(means[0], small.sum(0) / small.sum(0).max(), atol=1e-6)
    assert shares[0].shape == (3, 16) and np.allclose(shares[0].sum(1), 1)
    mean_map(Maps(draw, [4]), (12, 16))  # the oldest goes
    assert len(gaze_masks._kept) == 6
    drawn.clear()
    mean_map(maps, (12, 16))
    assert drawn[0] == 1


@pytest.mark.parametrize('rows_an_item', [1, 3])
def test_pools_encode_equal_draws_once(rows_an_item):
    g, n = torch.Generator().manual_seed(0), 24
    item = torch.arange(n).repeat_interleave(rows_an_item)
    views = Views(
        image=View(dict(pooled=torch.randn(n, 8, generator=g), gaze=torch.randn(n, 8, generator=g))),
        text=View(torch.randn(len(item), 6, generator=g), item=item),
    )
    method = Gaze(dim=4, hidden=8, trainer=dict(epochs=1, batch=8, accelerator='cpu')).fit(views)
    pools, asked, encode = SmallPoolEvaluation(views, 6, draws=3), [], method.encode
    method.encode = lambda v, x, target=None: asked.append(v) or encode(v, x, target)
    got = pools.scores(method)
    assert asked.count('image') == 1 and asked.count('text') == (1 if rows_an_item == 1 else 3)
    for d in range(3):
        batch = views.batch(pools.item, seed=d)
        a, b = (unit(encode(v, batch[v].x)).double().unflatten(0, (-1, 6)) for v in ('image', 'text'))
        assert torch.equal(got[d], a @ b.mT)
    assert not any(name in dict(method.named_modules()) for name in ('slow', 'kept'))


def test_what_only_training_needs_is_gone_after_it():
    for how in (dict(sampler='queue', size=8), dict(sampler='rerank', size=4)):
        method = fit(how)
        assert not {'slow', 'kept'} & set(dict(method.named_children())) and 'steps' not in method.state_dict()
