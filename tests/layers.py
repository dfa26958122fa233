"""Import levels of every package: ``python -m tests.layers [FOLDER]...`` prints them, with circles and upward imports.

A module imports from its own folder and from the levels below it, never from the same level or above. Imports inside
functions and under ``TYPE_CHECKING`` count. ``__init__`` and ``__main__`` of a folder stand above all of its levels:
the first re-exports, so modules of the folder import a name from the module that defines it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]

Levels = tuple[tuple[str, ...], ...]

LEVELS: dict[str, Levels] = {
    "runtime": (
        ("commands",),
        ("server", "napari"),
        ("correction", "cellpose", "spatial", "triton"),
        ("jobs",),
        ("files",),
        ("segmenter",),
        ("pipeline",),
        ("views",),
        ("engines",),
        ("results",),
        ("ops",),
        ("config",),
        ("types", "errors", "typed_json", "extras", "provenance"),
    ),
    "runtime/engines": (
        ("backends",),
        ("engine_source",),
        ("manifest", "builtin"),
        ("sums", "onnx_check"),
        ("onnx_graph",),
        ("protobuf",),
    ),
    "runtime/files": (
        ("image_results", "save", "made_by"),
        ("outputs",),
        ("label_files",),
        ("plain",),
        ("formats",),
        ("readers", "placing", "locks", "fingerprint"),
    ),
    "runtime/correction": (
        ("export_labels", "import_labels"),
        ("project", "label_formats", "engine_versions"),
        ("project_images", "history", "edits"),
        ("timeline", "snapshot", "label_map", "outcomes", "project_file", "project_lock"),
        ("images", "journal", "difference"),
        ("engine_record",),
    ),
    "runtime/jobs": (
        ("folders",),
        ("find_images",),
        ("slides",),
        ("segmenter_spec", "cluster", "differences", "failure", "memory", "step", "tracking"),
    ),
    "runtime/server": (
        ("run", "client"),
        ("app",),
        ("routes", "protocols"),
        ("work",),
        ("images",),
        ("http",),
        ("options",),
    ),
    "export": (
        ("commands",),
        ("improve",),
        ("finetune",),
        ("exporter", "bioimageio"),
        ("verify_half",),
        ("onnx_file", "half_range"),
        ("engine_files", "plans"),
        ("graphs", "verify", "saved_data", "placing", "quantised"),
        ("references",),
        ("gates", "rounding", "sample_image", "polygraphy_log", "overall_progress", "errors"),
    ),
    "training": (
        ("commands",),
        ("train",),
        ("stages", "steps", "resume"),
        ("pictures", "losses"),
        ("batches", "assignment", "weights"),
        ("further",),
        ("evaluation", "recipe", "checkpoint"),
        ("data", "model", "usage"),
    ),
    "benchmarks": (
        (
            "commands",
            "attention",
            "edit_kills",
            "export_seeds",
            "host_work",
            "improve_curve",
            "int8",
            "kills",
            "latency",
            "linking",
            "page_frames",
            "picture",
            "plans",
            "seams",
            "serve_load",
            "slides",
            "soak",
            "tables",
            "windowed",
        ),
        ("synthetic", "synthetic_sheets", "evaluation_tables", "soak_phases", "kill_cases"),
        ("agreement", "baselines", "made_slide", "plots"),
        ("measure", "arithmetic", "seeded_weights", "resident", "host_work_parts", "server_process"),
    ),
}
"""Levels of each folder from top to bottom: names of its modules and folders, some of which do not exist yet."""

PACKAGES = tuple(folder for folder in LEVELS if "/" not in folder)

Graph = dict[str, dict[str, int]]
"""Modules of a package, with the modules of the package that each imports and the line of each import."""


def imported_names(path: Path) -> Iterator[tuple[str, str | None, int]]:
    """Return module, imported name (None for ``import module``) and line of every import anywhere in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            for alias in node.names:
                yield node.module or "", alias.name, node.lineno


def read_imports(package: str, root: Path = ROOT) -> Graph:
    """Map each module of a package to its imports inside it.

    ``from a import b`` imports ``a.b`` if that is a module.
    """
    files = {module_name(path, root): path for path in sorted((root / package).rglob("*.py"))}
    graph: Graph = {}
    for module, path in files.items():
        graph[module] = {}
        for source, name, line in imported_names(path):
            target = f"{source}.{name}" if f"{source}.{name}" in files else source
            if target in files and target != module:
                graph[module].setdefault(target, line)
    return graph


