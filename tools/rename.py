"""Apply `crossmodal_nb/names.toml` to a checkout: `python tools/rename.py [FOLDER] [--write]`.

Only the characters of an identifier change; formatting and comments stay. Notebooks are found by `#| default_exp`,
never by their file names. A word is renamed where it resolves to what the map means, not where a local variable has the
same spelling. What cannot be decided is printed as *unsure*; `tools/rename.toml` holds the decisions of a person. A
file in which a new name is bound already is reported and left as it is. Without `--write` nothing is written.
"""

import argparse
import ast
import io
import json
import re
import sys
import tokenize
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = 'crossmodal_nb'
FOREIGN = ('foreign', None)  # what is known to be no thing of the project: a number, a tensor, another library
FLUENT = {
    'fit',
    'example',
    'partial_fit',
    'stage',
    'grow',
    'mine',
    'start_from',
    'eval',
    'train',
    'at',
    'with_second',
    'merge',
    'fit_classes',
    'add_view',
    'with_params',
    'join',
}  # methods that return an object of their own class
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


# The map


@dataclass
class Entry:
    "A line of the map"

    owner: str  # Module, class or function before the dot; `*` is any class; empty where there is no dot
    old: str
    new: str


class Map:
    "The map, and the decisions of a person about what cannot be inferred"

    def __init__(self, names, decisions=None):
        self.kinds = {kind: list(self.entries(names.get(kind, {}))) for kind in ('names', 'attributes', 'parameters')}
        decisions = decisions or {}
        self.receivers = decisions.get('receivers', {})
        self.unsure = decisions.get('unsure', {})
        self.sites = decisions.get('sites', {})
        self.texts = decisions.get('texts', {})
        self.leave = decisions.get('prose', {}).get('leave', [])

    @staticmethod
    def entries(table):
        for old, new in table.items():
            owner, _, name = old.rpartition('.')
            yield Entry(owner, name, new)

    def of(self, kind, old):
        "Entries of a kind for a spelling"
        return [e for e in self.kinds[kind] if e.old == old]

    def words(self, kind):
        return {e.old for e in self.kinds[kind]}

    def name(self, module, old):
        "The new name of what `module` defines, or None; a key with the module's name goes before one without"
        found = [e for e in self.of('names', old) if not e.owner or e.owner in (module, *module.split('.'))]
        return max(found, key=lambda e: len(e.owner)).new if found else None

    def parameter(self, notebook, old):
        "The new name of a parameter of an experiment, or None"
        return next((e.new for e in self.of('parameters', old) if e.owner == notebook), None)

    def decision(self, word, line, file=''):
        "What a person decided about an unsure site: a new name, `-` to leave it, or None"
        place = f'{file}: {line.strip()}'
        decided = next((new for pattern, new in self.sites.get(word, []) if pattern in place), None)
        return decided or self.unsure.get(word)


# Sources: a file of Python, or all code cells of a notebook as one


@dataclass
class Source:
    "Python text, where its lines come from, and whether they are exported"

    path: Path
    lines: list  # As they are
    plain: list  # The same, magics blanked out
    module: str = ''  # `default_exp`, if there is one
    spans: list = field(default_factory=list)  # (cell, first line, number of lines, exported)
    tree: ast.Module = None

    def exported(self, line):
        return not self.module or any(first <= line - 1 < first + n and told for _, first, n, told in self.spans)

    def place(self, line):
        for cell, first, n, _ in self.spans:
            if first <= line - 1 < first + n:
                return f'{self.path.name}, cell {cell}, line {line - first}'
        return f'{self.path.name}, line {line}'


def blanked(lines):
    "Lines of a cell with magics (and what a cell magic governs) replaced by nothing that Python minds"
    if lines and lines[0].startswith('%%'):
        return [''] * len(lines)
    out = []
    for line in lines:
        indent = line[: len(line) - len(line.lstrip())]
        out.append(f'{indent}pass' if re.match(r'\s*[%!]', line) else line)
    return out


def notebook_source(path, nb):
    "All code cells of a notebook as one source; a cell that is no Python is blank"
    source = Source(path, [], [])
    for i, cell in enumerate(nb['cells']):
        if cell['cell_type'] != 'code':
            continue
        lines = ''.join(cell['source']).split('\n')
        plain = blanked(lines)
        try:
            ast.parse('\n'.join(plain))
        except SyntaxError:
            plain = [''] * len(lines)
        exported = any(re.match(r'#\|\s*(export|exporti|exports)\b', line) for line in lines)
        source.spans.append((i, len(source.lines), len(lines), exported))
        source.lines += lines
        source.plain += plain
        if m := re.search(r'^#\|\s*default_exp\s+([\w.]+)', '\n'.join(lines), re.M):
            source.module = m[1].removesuffix('.__init__')
    source.tree = parsed('\n'.join(source.plain))
    return source


def python_source(path, text):
    lines = text.split('\n')
    return Source(path, lines, lines, tree=parsed(text))


# Positions within f-strings are wrong before Python 3.12: they are counted anew


def parsed(text):
    tree = ast.parse(text)
    if sys.version_info < (3, 12):
        mend(tree, text)
    return tree


def fields_of(token):
    "(offset, text) of the expressions of an f-string's source, an inner one after the outer"
    start = re.match(r'\w*("""|\'\'\'|"|\')', token).end()
    end, i = len(token) - len(re.match(r'\w*("""|\'\'\'|"|\')', token)[1]), start

    def literal(i, nested):
        while i < end:
            if token[i] == '{' and token[i : i + 2] == '{{' and not nested:
                i += 2
            elif token[i] == '{':
                i = yield from expression(i + 1)
            elif token[i] == '}' and nested:
                return i
            else:
                i += 1
        return i

    def expression(i):
        first, depth, quote = i, 0, ''
        while i < end:
            c = token[i]
            if quote:
                quote = '' if c == quote else quote
            elif c in '"\'':
                quote = c
            elif c in '([{':
                depth += 1
            elif depth and c in ')]}':
                depth -= 1
            elif not depth and (c in '}:' or c == '!' and token[i + 1] != '='):
                break
            i += 1
        text = token[first:i]
        yield first, re.sub(r'(?<![=!<>])=\s*$', '', text)
        if token[i] == '!':
            i = next(j for j in range(i, end) if token[j] in ':}')
        if token[i] == ':':
            i = yield from literal(i + 1, True)
        return i + 1

    yield from literal(i, False)


