"""The explorer in a real browser: its numbers are Python's, bit by bit; hostile words are words; a list of shards is
what there is.
"""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.core.settings import settings
from crossmodal_nb.data.synthetic import make_class_views
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.explorer import eight_bits, neighbours, shard
from crossmodal_nb.methods.linear import CCA
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


def dom(folder, terms, address='a-b-world.js'):
    done = subprocess.run(
        [
            browser,
            '--headless=new',
            '--no-sandbox',
            '--disable-gpu',
            '--virtual-time-budget=3000',
            '--dump-dom',
            f'file://{folder}/index.html#shard={address}&terms={terms}',
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
