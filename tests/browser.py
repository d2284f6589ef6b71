"""The site and the explorers in a real browser: `make browser`.

Needs Chromium with its driver (Debian: apt-get install chromium chromium-driver), selenium (the extra
`browser`) and the site in _docs (`make docs`); what is missing is said, and its tests are skipped.
"""
import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote
from urllib.request import urlopen

import pytest

pytest.importorskip("selenium", reason="selenium is not installed: pip install '.[browser]'")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("no Chromium with chromedriver on PATH", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

ROOT = Path(__file__).parent.parent
SITE = ROOT / "_docs"
WIDTHS = (1280, 390)  # of the screen, in pixels: a laptop and a phone
EXPLORERS = sorted((ROOT / "nbs" / "explorers").glob("*.ipynb"))
PATIENCE = 900  # for what a busy machine does late, in seconds

LOOK = """
const wide = document.documentElement.scrollWidth - window.innerWidth;
const cut = [...document.querySelectorAll('main pre')].filter(one => one.scrollWidth > one.clientWidth + 1);
const loose = [...document.querySelectorAll('main table')].filter(one => {
  const box = one.closest('.table-box, .cell-output');
  return one.getBoundingClientRect().right > window.innerWidth && !box;
});
const silent = [...document.images].filter(one => !one.alt);
const broken = [...document.images].filter(one => one.complete && !one.naturalWidth);
const said = list => list.map(one => (one.textContent || one.src).trim().slice(0, 60));
return {wide: wide > 0 ? [wide] : [], cut: said(cut), loose: said(loose), silent: said(silent), broken: said(broken)};
"""
LINKS = """
return {ids: [...document.querySelectorAll('[id], a[name]')].map(one => one.id || one.name),
        links: [...document.querySelectorAll('a[href]')].map(one => one.href)};
"""
CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true}), known = {};
const rgba = text => {  // the browser itself reads a colour, in whatever notation
  if (!known[text]) {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    known[text] = [...canvas.getImageData(0, 0, 1, 1).data].map(one => one / 255); }
  return known[text]; };