def mend(tree, text):
    "Right positions for all nodes within f-strings"
    joined = list(outer_strings(tree))
    if not joined:
        return
    lines = text.split('\n')
    strings = [
        (t, (t.start[0], byte_column(lines, t.start)))
        for t in tokenize.generate_tokens(io.StringIO(text).readline)
        if t.type == tokenize.STRING and 'f' in re.match(r'\w*', t.string)[0].lower()
    ]
    for node in joined:
        first, last = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
        values = list(formatted(node))
        spots = []
        for t, at in strings:
            if first <= at < last:
                spots += [(t.start, t.string, offset, inner) for offset, inner in fields_of(t.string)]
        if len(spots) != len(values):
            raise ValueError(f'line {node.lineno}: an f-string that is not understood')
        for value, (start, token, offset, inner) in zip(values, spots):
            before = token[:offset]
            row = start[0] + before.count('\n')
            column = len(before.rpartition('\n')[2]) + (0 if '\n' in before else start[1])
            shift = byte_column(lines, (row, column))
            again = ast.parse(f'({inner})', mode='eval').body
            mend(ast.Expression(again), f'({inner})')
            for a, b in zip(ast.walk(value.value), ast.walk(again)):
                if not hasattr(b, 'lineno'):
                    continue
                a.lineno, a.end_lineno = row + b.lineno - 1, row + b.end_lineno - 1
                a.col_offset = b.col_offset + (shift - 1 if b.lineno == 1 else 0)
                a.end_col_offset = b.end_col_offset + (shift - 1 if b.end_lineno == 1 else 0)


def byte_column(lines, start):
    return len(lines[start[0] - 1][: start[1]].encode())


def outer_strings(node):
    "f-strings that are not within another"
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.JoinedStr):
            yield child
        else:
            yield from outer_strings(child)


def formatted(node):
    "The replacement fields of an f-string in the order of its source, without those of strings within them"
    for value in node.values:
        if isinstance(value, ast.FormattedValue):
            yield value
            if value.format_spec:
                yield from formatted(value.format_spec)


# Scopes


class Scope:
    "Names bound in a module, class, function, lambda or comprehension"

    def __init__(self, node, parent):
        self.node, self.parent = node, parent
        self.bindings, self.outside = {}, set()

    def bind(self, name, node, value=None):
        self.bindings.setdefault(name, []).append((node, value))

    def lookup(self, name, position=None):
        "(scope, binding) that a use of `name` here refers to, or (None, None)"
        scope, inner = self, True
        while scope:
            visible = inner or not isinstance(scope.node, ast.ClassDef)
            if visible and name in scope.bindings and name not in scope.outside:
                return scope, scope.latest(name, position)
            inner, scope = False, scope.parent
        return None, None

    def latest(self, name, position):
        "In a module the last binding before the use, elsewhere the first"
        found = self.bindings[name]
        if position is None or not isinstance(self.node, ast.Module):
            return found[0]
        before = [b for b in found if (b[0].lineno, b[0].col_offset) <= position]
        return before[-1] if before else found[0]

    def enclosing_class(self):
        scope = self
        while scope and not isinstance(scope.node, ast.ClassDef):
            scope = scope.parent
        return scope

    def function(self):
        scope = self
        while scope and not isinstance(scope.node, FUNCTIONS):
            scope = scope.parent
        return scope


class Scopes(ast.NodeVisitor):
    "The scope of every node"

    def __init__(self, tree):
        self.of, self.parents = {}, {}
        self.scope = Scope(tree, None)
        self.module = self.scope
        for node in ast.walk(tree):
            for child in ast.iter_child_nodes(node):
                self.parents[child] = node
        self.visit(tree)

    def visit(self, node):
        self.of[node] = self.scope
        super().visit(node)

    def within(self, node, parts):
        outer, self.scope = self.scope, Scope(node, self.scope)
        self.of[('inner', node)] = self.scope
        for part in parts:
            self.visit(part)
        self.scope = outer

    def visit_function(self, node):
        self.scope.bind(node.name, node)
        a = node.args
        every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        outside = [*node.decorator_list, *a.defaults, *filter(None, a.kw_defaults), *filter(None, [node.returns])]
        for part in [*outside, *(x.annotation for x in every if x.annotation)]:
            self.visit(part)
        self.within(node, [])
        inner = self.of['inner', node]
        outer, self.scope = self.scope, inner
        for x in every:
            self.of[x] = inner
            inner.bind(x.arg, x)
        for part in node.body:
            self.visit(part)
        self.scope = outer

    visit_FunctionDef = visit_AsyncFunctionDef = visit_function

    def visit_Lambda(self, node):
        a = node.args
        for part in [*a.defaults, *filter(None, a.kw_defaults)]:
            self.visit(part)
        outer, self.scope = self.scope, Scope(node, self.scope)
        for x in [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]:
            self.of[x] = self.scope
            self.scope.bind(x.arg, x)
        self.visit(node.body)
        self.scope = outer

    def visit_ClassDef(self, node):
        self.scope.bind(node.name, node)
        for part in [*node.decorator_list, *node.bases, *node.keywords]:
            self.visit(part)
        self.within(node, node.body)

    def visit_comprehension_scope(self, node):
        self.visit(node.generators[0].iter)
        outer, self.scope = self.scope, Scope(node, self.scope)
        for i, g in enumerate(node.generators):
            self.visit(g.target)
            if i:
                self.visit(g.iter)
            for test in g.ifs:
                self.visit(test)
        parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for part in parts:
            self.visit(part)
        self.scope = outer

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_comprehension_scope

    def visit_Global(self, node):
        self.scope.outside |= set(node.names)

    visit_Nonlocal = visit_Global

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Load):
            return
        scope = self.scope
        if isinstance(self.parents.get(node), ast.NamedExpr):
            while isinstance(scope.node, COMPREHENSIONS):
                scope = scope.parent
        scope.bind(node.id, node, self.value(node))

    def value(self, node):
        "The expression that a name is assigned, if it is one"
        parent = self.parents[node]
        if isinstance(parent, ast.Assign):
            return parent.value
        if isinstance(parent, (ast.AnnAssign, ast.NamedExpr)):
            return parent.value
        if isinstance(parent, ast.withitem):
            return parent.context_expr
        if isinstance(parent, (ast.Tuple, ast.List)) and isinstance(self.parents[parent], ast.Assign):
            value = self.parents[parent].value
            if isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(parent.elts):
                return value.elts[parent.elts.index(node)]
        return None

    def visit_alias(self, node):
        self.scope.bind(node.asname or node.name.partition('.')[0], node)

    def visit_ExceptHandler(self, node):
        if node.name:
            self.scope.bind(node.name, node)
        self.generic_visit(node)


# What the project defines


