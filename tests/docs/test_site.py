"""The documentation as a site: it is built without a warning, is complete, loads nothing from elsewhere, and works in a browser."""

import functools
import http.server
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading

import pytest
import yaml

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import check_site

from generators import api

# As `zensical` starts it. The formatter would be started once for each of two thousand signatures; `make docs` has none either.
ZENSICAL = "import sys; sys.modules['ruff'] = None; from zensical.main import cli; cli()"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NARROW, WIDE = {"width": 390, "height": 844}, {"width": 1440, "height": 900}
LOOKED_AT = ["index", "configs", "data", "troubleshooting", "migrating", "reference/contracts", "reference/config_keys"]
LOOKED_AT += ["reference/commands", "reference/api/index", "reference/api/ultravid.layers"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site of this checkout, built in a folder of its own: zensical writes below its config alone."""
    if importlib.util.find_spec("zensical") is None:
        pytest.skip("zensical is not installed: `make install`, or pip install 'ultravid[docs]'")
    folder = tmp_path_factory.mktemp("docs")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    (folder / "ultravid").symlink_to(ROOT / "ultravid")
    command = [sys.executable, "-c", ZENSICAL, "build", "--strict"]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "No issues found" in done.stdout + done.stderr, done.stdout + done.stderr
    return folder / "site"


@pytest.mark.slow_models
def test_links_anchors_navigation_and_all_names_of_the_api_are_in_order(site):
    assert check_site.check(site) == []
    assert len(list((site / "reference/api").glob("*.html"))) == len(api.public_modules()) + 1


@pytest.mark.slow_models
def test_what_is_wrong_with_a_site_is_found(site, tmp_path):
    broken = tmp_path / "site"
    for name in ["index.html", "configs.html", "assets/site.css", "reference/api/ultravid.structures.html"]:
        (broken / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(site / name, broken / name)
    page = broken / "reference/api/ultravid.structures.html"
    text = page.read_text()
    entry = re.search(r'<h2 id="ultravid\.structures\.ImageList".*?(?=<h2 id=)', text, re.DOTALL)[0]
    page.write_text(text.replace(entry, "").replace("boxes1", "").replace("A table of", ""))
    home = broken / "index.html"
    added = (
        '<a href="configs.html#nowhere">x</a><a href="../../x.html">x</a><script src="https://unpkg.com/x.js"></script>'
    )
    home.write_text(home.read_text().replace("</body>", f"{added}</body>"))
    (broken / "assets/site.css").write_text(
        '@import "https://fonts.googleapis.com/x.css"; a { background: url(x.png) }'
    )
    found = check_site.check(broken)
    for fault in [
        "index.html loads https://unpkg.com/x.js from outside of the site",
        "index.html links to configs.html#nowhere, but configs.html has no such anchor",
        "index.html links to ../../x.html, which does not exist",
        "assets/site.css loads https://fonts.googleapis.com/x.css from outside of the site",
        "assets/site.css loads x.png, which does not exist",
        "docs/addresses.md was not built",
        "the page of ultravid.structures lacks ImageList",
        "the entry of ultravid.structures.pairwise_iou lacks the parameters boxes1",
        "the entry of ultravid.structures.Instances lacks the docstring",
    ]:
        assert fault in found


def pages_of(navigation):
    if isinstance(navigation, str):
        return [navigation]
    parts = navigation.values() if isinstance(navigation, dict) else navigation
    return [page for part in parts for page in pages_of(part)]


def test_the_navigation_has_every_page_once():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    written = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(pages_of(config["nav"])) == sorted(written)


def test_the_two_lock_files_agree():
    everything, docs = (
        dict(re.findall(r"^([\w.-]+)==([\w.+]+)", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements.lock", "requirements-docs.lock")
    )
    assert {"zensical", "mkdocs", "mkdocs-material", "mkdocstrings-python"} <= docs.keys()
    assert {name: everything.get(name) for name in docs} == docs


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address(site):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome is installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def opened(browser, faults, address, **options):
    """A tab that notes errors, and requests that leave the site."""
    tab = browser.new_context(**options).new_page()
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    tab.on(
        "request",
        lambda request: None if request.url.startswith((address, "data:", "blob:")) else faults.append(request.url),
    )
    return tab


@pytest.mark.slow_models
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of playwright's own pipes
def test_pages_fit_a_narrow_screen_and_load_nothing_from_elsewhere(browser, address):
    faults = []
    tab = opened(browser, faults, address, viewport=NARROW, color_scheme="dark")
    for page in LOOKED_AT:
        tab.goto(f"{address}/{page}.html")
        overflow = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        faults += [f"{page} is {overflow} px too wide"] if overflow > 0 else []
        assert tab.evaluate("document.body.getAttribute('data-md-color-scheme')") == "slate"
    assert faults == []


@pytest.mark.slow_models
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_search_finds_a_name_and_leads_to_its_entry(browser, address):
    faults = []
    tab = opened(browser, faults, address, viewport=WIDE, color_scheme="light")
    tab.goto(f"{address}/index.html")
    assert tab.evaluate("document.body.getAttribute('data-md-color-scheme')") == "default"
    tab.locator(".md-search__button").first.click()
    tab.keyboard.type("pairwise_point_box_distance")
    result = tab.locator("dialog[aria-label='Search'] a[href*='ultravid.structures.html']").first
    result.click(timeout=60_000)
    tab.wait_for_url("**/reference/api/ultravid.structures.html**")
    assert tab.locator("[id='ultravid.structures.pairwise_point_box_distance']").is_visible()
    assert faults == []
