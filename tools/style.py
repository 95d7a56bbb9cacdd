"""How the source reads, in figures: line lengths, density, names, sizes.

`python tools/style.py [FOLDER ...]` measures packages of Python files (by default this project's own package), then the
notebooks of the checkout. Nothing is changed; `tests/test_house.py` holds the figures to their limits.
"""

import ast
import io
import json
import re
import sys
import tokenize
from pathlib import Path

root = Path(__file__).parent.parent
# words that say how things are related, not what a thing is
function_words = set(
    'at of by to on off so it its own said told found made seen beside whole apart what which who where whose when '
    'how with within without above below about after before between into from as than then here there this that these '
    'those one other others such same many most least much every each both either neither own'.split()
)


def magics_removed(source):
    "Notebook source as Python: magics become comments"
    return re.sub(r'^([%!])', r'#\1', source, flags=re.M)


def code_lines(source):
    "Lines that hold code: neither empty, nor only a comment"
    return [line for line in source.splitlines() if line.strip() and not line.strip().startswith('#')]


def bindings(tree):
    "Every name that a tree binds: assigned, defined, a parameter, imported under another name"
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.alias(asname=str(name)):
                yield name


def formula_lines(source):
    "Numbers of lines that hold a string of more than one line, or a link: they are not folded"
    long = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.STRING and token.start[0] != token.end[0]:
            long |= set(range(token.start[0], token.end[0] + 1))
    return long


def figures(sources):
    "Of a list of sources: the figures by which the project measures itself"
    lines, nodes, bound, semicolons = [], 0, [], 0
    for source in sources:
        source = magics_removed(source)
        tree = ast.parse(source)
        lines += code_lines(source)
        nodes += sum(1 for _ in ast.walk(tree))
        bound += bindings(tree)
        semicolons += sum(
            t.type == tokenize.OP and t.string == ';' for t in tokenize.generate_tokens(io.StringIO(source).readline)
        )
    lengths = sorted(map(len, lines))
    words = [name for name in bound if name in function_words]
    return {
        'lines': len(lines),
        'p90 line': lengths[int(0.9 * (len(lengths) - 1))],
        'longest line': lengths[-1],
        'lines over 120': sum(n > 120 for n in lengths),
        'nodes a line': round(nodes / len(lines), 1),
        'semicolons': semicolons,
        'function words, % of names': round(100 * len(words) / len(bound), 2),
    }


def cells(notebook):
    "Sources of the code cells of a notebook"
    results = json.loads(notebook.read_text())['cells']
    return [''.join(c['source']) for c in results if c['cell_type'] == 'code']


def exported(source):
    return bool(re.match(r'#\s*\|\s*export', source))


def package(folder):
    "Sources of a package, without what nbdev generates: its index, and the `__all__` of each module"
    files = [f for f in sorted(folder.rglob('*.py')) if f.name != '_modidx.py']
    return [re.sub(r'^# %% auto #0$.*?(?=^# %%)', '', f.read_text(), flags=re.M | re.S) for f in files]


def measured():
    "The project: its package, its experiments, the lessons of its notebooks, its tests"
    notebooks = [f for f in sorted((root / 'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in f.parts]
    experiments = [f for f in notebooks if f.parent.name == 'experiments']
    lessons = [s for f in notebooks if f not in experiments for s in cells(f) if not exported(s)]
    return {
        'package': figures(package(root / 'crossmodal_nb')),
        'experiments': figures([s for f in experiments for s in cells(f)]),
        'lessons': figures(lessons),
        'tests and tools': figures(
            [f.read_text() for d in ('tests', 'tools') for f in sorted((root / d).glob('*.py'))]
        ),
    }


def export_cells():
    "(lines, notebook) of every exported cell, the longest first"
    notebooks = [f for f in (root / 'nbs').rglob('*.ipynb') if not {'experiments', '.ipynb_checkpoints'} & set(f.parts)]
    sizes = [(len(s.splitlines()), str(f.relative_to(root))) for f in notebooks for s in cells(f) if exported(s)]
    return sorted(sizes, reverse=True)


def modules():
    "(lines, module), the longest first"
    files = [f for f in (root / 'crossmodal_nb').rglob('*.py') if f.name != '_modidx.py']
    return sorted(((len(f.read_text().splitlines()), str(f.relative_to(root))) for f in files), reverse=True)


def main():
    rows = {str(folder): figures(package(Path(folder))) for folder in sys.argv[1:]} or measured()
    for name, row in rows.items():
        print(name, *(f'  {measure:28} {value}' for measure, value in row.items()), sep='\n')
    if sys.argv[1:]:
        return
    print('longest exported cells', *(f'  {n:5} {place}' for n, place in export_cells()[:12]), sep='\n')
    print('longest modules', *(f'  {n:5} {place}' for n, place in modules()[:12]), sep='\n')


if __name__ == '__main__':
    main()
