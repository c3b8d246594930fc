"""GET endpoints, unknown URLs and the API key."""

from importlib.metadata import version
from typing import Any

import pytest

HI = [{"role": "user", "content": "Hi"}]


async def test_models_lists_the_served_name(start_ready: Any) -> None:
    frontend = await start_ready()
    (model,) = (await frontend.get("/v1/models")).json()["data"]
    assert isinstance(model.pop("created"), int)
    assert model == {
        "id": "demo",
        "object": "model",
        "owned_by": "tokenreel",
        "max_model_len": 2048,
    }
    assert (await frontend.get("/v1/models/demo")).json()["id"] == "demo"


async def test_an_unknown_model_is_not_found(frontend: Any) -> None:
    response = await frontend.get("/v1/models/some/other")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


async def test_version(frontend: Any) -> None:
    assert (await frontend.get("/version")).json() == {"version": version("tokenreel")}


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v2/completions", "/v1/completions/", "/v1/embeddings"]
)
async def test_an_unknown_url_is_not_found(frontend: Any, path: str) -> None:
    for response in (await frontend.get(path), await frontend.post(path, {})):
        assert response.status_code == 404
        assert response.json()["error"] == {
            "message": f"there is no {path} here",
            "type": "invalid_request_error",
            "param": None,
            "code": "unknown_url",
        }


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/completions"), ("POST", "/health"), ("POST", "/v1/models")]
)
async def test_a_wrong_method_is_told_the_right_one(frontend: Any, method: str, path: str) -> None:
    call = frontend.get if method == "GET" else frontend.post
    response = await call(path) if method == "GET" else await call(path, {})
    assert response.status_code == 405
    assert response.json()["error"]["code"] == "method_not_allowed"
    assert set(response.headers["allow"].split(", ")) == (
        {"POST"} if method == "GET" else {"GET", "HEAD"}
    )


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Basic secret", "secret"])
async def test_without_the_key_nobody_is_served(start_ready: Any, header: str | None) -> None:
    frontend = await start_ready(api_key="secret")
    headers = {} if header is None else {"Authorization": header}
    responses = [
        await frontend.get("/v1/models", headers=headers),
        await frontend.get("/v1/nothing", headers=headers),
        await frontend.post("/v1/chat/completions", {"messages": HI}, headers=headers),
    ]
    for response in responses:
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"
    assert frontend.engine.submitted.empty()


async def test_with_the_key_all_works_and_health_needs_none(start_ready: Any) -> None:
    frontend = await start_ready(api_key="s\u00e9cret")
    headers = {"Authorization": "Bearer s\u00e9cret".encode()}
    response = await frontend.post("/v1/chat/completions", {"messages": HI}, headers=headers)
    assert response.status_code == 200
    assert (await frontend.get("/health")).status_code == 200
    assert (await frontend.get("/version")).status_code == 200
