"""The report page in headless Chromium, if it is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from piste.compare import Loop, compare_task
from tests.compare.browser import BROWSERS, DRIVER
from tests.compare.small import task

HOSTILE = "<script>document.title = 'run'</script><img src=x onerror=\"document.title='run'\">"


@pytest.fixture(scope="module", params=BROWSERS)
def page(request, tmp_path_factory):
    from selenium import webdriver

    folder = tmp_path_factory.mktemp("report")
    compare_task(
        task(name=HOSTILE, about=HOSTILE), optimizers=["sgd", "adam", "adagrad"], seeds=2, trials=2,
        out=folder, progress=False,
    )  # fmt: skip
    options = webdriver.ChromeOptions()
    options.binary_location = request.param
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    try:
        driver.get(Path(folder, "report.html").as_uri())
        driver.implicitly_wait(10)
        driver.find_element("css selector", ".plot svg.main-svg")
        yield driver
    finally:
        driver.quit()


def background(driver) -> str:
    return driver.execute_script("return getComputedStyle(document.body).backgroundColor")


def colours(driver, scheme: str) -> str:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    return background(driver)


def test_the_page_opens_without_errors_or_external_requests(page):
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith(("file:", "data:", "blob:")) for url in asked)


def test_user_text_is_shown_as_text(page):
    assert page.title != "run" and "<script>" in page.title
    assert page.find_elements("css selector", "img") == []


def test_every_plot_is_drawn(page):
    plots = page.find_elements("css selector", ".plot")
    assert len(plots) >= 3  # curves, results by learning rate, smoothness
    assert all(plot.find_elements("css selector", "svg.main-svg") for plot in plots)


def test_a_click_on_a_title_sorts_and_a_second_click_reverses(page):
    heads = page.find_elements("css selector", "th button")
    column = len(heads) - 1

    def shown() -> list[float]:
        assert "baseline" in page.find_elements("css selector", "tbody tr")[-1].get_attribute("class")  # always last
        cells = page.find_elements("css selector", f"tbody tr:not(.baseline) td:nth-child({column + 1})")
        return [float(cell.get_attribute("data-value")) for cell in cells]

    heads[column].click()
    one = shown()
    heads[column].click()
    assert len(one) == 3 and shown() == one[::-1] and one in (sorted(one), sorted(one, reverse=True))


def test_the_filter_shows_the_rows_whose_names_contain_every_word_and_the_baseline(page):
    from selenium.webdriver.common.keys import Keys

    box = page.find_element("id", "filter")
    shown = (
        "return [...document.querySelectorAll('tbody tr')].filter(row => !row.hidden)"
        ".map(row => row.cells[0].innerText)"
    )
    everything = page.execute_script(shown)
    box.send_keys("AD gr")
    try:
        first, last = page.execute_script(shown)
        assert first.startswith("Adagrad") and last == everything[-1] and last.startswith("(")
    finally:
        box.send_keys(Keys.BACKSPACE * 5)
    assert page.execute_script(shown) == everything


def test_the_page_follows_the_color_scheme(page):
    assert colours(page, "dark") != colours(page, "light")


def test_the_best_trials_stand_out_from_a_light_and_a_dark_page(page):
    from selenium.webdriver.support.ui import WebDriverWait

    reverse = "return document.querySelector('#parallel').data[0].line.reversescale"  # the scale ends in yellow
    for scheme, expected in (("dark", False), ("light", True)):
        colours(page, scheme)
        WebDriverWait(page, 10).until(lambda _, e=expected: page.execute_script(reverse) is e, f"{scheme} page")


def test_a_printed_page_is_light_and_fits_the_paper(page):
    from selenium.webdriver.support.ui import WebDriverWait

    light, features = colours(page, "light"), [{"name": "prefers-color-scheme", "value": "dark"}]
    ink = "return document.querySelector('.plot').layout.font.color"
    bright = page.execute_script(ink)
    assert colours(page, "dark") != light
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    paper = {"width": 718, "height": 1000, "deviceScaleFactor": 1, "mobile": False}  # A4 at 96 dots an inch
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", paper)
    try:
        assert background(page) == light
        WebDriverWait(page, 10).until(lambda _: page.execute_script(ink) == bright, "plots in light ink")
        table = "return document.querySelector('table').getBoundingClientRect().right"
        assert page.execute_script(table) <= 718
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_plots_are_drawn_again_for_the_width_of_the_paper(page):
    from selenium.webdriver.support.ui import WebDriverWait

    widths = "return [...document.querySelectorAll('.plot svg.main-svg')].map(svg => svg.getBoundingClientRect().width)"
    # The test before may have left plots as narrow as paper, which follow the window a frame later.
    WebDriverWait(page, 10).until(lambda _: min(page.execute_script(widths)) > 718, "plots as wide as the window")
    wide = page.execute_script(widths)
    for event, expected in (("beforeprint", [680] * len(wide)), ("afterprint", wide)):
        fire = f"window.dispatchEvent(new Event('{event}')); {widths}"  # again where a late resize came in between
        WebDriverWait(page, 10).until(lambda _, script=fire, e=expected: page.execute_script(script) == e, event)


def test_a_pointer_shows_whole_names(page):
    assert page.execute_script("return document.querySelector('.plot').layout.hoverlabel.namelength") == -1


def test_a_phone_shows_the_page_without_horizontal_scrolling(page):
    from selenium.webdriver.support.ui import WebDriverWait

    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        # innerWidth grows with what overflows, so it is no measure; plots follow the new width a frame later.
        script = "return document.documentElement.scrollWidth"
        WebDriverWait(page, 10).until(lambda _: page.execute_script(script) <= 390, "wider than the phone")
        legend = "return document.querySelector('.plot').layout.legend.orientation"
        WebDriverWait(page, 10).until(lambda _: page.execute_script(legend) == "h", "a legend next to the plot")
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    WebDriverWait(page, 10).until(lambda _: page.execute_script(legend) is None, "a legend below a wide plot")


def test_a_tall_legend_is_below_the_title_of_the_axis_on_a_phone(page, tmp_path):
    loops = {name: Loop(schedule=name) for name in ("constant", "cosine")}
    compare_task(
        task(), optimizers=["SGD", "RMSprop", "Adagrad"], loop=loops, seeds=1, steps=4, progress=False, out=tmp_path
    )
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        page.get(Path(tmp_path, "report.html").as_uri())
        page.find_element("css selector", ".plot svg.main-svg")
        gaps = page.execute_script(
            "return [...document.querySelectorAll('.plot')].map(plot => ["
            "plot.querySelector('.legend').getBoundingClientRect().top -"
            "plot.querySelector('.xtitle').getBoundingClientRect().bottom,"
            "plot.getBoundingClientRect().bottom - plot.querySelector('.legend').getBoundingClientRect().bottom])"
        )
        assert len(gaps) == 4  # loss, metric, metric over time, smoothness
        assert all(above >= 0 and below > -1 for above, below in gaps), gaps
        hidden = "return [...document.querySelectorAll('.legend .scrollbar')].map(bar => bar.getBBox().height)"
        assert max(page.execute_script(hidden), default=0) == 0, "a legend that scrolls"
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
