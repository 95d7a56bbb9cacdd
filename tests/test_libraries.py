"""Encoders of timm, torchvision, sentence-transformers and open_clip: each gives what its library gives, and survives
saving, another process and an interruption. Models are small, random, and written here; sockets are closed.
"""

import importlib
import json
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import save_file
from test_encoders import closed, make_tokenizer, read, texts, words  # noqa: F401

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.data.images import Images
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.encoders.description import build_encoder, describe_encoder
from crossmodal_nb.encoders.extraction import features
from crossmodal_nb.encoders.presets import encoder
from crossmodal_nb.encoders.store import store

timm, open_clip, st = map(importlib.import_module, ('timm', 'open_clip', 'sentence_transformers'))
g = np.random.default_rng(0)
images = [Image.fromarray(g.integers(0, 255, (40 + 9 * i, 50, 3), np.uint8)) for i in range(5)]
shape = dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2)
networks = dict(vit=('vit_tiny_patch16_224', shape), conv=('test_resnet', dict(in_chans=3)))
towers = dict(
    embed_dim=16,
    vision_cfg=dict(image_size=32, layers=2, width=32, head_width=16, patch_size=8),
    text_cfg=dict(context_length=20, vocab_size=49408, width=32, heads=2, layers=2),
)
own_words = dict(towers['text_cfg'], vocab_size=len(words), hf_tokenizer_name='in this folder')


def write_open_clip(folder, text_cfg):
    folder.mkdir()
    means = dict(mean=[0.5] * 3, std=[0.4] * 3)
    config = dict(model_cfg=dict(towers, text_cfg=text_cfg), preprocess_cfg=means)
    (folder / 'open_clip_config.json').write_text(json.dumps(config))
    net = open_clip.CLIP(16, towers['vision_cfg'], {k: v for k, v in text_cfg.items() if k != 'hf_tokenizer_name'})
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / 'open_clip_model.safetensors')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A model of each library, as the library itself writes it"
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp('libraries')
    for name, (arch, given) in networks.items():
        net = timm.create_model(arch, num_classes=5, **given)
        timm.models.save_for_hf(net, place / name, model_args=given, safe_serialization=True)
    for part in (hf.BertModel(hf.BertConfig(**read)), make_tokenizer()):
        part.save_pretrained(place / 'bert')
    modules = importlib.import_module('sentence_transformers.sentence_transformer.modules')
    parts = [modules.Transformer(str(place / 'bert'), max_seq_length=24), modules.Pooling(16, 'mean')]
    parts += [modules.Dense(16, 12), modules.Normalize()]
    st.SentenceTransformer(modules=parts, device='cpu', prompts=dict(q='red '), default_prompt_name='q').save(
        str(place / 'st')
    )
    write_open_clip(place / 'clip', towers['text_cfg'])
    write_open_clip(place / 'clip_words', own_words)
    make_tokenizer().save_pretrained(place / 'clip_words')
    return place


def of_timm(path):
    net = timm.create_model(f'local-dir:{path}', pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net), is_training=False)
    return net(torch.stack([transform(i) for i in images]))


def of_torchvision(path):
    from torchvision.models import ResNet18_Weights, resnet18

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = resnet18().eval()
    net.fc = torch.nn.Identity()
    return net(torch.stack([ResNet18_Weights.DEFAULT.transforms()(i) for i in images]))


def of_sentence_transformers(path):
    return torch.from_numpy(st.SentenceTransformer(str(path), device='cpu').encode(texts))


def of_open_clip(kind):
    def given(path):
        net, _, transform = open_clip.create_model_and_transforms(f'local-dir:{path}')
        if kind == 'image':
            return net.eval().encode_image(torch.stack([transform(i) for i in images]))
        return net.eval().encode_text(open_clip.get_tokenizer(f'local-dir:{path}')(texts))

    return given


