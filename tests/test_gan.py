"A conditional GAN: losses against naive twins, who learns from what, exact resumption, and clear words for bad input."

import math

import numpy as np
import pytest
import torch

from crossmodal_nb.core.checks import InputError
from crossmodal_nb.data.views import View, Views
from crossmodal_nb.methods.gan import (
    GAN,
    Critic,
    Generator,
    augment,
    condition_kl,
    cosine_loss,
    generate,
    patch_statistics,
)
from crossmodal_nb.metrics.generation import kid

g = torch.Generator().manual_seed(0)


def squares(n=24, side=8):
    "Codes that are colours, and squares of that colour"
    colour = torch.rand(n, 3, generator=g) * 2 - 1
    drawn = -torch.ones(n, 3, side, side)
    drawn[:, :, 2:6, 2:6] = colour[:, :, None, None]
    return colour, drawn


def gan(**settings):
    trainer = dict(epochs=3, batch=8, lr=3e-3, accelerator='cpu') | settings.pop('trainer', {})
    return GAN(widths=(8, 12), noise=4, condition=6, average=0.9, **settings, trainer=trainer)


@pytest.fixture(scope='module')
def fitted():
    codes, drawn = squares()
    return gan().fit(codes, drawn), codes, drawn


def batch_of(codes, drawn, rows=8, seed=7):
    return Views(pair=View(dict(code=codes[:rows], picture=drawn[:rows]))).batch(torch.arange(rows), seed=seed)


# The networks


@pytest.mark.parametrize('side, widths', [(8, (4, 6)), (16, (4, 6, 8)), (32, (4, 4, 6, 8))])
def test_a_picture_follows_its_own_code_and_noise(side, widths):
    net = Generator(side, 5, widths, noise=3, condition=2)
    for block in net.blocks:
        torch.nn.init.normal_(block.last.weight, std=0.3)
    code, noise = torch.randn(2, 5, generator=g), torch.randn(2, 5, generator=g).requires_grad_()
    picture, mean, log_variance = net(code, noise)
    assert picture.shape == (2, 3, side, side) and picture.abs().max() <= 1
    assert mean.shape == log_variance.shape == (2, 2)
    (slope,) = torch.autograd.grad(picture[0].sum(), noise)
    assert slope[0].all() and not slope[1].any()


def test_the_conditioning_code_is_drawn_from_its_distribution():
    net = Generator(8, 5, (4, 6), noise=3, condition=2)
    code = torch.randn(1, 5, generator=g)
    mean, log_variance = net.condition(code).chunk(2, 1)
    unit = torch.tensor([[0.3, -1.2]])
    direct = Generator.forward(net, code, torch.cat([torch.zeros(1, 3), unit], 1))[0]
    context = torch.cat([torch.zeros(1, 3), mean + (log_variance / 2).exp() * unit], 1)
    with torch.no_grad():
        net.condition.weight.zero_()
        net.condition.bias.zero_()  # N(0, 1): the noise itself is the conditioning code
    torch.testing.assert_close(net(code, context)[0], direct)


def test_a_critic_sees_picture_and_code():
    critic = Critic(8, 3, (4, 6))
    x = torch.randn(4, 3 * 64 + 3, generator=g).requires_grad_()
    value = critic(x)
    (slope,) = torch.autograd.grad(value[1].sum(), x)
    assert value.shape == (4, 1) and slope[1, -3:].all() and (slope[1, :-3] != 0).float().mean() > 0.9
    assert not slope[[0, 2, 3]].any()


# Losses against twins


def test_the_divergence_is_that_of_the_formula():
    mean, log_variance = torch.randn(5, 3, generator=g), torch.randn(5, 3, generator=g)
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(condition_kl(mean, log_variance), expected)
    assert condition_kl(torch.zeros(2, 3), torch.zeros(2, 3)) == 0


def test_augmentation_is_that_of_a_loop():
    n, side = 6, 16
    x = torch.rand(n, 3, side, side, generator=g) * 2 - 1
    y = augment(x, torch.Generator().manual_seed(3))
    h = torch.Generator().manual_seed(3)
    bright, saturated, contrasted = (torch.rand(n, 1, 1, 1, generator=h).flatten().numpy() for _ in range(3))
    shift, place = (torch.rand(n, 2, generator=h).numpy() for _ in range(2))
    for i in range(n):
        p = x[i].numpy() + bright[i] - 0.5
        grey = p.mean(0)
        p = grey + 2 * saturated[i] * (p - grey)
        p = p.mean() + (0.5 + contrasted[i]) * (p - p.mean())
        down, across = (int(5 * s) - 2 for s in shift[i])
        top, left = (int(17 * s) - 4 for s in place[i])
        for r in range(side):
            for c in range(side):
                inside = 0 <= r + down < side and 0 <= c + across < side
                hole = top <= r < top + 8 and left <= c < left + 8
                expected = p[:, r + down, c + across] if inside and not hole else np.zeros(3)
                np.testing.assert_allclose(y[i, :, r, c].numpy(), expected, atol=1e-5)


