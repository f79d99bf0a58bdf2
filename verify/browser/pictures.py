"""Takes the pictures of the live page for the documentation: `make live-pictures`.

Usage: pictures.py FOLDER
"""

import sys
import tempfile
from pathlib import Path

import chromium
import repository
from fleet import running

STEP = 12_000  # milliseconds for each number of callers, so that the charts show the changes
PICTURES = [
    ("live-light", chromium.DESKTOP, "light", 1),
    ("live-dark", chromium.DESKTOP, "dark", 1),
    ("live-phone", chromium.PHONE, "light", 2),
]


def models(folder: Path) -> list[str]:
    (folder / "digits_wide").symlink_to(repository.MODELS / "digits_wide")
    return repository.names(folder)


def take(folder: Path, address: str, browser) -> None:
    """Takes all pictures during one load that grows while the pages are open."""
    visits = [
        (name, chromium.Visit(browser, f"http://{address}/", viewport, scheme, scale))
        for name, viewport, scheme, scale in PICTURES
    ]
    first = visits[0][1]
    for visit in (visit for _, visit in visits):
        visit.until("document.querySelectorAll('#callers input').length > 0")
    for callers in (1, 8, 32):
        first.choose("callers", callers)
        first.page.wait_for_timeout(STEP)
    for name, visit in visits:
        visit.page.get_by_role("button", name="sample digit 3").click()
        visit.until("document.getElementById('answer').textContent === '3'")
        visit.page.wait_for_timeout(1500)
        visit.picture(folder / f"{name}.png")
    # Without this choice the server continues the load for 6 s after the page is closed.
    first.choose("callers", 0)
    for _, visit in visits:
        visit.close()


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as place,
        # The browser starts first: a starting browser would slow down the worker's profiling of the
        # model.
        chromium.running() as browser,
        running(Path(place), "standalone", write=models) as fleet,
    ):
        take(folder, fleet.http, browser)


if __name__ == "__main__":
    main()
