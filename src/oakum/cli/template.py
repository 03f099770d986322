# SPDX-License-Identifier: Apache-2.0
"""Templates as `--format` takes them: the part of Go's text/template that docker's users type. Pure.

Text with {{actions}}: fields (.State.Status), index, json and its like, pipelines, range, if, with, variables of range.
Everything else is refused with a word of what works. Values are plain JSON ones; a callable is a method (.Label "x").
Source: pkg.go.dev/text/template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn, cast

from oakum.errors import InvalidArgument, NotFound

HINT: Final = (
    'what works: {{.Field.Field}} {{json .}} {{index .Field "key"}} {{join .List ","}} {{upper .Field}}'
    " {{range .List}}{{.}}{{end}} {{if .Field}}{{else}}{{end}}, and `table {{.Field}}` for lists"
)
_ACTION: Final = re.compile(r"\{\{(- )?\s*(.*?)\s*( -)?\}\}", re.DOTALL)
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<string>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<number>-?\d+)|(?P<field>(?:\$\w*)?(?:\.\w*)+|\$\w*)"""
    r"""|(?P<word>\w+)|(?P<mark>:=|[|(),]))"""
)
_DEPTH: Final = 20
# what one template may write: a range within ranges must not fill the memory
_OUTPUT_LIMIT: Final = 64 << 20

Value = Any


class _Text(NamedTuple):
    text: str


class _Operand(NamedTuple):
    kind: str  # "value", "field", "function", "pipeline"
    value: (
        Value  # the constant, the name of the variable a field begins at, the function's name, the pipeline
    )
    path: tuple[str, ...] = ()


class _Block(NamedTuple):
    kind: str  # "write", "range", "if", "with"
    pipeline: tuple[tuple[_Operand, ...], ...]
    variables: tuple[str, ...] = ()
    body: tuple[_Node, ...] = ()
    otherwise: tuple[_Node, ...] = ()


_Node = _Text | _Block


class Template:
    """A parsed template; with `escapes` a backslash before t and n in its text makes a tab and the end of a line.

    Raises:
        InvalidArgument: it is none, or uses what is not known here.
    """

    def __init__(self, text: str, *, escapes: bool = False) -> None:
        self.text = text
        self._nodes = _Parser(text, escapes=escapes).parse()

    def render(self, value: Value, *, show: Callable[[str], str] = str) -> str:
        """The text for a value; `show` makes what comes from outside fit to be written.

        Raises:
            NotFound: the value has no such field.
            InvalidArgument: a function cannot take what it is given.
        """
        written: list[str] = []
        _Renderer(self.text, value, show).write(self._nodes, value, {"$": value}, written)
        return "".join(written)


def _refuse(text: str, cause: str) -> NoReturn:
    raise InvalidArgument("read --format", repr(text), cause, hint=HINT)


