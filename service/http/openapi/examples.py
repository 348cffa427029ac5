"""Examples of every schema and parameter of the OpenAPI file. Those of requests are sent by a test, about a collection `flags`."""

from typing import Any

_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAMAAAACCAIAAAASFvFNAAAAFklEQVR42mNgCF3y////946mTAwwAABPTwVepQY8gAAAAABJRU5ErkJggg=="
_URI = f"data:image/png;base64,{_PNG}"
_EUROPE = {"field": "region", "equals": "Europe"}
_FILTERS: list[Any] = [
    _EUROPE,
    {"all": [{"field": "area_km2", "gte": 1000, "lt": 600000}, {"not": {"field": "region", "in": ["Africa", "Asia"]}}]},
    {
        "any": [
            {"field": "capital", "geo_radius": {"lat": 48.86, "lon": 2.35, "radius_m": 50000}},
            {
                "field": "capital",
                "geo_box": {"top_left": {"lat": 55, "lon": 5}, "bottom_right": {"lat": 47, "lon": 15}},
            },
            {"field": "adopted", "lt": "1949-05-23T00:00:00Z"},
            {"field": "caption", "match": "red gold"},
        ]
    },
    {"at_least": 1, "of": [{"field": "region", "exists": True}, {"field": "note", "empty": False}]},
    {"field": "bands", "nested": {"field": "colour", "equals": "gold"}},
]
_JOB_ID = "01JZ8Q4N6Y3W"

_TIMINGS = {"decode_ms": 1.2, "queue_ms": 0.1, "encode_ms": 14.8, "store_ms": 0.9, "total_ms": 17.1}
_LAYERS = {"layers": [{"layer": 0, "text": 0.62, "image": 0.38}, {"layer": 1, "text": 0.0, "image": 0.0}]}
_EXPLANATION = {
    "document": _LAYERS,
    "query": _LAYERS,
    "similarity": 0.83,
    "without_text": 0.31,
    "without_image": 0.44,
    "lexical": {"score": 7.4, "share": 0.5},
}
_HIT = {
    "id": "flag:fr/borders",
    "score": 0.83,
    "text": "France borders Belgium, Spain and others.",
    "image_url": "/collections/flags/documents/flag%3Afr%2Fborders/image?v=9f86d081884c7d65",
    "metadata": {"region": "Europe", "area_km2": 551695},
}
_ERROR = {"code": "invalid_input", "detail": "neither text nor image: at least one is needed"}
_JOB = {
    "id": _JOB_ID,
    "collection": "flags",
    "kind": "documents",
    "state": "running",
    "accepted": 2,
    "indexed": 1,
    "skipped": 0,
    "failed": 0,
    "cancelled": 0,
    "retry_of": None,
    "created_at": 1760000000.0,
    "updated_at": 1760000001.5,
    "waiting_on": None,
}
_PROGRESS = {
    "uri": "s3://pictures/flags.parquet",
    "format": "parquet",
    "planned": True,
    "unread": 120,
    "left_out": {"field 'thumb': bytes that are not the image of the document": 64},
    "documents_per_s": 41.5,
    "remaining_s": 2.9,
}
_IMPORT = {**_JOB, "kind": "import", "progress": _PROGRESS}
_REJECTED = {"position": 3, "id": "flag:xx/area", **_ERROR}
_COLLECTION = {
    "name": "flags",
    "documents": 2,
    "pending": 0,
    "failed": 1,
    "size_bytes": 81920,
    "indexes": {"region": "keyword", "area_km2": "number"},
    "aliases": ["nations"],
    "limit": 10,
    "language": "english",
    "latents": False,
    "error": None,
    "generation": 0,
    "model": "ret2-atlas",
    "fingerprint": "3f2c9a",
    "dimensions": 256,
    "instruction": None,
    "created_at": 1760000000.0,
    "compatible": True,
}
_MODEL = {
    "id": "ret2-atlas",
    "object": "model",
    "created": 0,
    "owned_by": "ret2",
    "dimensions": 256,
    "fingerprint": "3f2c9a",
}
_OPENAI_ERROR = {"message": "no valid API key", "type": "authentication_error", "param": None, "code": "unauthorized"}
_EMBEDDING = {"object": "embedding", "index": 0, "embedding": [0.6, 0.8]}
_PARTS = [
    {"type": "text", "text": "Which countries lie next to this country?"},
    {"type": "image_url", "image_url": _URI},
]

DOCUMENTS: list[Any] = [
    {
        "id": "flag:fr/borders",
        "text": "France borders Belgium, Spain and others.",
        "image": {"base64": _PNG},
        "metadata": {"region": "Europe", "area_km2": 551695},
    },
    {"id": "flag:ke/currency", "text": "In Kenya people pay with the shilling.", "metadata": {"region": "Africa"}},
]

