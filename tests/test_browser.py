"""The page of a comparison in a real browser: opened from disk, nothing asked of any network, marks counted."""

import json
import shutil

import pytest

from tombola.cli.main import main

from .made_studies import study
from .test_report import HOSTILE

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.hard,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="there is no chromium with its chromedriver here"),
]
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
DESKTOP, PHONE = (1280, 900), (390, 844)
DRAWN = """
return document.documentElement.dataset.drawn !== undefined && [...document.querySelectorAll('.plot')].map(place => ({
    points: place.querySelectorAll('.scatterlayer .points path').length,
    names: place.querySelectorAll('.annotation').length,
    title: place.parentElement.querySelector('h3').textContent,
    scrolled: [...place.querySelectorAll('.legend .scrollbar')].some(bar => bar.getBBox().height > 0),
    width: place.clientWidth,
}))
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield found
    found.quit()


def opened(browser, page, size=DESKTOP, dark=False):
    from selenium.webdriver.support.ui import WebDriverWait

    width, height = size
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    browser.get(page.as_uri())
    return WebDriverWait(browser, 60, 0.1).until(lambda browser: browser.execute_script(DRAWN))


def asked(browser, page):
    """Return what the page asked for beside itself, and what the console complained of."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    own = [each["request"]["url"] for each in requests if each["documentURL"] == page.as_uri()]
    return [url for url in own if not url.startswith((page.as_uri(), "data:", "blob:"))], browser.get_log("browser")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    def made(name, finders, **more):
        out = study(tmp_path_factory.mktemp("pages") / name, finders, **more)
        assert main(["report", str(out)]) == 0
        return out / "report.html"

    few = [*HOSTILE, "snip", "random"]
    return {
        "few": made("few", few),
        "fifty": made("fifty", [f"cts:steps={n}" for n in range(1, 51)], densities=(0.2, 0.1), seeds=2, tickets=False),
        "one": made("one", ["cts"], densities=(0.1,), seeds=1),
        "holes": made("holes", ["cts", "snip"], missing=[("cts", 0.02, n) for n in range(3)]),
    }


@pytest.mark.parametrize("name", ["few", "fifty", "one", "holes"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_a_page_from_disk_is_drawn_whole_and_asks_nobody(browser, pages, name, size):
    page = pages[name]
    drawn = opened(browser, page, size)
    assert asked(browser, page) == ([], [])
    plots = json.loads(browser.execute_script("return document.getElementById('plots').textContent"))
    assert len(drawn) == len(plots)
    for found, plot in zip(drawn, plots, strict=True):
        heat = any(trace["type"] == "heatmap" for trace in plot["data"])
        own = sum(len(t["x"]) for t in plot["data"] if t["type"] == "scatter" and "markers" in t["mode"])
        assert found["points"] == (0 if heat else own)
        assert heat or own == plot["marks"]
        assert 250 < found["width"] < 1240
        assert not found["scrolled"], "legends are whole"
    overflow = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0, "nothing is wider than the screen"


def test_names_of_others_stay_text_in_the_browser(browser, pages):
    opened(browser, pages["few"])
    assert browser.execute_script("return document.images.length") == 0
    text = browser.execute_script("return document.querySelector('.plot .legend').textContent")
    assert "mine:<img src=x onerror=alert(1)>" in text
    assert "a</script><script>alert(1)</script>" in text


def test_names_stand_at_lines_on_a_wide_screen_alone(browser, pages):
    assert opened(browser, pages["few"], DESKTOP)[0]["names"] == len(HOSTILE) + 3
    assert opened(browser, pages["few"], PHONE)[0]["names"] == 0


def test_a_page_is_light_or_dark(browser, pages):
    paper = "return getComputedStyle(document.body).backgroundColor"
    opened(browser, pages["one"], dark=True)
    dark = browser.execute_script(paper)
    browser.execute_script("document.getElementById('theme').click()")
    light = browser.execute_script(paper)
    assert (dark, light) == ("rgb(20, 23, 26)", "rgb(255, 255, 255)")
    opened(browser, pages["one"])
    assert browser.execute_script(paper) == light


def test_a_click_leads_to_runs_and_a_legend_switches_a_finder_everywhere(browser, pages):
    opened(browser, pages["holes"])
    browser.execute_script(
        "const place = document.getElementById('plot-0');place.emit('plotly_click', {points: [{customdata: 1}]});"
    )
    group = browser.execute_script("return document.querySelector('details.chosen')")
    assert group.get_attribute("open")
    links = group.find_elements("tag name", "a")
    assert len(links) == 3
    assert (pages["holes"].parent / links[0].get_dom_attribute("href") / "result.json").is_file()
    browser.execute_script("document.getElementById('plot-0').scrollIntoView()")
    toggle = browser.execute_script("return document.querySelector('#plot-0 .legendtoggle')")
    browser.execute_script("arguments[0].dispatchEvent(new MouseEvent('mousedown', {bubbles: true}))", toggle)
    browser.execute_script("arguments[0].dispatchEvent(new MouseEvent('mouseup', {bubbles: true}))", toggle)
    hidden = """
        return [...document.querySelectorAll('.plot[data-figure="accuracy-by-density"]')].map(
            place => place.data.filter(trace => trace.visible === 'legendonly').map(trace => trace.name))
    """
    browser.implicitly_wait(1)
    for _ in range(50):
        found = browser.execute_script(hidden)
        if any(found):
            break
    assert found
    assert all(set(names) == {"cts"} for names in found)


def test_a_page_can_be_printed(browser, pages):
    opened(browser, pages["holes"], dark=True)
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert len(printed["data"]) > 20_000