def module_name(path: Path, root: Path = ROOT) -> str:
    """Return the dotted name of a file, which for an ``__init__`` is that of its folder."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def find_circles(graph: Graph) -> list[str]:
    """Find circles of imports, each as ``a -> b -> a``."""
    rest = {module: set(targets) for module, targets in graph.items()}
    circles = []
    while circle := _find_circle(rest):
        circles.append(" -> ".join(circle))
        rest[circle[0]].discard(circle[1])
    return circles


def _find_circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        # The path found runs from the imported module to the importing one.
        path: list[str] = error.args[1]
        return path[::-1]
    return []


def find_upward(folder: str, graph: Graph, levels: Levels) -> list[str]:
    """Find imports of a folder's modules from their own level or above, and modules without a level."""
    of = {name: level for level, names in enumerate(levels) for name in names}
    parts = dict.fromkeys(_part(folder, module) for module in graph)
    wrong = [
        f"{folder}/{part} stands on no level; add it to LEVELS[{folder!r}] in tests/layers.py"
        for part in parts
        if part is not None and part not in of
    ]
    for module, targets in graph.items():
        part = _part(folder, module)
        for target, line in targets.items():
            found = _part(folder, target)
            inside = target == folder.replace("/", ".") or found is not None
            if part not in of or not inside or found == part or of.get(found or "", -1) > of[part]:
                continue
            below = ", ".join(name for names in levels[of[part] + 1 :] for name in names)
            wrong.append(f"{module}, line {line}, imports {target}; {part} may import {below or 'nothing'} of {folder}")
    return wrong


def _part(folder: str, module: str) -> str | None:
    """Return the module or folder inside ``folder`` that contains a module; None if outside, or for ``__init__``."""
    prefix = folder.replace("/", ".") + "."
    part = module[len(prefix) :].split(".")[0] if module.startswith(prefix) else None
    return None if part == "__main__" else part


def longest_chain(graph: Graph) -> int:
    """Count the modules in the longest chain of imports, in a graph without circles."""
    depth: dict[str, int] = {}
    for module in TopologicalSorter({module: set(targets) for module, targets in graph.items()}).static_order():
        depth[module] = 1 + max((depth[target] for target in graph[module]), default=0)
    return max(depth.values(), default=0)


def describe(folder: str, root: Path = ROOT) -> tuple[list[str], bool]:
    """Describe the levels of a folder from top to bottom, then its violations.

    Returns:
        The lines, and whether there are neither circles nor upward imports.
    """
    graph = read_imports(folder.split("/")[0], root)
    levels = [
        {name: [module for module in graph if _part(folder, module) == name] for name in names}
        for names in LEVELS[folder]
    ]
    present = [{name: modules for name, modules in level.items() if modules} for level in levels]
    present = [level for level in present if level]
    circles, upward = find_circles(graph), find_upward(folder, graph, LEVELS[folder])
    chain = "" if circles or "/" in folder else f", longest chain of imports: {longest_chain(graph)} modules"
    lines = [f"{folder}: {len(present)} levels{chain}"]
    for number, level in zip(range(len(present), 0, -1), present, strict=True):
        for name, modules in level.items():
            inner = [module.removeprefix(f"{folder.replace('/', '.')}.{name}").lstrip(".") for module in modules]
            lines.append(f"{number:>3}  {name:<15} {' '.join(filter(None, inner))}".rstrip())
    lines += [f"  circle: {circle}" for circle in circles] + [f"  upward: {one}" for one in upward]
    if not circles and not upward:
        lines.append("  no circle, no upward import")
    return lines, not circles and not upward


def main(folders: list[str]) -> int:
    """Print the levels of the given folders, by default of all in the table; return 1 if there are violations."""
    unknown = [folder for folder in folders if folder not in LEVELS]
    if unknown:
        print(f"no levels for {', '.join(unknown)}; expected one of {', '.join(LEVELS)}.", file=sys.stderr)
        return 2
    described = [describe(folder) for folder in folders or LEVELS]
    print("\n\n".join("\n".join(lines) for lines, _ in described))
    return 0 if all(right for _, right in described) else 1


if __name__ == "__main__":
    sys.exit(main([folder.rstrip("/") for folder in sys.argv[1:]]))
