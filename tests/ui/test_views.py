"""The page in Chromium, before a double of the API: every view and state, looked at, driven, and heard."""

import csv

import pytest
from live.polling import until
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from ui.browser import THEMES, VIEWS
from ui.test_layouts import VENDOR

pytestmark = pytest.mark.service("chromium", "chromedriver", str(VENDOR))
PAIR = {"dimensions": "src_k8s_namespace,dst_k8s_namespace", "fold": "dimension", "top": "10"}


def crumbs(browser):
    return browser.texts(".crumb button:first-child")


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_shows_and_breaks_no_rule_of_access(browser, axe, view, theme):
    browser.system_theme(theme)
    browser.open(f"#/{view}")
    assert browser.run("return document.title").endswith("flowagent")
    assert browser.text("[aria-current=page]") == browser.text("h1")
    assert not browser.all(".loading, .message")
    browser.picture(f"{view}-{theme}")
    assert browser.violations(axe) == []


@pytest.mark.parametrize("view", ["overview", "sankey", "flows"])
def test_a_narrow_window_has_room_for_all(browser, view):
    browser.driver.set_window_size(700, 900)
    try:
        browser.open(f"#/{view}")
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        assert overlaps(browser, ".sankey .node text, .sankey .heading") == []
    finally:
        browser.driver.set_window_size(1440, 1100)


def test_the_policy_of_the_page_holds(browser):
    browser.expected = ("Content Security Policy", "violates the following", "404")
    browser.open("#/overview")
    browser.run(
        "const e = document.createElement('script'); e.textContent = 'window.broken = 1'; document.body.append(e);"
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.broken = 2\">')"
    )
    assert browser.run("return window.broken ?? null") is None


def test_a_sankey_has_a_mark_for_each_value_and_each_way(browser, double):
    answer = double.answer(PAIR | {"from": "-15m"})
    browser.open("#/sankey?columns=src_k8s_namespace,dst_k8s_namespace&live=0")
    ways = {tuple(row["at"]) for row in answer["rows"] if row["value"] > 0}
    assert len(browser.all(".sankey .link")) == len(ways)
    nodes = {(side, at[side]) for at in ways for side in (0, 1)}
    assert len(browser.all(".sankey .node")) == len(nodes)
    assert len(browser.all(".twin tbody tr")) == 25
    browser.one(".twin > button").click()
    assert len(browser.all(".twin tbody tr")) == len(answer["rows"])


def overlaps(browser, selector):
    """Pairs of texts that lie on one another."""
    return browser.run(
        """
        const place = (e) => [e.textContent, e.getBoundingClientRect()];
        const boxes = [...document.querySelectorAll(arguments[0])].map(place);
        return boxes.flatMap(([a, p], i) => boxes.slice(i + 1)
          .filter(([, q]) => p.left < q.right && q.left < p.right && p.top + 3 < q.bottom && q.top + 3 < p.bottom)
          .map(([b]) => [a, b]));
        """,
        selector,
    )


@pytest.mark.parametrize("top", ["5", "50"])
def test_labels_of_a_sankey_do_not_overlap(browser, top):
    browser.open(f"#/sankey?columns=src_k8s_name,dst_k8s_name,dst_port&live=0&top={top}")
    assert len(browser.all(".sankey .node")) > 10
    assert browser.run("const card = document.querySelector('.wide'); return card.scrollWidth <= card.clientWidth")
    assert overlaps(browser, ".sankey .node text") == []


def test_a_chord_has_two_bands_for_each_arc_and_an_arrow_for_each_way(browser, double):
    answer = double.answer(PAIR | {"from": "-15m"})
    browser.open("#/chord?columns=k8s_namespace&live=0")
    assert len(browser.all(".ribbon")) == len(answer["rows"])
    labels = {value["label"] for dimension in answer["dimensions"] for value in dimension["values"]}
    arcs = browser.all(".arc")
    assert len(arcs) == len(labels)
    assert all(len(arc.find_elements("css selector", "path.in, path.out")) == 2 for arc in arcs)


