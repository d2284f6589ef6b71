"A page of pictures that lead to experiments and explorers, made from the figures that their notebooks hold."
import base64
import html
import re
from io import BytesIO
from pathlib import Path

import nbformat
from PIL import Image

SIZE = (640, 400)  # of a thumbnail, in pixels: twice as wide as it is shown
HEAD = """# Gallery

> Every experiment and every explorer by one of its figures.

Experiments are told and computed in notebooks from stored runs; explorers are notebooks with knobs, for JupyterLab (`make lab`).
"""
FOLDERS = (("Experiments", "phases"), ("Explorers", "explorers"))


def pictures(notebook: nbformat.NotebookNode) -> list[Image.Image]:
    "The figures in a notebook's outputs, in their order."
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    found = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [Image.open(BytesIO(base64.b64decode(one))).convert("RGB") for one in found]


def thumbnail(picture: Image.Image) -> Image.Image:
    "The part of a figure that fills a card: the upper one of a tall figure, the left one of a very wide one."
    scale = max(SIZE[0] / picture.width, 0.65 * SIZE[1] / picture.height)
    scaled = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    card = Image.new("RGB", SIZE, "white")
    card.paste(scaled.crop((0, 0, *map(min, scaled.size, SIZE))), (0, max(0, SIZE[1] - scaled.height) // 2))
    return card.quantize(128, dither=Image.Dither.NONE)


def words(notebook: nbformat.NotebookNode) -> tuple[str, str]:
    "A notebook's title, and its quote or else the first sentence below."
    text = notebook.cells[0].source
    title, rest = re.match(r"# (.+)\n*([\s\S]*)", text).groups()
    plain = re.sub(r"\[([^\]]+)\]\([^)]*\)|[`*>]", lambda found: found[1] or "", rest.split("\n\n")[0]).strip()
    return title, re.split(r"(?<=[.?!:])\s", plain)[0].rstrip(":")


def card(path: Path, page: str, site: Path) -> str:
    "One picture with its title and a sentence; empty where a notebook has no figure."
    notebook = nbformat.read(path, as_version=4)
    found = pictures(notebook)
    if not found: return ""
    picture = Path("images") / "gallery" / f"{path.parent.name}_{path.stem}.png"
    (site / picture).parent.mkdir(parents=True, exist_ok=True)
    thumbnail(max(found, key=lambda one: one.height * one.width)).save(site / picture, optimize=True)
    title, sentence = map(html.escape, words(notebook))
    return f'<a class="card" href="{page}"><img src="{picture.as_posix()}" alt="A figure of: {title}" loading="lazy"><b>{title}</b><span>{sentence}</span></a>'


def write_gallery(notebooks: Path, site: Path, pages: dict[Path, str]) -> None:
    "gallery.md and its thumbnails in a folder of staged pages; pages: notebook -> the name of its page."
    parts = [HEAD]
    for heading, folder in FOLDERS:
        cards = [card(path, pages[path], site) for path in sorted((notebooks / folder).glob("*.ipynb")) if path in pages]
        parts += [f"## {heading}\n", '<div class="gallery">', *filter(None, cards), "</div>\n"]
    (site / "gallery.md").write_text("\n".join(parts), encoding="utf-8")