const over = (top, below, share) => below.map((one, at) => share * top[at] + (1 - share) * one);
const shine = color => {
  const [r, g, b] = color.map(one => one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const ground = one => {
  if (!one) return [1, 1, 1];
  const [r, g, b, a] = rgba(getComputedStyle(one).backgroundColor);
  return a === 1 ? [r, g, b] : over([r, g, b], ground(one.parentElement), a); };
const opacity = one => one ? Number(getComputedStyle(one).opacity) * opacity(one.parentElement) : 1;
const is_seen = one => one.checkVisibility({visibilityProperty: true, opacityProperty: true}) && one.getClientRects().length;
const speaks = one => [...one.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
return [...arguments[0].querySelectorAll('*')].filter(one => speaks(one) && is_seen(one)).map(one => {
  const below = ground(one), [r, g, b, a] = rgba(getComputedStyle(one).color);
  const [high, low] = [shine(over([r, g, b], below, a * opacity(one))), shine(below)].sort((a, b) => b - a);
  return [(high + 0.05) / (low + 0.05), one.tagName.toLowerCase() + ' ' + one.className + ': ' + one.textContent.trim().slice(0, 40)]; });
"""
LEGIBLE = 4.5  # the contrast that WCAG 2 asks of text, at level AA


@pytest.fixture(scope="module")
def browser():
    "Chromium without a window, which reaches this machine only, and notes what it asks for."
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    rules = "MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
    for one in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--host-resolver-rules={rules}"):
        options.add_argument(one)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def site():
    "The address of the built site."
    if not (SITE / "index.html").exists(): pytest.skip("the site is not built: make docs")
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_): pass
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def resize(browser, width: int, height: int = 900) -> None:
    "A screen of this width; a window alone cannot be as narrow as a phone."
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)


def asked(browser) -> list[str]:
    "The addresses that were asked for since the last call."
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]


def pages() -> list[str]: return sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))


def pale(browser, part) -> list[str]:
    "The texts in a part of the page that are hard to read, with their contrast."
    contrasts = browser.execute_script(CONTRAST, part)
    assert contrasts, "no text at all"
    return sorted({f"{ratio:.2f} {text}" for ratio, text in contrasts if ratio < LEGIBLE})


@pytest.fixture(scope="module", params=WIDTHS, ids="{} pixels".format)
def crawl(browser, site, request) -> dict[str, dict[str, list]]:
    "Each page at one width: what is wrong with it, its anchors and its links."
    resize(browser, request.param)
    found = {}
    asked(browser)
    for page in pages():
        browser.get(f"{site}/{page}")
        found[page] = browser.execute_script(LOOK) | browser.execute_script(LINKS)
        found[page]["pale"] = pale(browser, browser.find_element(By.TAG_NAME, "body"))
        found[page]["foreign"] = [url for url in asked(browser) if not url.startswith((site, "data:", "blob:", "chrome"))]
    assert len(found) > 20
    return found


FAULTS = {"wide": "wider than the screen, in pixels", "cut": "code is cut", "loose": "a table is cut", "silent": "no text for a picture",
          "broken": "a picture does not load", "pale": f"contrast below {LEGIBLE}", "foreign": "asked of the internet"}


@pytest.mark.parametrize("fault", FAULTS)
def test_no_page_has_this_fault(crawl, fault):
    wrong = {}
    for page, found in crawl.items():
        for one in found[fault]: wrong.setdefault(str(one), []).append(page)
    lines = [f"  {one}: on {places[0]}, {len(places)} pages" for one, places in wrong.items()]
    assert not wrong, "\n".join([FAULTS[fault], *lines])


def test_every_public_name_has_its_place_in_the_reference(crawl):
    "As the index of the package says it: page and anchor of each function and class."
    symbols = runpy.run_path(str(ROOT / "recon_ad" / "_modidx.py"))["d"]["syms"]
    names = {name: place for found in symbols.values() for name, (place, _) in found.items()}
    places = [place.split("#") for name, place in names.items() if re.fullmatch(r"recon_ad\.\w+\.[a-zA-Z]\w*", name)]
    missing = [(page, anchor) for page, anchor in places if anchor not in crawl[page]["ids"]]
    assert len(places) > 200
    assert not missing, missing


def test_every_link_within_the_site_leads_somewhere(crawl, site):
    dead = []
    for page, found in crawl.items():
        for target in found["links"]:
            if not target.startswith(site): continue
            path, _, anchor = target.removeprefix(site + "/").partition("#")
            path = unquote(path.split("?")[0]) or "index.html"
            if not (SITE / path).is_file() or anchor and path in crawl and unquote(anchor) not in crawl[path]["ids"]:
                dead.append((page, target.removeprefix(site)))
    assert sum(len(found["links"]) for found in crawl.values()) > 500
    assert not dead, dead


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("opened", ["served", "as a file"])
def test_search_finds_own_data_in_letters_that_can_be_read(browser, site, opened, width):
    resize(browser, width)
    browser.get(f"{site}/index.html" if opened == "served" else (SITE / "index.html").as_uri())
    fields = browser.find_elements(By.CSS_SELECTOR, "input[type=search], input[placeholder*=earch]")
    def shown(_): return [field for field in fields if field.is_displayed()]
    def opened_bar(_):
        if not shown(_): browser.find_element(By.CSS_SELECTOR, ".navbar-toggler").click()
        return shown(_)
    visible = shown(None) or WebDriverWait(browser, 10, poll_frequency=1).until(opened_bar)
    visible[0].send_keys("own data")
    def results(_): return [one for one in browser.find_elements(By.CSS_SELECTOR, ".search-result") if one.is_displayed()]
    found = WebDriverWait(browser, 10).until(results)
    assert any("own_data" in (one.get_attribute("href") or one.get_attribute("innerHTML")) for one in found)
    assert not pale(browser, found[0].find_element(By.XPATH, ".."))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "The address of a JupyterLab over a copy of the explorers' notebooks."
    folder = tmp_path_factory.mktemp("lab")
    for path in EXPLORERS: shutil.copy(path, folder)
    settings = {"notebook-extension/tracker": {"windowingMode": "none"}, "apputils-extension/notification": {"fetchNews": "false"}}
    for name, values in settings.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
               "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={folder}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                                "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
                                "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces")}
    with open(folder / "lab.log", "w") as log:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
        try:
            for _ in range(2 * PATIENCE):
                try: urlopen(f"http://127.0.0.1:{port}/api", timeout=2); break
                except OSError: time.sleep(0.5)
            else: pytest.fail(f"JupyterLab did not start: {(folder / 'lab.log').read_text()[-2000:]}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(PATIENCE)


WATCH = """
const picture = arguments[0];
window.seen = {blank: 0, frames: 0, on: true};
const look = () => {
  seen.frames += 1;
  // until a new picture has come, the browser paints the one before: its box must stay
  if (!picture.isConnected || !picture.clientWidth || !picture.clientHeight) seen.blank += 1;
  if (seen.on) requestAnimationFrame(look); };
look();
"""


def turn(browser, control) -> None:
    "One step of a control by keyboard: away from the end that it stands at."
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", control)
    if control.tag_name == "input": keys = [Keys.CONTROL + "a" + Keys.NULL, "psnr"]  # in place of the words that stand there
    elif control.tag_name == "select": keys = [" ", Keys.ARROW_DOWN, Keys.ENTER]  # JupyterLab takes arrows for itself
    else:
        lowest, value, highest = (float(control.get_attribute(f"aria-value{name}")) for name in ("min", "now", "max"))
        steps = 3 if highest - lowest > 5 else 1  # a few levels are left in between
        keys = steps * [Keys.ARROW_LEFT if value >= highest else Keys.ARROW_RIGHT]
    for key in keys:
        browser.switch_to.active_element.send_keys(key)
        if control.tag_name == "select": time.sleep(0.1)


def run_all(browser, address: str) -> None:
    "Opens a notebook in JupyterLab and runs all its cells; a cell that fails, fails the test."
    browser.get(address)
    ready = "return Boolean(window.jupyterapp?.shell.currentWidget?.context?.sessionContext?.session?.kernel)"
    WebDriverWait(browser, PATIENCE).until(lambda _: browser.execute_script(ready))
    browser.execute_script("""window.ran = '';
      jupyterapp.commands.execute('notebook:run-all-cells').then(() => ran = 'to its end', error => ran = String(error));""")
    ran = WebDriverWait(browser, PATIENCE, poll_frequency=1).until(lambda _: browser.execute_script("return window.ran"))
    assert ran == "to its end" and not failures(browser, "error"), (ran, failures(browser, "error"))


def failures(browser, kind: str) -> list[str]:
    "The ends of all outputs of a kind: error or stderr."
    found = browser.find_elements(By.CSS_SELECTOR, f"[data-mime-type='application/vnd.jupyter.{kind}']")
    return [one.text[-500:] for one in found]


def try_control(browser, explorer, control, label: str) -> float:
    "Turns a control once; seconds until it showed. The picture must not go meanwhile."
    picture, note = explorer.find_element(By.CSS_SELECTOR, "img"), explorer.find_elements(By.CSS_SELECTOR, ".widget-html-content")[-1]
    before, said = picture.get_attribute("src"), note.text
    is_filter = control.tag_name == "input"
    browser.execute_script(WATCH, picture)
    start = time.perf_counter()
    turn(browser, control)
    def moved(_): return note.text != said if is_filter else picture.get_attribute("src") != before
    WebDriverWait(browser, PATIENCE, poll_frequency=0.02).until(moved, f"{label}: turned, and nothing changed")
    took = time.perf_counter() - start
    time.sleep(0.1)
    seen = browser.execute_script("seen.on = false; return seen")
    assert seen["frames"] and not seen["blank"], f"{label}: blank in {seen['blank']} of {seen['frames']} frames"
    assert is_filter == (picture.get_attribute("src") == before), f"{label}: a filter alone leaves the picture"
    return took


@pytest.mark.parametrize("notebook", [path.stem for path in EXPLORERS])
def test_each_control_of_each_explorer_turns_the_picture_by_keyboard(browser, lab, notebook):
    resize(browser, 1400, 1000)
    run_all(browser, f"{lab}/lab/tree/{notebook}.ipynb")
    with_picture = "//*[contains(concat(' ', @class, ' '), ' widget-vbox ')][.//img]"
    explorer, = WebDriverWait(browser, 30).until(lambda _: browser.find_elements(By.XPATH, with_picture))
    took = []
    for row in explorer.find_elements(By.CSS_SELECTOR, ".widget-hbox"):
        controls = row.find_elements(By.CSS_SELECTOR, ".noUi-handle, select, input[type=text]")
        label, sentence = row.find_elements(By.CSS_SELECTOR, ".widget-label")[0].text, row.text.splitlines()[-1]
        assert re.fullmatch(r"\w+ \(.+\)", label) and sentence.endswith("."), f"a name (unit) and a sentence: {row.text!r}"
        assert controls, f"{label}: nothing to turn"
        for control in controls[:2]:
            took.append(try_control(browser, explorer, control, f"{notebook}, {label}"))
            print(f"{took[-1]:6.2f} s  {notebook}: {label}")
    assert len(took) >= 4, took
    assert not failures(browser, "stderr") and not failures(browser, "error")
    print(f"{notebook}: {len(took)} turns, median {sorted(took)[len(took) // 2]:.2f} s, longest {max(took):.2f} s")