class _Parser:
    def __init__(self, text: str, *, escapes: bool) -> None:
        self._text = text
        self._escapes = escapes
        self._parts = list(self._split(text))
        self._at = 0

    def _split(self, text: str) -> Iterator[tuple[str, str]]:
        """("text", ...) and ("action", ...) in their order, blanks trimmed where {{- or -}} says so."""
        end, trim = 0, False
        for match in _ACTION.finditer(text):
            between = text[end : match.start()]
            if "{{" in between or "}}" in between:
                break
            between = between.lstrip() if trim else between
            yield "text", between.rstrip() if match[1] else between
            if not match[2].startswith("/*"):
                yield "action", match[2]
            end, trim = match.end(), bool(match[3])
        rest = text[end:]
        if "{{" in rest or "}}" in rest:
            _refuse(text, "{{ without }}, or the reverse")
        yield "text", rest.lstrip() if trim else rest

    def parse(self) -> tuple[_Node, ...]:
        nodes, ended = self._nodes(0)
        if ended:
            _refuse(self._text, f"{{{{{ended}}}}} without {{{{if}}}} or {{{{range}}}}")
        return nodes

    def _nodes(self, depth: int) -> tuple[tuple[_Node, ...], str]:
        """What stands until the end, or until an {{end}} or {{else ...}}, which is given, too."""
        if depth > _DEPTH:
            _refuse(self._text, "too deeply nested")
        found: list[_Node] = []
        while self._at < len(self._parts):
            kind, content = self._parts[self._at]
            self._at += 1
            first = content.split(None, 1)[0] if content.strip() else ""
            if kind == "text":
                plain = content.replace("\\t", "\t").replace("\\n", "\n") if self._escapes else content
                found.append(_Text(plain))
            elif first in ("end", "else"):
                return tuple(found), content
            elif first in ("range", "if", "with"):
                found.append(self._block(first, content[len(first) :], depth))
            else:
                found.append(_Block("write", self._pipeline(self._tokens(content))))
        return tuple(found), ""

    def _block(self, kind: str, content: str, depth: int) -> _Block:
        tokens = self._tokens(content)
        variables: list[str] = []
        if ("mark", ":=") in tokens:
            position = tokens.index(("mark", ":="))
            variables = [word for what, word in tokens[:position] if what == "field"]
            if any(not re.fullmatch(r"\$\w+", name) for name in variables) or not 0 < len(variables) < 3:
                _refuse(self._text, f"{content.strip()!r} is not understood")
            tokens = tokens[position + 1 :]
        pipeline = self._pipeline(tokens)
        body, ended = self._nodes(depth + 1)
        otherwise: tuple[_Node, ...] = ()
        if ended.startswith("else if"):
            return _Block(kind, pipeline, tuple(variables), body, (self._block("if", ended[7:], depth + 1),))
        if ended == "else":
            otherwise, ended = self._nodes(depth + 1)
        if ended != "end":
            _refuse(self._text, f"{{{{{kind}}}}} without {{{{end}}}}")
        return _Block(kind, pipeline, tuple(variables), body, otherwise)

    def _tokens(self, content: str) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        at = 0
        while content[at:].strip():
            match = _TOKEN.match(content, at)
            if match is None or match.lastgroup is None:
                _refuse(self._text, f"{content[at:].strip()!r} is not understood")
            kind, word = match.lastgroup, match[match.lastgroup]
            # (index .List 0).Field is one thing, (index .List 0) .Field are two
            chained = kind == "field" and word[0] == "." and found[-1:] == [("mark", ")")]
            found.append(("chain" if chained and match.start(kind) == at else kind, word))
            at = match.end()
        return found

    def _pipeline(self, tokens: list[tuple[str, str]]) -> tuple[tuple[_Operand, ...], ...]:
        pipeline, rest = self._commands(tokens, 0)
        if rest:
            _refuse(self._text, f"{rest[0][1]!r} is not understood")
        return pipeline

    def _commands(
        self, tokens: list[tuple[str, str]], depth: int
    ) -> tuple[tuple[tuple[_Operand, ...], ...], list[tuple[str, str]]]:
        """Commands until the end or a closing bracket, and what follows them."""
        commands: list[tuple[_Operand, ...]] = []
        words: list[_Operand] = []
        while tokens:
            (kind, word), tokens = tokens[0], tokens[1:]
            if (kind, word) == ("mark", "(") and depth < _DEPTH:
                inner, tokens = self._commands(tokens, depth + 1)
                if not tokens or tokens[0] != ("mark", ")"):
                    _refuse(self._text, "( without )")
                tokens = tokens[1:]
                path: tuple[str, ...] = ()
                if tokens and tokens[0][0] == "chain":
                    path, tokens = tuple(filter(None, tokens[0][1].split("."))), tokens[1:]
                words.append(_Operand("pipeline", inner, path))
            elif (kind, word) == ("mark", "|"):
                commands.append(self._command(words))
                words = []
            elif kind == "mark":
                tokens = [(kind, word), *tokens]
                break
            else:
                words.append(self._operand(kind, word))
        commands.append(self._command(words))
        return tuple(commands), tokens

    def _command(self, words: list[_Operand]) -> tuple[_Operand, ...]:
        if not words:
            _refuse(self._text, "an empty {{}}")
        return tuple(words)

    def _operand(self, kind: str, word: str) -> _Operand:
        if kind == "string":
            return _Operand("value", word[1:-1] if word[0] == "`" else self._unquoted(word))
        if kind == "number":
            return _Operand("value", int(word[:18]))
        if kind == "field":
            start, *names = word.split(".")
            return _Operand("field", start, tuple(name for name in names if name))
        if word in ("true", "false", "nil"):
            return _Operand("value", {"true": True, "false": False}.get(word))
        if word not in FUNCTIONS:
            _refuse(self._text, f"there is no function {word!r}")
        return _Operand("function", word)

    def _unquoted(self, word: str) -> str:
        try:
            return str(json.loads(word, strict=False))
        except ValueError:
            _refuse(self._text, f"{word} is not understood")


