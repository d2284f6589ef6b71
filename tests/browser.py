"""The site and the explorers in a real browser: `make browser`.

Needs Chromium with its driver (Debian: apt-get install chromium chromium-driver), selenium (the extra
`browser`) and the site in _docs (`make docs`); what is missing is said, and its tests are skipped.
"""
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
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
const shine = text => {
  const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(one => {
    one /= 255; return one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const ground = one => {
  for (; one; one = one.parentElement) {
    const color = getComputedStyle(one).backgroundColor;
    if (!/^rgba\\(.*, 0\\)$/.test(color) && color !== 'transparent') return color; }
  return 'rgb(255, 255, 255)'; };
return [...arguments[0].querySelectorAll('*')].filter(one =>
    [...one.childNodes].some(child => child.nodeType === 3 && child.textContent.trim())).map(one => {
  const [high, low] = [shine(getComputedStyle(one).color), shine(ground(one))].sort((a, b) => b - a);
  return (high + 0.05) / (low + 0.05); });
"""


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
    driver.set_script_timeout(600)
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


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_fits_the_screen_and_asks_nothing_of_the_internet(browser, site, width):
    resize(browser, width)
    wrong = {}
    for page in pages():
        browser.get(f"{site}/{page}")
        found = {what: list_ for what, list_ in browser.execute_script(LOOK).items() if list_}
        foreign = [url for url in asked(browser) if not url.startswith((site, "data:", "blob:", "chrome"))]
        if foreign: found["foreign"] = foreign
        if found: wrong[page] = found
    assert len(pages()) > 20
    assert not wrong, json.dumps(wrong, indent=1)


def test_every_link_within_the_site_leads_somewhere(browser, site):
    resize(browser, WIDTHS[0])
    ids, links = {}, {}
    for page in pages():
        browser.get(f"{site}/{page}")
        found = browser.execute_script(LINKS)
        ids[page], links[page] = set(found["ids"]), found["links"]
    dead = []
    for page, targets in links.items():
        for target in targets:
            if not target.startswith(site): continue
            path, _, anchor = target.removeprefix(site + "/").partition("#")
            path = path.split("?")[0] or "index.html"
            exists = (SITE / path).is_file()
            if not exists or (anchor and path in ids and anchor not in ids[path]): dead.append((page, target))
    assert sum(map(len, links.values())) > 500
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
    contrasts = browser.execute_script(CONTRAST, found[0].find_element(By.XPATH, ".."))
    assert contrasts and min(contrasts) >= 4.5, contrasts


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "The address of a JupyterLab over a copy of the explorers' notebook."
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(ROOT / "nbs" / "api" / "95_explore.ipynb", folder / "explore.ipynb")
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
            for _ in range(120):
                try: urlopen(f"http://127.0.0.1:{port}/api", timeout=2); break
                except OSError: time.sleep(0.5)
            else: pytest.fail(f"JupyterLab did not start: {(folder / 'lab.log').read_text()[-2000:]}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


WATCH = """
const picture = arguments[0];
window.seen = {blank: 0, frames: 0, on: true};
const look = () => {
  seen.frames += 1;
  if (!picture.isConnected || !picture.naturalWidth || !picture.clientWidth) seen.blank += 1;
  if (seen.on) requestAnimationFrame(look); };
look();
"""


def turn(browser, control) -> None:
    "One step of a control by keyboard: away from the end that it stands at."
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", control)
    if control.tag_name == "input": keys = [Keys.CONTROL + "a" + Keys.NULL, "psnr"]  # in place of the words that stand there
    elif control.tag_name == "select": keys = [" ", Keys.ARROW_DOWN, Keys.ENTER]  # JupyterLab takes arrows for itself
    else:
        value, highest = (float(control.get_attribute(f"aria-value{name}")) for name in ("now", "max"))
        keys = 3 * [Keys.ARROW_LEFT if value >= highest else Keys.ARROW_RIGHT]
    for key in keys:
        browser.switch_to.active_element.send_keys(key)
        if control.tag_name == "select": time.sleep(0.1)


def test_each_control_of_each_explorer_turns_the_picture_by_keyboard(browser, lab):
    resize(browser, 1400, 1000)
    browser.get(f"{lab}/lab/tree/explore.ipynb")
    ready = "return Boolean(window.jupyterapp?.shell.currentWidget?.context?.sessionContext?.session?.kernel)"
    WebDriverWait(browser, 120).until(lambda _: browser.execute_script(ready))
    ran = browser.execute_async_script(
        "const done = arguments[0]; jupyterapp.commands.execute('notebook:run-all-cells').then(() => done(true), error => done(String(error)))")
    assert ran is True
    errors = browser.find_elements(By.CSS_SELECTOR, "[data-mime-type='application/vnd.jupyter.error']")
    assert not [one.text[-500:] for one in errors]
    with_picture = "//*[contains(concat(' ', @class, ' '), ' widget-vbox ')][.//img]"
    explorers = WebDriverWait(browser, 30).until(lambda _: browser.find_elements(By.XPATH, with_picture))
    times, unmoved, turned, blank = [], [], 0, 0
    for explorer in explorers:
        picture, note = explorer.find_element(By.CSS_SELECTOR, "img"), explorer.find_elements(By.CSS_SELECTOR, ".widget-html-content")[-1]
        for row in explorer.find_elements(By.CSS_SELECTOR, ".widget-hbox"):
            controls = row.find_elements(By.CSS_SELECTOR, ".noUi-handle, select, input[type=text]")
            label = row.find_element(By.CSS_SELECTOR, ".widget-label").text
            if not controls: continue
            assert label, "a control without a label"
            for control in controls[:2]:
                before, said = picture.get_attribute("src"), note.text
                is_filter = control.tag_name == "input"
                browser.execute_script(WATCH, picture)
                start = time.perf_counter()
                turn(browser, control)
                def moved(_): return note.text != said if is_filter else picture.get_attribute("src") != before
                try: WebDriverWait(browser, 10, poll_frequency=0.02).until(moved)
                except Exception: unmoved.append(label); continue
                if not is_filter: times.append(time.perf_counter() - start)
                time.sleep(0.1)
                seen = browser.execute_script("seen.on = false; return seen")
                # the browser takes one frame to decode the new picture
                assert seen["frames"] and seen["blank"] <= 1, f"{label}: blank in {seen['blank']} of {seen['frames']} frames"
                blank += seen["blank"]
                turned += 1
    assert not unmoved, unmoved
    assert len(explorers) >= 5 and turned >= 20, (len(explorers), turned)
    errors = browser.find_elements(By.CSS_SELECTOR, "[data-mime-type='application/vnd.jupyter.stderr']")
    assert not [one.text[-500:] for one in errors]
    times.sort()
    print(f"\n{turned} turns in {len(explorers)} explorers: median {times[len(times) // 2]:.2f} s, longest {times[-1]:.2f} s, {blank} blank frames")
