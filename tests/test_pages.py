"The site's pages after their last step: nothing from the internet, boxes for tables, words for pictures."
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from docs import alternative, markdown_table, sidebar, sources  # noqa: E402
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


def test_a_figure_is_described_by_its_title():
    assert alternative('show_images(x, title="What was found")') == "What was found"
    assert alternative("show_images(x, title=name)") == ""


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
