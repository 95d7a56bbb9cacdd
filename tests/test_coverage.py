"""Coverage in worlds whose truth is known: a small, seeded form of `bench_coverage.py`. How many of the worlds
an interval may miss is read off the binomial distribution; what is known to be too narrow must be seen to be so.
"""

import functools

import bench_coverage as bench
import pytest
import torch
from scipy.stats import binom

sure = 1 - 1e-3  # of the worlds' number, where the share is as promised


@functools.cache
def measured(kind, worlds, **settings):
    "{(quantity, way): in how many worlds}"
    torch.set_num_threads(1)
    rows = bench.summary(kind, settings, list(bench.worlds_of(kind, settings, worlds)))
    return {(r['quantity'], r['way']): round(r['share'] * worlds) for r in rows}


def by_class():
    return measured('by_class', 150, n=300, classes=10, signal=0.6)


def covers(found, worlds):
    low, high = binom.interval(sure, worlds, 0.95)
    return low <= found <= high


@pytest.fixture(autouse=True)
def threads():
    old = torch.get_num_threads()
    yield
    torch.set_num_threads(old)


@pytest.mark.parametrize('score', ['mAP, one direction', 'mAP, mean of both'])
def test_items_on_both_sides_cover_what_is_expected_of_other_items(score):
    assert covers(by_class()[score, 'items on both sides'], 150)


@pytest.mark.parametrize('score', ['mAP, one direction', 'mAP, mean of both'])
def test_queries_alone_do_not(score):
    assert by_class()[score, 'queries only'] < binom.interval(sure, 150, 0.95)[0]


@pytest.mark.parametrize('which', ['one direction', 'means'])
def test_equal_methods_are_called_different_no_more_often_than_promised(which):
    limit = binom.ppf(sure, 150, 0.05)
    found = by_class()
    assert found[f'equal methods called different, {which}', 'items on both sides'] <= limit
    assert found[f'equal methods called different, {which}', 'queries only'] > limit


def test_a_family_of_equal_methods_is_left_in_peace():
    found = measured('families', 100, n=150, classes=10, signal=0.6, pairs=True)
    limit = binom.ppf(sure, 100, 0.05)
    assert found['a family with a false verdict', 'items on both sides'] <= limit
    assert found['a family with a false verdict, uncorrected', 'queries only'] > limit


def test_noise_that_answers_stays_below_its_null():
    found = measured('null', 100, n=150, classes=10, signal=3.0, noise='answers')
    limit = binom.ppf(sure, 100, 0.05)
    assert (
        found['noise above the null', 'both sides permuted']
        <= limit
        < found['noise above the null', 'queries permuted']
    )


def test_runs_are_a_sample_too():
    found = measured('runs', 100, n=300, classes=10, signal=0.6)
    assert found['no claim is made, one run', 'items and runs'] == 100
    assert found['no claim is made, three runs', 'items and runs'] == 0
    for name in ('three runs', 'five runs'):
        assert found[f'mAP, {name}', 'items and runs'] >= binom.interval(sure, 100, 0.95)[0]
    limit = binom.ppf(sure, 100, 0.05)
    assert found['equal methods called different, five runs', 'items and runs'] <= limit
    assert found['equal methods called different, five runs', 'runs averaged away'] > limit


def test_near_duplicates_are_one_sample_if_it_is_said():
    found = measured('near_duplicates', 100, n=300, classes=10, signal=0.6, copies=3)
    low = binom.interval(sure, 100, 0.95)[0]
    assert found['mAP, one direction', 'clusters given'] >= low > found['mAP, one direction', 'clusters not given']
