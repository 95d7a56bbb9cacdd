"""The fit cache: what it gives back is what was trained, and what it must train anew. Classes are discovered, so that a
new method is held to this by existing.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from conftest import notebook
from test_contract import new, world

from crossmodal_nb.data.synthetic import make_gaussian_views
from crossmodal_nb.evaluation.selection import checker
from crossmodal_nb.evaluation.small_pools import SmallPoolEvaluation, ValidationCurve
from crossmodal_nb.methods.dual_encoder import CLIP, SigLIP
from crossmodal_nb.methods.linear import CCA
from crossmodal_nb.methods.rerank import Ensemble
from crossmodal_nb.methods.saving import methods
from crossmodal_nb.runs import fit_cache

package = Path(fit_cache.__file__).parent.parent
classes = methods()
trained_anew = {'hashing:CCAITQ': 'cca is no part', 'rerank:Rerank': 'second is no part'}  # and why


def fit(cache, method, *args, **kwargs):
    "What the cache notes of a fit"
    cache.call(type(method).fit, method, args, kwargs)
    return cache.fits[-1]


@pytest.mark.parametrize('name', classes)
def test_every_method_comes_back_to_the_last_bit(tmp_path, name):
    cache, cls = fit_cache.FitCache(tmp_path, {}), classes[name]
    train, test = world(cls=cls), world(90, seed=1, cls=cls)
    trained, restored = new(classes[name]), new(classes[name])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        first, second = (fit(cache, m, train) for m in (trained, restored))
    if name in trained_anew:
        assert trained_anew[name] in first['why'] and first['why'] == second['why']
    else:
        assert 'why' not in first and 'since' in second and first['seconds'] == second['seconds']
    assert restored.views == trained.views
    timed = name not in trained_anew  # else both were trained, and only seconds may differ
    histories = [
        [{k: v for k, v in r.items() if timed or k != 'seconds'} for r in m.history] for m in (trained, restored)
    ]
    assert histories[0] == histories[1]
    for a, b in (('image', 'text'), ('text', 'image')):
        assert torch.equal(*(m.score(a, test[a].x, b, test[b].x) for m in (trained, restored)))


# ---- what makes a fit another one, and what is not kept


def toy(seed=0):
    return make_gaussian_views(120, dims=dict(image=8, text=6), seed=seed)


def clip(**differs):
    return CLIP(dim=3, hidden=4, **differs | dict(trainer=dict(epochs=2) | differs.get('trainer', {})))


def never(m):
    return 0.5 * len(m.views)


def other(m):
    return 0.25 * len(m.views)


def test_whatever_a_fit_depends_on_makes_another_one(tmp_path):
    valid = toy(1)
    same = dict(fit='a')
    first = fit(fit_cache.FitCache(tmp_path, same), clip(), toy(), checker(valid))
    again = fit(fit_cache.FitCache(tmp_path, same), clip(), toy(), checker(valid))
    assert 'since' in again and 'since' not in first
    others = dict(
        code=(dict(fit='b'), clip(), toy(), checker(valid)),
        hyper=(same, clip(dropout=0.25), toy(), checker(valid)),
        seed=(same, clip(trainer=dict(seed=1)), toy(), checker(valid)),
        data=(same, clip(), toy(2), checker(valid)),
        order=(same, clip(), toy().select('text', 'image'), checker(valid)),
        valid=(same, clip(), toy(), checker(toy(2))),
        metric=(same, clip(), toy(), checker(valid, 'MRR')),
        function=(same, clip(), toy(), never),
        another=(same, clip(), toy(), other),
        without=(same, clip(), toy()),
        method=(same, SigLIP(dim=3, hidden=4, trainer=dict(epochs=2)), toy(), checker(valid)),
    )
    for name, (common, method, *given) in others.items():
        noted = fit(fit_cache.FitCache(tmp_path, common), method, *given)
        assert 'since' not in noted and 'why' not in noted, name


def test_a_fit_within_a_fit_is_part_of_it(tmp_path):
    cache = fit_cache.FitCache(tmp_path, {})
    fit(cache, Ensemble([CCA(2), CCA(3)]), toy())
    assert [f['method'] for f in cache.fits] == ['Ensemble']


def test_what_validation_noted_comes_back(tmp_path):
    curves = [ValidationCurve(valid=SmallPoolEvaluation(toy(1), 10)) for _ in range(2)]
    first, second = (fit(fit_cache.FitCache(tmp_path, {}), clip(), toy(), c) for c in curves)
    assert 'why' not in first and 'since' in second
    assert curves[0].rows == curves[1].rows and len(curves[1].rows) == 2
    assert all(torch.equal(v, curves[1].last['valid'][k]) for k, v in curves[0].last['valid'].items())


noted = []


def noting(m):
    noted.append(1)
    return 0.0


def drawing(m):
    return random.random()


class Own(CCA):
    pass


@pytest.mark.parametrize(
    'method, validate, why',
    [(clip, noting, 'validate'), (clip, drawing, 'random'), (Own, None, 'class Own')],
)
def test_what_cannot_be_kept_trains_and_says_why(tmp_path, method, validate, why):
    for _ in range(2):
        entry = fit(fit_cache.FitCache(tmp_path, {}), m := method(), toy(), validate)
        assert why in entry['why'] and m.views and 'since' not in entry
    assert not list(tmp_path.rglob('*.json'))


def test_the_random_numbers_go_on_as_after_training(tmp_path):
    def following(learn):
        torch.manual_seed(3)
        learn()
        return torch.rand(3)

    plain = following(lambda: clip().fit(toy()))
    for _ in range(2):
        assert torch.equal(plain, following(lambda: fit(fit_cache.FitCache(tmp_path, {}), clip(), toy())))


@pytest.mark.parametrize('damage', ['cut', 'edited', 'absent', 'foreign'])
def test_a_damaged_fit_is_named_and_trained_anew(tmp_path, damage):
    trained = clip()
    fit(fit_cache.FitCache(tmp_path, {}), trained, toy())
    (file,), (numbers,) = tmp_path.rglob('fit.json'), tmp_path.rglob('*.safetensors')
    if damage == 'cut':
        numbers.write_bytes(numbers.read_bytes()[:-8])
    if damage == 'absent':
        numbers.unlink()
    if damage == 'edited':
        saved = json.loads(file.read_text())
        saved['history'][0]['loss'] += 1
        file.write_text(json.dumps(saved))
    if damage == 'foreign':
        file.write_text('[1, 2]')
    again = clip()
    with pytest.warns(UserWarning, match=str(file)):
        assert 'since' not in fit(fit_cache.FitCache(tmp_path, {}), again, toy())
    x = toy(1)['image'].x
    assert torch.equal(trained.encode('image', x), again.encode('image', x))
    assert 'since' in fit(fit_cache.FitCache(tmp_path, {}), clip(), toy())


def test_the_fits_that_are_unused_for_longest_leave_first(tmp_path, monkeypatch):
    def folders():
        return {f.parent.name for f in tmp_path.rglob('fit.json')}

    fit(fit_cache.FitCache(tmp_path, {}), clip(), toy())
    (first,) = folders()
    size = sum(f.stat().st_size for f in (tmp_path / first).iterdir())
    fit(fit_cache.FitCache(tmp_path, {}), clip(), toy(1))
    (second,) = folders() - {first}
    for age, name in ((200, first), (100, second)):
        os.utime(tmp_path / name / 'fit.json', (time.time() - age,) * 2)
    assert 'since' in fit(fit_cache.FitCache(tmp_path, {}), clip(), toy())  # the first is in use again
    monkeypatch.setattr(fit_cache, 'limit', 2.5 * size)
    fit(fit_cache.FitCache(tmp_path, {}), clip(), toy(2))
    assert first in folders() and second not in folders() and len(folders()) == 2


def test_cost_is_that_of_the_training(tmp_path, monkeypatch):
    cost = dict(seconds=10.0, cpu_seconds=20.0, peak_mb=1.0)
    assert fit_cache.with_training(cost) == cost
    trained = fit(fit_cache.FitCache(tmp_path, {}), clip(), toy())
    cache = fit_cache.FitCache(tmp_path, {})
    monkeypatch.setattr(fit_cache, 'cache', cache)
    fit(cache, clip(), toy())
    total = fit_cache.with_training(cost)
    assert total['seconds'] == 10.0 + total['saved_seconds'] and total['peak_mb'] >= trained['peak_mb']
    assert total['fits'][0]['seconds'] == trained['seconds'] and 'since' in total['fits'][0]


# ---- a run whose evaluation changes, and one whose loss changes

experiment = """
from crossmodal_nb.datasets import load
from crossmodal_nb.evaluation.retrieval import evaluate_rows
from crossmodal_nb.evaluation.selection import checker, marks
from crossmodal_nb.methods.dual_encoder import CLIP
from crossmodal_nb.nn import trainer
from crossmodal_nb.runs.record import Run, check_parameters
check_parameters('10_toy', globals())
epochs, watch = [], trainer.watch
def counted(*given):
    epochs.append(1)
    return watch(*given)