PARAMETERS: dict[str, Any] = {
    "name": "flags",
    "id": "flag:fr/borders",
    "wait": True,
    "idempotency-key": "load-2025-10-09",
    "with_vector": False,
    "v": "9f86d081884c7d65",
    "collection": "flags",
    "state": ["queued", "running"],
    "limit": 50,
    "offset": 0,
    "model": "ret2-atlas",
    "/aliases/{name}.name": "nations",
    "/jobs/{id}.id": _JOB_ID,
    "/jobs/{id}/failures.id": _JOB_ID,
    "/jobs/{id}/cancel.id": _JOB_ID,
    "/jobs/{id}/retry.id": _JOB_ID,
    "/jobs/{id}/events.id": _JOB_ID,
}

_GENERATION = {"generation": 1, "model": "ret2-atlas", "fingerprint": "3f2c9a", "dimensions": 256}

SCHEMAS: dict[str, list[Any]] = {
    "AcceptedOut": [
        {
            "job": _JOB,
            "rejected": [_REJECTED],
            "rejected_count": 1,
            "results": [{"id": "flag:fr/borders", "status": "indexed"}],
        }
    ],
    "AliasIn": [{"collection": "flags"}],
    "AliasOut": [{"alias": "nations", "collection": "flags"}],
    "AliasesOut": [{"aliases": [{"alias": "nations", "collection": "flags"}]}],
    "CollectionIn": [
        {
            "instruction": "Find the passage that answers the question.",
            "limit": 20,
            "indexes": {"region": "keyword", "area_km2": "number"},
            "language": "simple",
        }
    ],
    "CollectionOut": [_COLLECTION],
    "CollectionsOut": [{"collections": [_COLLECTION]}],
    "DeleteIn": [{"ids": ["flag:fr/borders", "flag:ke/currency"]}, {"filter": _EUROPE}],
    "DeletedOut": [{"job": {**_JOB, "kind": "delete"}}],
    "DocumentIn": DOCUMENTS,
    "DocumentOut": [{key: value for key, value in _HIT.items() if key != "score"} | {"vector": [0.6, 0.8]}],
    "EmbeddingDatum": [_EMBEDDING],
    "EmbeddingOut": [{"embedding": [0.6, 0.8], "dropped_tokens": 12}],
    "EmbeddingsIn": [
        {"model": "ret2-atlas", "input": "In Kenya people pay with the shilling."},
        {"input": ["one text", "another text"], "encoding_format": "base64", "user": "somebody"},
        {"input": [_PARTS], "input_type": "query", "dimensions": None},
    ],
    "EmbeddingsOut": [
        {
            "object": "list",
            "model": "ret2-atlas",
            "data": [_EMBEDDING],
            "usage": {"prompt_tokens": 11, "total_tokens": 11},
        }
    ],
    "EncodeErrorOut": [{"error": _ERROR}],
    "EncodeIn": [
        {
            "role": "query",
            "inputs": [{"text": "Which countries lie next to this country?", "image": {"base64": _PNG}}],
        },
        {"role": "document", "lane": "bulk", "inputs": [{"text": "France borders Belgium."}, {"image": _URI}]},
    ],
    "EncodeOut": [{"model": "ret2-atlas", "dimensions": 2, "results": [{"embedding": [0.6, 0.8]}, {"error": _ERROR}]}],
    "ErrorOut": [_ERROR],
    "ExampleIn": [{"text": "tricolours", "image": {"base64": _PNG}}],
    "ExplanationOut": [_EXPLANATION],
    "Filter": _FILTERS,
    "FailureOut": [{"position": 7, "id": "flag:xx/area", **_ERROR, "file": "s3://pictures/flags.parquet"}],
    "FailuresOut": [{"failures": [{"position": 7, "id": "flag:xx/area", **_ERROR}]}],
    "GroupOut": [{"value": "Europe", "hits": [_HIT]}],
    "HitOut": [{**_HIT, "vector": [0.6, 0.8], "explanation": _EXPLANATION}],
    "ImageBase64": [{"base64": _PNG}],
    "ImagePart": [{"type": "image_url", "image_url": {"url": _URI}}],
    "ImageUrl": [{"url": "https://example.org/flag.png"}],
    "InfoOut": [
        {
            "version": "0.1.0",
            "model": {
                "name": "ret2-atlas",
                "fingerprint": "3f2c9a",
                "dimensions": 256,
                "max_text_tokens": 128,
                "image_size_px": 224,
                "latents": 1,
                "commit": None,
            },
            "limits": {"max_image_bytes": 20971520},
        }
    ],
    "InputIn": [{"text": "Which countries lie next to this country?", "image": {"base64": _PNG}}],
    "ImportIn": [
        {
            "uri": "s3://pictures/flags.parquet",
            "format": "parquet",
            "mapping": {"text": "caption", "image": "picture", "id": "key", "metadata": ["region"]},
            "image_root": None,
        }
    ],
    "ImportingOut": [{"job": _IMPORT}],
    "ProgressOut": [_PROGRESS],
    "RetriedOut": [{"job": {**_JOB, "retry_of": "01JZ8Q4N6Y2A"}}],
    "JobOut": [_IMPORT],
    "JobState": ["running"],
    "JobKind": ["documents"],
    "Status": ["indexed"],
    "JobsOut": [{"jobs": [_JOB]}],
    "LayerOut": [{"layer": 0, "text": 0.62, "image": 0.38}],
    "LexicalOut": [{"score": 7.4, "share": 0.5}],
    "LiveOut": [{"alive": True, "parts": {"encoder": True, "fetcher": True, "worker": True}}],
    "ModelOut": [
        {
            "name": "ret2-atlas",
            "fingerprint": "3f2c9a",
            "dimensions": 256,
            "max_text_tokens": 128,
            "image_size_px": 224,
            "latents": 1,
            "commit": None,
        }
    ],
    "OpenAiError": [_OPENAI_ERROR],
    "OpenAiModelOut": [_MODEL],
    "OpenAiModelsOut": [{"object": "list", "data": [_MODEL]}],
    "PartUrl": [{"url": _URI, "detail": "auto"}],
    "Problem": [
        {
            "type": "about:blank",
            "title": "Bad Request",
            "status": 400,
            "detail": "image has 120000000 px, limit is 50000000",
            "code": "too_large",
            "request_id": "5f0c",
            "errors": [{"field": "image", "value": 120000000, "limit": 50000000}],
        },
        {
            "type": "about:blank",
            "title": "Unauthorized",
            "status": 401,
            "detail": "no valid API key",
            "code": "unauthorized",
            "request_id": "5f0d",
            "error": _OPENAI_ERROR,
        },
    ],
    "QueryIn": [
        {"text": "Which countries lie next to this country?", "image": {"base64": _PNG}, "instruction": "Answer:"},
        {"document_id": "flag:fr/borders", "positive": [{"text": "rivers"}], "negative": ["flag:ke/currency"]},
    ],
    "ReadyOut": [{"ready": True, "checks": {"encoder": "ok", "store": "ok", "ledger": "ok"}}],
    "FieldType": ["keyword"],
    "GenerationOut": [_GENERATION],
    "ReindexIn": [{"model": "ret2-atlas-2", "max_failures": 10}],
    "ReindexOut": [
        {
            "collection": "flags",
            "state": "kept",
            "serving": {**_GENERATION, "generation": 2, "model": "ret2-atlas-2", "fingerprint": "77aa01"},
            "other": _GENERATION,
            "until": 1760003600.0,
            "job": _JOB_ID,
        }
    ],
    "ReindexingOut": [{"job": {**_JOB, "kind": "reindex"}}],
    "RejectedOut": [_REJECTED],
    "RerankIn": [{"oversampling": 4.0}],
    "RrfIn": [{"method": "rrf", "k": 60}],
    "WeightedIn": [{"method": "weighted", "weight": 0.3}],
    "ResultOut": [
        {"id": "flag:fr/borders", "status": "indexed"},
        {"id": "flag:xx/area", "status": "failed", "error": _ERROR},
    ],
    "SearchBatchIn": [
        {
            "searches": [
                {"collection": "flags", "query": {"text": "shilling"}},
                {"collection": "flags", "query": {"image": {"base64": _PNG}}, "limit": 3},
            ]
        }
    ],
    "SearchBatchOut": [{"results": [{"hits": [_HIT], "timings": _TIMINGS}, {"error": _ERROR}]}],
    "SearchErrorOut": [{"error": _ERROR}],
    "SearchIn": [
        {"collection": "flags", "query": {"text": "Which money do people use in Kenya?"}, "limit": 5},
        {
            "collection": "flags",
            "query": {"text": "Which countries lie next to this country?", "image": {"base64": _PNG}},
            "filter": _EUROPE,
            "score_threshold": 0.1,
            "explain": True,
            "timeout_s": 5.0,
        },
        {
            "collection": "flags",
            "query": {"document_id": "flag:fr/borders"},
            "offset": 1,
            "metadata_fields": ["region"],
            "with_vector": True,
            "consistency": "majority",
        },
        {"collection": "flags", "query": {"text": "borders"}, "group_by": "region", "group_size": 2},
        {
            "collection": "flags",
            "query": {"text": "shilling"},
            "mode": "hybrid",
            "fusion": {"method": "rrf", "k": 60},
            "rerank": False,
        },
        {
            "collection": "flags",
            "query": {"text": "shilling", "instruction": "Answer:"},
            "mode": "hybrid",
            "fusion": {"method": "weighted", "weight": 0.3},
        },
        {"collection": "flags", "query": {"text": "shilling"}, "mode": "lexical"},
    ],
    "SearchOut": [
        {"hits": [_HIT], "cursor": "eyJvIjoxMH0", "timings": _TIMINGS},
        {"hits": [], "groups": [{"value": "Europe", "hits": [_HIT]}], "timings": _TIMINGS},
    ],
    "SharesOut": [_LAYERS],
    "TextPart": [{"type": "text", "text": "Which countries lie next to this country?"}],
    "TimingsOut": [_TIMINGS],
    "Usage": [{"prompt_tokens": 11, "total_tokens": 11}],
}
