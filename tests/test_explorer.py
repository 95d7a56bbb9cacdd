"""The explorer in a real browser: its numbers are Python's, bit by bit; hostile words are words; a list of shards is
what there is.
"""

import base64
import html
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.core.settings import settings
from crossmodal_nb.data.synthetic import make_class_views
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.explorer import code_between, drawn, eight_bit_decoder, eight_bits, neighbours, shard
from crossmodal_nb.methods.linear import CCA
from crossmodal_nb.methods.pictures import PCADecoder
from crossmodal_nb.methods.similarity import unit
from crossmodal_nb.methods.translation import CodePairs
from crossmodal_nb.search import Index

root, browser = (
    settings(Path(__file__).parent).root,
    shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome'),
)
hostile = [
    '<script>document.title="broken"</script>',
    '"><img src=x onerror="document.title=1">',
    'مرحبا',
    "it's </script> \u2028 & 🍎",
    '<b>bold</b>',
]
needs_browser = pytest.mark.skipif(not browser, reason='no Chromium on this machine')


def dom(folder, terms, address='a-b-world.js', more=''):
    done = subprocess.run(
        [
            browser,
            '--headless=new',
            '--no-sandbox',
            '--disable-gpu',
            '--virtual-time-budget=3000',
            '--dump-dom',
            f'file://{folder}/index.html#shard={address}&terms={terms}{more}',
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout


@needs_browser
@pytest.mark.parametrize(
    'terms', [[(1, 0, 3)], [(1, 1, 0)], [(1, 0, 3), (-1, 1, 5), (1, 2, 7)], [(1, 2, 1), (1, 2, 2)]]
)
def test_the_browser_computes_what_python_computes(page, terms):
    folder, views = page
    shown = dom(folder, ','.join(f'{"%2B" if s > 0 else "-"}{views[v]["name"]}:{i}' for s, v, i in terms))
    results = [re.findall(r'data-row="(\d+)" data-score="([^"]+)"', part) for part in shown.split('<section>')[1:]]
    for b in range(3):
        assert [(int(i), float(s)) for i, s in results[b]] == neighbours(views, terms, b), views[b][
            'name'
        ]  # equal floats, not near ones


@needs_browser
def test_hostile_words_are_words(page):
    folder, views = page

    class Seen(HTMLParser):
        def __init__(self):
            super().__init__()
            self.tags, self.words = [], []

        def handle_starttag(self, tag, attrs):
            self.tags.append((tag, {k for k, _ in attrs}))

        def handle_data(self, data):
            self.words.append(data)

    visited = Seen()
    visited.feed(
        dom(
            folder,
            ','.join(f'%2Btext:{next(i for i, s in enumerate(views[1]["shown"]) if s.startswith(h))}' for h in hostile),
        )
    )
    assert [t for t, _ in visited.tags].count('script') == 4 and not [
        t for t, attrs in visited.tags if 'onerror' in attrs or t == 'img'
    ]  # the page's two, one of them again, and the shard
    assert all(any(w.startswith(h) for w in visited.words) for h in hostile) and 'whole' in visited.words


@needs_browser
def test_the_true_partner_is_marked_and_a_screen_reader_is_told(page):
    folder, views = page
    shown = dom(folder, '%2Bimage:0')
    assert shown.count('<canvas') == 1
    assert 0 < shown.count(' ✓') <= 2 and 'aria-live="polite"' in shown
    assert re.search(r'class="cm-x-said"[^>]*>image .+\. Nearest: image .+; text .+; audio ', shown)


@needs_browser
def test_it_opens_with_an_example_and_a_far_match_has_its_rank(page):
    folder, views = page

    def rank(b, row, a):
        "Of the first match of a row of view b, in view a"
        found = [i for i, _ in neighbours(views, [(1, b, row)], a, len(views[a]['ids']))]
        return 1 + next(k for k, i in enumerate(found) if views[a]['item'][i] == views[b]['item'][row])

    last = len(views) - 1
    example = next(row for row in range(len(views[last]['ids'])) if rank(last, row, 0) == 1)
    said = [re.search(r'class="cm-x-said"[^>]*>([^<]*)', dom(folder, t))[1] for t in ('', f'%2Baudio:{example}')]
    assert said[0] == said[1] and said[0].startswith('audio ')
    row, far = next((row, r) for row in range(len(views[0]['ids'])) if (r := rank(0, row, 1)) > 8)
    assert f'✓ rank {far} of {len(views[1]["ids"])}' in dom(folder, f'%2Bimage:{row}')


@needs_browser
def test_what_cannot_be_loaded_is_said(page):
    folder, _ = page
    kept = (folder / 'shards' / 'list.js').read_bytes()
    (folder / 'shards' / 'list.js').write_text('crossmodal.list([{"address":"gone.js","name":"gone"}]);')
    assert 'gone.js could not be loaded' in dom(folder, '', 'gone.js')
    (folder / 'shards' / 'list.js').write_bytes(kept)


def test_the_python_side_agrees_with_plain_numpy(page):
    _, views = page

    def unit(v):
        return views[v]['codes'] / np.linalg.norm(views[v]['codes'].astype(float), axis=1, keepdims=True)

    s = unit(1) @ unit(0)[3]
    results = neighbours(views, [(1, 0, 3)], 1, 5)
    rows, scores = zip(*results)
    assert np.allclose(scores, np.sort(s)[::-1][:5], atol=1e-12) and np.allclose(scores, s[list(rows)], atol=1e-12)
    q = unit(0)[3] - unit(0).mean(0) - (unit(1)[5] - unit(1).mean(0))
    s = unit(2) @ q / np.linalg.norm(q)
    top = neighbours(views, [(1, 0, 3), (-1, 1, 5)], 2, 6)
    assert np.allclose([v for _, v in top], np.sort(s)[::-1][:6], atol=1e-12)


def test_a_shard_is_small_or_refused(page):
    world = make_class_views(40, dict(image=12, text=10), dict(image=2.0, text=2.0))
    world = Views({k: View(v.x) for k, v in world.items()})
    index = Index(CCA(4, 1.0).fit(world), world, name='small')
    text, output = shard(index, max_rows=20)
    assert output['rows'] == 20 and output['bytes'] == len(text.encode()) < 5000
    with pytest.raises(InputError, match='a shard may have'):
        shard(index, limit=500)
    with pytest.raises(InputError, match='cosine'):
        shard(Index(CCA(4, 1.0, similarity='dot').fit(world), world))


def test_a_row_of_zeros_stays_zero():
    assert eight_bits(torch.zeros(2, 3)).tolist() == [[0] * 3] * 2 and eight_bits([[1.0, -2.0]]).tolist() == [
        [64, -127]
    ]


# ---------------------------------------------------------------- what lies between points


def decoder_of(folder):
    "The decoder of the shard, as Python has it"
    text = (folder / 'shards' / 'a-b-world.js').read_text()
    data = json.loads(text[len('crossmodal.shard(') : -3])
    d, n = data['decoder'], data['d']
    maps, rows = (np.frombuffer(base64.b64decode(d[k]), np.int8) for k in ('map', 'rows'))
    return dict(map=maps.reshape(-1, n), rows=rows.reshape(len(d['scales']), -1), scales=np.array(d['scales']))


def small_decoder(size=4, dim=5):
    g = torch.Generator().manual_seed(1)
    codes = unit(torch.randn(60, dim, generator=g))
    pictures = (codes @ torch.randn(dim, 3 * size**2, generator=g)).tanh()
    pairs = CodePairs(codes, pictures, torch.ones(60).double(), torch.arange(60))
    return PCADecoder(dim, 0.01).fit(pairs), codes


def test_eight_bits_draw_nearly_the_same():
    whole, codes = small_decoder()
    few = eight_bit_decoder(whole)
    assert few['rank'] == 5 and few['rows'].dtype == few['map'].dtype == np.int8
    by_hand = [
        few['scales'][0] * few['rows'][0].astype(float)
        + sum(few['scales'][r + 1] * float(few['map'][r] @ z) * few['rows'][r + 1].astype(float) for r in range(5))
        for z in codes.double().numpy()
    ]
    by_few = np.stack([drawn(few, z) for z in codes])
    assert np.allclose(by_few, by_hand, atol=1e-6)
    assert 0 < abs(by_few - whole.predict(codes).numpy()).max() < 0.05


def test_a_decoder_is_as_large_as_it_may_be():
    whole, codes = small_decoder()
    few = eight_bit_decoder(whole, limit=(3 * 48 + 2 * 5) * 4 // 3 + 1)
    assert few['rank'] == 2 and few['rows'].shape == (3, 48) and few['map'].shape == (2, 5)
    with pytest.raises(InputError, match='do not fit'):
        eight_bit_decoder(whole, limit=100)


def test_a_place_of_the_map_is_a_weighted_mean():
    rng = np.random.default_rng(0)
    views = [
        dict(codes=rng.integers(-127, 128, (30, 4)).astype(np.int8), x=list(xy[0]), y=list(xy[1]))
        for xy in rng.integers(0, 1000, (2, 2, 30)).tolist()
    ]
    x, y = 400, 500
    rows = [(v['x'][i], v['y'][i], v['codes'][i].astype(float)) for v in views for i in range(30)]
    rows = sorted(rows, key=lambda r: np.hypot(r[0] - x, r[1] - y))[:8]
    total = sum(c / np.linalg.norm(c) / max(1, (a - x) ** 2 + (b - y) ** 2) for a, b, c in rows)
    code, near = code_between(views, x, y)
    assert np.allclose(code, total / np.linalg.norm(total)) and len(near) == 8
    a, i = near[0]
    there, (first, *_) = code_between(views, views[a]['x'][i], views[a]['y'][i])
    own = views[a]['codes'][i] / np.linalg.norm(views[a]['codes'][i].astype(float))
    assert first == (a, i) and there @ own > 0.99  # at a point it is all but its own code


@needs_browser
@pytest.mark.parametrize('x, y', [(500, 500), (120, 840)])
def test_the_browser_draws_what_python_draws(page, x, y):
    folder, views = page
    shown = dom(folder, '', more=f'&spot={x},{y}')
    address = re.search(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"', shown)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(address[1]))).convert('RGB')).astype(float)
    code, near = code_between(views, x, y)
    want = (drawn(decoder_of(folder), code).clip(-1, 1).reshape(3, 8, 8).transpose(1, 2, 0) + 1) * 127.5
    assert abs(picture - want).max() <= 0.5 + 1e-4  # whole numbers
    a, i = near[0]
    assert html.unescape(address[2]).startswith(f'Drawn between {views[a]["name"]} ')


def test_a_shard_says_what_its_decoder_costs(page):
    world = make_class_views(40, dict(image=12, text=10), dict(image=2.0, text=2.0))
    world = Views({k: View(v.x) for k, v in world.items()})
    index = Index(CCA(5, 1.0).fit(world), world, name='drawing')
    assert 'decoder' not in shard(index)[0]
    from crossmodal_nb.methods.decoders import SpaceDecoders

    index.decoders = SpaceDecoders('image', 'text', size=4, linear=small_decoder()[0])
    plain, (text, summary) = shard(index)[0], shard(index)
    data = json.loads(text[len('crossmodal.shard(') : -3])
    assert summary['rank'] == 5 and summary['decoder_bytes'] == sum(len(data['decoder'][k]) for k in ('map', 'rows'))
    assert 0 < summary['decoder_error'] < 0.02 and plain == text


@pytest.mark.parametrize('f', sorted((root / 'book' / 'explorer').glob('*.js')), ids=lambda f: f.stem)
def test_a_committed_shard_keeps_its_neighbours_and_holds_what_may_be_shown(f):
    text = f.read_text()
    data = json.loads(text[len('crossmodal.shard(') : -3])
    assert (
        len(text.encode()) <= 1_000_000
        and sum(len(v['ids']) for v in data['views']) <= 1000
        and data['address'] == f.name
    )
    assert int(re.search(r'share (\d+) % of the ten nearest', data['about'])[1]) >= 95
    assert (
        data['name'].split(',')[0] in ('emoji', 'recipes', 'furniture')
        and 'CC' in data['about']
        and not re.search(r'"/|\w:\\\\', text)
    )
