"""Are generated pictures recognised? Sheets for somebody who has not seen them, and what was chosen.

    python tools/recognition.py RECORD.json FOLDER                  one sheet for each generator, and choices.json
    python tools/recognition.py RECORD.json FOLDER --by "by whom"   the filled choices.json, checked, becomes
                                                                    book/measured/recognition.json

`RECORD` is a record of 46_synthesise. On a sheet each picture has a number and five texts, a to e; `choices.json` takes
a letter for each picture, in their order: {"flow": "acbde…"}. The right texts are not on the sheets.
"""

import argparse
import base64
import datetime
import io
import json
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw

from crossmodal_nb.core.files import atomic, digest
from crossmodal_nb.core.settings import settings
from crossmodal_nb.runs.record import read

letters = 'abcde'


def sheet(cases, across=5, side=128, width=260):
    "A picture of all cases: each enlarged without smoothing, its texts below"
    height = side + 150
    page = Image.new('RGB', (across * width, -(-len(cases) // across) * height), 'white')
    pen = ImageDraw.Draw(page)
    for k, case in enumerate(cases):
        x, y = k % across * width + 10, k // across * height + 10
        picture = Image.open(io.BytesIO(base64.b64decode(case['picture']))).convert('RGB')
        page.paste(picture.resize((side, side), Image.Resampling.NEAREST), (x + 24, y))
        pen.text((x, y), str(k + 1), fill='black')
        for i, option in enumerate(case['options']):
            text = '\n   '.join(textwrap.wrap(f'{letters[i]}  {option}', 38)[:2])
            pen.text((x, y + side + 6 + 25 * i), text, fill='black')
    return page


def main():
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument('record', type=Path)
    asked.add_argument('folder', type=Path)
    asked.add_argument('--by', help='who has chosen, as the page shall say it')
    given = asked.parse_args()
    record = read(given.record)
    if not record or not record['tables'].get('trial'):
        raise SystemExit(f'{given.record} has no trial: give a record of 46_synthesise')
    trial, choices = record['tables']['trial'], given.folder / 'choices.json'
    if not given.by:
        given.folder.mkdir(parents=True, exist_ok=True)
        for name, cases in trial.items():
            sheet(cases).save(given.folder / f'{name}.png')
        choices.write_text(json.dumps(dict.fromkeys(trial, ''), indent=1))
        print(f'{given.folder}: {len(trial)} sheets. Fill in {choices}')
        return
    chosen = {name: said.lower() for name, said in json.loads(choices.read_text()).items() if said}
    for name, said in chosen.items():
        if name not in trial or len(said) != len(trial[name]) or set(said) - set(letters):
            raise SystemExit(f'{choices}: {name!r} needs {len(trial.get(name, ()))} letters of {letters}')
    with atomic(settings().root / 'book/measured/recognition.json') as f:
        numbers = {name: [letters.index(c) for c in said] for name, said in chosen.items()}
        today = datetime.date.today().isoformat()
        f.write(json.dumps(dict(trial=digest(trial), by=given.by, date=today, choices=numbers), indent=1))


if __name__ == '__main__':
    main()
