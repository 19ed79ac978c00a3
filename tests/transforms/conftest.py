import pytest

from . import models


@pytest.fixture(autouse=True)
def _numbers(request):
    """A test gets the same random numbers whatever ran before it."""
    models.reseed(request.node.name)
