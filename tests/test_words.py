"Words and captions of codes: the head against scikit-learn, the beam against every possible text, and clear errors."

import itertools

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.data.views import View
from crossmodal_nb.methods.captioner import (
    END,
    PAD,
    START,
    UNKNOWN,
    Captioner,
    Vocabulary,
    frequent_caption,
    nearest_captions,
    write,
)
from crossmodal_nb.methods.words import WordLabels, WordsHead, frequency_logits, words_scores

g = torch.Generator().manual_seed(0)


def test_labels_are_the_frequent_words_of_all_texts_of_an_item():
    texts = View(['A red apple', 'the apple, RED', 'a blue car', 'a car and an apple'], item=torch.tensor([5, 5, 2, 7]))
    labels = WordLabels(min_items=2).fit(texts)
    assert labels.words == ['apple', 'car']  # red is in two texts, but of one item
    items, y = labels.transform(texts)
    assert items.tolist() == [2, 5, 7] and y.tolist() == [[False, True], [True, False], [True, True]]
    assert labels.transform(View(['pear']))[1].tolist() == [[False, False]]
    with pytest.raises(InputError, match='lower min_items'):
        WordLabels(min_items=4).fit(texts)


def test_the_head_is_a_logistic_regression_for_each_word():
    codes = 3 * torch.randn(120, 4, generator=g) + 5
    y = torch.rand(120, 3, generator=g) < (codes[:, :3] - 5).sigmoid()
    head = WordsHead(penalty=2.0).fit(codes, y)
    x = ((codes - codes.mean(0)) / codes.std(0)).double().numpy()
    for j in range(3):
        twin = LogisticRegression(C=0.5, tol=1e-8, max_iter=1000).fit(x, y[:, j].numpy())
        expected = torch.from_numpy(twin.decision_function(x))
        torch.testing.assert_close(head.logits(codes)[:, j], expected, atol=2e-3, rtol=1e-3)


def test_a_word_that_all_have_or_none_has_is_no_problem():
    codes = torch.randn(30, 4, generator=g)
    y = torch.zeros(30, 2, dtype=torch.bool)
    y[:, 0] = True
    logits = WordsHead().fit(codes, y).logits(codes)
    assert logits.isfinite().all() and (logits[:, 0] > 2).all() and (logits[:, 1] < -2).all()


def test_frequencies_are_the_same_for_all():
    y = torch.tensor([[True, False], [True, True], [False, False], [True, False]])
    logits = frequency_logits(y, 3)
    assert logits.shape == (3, 2) and torch.allclose(logits.sigmoid()[1], torch.tensor([0.75, 0.25]).double())


def test_f1_and_its_threshold_equal_a_loop():
    y, valid = (torch.rand(50, 6, generator=g) < 0.3 for _ in range(2))
    s, t = (a.double() + torch.randn(50, 6, generator=g) for a in (y, valid))

    def f1(logits, labels, level):
        predicted = [[bool(v >= level) for v in row] for row in logits]
        hits = sum(p and bool(a) for row, r in zip(predicted, labels) for p, a in zip(row, r))
        return 2 * hits / (sum(map(sum, predicted)) + int(labels.sum()))

    level = max(t.flatten().tolist(), key=lambda v: f1(t, valid, v))
    found = words_scores(s, y, t, valid, boot=300)
    assert f1(t, valid, found['threshold']) == pytest.approx(f1(t, valid, level))
    assert found['F1'] == pytest.approx(f1(s, y, found['threshold']))
    assert found['low'] < found['F1'] < found['high']


def test_bad_input_to_the_head():
    codes, y = torch.randn(9, 4, generator=g), torch.ones(9, 2, dtype=torch.bool)
    with pytest.raises(RuntimeError, match='not fitted'):
        WordsHead().logits(codes)
    with pytest.raises(InputError, match='4 wide'):
        WordsHead().fit(codes, y).logits(codes[:, :3])
    with pytest.raises(InputError, match='equal numbers'):
        WordsHead().fit(codes, y[:5])
    with pytest.raises(InputError, match='NaN'):
        WordsHead().fit(codes * float('nan'), y)
    with pytest.raises(InputError, match='above 0'):
        WordsHead(penalty=0)


# Captions


def test_texts_become_numbers_and_back():
    v = Vocabulary.read(['a cat', 'A cat sits', 'the dog', 'the dog'], min_count=2)
    assert v.words == ['a', 'cat', 'dog', 'the'] and len(v) == 8  # equally frequent: by the alphabet
    row = v.encode(['The cat sleeps here'], 3)[0]
    assert row.tolist() == [START, v.number['the'], v.number['cat'], UNKNOWN, END]
    assert v.encode(['cat'], 3)[0].tolist() == [START, v.number['cat'], END, PAD, PAD]
    assert v.decode(row) == 'the cat'
    with pytest.raises(InputError, match='no word'):
        Vocabulary.read(['one', 'two'])


def small(**settings):
    settings = dict(width=16, layers=1, heads=2, prefix=2, dropout=0.0, max_words=3) | settings
    return Captioner(**settings, trainer=dict(epochs=3, batch=10, lr=1e-2, accelerator='cpu'))