def test_the_two_bands_of_an_arc_are_told_apart_without_hue(browser):
    """Contrast of 3:1 at least, WCAG 2.1 §1.4.11."""
    script = """
      const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      const shine = (element) => {
        canvas.fillStyle = getComputedStyle(element).fill;
        canvas.fillRect(0, 0, 1, 1);
        const linear = (v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(linear);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      return [...document.querySelectorAll(".arc.hued")].map((arc) =>
        (shine(arc.querySelector(".in")) + 0.05) / (shine(arc.querySelector(".out")) + 0.05));
    """
    for theme in THEMES:
        browser.system_theme(theme)
        browser.open("#/chord?columns=k8s_owner_name&live=0&top=30")
        ratios = browser.run(script)
        assert len(ratios) > 10
        assert min(ratios) > 3


def test_a_click_filters_shift_excludes_and_back_goes_back(browser):
    browser.open("#/sankey?columns=src_k8s_namespace,dst_k8s_namespace&live=0")
    first = browser.labels(".sankey .node")
    target = next(
        e for e in browser.all(".sankey .node") if e.get_attribute("aria-label").startswith("source namespace data")
    )
    browser.go(lambda: browser.click(target.find_element("css selector", "rect")))
    assert crumbs(browser) == ['src_k8s_namespace == "data"']
    assert len([text for text in browser.labels(".sankey .node") if text.startswith("source")]) == 1
    browser.go(browser.driver.back)
    assert crumbs(browser) == []
    assert browser.labels(".sankey .node") != []
    target = next(
        e for e in browser.all(".sankey .node") if e.get_attribute("aria-label").startswith("source namespace data")
    )
    browser.go(lambda: browser.click(target.find_element("css selector", "rect"), shift=True))
    assert crumbs(browser) == ['not (src_k8s_namespace == "data")']
    left = [text for text in browser.labels(".sankey .node") if text.startswith("source namespace data")]
    assert (left, len(first) > 1) == ([], True)


def test_a_link_filters_by_both_of_its_ends(browser):
    browser.open("#/chord?columns=k8s_namespace&live=0")
    ribbon = browser.one(".ribbon")
    sender, receiver = ribbon.get_attribute("aria-label").split(",")[0].split(" → ")
    browser.run("arguments[0].dispatchEvent(new MouseEvent('click', { bubbles: true }))", ribbon)
    browser.wait("document.querySelectorAll('.crumb').length === 2")
    assert crumbs(browser) == [f'src_k8s_namespace == "{sender}"', f'dst_k8s_namespace == "{receiver}"']


def test_parts_of_the_filter_can_be_removed_and_changed(browser):
    browser.open("#/flows?live=0&filter=dst_port+%3D%3D+443&filter=proto+%3D%3D+6")
    assert crumbs(browser) == ["dst_port == 443", "proto == 6"]
    browser.go(browser.all(".crumb .cross")[1].click)
    assert crumbs(browser) == ["dst_port == 443"]
    browser.go(browser.one(".crumb button").click)
    assert crumbs(browser) == []
    assert browser.one("#filter").get_attribute("value") == "dst_port == 443"
    browser.go(lambda: browser.keys(Keys.END, Keys.BACKSPACE, Keys.BACKSPACE, Keys.BACKSPACE, "53", Keys.ENTER))
    assert crumbs(browser) == ["dst_port == 53"]


def test_an_address_alone_brings_the_same_page(browser):
    browser.open(
        "#/flows?measure=packets&live=0&from=1000&to=2000&columns=src_addr&sort=-src_addr&filter=dst_port+%3D%3D+443"
    )
    before = browser.text("main"), crumbs(browser), browser.one(".times summary").text
    browser.open(browser.address)
    assert (browser.text("main"), crumbs(browser), browser.one(".times summary").text) == before
    addresses = browser.texts(".twin tbody td:first-child")
    assert addresses != sorted(addresses)
    assert browser.one("th[aria-sort]").get_attribute("aria-sort") == "descending"


