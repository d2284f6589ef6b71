"""What the site's builders leave to do: pages that ask nothing of the internet, and read well on every screen."""
import base64
import html
import json
import re
import shutil
from io import BytesIO
from pathlib import Path

from matplotlib import mathtext
from matplotlib.font_manager import FontProperties

FORMULA = re.compile(r'<span class="math (inline|display)">\\[(\[](.+?)\\[)\]]</span>', re.S)
FROM_INTERNET = re.compile(r'<(?:link|script)\b[^>]*(?:href|src)="https?://[^>]*>(?:\s*</script>)?')
PICTURE_OR_HEADING = re.compile(r"<h[1-6][^>]*>(.*?)</h[1-6]>|<img\b([^>]*)>", re.S)
HEAD_OF_A_COLUMN = re.compile(r"(?<=<th>)[^<]+(?=</th>)")
TABLE = re.compile(r"<table\b.*?</table>", re.S)
SEEDS = re.compile(r"(?<=\d) \((\d+)\)</td>")
HERE = """<script>addEventListener("DOMContentLoaded", () => {
  const bar = document.querySelector(".sidebar-navigation"), here = bar?.querySelector(".sidebar-link.active");
  if (here) bar.scrollTop = here.offsetTop - bar.clientHeight / 2;
});</script>"""  # a long list shows where the reader is
OTHER_WORDS = {r"\lVert": r"\Vert", r"\rVert": r"\Vert", r"\,": r"\ ", r"\;": r"\ ",
               r"\le ": r"\leq ", r"\mathcal F": r"\mathcal{F}"}  # that mathtext does not know


def formula(found: re.Match) -> str:
    "A formula as a picture with its TeX as text; TeX alone where matplotlib cannot draw it."
    kind, tex = found[1], html.unescape(found[2]).strip()
    drawable = re.sub(r"\\tfrac\s*(\w)\s*(\w)", r"\\frac{\1}{\2}", tex)
    for word, other in OTHER_WORDS.items():
        drawable = drawable.replace(word, other)
    file, alt = BytesIO(), html.escape(tex)
    try:
        depth = mathtext.math_to_image(f"${drawable}$", file, prop=FontProperties(size=12), dpi=72, format="svg")
    except ValueError:
        return f'<code class="math {kind}">{alt}</code>'
    height = float(re.search(rb'height="([\d.]+)pt"', file.getvalue())[1])
    data = base64.b64encode(file.getvalue()).decode()
    style = f"height:{height / 12:.3f}em;vertical-align:{-depth / 12:.3f}em"
    return f'<img class="math {kind}" alt="{alt}" style="{style}" src="data:image/svg+xml;base64,{data}">'


def with_alternatives(text: str) -> str:
    "The page with a text for every picture: the heading above it, where the notebook gives no other."
    heading = "Picture"
    def fill(found: re.Match) -> str:
        nonlocal heading
        if found[2] is None:
            heading = html.escape(html.unescape(re.sub(r"<[^>]+>", "", found[1])).strip(), quote=True)
            return found[0]
        if re.search(r'\balt="[^"]+"', found[2]): return found[0]
        rest = re.sub(r'\balt="[^"]*"', "", found[2])
        return f'<img alt="Figure: {heading}"{rest}>'
    return PICTURE_OR_HEADING.sub(fill, text)


def breakable(found: re.Match) -> str:
    "A name such as fused.image_auroc, which may go on in the next line behind a dot or a dash."
    return re.sub(r"(?<=[a-z])([._])(?=[a-z])", r"\1<wbr>", found[0])


def seeds_once(found: re.Match) -> str:
    "A table of figures, with a number of runs that stands in every cell said once below it."
    counts = set(SEEDS.findall(found[0]))
    if len(counts) != 1: return found[0]
    count = counts.pop()
    said = "One run a figure." if count == "1" else f"Means over {count} seeds, ± standard deviation."
    return f'{SEEDS.sub("</td>", found[0])}<p class="seeds">{said}</p>'


def finish(text: str, up: str, source: str = "") -> str:
    "One page: formulas and scripts of its own, tables in boxes that scroll, a line that leads to the source."
    text = TABLE.sub(seeds_once, FROM_INTERNET.sub("", FORMULA.sub(formula, text)))
    text = re.sub(r"<table\b", r'<div class="table-box" tabindex="0"><table', text)
    text = HEAD_OF_A_COLUMN.sub(breakable, text.replace("</table>", "</table></div>"))
    text = text.replace("</head>", f'<script src="{up}search.js" defer></script>{HERE}</head>', 1)
    return with_alternatives(text).replace("</main>", f"{source}</main>", 1)


def source_line(notebook: str, module: str, up: str) -> str:
    "Where a page comes from: its notebook and, for a room, its module."
    links = [f'<a href="{up}source/{notebook}" download>notebook</a>']
    if module: links.append(f'<a href="{up}source/{module}">module</a>')
    return f'<p class="source-line">Source of this page: {", ".join(links)}</p>'


def serve_search_from_files(site: Path) -> None:
    "The index as a script, since a page opened as a file may not fetch one."
    index = json.dumps(json.loads((site / "search.json").read_text(encoding="utf-8")), ensure_ascii=False)
    (site / "search.js").write_text(
        f"(() => {{ const index = {index}, fetch = window.fetch;\n"
        "window.fetch = (path, ...rest) => String(path).endsWith('search.json')"
        " ? Promise.resolve(new Response(JSON.stringify(index))) : fetch(path, ...rest); })();\n", encoding="utf-8")


def finish_site(site: Path, sources: dict[str, tuple[Path, Path | None]], root: Path) -> None:
    "Every page of a built site; sources: page -> its notebook and, for a room, its module."
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        up, line = "../" * name.count("/"), ""
        if name in sources:
            files = [file for file in sources[name] if file]
            for file in files:
                copy = site / "source" / file.relative_to(root)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)
            names = [file.relative_to(root).as_posix() for file in files] + [""]
            line = source_line(names[0], names[1], up)
        path.write_text(finish(path.read_text(encoding="utf-8"), up, line), encoding="utf-8")
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r"@import url\(https?://[^)]*\);?", "", text), encoding="utf-8")
    if (site / "search.json").exists(): serve_search_from_files(site)
