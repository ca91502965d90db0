"""No state in modules: whatever changes lives in an object somebody holds, or in a context variable.

Read from the source. At the top of a module of `src/staffa` may stand what cannot change: numbers, text,
tuples, types, compiled patterns. A list, set or mapping may stand there as a table nobody writes to.
Everything else has to be named below, with its reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "staffa"

ALLOWED = {
    "ambient._BLOCKS": "the context variable the runtime lives in: threads and tasks have their own",
    "api.graphs.graph": "a callable without attributes: staffa.graph(…) and staffa.graph.reduce(…)",
    "campaign.runtime.runtime": "a callable without attributes: staffa.runtime(…) and staffa.runtime.current()",
    "cli.*app": "Typer collects commands while the module is imported; nothing is added later",
    "experiment.registry._IMPORTING": "a lock: sys.path and sys.modules belong to the process, not to us",
    "storage.creation.ZARRS_LOCK": "a lock: Zarr's settings belong to the process, not to us",
    "experiment.encoded._restored": "encodings by how they are told and who is registered: frozen dataclasses",
    "experiment.compiles._counts": "JAX's listeners cannot be taken back: one set of counters a process",
    "execution.bench._bench": "a worker's plan and schemas, by digest: read once a process",
    "execution.bench.programs": "compiled programs are kept for the life of a worker process",
    "execution.bench.start_mark": "one file a process and workspace",
    "execution.bench.device_kind": "a fact of the process",
    "execution.programs.backend_of": "a fact of the process, written down once a campaign",
    "execution.overheard._*": "standard output and the root logger belong to the process, not to us",
    "execution.function.loaded": "a worker's functions, by their bytes: what JAX compiled for one goes with the object",
    "execution.ensemble.reducers": "the objects a campaign's blocks describe, by their text and its code's folder",
    "views.dashboard.metrics._COLLECTOR": "Prometheus's registry is the process's: one collector, of whoever is there",
    "views.dashboard.page.OPEN": "the documents open in this process, held weakly: Bokeh has no list of them to ask",
    "views.dashboard.page._SHEETS": "what each open document shows, held weakly with it",
    "views.dashboard.page.SPENT": "what the pages of this process took: counters, for Prometheus",
    "views.dashboard.page.looks": "style sheets of an installed package, read once",
    "views.dashboard.page.templates": "templates of an installed package, read once",
    "views.arrays._footer": "footers of sealed files, which never change; a few are kept",
    "views.arrays._order": "the trials of sealed files, which never change; a few are kept",
    "experiment.diagnostics._quantiles": "quantiles of the normal distribution for a length: a function of it alone",
    "samplers.fitness.cai.weights": "a codon table's numbers, by organism: facts of an installed package",
    "samplers.fitness.codons.*": "names and tables of an installed package: facts, read once",
    "samplers.fitness.mpnn.score.one_by_one": "a function wrapped by JAX; it keeps nothing",
    "samplers.fitness.mpnn.weights.load": "weights checked against their digest, read-only: 6.6 MB read once",
    "search.strategies.threads._controller": "handles of the linear algebra libraries that this process has loaded",
    "execution.slurm.script.slurm_job": "a class that must be imported once, with signals put aside",
}
"""What may stand at the top of a module although it could change, and why."""

HARMLESS = {
    *(
        "frozenset",
        "tuple",
        "MappingProxyType",
        "re.compile",
        "TypeVar",
        "ParamSpec",
        "NewType",
        "Annotated",
        "TypeAliasType",
    ),
    *("Path", "with_name", "namedtuple", "int", "float", "str", "bytes", "range", "len", "max", "min", "sum"),
    "math.log",
    "np.dtype",
}
"""Calls whose result nobody can change."""

FROZEN = {"Family", "Origin", "Node", "JobType", "Fault", "Field", "Verdict"}
"""Frozen dataclasses of ours, and pydantic's description of a field."""

CONTAINERS = {"dict", "list", "set", "defaultdict", "Counter", "deque", "OrderedDict", "np.array", "np.zeros"}
CACHES = {"lru_cache", "cache"}
MUTATORS = {
    *("append", "add", "update", "setdefault", "pop", "popitem", "clear", "extend", "insert", "remove", "discard"),
    *("sort", "reverse", "appendleft", "extendleft", "subtract", "difference_update", "intersection_update"),
}


def offences(source: str, module: str) -> Iterator[str]:
    """`module.name: what is wrong`, in the order of the source."""
    tree = ast.parse(source)
    tables = set()
    for node in tree.body:
        for name, value in _assigned(node):
            kind = _kind(value)
            if kind == "table":
                tables.add(name)
            elif kind:
                yield f"{module}.{name}: {kind}"
        if isinstance(node, ast.FunctionDef) and any(_called(found) in CACHES for found in node.decorator_list):
            yield f"{module}.{node.name}: keeps what it returned"
    yield from (f"{module}.{name}: {what}" for name, what in _writes(tree, tables))


