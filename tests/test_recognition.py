"The blind trial: sheets that do not give the answer away, and choices that are checked"

import base64
import importlib.util
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from crossmodal_nb.core.files import digest

spec = importlib.util.spec_from_file_location('recognition', Path(__file__).parents[1] / 'tools' / 'recognition.py')
recognition = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recognition)


@pytest.fixture
def trial(tmp_path, monkeypatch):
    Image.new('RGB', (32, 32), 'red').save(file := io.BytesIO(), 'PNG')
    picture = base64.b64encode(file.getvalue()).decode()
    cases = [dict(options=list('vwxyz'), right=k % 5, picture=picture) for k in range(7)]
    record = dict(key='0123456789', tables=dict(trial={'flow': cases, 'real picture': cases}))
    monkeypatch.setattr(recognition, 'read', lambda path: record if path.name == 'good.json' else None)
    monkeypatch.setattr(recognition, 'settings', lambda: SimpleNamespace(root=tmp_path))
    (tmp_path / 'book' / 'measured').mkdir(parents=True)

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['recognition.py', *map(str, args)])
        recognition.main()
        return tmp_path

    run.cases = record['tables']['trial']
    return run


def test_sheets_and_choices(trial, tmp_path):
    trial('good.json', tmp_path / 'sheets')
    assert Image.open(tmp_path / 'sheets' / 'flow.png').size == (5 * 260, 2 * 278)
    empty = json.loads((tmp_path / 'sheets' / 'choices.json').read_text())
    assert empty == {'flow': '', 'real picture': ''}
    (tmp_path / 'sheets' / 'choices.json').write_text(json.dumps(empty | {'flow': 'abcdeab'}))
    trial('good.json', tmp_path / 'sheets', '--by', 'by somebody')
    said = json.loads((tmp_path / 'book' / 'measured' / 'recognition.json').read_text())
    assert said['choices'] == {'flow': [0, 1, 2, 3, 4, 0, 1]} and (said['trial'], said['by']) == (
        digest(trial.cases),
        'by somebody',
    )


@pytest.mark.parametrize('letters', ['abcdea', 'abcdeaf', 'abcdeabc'])
def test_choices_that_do_not_fit(trial, tmp_path, letters):
    trial('good.json', tmp_path)
    (tmp_path / 'choices.json').write_text(json.dumps(dict(flow=letters)))
    with pytest.raises(SystemExit, match="'flow' needs 7 letters of abcde"):
        trial('good.json', tmp_path, '--by', 'somebody')
    assert not (tmp_path / 'book' / 'measured' / 'recognition.json').exists()


def test_a_record_without_a_trial(trial, tmp_path):
    with pytest.raises(SystemExit, match='has no trial'):
        trial('other.json', tmp_path)