@pytest.fixture(scope='module')
def fitted():
    codes = torch.randn(40, 5, generator=g)
    texts = [('red' if z[0] > 0 else 'blue') + (' dog' if z[1] > 0 else ' cat') * (z[2] > 0) for z in codes]
    return small().fit(codes, texts), codes, texts


def log_probability(m, code, numbers):
    "Of a whole text, word by word"
    total = 0.0
    for k in range(1, len(numbers)):
        logits = m.next_words(m.read(code[None]), torch.tensor([numbers[:k]]))[0, -1]
        logits[[PAD, START, UNKNOWN]] = -torch.inf
        if k == m.max_words + 1:
            logits[END + 1 :] = -torch.inf
        total += float(logits.log_softmax(0)[numbers[k]])
    return total


@torch.no_grad()
@pytest.mark.parametrize('power', [0.0, 0.7])
def test_a_wide_beam_is_the_best_of_all_texts(fitted, power):
    m, codes, _ = fitted
    numbers = range(UNKNOWN + 1, len(m.vocabulary))
    texts = [[START, *t, END] for length in range(m.max_words + 1) for t in itertools.product(numbers, repeat=length)]
    for z, said in zip(codes[:3], write(m, codes[:3], beam=len(texts), length_power=power)):
        best = max(texts, key=lambda t, z=z: log_probability(m, z, t) / (len(t) - 1) ** power)
        assert said == m.vocabulary.decode(best)


@torch.no_grad()
def test_a_beam_of_one_is_greedy(fitted):
    m, codes, _ = fitted
    for z, said in zip(codes[:5], write(m, codes[:5])):
        numbers = [START]
        while numbers[-1] != END and len(numbers) <= m.max_words:
            logits = m.next_words(m.read(z[None]), torch.tensor([numbers]))[0, -1]
            logits[[PAD, START, UNKNOWN]] = -torch.inf
            numbers.append(int(logits.argmax()))
        assert said == m.vocabulary.decode(numbers)


def test_no_word_is_predicted_from_those_that_follow(fitted):
    m, codes, texts = fitted
    numbers = m.vocabulary.encode(texts[:4], 3)[:, :-1]
    changed = numbers.clone()
    changed[:, 3:] = UNKNOWN
    first, second = (m.next_words(m.read(codes[:4]), x) for x in (numbers, changed))
    assert torch.allclose(first[:, :3], second[:, :3], atol=1e-6) and not torch.allclose(first[:, 3], second[:, 3])


def test_the_loss_is_that_of_a_loop(fitted):
    m, codes, texts = fitted
    numbers = m.vocabulary.encode(texts[:6], 3)
    costs = []
    for z, row in zip(codes, numbers):
        for k in range(1, len(row)):
            if row[k] != PAD:
                logits = m.next_words(m.read(z[None]), row[None, :k])[0, -1]
                costs.append(float(-logits.log_softmax(0)[row[k]].detach()))
    assert float(m.loss(codes[:6], numbers).detach()) == pytest.approx(sum(costs) / len(costs), rel=1e-4)


def test_training_is_resumed_exactly(fitted, tmp_path):
    "Stopped after one epoch of three, and gone on with: the same weights"
    _, codes, texts = fitted
    whole = small(dropout=0.2)
    whole.fit(codes, texts)
    trainer = dict(epochs=3, batch=10, lr=1e-2, accelerator='cpu', ckpt=str(tmp_path))

    class Stop(Exception):
        pass

    def interrupted(m):
        if m.epoch == 1:
            raise Stop
        return 0.0

    half = small(dropout=0.2).set_params(trainer=trainer)
    half._check = lambda *_: interrupted
    with pytest.raises(Stop):
        half.fit(codes, texts, valid=(codes, texts))
    assert (tmp_path / 'state.json').exists()
    again = small(dropout=0.2).set_params(trainer=trainer).fit(codes, texts)
    assert all(torch.equal(p, q) for p, q in zip(whole.state_dict().values(), again.state_dict().values()))


def test_baselines():
    known = torch.eye(3)
    assert nearest_captions(torch.tensor([[0.1, 2.0, 0.3]]), known, ['a', 'b', 'c']) == ['b']
    assert frequent_caption(['x', 'y', 'y', 'x', 'z']) == 'x'


def test_bad_input_to_the_captioner(fitted):
    m, codes, texts = fitted
    with pytest.raises(RuntimeError, match='not fitted'):
        write(small(), codes)
    with pytest.raises(InputError, match='5 wide'):
        write(m, codes[:, :4])
    with pytest.raises(InputError, match='NaN'):
        write(m, codes * float('nan'))
    with pytest.raises(InputError, match='beam is 0'):
        write(m, codes, 0)
    with pytest.raises(InputError, match='one code for each text'):
        small().fit(codes, texts[:3])
    with pytest.raises(InputError, match='no word'):
        small().fit(codes, [''] * len(codes))
    with pytest.raises(InputError, match='heads'):
        small(width=15)
