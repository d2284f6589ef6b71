"The site's pages after their last step: nothing from the internet, boxes for tables, words for pictures."
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from docs import alternative, ends_in_words, markdown_table, sidebar, sources  # noqa: E402
from gallery import SIZE, pictures, thumbnail, words, write_gallery  # noqa: E402
from pages import finish  # noqa: E402

PAGE = """<html><head><link rel="stylesheet" href="styles.css"><script src="https://cdn.example/katex.js" defer></script></head>
<body><main><h2>Two <code>views</code></h2><img src="a.png"><img src="b.png" alt="a crack"><table><tr><td>1</td></tr></table>
<span class="math inline">\\(a_i \\le 1\\)</span></main></body></html>"""


def test_a_page_asks_nothing_of_the_internet_and_says_what_its_pictures_show():
    text = finish(PAGE, "../", "<p>Source</p>")
    assert "https://" not in text and 'href="styles.css"' in text and 'src="../search.js"' in text
    assert '<img alt="Figure: Two views" src="a.png">' in text and 'alt="a crack"' in text
    assert text.count('<div class="table-box"') == text.count("</table></div>") == 1
    assert "<p>Source</p></main>" in text


def test_a_formula_is_a_picture_with_its_tex_and_one_that_cannot_be_drawn_is_its_tex():
    assert 'alt="a_i \\le 1"' in finish(PAGE, "") and "image/svg+xml" in finish(PAGE, "")
    text = finish(PAGE.replace("\\le", "\\nosuchword"), "")
    assert '<code class="math inline">a_i \\nosuchword 1</code>' in text


def test_a_small_fraction_is_drawn():
    assert 'alt="\\tfrac1n"' in finish(PAGE.replace("a_i \\le 1", "\\tfrac1n"), "")


def test_a_figure_is_described_by_its_title():
    assert alternative('show_images(x, title="What was found")') == "What was found"
    assert alternative("show_images(x, title=name)") == ""
    assert alternative('plot_study(runs, "aupro", titled("Sobel finds little"))') == "Sobel finds little"


def test_long_code_that_only_prints_a_conclusion_is_folded():
    lines = "a = 1\n" * 12
    assert ends_in_words(new_code_cell(lines + "conclude([a])")) and ends_in_words(new_code_cell(lines + "Markdown(a)"))
    assert not ends_in_words(new_code_cell(lines + "a")) and not ends_in_words(new_code_cell("Markdown(a)"))
    assert not ends_in_words(new_markdown_cell(lines + "Markdown(a)"))


def test_a_table_of_pandas_in_markdown_says_the_number_of_seeds_not_in_every_cell():
    table = "<table><tr><th></th><th>AP</th></tr><tr><th>data</th><th></th></tr><tr><th>grid</th><td>9.0 ± 1.0 (3)</td></tr>{}</table>"
    wanted = ["| data | AP |", "| --- | ---: |", "| grid | 9.0 ± 1.0 |"]
    assert markdown_table(table.format("")).splitlines() == wanted
    unequal = markdown_table(table.format("<tr><th>pill</th><td>8.0 (1)</td></tr>"))
    assert "9.0 ± 1.0 (3)" in unequal and "8.0 (1)" in unequal


def test_every_notebook_has_its_place_in_the_sidebar():
    def hrefs(entries):
        for entry in entries: yield from hrefs(entry["contents"]) if "contents" in entry else [entry["href"]]
    listed = {Path(href).with_suffix(".html").as_posix() for href in hrefs(sidebar()["website"]["sidebar"]["contents"])}
    assert set(sources()) <= listed


def test_a_long_name_in_the_head_of_a_table_may_break_and_a_number_may_not():
    text = finish('<main><table><tr><th>fused.image_auroc</th><th>0.3 to 1 %</th><td>a.b</td></tr></table></main>', "")
    assert "<th>fused.<wbr>image_<wbr>auroc</th><th>0.3 to 1 %</th><td>a.b</td>" in text


def test_a_number_of_seeds_that_stands_in_every_cell_is_said_once_below_the_table():
    table = "<main><table><tr><td>9.0 ± 1.0 (3)</td><td>{}</td><td>94.1</td></tr></table></main>"
    equal = finish(table.format("8.0 ± 0.1 (3)"), "")
    assert "<td>9.0 ± 1.0</td><td>8.0 ± 0.1</td><td>94.1</td>" in equal and equal.count("Means over 3 seeds") == 1
    unequal = finish(table.format("8.0 (1)"), "")
    assert "9.0 ± 1.0 (3)</td><td>8.0 (1)</td>" in unequal and 'class="seeds"' not in unequal
    assert "One run a figure" in finish("<main><table><tr><td>8.0 (1)</td></tr></table></main>", "")


def test_the_gallery_leads_to_every_experiment_and_explorer_by_a_figure(tmp_path):
    pages = {notebook: name for name, (notebook, _) in sources().items()}
    write_gallery(ROOT / "nbs", tmp_path, pages)
    text = (tmp_path / "gallery.md").read_text(encoding="utf-8")
    wanted = [name for notebook, name in pages.items() if notebook.parent.name in ("phases", "explorers")]
    assert len(wanted) >= 10 and all(f'href="{name}"' in text for name in wanted)
    assert len(list((tmp_path / "images" / "gallery").glob("*.png"))) == len(wanted)


@pytest.mark.parametrize("size", [(100, 20), (640, 400), (300, 900)])
def test_a_thumbnail_has_one_size_and_is_filled_from_side_to_side(size):
    picture = Image.new("RGB", size, "black")
    shown = thumbnail(picture).convert("L")
    assert shown.size == SIZE and {shown.getpixel((x, SIZE[1] // 2)) for x in (0, SIZE[0] - 1)} == {0}


def test_a_card_takes_title_and_first_sentence_of_a_notebook():
    def said(text): return words(new_notebook(cells=[new_markdown_cell(text)]))
    assert said("# Knobs\n\n> Turn *them*, and [see](a.html). More.") == ("Knobs", "Turn them, and see.")
    assert said("# Why: a question?\n\nAn answer of `code`. And more.") == ("Why: a question?", "An answer of code.")
    assert pictures(new_notebook(cells=[new_code_cell("1")])) == []


def test_the_reference_needs_imports_and_definitions_and_runs_no_example(tmp_path):
    "An example stands in need of the cells above it, which are not run either; nbdev ran it where it held an import."
    cells = ["#| default_exp room", "import numpy as np", "#| export\ndef zeros() -> 'np.ndarray': 'Nothing.'",
             "import os\nraise OSError(os.name)"]
    notebook = new_notebook(cells=[new_markdown_cell("# Room\n> What."), *map(new_code_cell, cells)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path := tmp_path / "room.ipynb")
    # in a process of its own, since nbdev takes over the main module
    code = f"from pathlib import Path; from staging import document; document(Path({str(path)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "tools", check=True)
    shown = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    assert "zeros" in str(shown) and "Nothing." in str(shown)
