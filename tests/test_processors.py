"The script that runs the suite on another processor: its parts, and that its settings reach the libraries."

import argparse
import os
import re

import processors
import pytest


@pytest.mark.parametrize('paths', processors.files(), ids=['lessons', 'tests'])
def test_all_parts_are_the_whole(paths):
    parts = [processors.chosen(paths, (k, 8), ('test_book',)) for k in range(1, 9)]
    assert sorted(sum(parts, [])) == sorted(p for p in paths if p.stem != 'test_book')
    assert all(len(p) < len(paths) / 4 for p in parts)
    fewer = processors.chosen(paths[::2], (1, 8), ())
    assert set(fewer) == set(processors.chosen(paths, (1, 8), ())) & set(paths[::2])  # a new file moves no other


def test_names_that_are_left_out_exist():
    names = {processors.name(p) for paths in processors.files() for p in paths}
    for pattern in processors.elsewhere + processors.waiting:
        assert any(re.fullmatch(pattern, n) for n in names), pattern


def test_what_is_no_part_is_refused():
    assert processors.part('3/8') == (3, 8)
    for text in ('0/4', '5/4', '1/-3', 'one'):
        with pytest.raises(argparse.ArgumentTypeError, match='no part, like 1/8'):
            processors.part(text)


def test_a_setting_reaches_the_libraries():
    clean = {k: v for k, v in os.environ.items() if k not in processors.variables}  # also within a run of that script
    output = ['\n'.join(processors.used(clean | processors.settings[k])) for k in ('sse', 'own1')]
    assert (
        'PyTorch DEFAULT' in output[0]
        and 'PyTorch' in output[1]
        and '1 threads' in output[1]
        and output[0] != output[1]
    )
