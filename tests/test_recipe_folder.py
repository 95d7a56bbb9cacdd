"Whoever holds Recipe1M names a folder: every recipe system runs from files of that form, from raw json to record."

import json

import lookalike
import papermill
import pytest
from conftest import forking

from crossmodal_nb.core.settings import settings

small = dict(epochs=2, batch=32, lr=1e-3)
systems = {
    '81_transformer': dict(
        options=dict(images='none', select='all'),
        trainer=small,
        ladder={},
        masked=False,
        dims=[5],
        ridges=[1.0],
        weights=[0.5],
    ),
    '82_transfer': dict(
        options=dict(images='first', select='all'),
        texts=['title', 'ingredients', 'instructions'],
        photos=0,
        alone=small,
        trainer=small,
        dims=[5],
        ridges=[1.0],
    ),
    '83_acme': dict(
        options=dict(components=['title', 'all', 'detected'], select='with_image'),
        sample=0,
        views=['image', 'all'],
        basket='detected',
        source='detected',
        min_items=3,
        trainer=small,
        ladder={'triplet': {}, 'all': dict(w_align=0.001, w_translate=0.1, w_ingredients=0.1)},
        judge=['triplet', 'all'],
    ),
    '84_languages': dict(
        options=dict(components=['title'], languages=['de'], select='with_image'),
        sample=0,
        languages=['en', 'de'],
        ladder=[['en'], []],
        losses={'batch-hard': {}},
        held=[['de']],
        wrong='de',
        english=False,
        show=['en', 'de'],
        trainer=small,
    ),
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "160 made-up recipes with photos, half of them with a title in a second language"
    root = lookalike.make(tmp_path_factory.mktemp('data') / 'recipe1m', 160, pictures=32)
    raw = json.loads((root / 'layer1.json').read_text())
    (root / 'layer1.de.json').write_text(json.dumps([r | dict(title=f'{r["title"]} auf Deutsch') for r in raw]))
    return root


@pytest.mark.parametrize('notebook', systems)
def test_a_system_runs_from_a_recipe1m_folder(folder, notebook, tmp_path, monkeypatch):
    monkeypatch.setenv('CROSSMODAL_DATA', str(folder.parent))
    out = tmp_path / 'out.json'
    papermill.execute_notebook(
        settings().nbs_path / 'experiments' / f'{notebook}.ipynb',
        tmp_path / 'page.ipynb',
        dict(dataset='recipe1m', out=str(out)) | systems[notebook],
        progress_bar=False,
        **forking,
    )
    record = json.loads(out.read_text())
    assert record['status'] == 'ok' and record['digests']['data'] and record['params']['dataset'] == 'recipe1m'
    scores = [r for r in record['rows'] if r['metric'] == 'R@10' and r['pool'] == 'all']
    assert scores and all(
        0 <= r['value'] <= 1 and r['chance'] > 0 and r['split'] == 'valid' for r in scores
    )  # the test split is asked only where an entry is final
