"""Filters: expressions over columns, such as `proto == tcp and dst_port in {80, 443}` (see docs/filters.md).

A text is parsed once, by an LALR(1) grammar, and becomes a tree of functions
over whole columns.

There are two truth values. A comparison of an unknown value is False whatever
its operator, `!=` and `not in` too; `not` makes that True as it does any False.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from flowagent.batch import Array, Batch, is_constant
from flowagent.errors import ConfigError
from flowagent.literals import Operand, WrongError, read_item, read_operand, read_value
from flowagent.ranges import Match, Pair, in_addresses, in_ranges, merged
from flowagent.schema import COLUMNS

if TYPE_CHECKING:
    import lark

MAX_TEXT = 4096
"""Characters of a filter: they bound the work of parsing it and the size of its sets."""
MAX_DEPTH = 64
"""Parentheses and `not` within one another."""

_Test = Callable[[Batch], Array]
"""Which rows match: bool of shape (n,), or (1,) where one answer holds for all."""
_NONE = np.zeros(1, np.bool_)
_WIDTH = 120
"""Characters of a long text that an error shows."""


class FilterError(ConfigError):
    """A filter is wrong. The message says what was expected; its next lines are the text and a caret below the place.

    `position` is the offset of the character that is wrong, from 0 to the length of the text.
    """

    def __init__(self, path: str, text: str, position: int, what: str) -> None:
        super().__init__(path, f"{what}\n{_pointed(text, position)}")
        self.position = position


@dataclass(frozen=True, slots=True)
class Filter:
    """A compiled filter; immutable, equal and hashable by its text."""

    text: str
    columns: frozenset[str] = field(compare=False)
    """The columns it reads."""
    _test: _Test = field(compare=False, repr=False)

    def __call__(self, batch: Batch) -> Array:
        """Bool (n,), read-only: the rows that match; a broadcast of one value where the columns read are that."""
        return np.broadcast_to(self._test(batch), (len(batch),))


def parse_filter(text: str, path: str) -> Filter:
    """Compile a filter; `path` is the setting it stands in. Raises FilterError."""
    columns: set[str] = set()
    try:
        if len(text) > MAX_TEXT:
            raise WrongError(MAX_TEXT, f"a filter has at most {MAX_TEXT} characters; this one has {len(text)}")
        test = _compile(_parse(text), columns, 0)
    except WrongError as wrong:
        raise FilterError(path, text, wrong.position, wrong.what) from None
    return Filter(text, frozenset(columns), test)


def _pointed(text: str, position: int) -> str:
    """The text, or what is near the position in a long one, above the caret."""
    start = max(0, position - _WIDTH // 2) if len(text) > _WIDTH else 0
    shown = "".join(c if c.isprintable() else " " for c in text[start : start + _WIDTH])
    before, after = "…" if start else "", "…" if start + _WIDTH < len(text) else ""
    return f"  {before}{shown}{after}\n  {' ' * (len(before) + position - start)}^"


_GRAMMAR = r"""
    ?start: any
    ?any: all (_OR all)*
    ?all: one (_AND one)*
    ?one: NOT one -> nested
        | LPAR any _RPAR -> nested
        | WORD COMPARE WORD -> comparison
        | WORD NOT? IN _items -> membership
        | WORD (HAS | AMP) WORD -> bits
        | WORD IS WORD -> presence
    _items: WORD | _LBRACE _list _RBRACE | _LSQB _list _RSQB | LPAR _list _RPAR
    _list: WORD (_COMMA WORD)*

    WORD: /[A-Za-z0-9_.:\/-]+|"(\\["\\]|[^"\\])*"/
    COMPARE.3: /[=!<>]=|[=<>]/
    _AND.2: /and(?![\w.:\/-])|&&/i
    _OR.2: /or(?![\w.:\/-])|\|\|/i
    NOT.2: /not(?![\w.:\/-])|!/i
    IN.2: /in(?![\w.:\/-])/i
    HAS.2: /has(?![\w.:\/-])/i
    IS.2: /is(?![\w.:\/-])/i
    AMP: "&"
    LPAR: "("
    _RPAR: ")"
    _LSQB: "["
    _RSQB: "]"
    _LBRACE: "{"
    _RBRACE: "}"
    _COMMA: ","
    %ignore /\s+/
"""
_OPENERS = ("LPAR", "_LSQB", "_LBRACE")
_CLOSERS = {"_RPAR": ")", "_RSQB": "]", "_RBRACE": "}"}
_HINTS = {
    "|": "; or is written or or ||",
    "'": '; texts stand in ", or without quotes where they are of letters, digits and _.:/-',
    '"': '; this " is never closed',
}


@cache
def _parser() -> lark.Lark:
    # Imported with the first filter: that takes 30 ms and some megabytes, and an agent may have none.
    from lark import Lark

    return Lark(_GRAMMAR, parser="lalr", lexer="basic", maybe_placeholders=False)


def _parse(text: str) -> Any:
    """The tree of a text; raises WrongError."""
    from lark import UnexpectedCharacters, UnexpectedToken

    parser: Any = _parser().parse_interactive(text)
    seen: list[Any] = []
    try:
        for token in parser.iter_parse():
            seen.append(token)  # noqa: PERF402 - what was seen is asked for when this raises
        return parser.feed_eof(seen[-1] if seen else None)
    except UnexpectedCharacters as error:
        at = int(error.pos_in_stream or 0)
        raise WrongError(at, f"unexpected character {text[at]!r}{_HINTS.get(text[at], '')}") from None
    except UnexpectedToken as error:
        unexpected = None if error.token.type == "$END" else seen.pop()
        raise _unexpected(seen, unexpected) from None


def _unexpected(seen: Sequence[Any], token: Any) -> WrongError:
    """What could stand where this token does (None: the end), after these."""
    if not seen and token is None:
        return WrongError(0, "the filter is empty; expected a condition such as proto == tcp")
    parser: Any = _parser().parse_interactive("")
    opened: list[Any] = []
    for one in seen:
        parser.feed_token(one)
        if one.type in _OPENERS:
            opened.append(one)
        elif one.type in _CLOSERS:
            opened.pop()
    accepts = parser.accepts()
    closer = next((text for name, text in _CLOSERS.items() if name in accepts), "")
    if token is None and closer:
        return WrongError(opened[-1].start_pos, f"expected {closer}: this {opened[-1]} is never closed")
    last = seen[-1] if seen else None
    what = _expected(accepts, closer, after_is=last is not None and last.type == "IS")
    after = f" after {_named(last)}" if last is not None else ""
    if token is None:
        return WrongError(seen[-1].end_pos, f"expected {what}{after}")
    return WrongError(token.start_pos, f"expected {what}{after}, not {_named(token)}")


def _named(word: Any) -> str:
    return "a comma" if word == "," else str(word)


def _expected(accepts: set[str], closer: str, *, after_is: bool) -> str:
    if "COMPARE" in accepts:
        return "a comparison such as == or in"
    if "NOT" in accepts:
        return "a condition such as proto == tcp"
    if "_LBRACE" in accepts:
        return "a value, a range or a set such as {80, 443}"
    if "WORD" in accepts:
        return "known or unknown" if after_is else "a value"
    if "IN" in accepts:
        return "in"
    return f"a comma or {closer}" if "_COMMA" in accepts else f"and, or or {closer or 'the end'}"


def _compile(tree: Any, columns: set[str], depth: int) -> _Test:
    """The test of a tree; adds the columns it reads. Raises WrongError."""
    if tree.data in ("any", "all"):
        return _joined([_compile(child, columns, depth) for child in tree.children], every=tree.data == "all")
    if tree.data == "nested":
        opener, inner = tree.children
        if depth == MAX_DEPTH:
            raise WrongError(opener.start_pos, f"more than {MAX_DEPTH} parentheses and not within one another")
        test = _compile(inner, columns, depth + 1)
        return _negated(test) if opener.type == "NOT" else test
    name, operator, *rest = tree.children
    values = [token for token in rest if token.type == "WORD"]
    operand = read_operand(str(name), name.start_pos)
    columns.update(operand.columns)
    if tree.data == "presence":
        return _presence(operand, values[0])
    if tree.data == "bits":
        return _each(operand, _bits(operand, operator, values[0]))
    if tree.data == "membership":
        pairs = [pair for value in values for pair in read_item(operand, str(value), value.start_pos)]
    else:
        pairs = [_compared(operand, operator, values[0])]
    pairs = merged(pairs)
    match = in_addresses(pairs) if operand.kind == "addr" else in_ranges(pairs, operand.ends, operand.dtype)
    return _each(operand, match, negative=operator.type == "NOT" or operator == "!=")


def _presence(operand: Operand, value: Any) -> _Test:
    if value.lower() not in ("known", "unknown"):
        raise WrongError(value.start_pos, f"expected known or unknown after is, not {value}")
    known = _joined([_known(name) for name in operand.columns], every=False)
    return known if value.lower() == "known" else _negated(known)


def _bits(operand: Operand, operator: Any, value: Any) -> Match:
    if operand.kind != "int" or operand.is_float:
        problem = f"{operator} looks at the bits of a whole number; {operand.name} is {operand.what}"
        raise WrongError(operator.start_pos, problem)
    bits = int(read_value(operand, str(value), value.start_pos))
    if bits <= 0:
        raise WrongError(value.start_pos, f"{value} has no bits to look for")
    if operator == "&":
        return lambda values: np.asarray((values & bits) != 0)
    return lambda values: np.asarray((values & bits) == bits)


def _compared(operand: Operand, operator: Any, value: Any) -> Pair:
    """The values that compare so, or that `!=` leaves out."""
    if operator[0] in "<>" and operand.kind in ("addr", "mac", "enum", "name"):
        problem = f"{operand.name} is {operand.what}, which has no order; use ==, != or in"
        raise WrongError(operator.start_pos, problem)
    (number, last), *_ = read_item(operand, str(value), value.start_pos)
    if number != last:
        problem = f"{operator} takes one value; ranges and prefixes go with in: {operand.name} in {value}"
        raise WrongError(value.start_pos, problem)
    least, most = operand.ends
    before, after = (math.nextafter(number, end) if operand.is_float else number + step
                     for end, step in ((-math.inf, -1), (math.inf, 1)))  # fmt: skip
    ranges = {"<": (least, before), "<=": (least, number), ">": (after, most), ">=": (number, most)}
    first, last = ranges.get(str(operator), (number, number))
    if first > last:
        problem = f"{operand.name} goes from {least} to {most}; {operator} {value} never matches"
        raise WrongError(value.start_pos, problem)
    return first, last


def _each(operand: Operand, match: Match, *, negative: bool = False) -> _Test:
    """Of two columns either may match; both must not where the test is negative."""
    return _joined([_on(name, operand.dtype, match, negative=negative) for name in operand.columns], every=negative)


def _on(name: str, dtype: np.dtype[Any], match: Match, *, negative: bool) -> _Test:
    def test(batch: Batch) -> Array:
        if name not in batch:
            return _NONE
        values = _once(batch[name]).astype(dtype, copy=False)
        rows = ~match(values) if negative else match(values)
        if negative and dtype.kind == "f":
            rows &= values == values  # noqa: PLR0124 - NaN compares as what is unknown does
        return rows & _once(batch.valid[name]) if name in batch.valid else rows

    return test


def _known(name: str) -> _Test:
    if name in COLUMNS and COLUMNS[name].kind == "name":
        return lambda batch: _once(batch[name]) != 0 if name in batch else _NONE
    return lambda batch: _once(batch.is_known(name))


def _once(values: Array) -> Array:
    """The column, or its first row where that is all of it."""
    return values[..., :1] if is_constant(values) else values


def _negated(test: _Test) -> _Test:
    return lambda batch: ~test(batch)


def _joined(tests: Sequence[_Test], *, every: bool) -> _Test:
    """All tests or any; what cannot change a row any more is not looked at."""

    def test(batch: Batch) -> Array:
        rows = tests[0](batch)
        for one in tests[1:]:
            if not rows.any() if every else rows.all():
                break
            rows = rows & one(batch) if every else rows | one(batch)
        return rows

    return tests[0] if len(tests) == 1 else test