# format, folder (or name), modality, and what the library itself gives for the rows
families = {
    'timm, ViT': ('timm:', 'vit', 'image', of_timm),
    'timm, ResNet': ('timm:', 'conv', 'image', of_timm),
    'torchvision': ('torchvision:resnet18@random', '', 'image', of_torchvision),
    'sentence-transformers': ('st:', 'st', 'text', of_sentence_transformers),
    'open_clip, images': ('open_clip:', 'clip', 'image', of_open_clip('image')),
    'open_clip, texts': ('open_clip:', 'clip', 'text', of_open_clip('text')),
    'open_clip, texts by a tokenizer of transformers': ('open_clip:', 'clip_words', 'text', of_open_clip('text')),
}
rows = dict(image=images, text=texts)


def named(folder, family):
    prefix, name, kind, _ = families[family]
    return encoder(f'{prefix}{folder / name}' if name else prefix, kind)


def of_the_library(folder, family):
    _, name, _, given = families[family]
    with torch.inference_mode():
        return given(folder / name)


@pytest.mark.parametrize('family', families)
def test_a_family_is_what_the_library_gives(folder, family):
    e, kind = named(folder, family), families[family][2]
    out = e([e.prepare(r) for r in rows[kind]])['pooled']
    expected = of_the_library(folder, family)
    assert torch.allclose(out, expected, atol=1e-5), (out - expected).abs().max()
    assert out.std(0).mean() > 1e-4  # and rows differ
    assert all(torch.allclose(e([r])['pooled'][0], o, atol=1e-5) for r, o in zip(rows[kind], out))
    again = build_encoder(json.loads(json.dumps(describe_encoder(e))))
    assert again.key == e.key and torch.equal(again(rows[kind])['pooled'], out)


def encoded_elsewhere(pickled):
    "In the other process"
    return [(e.key, e(r)['pooled'].numpy()) for e, r in pickle.loads(pickled)]


def test_another_process_gives_the_same(folder):
    here = {f: named(folder, f) for f in families}
    pickled = pickle.dumps([(e, rows[families[f][2]]) for f, e in here.items()])
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        there = pool.apply(encoded_elsewhere, (pickled,))
    for (f, e), (key, out) in zip(here.items(), there):
        assert key == e.key and np.allclose(out, of_the_library(folder, f), atol=1e-5), f


@pytest.mark.parametrize('family', families)
def test_an_interrupted_store_goes_on(folder, family, tmp_path, monkeypatch):
    e, kind, calls = named(folder, family), families[family][2], []
    e.shard, encode = 2, type(e).__call__
    for i, im in enumerate(images):
        im.save(tmp_path / f'{i}.png')
    x = Images(sorted(tmp_path.glob('*.png'))) if kind == 'image' else texts
    views = Views(**{kind: View(x, ids=[f'{i}' for i in range(5)])})

    class Killed(Exception):
        pass

    def counted(self, given):
        calls.append(len(given))
        if len(calls) == 2:
            raise Killed
        return encode(self, given)

    monkeypatch.setattr(type(e), '__call__', counted)
    with pytest.raises(Killed):
        features(views, {kind: e}, tmp_path)
    out = features(views, {kind: e}, tmp_path)[kind].x['pooled']
    assert calls == [2, 2, 2, 1] and store(views[kind], e, tmp_path).is_dir()  # the first shard is not encoded again
    assert torch.allclose(out, of_the_library(folder, family), atol=1e-5)


def test_what_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    from torchvision.models import ResNet18_Weights

    file = tmp_path / 'checkpoints' / Path(ResNet18_Weights.DEFAULT.url).name
    file.parent.mkdir()
    file.write_bytes(b'other weights')
    with pytest.raises(InputError, match='not the published file'):
        encoder('torchvision:resnet18', 'image')(images)
    with pytest.raises(InputError, match="no option 'layers'"):
        encoder('torchvision:resnet18@random?layers=1', 'image')
    for text in ('torchvision:resnet18@random', f'open_clip:{folder / "clip"}'):
        with pytest.raises(InputError, match='does not give grid'):
            encoder(text, 'image', ('grid',))