def test_keys_do_what_the_mouse_does(browser):
    browser.open("#/sankey?columns=src_k8s_namespace,dst_k8s_namespace&live=0")
    browser.run("document.querySelector('.controls button:last-child').focus()")
    for _ in range(5):
        browser.keys(Keys.TAB)
        if browser.run("return document.activeElement.matches('.sankey [data-mark]')"):
            break
    assert browser.run("return document.activeElement.matches('.sankey [data-mark]')"), "Tab reaches the chart"
    marks = browser.run("return [...document.querySelectorAll('.sankey [data-mark]')].map((e) => e.dataset.mark)")
    browser.keys(Keys.END)
    assert browser.run("return document.activeElement.dataset.mark") == marks[-1]
    browser.keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert browser.run("return document.activeElement.dataset.mark") == marks[-3]
    assert browser.run("return !document.getElementById('tip').hidden"), "focus shows what hovering shows"
    label = browser.run("return document.activeElement.getAttribute('aria-label')")
    assert "Enter filters" in label
    browser.go(lambda: browser.keys(Keys.ENTER))
    (kept,) = crumbs(browser)
    browser.go(browser.driver.back)
    browser.run("document.querySelectorAll('.sankey [data-mark]')[arguments[0]].focus()", len(marks) - 3)
    browser.go(
        lambda: ActionChains(browser.driver).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()
    )
    assert crumbs(browser) == [f"not ({kept})"]