@dataclass
class Class:
    "A class of the project, or of a test, with the classes it stands on"

    name: str
    node: ast.ClassDef
    unit: 'Unit'
    bases: list = field(default_factory=list)

    def mro(self):
        out = [self]
        for b in self.bases:
            out += [c for c in b.mro() if c not in out]
        return out

    def family(self):
        return {c.name for c in self.mro()}

    def methods(self):
        return {n.name: n for n in self.node.body if isinstance(n, FUNCTIONS)} | self.unit.patched.get(self.name, {})

    def method(self, name):
        return next((c.methods()[name] for c in self.mro() if name in c.methods()), None)

    def values(self, name):
        "What `self.name` is assigned in the class's own methods"
        for n in ast.walk(self.node):
            if isinstance(n, ast.Assign) and len(n.targets) == 1:
                target, value = n.targets[0], n.value
                pairs = [(target, value)]
                if (
                    isinstance(target, ast.Tuple)
                    and isinstance(value, ast.Tuple)
                    and len(target.elts) == len(value.elts)
                ):
                    pairs = list(zip(target.elts, value.elts))
                for t, v in pairs:
                    if is_self(t, name):
                        yield v

    def own(self):
        "Names of its methods, fields and attributes"
        out = set(self.methods())
        for n in self.node.body:
            targets = n.targets if isinstance(n, ast.Assign) else [n.target] if isinstance(n, ast.AnnAssign) else []
            out |= {m.id for t in targets for m in ast.walk(t) if isinstance(m, ast.Name)}
        for n in ast.walk(self.node):
            if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store) and is_self(n, n.attr):
                out.add(n.attr)
        return out


def is_self(node, name):
    return (
        isinstance(node, ast.Attribute)
        and node.attr == name
        and isinstance(node.value, ast.Name)
        and node.value.id == 'self'
    )


class Unit:
    "A source with its scopes and classes"

    def __init__(self, source):
        self.source, self.scopes = source, Scopes(source.tree)
        self.classes = {}
        self.patched = {}
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                self.classes[node] = Class(node.name, node, self)
            if isinstance(node, FUNCTIONS) and (owner := patch_owner(node)):
                self.patched.setdefault(owner, {})[node.name] = node

    @property
    def module(self):
        return self.source.module


def patch_owner(node):
    "The class that a function is patched into by fastcore"
    if not isinstance(node, FUNCTIONS):
        return None
    names = {getattr(d, 'id', getattr(getattr(d, 'func', None), 'id', '')) for d in node.decorator_list}
    first = node.args.args[0] if node.args.args else None
    if names & {'patch', 'patch_to'} and first is not None and first.annotation is not None:
        return ast.unparse(first.annotation).strip('\'"')
    return None


class Project:
    "All notebooks with a `default_exp`, by module"

    def __init__(self, units):
        self.units = list(units)
        self.modules = {}
        for u in self.units:
            if u.module:
                self.modules[u.module] = u
        for u in self.units:
            for node, cls in u.classes.items():
                for base in node.bases:
                    kind, value = self.infer(base, u)
                    if kind == 'class':
                        cls.bases.append(value)

    def definition(self, module, name, seen=()):
        "(module, name) where something that can be imported from `module` is defined"
        u = self.modules.get(module)
        if u is None or (module, name) in seen:
            return None
        for node, _ in u.scopes.module.bindings.get(name, []):
            if not u.source.exported(node.lineno):
                continue
            if isinstance(node, ast.alias):
                origin = self.imported(node, u)
                found = origin and self.definition(*origin, seen=(*seen, (module, name)))
                if found:
                    return found
            else:
                return module, name
        return None

    def imported(self, alias, unit):
        "(module, name) that an alias of a from-import means within the package; the name is empty for a module"
        parent = unit.scopes.parents[alias]
        if isinstance(parent, ast.Import):
            full = alias.name if alias.asname else alias.name.partition('.')[0]
            return (self.short(full), '') if full.split('.')[0] == PACKAGE else None
        base = parent.module or ''
        if parent.level:
            base = PACKAGE + ('.' + base if base else '')
        if base.split('.')[0] != PACKAGE:
            return None
        module = self.short(base)
        inner = f'{module}.{alias.name}'.strip('.')
        if inner in self.modules and not (module in self.modules and self.definition(module, alias.name)):
            return inner, ''
        return module, alias.name

    @staticmethod
    def short(module):
        return module.removeprefix(PACKAGE).lstrip('.')

    # Inference: ('class', Class), ('object', Class), ('module', name), ('function', (node, unit)), FOREIGN,
    # or (None, None)

    def infer(self, node, unit, depth=0):
        if depth > 12 or node is None:
            return None, None

        def again(n):
            return self.infer(n, unit, depth + 1)

        if isinstance(node, (ast.Constant, ast.JoinedStr, ast.Compare)):
            return FOREIGN
        if isinstance(node, (ast.BinOp, ast.UnaryOp)):
            return FOREIGN
        if isinstance(node, ast.Name):
            return self.infer_name(node, unit, depth)
        if isinstance(node, ast.Attribute):
            return self.infer_attribute(node, unit, depth)
        if isinstance(node, ast.Call):
            return self.infer_call(node, unit, depth)
        if isinstance(node, ast.Subscript):
            kind, value = again(node.value)
            if kind == 'object' and 'Views' in value.family():
                return self.named_class('View')
            if kind == 'object' and value.name == 'View':
                return kind, value
            return None, None  # what a foreign container holds may well be ours
        if isinstance(node, ast.IfExp):
            return next(
                (t for t in map(again, (node.body, node.orelse)) if t[0] not in (None, 'foreign')), (None, None)
            )
        if isinstance(node, ast.BoolOp):
            return next((t for t in map(again, node.values) if t[0] not in (None, 'foreign')), (None, None))
        if isinstance(node, ast.NamedExpr):
            return again(node.value)
        return None, None

    def named_class(self, name):
        for u in self.units:
            for c in u.classes.values():
                if c.name == name and u.module:
                    return 'object', c
        return None, None

    def annotated(self, annotation, unit):
        "What an annotation says"
        if annotation is None:
            return None, None
        text = ast.unparse(annotation).strip('\'"').split('|')[0].split('[')[0].strip()
        kind, value = self.named_class(text)
        if kind:
            return kind, value
        known = {
            'Tensor',
            'torch.Tensor',
            'str',
            'int',
            'float',
            'bool',
            'np.ndarray',
            'Path',
            'nn.Module',
            'nn.Sequential',
        }
        return FOREIGN if text in known else (None, None)

    def infer_name(self, node, unit, depth):
        scope, binding = unit.scopes.of.get(node, unit.scopes.module).lookup(node.id, (node.lineno, node.col_offset))
        if binding is None:
            return None, None
        at, value = binding
        if isinstance(at, ast.alias):
            origin = self.imported(at, unit)
            if origin is None:
                return FOREIGN
            module, name = origin
            return ('module', module) if not name else self.infer_definition(module, name, depth)
        if isinstance(at, ast.ClassDef):
            return 'class', unit.classes[at]
        if isinstance(at, FUNCTIONS):
            return 'function', (at, unit)
        if isinstance(at, ast.arg):
            return self.infer_argument(at, scope, unit)
        return self.infer(value, unit, depth + 1)

    def infer_definition(self, module, name, depth):
        where = self.definition(module, name)
        if where is None:
            return None, None
        u = self.modules[where[0]]
        for node, value in u.scopes.module.bindings.get(where[1], []):
            if isinstance(node, ast.ClassDef):
                return 'class', u.classes[node]
            if isinstance(node, FUNCTIONS):
                return 'function', (node, u)
            return self.infer(value, u, depth + 1)
        return None, None

    def infer_argument(self, arg, scope, unit):
        outer = scope.parent.enclosing_class() if scope.parent and isinstance(scope.parent.node, ast.ClassDef) else None
        if outer is not None and isinstance(scope.node, FUNCTIONS) and scope.node.args.args[:1] == [arg]:
            static = any(getattr(d, 'id', '') == 'staticmethod' for d in scope.node.decorator_list)
            if not static:
                return ('class' if arg.arg == 'cls' else 'object'), unit.classes[outer.node]
        if (
            isinstance(scope.node, FUNCTIONS)
            and (owner := patch_owner(scope.node))
            and scope.node.args.args[:1] == [arg]
        ):
            return self.named_class(owner)
        return self.annotated(arg.annotation, unit)

    def infer_attribute(self, node, unit, depth):
        kind, value = self.infer(node.value, unit, depth + 1)
        if kind == 'foreign':
            return FOREIGN
        if kind == 'module':
            inner = f'{value}.{node.attr}'.strip('.')
            if inner in self.modules:
                return 'module', inner
            return self.infer_definition(value, node.attr, depth)
        if kind == 'object':
            method = value.method(node.attr)
            if method is not None and any(
                getattr(d, 'id', '') in ('property', 'cached_property') for d in method.decorator_list
            ):
                return self.annotated(method.returns, unit)
            for c in value.mro():
                for v in c.values(node.attr):
                    return self.infer(v, c.unit, depth + 1)
        return None, None

    def infer_call(self, node, unit, depth):
        f = node.func
        if isinstance(f, ast.Name) and f.id == 'super':
            cls = unit.scopes.of[node].enclosing_class()
            return ('object', unit.classes[cls.node]) if cls else (None, None)
        if isinstance(f, ast.Name) and f.id in (
            'len',
            'str',
            'int',
            'float',
            'sum',
            'sorted',
            'set',
            'list',
            'min',
            'max',
            'zip',
            'open',
        ):
            return FOREIGN
        if isinstance(f, ast.Call) and getattr(f.func, 'id', '') == 'type' and len(f.args) == 1:
            return self.infer(f.args[0], unit, depth + 1)
        kind, value = self.infer(f, unit, depth + 1)
        if kind == 'class':
            return 'object', value
        if kind == 'foreign':
            return FOREIGN
        if kind == 'function':
            return self.annotated(value[0].returns, value[1])
        if isinstance(f, ast.Attribute):
            kind, value = self.infer(f.value, unit, depth + 1)
            if kind == 'class' and f.attr == '__new__':
                return 'object', value
            if kind in ('object', 'class'):
                method = value.method(f.attr)
                if f.attr in FLUENT and method is not None:
                    return 'object', value
                if method is not None:
                    return self.annotated(method.returns, unit)
        return None, None


