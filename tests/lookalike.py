"""A look-alike of Recipe1M in its exact formats: any number of made-up recipes, the same for everybody.

    python tests/lookalike.py FOLDER --recipes 20000                  layer1, layer2, det_ingrs, nutrition, remove1M.txt
    python tests/lookalike.py FOLDER --recipes 20000 --pictures 96    and every photo, 96 pixels wide

Ingredients are used by a power law; 39 % of the recipes have photos, 2.2 on average; 1 % repeat an earlier recipe; and
there is dirt: entities, odd spaces, capitals, fractions that lost their slash, photos lying on their side. A photo
shows the ingredients as coloured discs, so that there is something to find.
"""

import argparse
import colorsys
import json
from pathlib import Path

import numpy as np

kinds = (
    'red,green,fresh,dried,smoked,sweet,hot,wild,baby,whole,ground,frozen,roasted,raw,young,black,'
    'white,yellow,salted,canned'
).split(',')
things = (
    'onion,garlic,tomato,potato,carrot,pepper,mushroom,spinach,bean,lentil,rice,pasta,flour,sugar,'
    'butter,cream,milk,egg,cheese,chicken,beef,pork,'
    'salmon,shrimp,tuna,lemon,lime,orange,apple,banana,berry,cherry,peach,chocolate,cocoa,vanilla,'
    'cinnamon,ginger,basil,parsley,thyme,oregano,'
    'cumin,paprika,mustard,vinegar,oil,honey,walnut,almond,coconut,corn,pea,cabbage,celery,cucumber,'
    'avocado,olive,bread,yogurt'
).split(',')
foods = [*things, *(f'{k} {t}' for k in kinds for t in things)]  # 1,260 names, commonest first
dishes = (
    'soup,salad,stew,pie,cake,curry,bake,casserole,bread,cookies,tart,sandwich,risotto,chili,muffins,omelette'.split(
        ','
    )
)
units = 'cup,cups,tablespoons,teaspoon,ounces,pound,slices,pinch'.split(',')
steps = (
    'Preheat the oven to {t} degrees.',
    'Chop the {a} and the {b}.',
    'Heat the {a} in a large pan over medium heat for {t} minutes.',
    'Add the {a}, stir well, and cook until the {b} is soft.',
    'Mix the {a} with the {b} in a bowl; season to taste.',
    'Pour over the {a} and let it rest for {t} minutes before serving.',
    'Serve warm, with {b} on the side.',
    'Fold in the {a} gently, then the {b}, and bake until golden brown on top and cooked all the way through.',
)
nutrients = ('energy', 'fat', 'protein', 'salt', 'saturates', 'sugars')


def name(i, salt=1):
    "A ten-digit hexadecimal name, different for different i"
    return f'{(i * 0x9E3779B1D + salt * 0x5DEECE66D) % 2**40:010x}'


def recipes(n, seed=0, block=4096):
    "Yields dict(id, title, foods, ingredients, instructions, partition, images, valid)"
    weight = 1 / np.arange(1, len(foods) + 1) ** 0.9
    weight /= weight.sum()
    kept = []
    for position in range(0, n, block):
        g = np.random.default_rng([seed, position])
        m = min(block, n - position)
        n_food, n_step = np.minimum(1 + g.poisson(8, m), 40), np.minimum(1 + g.geometric(1 / 8, m), 60)
        draw = np.split(g.choice(len(foods), int(n_food.sum()), p=weight), np.cumsum(n_food)[:-1])
        actions = np.split(g.integers(0, 2**31, (int(n_step.sum()), 4)), np.cumsum(n_step)[:-1])
        u, n_photo, dirt = g.random((m, 3)), np.minimum(g.geometric(1 / 2.2, m), 12), g.integers(0, 40, m)
        for j in range(m):
            i, f = position + j, [foods[k] for k in dict.fromkeys(draw[j].tolist())]
            lines = [f'{(k * 7 + i) % 4 + 1} {units[(k + i) % len(units)]} {x}, chopped' for k, x in enumerate(f)]
            do = [
                steps[a % len(steps)].format(a=f[b % len(f)], b=f[c % len(f)], t=5 * (d % 12 + 1))
                for a, b, c, d in actions[j].tolist()
            ]
            title = f'{f[0].title()} and {f[-1].title()} {dishes[i % len(dishes)].title()}'
            if dirt[j] == 0:
                title, lines[0] = title.upper(), f'12 cup  {f[0]}\u00a0 &amp; salt'
            if dirt[j] == 1:
                do[0] = do[0] + ' <b>Enjoy&#33;</b>\n'
            if kept and u[j, 0] < 0.01:
                title, lines, do, f = kept[i % len(kept)]
            elif len(kept) < 500:
                kept.append((title, lines, do, f))
            yield dict(
                id=name(i),
                title=title,
                foods=f,
                ingredients=lines,
                instructions=do,
                partition='train' if u[j, 1] < 0.7 else 'val' if u[j, 1] < 0.85 else 'test',
                images=[f'{name(i * 16 + k, 2)}.jpg' for k in range(n_photo[j])] if u[j, 2] < 0.39 else [],
                i=i,
            )


