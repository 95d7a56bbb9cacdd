"""Pretrained encoders by name: each family as transformers itself computes it, from folders that are written here with
small random weights. No hub is reached: sockets are closed.
"""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from crossmodal_nb.core.checks import InputError, MissingError
from crossmodal_nb.core.settings import settings
from crossmodal_nb.data.images import Images
from crossmodal_nb.data.sounds import Sound
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.encoders.audio import resampled
from crossmodal_nb.encoders.description import build_encoder, describe_encoder
from crossmodal_nb.encoders.extraction import features
from crossmodal_nb.encoders.names import plain_name
from crossmodal_nb.encoders.presets import download, encoded, encoder, view_encoders
from crossmodal_nb.encoders.store import store
from crossmodal_nb.methods.pretrained_pairs import ZeroShot
from crossmodal_nb.runs import keys, record
from crossmodal_nb.runs.keys import named_definitions
from crossmodal_nb.runs.reach import index

root = Path(__file__).parent.parent
small = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2)
seen = dict(small, image_size=32, patch_size=8)
square = dict(size=dict(height=32, width=32), crop_size=dict(height=32, width=32))
letters = 'abcdefghijklmnopqrstuvwxyz'
words = ['<s>', '<pad>', '</s>', '<unk>', *letters, *(f'##{c}' for c in letters)]
read = dict(small, vocab_size=len(words), pad_token_id=1, bos_token_id=0, eos_token_id=2, max_position_embeddings=24)
texts = ['a red wine', 'bread', 'x' * 40, '', 'soup of the day']


def make_tokenizer():
    core = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token='<unk>'))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing('<s> $A </s>', special_tokens=[('<s>', 0), ('</s>', 2)])
    names = dict(pad_token='<pad>', bos_token='<s>', eos_token='</s>', cls_token='<s>', sep_token='</s>')
    return hf.PreTrainedTokenizerFast(tokenizer_object=core, unk_token='<unk>', **names)


def clap():
    heard = dict(hidden_size=32, patch_embeds_hidden_size=16, depths=[1, 1], num_attention_heads=[2, 2], spec_size=64)
    heard |= dict(num_hidden_layers=2, num_mel_bins=16, window_size=4, projection_dim=12)
    spoken = dict(read, max_position_embeddings=26, projection_dim=12)
    return hf.ClapModel(hf.ClapConfig(text_config=spoken, audio_config=heard, projection_dim=12))


def whisper():
    sizes = dict(d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2)
    sizes |= dict(encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=16, decoder_start_token_id=0)
    return hf.WhisperModel(hf.WhisperConfig(**sizes, vocab_size=60, pad_token_id=1, bos_token_id=0, eos_token_id=2))


