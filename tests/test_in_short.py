"Every experiment answers first, in at most 40 words and 3 numbers"

import ast
import json
import re
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from crossmodal_nb.core.files import read_notebook
from crossmodal_nb.core.settings import settings
from crossmodal_nb.report.summaries import in_short, numbers
from crossmodal_nb.runs.keys import notebook_digest

root = Path(__file__).parents[1]
experiments = sorted((root / 'nbs' / 'experiments').glob('*.ipynb'))
without_answer = {'00_method'}  # it explains; it asks nothing of data
most_words, most_numbers = 40, 3


def calls_in_short(cell):
    "Whether a code cell calls `in_short`"
    calls = [node for node in ast.walk(ast.parse(''.join(cell['source']))) if isinstance(node, ast.Call)]
    return any(getattr(call.func, 'id', getattr(call.func, 'attr', None)) == 'in_short' for call in calls)


def answer_cells(notebook):
    "Code cells of a notebook file with the tag `answer` that call `in_short`"
    cells = json.loads(Path(notebook).read_text())['cells']
    tagged = [c for c in cells if c['cell_type'] == 'code' and 'answer' in c['metadata'].get('tags', ())]
    return [c for c in tagged if calls_in_short(c)]


def answer_of(markdown):
    "What stands between *In short.* and *So:*, or None"
    first = markdown.partition('\n')[0]
    found = re.match(r'\*\*In short\.\*\* (.*?)(?: \*\*So:\*\*.*)?$', first)
    return found and found[1]


def words(answer):
    "Words and numbers of an answer; an interval belongs to its number"
    return [w for w in re.sub(r'\[[^\]]*\]', '', answer).split() if re.search(r'\w', w)]


def too_long(markdown):
    "Why an output is no short answer; nothing if it is one, or says that there are no runs yet"
    answer = answer_of(markdown)
    if answer is None:
        return '' if markdown.startswith(('No ', 'Nothing ')) else 'no answer'
    n, m = len(words(answer)), len(numbers(answer))
    return f'{n} words, {m} numbers' if n > most_words or m > most_numbers else ''


def answers_on(page):
    "The Markdown of an executed page's answer cells"
    return [
        o['data']['text/markdown']
        for c in read_notebook(page).cells
        if c.cell_type == 'code' and 'answer' in c.metadata.get('tags', ())
        for o in c.outputs
        if 'text/markdown' in o.get('data', {})
    ]


def executed_pages():
    "Executed pages, of the book and of smoke runs, that today's notebooks have made"
    digests, s = {f.stem: notebook_digest(f) for f in experiments if answer_cells(f)}, settings(root)
    published = {p: s.book / 'records' / p.stem for p in sorted((s.book / 'pages').glob('*.ipynb'))}
    smoke = {p: p.parent for p in sorted((s.work / 'smoke').glob('*/*.ipynb'))}
    for page, folder in (published | smoke).items():
        record = folder / f'{read_notebook(page).metadata.get("crossmodal", {}).get("key", page.stem)}.json'
        if record.exists():
            made = json.loads(record.read_text())
            if made['digests']['notebook'] == digests.get(made['notebook']):
                yield page


@pytest.mark.parametrize('notebook', experiments, ids=lambda f: f.stem)
def test_each_experiment_answers_first(notebook):
    assert notebook.stem in without_answer or len(answer_cells(notebook)) == 1


def test_answers_of_todays_pages_are_short():
    wrong = {}
    for page in executed_pages():
        found = [too_long(markdown) for markdown in answers_on(page)] or ['no answer']
        if any(found):
            wrong[str(page)] = found
    assert not wrong


def test_a_long_answer_is_noticed(tmp_path):
    def why(*args, **kwargs):
        return too_long(in_short(*args, **kwargs).data)

    short = 'CLIP is ahead of CCA by +4.8 [2.1, 7.5] points, and by −1.0 [-3, 1] of R@10; 1,000 queries.'
    assert why(short) == why(short, 'take 1, 2, 3, 4 or 5.', {'1 2 3 4': '5 6'}) == ''
    assert why(f'{short} It takes 3 s.') == '19 words, 4 numbers'
    assert why(' '.join(['word'] * most_words)) == '' and why(' '.join(['word'] * 41), 'so.') == '41 words, 0 numbers'
    assert too_long('**So:** nothing.') == 'no answer' and too_long('No run has been published or made yet.') == ''

    def page(source, tags=('answer',), name='page.ipynb'):
        cell = new_code_cell(
            source,
            metadata=dict(tags=list(tags)),
            outputs=[new_output('display_data', {'text/markdown': '**In short.** Yes.'})],
        )
        (tmp_path / name).write_text(json.dumps(new_notebook(cells=[cell])))
        return tmp_path / name

    assert answer_cells(page('in_short("Yes.")')) and answers_on(page('x')) == ['**In short.** Yes.']
    assert not answer_cells(page('in_short("Yes.")', ())) and not answer_cells(page('Markdown("In short.")'))