class Array:
    "A json array written element by element"

    def __init__(self, path):
        self.file, self.first = open(path, 'w', encoding='utf-8'), True
        self.file.write('[')

    def add(self, x):
        self.file.write(('' if self.first else ', ') + json.dumps(x, ensure_ascii=self.first))
        self.first = False

    def close(self):
        self.file.write(']')
        self.file.close()


def make(root, n, seed=0, pictures=0):
    "Write the files of `n` recipes into the folder `root`; `pictures` is the width of the photos (0: none are drawn)"
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)

    def text(xs):
        return [dict(text=x) for x in xs]

    layer1, layer2, det, nutrition = (
        Array(root / f) for f in ('layer1.json', 'layer2.json', 'det_ingrs.json', 'recipes_with_nutritional_info.json')
    )
    removed = []
    for r in recipes(n, seed):
        layer1.add(
            dict(
                ingredients=text(r['ingredients']),
                url=f'example.org/{r["id"]}',
                partition=r['partition'],
                title=r['title'],
                id=r['id'],
                instructions=text(r['instructions']),
            )
        )
        det.add(
            dict(
                valid=[(k + r['i']) % 20 > 0 for k in range(len(r['foods']))],
                id=r['id'],
                ingredients=text(x.replace(' ', '_') for x in r['foods']),
            )
        )
        if r['images']:
            layer2.add(dict(id=r['id'], images=[dict(id=x, url=f'example.org/{x}') for x in r['images']]))
        if r['i'] % 20 == 0:
            nutrition.add(
                dict(id=r['id'], nutr_values_per100g=dict(zip(nutrients, ((r['i'] * k) % 97 / 10 for k in range(6)))))
            )
        if r['i'] % 26 == 0:
            removed.append(r['id'])
        for k, x in enumerate(r['images'] if pictures else []):
            draw(root / 'images' / r['partition'] / '/'.join(x[:4]) / x, r['foods'], r['i'] * 16 + k, pictures)
    for f in (layer1, layer2, det, nutrition):
        f.close()
    (root / 'remove1M.txt').write_text('\n'.join(removed) + '\n')
    return root


def draw(path, shown, seed, width):
    "A plate with a disc for each ingredient; one photo in fifty lies on its side and says so in its EXIF tag"
    from PIL import Image, ImageDraw

    g, position = np.random.default_rng(seed), {f: i for i, f in enumerate(things)}
    im = Image.new('RGB', (width, width * 3 // 4), tuple(g.integers(200, 256, 3).tolist()))
    pen = ImageDraw.Draw(im)
    for f in reversed(shown[:8]):
        hue = position[f.split()[-1]] / len(things)
        colour = tuple(int(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.5 + 0.5 * (len(f) % 2), 0.9))
        x, y, r = *(g.random(2) * [width, width * 0.75]), width * (0.08 + 0.1 * g.random())
        pen.ellipse((x - r, y - r, x + r, y + r), colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if seed % 50 == 0:
        im, exif[0x0112] = im.rotate(90, expand=True), 6  # "turn me right": upright again when read
    im.save(path, quality=85, exif=exif)


if __name__ == '__main__':
    p = argparse.ArgumentParser()
    p.add_argument('folder')
    p.add_argument('--recipes', type=int, default=20_000)
    p.add_argument('--pictures', type=int, default=0)
    p.add_argument('--seed', type=int, default=0)
    o = p.parse_args()
    make(o.folder, o.recipes, o.seed, o.pictures)
    print(
        f'{o.recipes:,} recipes:',
        ', '.join(f'{f.name} {f.stat().st_size / 1e6:.0f} MB' for f in sorted(Path(o.folder).glob('*.*'))),
    )
