"""Every layout and every bad input of the datasets, with fixtures made here; the real sets where their folders are."""
import csv, hashlib, json, os
import numpy as np, pytest, torch
from PIL import Image
from crossmodal_nb.data import Views, normalise
from crossmodal_nb.datasets import audit, catalogue, class_names, data_digest, load

SPLITS = ('train', 'valid', 'test')


def photos(folder, names):
    for i, n in enumerate(names):
        (folder/n).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype='uint8')).save(folder/n)

def here(name):
    ready = {r['name']: r for r in catalogue()}[name]
    if not ready['ready']: pytest.skip(f'{name} is not on this machine: {ready["how"]}')

def crossing(splits):
    "Row contents (normalised text, file bytes, numbers) that occur in more than one split"
    def keys(x):
        if hasattr(x, 'paths'): return [hashlib.sha256(p.read_bytes()).hexdigest() for p in x.paths]
        return [normalise(t) or None for t in x] if isinstance(x, list) else [r.numpy().tobytes() for r in x]
    bad = []
    for view in splits['train']:
        seen = {}
        for s, v in splits.items():
            for k, i in zip(keys(v[view].x), v[view].ids):
                if k is not None and seen.setdefault(k, s) != s: bad.append((view, i, s, seen[k]))
    return bad

def well_formed(splits):
    assert list(splits) == list(SPLITS)
    items = [set(i for v in splits[s].values() for i in v.item.tolist()) for s in SPLITS]
    assert not (items[0] & items[1] or items[0] & items[2] or items[1] & items[2])
    assert all(isinstance(v, Views) and all(len(x) and len(set(x.ids)) == len(x.ids) for x in v.values()) for v in splits.values())
    assert len({tuple(v) for v in splits.values()}) == 1


# ---------------------------------------------------------------- sets that come as packages
@pytest.mark.parametrize('name,options', [('emoji', {}), ('emoji', dict(texts=('name', 'short', 'de', 'zh'), label='subgroup')),
    ('recipes', {}), ('recipes', dict(labelled=True)),
                                          ('recipes', dict(language='de')), ('recipes', dict(language='da')), ('gaussian', {}),
                                              ('classes', {})])
def test_no_group_crosses_splits(name, options):
    splits = load(name, **options)
    well_formed(splits)
    assert crossing(splits) == []
    assert all(r['splits'] in SPLITS for r in audit(name, **options))

def test_the_split_ignores_the_options():
    a, b = load('emoji'), load('emoji', texts=('ja', 'short'), label='subgroup', size=32)
    assert [v['image'].ids for v in a.values()] == [v['image'].ids for v in b.values()]

def test_counts_of_the_packages():
    assert sum(len(v['image']) for v in load('emoji').values()) == 1903
    assert [sum(len(v['all']) for v in load('recipes', language=l).values()) for l in ('en', 'de', 'da')] == [3129, 341, 156]
    y = torch.cat([v['all'].y for v in load('recipes').values()])
    assert len(class_names('recipes')) == 27 and y.min() == -1 and (y >= 0).sum() > 1700

def test_sample_nests_and_keeps_proportions():
    full, a, b = load('recipes'), load('recipes', sample=60), load('recipes', sample=600)
    for s in SPLITS:
        assert set(a[s]['title'].ids) <= set(b[s]['title'].ids) <= set(full[s]['title'].ids)
        assert abs(len(b[s]['title']) - 600*len(full[s]['title'])/3129) <= 1
    assert len(load('emoji', sample=10**6)['train']['image']) == len(load('emoji')['train']['image'])
    with pytest.raises(ValueError, match='sample is 0'): load('recipes', sample=0)

def test_views_of_a_recipe_are_aligned_and_all_is_in_order():
    v = load('recipes', sample=50)['train']
    for t, i, s, every in zip(*(v[k].x for k in ('title', 'ingredients', 'instructions', 'all'))): assert every == f'{t}\n{i}\n{s}'
    assert all(torch.equal(v['title'].item, v[k].item) for k in v)

def test_drawings_stay_lazy_and_are_named_by_content():
    x = load('emoji')['test']['image'].x
    assert len(x.take([0, 2])) == 2 and x[torch.tensor([2])][0].size == (224, 224) and x[0].mode == 'RGB'
    assert x.take([0]).digest != x.take([1]).digest and x.digest != load('emoji', size=64)['test']['image'].x.digest