# Renaming


class Renamer:
    "Edits of one source"

    def __init__(self, project, unit, names):
        self.project, self.unit, self.map = project, unit, names
        self.source, self.scopes = unit.source, unit.scopes
        self.edits, self.unsure, self.errors = {}, [], []
        self.renamed_arguments = {}
        self.functions = [n for n in ast.walk(unit.source.tree) if isinstance(n, FUNCTIONS)]

    def run(self):
        for node in ast.walk(self.source.tree):
            visit = getattr(self, f'on_{type(node).__name__}', None)
            if visit:
                visit(node)
        for t, prose in self.tokens():
            if prose:
                self.on_prose(t)
            else:
                self.on_message(t)
        self.check_exports()
        return self

    # Edits

    def characters(self, line, column):
        return len(self.source.plain[line - 1].encode()[:column].decode())

    def edit(self, line, column, old, new):
        "Replace `old` at a byte column; the source must say it there"
        at = self.characters(line, column)
        if self.source.lines[line - 1][at : at + len(old)] != old:
            self.errors.append(f'{self.source.place(line)}: {old} is not where it should be')
            return
        self.edits[line, at] = (old, new)

    def edit_characters(self, line, at, old, new):
        if self.source.lines[line - 1][at : at + len(old)] == old:
            self.edits[line, at] = (old, new)

    def text(self, line):
        return self.source.lines[line - 1].strip()

    def doubt(self, node, word, what):
        self.unsure.append((self.source.path, self.source.place(node.lineno), word, what, self.text(node.lineno)[:160]))

    def decide(self, node, word, what, candidates):
        "The new name of an unsure site as a person decided, or a line in the list of unsure sites"
        answer = self.map.decision(word, self.source.lines[node.lineno - 1], self.source.path.name)
        if answer is None:
            self.doubt(node, word, f'{what} → {" or ".join(sorted(candidates))}?')
        return answer if answer in candidates else None

    def clash(self, node, old, new):
        self.errors.append(
            f'{self.source.place(node.lineno)}: {old} → {new}, but {new} is bound there already: '
            f'{self.text(node.lineno)[:100]}'
        )

    # Names

    def target(self, name, scope, position):
        "The new name of what a use of `name` refers to, if it is of the package"
        found, binding = scope.lookup(name, position)
        if binding is None:
            return None
        node = binding[0]
        if isinstance(node, ast.alias):
            return self.alias_target(node) if not node.asname else None
        if isinstance(found.node, ast.Module) and self.unit.module and self.source.exported(node.lineno):
            return self.map.name(self.unit.module, name)
        if isinstance(found.node, ast.Module) and not self.unit.module:
            return self.map.parameter(self.source.path.stem, name)
        return None

    def alias_target(self, alias):
        origin = self.project.imported(alias, self.unit)
        if origin is None or not origin[1]:
            return None
        module, name = self.project.definition(*origin) or origin
        return self.map.name(module, name)

    def free(self, new, node, scope):
        "Is a new name free, seen from here?"
        found, binding = scope.lookup(new, None)
        return binding is None

    def on_Name(self, node):
        scope = self.scopes.of.get(node, self.scopes.module)
        if node.id in self.map.words('names') | self.map.words('parameters'):
            new = self.target(node.id, scope, (node.lineno, node.col_offset))
            if new:
                if self.free(new, node, scope):
                    self.edit(node.lineno, node.col_offset, node.id, new)
                else:
                    self.clash(node, node.id, new)
                return
        if isinstance(node.ctx, ast.Store) and isinstance(scope.node, ast.ClassDef):
            self.class_field(node, scope)
        self.argument_use(node, scope)

    def class_field(self, node, scope):
        cls = self.unit.classes[scope.node]
        for kind in ('attributes', 'parameters'):
            new = self.member(kind, node.id, cls)
            if new:
                self.edit(node.lineno, node.col_offset, node.id, new)
                return

    def on_alias(self, node):
        parent = self.scopes.parents[node]
        if not isinstance(parent, ast.ImportFrom) or node.name not in self.map.words('names'):
            return
        new = self.alias_target(node)
        if new:
            scope = self.scopes.of.get(node, self.scopes.module)
            if not node.asname and not self.free(new, node, scope):
                self.clash(node, node.name, new)
            else:
                self.edit(node.lineno, node.col_offset, node.name, new)

    def on_Global(self, node):
        for name in node.names:
            if self.target(name, self.scopes.module, None):
                self.errors.append(f'{self.source.place(node.lineno)}: global {name} must be renamed by hand')

    def define(self, node):
        "A function or a class"
        scope = self.scopes.of[node]
        new = None
        if isinstance(scope.node, ast.Module) and not patch_owner(node):
            if self.unit.module and self.source.exported(node.lineno):
                new = self.map.name(self.unit.module, node.name)
            if new and not self.free(new, node, scope):
                self.clash(node, node.name, new)
                return
        elif isinstance(scope.node, ast.ClassDef) or patch_owner(node):
            cls = self.unit.classes.get(scope.node) or self.project.named_class(patch_owner(node))[1]
            new = cls and self.member('attributes', node.name, cls)
            if new and any(new in c.own() for c in cls.mro()):
                self.clash(node, node.name, new)
                return
        if new:
            word = 'class' if isinstance(node, ast.ClassDef) else 'def'
            line, column = self.name_after(node, word)
            self.edit_characters(line, column, node.name, new)

    def on_ClassDef(self, node):
        self.define(node)

    def on_FunctionDef(self, node):
        self.define(node)
        self.arguments(node)

    on_AsyncFunctionDef = on_FunctionDef

    def name_after(self, node, word):
        line = self.source.plain[node.lineno - 1]
        start = len(line.encode()[: node.col_offset].decode())
        m = re.compile(rf'(?:async\s+)?{word}\s+').match(line, start)
        return node.lineno, m.end()

    # Attributes

    def member(self, kind, name, cls):
        "The new name of a member of `cls`, or None"
        for e in self.map.of(kind, name):
            if e.owner in cls.family() or kind == 'attributes' and e.owner == '*':
                return e.new
        return None

    def on_Attribute(self, node):
        if node.attr in self.map.words('names'):
            kind, value = self.project.infer(node.value, self.unit)
            if kind == 'module':
                where = self.project.definition(value, node.attr) or (value, node.attr)
                new = self.map.name(*where)
                if new:
                    self.edit(node.end_lineno, node.end_col_offset - len(node.attr), node.attr, new)
                return
        for kind in ('attributes', 'parameters'):
            if node.attr in self.map.words(kind):
                new = self.attribute(kind, node)
                if new:
                    self.edit(node.end_lineno, node.end_col_offset - len(node.attr.encode()), node.attr, new)
                    return

    def receiver(self, node):
        "The class of what an attribute is asked of: inferred, or as a person says"
        kind, value = self.project.infer(node, self.unit)
        if kind:
            return kind, value
        text = ast.unparse(node)
        for key in (f'{self.unit.module or self.source.path.stem}: {text}', text):
            if key in self.map.receivers:
                name = self.map.receivers[key]
                return FOREIGN if name == '-' else self.project.named_class(name)
        return None, None

    def attribute(self, kind, node):
        entries = [e for e in self.map.of(kind, node.attr) if kind == 'attributes' or self.is_class(e.owner)]
        if not entries:
            return None
        found, value = self.receiver(node.value)
        if found in ('foreign', 'module', 'function'):
            return None
        new = {e.new for e in entries}
        if any(e.owner == '*' for e in entries):
            known = found in ('object', 'class') and value.method(node.attr) is not None
            undecided = known or node.attr not in self.map.unsure
            return entries[0].new if undecided else self.decide(node, node.attr, f'.{node.attr}', new)
        if found in ('object', 'class'):
            member = self.member(kind, node.attr, value)
            if member or node.attr in value.own() or not any(self.stands_on(e.owner, value.name) for e in entries):
                return member
        return self.decide(node, node.attr, f'.{node.attr}', new)

    def stands_on(self, name, base):
        "Is class `name` a subclass of `base`? Then an object of `base` may be one of it"
        cls = self.project.named_class(name)[1]
        return cls is not None and base in cls.family()

    def is_class(self, name):
        return self.project.named_class(name)[0] is not None

    # Parameters

    def parameter(self, function, old):
        "The new name of a parameter of a function's definition"
        scope = self.scopes.of[function]
        outer = scope.node if isinstance(scope.node, ast.ClassDef) else None
        cls = self.unit.classes.get(outer)
        for e in self.map.of('parameters', old):
            if cls is not None and e.owner == f'{cls.name}.{function.name}':
                return e.new
            if e.owner == function.name:
                return e.new
            if cls is not None and function.name == '__init__' and e.owner in cls.family():
                return e.new
            if (
                cls is not None
                and '.' in e.owner
                and e.owner.split('.')[1] == function.name
                and e.owner.split('.')[0] in cls.family()
            ):
                return e.new
        return None

    def arguments(self, node):
        a = node.args
        inner = self.scopes.of['inner', node]
        for x in [*a.posonlyargs, *a.args, *a.kwonlyargs]:
            new = self.parameter(node, x.arg) if x.arg in self.map.words('parameters') else None
            if not new:
                continue
            if new in inner.bindings:
                self.clash(x, x.arg, new)
                continue
            self.renamed_arguments[x] = new
            self.edit(x.lineno, x.col_offset, x.arg, new)

    def argument_use(self, node, scope):
        "A use of a renamed argument, within its function or one inside it"
        if node.id not in self.map.words('parameters'):
            return
        found, binding = scope.lookup(node.id, None)
        if found is None or not isinstance(found.node, FUNCTIONS):
            return
        arg = found.bindings[node.id][0][0]
        if not isinstance(arg, ast.arg):
            return
        new = self.parameter(found.node, node.id)
        if not new or new in found.bindings:
            return
        between = scope
        while between is not found:
            if new in between.bindings:
                self.clash(node, node.id, new)
                return
            between = between.parent
        self.edit(node.lineno, node.col_offset, node.id, new)
        self.same_word(node, new)

    def same_word(self, node, new):
        "In `pick(start, …, 'start')` the text is the name of the parameter, too"
        call = self.scopes.parents.get(node)
        if isinstance(call, ast.Call) and node in call.args:
            for a in call.args:
                if isinstance(a, ast.Constant) and a.value == node.id and a.lineno == a.end_lineno:
                    self.edit(a.lineno, a.col_offset + 1, node.id, new)

    def on_keyword(self, node):
        if node.arg not in self.map.words('parameters'):
            return
        call = self.scopes.parents[node]
        new = self.keyword(call, node) if isinstance(call, ast.Call) else None
        if new:
            self.edit(node.lineno, node.col_offset, node.arg, new)

    def keyword(self, call, node):
        entries = self.map.of('parameters', node.arg)
        f = call.func
        callee = f.attr if isinstance(f, ast.Attribute) else getattr(f, 'id', '')
        if callee == 'partial' and call.args:
            f = call.args[0]
            callee = f.attr if isinstance(f, ast.Attribute) else getattr(f, 'id', '')
        if callee == '__init__' and isinstance(f, ast.Attribute):
            kind, value = self.project.infer(f.value, self.unit)
        else:
            kind, value = self.project.infer(f, self.unit)
        if kind == 'class' or callee == '__init__' and kind == 'object':
            return next((e.new for e in entries if e.owner in value.family()), None)
        if callee in ('at', 'with_params', 'replace'):
            target = f.value if isinstance(f, ast.Attribute) else call.args[0] if call.args else None
            kind, value = self.receiver(target) if target is not None else (None, None)
            if kind == 'object':
                return next((e.new for e in entries if e.owner in value.family()), None)
        owners = [e for e in entries if e.owner.rpartition('.')[2] == callee]
        if owners:
            return self.method_keyword(owners, f, kind, callee, node)
        for made in (self.project.infer(a, self.unit) for a in call.args):  # `new(SePH, most=50)`
            if made[0] == 'class' and (new := next((e.new for e in entries if e.owner in made[1].family()), None)):
                return new
        passed = kind == 'function' and value[0].args.kwarg is not None
        if (
            kind is None or passed or callee in ('dict', 'at', 'with_params')
        ):  # a class out of a dict, or settings that go to one
            return self.loose(node, node.arg, f'{callee}({node.arg}=…)')
        return None

    def method_keyword(self, owners, f, kind, callee, node):
        plain = [e for e in owners if '.' not in e.owner]
        if plain and kind != 'foreign':
            return plain[0].new
        if isinstance(f, ast.Attribute):
            kind, value = self.receiver(f.value)
            if kind == 'object':
                return next((e.new for e in owners if e.owner.split('.')[0] in value.family()), None)
            if kind is None:
                return self.decide(node, node.arg, f'{callee}({node.arg}=…)', {e.new for e in owners})
        return None

    def loose(self, node, word, what):
        "A key that may be a hyper-parameter"
        new = {e.new for e in self.map.of('parameters', word) if self.is_class(e.owner)}
        return self.decide(node, word, what, new) if new else None

    def on_Subscript(self, node):
        self.key(node.slice)

    def on_Dict(self, node):
        for key in node.keys:
            self.key(key)

    def key(self, key):
        "A text that is the key of a dict"
        if isinstance(key, ast.Constant) and isinstance(key.value, str) and key.value in self.map.words('parameters'):
            new = self.loose(key, key.value, f'key {key.value!r}')
            if new:
                self.edit(key.lineno, key.col_offset + 1, key.value, new)

    # Strings that name something

    def on_Call(self, node):
        f = node.func
        callee = f.attr if isinstance(f, ast.Attribute) else getattr(f, 'id', '')
        if callee in ('get', 'pop') and node.args:
            self.key(node.args[0])
        if callee not in ('setattr', 'getattr', 'hasattr', 'delattr', 'object', 'attrgetter', 'methodcaller'):
            return
        for i, a in enumerate(node.args[:2]):
            if not (isinstance(a, ast.Constant) and isinstance(a.value, str)):
                continue
            if a.value.startswith(f'{PACKAGE}.'):
                self.dotted(a)
            elif i == 1:
                self.named_by_text(node.args[0], a)

    def on_Constant(self, node):
        if isinstance(node.value, str) and re.fullmatch(rf'{PACKAGE}(\.\w+)+(:\w+)?', node.value):
            self.dotted(node)

    def dotted(self, node):
        "A text that is a dotted path of the package"
        path, _, last = node.value.replace(':', '.').rpartition('.')
        module = self.project.short(path)
        where = self.project.definition(module, last)
        new = where and self.map.name(*where)
        if new:
            self.edit(node.lineno, node.col_offset + node.end_col_offset - node.col_offset - 1 - len(last), last, new)

    def named_by_text(self, receiver, node):
        kind, value = self.receiver(receiver)
        new = None
        if kind == 'module':
            where = self.project.definition(value, node.value)
            new = where and self.map.name(*where)
        elif kind in ('object', 'class'):
            new = self.member('attributes', node.value, value) or self.member('parameters', node.value, value)
        elif any(e.owner == '*' for e in self.map.of('attributes', node.value)):
            new = self.map.of('attributes', node.value)[0].new
        elif kind is None and node.value in self.map.words('attributes') | self.map.words('parameters'):
            found = {e.new for k in ('attributes', 'parameters') for e in self.map.of(k, node.value)}
            new = self.decide(node, node.value, f'getattr or setattr of {node.value!r}', found)
        if new:
            self.edit(node.lineno, node.col_offset + 1, node.value, new)

    # Comments and docstrings

    def tokens(self):
        text = '\n'.join(self.source.plain) + '\n'
        docs = {
            (n.body[0].value.lineno, n.body[0].value.col_offset)
            for n in ast.walk(self.source.tree)
            if isinstance(n, (*FUNCTIONS, ast.ClassDef, ast.Module))
            and n.body
            and isinstance(n.body[0], ast.Expr)
            and isinstance(n.body[0].value, ast.Constant)
            and isinstance(n.body[0].value.value, str)
        }
        for t in tokenize.generate_tokens(io.StringIO(text).readline):
            column = byte_column(self.source.plain, t.start) if t.type == tokenize.STRING else 0
            if t.type == tokenize.COMMENT:
                yield t, True
            elif t.type == tokenize.STRING or t.type == getattr(tokenize, 'FSTRING_MIDDLE', None):
                yield t, (t.start[0], column) in docs

    def on_prose(self, token):
        prose = Prose(self.project, self.map, self.unit, self.arguments_at(token.start[0]))
        for offset, old, new in prose.spans(token.string):
            self.edit_within(token, offset, old, new)

    def arguments_at(self, line):
        "Old and new names of the parameters of the innermost function around a line"
        around = [f for f in self.functions if f.lineno <= line <= f.end_lineno]
        if not around:
            return {}
        f = max(around, key=lambda f: f.lineno)
        return {a.arg: new for a in [*f.args.args, *f.args.kwonlyargs] if (new := self.renamed_arguments.get(a))}

    def on_message(self, token):
        "A message that names a parameter: `warm=…`, `{warm}` after `warm is` or `warm=`"
        for m in re.finditer(r'\b(\w+)(?:=(?=…|`|\{(?:self\.)?\1\b)| is (?=\{(?:self\.)?\1\b))', token.string):
            word = m[1]
            found = {e.new for e in self.map.of('parameters', word)}
            line = self.source.lines[token.start[0] - 1]
            new = self.map.decision(word, line, self.source.path.name) if len(found) > 1 else next(iter(found), None)
            if found and new is None:
                place = self.source.place(token.start[0])
                self.unsure.append(
                    (self.source.path, place, word, f'text {m[0]} → {" or ".join(sorted(found))}?', line.strip()[:160])
                )
            elif new in found:
                self.edit_within(token, m.start(), word, new)

    def edit_within(self, token, offset, old, new):
        before = token.string[:offset]
        line = token.start[0] + before.count('\n')
        column = len(before.rpartition('\n')[2]) + (0 if '\n' in before else token.start[1])
        self.edit_characters(line, column, old, new)

    def check_exports(self):
        "Two definitions of a module may not become one"
        if not self.unit.module:
            return
        made = {}
        for name, bindings in self.scopes.module.bindings.items():
            if any(self.source.exported(b[0].lineno) and not isinstance(b[0], ast.alias) for b in bindings):
                new = self.map.name(self.unit.module, name) if name in self.map.words('names') else None
                made.setdefault(new or name, []).append(name)
        self.errors += [
            f'{self.source.path.name}: {" and ".join(old)} would all be {new}'
            for new, old in made.items()
            if len(old) > 1
        ]

    def lines(self):
        "The lines after all edits"
        out = list(self.source.lines)
        for (line, at), (old, new) in sorted(self.edits.items(), reverse=True):
            text = out[line - 1]
            out[line - 1] = text[:at] + new + text[at + len(old) :]
        for old, new in self.map.texts.items():
            out = [line.replace(old, new) for line in out]
        return out


