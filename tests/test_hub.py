"""Data sets of the Hugging Face hub, with its library and a hub that is played: what is fetched, pinned and refused."""

import sys
from types import SimpleNamespace
from unittest import mock

import pytest
from test_own_data import N, leftovers, png, words

from crossmodal_nb.core.checks import InputError, MissingError
from crossmodal_nb.data import hub
from crossmodal_nb.datasets import class_names, data_digest, load, own

datasets = pytest.importorskip('datasets')
commit = '0123456789abcdef0123456789abcdef01234567'
parts = dict(train=range(14), validation=range(14, 18), test=range(18, N))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    "A work folder of its own, and the reader in this process, where the library can be replaced"
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'settings.ini').write_text('[crossmodal]\n')
    monkeypatch.setattr(hub, 'isolated', lambda f, path, *args: f(path, *args))


@pytest.fixture
def serve(monkeypatch):
    "The hub has this data set from now on, or answers with this error; returns what the library was asked for"

    def start(content, known=None):
        asked = []

        def load_dataset(*names, **options):
            asked.append((names, options))
            if isinstance(content, Exception):
                raise content
            return content

        def dataset_info(self, name, revision=None, **options):
            if known:
                raise known
            return SimpleNamespace(sha=commit)

        monkeypatch.setattr(datasets, 'load_dataset', load_dataset)
        monkeypatch.setattr('huggingface_hub.HfApi.dataset_info', dataset_info)
        return asked

    return start


def pictures(ids):
    kinds = dict(image=datasets.Image(), text=datasets.Value('string'), label=datasets.ClassLabel(names=['dog', 'cat']))
    rows = dict(image=[dict(bytes=png(i), path=None) for i in ids], text=[words(i) for i in ids])
    return datasets.Dataset.from_dict(rows | dict(label=[i % 2 for i in ids]), datasets.Features(kinds))


def entry():
    return own.own().get('cats')


@pytest.mark.parametrize('streamed', [False, True])
def test_a_data_set_is_fetched_once_and_pinned(streamed, serve):
    whole = {s: pictures(ids) for s, ids in parts.items()}
    whole = (
        datasets.IterableDatasetDict({s: p.to_iterable_dataset() for s, p in whole.items()})
        if streamed
        else datasets.DatasetDict(whole)
    )
    asked = serve(whole)
    report = own.add('cats', 'hub:ann/cats')
    assert asked == [(('ann/cats', None), dict(revision=commit, streaming=True))]
    assert entry()['source'] == report.source == f'hub:ann/cats@{commit}' and f'cats@{commit}' in str(report)
    assert report.splits == dict(train=14, valid=4, test=N - 18) and report.split_source == 'column split'
    serve(RuntimeError('no more'), ConnectionError('no network'))
    splits = load('cats')
    assert splits['train']['image'].x[0].size == (8, 8) and class_names('cats') == ['cat', 'dog']
    digest = data_digest('cats')
    assert digest and str(own.describe('cats')).startswith(f'hub:ann/cats@{commit}: ')
    with pytest.raises(InputError, match='--replace'):
        own.add('cats', 'hub:ann/cats')
    own.remove('cats')
    serve(whole)
    own.add('cats', f'hub:ann/cats@{commit}')
    assert data_digest('cats') == digest and len(leftovers()) == 1


def test_configuration_translations_and_parts_of_other_names(serve):
    def pairs(ids):
        return datasets.Dataset.from_dict(
            dict(translation=[dict(en=words(i), de=f'ein Ding {i}, das hier liegt') for i in ids])
        )

    asked = serve(datasets.DatasetDict(train=pairs(range(10)), extra=pairs(range(10, 20)), test=pairs(range(20, N))))
    report = own.add('cats', 'hub:ann/pairs:en-de@main')
    assert asked[0][0] == ('ann/pairs', 'en-de') and entry()['source'] == f'hub:ann/pairs:en-de@{commit}'
    assert report.views == {'translation.en': ('text', N), 'translation.de': ('text', N)}
    assert report.splits['train'] + report.splits['valid'] == 20 and report.splits['test'] == N - 20
    own.remove('cats')
    serve(datasets.DatasetDict(everything=pairs(range(N))))
    report = own.add('cats', 'hub:ann/all')
    assert 'hash' in report.split_source and sum(report.splits.values()) == N


def refuses(says, address='hub:ann/cats', error=InputError, **roles):
    with pytest.raises(error, match=says):
        own.add('cats', address, roles)
    assert not entry() and not leftovers()


def missing(kind):
    from huggingface_hub import errors

    return getattr(errors, kind)('404', response=mock.MagicMock())


def test_what_the_hub_refuses(serve):
    serve(None, ConnectionError('Name or service not known'))
    refuses('the hub was not reached .*Is there a network')
    serve(None, missing('RepositoryNotFoundError'))
    refuses('the hub has no data set ann/cats, or it is not open to you', error=MissingError)
    serve(None, missing('RevisionNotFoundError'))
    refuses('ann/cats has no revision v9', 'hub:ann/cats@v9', MissingError)
    refuses('no address', 'hub:ann/cats/more')
    serve(RuntimeError('Dataset scripts are no longer supported, but found cats.py'))
    refuses('scripts are no longer supported')
    serve(ValueError("Config name is missing. Please pick one among the available configs: ['a', 'b']"))
    refuses(r"\['a', 'b'\].*Name one: hub:ann/cats:CONFIGURATION")
    serve(pictures(range(N)))
    refuses("did you mean 'text'", text='txt')
    serve(pictures(range(N)).select_columns('image'))
    refuses('two views are needed')


def test_the_library_is_absent_or_old(serve, monkeypatch):
    asked = serve(pictures(range(N)))
    monkeypatch.setattr(datasets, '__version__', '2.14.0')
    refuses('2.14.0 may run code', error=MissingError)
    monkeypatch.setitem(sys.modules, 'datasets', None)
    refuses(r'pip install "crossmodal_nb\[datasets\]"', error=MissingError)
    assert not asked


def test_nothing_is_left_of_half_a_data_set(serve):
    def rows():
        yield dict(text=words(0))
        raise OSError('the connection was cut')

    serve(datasets.IterableDataset.from_generator(rows))
    refuses('the connection was cut')


@pytest.mark.parametrize('path', ['/etc/passwd', 'zip://x::file:///x.zip::hf://datasets/ann/cats@1/x.zip'])
def test_files_of_this_machine_are_not_taken(path, serve):
    named = [dict(bytes=None, path=path)] * N
    rows = datasets.Dataset.from_dict(dict(image=named, text=[words(i) for i in range(N)]))
    serve(rows.cast_column('image', datasets.Image(decode=False)))
    refuses('no file of ann/cats')


def test_files_of_the_data_set_are_read(serve, monkeypatch):
    def opened(path, mode):
        return mock.mock_open(read_data=png(int(path.rpartition('/')[2][:-4])))()

    monkeypatch.setattr('fsspec.open', opened)
    named = [dict(bytes=None, path=f'hf://datasets/ann/cats@{commit}/data/{i}.png') for i in range(N)]
    rows = datasets.Dataset.from_dict(dict(image=named, text=[words(i) for i in range(N)]))
    serve(rows.cast_column('image', datasets.Image(decode=False)))
    assert own.add('cats', 'hub:ann/cats').views == dict(image=('image', N), text=('text', N))
    assert load('cats')['train']['image'].x[0].size == (8, 8)
