"Pictures from codes: U-Net, baselines and flow against naive twins, exact resumption, and clear words for bad input."

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.methods.flow import Flow, draw
from crossmodal_nb.methods.pictures import PCADecoder, as_images, check_spread, pixels
from crossmodal_nb.methods.translation import CodePairs, RidgeTranslator
from crossmodal_nb.nn.trainer import Collapse
from crossmodal_nb.nn.unet import UNet, time_code

g = torch.Generator().manual_seed(0)


def squares(n=24, side=8):
    "Codes that are colours, and squares of that colour"
    colour = torch.rand(n, 3, generator=g) * 2 - 1
    drawn = -torch.ones(n, 3, side, side)
    drawn[:, :, 2:6, 2:6] = colour[:, :, None, None]
    return colour, drawn


def pairs(n=60):
    colour, drawn = squares(n)
    return CodePairs(colour, drawn.flatten(1), torch.ones(n).double(), torch.arange(n))


# The network


def test_times_become_waves():
    code = time_code(torch.tensor([0.0, 0.3]), 6)
    waves = [w(0.3 * f) for w in (np.sin, np.cos) for f in (1, 1000**0.5, 1000)]
    np.testing.assert_allclose(code[1].numpy(), waves, atol=1e-4)
    assert code[0].tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize('widths', [(8,), (6, 10), (8, 12, 16)])
def test_a_unet_keeps_the_size_and_sees_every_pixel(widths):
    net = UNet(widths, context=4)
    for block in [*net.down, net.middle, *net.up]:
        nn.init.normal_(block.last.weight, std=0.1)
    nn.init.normal_(net.end.weight)
    x = torch.randn(2, 3, 8, 8, generator=g).requires_grad_()
    y = net(x, torch.zeros(2, 4))
    assert y.shape == x.shape
    (slope,) = torch.autograd.grad(y[0, 0, 0, 0], x)
    assert slope[0, :, 1, 1].all() and not slope[1].any()  # each picture by itself


@pytest.mark.parametrize('side', [(6, 6), (8, 4)])
def test_pictures_that_cannot_be_halved(side):
    with pytest.raises(InputError, match='divisible by 4'):
        UNet((4, 4, 4), context=4)(torch.zeros(1, 3, *side), torch.zeros(1, 4))


# Baselines


def test_pixels_and_back():
    red = Image.new('RGB', (64, 64), (255, 0, 0))
    x = pixels([red, Image.new('L', (10, 10), 255)], 16)
    assert x.shape == (2, 3, 16, 16) and x[0, 0].eq(1).all() and x[0, 1].eq(-1).all() and x[1].eq(1).all()
    assert np.array_equal(np.asarray(as_images(x)[0]), np.asarray(red.resize((16, 16))))
    assert np.asarray(as_images(torch.full((1, 3, 2, 2), 7.0))[0]).min() == 255


def test_a_linear_decoder_with_all_components_is_the_ridge():
    p = pairs()
    whole, ridge = PCADecoder(60, 0.05).fit(p), RidgeTranslator(0.05).fit(p)
    torch.testing.assert_close(whole.predict(p.codes[:5]), ridge.predict(p.codes[:5]), atol=1e-4, rtol=1e-3)
    few = PCADecoder(2, 0.05).fit(p)
    assert torch.linalg.matrix_rank(few.predict(p.codes) - few.mean, atol=1e-3) <= 2
    with pytest.raises(InputError, match='3 wide'):
        whole.predict(p.codes[:, :2])
    with pytest.raises(InputError, match='dim is 0'):
        PCADecoder(0)


def test_a_collapsed_generator_is_said():
    _, real = squares()
    same = real[:1].repeat(10, 1, 1, 1) + 1e-3 * torch.randn(10, 3, 8, 8, generator=g)
    with pytest.raises(Collapse, match='has collapsed'):
        check_spread(same, real)
    assert check_spread(real[:12], real[12:]) > 0.5


# The flow


def flow(**settings):
    trainer = dict(epochs=3, batch=8, lr=3e-3, accelerator='cpu') | settings.pop('trainer', {})
    return Flow(widths=(8, 8), context=8, average=0.9, **settings, trainer=trainer)


@pytest.fixture(scope='module')
def fitted():
    codes, drawn = squares()
    return flow().fit(codes, drawn), codes, drawn


def test_the_loss_is_the_error_of_the_velocity(fitted):
    m, codes, drawn = fitted
    m.eval()
    loss = float(m.loss(codes, drawn, torch.Generator().manual_seed(5)).detach())
    h = torch.Generator().manual_seed(5)
    t, noise, total = torch.randn(24, generator=h).sigmoid(), torch.randn(drawn.shape, generator=h), 0.0
    for i in range(24):
        x = (1 - t[i]) * noise[i] + t[i] * drawn[i]
        v = m.velocity(x[None], t[i : i + 1], m.read(codes[i : i + 1]), torch.ones(1, dtype=torch.bool))
        total += float((v[0] - (drawn[i] - noise[i])).square().mean().detach())
    assert loss == pytest.approx(total / 24, rel=1e-4)