trainer.watch = counted
data = load(dataset, **options)
method = CLIP(dim=4, hidden=8, trainer=dict(epochs=3)).fit(data['train'], checker(data['valid']))
rows = evaluate_rows(method, data['valid'], split='valid', boot=50, permutations=20)
exact = [[r['query'], r['metric'], r['pool'], r['value'].hex(), r['null'].hex(), str(r['low'])] for r in rows]
Run('10_toy', globals(), rows, dict(epochs=len(epochs), exact=exact, marks=marks(method)), method.history).save(out)
"""


def test_a_new_interval_needs_no_training_and_a_new_loss_does(house):
    notebook(house, experiment)
    shutil.copytree(package, house / package.name, ignore=shutil.ignore_patterns('__pycache__'))

    def run(*options):
        done = subprocess.run(
            [sys.executable, '-c', 'from crossmodal_nb.cli import app; app()', 'run', *options],
            cwd=house,
            capture_output=True,
            text=True,
            env=os.environ | dict(PYTHONPATH=str(house)),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        newest = max((house / 'work' / 'records' / 'toy').glob('*.json'), key=lambda f: f.stat().st_mtime_ns)
        return json.loads(newest.read_text())

    def change(file, old, new):
        text = (house / package.name / file).read_text()
        assert old in text
        (house / package.name / file).write_text(text.replace(old, new, 1))

    def moved(a, b):
        return {k for k in a['digests'] if a['digests'][k] != b['digests'][k]}

    trained = run()
    assert trained['tables']['epochs'] == 3 and 'since' not in trained['fits'][0]

    change('metrics/uncertainty.py', 'level: float = 0.95', 'level: float = 0.5')
    scored = run('--stale')
    assert moved(trained, scored) == {'measure'} and scored['tables']['epochs'] == 0
    assert scored['fits'][0]['since'] and scored['history'] == trained['history']
    assert scored['tables']['marks'] == trained['tables']['marks']
    assert scored['fits'][0]['seconds'] == trained['fits'][0]['seconds']
    values, lows = ([[row[part] for row in r['tables']['exact']] for r in (trained, scored)] for part in (slice(5), 5))
    assert values[0] == values[1] and lows[0] != lows[1]  # unrounded

    change('losses/contrastive.py', 'for dim in dims) / len(dims)', 'for dim in dims[:1])')
    other = run('--stale')
    assert 'fit' in moved(scored, other) and other['tables']['epochs'] == 3 and 'since' not in other['fits'][0]
    assert other['tables']['exact'] != scored['tables']['exact']