class Prose:
    "Code spans of prose"

    span = re.compile(r'(?<!`)(`{1,2})(?!`)([^`\n]+)\1(?!`)')

    def __init__(self, project, names, unit=None, arguments=None):
        self.project, self.map, self.unit = project, names, unit
        self.arguments = arguments or {}  # old and new names of the parameters of the function that it is in

    def spans(self, text):
        "(offset, old, new) of all that is to be renamed in the code spans of a text"
        for m in self.span.finditer(text):
            for offset, old, new in self.code(m[2]):
                yield m.start(2) + offset, old, new

    def code(self, text):
        "The same of one span"
        try:
            tree = ast.parse(text.strip(), mode='eval')
        except SyntaxError:
            return
        if '\n' in text or text != text.strip() or not text.isascii():
            return
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                new = self.bare(node.id, isinstance(tree.body, ast.Name))
                if new:
                    yield node.col_offset, node.id, new
            elif isinstance(node, ast.Attribute):
                new = self.member(node)
                if new:
                    yield node.end_col_offset - len(node.attr), node.attr, new
            elif isinstance(node, ast.Call):
                for k in node.keywords:
                    new = k.arg and self.keyword(node, k.arg)
                    if new:
                        yield k.col_offset, k.arg, new

    def definition(self, name):
        "Modules that define a name: that of this notebook or what it imports goes first"
        if self.unit is not None:
            binding = self.unit.scopes.module.bindings.get(name)
            for node, _ in binding or []:
                if isinstance(node, ast.alias):
                    origin = self.project.imported(node, self.unit)
                    return [origin[0]] if origin and origin[1] else []
                if self.unit.module and self.unit.source.exported(node.lineno):
                    return [self.unit.module]
            if binding:
                return []
        return [m for m in self.project.modules if self.project.definition(m, name) == (m, name)]

    def bound(self, name):
        return self.unit is not None and name in self.unit.scopes.module.bindings

    def bare(self, name, alone):
        if name in self.arguments:
            return self.arguments[name]
        if self.bound(name) and not self.unit.module:
            if new := self.map.parameter(self.unit.source.path.stem, name):
                return new
        if name in self.map.leave and not self.bound(name):
            return None
        found = {self.map.name(m, name) for m in self.definition(name)} if name in self.map.words('names') else set()
        if len(found) == 1 and None not in found:
            return found.pop()
        if found or self.bound(name) or not alone:
            return None
        return self.own_member(name)

    def own_member(self, name):
        "A bare word that only members of this notebook's classes can mean"
        if self.unit is None:
            return None
        found = {
            e.new
            for kind in ('attributes', 'parameters')
            for e in self.map.of(kind, name)
            if e.owner != '*' and self.near(e.owner)
        }
        found |= {e.new for e in self.map.of('attributes', name) if e.owner == '*'}
        return found.pop() if len(found) == 1 else None

    def near(self, owner):
        "Does this notebook define or use the class or function `owner`, or a class that stands on it?"
        owner = owner.split('.')[0]
        if any(owner in c.family() for c in self.unit.classes.values()):
            return True
        for bindings in self.unit.scopes.module.bindings.values():
            if isinstance(bindings[0][0], ast.alias):
                origin = self.project.imported(bindings[0][0], self.unit)
                kind, value = self.project.infer_definition(*origin, 0) if origin and origin[1] else (None, None)
                if kind == 'class' and owner in value.family():
                    return True
        return owner in self.unit.scopes.module.bindings

    def member(self, node):
        base = ast.unparse(node.value)
        if node.attr in self.map.words('names'):
            modules = [
                m for m in self.project.modules if m == base or m.endswith(f'.{base}') or f'{PACKAGE}.{m}' == base
            ]
            found = {self.map.name(m, node.attr) for m in modules if self.project.definition(m, node.attr)}
            if len(found) == 1:
                return found.pop()
        entries = [e for kind in ('attributes', 'parameters') for e in self.map.of(kind, node.attr)]
        kind, cls = self.project.named_class(base)
        if kind:
            return next((e.new for e in entries if e.owner in (*cls.family(), '*')), None)
        found = {e.new for e in entries if e.owner == '*'}
        owner = self.map.receivers.get(base)
        if owner and owner != '-':
            cls = self.project.named_class(owner)[1]
            found |= {e.new for e in entries if cls and e.owner in cls.family()}
        return found.pop() if len(found) == 1 else None

    def keyword(self, call, word):
        callee = getattr(call.func, 'id', getattr(call.func, 'attr', ''))
        cls = self.project.named_class(callee)[1]
        family = cls.family() if cls else {callee}
        return next((e.new for e in self.map.of('parameters', word) if e.owner.rpartition('.')[2] in family), None)