def test_the_average_of_weights_is_that_of_a_loop():
    codes, drawn = squares(8)
    m = flow(trainer=dict(epochs=4))
    seen, step = [], Flow.after_step

    class Watched(Flow):
        def after_step(self):
            seen.append([p.detach().clone() for p in self.velocity.parameters()])
            step(self)

    m.__class__ = Watched
    torch.manual_seed(0)
    m.fit(codes, drawn)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = flow()
        start.build((3, 8, 8), 3)
    expected = [p.detach().clone() for p in start.velocity.parameters()]
    for k, weights in enumerate(seen, 1):
        decay = min(0.9, (1 + k) / (10 + k))
        expected = [decay * a + (1 - decay) * p for a, p in zip(expected, weights)]
    assert len(seen) == 4 == int(m.steps)
    for k, a in enumerate(expected):
        torch.testing.assert_close(getattr(m, f'average_{k}'), a, atol=1e-6, rtol=1e-5)


def test_guidance(fitted):
    "0 does not see the code, 1 is the plain conditional velocity, 2 goes as far again"
    m, codes, _ = fitted
    zero, one, two = (draw(m, codes[:3], 1, guidance) for guidance in (0, 1, 2))
    assert torch.equal(zero, draw(m, codes[3:6], 1, 0)) and not torch.allclose(one, draw(m, codes[3:6], 1, 1))
    torch.testing.assert_close(two - one, one - zero, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_drawing_is_eulers_rule(fitted):
    m, codes, _ = fitted
    strip = draw(m, codes[:2], steps=4, guidance=1.0, seed=3, strip=True)
    x = torch.stack([torch.randn(3, 8, 8, generator=h) for h in [torch.Generator().manual_seed(3)] for _ in range(2)])
    assert torch.equal(strip[0], x)
    for k in range(4):
        x = x + m.averaged(x, torch.full((2,), k / 4), m.read(codes[:2]), torch.ones(2, dtype=torch.bool)) / 4
        torch.testing.assert_close(strip[k + 1], x, atol=1e-5, rtol=1e-4)


def test_a_row_does_not_depend_on_the_others(fitted):
    m, codes, _ = fitted
    torch.testing.assert_close(draw(m, codes, 2)[:3], draw(m, codes[:3], 2), atol=1e-5, rtol=1e-4)
    assert not torch.equal(draw(m, codes[:2], 2, seed=1), draw(m, codes[:2], 2, seed=2))


def test_training_is_resumed_exactly(fitted, tmp_path):
    _, codes, drawn = fitted
    whole = flow(mirror=True).fit(codes, drawn)

    class Stop(Exception):
        pass

    def stop_in_second(m):
        if m.epoch == 1:
            raise Stop
        return 0.0

    half = flow(mirror=True, trainer=dict(ckpt=str(tmp_path)))
    half._check = lambda *_: stop_in_second
    with pytest.raises(Stop):
        half.fit(codes, drawn, valid=(codes, drawn))
    again = flow(mirror=True, trainer=dict(ckpt=str(tmp_path))).fit(codes, drawn)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values()))
    assert torch.equal(draw(whole, codes[:2], 2), draw(again, codes[:2], 2))


def test_validation_is_by_the_average_and_always_the_same(fitted):
    m, codes, drawn = fitted
    validate = m._check(codes, drawn)
    with torch.no_grad():
        first = validate(m)
        assert first == validate(m) < 0
        m.average_9.add_(1.0)
        assert validate(m) != first
        m.average_9.sub_(1.0)


def test_bad_input_to_the_flow(fitted):
    m, codes, drawn = fitted
    with pytest.raises(RuntimeError, match='not fitted'):
        draw(flow(), codes)
    with pytest.raises(InputError, match='3 wide'):
        draw(m, codes[:, :2])
    with pytest.raises(InputError, match='NaN'):
        draw(m, codes * float('nan'))
    with pytest.raises(InputError, match='guidance'):
        draw(m, codes, guidance=-1)
    with pytest.raises(InputError, match='at least 1 step'):
        draw(m, codes, steps=0)
    with pytest.raises(InputError, match='equal numbers'):
        flow().fit(codes, drawn[:5])
    with pytest.raises(InputError, match='divisible'):
        flow().fit(codes, drawn[:, :, :7, :7])
    with pytest.raises(InputError, match='even'):
        Flow(context=7)
    with pytest.raises(InputError, match='drop is 1'):
        Flow(drop=1)
