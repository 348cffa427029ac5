from qdrant_server import qdrant  # noqa: F401 - a fixture
from stores import store  # noqa: F401 - a fixture
