"""The script for a GPU, walked through on the CPU at toy sizes: every part but papermill, which other tests run."""

import gpu
import pytest
import torch


@pytest.mark.parametrize('part', [p for p in gpu.parts if p != 'papermill'])
@pytest.mark.filterwarnings('ignore:.*training correlations say nothing')
def test_every_part_runs_and_the_cpu_equals_itself(part):
    r = gpu.Report('cpu')
    gpu.parts[part](r, gpu.toy)
    assert r.rows and all(row.get('holds', True) for row in r.rows)
    assert all(row['value'] > 0 for row in r.rows if row['unit'] == 'a second')


def test_a_difference_beyond_its_tolerance_is_told(capsys):
    r = gpu.Report('cpu')
    r.same('codes', torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]), 0.1)
    assert r.rows[0]['value'] == pytest.approx(0.2) and not r.rows[0]['holds']
    assert 'FAILS' in capsys.readouterr().out
