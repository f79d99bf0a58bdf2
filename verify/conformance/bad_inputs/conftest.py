"""Servers with limits small enough for tests to reach."""

import pytest

import repository
from fleet import KINDS, running
from wire import infer, one_input

from .bodies import LIMIT
from .clients import key_file


@pytest.fixture(scope="session", params=KINDS)
def guarded(request, tmp_path_factory):
    """Servers that require keys, accept only small bodies, and wait one second for a body."""
    folder = tmp_path_factory.mktemp(f"guarded-{request.param}")
    keys = folder / "keys"
    keys.write_text(key_file())
    settings = ("--body-timeout", "1s", "--api-keys", str(keys))
    options = {"write": repository.write_echoes, "max_body": LIMIT}
    with running(folder, request.param, settings=settings, **options) as fleet:
        for _ in range(50):  # Every thread allocates its stack and its buffers.
            assert infer(fleet.http, "echo_fp32", one_input([1.0] * 20_000)).status == 200
        yield fleet