# ---------------------------------------------------------------- names and folders
@pytest.mark.parametrize('call,error,says', [
    (lambda: load('emoij'), ValueError, "did you mean 'emoji'"),
    (lambda: load('recipes', langage='de'), ValueError, "did you mean 'language'"),
    (lambda: load('recipes', language='en-us'), ValueError, 'recipe language'),
    (lambda: load('recipes', language='de', labelled=True), ValueError, 'only English'),
    (lambda: load('emoji', texts=('nmae',)), ValueError, "did you mean 'name'"),
    (lambda: load('emoji', label='categry'), ValueError, "did you mean 'category'"),
    (lambda: load('arrays'), ValueError, 'needs root'),
    (lambda: load('captions', root='no/such/folder'), FileNotFoundError, 'no/such/folder')])
def test_wrong_names_get_the_right_ones(call, error, says):
    with pytest.raises(error, match=says): call()

@pytest.mark.parametrize('name', ['wikipedia', 'flickr8k', 'public_domain_recipes'])
def test_a_missing_folder_names_the_folders_searched(name, tmp_path, monkeypatch):
    (tmp_path/'settings.ini').write_text('[crossmodal]\ndata = one two\n'); monkeypatch.chdir(tmp_path); monkeypatch.setenv('CROSSMODAL_DATA', str(tmp_path/'mine'))
    with pytest.raises(FileNotFoundError) as e: load(name)
    assert all(str(tmp_path/d/name) in str(e.value) for d in ('mine', 'one', 'two')) and 'How to obtain it' in str(e.value)
    assert data_digest(name) is None and not {r['name']: r for r in catalogue()}[name]['ready']

def test_an_incomplete_folder_names_what_is_missing(tmp_path):
    (tmp_path/'raw_features.mat').write_bytes(b'')
    with pytest.raises(FileNotFoundError, match='holds no trainset_txt_img_cat.list, testset'): load('wikipedia', tmp_path)


# ---------------------------------------------------------------- captions
NAMES = [f'p{i}.jpg' for i in range(12)]

def flickr(root):
    photos(root/'Flicker8k_Dataset', NAMES)
    (root/'Flickr8k.token.txt').write_text(''.join(f'{n}#{k}\tcaption {k} of <i>{n}</i> , naïve .\n' for n in NAMES for k in range(5)), encoding='utf-8')
    for s, ns in (('train', NAMES[:6]), ('dev', NAMES[6:8]),
        ('test', NAMES[8:11])): (root/f'Flickr_8k.{s}Images.txt').write_text('\n'.join(ns))
    return root

def test_flickr8k_tokens_and_split_files(tmp_path):
    s = load('flickr8k', flickr(tmp_path))
    well_formed(s)
    assert [(len(v['image']), len(v['text'])) for v in s.values()] == [(6, 30), (2, 10), (3, 15)]     # p11 is in no split
    t = s['test']['text']
    assert t.ids[6] == 'p9.jpg#1' and t.x[6] == 'caption 1 of <i>p9.jpg</i> , naïve .'                # text stays as it stands
    ra, rb, w = s['test'].pairs('image', 'text')
    assert len(ra) == 15 and w.sum().item() == pytest.approx(3)
    assert data_digest('flickr8k', tmp_path) == data_digest('flickr8k', tmp_path)
    before = data_digest('flickr8k', tmp_path); photos(tmp_path/'Flicker8k_Dataset', ['extra.jpg']); assert data_digest('flickr8k',
        tmp_path) != before

def kaggle(root):
    photos(root/'Images', NAMES)
    with open(root/'captions.txt', 'w', newline='') as f: csv.writer(f).writerows([['image', 'caption']] + [[n,
        f'{n}, quoted "{k}"'] for n in NAMES for k in range(5)])

def flickr30k(root):
    photos(root/'flickr30k_images', NAMES)
    (root/'results.csv').write_text('image_name| comment_number| comment\n' + ''.join(f'{n}| {k}| {n}, quoted "{k}\n' for n in NAMES for k in range(5)))

def tsv(root):
    photos(root, NAMES)
    (root/'pairs.tsv').write_text('image\ttext\n' + ''.join(f'{n}\t{n}, quoted {k}\n' for n in NAMES for k in range(5)))

