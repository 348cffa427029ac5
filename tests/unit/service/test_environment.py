"""Variables that look like settings and are none."""

import pytest

from service.environment import unknown_variables
from service.settings import all_settings


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RET2_MODEL", "RET2_MODELS"),
        ("RET2_DATADIR", "RET2_DATA_DIR"),
        ("RET2_NEXT_MODEL", "RET2_MODELS"),
        ("RET2_SOMETHING_QUITE_DIFFERENT", None),
    ],
)
def test_a_variable_that_is_no_setting_is_named_with_the_nearest(name: str, meant: str | None) -> None:
    assert unknown_variables({name: "x", "PATH": "/bin", "RET2_PORT": "8080"}, all_settings()) == {name: meant}


@pytest.mark.parametrize(
    "name",
    [
        "RET2_URL",
        "RET2_API_KEY",
        "RET2_TEST_QDRANT_URL",
        "RET2_SERVICE_HOST",
        "RET2_API_SERVICE_PORT_HTTP",
        "RET2_PORT_8080_TCP_ADDR",
        "RET2_ENCODER_PORT_8080_TCP",
        "RET2_MODELS",
    ],
)
def test_what_is_read_elsewhere_or_set_by_kubernetes_is_none_of_them(name: str) -> None:
    assert unknown_variables({name: "x"}, all_settings()) == {}