class _Renderer:
    def __init__(self, text: str, root: Value, show: Callable[[str], str]) -> None:
        self._text = text
        self._root = root
        self._show = show
        self._length = 0

    def write(
        self, nodes: Sequence[_Node], dot: Value, variables: Mapping[str, Value], written: list[str]
    ) -> None:
        for node in nodes:
            if isinstance(node, _Text):
                self._add(node.text, written)
                continue
            value = self._pipeline(node.pipeline, dot, variables)
            if node.kind == "write":
                self._add(self._show(said(value)), written)
            elif node.kind == "range":
                if not self._range(node, value, variables, written):
                    self.write(node.otherwise, dot, variables, written)
            elif not value:
                self.write(node.otherwise, dot, variables, written)
            else:
                inside = {**variables, **dict.fromkeys(node.variables, value)}
                self.write(node.body, value if node.kind == "with" else dot, inside, written)

    def _add(self, text: str, written: list[str]) -> None:
        self._length += len(text)
        if self._length > _OUTPUT_LIMIT:
            _refuse(self._text, "it writes too much")
        written.append(text)

    def _range(self, node: _Block, value: Value, variables: Mapping[str, Value], written: list[str]) -> bool:
        """Whether there was anything."""
        pairs: list[tuple[Value, Value]]
        if isinstance(value, Mapping):
            known = cast("Mapping[str, Value]", value)
            pairs = [(key, known[key]) for key in sorted(known)]
        elif isinstance(value, list | tuple):
            pairs = list(enumerate(cast("Sequence[Value]", value)))
        elif value is None:
            pairs = []
        else:
            _refuse(self._text, f"range needs a list, not {said(value)[:40]!r}")
        for key, item in pairs:
            names = node.variables
            named = {names[0]: key, names[1]: item} if len(names) == 2 else dict.fromkeys(names, item)
            self.write(node.body, item, {**variables, **named}, written)
        return bool(pairs)

    def _pipeline(
        self, pipeline: Sequence[Sequence[_Operand]], dot: Value, variables: Mapping[str, Value]
    ) -> Value:
        piped: tuple[Value, ...] = ()
        for first, *others in pipeline:
            given = (*(self._operand(word, dot, variables) for word in others), *piped)
            piped = (self._call(first, given, dot, variables),)
        return piped[0]

    def _call(
        self, first: _Operand, given: tuple[Value, ...], dot: Value, variables: Mapping[str, Value]
    ) -> Value:
        if first.kind == "function":
            try:
                return FUNCTIONS[first.value](*given)
            except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
                raise InvalidArgument(
                    "read --format", repr(self._text), f"{first.value}: {error}", hint=HINT
                ) from error
        value = self._operand(first, dot, variables)
        if callable(value):
            try:
                return value(*given)
            except TypeError as error:
                raise InvalidArgument(
                    "read --format", repr(self._text), f".{'.'.join(first.path)}: {error}", hint=HINT
                ) from error
        if given:
            _refuse(self._text, f"{said(value)[:40]!r} is no function")
        return value

    def _operand(self, word: _Operand, dot: Value, variables: Mapping[str, Value]) -> Value:
        if word.kind == "value":
            return word.value
        if word.kind == "function":
            return self._call(word, (), dot, variables)
        if word.kind == "pipeline":
            return self._walk(word.path, self._pipeline(word.value, dot, variables))
        if word.value and word.value not in variables:
            _refuse(self._text, f"there is no variable {word.value}")
        return self._walk(word.path, variables[word.value] if word.value else dot)

    def _walk(self, path: tuple[str, ...], value: Value) -> Value:
        for number, name in enumerate(path):
            if isinstance(value, Mapping) and name in value:
                value = cast("Mapping[str, Value]", value)[name]
            else:
                self._missing(".".join(("", *path[: number + 1])), value)
        return value

    def _missing(self, field: str, value: Value) -> NoReturn:
        there = ""
        if isinstance(value, Mapping):
            there = " ".join(f".{name}" for name in cast("Mapping[str, Value]", value))
        hint = f"there are: {there}" if there else HINT
        raise NotFound("read --format", repr(self._text), f"there is no field {field}", hint=hint)