# Files


def toml_keys(text):
    "(offset, key, path) of every key below an entry's own fields; the path holds the tables and keys around it"
    pattern = re.compile(r'(?m)^\[[^\[\]\n]+\]$|#[^\n]*|"(?:[^"\\]|\\.)*"|\'[^\']*\'|[A-Za-z0-9_-]+|[{}\[\]=\n]|\s|.')
    stack, table, chain, key, dotted = [], [], [], [], False
    for m in pattern.finditer(text):
        t = m[0]
        if t[0] == '#' or t.isspace() and t != '\n':
            continue
        if t[0] == '[' and len(t) > 1:
            table = [name.strip('"\'') for name in re.findall(r'"[^"]*"|\'[^\']*\'|[\w-]+', t)][1:]
        elif t == '=':
            key, path = [name for _, name in chain], table + [k for s, ks in stack if s == '{' for k in ks]
            for i, (offset, name) in enumerate(chain):
                if path or i:
                    yield offset, name, path + key[:i]
        elif t in '{[':
            stack.append((t, key))
        elif t in '}]' and stack:
            stack.pop()
        if re.match(r'["\'\w]', t):
            chain = (chain if dotted else []) + [(m.start() + (t[0] in '"\''), t.strip('"\''))]
        elif t != '.':
            chain = []
        dotted = t == '.'