def jsonl(root):
    photos(root/'img', NAMES)
    (root/'pairs.jsonl').write_text('\n'.join(json.dumps(dict(img_path=f'img/{n}',
        sentences=[f'{n}, quoted {k}' for k in range(5)])) for n in NAMES))

def karpathy(root):
    photos(root/'images', NAMES)
    sp = ['train']*6 + ['restval']*2 + ['val']*2 + ['test']*2
    (root/'dataset_mine.json').write_text(json.dumps(dict(images=[dict(filename=n, split=s,
        sentences=[dict(raw=f'{n}, quoted {k}') for k in range(5)]) for n, s in zip(NAMES, sp)])))

def folder(root):
    photos(root, [f'{"train" if i < 8 else "test"}/{n}' for i, n in enumerate(NAMES)])
    for p in root.rglob('*.jpg'): p.with_suffix('.txt').write_text('\n'.join(f'{p.name}, quoted {k}' for k in range(5)))

@pytest.mark.parametrize('make', [kaggle, flickr30k, tsv, jsonl, karpathy, folder])
def test_layouts_of_pairs(make, tmp_path):
    make(tmp_path)
    s = load('captions', tmp_path)
    assert sum(len(v['image']) for v in s.values()) == 12 and sum(len(v['text']) for v in s.values()) == 60 and crossing(s) == []
    for v in s.values():
        ra, rb, w = v.pairs('image', 'text')
        assert len(ra) == 5*len(v['image'])
        assert all(v['text'].x[b].startswith(v['image'].ids[a].split('/')[-1]) for a, b in zip(ra.tolist(), rb.tolist()))
        assert all(im.size == (8, 8) for im in v['image'].x[torch.arange(len(v['image']))])
    if make is karpathy: assert [len(v['image']) for v in s.values()] == [8, 2, 2]
    if make is folder: assert len(s['test']['image']) == 4 and len(s['train']['image']) + len(s['valid']['image']) == 8
    if make is flickr30k: assert any('"4' in t for t in s['train']['text'].x)