def said(value: Value) -> str:
    """A value as Go writes it: lists in [], maps sorted in map[], nothing as <no value>."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        known = cast("Mapping[str, Value]", value)
        return f"map[{' '.join(f'{key}:{said(known[key])}' for key in sorted(known))}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(said(item) for item in cast('Sequence[Value]', value))}]"
    return str(value)


def _json(value: Value) -> str:
    def plain(method: object) -> NoReturn:
        raise TypeError(f"{method!r} is no value")

    def clean(item: Value) -> Value:
        if isinstance(item, Mapping):
            known = cast("Mapping[str, Value]", item)
            return {key: clean(inner) for key, inner in known.items() if not callable(inner)}
        if isinstance(item, list | tuple):
            return [clean(inner) for inner in cast("Sequence[Value]", item)]
        return item

    return json.dumps(clean(value), ensure_ascii=False, separators=(",", ":"), default=plain)


def _index(value: Value, *keys: Value) -> Value:
    for key in keys:
        if isinstance(value, Mapping):
            value = cast("Mapping[str, Value]", value).get(key, "")  # as of Go's map[string]string
        elif isinstance(value, list | tuple | str) and isinstance(key, int) and key >= 0:
            value = cast("Sequence[Value]", value)[key]
        else:
            raise TypeError(f"nothing at {key!r} of {said(value)[:40]!r}")
    return value


def _printf(form: str, *values: Value) -> str:
    rest = list(values)

    def one(match: re.Match[str]) -> str:
        if match[2] == "%":
            return "%"
        value = rest.pop(0)
        text = json.dumps(said(value), ensure_ascii=False) if match[2] == "q" else said(value)
        width = int(match[1] or "0")
        return text.ljust(-width) if width < 0 else text.rjust(width)

    return re.sub(r"%(-?\d{1,3})?([svdq%])", one, form)


def _both(first: Value, *others: Value) -> Value:
    return next((value for value in (first, *others) if not value), (first, *others)[-1])


def _either(first: Value, *others: Value) -> Value:
    return next((value for value in (first, *others) if value), (first, *others)[-1])


def _upper(value: Value) -> str:
    return said(value).upper()


def _lower(value: Value) -> str:
    return said(value).lower()


def _title(value: Value) -> str:
    return said(value).title()


def _join(items: Sequence[Value], between: str) -> str:
    return between.join(said(item) for item in items)


def _split(value: Value, between: str) -> list[str]:
    return said(value).split(between)


def _truncate(value: Value, length: int) -> str:
    return said(value)[: max(0, length)]


def _length(value: Value) -> int:
    return len(value)


def _print(*values: Value) -> str:
    return "".join(said(value) for value in values)


def _println(*values: Value) -> str:
    return " ".join(said(value) for value in values) + "\n"


def _equal(value: Value, *others: Value) -> bool:
    return value in others


def _differs(value: Value, other: Value) -> bool:
    return value != other


def _not(value: Value) -> bool:
    return not value


FUNCTIONS: Final[dict[str, Callable[..., Value]]] = {
    "json": _json,
    "index": _index,
    "len": _length,
    "upper": _upper,
    "lower": _lower,
    "title": _title,
    "join": _join,
    "split": _split,
    "truncate": _truncate,
    "print": _print,
    "println": _println,
    "printf": _printf,
    "eq": _equal,
    "ne": _differs,
    "not": _not,
    "and": _both,
    "or": _either,
}