def renamed_manifest(text, names, project, path, unsure):
    "The list of experiments: a notebook's own parameters, and keys of method settings, which lie in tables below them"
    edits, entries = [], tomllib.loads(text)
    for offset, key, around in toml_keys(text):
        if len(around) == 1:
            entry = re.findall(r'(?m)^\[([\w-]+)', text[:offset])[-1]
            new = names.parameter(Path(entries[entry].get('notebook', '')).stem, key)
            edits += [(offset, key, new)] if new else []
            continue
        new = {e.new for e in names.of('parameters', key) if project.named_class(e.owner)[0]}
        if not new or 'options' in around:
            continue
        row = text.count('\n', 0, offset)
        context = text[max(text.rfind('\n', 0, offset) + 1, offset - 60) : offset + 60]
        answer = new.pop() if len(new) == 1 else names.decision(key, context, path.name)
        if answer is None:
            unsure.append(
                (path, f'{path.name}, line {row + 1}', key, f'key {key} → {" or ".join(sorted(new))}?', context)
            )
        elif answer != '-':
            edits.append((offset, key, answer))
    for offset, key, new in sorted(edits, reverse=True):
        text = text[:offset] + new + text[offset + len(key) :]
    return text


def with_spans(text, prose):
    "Prose with its code spans renamed"
    for offset, old, new in sorted(prose.spans(text), reverse=True):
        text = text[:offset] + new + text[offset + len(old) :]
    return text


