"""README and site from the notebooks.

    python tools/docs.py readme          nbs/index.ipynb -> README.md and its pictures
    python tools/docs.py readme --check  exit 1 where they differ from the notebook
    python tools/docs.py site            nbs/ -> _docs/, by Quarto where it is on PATH, else by smalldocs
"""
import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import nbformat
import yaml
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import ExtractOutputPreprocessor

from gallery import write_gallery
from pages import finish_site
from staging import document

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "nbs"
SITE = ROOT / "_docs"
PICTURES = "README_files"
NOTE = "<!-- Made from nbs/index.ipynb by `make docs`; edit that. -->\n\n"

# The sidebar: a section, and the notebooks in it; those of the reference as the data flows, by their numbers.
SECTIONS = (("How to", "guides/[!dgr]*.ipynb"), ("Explorers", "explorers/*.ipynb"), ("Experiments", "phases/*.ipynb"))
ROOMS = (("Data", 0, 9), ("Damage", 10, 14), ("Training", 15, 49), ("Maps and scores", 50, 69), ("Metrics", 70, 79),
         ("Detector", 80, 83), ("Runs and tables", 84, 94), ("Explorers and commands", 95, 99))


def markdown_table(table: str) -> str:
    "A table of pandas in Markdown; a number of seeds that stands in every cell is left to the text above."
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr.*?</tr>", table, re.S)]
    head, body = rows[0], rows[1:]
    if body and not any(body[0][1:]):                  # the name of the index has a row of its own
        head[0], body = body[0][0], body[1:]
    counts = {match[0] for row in body for cell in row[1:] for match in [re.search(r" \(\d+\)$", cell) or [""]]}
    seeds = counts.pop() if len(counts) == 1 else ""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *([cell.removesuffix(seeds) for cell in row] for row in body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def readable(cell: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    "The cell as a reader of the README sees it: without directives, and without what they hide."
    if cell.cell_type != "code": return cell
    directives = set(re.findall(r"^#\| *(\w+:? *\w*)", cell.source, re.M))
    if "hide" in directives: return None
    cell.source = "" if "echo: false" in directives else re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
    for output in cell.outputs:
        table = output.get("data", {}).pop("text/html", "")
        if "<table" in table: output.data = {"text/markdown": markdown_table(table)}
    return cell


def make_readme() -> dict[Path, bytes]:
    "README.md and its pictures, by their path: the same bytes for the same notebook."
    notebook = nbformat.read(NOTEBOOKS / "index.ipynb", as_version=4)
    notebook.cells = [cell for cell in map(readable, notebook.cells) if cell]
    exporter = MarkdownExporter(preprocessors=[ExtractOutputPreprocessor(output_filename_template="picture_{cell_index}_{index}{extension}")])
    text, resources = exporter.from_notebook_node(notebook, {"output_files_dir": PICTURES})
    text = re.sub(r"```(?:python)?\n\s*```\n", "", text)                                     # inputs that were hidden
    text = re.sub(r"\]\((?!\w+:|#|/|README_files)([^)\s]+)\)", r"](nbs/\1)", text)      # links are from nbs/ in the notebook
    text = text.replace("](nbs/../", "](")
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.splitlines()))
    files = {ROOT / "README.md": (NOTE + text.strip() + "\n").encode()}
    return files | {ROOT / name: content for name, content in resources.get("outputs", {}).items()}


def readme(check: bool) -> int:
    "Write README.md and its pictures, or only say whether they are up to date."
    wanted = make_readme()
    present = {path for path in [ROOT / "README.md", *(ROOT / PICTURES).glob("*")] if path.is_file()}
    differing = sorted(str(path.relative_to(ROOT)) for path in present | set(wanted) if path not in wanted or path not in present or path.read_bytes() != wanted[path])
    if check:
        if differing: print(f"differs from nbs/index.ipynb: {', '.join(differing)}; run `make docs`", file=sys.stderr)
        return bool(differing)
    for path in present - set(wanted): path.unlink()
    for path, content in wanted.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return 0


def title(notebook: Path) -> str:
    "The first heading of a notebook."
    cells = nbformat.read(notebook, as_version=4).cells
    headings = (re.search(r"^# (.+)$", cell.source, re.M) for cell in cells if cell.cell_type == "markdown")
    return next((heading[1].strip() for heading in headings if heading), notebook.stem)


def page(path: Path) -> str:
    "The name of a notebook's page: without the number that orders the notebooks, as the links to the API expect."
    return re.sub(r"^\d+[a-z]?_", "", path.name)


def entries(paths: Iterable[Path]) -> list[dict]:
    "The sidebar's lines for some notebooks."
    return [{"text": title(path), "href": (path.parent / page(path)).relative_to(NOTEBOOKS).as_posix()} for path in sorted(paths)]


def sidebar() -> dict:
    "The site's sidebar: the front page, then a section for each kind of notebook that there is."
    contents = [{"text": "Start", "href": "index.ipynb"}, {"text": "Gallery", "href": "gallery.md"}]
    for name, pattern in SECTIONS:
        if pages := entries(NOTEBOOKS.glob(pattern)): contents.append({"section": name, "contents": pages})
    contents += entries(NOTEBOOKS.glob("guides/results.ipynb"))
    reference = []
    for name, first, last in ROOMS:
        rooms = [path for path in NOTEBOOKS.glob("api/*.ipynb") if first <= int(path.name[:2]) <= last]
        if rooms: reference.append({"section": name, "contents": entries(rooms)})
    contents.append({"section": "Reference", "contents": reference})
    contents += entries(NOTEBOOKS.glob("guides/glossary.ipynb"))
    contents += entries(NOTEBOOKS.glob("guides/design.ipynb"))
    contents.append({"text": "Contributing", "href": "CONTRIBUTING.md"})
    return {"website": {"sidebar": {"contents": contents}}}


