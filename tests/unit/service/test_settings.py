"""Settings: what does not go together is refused, what is open to strangers is refused, every bound has its description."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from indexer.blobs.image_store import BlobSettings
from indexer.encoding.http_encoder import EncoderClientSettings
from indexer.fetcher import FetchSettings
from indexer.imports.planner import ImportSettings
from indexer.settings import IndexerSettings
from indexer.store.server.settings import CollectionSettings, ServerStoreSettings
from model.errors import InvalidInput
from service.cli.flags import settings_from
from service.settings import QueueSettings, Settings, all_settings

UNITS = (
    "_values",
    "_collections",
    "_s",
    "_ms",
    "_bytes",
    "_values",
    "_px",
    "_chars",
    "_cost",
    "_depth",
    "_call",
    "_flight",
    "_streams",
    "_redirects",
    "_attempts",
    "_documents",
    "_hits",
)


def test_the_design_s_defaults() -> None:
    settings = Settings()
    assert (settings.host, settings.port, settings.models) == (
        "127.0.0.1",
        8080,
        "everyday=bundled:everyday,atlas=bundled:atlas",
    )
    assert settings.qdrant_url is settings.database_url is settings.blobs_url is settings.encoder_url is None


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RET2_PORT", "9000")
    monkeypatch.setenv("RET2_MAX_TEXT_CHARS", "10")
    assert Settings().port == 9000
    assert Settings().limits.max_text_chars == 10


# --- roles

SHARED: dict[str, Any] = {
    "encoder_url": "http://encoder:8080",
    "qdrant_url": "http://qdrant:6333",
    "database_url": "postgresql://user:secret@postgres/ret2",
    "blobs_url": "s3://ret2/blobs",
}


@pytest.mark.parametrize("role", ["api", "indexer"])
def test_a_role_that_shares_its_data_has_none_of_it_here(role: str) -> None:
    settings = Settings(role=role, **SHARED)
    assert not settings.keeps_data_here
    assert settings.ledger_url == "postgresql://user:secret@postgres/ret2"
    for name in SHARED:
        with pytest.raises(ValidationError, match=f"RET2_ROLE={role} works together.* set RET2_{name.upper()}"):
            Settings(role=role, **{**SHARED, name: None})


def test_one_process_may_have_some_of_its_data_elsewhere() -> None:
    assert Settings().keeps_data_here
    assert Settings(**{**SHARED, "qdrant_url": None}).keeps_data_here
    assert not Settings(**SHARED).keeps_data_here
    assert Settings(**SHARED).indexer.poll_s < Settings().indexer.poll_s, "nobody wakes it when another process accepts"


@pytest.mark.parametrize("url", ["http://user:secret@elsewhere", "sqlite:////secret", "mysql://user:secret@db/x"])
def test_a_database_other_than_postgresql_is_refused_without_its_password(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RET2_DATABASE_URL", url)
    with pytest.raises(InvalidInput, match="RET2_DATABASE_URL must begin with postgresql://") as refused:
        settings_from({})
    assert "secret" not in refused.value.detail
    assert "secret" not in repr(Settings(**SHARED))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_open_to_strangers_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RET2_HOST", host)
    with pytest.raises(ValidationError, match="RET2_API_KEYS_FILE"):
        Settings()
    monkeypatch.setenv("RET2_INSECURE", "true")
    assert Settings().host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_is_no_stranger(host: str) -> None:
    assert Settings(host=host).host == host


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_body_bytes", 0),
        ("grace_s", -1),
        ("port", 70_000),
        ("device", "tpu"),
        ("log_level", "loud"),
        ("cors_origins", "a.example"),
        ("qdrant_url", "qdrant:6333"),
        ("qdrant_url", "https://user:secret@qdrant"),
        ("qdrant_timeout_s", 0),
        ("qdrant_quantization", "ternary"),
        ("qdrant_oversampling", 0.5),
        ("qdrant_write_consistency_factor", 2),
    ],
)
def test_bounds_are_bounded(name: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Settings(**{name: value})  # type: ignore[arg-type]


def test_an_unset_setting_is_as_its_part_declares_it() -> None:
    settings = Settings()
    assert settings.indexer == IndexerSettings()
    assert settings.fetch == FetchSettings()
    assert settings.blobs == BlobSettings(settings.blobs.url)
    assert settings.queue(2_048) == QueueSettings()
    assert settings.encoder_client("http://e") == EncoderClientSettings("http://e")
    assert settings.imports == ImportSettings()


def test_a_part_s_setting_is_a_variable_and_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RET2_INDEX_MAX_ATTEMPTS", "3")
    assert settings_from({"fetch_timeout_s": 2.5}).fetch.timeout_s == 2.5
    assert settings_from({}).indexer.max_attempts == 3
    with pytest.raises(InvalidInput, match=r"RET2_INDEX_BATCH_DOCUMENTS: .*less than or equal to 256"):
        settings_from({"index_batch_documents": 257})
    assert next(iter(all_settings())) == "role"
    assert "sweep_grace_s" in all_settings()


def test_every_setting_says_what_it_is() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        if name.startswith("max_"):
            assert name.endswith(UNITS), f"{name} has no unit"


@pytest.mark.parametrize(
    ("whole", "part"), [("max_answers_bytes", "max_answer_bytes"), ("max_held_hits", "max_search_hits")]
)
def test_one_answer_fits_into_what_all_may_hold(whole: str, part: str) -> None:
    Settings(**{whole: 5, part: 5})  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=f"RET2_{whole.upper()} is 4, but one answer may have 5"):
        Settings(**{whole: 4, part: 5})  # type: ignore[arg-type]


def test_one_key_leaves_half_of_everything_to_others(tmp_path: Path) -> None:
    quotas = Settings(
        api_keys_file=tmp_path / "keys", max_requests_in_flight=8, max_event_streams=6, max_document_streams=1
    ).quotas
    assert (quotas.in_flight, quotas.event_streams, quotas.document_streams) == (4, 3, 1)
    assert Settings(api_keys_file=tmp_path / "keys", key_requests_in_flight=7).quotas.in_flight == 7
    assert Settings().quotas.in_flight is None


def test_bounds_reach_those_who_keep_them() -> None:
    settings = Settings(max_search_queue_cost=5, batch_wait_share=0.5, max_image_bytes=7, index_max_attempts=3)
    assert settings.queue(64).max_search_cost == 5
    assert settings.queue(64).max_batch_cost == 64
    assert Settings(max_batch_cost=32).queue(64).max_batch_cost == 32
    assert settings.queue(64).wait_share == 0.5
    assert settings.fetch.max_bytes == settings.limits.max_image_bytes == 7
    assert settings.indexer.max_attempts == 3


def test_qdrant_is_reached_and_its_collections_made_as_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RET2_QDRANT_URL", "https://qdrant.example:6333")
    monkeypatch.setenv("RET2_QDRANT_API_KEY", "secret")
    settings = Settings(
        qdrant_prefer_grpc=False,
        qdrant_grpc_port=7,
        qdrant_timeout_s=3,
        qdrant_prefix="a-",
        qdrant_shards=6,
        qdrant_replication_factor=3,
        qdrant_write_consistency_factor=2,
        qdrant_vectors_on_disk=True,
        qdrant_payload_on_disk=False,
        qdrant_quantization="scalar",
        qdrant_quantized_in_memory=False,
        qdrant_oversampling=3,
        qdrant_hnsw_m=32,
        qdrant_hnsw_ef_construct=200,
        qdrant_hnsw_ef=99,
        qdrant_indexing_threshold_kb=5_000,
    )
    made = CollectionSettings(6, 3, 2, True, False, "scalar", False, 3.0, 32, 200, 99, 5_000)
    wanted = ServerStoreSettings(
        "https://qdrant.example:6333",
        "secret",
        prefer_grpc=False,
        grpc_port=7,
        timeout_s=3,
        collection_prefix="a-",
        collection=made,
    )
    assert settings.qdrant(str(settings.qdrant_url)) == wanted
    assert "secret" not in repr(settings)


def test_a_qdrant_cluster_has_several_addresses() -> None:
    settings = Settings(qdrant_url="http://a:6333, http://b:6333")
    assert settings.qdrant(str(settings.qdrant_url)).urls == ("http://a:6333", "http://b:6333")
    with pytest.raises(ValidationError, match="has a path, which gRPC cannot use"):
        Settings(qdrant_url="http://a:6333,http://b:6333/path")
    with pytest.raises(ValidationError):
        Settings(qdrant_url="http://a:6333,b:6333")


def test_unset_qdrant_settings_are_the_store_s_own() -> None:
    assert Settings().qdrant("http://q") == ServerStoreSettings("http://q")


def test_one_body_fits_into_what_all_may_hold() -> None:
    with pytest.raises(ValidationError, match="RET2_MAX_BODIES_BYTES is 1000000, but one body may have 67108864"):
        Settings(max_bodies_bytes=1_000_000)


def test_the_metrics_have_another_port_or_none() -> None:
    assert Settings(port=0, metrics_port=0).metrics_port == 0
    with pytest.raises(ValidationError, match="RET2_METRICS_PORT is 8080, as is RET2_PORT"):
        Settings(metrics_port=8080)


def test_the_settings_of_a_part_are_built_once() -> None:
    """Each request reads several of them."""
    settings = Settings()
    assert settings.http is settings.http
    assert settings.search is settings.search
    assert settings.limits is settings.limits
    assert settings.list_limits is settings.list_limits
    assert settings.list_limits["searches"] == settings.http.max_searches_per_call