def _assigned(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    for target in targets:
        value = node.value
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            pairs = list(zip(target.elts, value.elts, strict=True))
        else:
            pairs = [(name, value) for name in (target.elts if isinstance(target, ast.Tuple) else [target])]
        yield from ((name.id, found) for name, found in pairs if isinstance(name, ast.Name) and found is not None)


def _kind(value: ast.expr) -> str:
    """`table` for a mutable container, empty for what cannot change, otherwise why it is suspicious."""
    if isinstance(value, ast.Dict | ast.List | ast.Set | ast.DictComp | ast.ListComp | ast.SetComp):
        return "table"
    if isinstance(value, ast.GeneratorExp):
        return "a generator"
    if isinstance(value, ast.BinOp):
        kinds = {_kind(value.left), _kind(value.right)}
        return next((kind for kind in kinds if kind not in ("", "table")), "table" if "table" in kinds else "")
    if not isinstance(value, ast.Call):
        return ""
    name = _called(value)
    if name in CONTAINERS:
        return "table"
    return "" if name in HARMLESS | FROZEN or name.rpartition(".")[2] in HARMLESS else f"an object: {name}(…)"


def _called(value: ast.expr) -> str:
    found = value.func if isinstance(value, ast.Call) else value
    name = ast.unparse(found)
    return name.removeprefix("functools.")


def _writes(tree: ast.Module, tables: set[str]) -> Iterator[tuple[str, str]]:
    """Tables that somebody writes to, and `global`: the means to replace anything."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            local = _locals(function)
            for node in ast.walk(function):
                if isinstance(node, ast.Global):
                    yield from ((name, "is replaced (global)") for name in node.names)
                yield from ((name, "is written to") for name in _written(node) if name in tables - local)
    for node in tree.body:
        if isinstance(node, ast.Expr | ast.For | ast.While):
            for inner in ast.walk(node):
                yield from ((name, "is written to") for name in _written(inner) if name in tables)


def _locals(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> set[str]:
    arguments = {argument.arg for argument in ast.walk(function.args) if isinstance(argument, ast.arg)}
    stored = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return arguments | stored


def _written(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
        yield from _names(node.value)
    elif isinstance(node, ast.AugAssign):
        yield from _names(node.target)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
        yield from _names(node.func.value)


def _names(value: ast.expr) -> Iterator[str]:
    """The name itself, and the last word of `module.NAME`."""
    while isinstance(value, ast.Subscript):
        value = value.value
    if isinstance(value, ast.Name):
        yield value.id
    elif isinstance(value, ast.Attribute):
        yield value.attr


def _modules() -> Iterator[tuple[str, str]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield ".".join(path.relative_to(SOURCE).with_suffix("").parts), path.read_text()


def test_modules_hold_no_state():
    found = [line for module, source in _modules() for line in offences(source, module)]
    unknown = [line for line in found if not any(fnmatch(line.partition(":")[0], name) for name in ALLOWED)]
    assert unknown == []


def test_what_is_allowed_is_still_there():
    found = {line.partition(":")[0] for module, source in _modules() for line in offences(source, module)}
    assert [name for name in ALLOWED if not any(fnmatch(there, name) for there in found)] == []
    assert all(len(reason.split()) > 2 for reason in ALLOWED.values())


def test_no_module_writes_to_anothers_table():
    """`layers.SECONDS["y"] = 1` in another module, or a name imported from it."""
    modules = dict(_modules())
    tables = {
        name
        for source in modules.values()
        for node in ast.parse(source).body
        for name, value in _assigned(node)
        if _kind(value) == "table" and name.isupper()
    }
    written = [
        f"{module}: {name}"
        for module, source in modules.items()
        for function in ast.walk(ast.parse(source))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        for name in _written(node)
        if name in tables - _locals(function)
    ]
    assert written == []


@pytest.mark.parametrize(
    ("source", "offence"),
    [
        ("cache = {}\ndef f(k):\n    cache[k] = 1", "m.cache: is written to"),
        ("seen = []\ndef f(k):\n    seen.append(k)", "m.seen: is written to"),
        ("seen: set[int] = set()\ndef f(k):\n    seen.add(k)", "m.seen: is written to"),
        ("by = {}\ndef f(k):\n    by[k].update(a=1)", "m.by: is written to"),
        ("by = {}\ndef f(k):\n    del by[k]", "m.by: is written to"),
        ("by = {}\ndef f(k):\n    global by\n    by = k", "m.by: is replaced (global)"),
        ("counts = Counter()\ndef f(k):\n    counts.update(k)", "m.counts: is written to"),
        ("A = {'a': 1}\nfor n in 'bc':\n    A[n] = 2", "m.A: is written to"),
        ("current = State()", "m.current: an object: State(…)"),
        ("a, b = State(), 2", "m.a: an object: State(…)"),
        ("a, b = made()", "m.b: an object: made(…)"),
        ("lock = threading.Lock()", "m.lock: an object: threading.Lock(…)"),
        ("lines = (x for x in y)", "m.lines: a generator"),
        ("@functools.lru_cache(maxsize=1)\ndef f(): ...", "m.f: keeps what it returned"),
        ("@cache\ndef f(): ...", "m.f: keeps what it returned"),
        ("class A: ...\nx = {}\nf = lambda k: x.setdefault(k, 1)", "m.x: is written to"),
    ],
)
def test_the_guard_finds(source, offence):
    assert offence in list(offences(source, "m"))


@pytest.mark.parametrize(
    "source",
    [
        "A = 1\nB = 'x'\nC = (1, 2)\nD = frozenset({1})",
        "A = {'a': 1}\ndef f():\n    return A['a']",
        "A = {'a': 1}\nB = A | {'b': 2}\ndef f():\n    return {**B}",
        "A = re.compile('x')\nT = TypeVar('T')",
        "A = []\ndef f():\n    A = []\n    A.append(1)",
        "A = {}\ndef f(A):\n    A[1] = 2",
        "class C:\n    def f(self):\n        self.seen = []\n        self.seen.append(1)",
    ],
)
def test_and_leaves_alone(source):
    assert list(offences(source, "m")) == []
