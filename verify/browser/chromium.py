"""Opens the live page in Chromium, which can connect only to this machine."""

import contextlib
import shutil
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ["chromium", "chromium-browser", "google-chrome"]
DESKTOP = {"width": 1180, "height": 900}
PHONE = {"width": 360, "height": 740}


@contextlib.contextmanager
def running():
    """A headless browser that can connect only to this machine."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        raise FileNotFoundError("no Chromium: `scripts/prerequisites.sh chromium` installs it")
    # Chromium's sandbox does not run as root.
    arguments = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


class Visit:
    """An open page, and the problems that the page reported."""

    def __init__(self, browser: Browser, url: str, viewport: dict, scheme: str, scale: int = 1):
        self.problems: list[str] = []
        self.hosts: set[str] = set()
        self.context = browser.new_context(
            viewport=viewport,
            color_scheme=scheme,
            device_scale_factor=scale,
            has_touch=viewport is PHONE,
        )
        self.page: Page = self.context.new_page()
        self.page.on("console", self.logged)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.goto(url)

    def logged(self, message) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.text} at {message.location}")

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def choose(self, knob: str, value: object) -> None:
        """Selects one of the choices of a control."""
        self.page.locator(f'#{knob} input[value="{value}"]').check(force=True)

    def until(self, condition: str, seconds: float = 20) -> None:
        """Waits until a JavaScript expression is true on the page."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"not true after {seconds} s: {condition}\n{self.text('body')}")
            self.page.wait_for_timeout(50)

    def draw(self, strokes: list[list[tuple[float, float]]]) -> None:
        """Draws on the pad; coordinates range from 0 to 1."""
        pad = self.page.locator("#pad")
        pad.scroll_into_view_if_needed()
        box = pad.bounding_box()
        for stroke in strokes:
            points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
            self.page.mouse.move(*points[0])
            self.page.mouse.down()
            for point in points[1:]:
                self.page.mouse.move(*point, steps=4)
            self.page.mouse.up()

    def picture(self, file: Path) -> None:
        self.page.screenshot(path=file, full_page=True)

    def close(self) -> None:
        self.context.close()
