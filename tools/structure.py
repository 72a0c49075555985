"""Print the structure of the package: modules, lengths of functions, imports between components.

A component is a module or a folder directly in the package; the folder of backbones is a separate
component. A component depends on another if it imports anything from it.

    python tools/structure.py              # of the package in this checkout
    python tools/structure.py FOLDER       # of the package sklearn_epee in another checkout
"""

from __future__ import annotations

import argparse
import ast
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "sklearn_epee"
# Inner folders that are separate components.
INNER_COMPONENTS = ("_nn.backbones", "nn.backbones")


@dataclass(frozen=True)
class Import:
    """One imported name; `lazy` imports are inside a function."""

    importer: str
    module: str
    name: str
    lazy: bool


def modules_of(root: Path) -> dict[str, ast.Module]:
    """Return the syntax tree of every module by its dotted name within the package."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        if path.name == "conftest.py":
            continue
        parts = path.relative_to(root / PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found[name or "__init__"] = ast.parse(path.read_text())
    return found


def imports_of(root: Path) -> list[Import]:
    """Return all imports of all modules, with names of the package relative to it."""
    modules = modules_of(root)
    return [
        found
        for importer, tree in modules.items()
        for found in _imports_in(importer, tree, set(modules), _is_folder(root, importer))
    ]


def component_of(module: str) -> str:
    """Return the component of a module of the package."""
    for inner in INNER_COMPONENTS:
        if module == inner or module.startswith(f"{inner}."):
            return inner
    return module.partition(".")[0]


def component_dependencies(imports: list[Import]) -> dict[tuple[str, str], list[Import]]:
    """Return the imports of one component by another, by the pair (importer, imported)."""
    found_by_pair: dict[tuple[str, str], list[Import]] = {}
    for found in imports:
        if not found.module.startswith(f"{PACKAGE}:"):
            continue
        pair = component_of(found.importer), component_of(found.module.partition(":")[2])
        if pair[0] != pair[1]:
            found_by_pair.setdefault(pair, []).append(found)
    return found_by_pair


def module_dependencies(imports: list[Import]) -> set[tuple[str, str]]:
    """Return all pairs (importer, imported) of modules of the package."""
    return {
        (found.importer, found.module.partition(":")[2])
        for found in imports
        if found.module.startswith(f"{PACKAGE}:")
    }


def private_imports(imports: list[Import]) -> list[Import]:
    """Return imports of private modules or names of other packages."""
    return [
        found
        for found in imports
        if not found.module.startswith((f"{PACKAGE}:", "__future__"))
        and any(_is_private(part) for part in [*found.module.split("."), found.name])
    ]


def function_lengths(root: Path) -> list[int]:
    """Return the number of lines of every function, without its docstring."""
    lengths = []
    for tree in modules_of(root).values():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                docstring = ast.get_docstring(node, clean=False)
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                lengths.append(lines - (docstring.count("\n") + 1 if docstring else 0))
    return lengths


def _imports_in(
    importer: str, tree: ast.Module, modules: set[str], is_folder: bool
) -> Iterator[Import]:
    typing_only = _under_type_checking(tree)
    at_top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        lazy = id(node) not in at_top
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, _relative(alias.name), "", lazy)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(importer, node, is_folder)
            for alias in node.names:
                inner = f"{base.partition(':')[2]}.{alias.name}".removeprefix("__init__.")
                is_module = base.startswith(PACKAGE) and inner in modules
                module = f"{PACKAGE}:{inner}" if is_module else base
                yield Import(importer, module, alias.name, lazy)


def _under_type_checking(tree: ast.Module) -> set[int]:
    return {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }


def _absolute(importer: str, node: ast.ImportFrom, is_folder: bool) -> str:
    """Return the module of an import; modules of the package as "sklearn_epee:module"."""
    if not node.level:
        return _relative(node.module or "")
    parts = [] if importer == "__init__" else importer.split(".")
    up = node.level - (1 if is_folder else 0)
    base = parts[: len(parts) - up] + ((node.module or "").split(".") if node.module else [])
    return f"{PACKAGE}:{'.'.join(base) or '__init__'}"


def _relative(module: str) -> str:
    if module == PACKAGE:
        return f"{PACKAGE}:__init__"
    if module.startswith(f"{PACKAGE}."):
        return f"{PACKAGE}:{module.removeprefix(f'{PACKAGE}.')}"
    return module


def _is_folder(root: Path, module: str) -> bool:
    return module == "__init__" or (root / PACKAGE / Path(*module.split("."))).is_dir()


def _is_private(part: str) -> bool:
    return part.startswith("_") and not part.startswith("__")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parents[1])
    root = parser.parse_args().root
    imports, lengths = imports_of(root), sorted(function_lengths(root))
    dependencies = component_dependencies(imports)
    private = private_imports(imports)
    print(f"modules: {len(modules_of(root))}")
    print(f"functions: {len(lengths)}, median {statistics.median(lengths):g} lines, ", end="")
    print(f"95 % have at most {lengths[int(0.95 * (len(lengths) - 1))]}, longest {lengths[-1]}")
    print(f"imports between modules: {len(module_dependencies(imports))}")
    print(f"imports between components: {len(dependencies)}")
    print(f"private imports from other packages: {len(private)}, ", end="")
    print(f"in {len({found.importer for found in private})} modules")
    for (upper, lower), found in sorted(dependencies.items()):
        print(f"  {upper} -> {lower} ({len(found)} names)")
    for found in private:
        print(f"  private: {found.importer}: {found.module} {found.name}")


if __name__ == "__main__":
    main()
