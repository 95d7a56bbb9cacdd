"""Where things are: metrics against other routes and pixels, rows of three sources, and maps of methods."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import forking

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.core.settings import settings
from crossmodal_nb.datasets.grounding import (
    didec_objects,
    english,
    folded,
    foreign,
    lexicon,
    of_flowgraphs,
    of_shapes,
    rows_with_query,
    sights,
    translated,
    words_of,
)
from crossmodal_nb.datasets.shapes import shapes
from crossmodal_nb.metrics.localization import (
    area,
    bounds,
    box_of,
    centres,
    covered,
    energy,
    iou,
    mean_by,
    measures,
    pointing,
    rectangles,
    rivals,
    similarity_map,
    summary,
    within,
)

golden = json.loads((Path(__file__).parent / 'golden' / 'recipe.json').read_text())


def close(a, b):
    return np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=1e-8, atol=1e-9)


def painted(boxes, size=(40, 30)):
    "A mask of whole pixels"
    m = np.zeros(size[::-1], bool)
    for x1, y1, x2, y2 in boxes:
        m[y1:y2, x1:x2] = True
    return m


def some_boxes(g, n, size=(40, 30)):
    corner = np.stack([g.integers(0, size[0] - 1, n), g.integers(0, size[1] - 1, n)], 1)
    return np.concatenate(
        [corner, np.stack([g.integers(corner[:, k] + 1, size[k] + 1) for k in (0, 1)], 1)], 1
    ).tolist()


# ---------------------------------------------------------------- goldens
def test_iou():
    for c in golden['loc_1_iou']:
        v = iou(c['a'], c['b']).item()
        close(v, c['iou'])
        assert (v >= 0.5) == c['hit']


def test_pointing():
    g = golden['loc_2_pointing']
    for c in g['cases']:
        close(pointing(g['map'], c['boxes'], g['image']), c['expected'])
    close(pointing(np.ones((4, 4)), [[10, 10, 30, 30]], g['image']), g['constant_map'])


def test_box_of_a_map():
    g = golden['loc_3_map_to_box']
    for t, box, v in zip(g['t'], g['boxes'], g['iou']):
        results = box_of(g['map'], (40, 40), t)
        close(results, box)
        close(iou(results, g['truth']).max(), v)
        close(box_of(3 * np.array(g['map']) + 7, (40, 40), t), box)  # lifted and stretched maps draw the same box


def test_similarity_map():
    g = golden['loc_4_similarity_map']
    cells, q = (torch.tensor(g[k], dtype=torch.double) for k in ('tokens', 'query'))
    m = similarity_map(cells[None], q[None])[0]
    close(m.view(2, 2), g['map_2x2'])
    close(cells.mean(0), g['pooled_from_grid'])
    close(energy(m, [[0, 0, 5, 10]], (10, 10)), g['energy_in_first_column'])
    assert similarity_map(torch.zeros(1, 4, 3), q[None].float()).abs().sum() == 0


def test_aggregation():
    g = golden['loc_5_aggregation']
    close(
        [mean_by(g['hit']), mean_by(g['hit'], g['image']), mean_by(g['hit'], g['category'])],
        [g[k] for k in ('micro', 'macro_image', 'macro_category')],
    )


# ---------------------------------------------------------------- against pixels
@pytest.mark.parametrize('seed', range(5))
def test_areas_and_overlaps_are_pixels(seed):
    g = np.random.default_rng(seed)
    a, b = some_boxes(g, 4), some_boxes(g, 3)
    assert area(a, [0, 0, 40, 30]) == painted(a).sum() and area(a, b[0]) == (painted(a) & painted(b[:1])).sum()
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            close(iou(a, b)[i, j], (painted([p]) & painted([q])).sum() / (painted([p]) | painted([q])).sum())
    table = covered(a, [0, 8, 30, 40], [0, 11, 30])
    assert table.sum() == painted(a).sum() and table[1, 2] == painted(a)[11:30, 30:40].sum()


@pytest.mark.parametrize('seed', range(5))
def test_floors_and_ceilings_by_brute_force(seed):
    g = np.random.default_rng(seed)
    boxes, crowd = some_boxes(g, 2), some_boxes(g, 1)
    b, true, ignored = bounds(boxes, (40, 30), crowd, k=25), painted(boxes), painted(crowd)
    close(b['random'], true.sum() / (true.size - (ignored & ~true).sum()))
    middle = (true[15, 20], ignored[15, 20])
    assert math.isnan(b['centre']) if middle == (False, True) else b['centre'] == middle[0]
    x, y = np.arange(5) * 8 + 4, np.arange(5) * 6 + 3
    assert b['cell'] == true[np.ix_(y, x)].any()
    close(b['whole'], max(painted([p]).mean() for p in boxes))
    every = [
        (painted([(8 * i, 6 * k, 8 * j, 6 * end)]), p)
        for p in boxes
        for i in range(5)
        for j in range(i + 1, 6)
        for k in range(5)
        for end in range(k + 1, 6)
    ]
    close(b['rectangle'], max((r & painted([p])).sum() / (r | painted([p])).sum() for r, p in every))
    assert len(rectangles(25, (40, 30))) == 15**2


@pytest.mark.parametrize('seed', range(5))
def test_a_constant_map_is_a_random_cell_and_the_whole_picture(seed):
    g = np.random.default_rng(seed)
    row = dict(boxes=some_boxes(g, 2), crowd=some_boxes(g, 1), size=(40, 30), image=0, category=0)
    results = {k: v.item() for k, v in measures([row], torch.full((1, 49), 0.3)).items()}
    at = centres(49, (40, 30))
    hit = within(at, row['boxes'])
    counts = hit | ~within(at, row['crowd'])
    close(results['pointing'], hit[counts].double().mean())
    close(results['energy'], painted(row['boxes']).mean())
    assert math.isnan(results['IoU']) or abs(results['IoU'] - bounds(row['boxes'], (40, 30))['whole']) < 1e-12


def test_ties_do_not_depend_on_the_order_of_cells():
    m = np.zeros((4, 4))
    m[0, 0] = m[3, 3] = 1
    left, right = [[0, 0, 10, 10]], [[30, 30, 40, 40]]
    assert (
        pointing(m, left, (40, 40))
        == pointing(m[::-1, ::-1].copy(), left, (40, 40))
        == pointing(m, right, (40, 40))
        == 0.5
    )


def test_crowds_count_neither_way():
    m = np.zeros((4, 4))
    m[1, 1] = 1
    at, elsewhere = [[10, 10, 20, 20]], [[30, 30, 40, 40]]
    assert (
        math.isnan(pointing(m, elsewhere, (40, 40), crowd=at))
        and pointing(m, at, (40, 40), crowd=at) == 1
        and pointing(m, elsewhere, (40, 40), crowd=[[0, 0, 5, 5]]) == 0
    )
    row = dict(boxes=elsewhere, crowd=at, size=(40, 40), image='a', category='x')
    results = measures([row, row | dict(crowd=[]), row | dict(boxes=at)], torch.tensor(m).flatten().expand(3, -1))
    assert (
        results['pointing'].isnan().tolist() == results['IoU@.5'].isnan().tolist() == [True, False, False]
        and results['IoU'][2] == 1
    )
    s = summary(results['pointing'], [row] * 3, n=50)
    assert s['n'] == 2 and s['dropped'] == 1 and s['value'] == 0.5


def test_tolerance_is_a_distance():
    m = np.zeros((4, 4))
    m[0, 0] = 1  # its centre is 5, 5
    assert [pointing(m, [[8, 9, 20, 20]], (40, 40), tolerance=t) for t in (0, 4.9, 5)] == [0, 0, 1]


def test_a_mirrored_picture_gives_mirrored_answers():
    g = np.random.default_rng(0)
    for _ in range(20):
        m, (box,) = g.random((7, 7)), some_boxes(g, 1)
        mirrored = [40 - box[2], box[1], 40 - box[0], box[3]]
        x1, y1, x2, y2 = box_of(m, (40, 30)).tolist()
        close(box_of(m[:, ::-1].copy(), (40, 30)), [40 - x2, y1, 40 - x1, y2])
        close(energy(m, [box], (40, 30)), energy(m[:, ::-1].copy(), [mirrored], (40, 30)))


@pytest.mark.parametrize(
    'bad', [dict(m=np.ones(5)), dict(m=np.full(4, np.nan)), dict(m=[]), dict(boxes=[[5, 5, 5, 9]])]
)
def test_bad_maps_and_boxes_are_refused(bad):
    with pytest.raises(InputError):
        pointing(**dict(m=np.ones(4), boxes=[[0, 0, 1, 1]], size=(4, 4)) | bad)


def test_intervals_resample_pictures():
    "All rows of a picture alike: the interval is that of as many rows as there are pictures"
    rows = [dict(image=i // 10, category=0) for i in range(200)]
    v = torch.tensor([float(i // 10 % 2) for i in range(200)])
    wide, narrow = summary(v, rows), summary(v, [r | dict(image=i) for i, r in enumerate(rows)])
    assert wide['value'] == 0.5 and (wide['high'] - wide['low']) > 2 * (narrow['high'] - narrow['low'])


def test_rivals_ask_the_same_picture_for_something_else():
    g = np.random.default_rng(0)
    rows = [dict(image=i, category=int(c)) for i in range(30) for c in g.permutation(6)[: g.integers(1, 5)]]
    categories = {i: {r['category'] for r in rows if r['image'] == i} for i in range(30)}
    for seed in (0, 1):
        r = rivals(rows, seed)
        for row, p, a in zip(rows, r['present'].tolist(), r['absent'].tolist()):
            assert (p < 0) == (len(categories[row['image']]) == 1) and (
                p < 0 or rows[p]['image'] == row['image'] and rows[p]['category'] != row['category']
            )
            assert rows[a]['category'] not in categories[row['image']]
    assert not torch.equal(rivals(rows)['absent'], rivals(rows, 1)['absent'])


# ---------------------------------------------------------------- rows: DIDEC
def data(name):
    return next((d / name for d in settings().data if (d / name).is_dir()), None)


@pytest.fixture(scope='module')
def didec():
    folder = data('didec')
    if not folder or not (folder / 'didec_lexicon.json').is_file():
        pytest.skip('DIDEC with COCO\'s objects and the lexicon is not on this machine')
    return didec_objects(folder)


def test_didec_is_the_table_of_the_specification(didec):
    said = [r for r in didec if r['mentions']]

    def count(rows):
        return [sum(r['split'] == s for r in rows) for s in ('train', 'valid', 'test')]

    assert (
        len(didec) == 1536
        and count(said) == [626, 69, 67]
        and len({r['image'] for r in said}) == 305
        and len({r['category'] for r in said}) == 76
    )
    assert (
        count([r for r in said if not r['person']]) == [467, 51, 52]
        and count([r for r in said if r['one']]) == [258, 31, 31]
        and count([r for r in said if r['one'] and not r['person']]) == [238, 29, 27]
    )
    assert (
        sum(r['mentions'] for r in didec) == 5446
        and len({w for r in didec for w in r['words']}) == 182
        and sum(len(r['boxes']) + len(r['crowd']) for r in didec) == 4870
        and sum(len(r['crowd']) for r in didec) == 62
    )


def test_floors_and_ceilings_of_didec(didec):
    """The specification counted *pixels that a box touches*, crowds included; boxes as they are annotated are a little
    smaller. Both are asked here: whole pixels give its figures to the last digit, and nothing else is different.
    """
    said = [r for r in didec if r['mentions']]

    def touched(bs):
        return [(math.floor(a), math.floor(b), math.ceil(c), math.ceil(d)) for a, b, c, d in bs]

    exact, full = ([bounds(how([*r['boxes'], *r['crowd']]), r['size']) for r in said] for how in (list, touched))

    def mean(of, name, chosen=lambda r: True):
        return round(np.mean([b[name] for b, r in zip(of, said) if chosen(r)]), 3)

    for chosen, *printed in (
        (lambda r: True, 0.182, 0.310, 0.852),
        (lambda r: not r['person'], 0.141, 0.235, 0.821),
        (lambda r: r['one'] and not r['person'], 0.139, 0.224, 0.796),
    ):
        assert [mean(full, k, chosen) for k in ('random', 'centre', 'cell')] == printed

    def large(name):
        return round(np.mean([b[name] >= 0.5 for b in exact]), 3)

    assert large('whole') == 0.049 and large('rectangle') == 0.660
    assert [mean(exact, k) for k in ('random', 'centre', 'cell')] == [0.181, 0.308, 0.849]


# A small DIDEC, to be spoiled
def small_didec(root):
    (root / 'images').mkdir(parents=True)

    def write(name, x):
        return (root / name).write_text(json.dumps(x))

    for s, n in dict(train='a1', val='b2', test='c3').items():
        write(f'split_{s}.json', {n: ['1']})
    (root / 'imgs2.tsv').write_text('a1\t10\tx\nb2\t20\tx\nc3\t30\tx\n')

    def thing(i, c, box, crowd=0):
        return dict(id=i, category_id=c, bbox=box, iscrowd=crowd, segmentation=[[0, 0, 1, 0, 1, 1]])

    write(
        'didec_img2objs.json',
        {
            '10': [thing(1, 5, [0, 0, 50, 50]), thing(2, 5, [300, 200, 100, 50], 1), thing(3, 6, [9, 9, 20, 20])],
            '20': [thing(4, 6, [100, 100, 540, 380])],
            '30': [thing(5, 7, [1, 2, 3, 4], 1)],
        },
    )
    write('scanpaths_DS_CONTENT_bbox.json', {'1': {'a1': [[[[1, 'bench'], [3, 'couch']]]], 'c3': [[[[5, 'cow']]]]}})
    write(
        'annotations_all_participants.json',
        [
            dict(image='a1', normalized_description='Een bank en een bank bij een bankje'),
            dict(image='b2', normalized_description='Bank! Een sofa.'),
            dict(image='c3', normalized_description='koeien'),
        ],
    )
    write('didec_lexicon.json', dict(bench='bank bankje', couch='bank sofa', cow='koe koeien'))
    return root


def test_a_word_of_two_meanings_counts_where_one_of_them_is(tmp_path):
    rows = didec_objects(small_didec(tmp_path / 'd'))
    assert [(r['image'], r['category'], r['words'], r['mentions']) for r in rows] == [
        ('a1', 'bench', {'bankje': 1}, 1),
        ('a1', 'couch', {}, 0),
        ('b2', 'couch', {'bank': 1, 'sofa': 1}, 2),
    ]
    assert (
        rows[0]['boxes'] == [(0, 0, 50, 50)]
        and rows[0]['crowd'] == [(300, 200, 400, 250)]
        and not rows[0]['one']
        and rows[2]['boxes'] == [(100, 100, 640, 480)]
    )  # c3 has a crowd only: nothing to find
    assert words_of(tmp_path / 'd' / 'didec_lexicon.json')['bank'] == {'bench', 'couch'} and all(
        not r['words'] for r in didec_objects(tmp_path / 'd', lexicon='')
    )


@pytest.mark.parametrize(
    'file, change, said',
    [
        ('didec_img2objs.json', lambda x: x['10'][0].update(bbox=[600, 0, 50, 50]), 'object 0.*not inside'),
        ('didec_img2objs.json', lambda x: x['10'][0].update(bbox=[1, 2, 3]), 'object 0.*bbox'),
        ('didec_img2objs.json', lambda x: x['10'][0].update(bbox=['nan', 2, 3, 3]), 'object 0'),
        ('didec_img2objs.json', lambda x: x.pop('20'), '20'),
        ('didec_img2objs.json', lambda x: x['20'][0].update(category_id=99), 'no name'),
        ('scanpaths_DS_CONTENT_bbox.json', lambda x: x['1']['a1'][0][0].append([3, 'sofa']), 'several names'),
        ('scanpaths_DS_CONTENT_bbox.json', lambda x: x['1'].update(a1=[[[7]]]), 'participant'),
        ('annotations_all_participants.json', lambda x: x[1].update(image='zz'), 'description 1'),
        ('annotations_all_participants.json', lambda x: x[2].pop('normalized_description'), 'description 2'),
        ('didec_lexicon.json', lambda x: x.update(cow=['koe']), 'didec_lexicon'),
        ('split_val.json', lambda x: x.update(a1=[]), 'two splits'),
    ],
)
def test_faults_name_file_and_row(tmp_path, file, change, said):
    root = small_didec(tmp_path / 'd')
    x = json.loads((root / file).read_text())
    change(x)
    (root / file).write_text(json.dumps(x))
    with pytest.raises(InputError, match=said):
        didec_objects(root)


@pytest.mark.parametrize(
    'file',
    ['didec_img2objs.json', 'didec_lexicon.json', 'imgs2.tsv', 'split_test.json', 'scanpaths_DS_CONTENT_bbox.json'],
)
def test_a_missing_file_is_named(tmp_path, file):
    root = small_didec(tmp_path / 'd')
    (root / file).unlink()
    with pytest.raises(InputError, match=file):
        didec_objects(root)


# ---------------------------------------------------------------- rows: recipes, shapes
def recipes(root, n=12):
    "Japanese recipes in the neutral format, whose photos show drawn shapes"

    (root / 'photos').mkdir(parents=True)
    drawn = shapes(n=2 * n, others=1)
    pictures = [v['image'].x[i] for v in drawn.values() for i in range(len(v['image']))]
    rows = [r for v in drawn.values() for r in v['image'].x.rows]
    for i in range(n):
        names, boxes = [f'photos/r{i}-{k}.png' for k in (0, 1)], []
        for k, p in enumerate(names):
            pictures[2 * i + k].save(root / p)
            *_, x, y, r = rows[2 * i + k][-1]
            for e, how in (('e1', ('doing', 'done')[k]), ('e2', 'doing')):
                boxes.append(dict(image=p, xyxy=[x - r, y - r, x + r + 1, y + r + 1], entity_id=e, attribute=how))
        food = ('タマネギ', '玉ねぎ', 'バナナ')[i % 3]
        tokens = [food, 'を', '切', 'る', '。']
        (root / f'r{i}.json').write_text(
            json.dumps(
                dict(
                    recipe_id=f'r{i}',
                    lang='ja',
                    edges=[dict(src='e1', dst='e2', label='Targ')],
                    steps=[dict(step=1, text=''.join(tokens), tokens=tokens, images=names)],
                    entities=[
                        dict(id='e1', step=1, start=0, end=1, tag='F', surface=food),
                        dict(id='e2', step=1, start=2, end=3, tag='Ac', surface='切'),
                    ],
                    boxes=boxes,
                ),
                ensure_ascii=False,
            )
        )
    return root


def test_recipes_become_rows(tmp_path):
    rows = of_flowgraphs(recipes(tmp_path / 'set'), 'ja')
    assert (
        len(rows) == 48
        and {r['attribute'] for r in rows if r['tag'] == 'F'} == {'doing', 'done'}
        and {r['size'] for r in rows} == {(128, 96)}
    )
    ready, tally = rows_with_query(rows, dict(タマネギ='onion', バナナ='banana'))
    assert tally == {'asked': 48, 'answered': 16, 'skipped: no word': 8, 'skipped: tag Ac': 24} and {
        r['query'] for r in ready
    } == {'onion', 'banana'}
    view, picture_of = sights(ready)
    assert (
        len(view) == 16
        and all(view.ids[w] == r['image'] for w, r in zip(picture_of.tolist(), ready))
        and view.x[0].size == (128, 96)
    )
    assert len({r['split'] for r in rows}) > 1 and all(
        len({r['split'] for r in rows if r['recipe'] == n}) == 1 for n in {r['recipe'] for r in rows}
    )


def test_the_experiment_asks_recipes_in_japanese(tmp_path):
    "Photos of drawn shapes, foods that are not in them: everything runs, everything is counted, and nothing is found"
    import papermill

    root, out = recipes(tmp_path / 'set', 30), tmp_path / 'out.json'
    papermill.execute_notebook(
        settings().nbs_path / 'experiments' / '85_localise.ipynb',
        tmp_path / 'page.ipynb',
        dict(
            dataset='flowgraphs',
            options=dict(lang='ja'),
            root=str(root),
            learn='shapes',
            sample=60,
            spaces={'CCA': ['CCA', dict(dim=8), 'plain']},
            readings={'CCA': ['CCA', 'cells']},
            prompts=['{}'],
            shown=4,
            out=str(out),
        ),
        progress_bar=False,
        **forking,
    )
    record = json.loads(out.read_text())
    assert record['tables']['tally'] == {
        'asked': 120,
        'answered': 40,
        'skipped: no word': 20,
        'skipped: tag Ac': 60,
    } and {r['rows'] for r in record['rows']} == {'all', 'doing', 'done', 'tag F'}
    assert [b['bridge'] for b in record['tables']['bridges']] == [
        'Japanese, through the dictionary',
        'Japanese, as it is',
    ] and record['tables']['bridges'][0]['difference'] == 0
    assert all(r['low'] <= r['value'] <= r['high'] for r in record['rows'] if r.get('low') is not None) and {
        r['split'] for r in record['rows']
    } == {'valid'}


def test_faults_of_recipes_are_counted(tmp_path):
    root = recipes(tmp_path / 'set')

    def spoil(name, change):
        r = json.loads((root / name).read_text())
        change(r)
        (root / name).write_text(json.dumps(r))

    spoil('r1.json', lambda r: r['boxes'][0].update(xyxy=[5, 5, 4, 9]))
    spoil('r2.json', lambda r: r['boxes'][1].update(image='photos/r3-0.png'))
    spoil('r3.json', lambda r: r['boxes'][2].update(entity_id='e9'))
    with pytest.raises(InputError, match='3 faults'):
        of_flowgraphs(root)


def test_shapes_are_where_their_rows_say():
    splits = shapes(n=40, others=3)
    rows = of_shapes(splits)
    colour = dict(
        red=(214, 39, 40),
        green=(44, 160, 44),
        blue=(31, 119, 180),
        yellow=(231, 186, 82),
        violet=(148, 103, 189),
        white=(255, 255, 255),
    )
    view, picture_of = sights(rows)
    for r, w in zip(rows, picture_of.tolist()):
        x = np.asarray(view.x[w])
        own = (x == colour[r['category'].split()[0]]).all(-1)
        for x1, y1, x2, y2 in r['boxes']:
            assert own[y1:y2, x1:x2].mean() > 0.1
    alone = of_shapes(shapes(n=40, others=0))
    view, picture_of = sights(alone)
    for r, w in zip(alone, picture_of.tolist()):  # one shape, nothing hides it: the box is tight
        y, x = np.nonzero((np.asarray(view.x[w]) != 119).any(-1))
        x1, y1, x2, y2 = r['boxes'][0]
        assert (
            max(abs(x.min() - x1), abs(y.min() - y1), abs(x.max() + 1 - x2), abs(y.max() + 1 - y2)) <= 1
            and r['named']
            and r['one']
        )


# ---------------------------------------------------------------- the bridge
def test_the_longest_piece_wins_and_scripts_are_one(tmp_path):
    pairs = [
        ('赤い', 'red'),
        ('りんご', 'apple'),
        ('青りんご', 'green apple'),
        ('ねぎ', 'leek'),
        ('の', 'of'),
        ('猫', 'a cat.'),
    ]
    known = lexicon(pairs)
    assert (
        translated('アオリンゴ', known)[0] == 'apple'
        and translated('青リンゴ', known) == ('green apple', 1.0)
        and translated('赤いリンゴ', known) == ('red apple', 1.0)
    )
    assert (
        translated('の', known) == ('', 0.0)
        and translated('猫', known) == ('cat', 1.0)
        and translated('', known) == ('', 0.0)
    )
    english_, share = translated('玉ねぎ', known)
    assert english_ == 'leek' and abs(share - 2 / 3) < 1e-12  # wrong, and it says how little it knew
    own = tmp_path / 'own.json'
    own.write_text(json.dumps({'玉ねぎ': 'onion'}, ensure_ascii=False))
    assert (
        translated('玉ねぎ', lexicon(pairs, path=own)) == ('onion', 1.0)
        and folded('ﾘﾝｺﾞ') == 'りんご'
        and english('The  Dog.') == 'dog'
    )
    own.write_text(json.dumps({'玉ねぎ': 3}))
    with pytest.raises(InputError, match='own.json'):
        lexicon(pairs, path=own)
    assert foreign(['apple', 'pear', 'cat'], pairs) == {'apple': 'りんご', 'cat': '猫'} and foreign(
        ['apple'], pairs[2:]
    ) == {'apple': '青りんご'}


# ---------------------------------------------------------------- maps of methods
def test_every_reading_gives_a_map_a_query():
    from crossmodal_nb.data.views import View, Views
    from crossmodal_nb.encoders.base import Ragged
    from crossmodal_nb.methods.dual_encoder import CLIP
    from crossmodal_nb.methods.grounding import attention_maps, cell_maps, slope_maps
    from crossmodal_nb.methods.vilbert import ViLBERT

    g = torch.Generator().manual_seed(0)
    grid, words = torch.randn(40, 9, 8, generator=g), torch.randint(3, 7, (40,), generator=g)
    text = dict(
        pooled=torch.randn(40, 6, generator=g), tokens=Ragged(torch.randn(int(words.sum()), 6, generator=g), words)
    )
    views = Views(image=View(dict(pooled=grid.mean(1), grid=grid)), text=View(text))
    how = dict(trainer=dict(epochs=1, batch=20, accelerator='cpu'))
    clip = CLIP(dim=8, hidden=16, parts=('pooled', 'grid'), **how).fit(views)
    vilbert = ViLBERT(width=16, heads=2, text_layers=1, image_layers=1, connections=1, cells=0, hard=0, **how).fit(
        views
    )
    picture_of = torch.tensor([3, 3, 39, 0, 7])
    x = {p: v.take(torch.arange(5)) if p == 'tokens' else v[:5] for p, v in text.items()}
    for f, m in ((cell_maps, clip), (slope_maps, clip), (slope_maps, vilbert), (attention_maps, vilbert)):
        maps = f(m, 'image', grid, picture_of, 'text', x)
        assert maps.shape == (5, 9) and maps.isfinite().all() and not maps.requires_grad
        alone = torch.cat(
            [
                f(
                    m,
                    'image',
                    grid,
                    picture_of[[k]],
                    'text',
                    {p: v.take(torch.tensor([k])) if p == 'tokens' else v[[k]] for p, v in x.items()},
                )
                for k in range(5)
            ]
        )
        assert torch.allclose(maps, alone, atol=1e-5)  # no query knows of its neighbours
    assert (attention_maps(vilbert, 'image', grid, picture_of, 'text', x).sum(1) <= 1 + 1e-5).all()
    with pytest.raises(InputError):
        cell_maps(clip, 'image', grid, picture_of[:4], 'text', x)