def test_a_brush_over_time_sets_the_range(browser):
    browser.open("#/series?live=0")
    over = browser.one(".plot .u-over")
    width = over.size["width"]
    drag = ActionChains(browser.driver).move_to_element_with_offset(over, -width // 4, 0)
    browser.go(lambda: drag.click_and_hold().move_by_offset(width // 4, 5).release().perform())
    chosen = dict(part.split("=") for part in browser.address.partition("?")[2].split("&"))
    assert float(chosen["to"]) - float(chosen["from"]) == pytest.approx(900 / 4, rel=0.05)
    assert browser.one(".live").get_attribute("aria-checked") == "false"
    browser.go(browser.driver.back)
    assert "from=" not in browser.address


def test_a_theme_that_was_chosen_stays(browser):
    browser.open("#/overview?live=0")
    backdrop = "return getComputedStyle(document.body).backgroundColor"
    light = browser.run(backdrop)
    next(b for b in browser.all(".tools button") if b.text == "dark").click()
    dark = browser.run(backdrop)
    browser.open("#/sankey?live=0")
    assert browser.run(backdrop) == dark != light
    browser.system_theme("dark")
    next(b for b in browser.all(".tools button") if b.text == "light").click()
    assert browser.run(backdrop) == light


def test_the_place_of_a_mistake_is_shown(browser):
    browser.expected = ("400",)
    browser.open("#/flows?live=0&filter=proto+%3D%3D+6&filter=dst_prot+%3D%3D+443")
    assert browser.texts(".crumb.wrong button:first-child") == ["dst_prot == 443"]
    assert browser.text(".mistake mark") == "d"
    assert "this is no filter" in browser.text(".mistake")
    browser.picture("filter-mistake")
    browser.go(browser.one(".crumb.wrong .cross").click)
    assert not browser.all(".mistake")


def test_a_token_is_asked_for_and_kept_for_the_tab(browser, double, axe):
    browser.expected = ("401",)
    double.token = "secret"
    browser.open("#/flows")
    browser.picture("token")
    assert browser.violations(axe) == []
    browser.keys("wrong", Keys.ENTER)
    browser.wait("document.querySelector('main').textContent.includes('not right')")
    browser.go(lambda: browser.keys("secret", Keys.ENTER))
    assert browser.all(".twin tbody tr")
    browser.open("#/overview")
    assert browser.all(".tile")


def test_nothing_yet_says_how_to_begin(browser, double):
    double.empty = True
    for view in ("overview", "sankey"):
        browser.open(f"#/{view}")
        assert "flowagent generate" in browser.text("main")
    browser.picture("empty")


def test_nothing_that_matches_says_how_to_go_on(browser):
    browser.open("#/sankey?live=0&filter=dst_port+%3D%3D+1")
    assert "matches the filters" in browser.text("main")
    browser.go(browser.one(".actions button").click)
    assert browser.all(".sankey .node")


def test_live_numbers_come_by_themselves(browser, double):
    browser.open("#/flows?columns=dst_port")
    assert "12345" not in browser.text("main")
    double.rows = [*double.rows, double.rows[0] | {"dst_port": 12345, "bytes": 10**9}]
    browser.wait("document.querySelector('main').textContent.includes('12345')")


def test_a_page_that_is_not_live_stays_as_it_is(browser, double):
    browser.open("#/flows?columns=dst_port&live=0")
    until(lambda: double.streams == 0, "no stream")
    browser.go(browser.one(".live").click)
    until(lambda: double.streams == 1, "a stream")
    browser.go(browser.one(".live").click)
    until(lambda: double.streams == 0, "no stream")


def test_without_a_stream_to_spare_it_asks_again_and_again(browser, double):
    browser.expected = ("503",)
    double.max_streams = 0
    browser.open("#/flows?columns=dst_port")
    asked = len(double.queries)
    until(lambda: len(double.queries) > asked, "another question")


def test_old_news_are_marked(browser, double):
    browser.open("#/sankey")
    double.silent = True
    browser.run("const now = performance.now.bind(performance); performance.now = () => now() + 90_000")
    browser.wait("document.querySelector('.notice')")
    assert "Nothing new for" in browser.text(".notice")
    browser.picture("stale")


def test_what_is_exact_sampled_and_unscaled_is_told_apart(browser, double):
    browser.open("#/sankey?live=0")
    assert browser.text(".summary").count("±") == 2
    double.exact = True
    browser.open("#/sankey?live=0")
    assert "exact" in browser.text(".summary")
    assert "±" not in browser.text("main")
    double.unscaled = True
    browser.open("#/sankey?live=0")
    assert "unscaled" in browser.text(".summary")


def test_unknown_is_not_other(browser):
    browser.open("#/sankey?live=0&top=5")
    assert browser.all(".node.unknown")
    assert browser.all(".node.other")
    fills = {browser.run("return getComputedStyle(document.querySelector(arguments[0])).fill", f".node.{kind} rect")
             for kind in ("unknown", "other", "hued")}  # fmt: skip
    assert len(fills) == 3


def test_the_table_can_be_had_as_a_file(browser, tmp_path):
    settings = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.driver.execute_cdp_cmd("Browser.setDownloadBehavior", settings)
    browser.open("#/flows?live=0&from=1000&to=2000&columns=src_k8s_namespace,dst_port")
    shown = browser.texts(".twin tbody tr")
    next(b for b in browser.all(".twin button") if b.text == "CSV").click()
    file = until(lambda: next(tmp_path.glob("*.csv"), None), "a file")
    rows = list(csv.DictReader(file.read_text("utf-8").splitlines()))
    assert len(rows) > len(shown) == 25, "all of them, not those shown"
    assert rows[0].keys() >= {"src_k8s_namespace", "dst_port", "bytes", "error", "share"}
    assert "" in {row["src_k8s_namespace"] for row in rows}, "what is unknown is empty"
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1)


def test_who_wants_no_motion_gets_none(browser):
    browser.system_theme("light", reduced_motion=True)
    browser.open("#/sankey?live=0")
    assert browser.run("return getComputedStyle(document.querySelector('.link')).transitionDuration") == "0s"


def test_a_sankey_of_two_thousand_links_is_drawn(browser, double):
    addresses = [f"10.0.{i // 50}.{i % 50}" for i in range(60)]
    row = double.rows[0]
    double.rows = [
        row | {"src_addr": addresses[i % 50], "dst_addr": addresses[(i // 50 + i) % 50], "bytes": 1000 + i}
        for i in range(2000)
    ]
    browser.open("#/sankey?columns=src_addr,dst_addr&top=50&live=0")
    assert len(browser.all(".sankey .link")) == 2000


def test_the_agent_gone_is_said_and_found_again(browser, double):
    browser.expected = ("ERR_INTERNET_DISCONNECTED", "Failed to load")
    browser.open("#/flows?live=0")
    offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.driver.execute_cdp_cmd("Network.enable", {})
    browser.driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    browser.run("location.hash = '#/sankey?live=0'")
    browser.wait("document.querySelector('.message')?.textContent.includes('does not answer')")
    browser.driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline | {"offline": False})
    browser.go(browser.one(".message button").click)
    assert browser.all(".sankey .node")


@pytest.mark.parametrize("name", ["constructor", "__proto__", "nothing"])
def test_an_address_of_no_view_shows_the_first(browser, name):
    browser.open(f"#/{name}")
    assert browser.text("h1") == "Overview"
