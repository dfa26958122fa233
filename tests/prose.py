"""The prose of a repository: docstrings, comments, messages and Markdown, in paragraphs."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MESSAGE_CALLS = {"debug", "info", "warning", "error", "exception", "critical", "warn"}
"""Methods whose first argument is a message."""

_ITEM = re.compile(r"\s*(?:[-*+] |\d+\. |\w+(?:, \*{0,2}\w+)*: |(?:Args|Returns|Raises|Yields|Source|Example):$)")
"""Beginning of a list item, or of an entry of a docstring section."""
_DIRECTIVE = re.compile(r"#\s*(?:type:|noqa|pragma|fmt:|mypy:|!|nosec)")


@dataclass(frozen=True, slots=True)
class Passage:
    """A paragraph, a list item, a comment or a message."""

    line: int
    text: str
    begins_docstring: bool = False


def read_passages(path: Path) -> Iterator[Passage]:
    """Yield the prose of a Python or Markdown file."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield from _paragraphs(_without_blocks(source), 1)
        return
    tree = ast.parse(source)
    for node in ast.walk(tree):
        yield from _docstrings(node)
        yield from _messages(node)
    yield from _comments(source)


def sentences(text: str) -> list[str]:
    """Split a paragraph into sentences; inline code counts as one word."""
    text = re.sub(r"(`+).+?\1", "`code`", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.split(r"(?<=[.!?])[)\"'*]*\s+(?=[`\"'(*_\[]*[A-Z0-9`])", text)


def _docstrings(node: ast.AST) -> Iterator[Passage]:
    """Yield the docstring of a definition, and the strings below attributes."""
    body = getattr(node, "body", None)
    for statement in body if isinstance(body, list) else ():
        match statement:
            case ast.Expr(value=ast.Constant(value=str(text))):
                for number, passage in enumerate(_paragraphs(text, statement.lineno)):
                    yield Passage(passage.line, passage.text, begins_docstring=number == 0)


def _messages(node: ast.AST) -> Iterator[Passage]:
    """Yield the messages of raised errors, the messages of logs, and help texts."""
    match node:
        case ast.Raise(exc=ast.Call(args=arguments)):
            found = arguments
        case ast.Call(func=ast.Attribute(attr=name), args=[first, *_]) if name in MESSAGE_CALLS:
            found = [first]
        case ast.keyword(arg="help", value=value):
            found = [value]
        case _:
            found = []
    for one in found:
        text = _text_of(one)
        if text:
            yield Passage(one.lineno, text)


def _text_of(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_text_of(value) if isinstance(value, ast.Constant) else "X" for value in values)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _text_of(left) + _text_of(right)
    return ""


def _comments(source: str) -> Iterator[Passage]:
    """Yield comments; those on consecutive lines of their own form one passage."""
    block: list[str] = []
    start = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or _DIRECTIVE.match(token.string):
            continue
        text = token.string.lstrip("# ")
        if token.line.lstrip().startswith("#") and token.start[0] == last + 1 and block:
            block.append(text)
        else:
            yield from _paragraphs("\n".join(block), start)
            block, start = [text], token.start[0]
        last = token.start[0]
    yield from _paragraphs("\n".join(block), start)


def _without_blocks(page: str) -> str:
    """Blank out front matter, fenced and indented code, tables, headings and HTML."""
    lines, fence = [], False
    for line in page.splitlines():
        fenced = line.lstrip().startswith("```")
        skip = fence or fenced or re.match(r"\s*[|<]|#|( {4}|\t)(?![-*\d])", line)
        if re.match(r" {4}", line) and lines and lines[-1].strip() and not (fence or fenced):
            skip = False  # the continuation of a list item
        fence ^= fenced
        lines.append("" if skip else line)
    return "\n".join(lines)


def _paragraphs(text: str, line: int) -> Iterator[Passage]:
    """Split a text at blank lines, list items and sections; leave out doctests and literal blocks."""
    block: list[str] = []
    start, literal = line, False
    for number, content in enumerate([*text.splitlines(), ""], line):
        literal = literal and (not content.strip() or content.startswith(" "))
        code = literal or content.lstrip().startswith((">>>", "...", "$ "))
        if not content.strip() or code or _ITEM.match(content):
            if block:
                yield Passage(start, " ".join(block))
            literal = literal or bool(block and block[-1].endswith("::"))
            block, start = [], number
        if content.strip() and not code and not literal:
            block.append(content.strip())
