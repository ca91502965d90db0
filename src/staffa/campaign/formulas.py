"""Formulas of derived parameters: `temperature * kernel.width ** 2`.

A small part of Python's expressions, read by Python's own parser and never run by it: numbers, texts, names (dotted),
`+ - * / // % **`, comparisons, `and or not`, `a if b else c`, and the functions of `FUNCTIONS`. Whole numbers are
exact, of any size on the way.
"""

from __future__ import annotations

import ast
import keyword
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from staffa.errors import near
from staffa.trial import Scalar, canonical

LONGEST = 2000
"""Characters of a formula; more is no formula of a person's."""
DEEPEST = 100
"""Levels of brackets and operators."""
WIDEST = 1024
"""Bits a power of whole numbers may have on the way."""

CONSTANTS: Mapping[str, float] = {"pi": math.pi}
"""Names that mean something where no parameter is called so."""


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > WIDEST:
        raise OverflowError("the power is too large")
    return base**exponent


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": abs,
    "ceil": math.ceil,
    "cos": math.cos,
    "exp": math.exp,
    "float": float,
    "floor": math.floor,
    "int": int,
    "log": math.log,
    "log10": math.log10,
    "log2": math.log2,
    "max": max,
    "min": min,
    "round": round,
    "sin": math.sin,
    "sqrt": math.sqrt,
    "tan": math.tan,
}
_OPERATORS: Mapping[type, tuple[str, Callable[..., Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
    ast.Pow: ("**", _power),
    ast.USub: ("negative", operator.neg),
    ast.UAdd: ("positive", operator.pos),
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
    ast.Eq: ("==", operator.eq),
    ast.NotEq: ("!=", operator.ne),
    ast.Not: ("not", operator.not_),
    ast.And: ("and", all),
    ast.Or: ("or", any),
}
_DOING = {**dict(_OPERATORS.values()), **FUNCTIONS}
_OF_TEXTS = ("==", "!=")
_WORDS = ("and", "or", "not", "if", "else", "True", "False")

Tree = tuple[Any, ...]
"""`("*", ("name", "temperature"), ("value", 2))`: what is done, and to what."""
Point = Mapping[str, Scalar]


@dataclass(frozen=True)
class Formula:
    """A formula that was read; called with the parameters of a point it gives its value.

    Arguments:
    - `text`: as it was written.
    - `names`: the parameters it is made of, in the order they are met.
    """

    text: str
    tree: Tree
    names: tuple[str, ...]
    run: Callable[[Point], Any]

    @property
    def canonical(self) -> str:
        """Equal for formulas that differ in blanks and needless brackets only."""
        return canonical(self.tree)

    def __call__(self, point: Point) -> Scalar:
        """Its value: what Python would say. Raises `ValueError` with the reason where there is none."""
        try:
            found = self.run(point)
        except (ArithmeticError, ValueError, TypeError) as error:
            raise ValueError(str(error)) from None
        if isinstance(found, complex):
            raise ValueError("a root of a negative number")
        if isinstance(found, float) and not math.isfinite(found):
            raise ValueError("not a finite number")
        if isinstance(found, int) and not -(2**63) <= found < 2**63:
            raise ValueError("a whole number of more than 64 bits")
        return found + 0.0 if isinstance(found, float) else found


def read_formula(text: str) -> Formula:
    """Read a formula. Raises `ValueError`, quoting what is no part of one."""
    if len(text) > LONGEST:
        raise ValueError(f"{text[:40]!r}… has {len(text):,} characters, more than {LONGEST:,}")
    try:
        tree = _tree(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError as error:
        words = [word for word in re.findall(r"[A-Za-z_]+", text) if keyword.iskeyword(word) and word not in _WORDS]
        why = f"{words[0]!r} is a word of the language and no name" if words else error.msg
        raise ValueError(f"{text!r} is not a formula: {why}") from None
    except (RecursionError, MemoryError):
        raise ValueError(f"{text[:40]!r}… is nested too deeply") from None
    except _NoPart as error:
        raise ValueError(f"{text!r} is not a formula: {error}") from None
    return Formula(text, tree, tuple(dict.fromkeys(_names(tree))), _compiled(tree))


class _NoPart(Exception):
    """Python, but no part of a formula."""


def _tree(node: ast.AST, depth: int = 0) -> Tree:
    if depth > DEEPEST:
        raise RecursionError

    def below(part: ast.AST) -> Tree:
        return _tree(part, depth + 1)

    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value) if value not in (math.inf, -math.inf):
            return ("value", value)
        case ast.Name() | ast.Attribute():
            return ("name", _dotted(node))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return (_OPERATORS[type(op)][0], below(left), below(right))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return (_OPERATORS[type(op)][0], below(operand))
        case ast.BoolOp(op=op, values=values):
            return (_OPERATORS[type(op)][0], *map(below, values))
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _OPERATORS for op in ops):
            ends = [below(part) for part in (left, *others)]
            steps = [(_OPERATORS[type(op)][0], ends[at], ends[at + 1]) for at, op in enumerate(ops)]
            return steps[0] if len(steps) == 1 else ("and", *steps)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return ("if", below(test), below(body), below(orelse))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            if name not in FUNCTIONS:
                raise _NoPart(f"there is no function {name!r}; {near(name, FUNCTIONS)}")
            return (name, *map(below, args))
    raise _NoPart(f"{ast.unparse(node)!r} is no part of one")


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Name):
        return node.id
    raise _NoPart(f"{ast.unparse(node)!r} is no name")


def _names(tree: Tree) -> Iterator[str]:
    head, *rest = tree
    if head == "name":
        yield rest[0]
    elif head != "value":
        for part in rest:
            yield from _names(part)


def _compiled(tree: Tree) -> Callable[[Point], Any]:
    """The tree as nested functions: they are called once for every point."""
    head, *rest = tree
    if head == "value":
        return lambda point: rest[0]
    if head == "name":
        return operator.itemgetter(rest[0])
    parts = [_compiled(part) for part in rest]
    if head == "if":
        test, body, orelse = parts
        return lambda point: body(point) if test(point) else orelse(point)
    if head in ("and", "or"):
        return lambda point: _DOING[head](part(point) for part in parts)
    function = _DOING[head] if head in _OF_TEXTS else _of_numbers(_DOING[head])
    return lambda point: function(*[part(point) for part in parts])


def _of_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, refusing texts: `"a" * 2` and `"%d" % 2` are nothing a formula should say."""

    def checked(*values: Any) -> Any:
        for value in values:
            if isinstance(value, str):
                raise TypeError(f"{value!r} is a text: it can only be compared (== and !=)")
        return function(*values)

    return checked
