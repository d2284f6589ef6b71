"nbdev's steps from a notebook to a page: definitions and imports are run, examples keep their outputs."
import ast
import re
from collections.abc import Callable
from pathlib import Path

from nbdev.processors import FilterDefaults, exec_show_docs
from nbdev.serve_drv import main

EXPORTS = {"export", "exports", "exporti"}


def is_import(source: str) -> bool:
    "Whether a cell does nothing but import."
    try: lines = ast.parse(source).body
    except SyntaxError: return False  # a magic, or another language
    return all(isinstance(line, (ast.Import, ast.ImportFrom)) for line in lines)


def leave_example(cell) -> None:
    "Marks a cell that is not run: nbdev would run each that holds an import, and miss what stands above it."
    if cell.cell_type != "code" or cell.directives_.keys() & EXPORTS: return
    if not re.search(r"^show_doc\(", cell.source, re.M) and not is_import(cell.source): cell.directives_["eval"] = "false"


class WithoutExamples(FilterDefaults):
    "nbdev's steps, without a run of the examples."
    def base_procs(self) -> list[Callable]:
        steps = super().base_procs()
        steps.insert(steps.index(exec_show_docs), leave_example)
        return steps


def document(path: Path) -> None:
    "Writes the API into a copied notebook."
    main((path, path, WithoutExamples))
