"Equal rows are known, and no group of siblings is torn by a split that is ours"
import numpy as np, torch
from PIL import Image
from crossmodal_nb.data import Images, View, Views, averaged, concatenated, merged_items, row_keys
from crossmodal_nb.features import Encoder, features


class Letters(Encoder):
    "Counts letters; of pictures, pixels"
    about = dict(name='Letters')

    def __call__(self, rows):
        size = [len(r) if isinstance(r, str) else r.size[0] for r in rows]
        return dict(pooled=torch.tensor(size)[:, None].float())


def test_equal_texts_are_those_with_one_clean_form():
    view = View(['Fish &amp; chips', 'Fish  & chips', 'fish & chips', '', ''])
    assert view.same.tolist() == [0, 0, 2, 3, 4]
    assert view[[1, 2, 0]].same.tolist() == [0, 1, 0]


def test_a_view_without_rows_has_no_equal_rows():
    for x in ([], torch.zeros(0, 3)):
        assert row_keys(x) == [] and View(x).same.tolist() == []


def test_equal_pictures_are_those_with_one_file_content(tmp_path):
    for name, colour in dict(a='red', b='red', c='blue').items():
        Image.new('RGB', (4, 4), colour).save(tmp_path/f'{name}.png')
    view = View(Images([tmp_path/f'{n}.png' for n in 'abc']))
    assert view.same.tolist() == [0, 0, 2]
    assert features(Views(image=view), dict(image=Letters()), cache=tmp_path/'store')['image'].same.tolist() == [0, 0, 2]


def test_equal_numbers_are_equal_rows():
    x = torch.tensor([[1., 2.], [2., 1.], [1., 2.]])
    assert View(x).same.tolist() == View(dict(grid=torch.rand(3, 4, 2), pooled=x)).same.tolist() == [0, 1, 0]
    assert View(torch.zeros(3, 1)).holding(x).same.tolist() == [0, 1, 0]


def test_features_are_as_equal_as_what_they_were_made_from(tmp_path):
    "`soup` and `stew` have one number of letters, but they are not one text"
    raw = Views(a=View(['soup', 'stew', 'tea', 'soup']), b=View(['x', 'y', 'z', 'z']))
    made = features(raw, dict(a=[Letters(), Letters()], b=Letters()), cache=tmp_path)
    assert made['a'].same.tolist() == [0, 1, 2, 0]
    assert made['a'].holding(torch.zeros(4, 1)).same.tolist() == [0, 1, 2, 0]
    assert made.subset([3, 2, 0])['a'].same.tolist() == [0, 2, 0]
    assert made.only('a')['a'][torch.tensor([1, 3])].same.tolist() == [1, 0]
    for both in (concatenated(made['a'], made['b']), averaged(made['a'], made['b'])):
        assert both.same.tolist() == [0, 1, 2, 3]


def test_merged_items_join_what_shares_an_equal_row():
    text = View(['tea', 'pie', 'tea', 'soup', 'pie'], item=[4, 5, 6, 7, 5])
    image = View(torch.tensor([[1.], [2.], [3.], [1.]]), item=[7, 6, 5, 9])
    a, b = merged_items(image, text)
    assert a[0] == a[3] == b[3], 'one picture: items 7 and 9'
    assert a[1] == b[0] == b[2], 'one text: items 4 and 6'
    assert a[2] == b[1] == b[4] and len({*a.tolist(), *b.tolist()}) == 3


def test_merged_items_are_the_items_where_nothing_is_equal():
    g = torch.Generator().manual_seed(0)
    a = View(torch.rand(30, 3, generator=g), item=torch.randint(9, (30,), generator=g))
    b = View(torch.rand(40, 3, generator=g), item=torch.randint(9, (40,), generator=g))
    ma, mb = merged_items(a, b)
    assert torch.equal(ma[:, None] == mb, a.item[:, None] == b.item)
    assert torch.equal(ma[:, None] == ma, a.item[:, None] == a.item)


def test_an_item_below_zero_is_like_no_other():
    a, b = merged_items(View(torch.rand(2, 3), item=[-1, -1]), View(torch.rand(1, 3), item=[-1]))
    assert len({*a.tolist(), *b.tolist()}) == 3