def test_columns_split_group_label_and_several_texts(tmp_path):
    photos(tmp_path, NAMES)
    rows = [dict(image=n, title=f'dish {i//2}', ingredients=f'thing {i}', split='train' if i < 8 else 'val' if i < 10 else 'test',
        group=i//2, label='soup' if i % 4 < 2 else 'cake') for i, n in enumerate(NAMES)]
    (tmp_path/'mine.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    s = load('captions', tmp_path)
    well_formed(s)
    assert list(s['train']) == ['image', 'title', 'ingredients'] and [len(v['image']) for v in s.values()] == [8, 2, 2]
    assert s['train']['image'].item.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and class_names('captions', tmp_path) == ['cake', 'soup']
    assert s['test']['title'].y.tolist() == [1 if i % 4 < 2 else 0 for i in (10, 11)]

def damage(path, old, new, count=1): path.write_text(path.read_text().replace(old, new, count))

@pytest.mark.parametrize('hurt,says', [
    (lambda r: (r/'Images'/'p3.jpg').unlink(), r'captions without an image: p3\.jpg \(captions\.txt, line 17\)'),
    (lambda r: photos(r/'Images', ['stray.jpg']), r'images without captions: Images/stray\.jpg'),
    (lambda r: damage(r/'captions.txt', 'image,caption', 'photo,caption'),
        r"captions\.txt, line 2: no column 'image'; there is: photo, text"),
    (lambda r: damage(r/'captions.txt', 'image,caption', 'image'), r'line 2: 2 fields, but the head has 1'),
    (lambda r: damage(r/'captions.txt', '"p0.jpg, quoted ""0"""', ''), r'empty captions: captions\.txt, line 2'),
    (lambda r: (r/'captions.txt').write_text('image,caption\np0.jpg,"open'), r'quotation mark'),
    (lambda r: (r/'captions.txt').write_bytes(b'image,caption\np0.jpg,caf\xe9\n'), r'not UTF-8'),
    (lambda r: (r/'captions.txt').write_text(''), r'empty'),
    (lambda r: (r/'captions.txt').write_text('image,caption\n'), r'no captions in it'),
    (lambda r: ((r/'more.token.txt').write_text('p0.jpg caption without a tab\n'), (r/'captions.txt').unlink()),
        r'line 1: expected name\.jpg#0, a tab'),
    (lambda r: ((r/'x.jsonl').write_text('{"image": "p0.jpg",\n'), (r/'captions.txt').unlink()), r'x\.jsonl, line 1: not valid json'),
    (lambda r: ((r/'x.jsonl').write_text('{"image": "p0.jpg", "text": 5}\n'), (r/'captions.txt').unlink()),
        r'without captions|text is 5, not a text'),
    (lambda r: ((r/'dataset_x.json').write_text('{"images": [{"filename": "p0.jpg", "split": "train"}]}'),
        (r/'captions.txt').unlink()), r"image 0: no 'sentences'"),
    (lambda r: (r/'dataset_x.json').write_text('[1'), r'dataset_x\.json: not valid json'),
    (lambda r: damage(r/'captions.txt', 'image,caption\n', 'image,caption,split\n')
        or (r/'captions.txt').write_text((r/'captions.txt').read_text().replace('\r', '').replace('"\n', '",trian\n')),
            r"did you mean 'train'"),
])
def test_bad_captions_are_named(hurt, says, tmp_path):
    kaggle(tmp_path); (tmp_path/'captions.txt').write_text((tmp_path/'captions.txt').read_text())
    hurt(tmp_path)
    with pytest.raises(ValueError, match=says): load('captions', tmp_path)

def test_split_files_that_contradict(tmp_path):
    flickr(tmp_path)
    (tmp_path/'Flickr_8k.devImages.txt').write_text('p0.jpg\np6.jpg\n')
    with pytest.raises(ValueError, match='two split files: p0.jpg'): load('flickr8k', tmp_path)
    (tmp_path/'Flickr_8k.devImages.txt').write_text('p6.jpg\nnobody.jpg\n')
    with pytest.raises(ValueError, match='images without captions: nobody.jpg'): load('flickr8k', tmp_path)

def test_no_captions_at_all(tmp_path):
    photos(tmp_path, NAMES[:2])
    with pytest.raises(FileNotFoundError, match='no captions found'): load('captions', tmp_path)

def test_a_truncated_jpeg_is_named(tmp_path):
    flickr(tmp_path)
    bad = tmp_path/'Flicker8k_Dataset'/'p9.jpg'; bad.write_bytes(bad.read_bytes()[:-200])
    s = load('flickr8k', tmp_path)
    with pytest.raises(ValueError, match=r'p9\.jpg: not a readable image'): s['test']['image'].x[torch.arange(3)]

def test_audit_tells_what_crosses_an_official_split(tmp_path):
    flickr(tmp_path)
    d = tmp_path/'Flicker8k_Dataset'; (d/'p8.jpg').write_bytes((d/'p0.jpg').read_bytes())
    damage(tmp_path/'Flickr8k.token.txt', 'caption 2 of <i>p10.jpg</i> , naïve .', 'Caption 1 of <i>p7.jpg</i>, naïve!')
    rows = {(r['view'], r['kind']): r for r in audit('flickr8k', tmp_path, near=True)}
    assert rows['image', 'file']['splits'] == 'train+test' and sorted(rows['image', 'file']['example']) == ['p0.jpg', 'p8.jpg']
    assert rows['text', 'text, normalised']['splits'] == 'valid+test' and ('text', 'text, exact') not in rows
    assert rows['image', 'picture, difference hash']['groups'] == 1
    assert len(load('flickr8k', tmp_path)['test']['image']) == 3              # nothing was dropped

def test_own_split_keeps_equal_pictures_and_equal_texts_together(tmp_path):
    names = [f'{i}.jpg' for i in range(90)]
    photos(tmp_path, names)
    for i in range(0, 90, 9): (tmp_path/f'{i + 1}.jpg').write_bytes((tmp_path/f'{i}.jpg').read_bytes())
    (tmp_path/'t.csv').write_text('image,text\n' + ''.join(f'{n},{"The same," if i % 9 == 4 else "text"} {i//18 if i % 9 == 4 else i}\n'.replace('same,', 'same') for i, n in enumerate(names)))
    s = load('captions', tmp_path)
    assert crossing(s) == [] and sum(r['groups'] for r in audit('captions', tmp_path) if r['kind'] == 'file') == 10


# ---------------------------------------------------------------- arrays
def make_arrays(root, n=40, **more):
    g = np.random.default_rng(0); root.mkdir(exist_ok=True, parents=True)
    for k, p in dict(image=5, title=4, audio=3).items(): np.save(root/f'{k}.npy', g.standard_normal((n, p)).astype('float32'))
    np.save(root/'labels.npy', np.arange(n) % 3); (root/'ids.txt').write_text('\n'.join(f'{root.name}{i}' for i in range(n)))

def test_arrays_in_one_folder_with_and_without_split(tmp_path):
    make_arrays(tmp_path)
    s = load('arrays', tmp_path)
    well_formed(s); assert set(s['train']) == {'image', 'title', 'audio'} and sum(len(v['image']) for v in s.values()) == 40
    (tmp_path/'split.txt').write_text('\n'.join(['train']*25 + ['valid']*5 + ['test']*10))
    t = load('arrays', tmp_path)
    assert [len(v['audio']) for v in t.values()] == [25, 5,
        10] and t['test']['image'].ids[0] == f'{tmp_path.name}30' and t['test']['title'].y[0] == 0
    assert torch.equal(t['test']['image'].x, torch.as_tensor(np.load(tmp_path/'image.npy')[30:]))

def test_arrays_in_split_folders_and_multi_hot(tmp_path):
    for s in ('train', 'test'): make_arrays(tmp_path/s); np.save(tmp_path/s/'labels.npy', np.eye(4, dtype=bool)[np.arange(40) % 4])
    s = load('arrays', tmp_path)
    well_formed(s); assert len(s['test']['image']) == 40 and len(s['train']['image']) + len(s['valid']['image']) == 40 and s['test']['image'].y.shape == (40, 4)

def test_arrays_of_different_sizes_belong_together_by_label(tmp_path):
    make_arrays(tmp_path); (tmp_path/'ids.txt').unlink(); (tmp_path/'labels.npy').unlink()
    np.save(tmp_path/'audio.npy', np.random.default_rng(1).standard_normal((16, 3)))
    with pytest.raises(ValueError, match='neither ids nor labels'): load('arrays', tmp_path)
    for k, n in (('image', 40), ('title', 40), ('audio', 16)): np.save(tmp_path/f'{k}.labels.npy', np.arange(n) % 2)
    s = load('arrays', tmp_path)
    well_formed(s); assert s['train'].pairs('image', 'audio', by='label')[0].numel() and not s['train'].pairs('image', 'audio')[0].numel()

@pytest.mark.parametrize('hurt,says', [
    (lambda r: (r/'ids.txt').write_text('one\ntwo'), r'ids\.txt: 2 rows, but .*\.npy has 40'),
    (lambda r: (r/'ids.txt').write_text('\n'.join(['twin']*2 + [str(i) for i in range(38)])), r'the same id twice: twin'),
    (lambda r: np.save(r/'labels.npy', np.zeros(39, int)), r'labels\.npy: 39 rows'),
    (lambda r: np.save(r/'image.npy', np.where(np.arange(200).reshape(40, 5) == 33, np.nan, 1.)),
        r'image\.npy: NaN or Inf in 1 of 40 rows: .*6'),
    (lambda r: np.save(r/'image.npy', np.where(np.arange(200).reshape(40, 5) == 33, np.inf, 1.)), r'NaN or Inf'),
    (lambda r: np.save(r/'image.npy', np.array([{}]*40, dtype=object), allow_pickle=True), r'image\.npy: not a readable array'),
    (lambda r: np.save(r/'image.npy', np.array(['a']*40)), r'image\.npy: <U1 of shape'),
    (lambda r: (r/'image.npy').write_bytes((r/'image.npy').read_bytes()[:300]), r'image\.npy: not a readable array'),
    (lambda r: (r/'split.txt').write_text('\n'.join(['trian'] + ['test']*39)), r"did you mean 'train'"),
    (lambda r: (r/'split.txt').write_text('\n'.join(['train']*40)), r'train and test are needed'),
    (lambda r: ((r/'image.ids.txt').write_text('\n'.join(f'other{i}' for i in range(40))), (r/'labels.npy').unlink()),
        r'ids of .* do not match')])
def test_bad_arrays_are_named(hurt, says, tmp_path):
    make_arrays(tmp_path); hurt(tmp_path)
    with pytest.raises(ValueError, match=says): load('arrays', tmp_path)

def test_a_single_array_is_not_cross_modal(tmp_path):
    np.save(tmp_path/'image.npy', np.ones((3, 2)))
    with pytest.raises(FileNotFoundError, match='at least two'): load('arrays', tmp_path)

def test_the_digest_cache_sees_a_change(tmp_path):
    make_arrays(tmp_path); a = data_digest('arrays', tmp_path)
    x = np.load(tmp_path/'image.npy'); x[0, 0] += 1; np.save(tmp_path/'image.npy', x); os.utime(tmp_path/'image.npy', (1, 1))
    assert data_digest('arrays', tmp_path) != a


# ---------------------------------------------------------------- wikipedia and public-domain recipes, made and real
def wiki(root):
    import scipy.io
    g = np.random.default_rng(0)
    scipy.io.savemat(root/'raw_features.mat', dict(I_tr=g.random((60, 128)), T_tr=g.random((60, 10)), I_te=g.random((20, 128)),
        T_te=g.random((20, 10))))
    for s, n in (('train', 60), ('test', 20)): (root/f'{s}set_txt_img_cat.list').write_text(''.join(f'{s}t{i}\t{s}i{i}\t{i % 10 + 1}\n' for i in range(n)))
    (root/'categories.list').write_text('\n'.join('abcdefghij'))

def test_wikipedia_layout_and_its_faults(tmp_path):
    wiki(tmp_path)
    s = load('wikipedia', tmp_path)
    well_formed(s); assert len(s['test']['image']) == 20 and s['test']['text'].ids[3] == 'testt3' and s['test']['text'].y[3] == 3 and class_names('wikipedia', tmp_path)[3] == 'd'
    with pytest.raises(FileNotFoundError, match='raw_features_tfidf.mat'): load('wikipedia', tmp_path, text='both')
    damage(tmp_path/'testset_txt_img_cat.list', 'testt0\ttesti0\t1\n', '')
    with pytest.raises(ValueError, match='19 ids, but the image matrix has 20 rows'): load('wikipedia', tmp_path)
    damage(tmp_path/'testset_txt_img_cat.list', 'testt1\ttesti1', 'testt1 testi1')
    with pytest.raises(ValueError, match=r'testset_txt_img_cat\.list, line 1'): load('wikipedia', tmp_path)

def test_wikipedia_itself():
    here('wikipedia')
    s = load('wikipedia', text='both')
    well_formed(s)
    assert len(s['train']['image']) + len(s['valid']['image']) == 2173 and s['test']['text'].x.shape == (693, 1010)
    assert class_names('wikipedia')[:2] == ['art', 'biology'] and torch.bincount(s['test']['image'].y).tolist() == [34, 88, 96, 85,
        65, 58, 51, 41, 71, 104]
    assert {r['splits'] for r in audit('wikipedia')} >= {'train+test'}       # the official split tears equal pictures apart

def test_flickr8k_itself():
    here('flickr8k')
    s = load('flickr8k')
    assert [(len(v['image']), len(v['text'])) for v in s.values()] == [(6000, 30000), (1000, 5000), (1000, 5000)]
    assert s['train']['image'].x[0].size == (224, 224)

def test_public_domain_recipes_folds():
    here('public_domain_recipes')
    for repeat in (0, 1):
        folds = [load('public_domain_recipes', repeat=repeat, fold=f) for f in range(5)]
        for s in folds: well_formed(s); assert crossing(s) == []
        tests = [i for s in folds for i in s['test']['image'].ids]
        assert len(tests) == len(set(tests)) == 138 and {len(s['test']['image']) for s in folds} <= {27, 28}
    assert sum(len(v['all']) for v in load('public_domain_recipes', photos=False).values()) == 410
    with pytest.raises(ValueError, match='fold is 5'): load('public_domain_recipes', fold=5)

def test_public_domain_recipes_layout(tmp_path):
    (tmp_path/'content').mkdir(); photos(tmp_path/'images', [f'r{i}.jpg' for i in range(10)])
    for i in range(12): (tmp_path/'content'/f'r{i}.md').write_text(f'---\ntitle: "Dish {i}"\ntags: [t]\n---\n![x](/pix/r{i}.webp)\n## Ingredients\n- salt {i}\n## Directions\n1. Stir {i}\n')
    s = load('public_domain_recipes', tmp_path, label='tags')
    assert sum(len(v['image']) for v in s.values()) == 10 and s['train']['all'].y.shape[1] == 1 and class_names('public_domain_recipes', tmp_path, label='tags') == ['t']
    (tmp_path/'content'/'bad.md').write_text('no head')
    with pytest.raises(ValueError, match=r'bad\.md: the page has no head'): load('public_domain_recipes', tmp_path)