families = dict(
    clip=lambda: (
        hf.CLIPModel(hf.CLIPConfig(text_config=read, vision_config=seen, projection_dim=12)),
        hf.CLIPImageProcessor(**square),
        make_tokenizer(),
    ),
    siglip=lambda: (
        hf.SiglipModel(hf.SiglipConfig(text_config=read, vision_config=seen)),
        hf.SiglipImageProcessor(size=square['size']),
        make_tokenizer(),
    ),
    siglip2=lambda: (
        hf.Siglip2Model(hf.Siglip2Config(text_config=read, vision_config=dict(small, patch_size=8, num_patches=16))),
        hf.Siglip2ImageProcessor(patch_size=8, max_num_patches=16),
        make_tokenizer(),
    ),
    dinov2=lambda: (hf.Dinov2Model(hf.Dinov2Config(**seen)), hf.BitImageProcessor(**square)),
    vit=lambda: (hf.ViTModel(hf.ViTConfig(**seen)), hf.ViTImageProcessor(**square)),
    bert=lambda: (hf.BertModel(hf.BertConfig(**read)), make_tokenizer()),
    mpnet=lambda: (hf.MPNetModel(hf.MPNetConfig(**read)), make_tokenizer()),
    xlmr=lambda: (hf.XLMRobertaModel(hf.XLMRobertaConfig(**read)), make_tokenizer()),
    whisper=lambda: (whisper(), hf.WhisperFeatureExtractor(feature_size=16)),
    clap=lambda: (
        clap(),
        hf.ClapFeatureExtractor(feature_size=16, sampling_rate=8000, max_length_s=2, truncation='rand_trunc'),
        make_tokenizer(),
    ),
    videomae=lambda: (
        hf.VideoMAEModel(hf.VideoMAEConfig(**seen, num_frames=4, tubelet_size=2)),
        hf.VideoMAEImageProcessor(size=dict(shortest_edge=32), crop_size=square['crop_size']),
    ),
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp('models')
    for name, made in families.items():
        for part in made():
            part.save_pretrained(place / name)
    return place


@pytest.fixture(autouse=True, params=[False], ids=['online'])
def closed(monkeypatch, request):
    "No network: whatever opens a socket fails"

    def refuse(*args):
        raise AssertionError('a network is asked for')

    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', request.param)


g = np.random.default_rng(0)
images = [Image.fromarray(g.integers(0, 255, (40 + 9 * i, 50, 3), np.uint8)) for i in range(4)]
sounds = [Sound(g.standard_normal(n).astype(np.float32) / 9, 8000) for n in (8000, 12000, 30000)]
videos = [[Image.fromarray(g.integers(0, 255, (40, 50, 3), np.uint8)) for _ in range(n)] for n in (4, 9)]
rows = dict(image=images, text=texts, sound=sounds, video=videos)


def of_the_library(name, kind, path):
    "What transformers itself gives for the same rows, by its documentation of the family"
    model = hf.AutoModel.from_pretrained(path).eval()
    if kind == 'image':
        x = hf.AutoImageProcessor.from_pretrained(path)(images=images, return_tensors='pt')
        if name in ('dinov2', 'vit'):
            return model(**x).last_hidden_state[:, 0]
        return model.get_image_features(**x).pooler_output
    if kind == 'text':
        fixed = name in ('siglip', 'siglip2')
        tokens = hf.AutoTokenizer.from_pretrained(path)(
            texts,
            padding='max_length' if fixed else True,
            truncation=True,
            max_length=22 if name in ('mpnet', 'xlmr') else 24,
            return_tensors='pt',
        )
        x = dict(input_ids=tokens.input_ids) | ({} if fixed else dict(attention_mask=tokens.attention_mask))
        if name in ('bert', 'mpnet', 'xlmr'):
            mask = tokens.attention_mask[..., None]
            return (model(**x).last_hidden_state * mask).sum(1) / mask.sum(1)
        return model.get_text_features(**x).pooler_output
    if kind == 'video':
        one = hf.AutoImageProcessor.from_pretrained(path)(videos[0], return_tensors='pt')
        return model(**one).last_hidden_state.mean(1)
    extractor = hf.AutoFeatureExtractor.from_pretrained(path)
    if name == 'clap':
        waves = [s.wave[:16000] for s in sounds]
        x = extractor(waves, sampling_rate=8000, return_tensors='pt')
        return model.get_audio_features(input_features=x.input_features).pooler_output
    waves = [resampled(s, 16000) for s in sounds]
    x = extractor(waves, sampling_rate=16000, return_tensors='pt', return_attention_mask=True)
    h = model.get_encoder()(x.input_features).last_hidden_state
    return torch.stack([h[i, : -(-int(n) // 2)].mean(0) for i, n in enumerate(x.attention_mask.sum(1))])


reads = [(n, k) for n in ('clip', 'siglip', 'siglip2') for k in ('image', 'text')]
reads += [(n, 'image') for n in ('dinov2', 'vit')] + [(n, 'text') for n in ('bert', 'mpnet', 'xlmr', 'clap')]
reads += [('whisper', 'sound'), ('clap', 'sound'), ('videomae', 'video')]


@pytest.mark.parametrize('name, kind', reads)
def test_a_family_is_what_the_library_gives(folder, name, kind):
    e = encoder(f'hf:{folder / name}', kind)
    out = e([e.prepare(r) for r in rows[kind]])
    with torch.inference_mode():
        expected = of_the_library(name, kind, folder / name)
    assert torch.allclose(out['pooled'][: len(expected)], expected, atol=1e-5), (out['pooled'] - expected).abs().max()
    assert out['pooled'].std(0).mean() > 1e-4  # and rows differ
    for i, row in enumerate(rows[kind]):
        assert torch.allclose(e([row])['pooled'][0], out['pooled'][i], atol=1e-5)
    again = build_encoder(describe_encoder(e))
    assert again.key == e.key and torch.allclose(again(rows[kind])['pooled'], out['pooled'], atol=1e-6)


@pytest.mark.parametrize('closed', [True], indirect=True, ids=['offline'])
def test_a_folder_needs_no_hub_where_it_is_switched_off(folder):
    for name in ('clip', 'bert'):
        assert len(encoder(f'hf:{folder / name}', 'text')(texts)['pooled']) == len(texts)
    assert encoder(str(folder / 'vit')).kind == 'image'  # a folder alone, by what is in it


def test_options_of_a_string(folder):
    e = encoder(f'hf:{folder / "bert"}?pool=cls&layer=-2&prompt=query: &length=8&layers=0,3', 'text')
    assert (e.way, e.layer, e.prompt, e.limit, e.layers) == ('cls', -2, 'query: ', 8, (0, 3))
    out = e(['red'])
    x = make_tokenizer()(['query: red'], truncation=True, max_length=8, return_tensors='pt').input_ids
    with torch.no_grad():
        h = hf.BertModel.from_pretrained(folder / 'bert').eval()(x, output_hidden_states=True).hidden_states
    assert torch.allclose(out['pooled'], h[-2][:, 0], atol=1e-5)
    assert all(torch.allclose(out[f'layer_{k}'], h[k][:, 0], atol=1e-5) for k in (0, 3))
    options = '', '?layer=1', '?pool=max', '?prompt=a', '?length=9'
    assert len({encoder(f'hf:{folder / "bert"}{o}', 'text').key for o in options}) == 5


def test_texts_are_flagged(folder):
    out = encoder(f'hf:{folder / "bert"}', 'text', ('pooled', 'tokens', 'ids'))(['red 赤', '赤', '', 'x' * 40])
    assert out['unknown'].tolist() == [True, True, False, False]
    assert out['unread'].tolist() == [False, True, True, False]
    assert out['truncated'].tolist() == [False, False, False, True]
    assert out['tokens'].length.tolist() == out['ids'].length.tolist() and out['ids'].length[2] == 2


def test_layers_in_the_store_with_two_processes_and_once_more(folder, tmp_path):
    for i, im in enumerate(images * 3):
        im.rotate(i).save(tmp_path / f'{i:02}.png')
    view = View(Images(sorted(tmp_path.glob('*.png'))), ids=[f'{i}' for i in range(12)])
    e = encoder(f'hf:{folder / "dinov2"}?layers=1,2', 'image', ('pooled', 'grid'))
    e.shard = 3
    one = features(Views(image=view), dict(image=e), cache=tmp_path / 'one')['image'].x
    two = features(Views(image=view), dict(image=e), cache=tmp_path / 'two', processes=2)['image'].x
    assert {'pooled', 'grid', 'layer_1', 'layer_2'} <= {*one}
    assert all(torch.allclose(one[p].float(), two[p].float(), atol=1e-5) for p in ('pooled', 'grid', 'layer_1'))
    # a killed try goes on: three shards of four are there
    whole = store(view, e, tmp_path / 'one')
    broken, calls = type(e)(str(folder / 'dinov2'), layers=(1, 2), parts=('pooled', 'grid')), []

    class Stop(Exception):
        pass

    def counted(net_rows, encode=type(e).__call__):
        calls.append(len(net_rows))
        if len(calls) == 3:
            raise Stop
        return encode(broken, net_rows)

    toy = SimpleNamespace(key=e.key, shard=3, spec=e.spec, prepare=e.prepare, parts=e.parts)
    toy = type('Counted', (), dict(__call__=lambda self, r: counted(r), **vars(toy)))()
    for _ in range(2):
        try:
            features(Views(image=view), dict(image=toy), cache=tmp_path / 'three')
        except Stop:
            continue
    resumed = store(view, e, tmp_path / 'three')
    assert len(calls) == 5 and np.array_equal(np.load(resumed / 'layer_1.npy'), np.load(whole / 'layer_1.npy'))


def test_the_hub_is_its_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
    place, commit = tmp_path / 'models--owner--name', 'f' * 40
    with pytest.raises(MissingError, match='`hf download owner/name`.*https://huggingface.co/owner/name') as e:
        encoder('hf:owner/name', 'image')
    assert '--online' in str(e.value)
    (place / 'refs').mkdir(parents=True)
    (place / 'refs' / 'main').write_text(commit)
    shutil.copytree(folder / 'clip', place / 'snapshots' / commit)
    e = encoder('hf:owner/name', 'image')
    assert (e.spec['name'], e.spec['revision']) == ('owner/name', commit) and e(images)['pooled'].shape == (4, 12)
    assert encoder(f'hf:owner/name@{commit}', 'image').key != encoder(f'hf:{folder / "clip"}', 'image').key
    with pytest.raises(MissingError, match='at v2'):
        encoder('hf:owner/name@v2', 'image')


def test_what_the_hub_says(monkeypatch):
    def answer(error):
        def raised(*args, local_files_only, **kwargs):
            assert not local_files_only
            raise error

        monkeypatch.setattr(huggingface_hub, 'snapshot_download', raised)

    reply = SimpleNamespace(headers={}, request=None, status_code=403)
    errors = huggingface_hub.errors
    answer(errors.GatedRepoError('closed', response=reply))
    with pytest.raises(InputError, match='gated. Accept its terms on https://huggingface.co/o/n'):
        download('minilm+hf:o/n')
    answer(errors.RepositoryNotFoundError('none', response=reply))
    with pytest.raises(MissingError, match='no model of this name'):
        encoder('hf:o/n', 'text', online=True)
    answer(ConnectionError('no route'))
    with pytest.raises(MissingError, match=r'not reached \(ConnectionError: no route\)'):
        view_encoders(dict(train=Views(text=View(texts))), dict(text='hf:o/n'), online=True)


def test_what_is_refused(folder, tmp_path):
    def fails(text, match, kind='image'):
        with pytest.raises(InputError, match=match):
            encoder(text, kind)

    shutil.copytree(folder / 'vit', tmp_path / 'pickled')
    (tmp_path / 'pickled' / 'model.safetensors').rename(tmp_path / 'pickled' / 'pytorch_model.bin')
    fails(f'hf:{tmp_path / "pickled"}', 'pytorch_model.bin: weights as a pickle .*save_pretrained')
    shutil.copytree(folder / 'vit', tmp_path / 'code')
    config = tmp_path / 'code' / 'config.json'
    config.write_text(json.dumps(json.loads(config.read_text()) | dict(auto_map=dict(AutoModel='mine.Model'))))
    fails(f'hf:{tmp_path / "code"}', 'code of its own')
    config.write_text(json.dumps(dict(model_type='nonsense')))
    fails(f'hf:{tmp_path / "code"}', 'does not know this model')
    (tmp_path / 'empty').mkdir()
    fails(str(tmp_path / 'empty'), 'holds one of modules.json')
    fails(f'hf:{folder / "nowhere"}', 'no such folder')
    fails(f'hf:{folder / "bert"}', "reads rows of modality 'text', not 'image'")
    fails(f'hf:{folder / "vit"}?layer=7', r'no layer 7: its states are 0 \(the embedding\) to 3')
    fails(f'hf:{folder / "vit"}?pool=joint', 'needs a model with two towers')
    fails(f'hf:{folder / "vit"}?colour=1', "no option 'colour'")
    fails(f'hf:{folder / "clip"}', 'image and text: say which', None)
    fails('lite3', "did you mean 'lite")
    fails('hff:google/siglip', "did you mean 'hf:'")
    fails('minilm+lite0', 'one is read here')


def test_weights_that_are_missing_are_no_random_numbers(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder / 'vit', tmp_path / 'vit')
    file = tmp_path / 'vit' / 'model.safetensors'
    tensors = load_file(file)
    lost = next(k for k in tensors if 'layer.1.' in k or 'layers.1.' in k)
    save_file({k: v for k, v in tensors.items() if k != lost}, file, metadata=dict(format='pt'))
    with pytest.raises(InputError, match='lacks 1 weights'):
        encoder(f'hf:{tmp_path / "vit"}', 'image')(images)


def test_the_key_is_of_the_weights_not_of_the_place(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder / 'vit', tmp_path / 'vit')
    first = encoder(f'hf:{tmp_path / "vit"}', 'image').key
    assert first == encoder(f'hf:{folder / "vit"}', 'image').key
    file = tmp_path / 'vit' / 'model.safetensors'
    save_file({k: v + 1 for k, v in load_file(file).items()}, file, metadata=dict(format='pt'))
    assert encoder(f'hf:{tmp_path / "vit"}', 'image').key != first


def test_a_run_is_stale_when_the_weights_of_a_folder_change(folder, tmp_path):
    "The folder may move, its name may stay: the digest is of what is in it. Runs with the package's encoders have none"
    from safetensors.torch import load_file, save_file

    notebook = root / 'nbs' / 'experiments' / '10_cca.ipynb'

    def now(**encoders):
        return keys.digests(notebook, record.parameters(notebook) | dict(encoders=encoders))

    shutil.copytree(folder / 'clip', tmp_path / 'clip')
    here = f'hf:{tmp_path / "clip"}'
    first = now(image=here)
    assert 'encoders' not in now(image='lite2', text='minilm+tfidf') and first['encoders']
    assert first['encoders'] == now(image=f'hf:{folder / "clip"}')['encoders'] != now(image=here, text=here)['encoders']
    file = tmp_path / 'clip' / 'model.safetensors'
    save_file({k: v + 1 for k, v in load_file(file).items()}, file, metadata=dict(format='pt'))
    made = dict(digests=first)
    assert keys.differs(made, now(image=here)) == ['encoders'] and keys.key(now(image=here)) != keys.key(first)
    config = tmp_path / 'clip' / 'preprocessor_config.json'
    changed = now(image=here)
    config.write_text(json.dumps(json.loads(config.read_text()) | dict(image_mean=[0.1, 0.1, 0.1])))
    assert keys.differs(dict(digests=changed), now(image=here)) == ['encoders']
    shutil.rmtree(tmp_path / 'clip')
    assert now(image=here)['encoders'] is None and keys.differs(made, now(image=here)) == []  # absent: not compared


def test_papermill_and_the_manifest_take_the_same_encoders(house):
    "One run, whichever way it was asked for: equal scores under one key, and the record says what read which view"
    data = settings(root).work / 'data'
    if not (data / 'packages').is_dir():
        pytest.skip('no packages of data here: crossmodal data get embedded')
    notebook = house / 'nbs' / 'experiments' / '10_cca.ipynb'
    shutil.copy(root / 'nbs' / 'experiments' / notebook.name, notebook)
    (house / 'work').mkdir()
    (house / 'work' / 'data').symlink_to(data.resolve())
    entry = 'notebook = "10_cca.ipynb"\n[mine.params]\ndataset = "emoji"\nsample = 60\n'
    entry += 'encoders = {image = "lite2", text = "minilm+tfidf"}\n'
    (house / 'work' / 'experiments.toml').write_text(f'[mine]\n{entry}')
    given = ['-p', 'dataset', 'emoji', '-p', 'sample', '60', '-y', 'encoders: {image: lite2, text: "minilm+tfidf"}']
    bin, page = Path(sys.executable).parent, house / 'page.ipynb'
    for command in (['papermill', notebook, page, *given], ['crossmodal', 'run', 'mine']):
        ran = subprocess.run([bin / command[0], *command[1:]], cwd=house, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    by_hand, by_entry = (
        json.loads(next((house / 'work' / 'records' / name).glob('*.json')).read_text()) for name in ('10_cca', 'mine')
    )
    assert by_hand['key'] == by_entry['key'] and by_hand['rows'] == by_entry['rows'] != []
    for r in (by_hand, by_entry):
        assert [(e['view'], e['model']) for e in r['suitability']] == [
            ('image', 'EfficientNet-Lite2'),
            ('name', 'all-MiniLM-L6-v2'),
            ('name', 'TF-IDF'),
        ]
        assert all(len(e['digest']) == 12 for e in r['suitability'])


def test_gaze_takes_pictures_by_a_string(folder, tmp_path, monkeypatch):
    "The cells of the notebook, up to the encoded pictures: plain and masked ones are read by the model that is named"
    monkeypatch.chdir(tmp_path)
    notebook = root / 'nbs' / 'experiments' / '40_gaze.ipynb'
    model = f'hf:{folder / "dinov2"}'
    given = record.parameters(notebook) | dict(encoders=dict(image=model), sample=60)
    names = dict(display=lambda shown: None)
    for cell in keys.notebook_code(notebook):
        exec(cell['source'], names)
        if 'parameters' in cell['metadata'].get('tags', ()):
            names.update(given)
        if 'data' in names:
            break
    views = names['data'][None]['train']['image']
    assert {'pooled', 'gaze', 'pooled_flip', 'gaze_flip'} <= {*views.x} and views.x['pooled'].shape[1] == 16
    e, raw = encoder(model, 'image'), names['raw'][None]['train']['image']
    assert torch.allclose(views.x['pooled'][:3], e([names['Squared'](raw.x, e.size)[i] for i in range(3)])['pooled'])


def test_a_pair_is_a_method_without_training(folder, tmp_path):
    for i, im in enumerate(images):
        im.save(tmp_path / f'{i}.png')
    raw = dict(train=Views(image=View(Images(sorted(tmp_path.glob('*.png')))), text=View(texts[:4])))
    clip, dino = f'hf:{folder / "clip"}', f'hf:{folder / "dinov2"}'
    pair = encoded(raw, dict(image=clip, text=clip), tmp_path)['train']
    m = ZeroShot().fit(pair)
    model = hf.CLIPModel.from_pretrained(folder / 'clip').eval()
    tokens = make_tokenizer()(texts[:4], padding=True, truncation=True, max_length=24, return_tensors='pt')
    pixels = hf.AutoImageProcessor.from_pretrained(folder / 'clip')(images=images, return_tensors='pt')
    with torch.no_grad():
        expected = model(**pixels, input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
    scores = m.score('image', pair['image'].x, 'text', pair['text'].x)
    assert torch.allclose(scores, expected.logits_per_image / model.logit_scale.exp(), atol=1e-5)
    with pytest.raises(InputError, match='image 16, text 12'):
        ZeroShot().fit(encoded(raw, dict(image=dino, text=clip), tmp_path)['train'])
    both = encoded(raw, dict(image=f'{clip}+{dino}'), tmp_path)['train']['image'].x['pooled']
    assert torch.equal(both[:, :12], pair['image'].x['pooled']) and both.shape[1] == 28


def test_videos_through_a_picture_tower(folder):
    e = encoder(f'hf:{folder / "clip"}', 'video')
    frames = encoder(f'hf:{folder / "clip"}', 'image')(videos[0])['pooled']
    assert torch.allclose(e(videos)['pooled'][0], torch.cat([frames.mean(0), frames.amax(0)]), atol=1e-5)


def test_strings_reach_keys_and_pages(folder):
    named = named_definitions(dict(encoders=dict(image='lite2', text='minilm+tfidf:char')), index())
    assert {'EfficientNetLite', 'MiniLM', 'TfIdf'} <= {name for _, name in named}
    assert 'TransformersText' in {n for _, n in named_definitions(dict(encoders=dict(text='hf:o/n')), index())}
    assert plain_name(f'hf:{folder / "clip"}?layer=2') == 'hf:clip?layer=2'  # no place of this machine
    assert plain_name('EfficientNetLite+MiniLM') == plain_name('lite0 + minilm') == 'lite0+minilm'
    assert named_definitions(dict(encoders=dict(text=str(Path('/gone')))), index()) == set()