def sources() -> dict[str, tuple[Path, Path | None]]:
    "Page -> the notebook it shows and the module made from it."
    found = {}
    for path in sorted(NOTEBOOKS.rglob("*.ipynb")):
        if "_proc" in path.parts or ".ipynb_checkpoints" in path.parts: continue
        module = ROOT / "recon_ad" / f"{page(path).removesuffix('.ipynb')}.py"
        name = (path.parent / page(path)).relative_to(NOTEBOOKS).with_suffix(".html").as_posix()
        found[name] = (path, module if path.parent.name == "api" and module.exists() else None)
    return found


def introduction(notebook: Path) -> str:
    "What stands below heading and quote in a notebook's first cell; nbdev drops it."
    first = nbformat.read(notebook, as_version=4).cells[0]
    heading = re.match(r"# .+\n+(?:>.*(?:\n|$))*", first.source) if first.cell_type == "markdown" else None
    return first.source[heading.end():].strip() if heading else ""


def alternative(source: str) -> str:
    "The title that a cell gives its figure, as far as it is a plain text."
    found = re.search(r"""(?:title|suptitle|titled)\s*[=(]\s*(["'])((?:(?!\1).)+)\1""", source)
    return found[2] if found and "fig-alt" not in source else ""


def ends_in_words(cell: nbformat.NotebookNode) -> bool:
    "Whether a long cell only prints a conclusion: its code is folded."
    return cell.cell_type == "code" and len(cell.source.splitlines()) > 12 and bool(re.search(r"^(?:conclude|Markdown)\(", cell.source, re.M))


def finish_page(path: Path, source: Path) -> None:
    "A staged notebook in the state that both site builders read."
    notebook = nbformat.reader.reads(path.read_text(encoding="utf-8"))
    for cell in notebook.cells:
        cell.pop("has_sd", None)  # a mark of nbdev's that the notebook format does not know
        if cell.cell_type == "code": cell.outputs = [output for output in cell.outputs if output.get("text", "said").strip()]
        if ends_in_words(cell): cell.source = f"#| code-fold: true\n#| code-summary: What is computed\n{cell.source}"
        shown = [output.get("data", {}) for output in cell.get("outputs", [])]
        text = alternative(cell.source) if any("image/png" in data for data in shown) else ""
        if text: cell.source = f"#| fig-alt: {json.dumps(text, ensure_ascii=False)}\n{cell.source}"
        if cell.cell_type == "raw": cell.source = re.sub(r"^output-file:.*\n", "", cell.source, flags=re.M)
    notebook.metadata.get("execution", {}).pop("total", None)
    at = 1 + (len(notebook.cells) > 1 and "AUTOGENERATED" in notebook.cells[1].source)
    if text := introduction(source): notebook.cells.insert(at, nbformat.v4.new_markdown_cell(text))
    for cell in notebook.cells:
        if cell.cell_type != "markdown": continue
        cell.source = re.sub(r"\]\(((?:\.\./)?)\.\./CONTRIBUTING\.md\)", r"](\1CONTRIBUTING.md)", cell.source)
        cell.source = re.sub(r"(\]\((?:[\w./]*/)?)\d+[a-z]?_(\w+\.)(?:ipynb|html)", r"\1\2html", cell.source)
    path.with_name(page(path)).write_text(nbformat.writes(notebook), encoding="utf-8")
    if page(path) != path.name: path.unlink()


def stage() -> Path:
    "A copy of the notebooks with the API documented."
    from nbdev.doclinks import _build_modidx
    (NOTEBOOKS / "sidebar.yml").write_text(yaml.safe_dump(sidebar(), sort_keys=False, allow_unicode=True), encoding="utf-8")
    _build_modidx()
    staged = ROOT / "_proc"
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(NOTEBOOKS, staged, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    paths = sorted(staged.rglob("*.ipynb"))
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as workers: list(workers.map(document, paths))
    for path in paths: finish_page(path, NOTEBOOKS / path.relative_to(staged))
    write_gallery(NOTEBOOKS, staged, {notebook: name for name, (notebook, _) in sources().items()})
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\(nbs/([\w/]+)\.ipynb\)", r"](\1.html)", text)
    (staged / "CONTRIBUTING.md").write_text(text, encoding="utf-8")
    return staged


def site() -> int:
    "Build the site into _docs."
    if any(part.startswith(".") for part in ROOT.parts): sys.exit(f"docs: nbdev skips folders below one that starts with a dot, move {ROOT} elsewhere")
    staged = stage()
    if shutil.which("quarto"): command = ["quarto", "render", str(staged), "--no-execute"]
    else: command = [sys.executable, "-m", "smalldocs.cli", "render", str(staged)]
    if subprocess.run(command).returncode: return 1
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.move(staged / SITE.name, SITE)
    shutil.copytree(staged / "images", SITE / "images", dirs_exist_ok=True)  # pictures that only HTML names, too
    finish_site(SITE, sources(), ROOT)
    print(f"site               {SITE / 'index.html'}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("readme", help="make README.md from nbs/index.ipynb").add_argument("--check", action="store_true", help="change nothing; exit 1 where it is out of date")
    commands.add_parser("site", help="build the site into _docs")
    arguments = parser.parse_args()
    sys.exit(readme(arguments.check) if arguments.command == "readme" else site())