def with_fences(text, project, names, prose, path):
    "The same, and fenced Python, too"
    parts = re.split(r'(^```python\n.*?^```)', text, flags=re.M | re.S)
    for i, part in enumerate(parts):
        if not part.startswith('```python\n'):
            parts[i] = with_spans(part, prose)
            continue
        head, body, end = re.match(r'(```python\n)(.*?)(```)$', part, re.S).groups()
        try:
            unit = Unit(python_source(path, body))
        except SyntaxError:
            continue
        renamer = Renamer(project, unit, names).run()
        parts[i] = head + '\n'.join(renamer.lines()) + end
    return ''.join(parts)


def files(root):
    "(notebooks, Python files, pages) to be renamed"
    skip = {'.ipynb_checkpoints', 'pages', 'records', '_stage', '_build', 'work'}
    notebooks = [f for f in sorted((root / 'nbs').rglob('*.ipynb')) if not skip & set(f.relative_to(root).parts)]
    python = [
        f for f in sorted((root / 'tests').rglob('*.py')) if f.name != 'test_rename.py'
    ]  # that holds old names on purpose
    pages = [*sorted((root / 'book').glob('*.md')), *filter(Path.exists, [root / 'README.md'])]
    return notebooks, python, pages


def apply(root, names, write=False):
    "Rename a checkout: (changed files, unsure sites, errors)"
    notebooks, python, pages = files(root)
    loaded = {f: json.loads(f.read_text()) for f in notebooks}
    sources = {f: notebook_source(f, nb) for f, nb in loaded.items()} | {
        f: python_source(f, f.read_text()) for f in python
    }
    units = {f: Unit(s) for f, s in sources.items()}
    project = Project(units.values())
    out, unsure, errors = {}, [], []
    for f, unit in units.items():
        renamer = Renamer(project, unit, names).run()
        unsure += renamer.unsure
        errors += renamer.errors
        if renamer.errors:
            continue
        lines = renamer.lines()
        if f not in loaded:
            out[f] = '\n'.join(lines)
            continue
        nb = loaded[f]
        for cell, first, n, _ in unit.source.spans:
            nb['cells'][cell]['source'] = source_lines('\n'.join(lines[first : first + n]), nb['cells'][cell]['source'])
        prose = Prose(project, names, unit)
        for cell in nb['cells']:
            if cell['cell_type'] == 'markdown':
                text = with_fences(''.join(cell['source']), project, names, prose, f)
                cell['source'] = source_lines(text, cell['source'])
        out[f] = json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + '\n'
    for f in pages:
        out[f] = with_fences(f.read_text(), project, names, Prose(project, names), f)
    manifest = root / 'nbs' / 'experiments' / 'experiments.toml'
    if manifest.exists():
        out[manifest] = renamed_manifest(manifest.read_text(), names, project, manifest, unsure)
    changed = {f: t for f, t in out.items() if t != f.read_text()}
    if write:
        for f, t in changed.items():
            f.write_text(t)
    return changed, unsure, errors


def source_lines(text, before):
    "Text in the form that a cell had: one string, or a list of lines"
    return text if isinstance(before, str) else text.splitlines(keepends=True)


def read_map(root, here=Path(__file__).parent):
    decisions = here / 'rename.toml'
    names = root / PACKAGE / 'names.toml'
    return Map(tomllib.loads(names.read_text()), tomllib.loads(decisions.read_text()) if decisions.exists() else {})


def main():
    parser = argparse.ArgumentParser(description='Apply crossmodal_nb/names.toml to a checkout.')
    parser.add_argument('folder', nargs='?', default='.', type=Path)
    parser.add_argument(
        '--write', action='store_true', help='Write the files (without it, only say what would happen).'
    )
    parser.add_argument('--map', type=Path, help='Another names.toml.')
    args = parser.parse_args()
    names = read_map(args.folder)
    if args.map:
        names = Map(
            tomllib.loads(args.map.read_text()), tomllib.loads((Path(__file__).parent / 'rename.toml').read_text())
        )
    changed, unsure, errors = apply(args.folder, names, args.write)
    for _, place, _, what, text in unsure:
        print(f'unsure  {place}: {what}  {text}')
    for e in errors:
        print(f'error   {e}')
    print(
        f'{len(changed)} files {"changed" if args.write else "would change"}, {len(unsure)} unsure sites, '
        f'{len(errors)} errors'
    )
    sys.exit(bool(errors))


if __name__ == '__main__':
    main()
