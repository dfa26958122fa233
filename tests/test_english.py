"""Docstrings, comments, messages and pages read as plain English: no phrase of a list, no sentence of over 40 words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.prose import Passage, read_passages, sentences

ROOT = Path(__file__).parents[1]
FOLDERS = ("runtime", "export", "training", "benchmarks", "tests")
MAX_WORDS = 40

COMPARATIVE = r"(?!longer\b|more\b|less\b|worse\b|better\b|\w+er than\b)"
PHRASES = {
    rf"(?<!there )(?<!there's )\b(?:is|are|was|were) no {COMPARATIVE}": "is not a ...; has no ...",
    r"\b(?:go|goes|going|gone|went) on with\b": "continue, resume",
    r"\b(?:is|are|was|were|be|been) said\b": "name who reports it, and how",
    r"\banew\b": "again",
    r"\bwhat it is that\b": "which",
    r"\ball the same\b": "anyway, still",
    r"\b(?:take|takes|took|taking|taken) part\b": "name the action",
    r"\bhand(?:s|ed|ing)? on\b": "pass, forward",
    r"\b(?:some|any|every|no)body said\b": "unknown, not given",
    r"\brefus(?:e|es|ed|ing|al|als)\b": "reject, raise",
    r"\bstands? for\b": "means, represents",
}
"""Patterns that must not appear, with what to write instead."""

ALLOWED = (
    r"[Cc]onnections? (?:is |was |are )?refused",
    r"(?:letter|abbreviation|acronym|[A-Z]{2,}) stands for",
)
"""Exceptions."""

BAD_BEGINNING = re.compile(r"(?:Of|Those|That of|What|Where|As) ")
"""Beginnings of a docstring that is neither an imperative nor a noun phrase."""


def list_files() -> list[str]:
    """List every file with prose: Python modules, and Markdown at the top and in docs."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    found += [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted(str(path.relative_to(ROOT)) for path in found if path.stat().st_size)


def find_faults(passage: Passage) -> Iterator[str]:
    """Yield what to change in a passage."""
    text = passage.text
    for allowed in ALLOWED:
        text = re.sub(allowed, "", text)
    for pattern, instead in PHRASES.items():
        found = re.search(pattern, text, re.IGNORECASE)
        if found:
            yield f"'{_around(text, found)}': write: {instead}"
    if passage.begins_docstring and BAD_BEGINNING.match(text):
        yield f"docstring begins '{text[:30]}': write an imperative or a noun phrase"
    for sentence in sentences(text):
        count = len(sentence.split())
        if count > MAX_WORDS:
            yield f"{count} words: '{sentence[:50]}...': split the sentence"


def _around(text: str, found: re.Match[str]) -> str:
    return text[max(0, found.start() - 20) : found.end() + 20].strip()


@pytest.mark.parametrize("name", list_files())
def test_plain_english(name: str) -> None:
    faults = [f"{name}:{one.line}: {fault}" for one in read_passages(ROOT / name) for fault in find_faults(one)]
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)


WRONG = {
    "is no": "A file that is no image.",
    "goes on": "The job goes on with the next image.",
    "said": "TensorRT wants the plain ones, and that is said.",
    "anew": "Build the plan anew.",
    "beginning": "Of the image.",
    "long": f"It is {'very ' * 40}long.",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG.keys())
def test_a_fault_is_found_in_every_kind_of_text(text: str, tmp_path: Path) -> None:
    sources = {
        "docstring": f'def f():\n    """{text}"""\n',
        "attribute": f'x = 1\n"""{text}"""\n',
        "comment": f"# {text}\n",
        "error": f'raise ValueError("{text}")\n',
        "f-string": f'raise ValueError(f"{{x}} {text}")\n',
        "log": f'log.warning("{text}", 1)\n',
        "help": f'option(help="{text}")\n',
    }
    if text == WRONG["beginning"]:
        sources = {kind: sources[kind] for kind in ("docstring", "attribute")}
    for kind, source in sources.items():
        path = tmp_path / f"{kind}.py"
        path.write_text(source)
        assert any(True for one in read_passages(path) for _ in find_faults(one)), kind


def test_a_fault_is_found_in_a_list_of_a_page_but_not_in_its_code(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Built anew\n\n```\nbuilt anew\n```\n\n| anew |\n\n- built\n  anew\n\n    built anew\n")
    found = [(one.line, fault) for one in read_passages(page) for fault in find_faults(one)]
    assert [line for line, _ in found] == [9]


GOOD = (
    "There is no GPU.",
    "A plan is no longer valid, and is no faster than before.",
    "Connection refused.",
    "What is not found raises.  Of those, none is kept.",
    f"It is {'very ' * 30}long. It is {'very ' * 30}long.",
)


@pytest.mark.parametrize("text", GOOD)
def test_good_english_passes(text: str) -> None:
    assert not list(find_faults(Passage(1, text)))
