"""No verdict is typed by hand: what one method is against another is said by `uncertainty.phrase` and the functions
beside it, from a comparison.

Looked at are the pages: text cells and string literals of the experiments, and the book's own pages. The lab notes are
left out: a dated diary, whose entries state what was concluded on their date (their first lines say so).
"""

import ast
import json
import re

import pytest

from crossmodal_nb.core.settings import settings
from crossmodal_nb.report import advice
from crossmodal_nb.runs import record

words = (
    'significant(?! digits)',
    'significantly',
    'insignificant',
    'beats',
    'beaten',
    'outperforms?',
    'outperformed',
    '(?:is|are|was|were|stays?) (?:far |clearly )?(?:ahead|behind)',
    'as good as',
    'no better',
    'better than',
    'worse than',
    'best method',
    'wins (?:over|against)',
    'buys nothing',
    'within noise',
    'is enough',
    'does not help',
    'do not help',
    'helps',
    'pays off',
)
verdict = re.compile(rf'\b(?:{"|".join(words)})\b', re.IGNORECASE)
makers = {
    'phrase',
    'phrase_advice',
    'compare',
    'against',
    'simplest',
    'decisions',
    'surprises',
    'search',
    'match',
    'sub',
    'compile',
}  # calls whose arguments are no prose

asked = re.compile(
    r'\b(?:who|what|whether|by which)\b[^.;:!]*$', re.IGNORECASE
)  # before a verdict: an indirect question, or the name of a column

allowed = {  # page: beginnings of sentences that define a verdict, or speak of no comparison of methods
    'glossary.md': ('*Ahead* and *behind*',)
}


def sentences(text):
    "Sentences of a text without code, formulas and the addresses of links"
    text = re.sub(r'```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)|\{cite:\w\}', ' ', text, flags=re.DOTALL)
    return [s.strip() for s in re.split(r'(?<=[.!?:;])\s+|\n\s*\n|\n(?=[*#|-])', text) if s.strip()]


def typed(text):
    "Sentences that give a verdict. A question gives none"
    return [
        s
        for s in sentences(text)
        if not s.endswith('?') and any(not asked.search(s[: m.start()]) for m in verdict.finditer(s))
    ]


def literals(source):
    """String literals of code, outside of calls that make verdicts, of patterns and of subscripts; those with a blank
    are prose
    """
    tree, left_out = (
        ast.parse('\n'.join(line for line in source.splitlines() if not line.startswith(('%', '!')))),
        set(),
    )
    for node in ast.walk(tree):
        produced = isinstance(node, ast.Call) and getattr(node.func, 'attr', getattr(node.func, 'id', '')) in makers
        if produced:
            left_out |= {id(n) for a in [*node.args, *[k.value for k in node.keywords]] for n in ast.walk(a)}
        if isinstance(node, ast.Subscript):
            left_out |= {id(n) for n in ast.walk(node.slice)}
    return [
        n.value
        for n in ast.walk(tree)
        if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in left_out and ' ' in n.value
    ]


def pages():
    s = settings()
    yield from sorted((s.nbs_path / 'experiments').glob('*.ipynb'))
    yield from (s.book / f'{name}.md' for name in ('index', 'explorer', 'reproduce', 'cluster', 'glossary'))


def found(path):
    if path.suffix == '.md':
        texts = [path.read_text()]
    else:
        cells = [(c['cell_type'], ''.join(c['source'])) for c in json.loads(path.read_text())['cells']]
        texts = [
            t
            for kind, source in cells
            for t in ([source] if kind == 'markdown' else literals(source) if kind == 'code' else [])
        ]
    return [s for t in texts for s in typed(t) if not s.startswith(allowed.get(path.name, ()))]


@pytest.mark.parametrize('path', list(pages()), ids=lambda p: p.name)
def test_no_verdict_is_typed_by_hand(path):
    assert not (output := found(path)), f'{path.name} says what only a comparison may say:\n' + '\n'.join(output)


def test_the_lint_finds_what_it_should_and_nothing_else():
    for text in (
        'DCCA is significantly ahead.',
        'CLIP beats CCA.',
        'A triplet is as good as it gets.',
        '**SM is enough.**',
        'It helps.\n\nWhy?',
    ):
        assert typed(text), text
    for text in (
        'Is DCCA ahead of CCA?',
        '## Which method wins?',
        'Six significant digits are kept.',
        '## Who is ahead',
        'Whether one is ahead of another is said below.',
        'points by which DSCMR is ahead',
        '`significant` is a field.',
        'See [the page](beats.md).',
        'The loss goes down.',
    ):
        assert not typed(text), text
    code = "show(f'{m} beats {n}')\nphrase(c, 'is ahead of')\nrow['better than'] = 1\nx = 'beats'"
    assert literals(code) == [' beats '] and typed(' beats ')


def test_the_diary_says_that_it_is_one():
    head = (settings().book / 'lab_notes.md').read_text()[:600]
    assert 'entries state what was concluded on their date' in head and 'the pages are what holds' in head


def test_advice_asks_for_methods_by_the_names_that_records_have():
    for question in [q for q in advice.questions if 'order' in q]:
        files = [f for e in question['entries'] for f in (settings().book / 'records' / e).glob('*.json')]
        named = {row['method'] for f in files for row in record.read(f)['rows'] if row.get('method')}
        known = named | {name.partition(', ')[0] for name in named}
        assert files and set(question['order']) <= known, question['have']
