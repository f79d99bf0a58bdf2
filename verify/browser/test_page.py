"""The live page as a visitor sees and uses it."""

import hashlib
import math
import re

import pytest

import chromium
from conftest import models
from fleet import Fleet, eventually, running
from wire import KEY

ZERO = [[(0.5 + 0.22 * math.sin(a / 8), 0.5 - 0.36 * math.cos(a / 8)) for a in range(51)]]
ANSWERED = "parseFloat(document.getElementById('rate').textContent) > 0"

CONTRAST = """() => {
  const style = getComputedStyle(document.documentElement);
  const channel = (value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const light = (name) => {
    const hex = style.getPropertyValue(name).trim();
    const [r, g, b] = [1, 3, 5].map((at) => channel(parseInt(hex.slice(at, at + 2), 16) / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, other) => {
    const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const texts = ["--ink", "--soft", "--full", "--yours", "--bad"];
  return Math.min(...["--paper", "--sheet"].flatMap((on) => texts.map((text) => ratio(text, on))));
}"""

NAMELESS = """() => [...document.querySelectorAll("button, input, select, canvas, svg")]
  .filter((part) => part.checkVisibility() && !part.closest("button > canvas"))
  .filter((part) => !(part.labels?.length || part.getAttribute("aria-label") || part.textContent.trim()))
  .map((part) => part.outerHTML)"""


def test_a_drawn_digit_is_recognized_and_the_page_describes_its_batch(visit):
    visit = visit()
    visit.page.locator("#digit").wait_for()
    visit.draw(ZERO)
    visit.until("document.getElementById('answer').textContent !== '?'")
    assert visit.text("#answer") == "0"
    trip = visit.text("#trip")
    assert re.search(r"ran alone in a batch that left because .+: waited .+ ms, ran", trip)
    visit.page.locator("#legend-yours").wait_for()
    visit.page.get_by_role("button", name="Clear").click()
    assert visit.text("#answer") == "?"


def test_a_sample_digit_can_be_chosen_by_keyboard(visit):
    visit = visit()
    for digit in (3, 8):
        visit.page.get_by_role("button", name=f"sample digit {digit}").focus()
        visit.page.keyboard.press("Enter")
        visit.until(f"document.getElementById('answer').textContent === '{digit}'")


def test_batches_grow_with_callers_and_n_moves_with_the_latency_target(visit):
    visit = visit()
    visit.page.select_option("#model", label="steady")
    visit.page.locator("#digit").wait_for(state="hidden")
    visit.until("parseInt(document.getElementById('n').textContent) > 10")
    visit.choose("callers", 8)
    visit.until(ANSWERED)
    shows = "document.getElementById('story-lead').textContent.includes('{}')"
    visit.until(shows.format("all that were waiting"))
    visit.choose("callers", 128)
    visit.until(shows.format("N allows no more"))
    assert int(visit.text("#in-flight")) > 64
    visit.choose("target", 250)
    visit.until("parseInt(document.getElementById('n').textContent) > 25")
    visit.choose("callers", 1)
    visit.choose("target", 25)
    visit.until("parseInt(document.getElementById('n').textContent) < 8")
    visit.until(shows.format("One request per batch"))


def test_rows_of_different_lengths_are_explained_in_units(visit):
    visit = visit()
    visit.page.select_option("#model", label="steady")
    visit.until("document.getElementById('units').hidden")
    visit.page.select_option("#model", label="texts")
    visit.until("document.getElementById('units').textContent !== ''")
    assert re.search(
        r"a row of the usual length costs [\d.]+, N rows cost [\d,.]+, and a row of length \d+ costs",
        visit.text("#units"),
    )


def test_the_load_ends_when_its_page_is_closed(browser, serving):
    visit = chromium.Visit(browser, f"http://{serving.http}/", chromium.DESKTOP, "light")
    visit.until("document.querySelectorAll('#callers input').length > 0")
    visit.choose("callers", 8)
    visit.until(ANSWERED)
    visit.close()
    eventually(lambda: not serving.left_over(), "no request is in flight", serving.left_over)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_legible_in_light_and_dark(visit, scheme):
    visit = visit(scheme=scheme)
    visit.page.locator("#digit").wait_for()
    assert visit.page.evaluate(CONTRAST) >= 4.5
    background = visit.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    brightness = sum(int(part) for part in re.findall(r"\d+", background)[:3]) / 3
    assert (brightness > 128) == (scheme == "light")


def test_it_fits_a_phone(visit):
    visit = visit(viewport=chromium.PHONE)
    visit.page.locator("#digit").wait_for()
    visit.until("document.querySelectorAll('#callers input').length > 0")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= chromium.PHONE["width"]


def test_every_control_and_picture_has_a_name(visit):
    visit = visit()
    visit.until("document.querySelectorAll('#callers input').length > 0")
    assert visit.page.evaluate(NAMELESS) == []


def test_on_the_admin_port_it_only_shows_data(visit, serving):
    visit = visit(address=serving.admin)
    visit.until("/^[0-9]+$/.test(document.getElementById('n').textContent)")
    assert visit.page.locator("#controls").is_hidden() and visit.page.locator("#digit").is_hidden()
    assert f":{serving.http.split(':')[1]}/" in visit.text("#elsewhere")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """A gateway, a worker and Redis, which a test may stop."""
    folder = tmp_path_factory.mktemp("fleet")
    fleet = Fleet(folder, "redis", settings=("--live-page", "everywhere"), write=models)
    yield fleet
    fleet.kill()


def test_the_state_explains_every_trouble(visit, fleet):
    watching = visit(address=fleet.http)
    shows = "document.getElementById('state').textContent.includes('{}')"
    watching.until(shows.format("serving"))
    fleet.programs[-1].kill()
    watching.until(shows.format("no worker serves this model"))
    fleet.redis.stop()
    watching.until(shows.format("Redis cannot be reached"))
    fleet.programs[0].kill()
    watching.until(shows.format("no response; retrying"))
    watching.problems.clear()  # The browser reports the lost connection.


def test_the_page_asks_for_an_api_key_if_the_server_requires_one(browser, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"{hashlib.sha256(KEY.encode()).hexdigest()} me\n")
    with running(tmp_path, "standalone", settings=("--api-keys", str(keys)), write=models) as fleet:
        visit = chromium.Visit(browser, f"http://{fleet.http}/", chromium.DESKTOP, "light")
        visit.page.get_by_label("API key").fill(KEY)
        visit.page.get_by_role("button", name="Use key").click()
        visit.page.locator("#digit").wait_for()
        assert visit.page.locator("#controls").is_hidden()
        visit.close()
