"""One browser, and one server with a demo model and an echo model of known batch times."""

import pytest

import chromium
import repository
from fleet import running

# L(b) = 8 + 2 b milliseconds: N is 19 rows for a target of 100 ms, and 7 rows for 50 ms.
STEADY = repository.parameter("batch_ms", 8) + repository.parameter("row_ms", 2)

# A row takes 0.1 ms for each byte, so that a row of 64 bytes costs eight times as much as one of eight.
BY_LENGTH = repository.parameter("batch_ms", 1) + repository.parameter("length_us", 100)
PADDED = repository.parameter("pad", "INPUT0:1=0") + repository.parameter("cut", "OUTPUT0:1")


def models(folder) -> list[str]:
    """Fills a model repository."""
    (folder / "digits_wide").symlink_to(repository.MODELS / "digits_wide")
    repository.echo(folder / "steady", [("FP32", "-1")], more=STEADY)
    repository.echo(folder / "texts", [("UINT8", "-1")], more=BY_LENGTH + PADDED)
    return repository.names(folder)


@pytest.fixture(scope="session")
def serving(tmp_path_factory):
    """`batchfleet serve`."""
    with running(tmp_path_factory.mktemp("serve"), "standalone", write=models) as fleet:
        yield fleet


@pytest.fixture(scope="session")
def browser():
    with chromium.running() as browser:
        yield browser


@pytest.fixture
def visit(browser, serving):
    """Opens pages. A page must report no problems, and connect only to its own server."""
    visits = []

    def open_(path="/", viewport=chromium.DESKTOP, scheme="light", address=None):
        address = address or serving.http
        visits.append((chromium.Visit(browser, f"http://{address}{path}", viewport, scheme), address))
        return visits[-1][0]

    yield open_
    for visit, address in visits:
        visit.close()
        assert visit.problems == []
        assert visit.hosts == {address}