def test_gradients_pass_through_the_augmentation():
    x = torch.rand(3, 3, 8, 8, generator=g, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, torch.Generator().manual_seed(1)), x)
    (slope,) = torch.autograd.grad(augment(x, torch.Generator().manual_seed(1)).square().sum(), x)
    assert slope.abs().sum((1, 2, 3)).min() > 0


def test_patches_are_those_of_a_loop():
    x = torch.rand(2, 3, 16, 16, generator=g)
    y = patch_statistics(x).view(2, 6, 8, 8)
    for i, c, r, k in ((0, 0, 0, 0), (1, 2, 3, 7), (0, 1, 7, 2)):
        patch = x[i, c, 2 * r : 2 * r + 2, 2 * k : 2 * k + 2].numpy()
        assert y[i, c, r, k] == pytest.approx(patch.mean(), abs=1e-5)
        assert y[i, 3 + c, r, k] == pytest.approx(patch.std(), abs=1e-3)
    assert patch_statistics(x[:, :, :8, :8]).shape == (2, 6 * 16)


def test_the_loss_of_every_network_is_that_of_a_loop(fitted):
    m, codes, drawn = fitted
    m.w_kl, m.w_consistency = 3.0, 7.0
    out = m(batch_of(codes, drawn))
    m.w_kl, m.w_consistency = 2.0, 32.0
    h = torch.Generator().manual_seed(7)
    z = (codes[:8] - codes.mean(0)) / codes.std(0, correction=0)
    fake, mean, log_variance = m.generator(z, torch.randn(8, 10, generator=h))
    fake, real = augment(fake, h), augment(drawn[:8], h)
    share = torch.rand(8, 1, generator=h)
    value, slopes, apart, consistency, read = [], [], [], [], []
    for i in range(8):
        right = torch.cat([real[i].flatten(), z[i]])
        generated = torch.cat([fake[i].flatten(), z[i]])
        wrong = generated if i % 2 == 0 else torch.cat([real[i].flatten(), z[i - 1]])
        between = (share[i] * right + (1 - share[i]) * wrong).detach().requires_grad_()
        (slope,) = torch.autograd.grad(m.critic(between[None]).sum(), between)
        slopes.append((float(slope.norm()) - 1) ** 2)
        apart.append(float((m.critic(wrong[None]) - m.critic(right[None])).detach()))
        value.append(-float(m.critic(generated[None]).detach()))
        for values, picture in ((consistency, fake), (read, real)):
            seen = m.reader(picture[i : i + 1])[0].detach().double()
            values.append(1 - float(seen @ z[i].double() / seen.norm() / z[i].double().norm()))
    expected = dict(
        fooled=np.mean(value),
        kl=float(condition_kl(mean, log_variance).detach()),
        consistency=np.mean(consistency),
        critic=np.mean(apart) + 10 * np.mean(slopes),
        apart=np.mean(apart),
        reader=np.mean(read),
    )
    for name, number in expected.items():
        assert float(out[name].detach()) == pytest.approx(number, abs=2e-4, rel=1e-3), name
    weights = dict(fooled=1, kl=3, consistency=7, critic=1, reader=1)
    total = sum(weight * expected[name] for name, weight in weights.items())
    assert float(out['loss'].detach()) == pytest.approx(total, abs=1e-3, rel=1e-3)


@pytest.mark.parametrize(
    'term, learns',
    dict(fooled='generator', kl='generator', consistency='generator', critic='critic', reader='reader').items(),
)
def test_each_network_learns_from_its_own_loss(fitted, term, learns):
    m, codes, drawn = fitted
    m.zero_grad()
    m(batch_of(codes, drawn))[term].backward()
    assert {n.split('.')[0] for n, p in m.named_parameters() if p.grad is not None and p.grad.any()} == {learns}
    m.zero_grad()


def test_cosine_loss_known_cases():
    a = torch.randn(4, 3, generator=g)
    assert cosine_loss(a, 2 * a) == pytest.approx(0, abs=1e-6)
    assert cosine_loss(a, -a) == pytest.approx(2, abs=1e-6)


# Training


def test_the_critic_learns_which_code_belongs_to_a_picture():
    codes, drawn = squares(64)
    m = gan(critic_lr_scale=1.0, trainer=dict(epochs=50, batch=16, lr=1e-2)).fit(codes, drawn)
    codes, drawn = squares(64)
    with torch.no_grad():
        right, wrong = (m.critic(torch.cat([drawn.flatten(1), m.read(codes.roll(k, 0))], 1)) for k in (0, 1))
    assert (right > wrong).float().mean() > 0.7


def test_the_average_of_weights_is_that_of_a_loop():
    codes, drawn = squares(8)
    seen = []

    class Watched(GAN):
        def after_step(self):
            seen.append([p.detach().clone() for p in self.generator.parameters()])
            super().after_step()

    m = gan(trainer=dict(epochs=4))
    m.__class__ = Watched
    m.fit(codes, drawn)
    with torch.random.fork_rng():
        torch.manual_seed(m.trainer.seed)
        start = gan()
        start.build(8, 3)
    expected = [p.detach().clone() for p in start.generator.parameters()]
    for k, weights in enumerate(seen, 1):
        decay = min(0.9, (1 + k) / (10 + k))
        expected = [decay * a + (1 - decay) * p for a, p in zip(expected, weights)]
    assert len(seen) == 4 == int(m.steps)
    for a, b in zip(m.average_generator.parameters(), expected):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_training_is_resumed_exactly(fitted, tmp_path):
    _, codes, drawn = fitted
    whole = gan().fit(codes, drawn)

    class Stop(Exception):
        pass

    def stop_in_second(m):
        if m.epoch == 1:
            raise Stop
        return 0.0

    half = gan(trainer=dict(ckpt=str(tmp_path)))
    half.checker = lambda *_: stop_in_second
    with pytest.raises(Stop):
        half.fit(codes, drawn, valid=(codes, drawn))
    again = gan(trainer=dict(ckpt=str(tmp_path))).fit(codes, drawn)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values()))
    assert torch.equal(generate(whole, codes[:2]), generate(again, codes[:2]))
    assert len(again.history) == 3 and set(again.history[0]) > {'critic', 'reader', 'kl', 'consistency', 'fooled'}


def test_the_epoch_is_chosen_by_the_kernel_distance_of_pairs(fitted):
    m, codes, drawn = fitted
    validate = m.checker(codes, drawn)
    first = validate(m)
    assert first == validate(m)

    def rows(pictures):
        scale = patch_statistics(drawn).std(0, correction=0).square().mean().sqrt()
        seen = (patch_statistics(pictures) - patch_statistics(drawn).mean(0)) / scale
        z = (codes - codes.mean(0)) / codes.std(0, correction=0)
        return torch.cat([seen, z * math.sqrt(seen.shape[1] / z.shape[1])], 1)

    assert first == pytest.approx(-kid(rows(generate(m, codes)), rows(drawn), 2).value, rel=1e-3)
    assert -kid(rows(drawn), rows(drawn), 2).value > -kid(rows(drawn.roll(1, 0)), rows(drawn), 2).value  # other texts
    chosen = gan(trainer=dict(epochs=4)).fit(codes, drawn, valid=(codes, drawn))
    assert chosen.checker(codes, drawn)(chosen) == pytest.approx(max(r['check'] for r in chosen.history), rel=1e-4)


# Drawing


def test_a_row_does_not_depend_on_the_others(fitted):
    m, codes, _ = fitted
    torch.testing.assert_close(generate(m, codes)[:3], generate(m, codes[:3]), atol=1e-5, rtol=1e-4)
    assert not torch.equal(generate(m, codes[:2], seed=1), generate(m, codes[:2], seed=2))
    assert not torch.equal(generate(m, codes[:1]), generate(m, codes[1:2]))


def test_bad_input(fitted):
    m, codes, drawn = fitted
    with pytest.raises(RuntimeError, match='not fitted'):
        generate(gan(), codes)
    with pytest.raises(InputError, match='3 wide'):
        generate(m, codes[:, :2])
    with pytest.raises(InputError, match='NaN'):
        generate(m, codes * float('nan'))
    with pytest.raises(InputError, match='equal numbers'):
        gan().fit(codes, drawn[:5])
    with pytest.raises(InputError, match='2 items'):
        gan().fit(codes, drawn, item=torch.zeros(24).long())
    with pytest.raises(InputError, match='divisible by 2'):
        gan().fit(codes, torch.zeros(24, 3, 9, 9))
    with pytest.raises(InputError, match='3, side, side'):
        gan().fit(codes, drawn.flatten(1))
    with pytest.raises(InputError, match='from −1 to 1'):
        gan().fit(codes, 3 * drawn)
    with pytest.raises(InputError, match='NaN'):
        gan().fit(codes, drawn * float('nan'))
    with pytest.raises(InputError, match='at least 4'):
        gan().fit(codes, drawn, valid=(codes[:3], drawn[:3]))
    with pytest.raises(InputError, match='two sizes'):
        GAN(widths=(8,))
