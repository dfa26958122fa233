"""Tests of who may call the server: host, origin, token, content type; and of the options that decide it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from runtime.errors import ConfigError
from runtime.server.app import create_app
from runtime.server.options import Limits, ServerOptions
from tests.runtime.server.conftest import ENGINES, LOCAL

TOKEN = "a-token-of-this-test"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def guarded(images: Path) -> Iterator[TestClient]:
    """Return a client of a server that other machines can reach, with a token."""
    options = ServerOptions(engines=ENGINES, root=images, host="0.0.0.0", token=TOKEN)
    with TestClient(create_app(options), base_url="http://lab-server:8000") as client:
        yield client


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"])
def test_names_of_the_loopback_are_accepted(client: TestClient, host: str) -> None:
    assert client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io", "", "[::"]
)
def test_other_hosts_are_rejected_on_the_loopback(client: TestClient, host: str) -> None:
    answer = client.get("/health", headers={"Host": host})
    assert (answer.status_code, answer.json()["error"]["field"]) == (403, "host")


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:3000", "http://[", "https://evil.example"]
)
def test_pages_of_other_sites_are_rejected(client: TestClient, origin: str) -> None:
    answer = client.post("/api/segment", json={"path": "part.tif"}, headers={"Origin": origin})
    assert (answer.status_code, answer.json()["error"]["field"]) == (403, "origin")


def test_own_page_may_send_requests(client: TestClient) -> None:
    answer = client.post("/api/segment", json={"path": "part.tif"}, headers={"Origin": LOCAL})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


def test_other_pages_may_link_to_the_server_but_not_embed_its_answers(client: TestClient) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert client.get("/health", headers={**foreign, "Sec-Fetch-Mode": "navigate"}).status_code == 200
    assert client.get("/health", headers={**foreign, "Sec-Fetch-Mode": "no-cors"}).status_code == 403
    assert client.get("/health").headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "multipart/form-data; boundary=a", "application/x-www-form-urlencoded", "TEXT/PLAIN"]
)
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH"])
def test_forms_of_other_pages_cannot_change_anything(client: TestClient, kind: str | None, method: str) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = client.request(method, "/api/embeddings/some", content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["error"]["kind"]) == (415, "unsupported")


def test_preflight_requests_of_other_pages_get_no_permission(client: TestClient) -> None:
    answer = client.options(
        "/api/segment", headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert answer.status_code == 403
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize(
    "header",
    [
        {},
        *(
            {"Authorization": value}
            for value in ("Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer", "Bearer ä")
        ),
        *({"Cookie": value} for value in ("cellsam-engine-8000=wrong", "a" * 100)),
    ],
)
def test_requests_without_the_token_are_rejected(guarded: TestClient, header: dict[str, str]) -> None:
    sent = {name: value.encode("latin-1") for name, value in header.items()}
    for path in ("/health", "/metrics", "/openapi.json", "/v2", "/sam/version/", "/nowhere"):
        answer = guarded.get(path, headers=sent)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"


def test_token_opens_the_server_under_any_name(guarded: TestClient) -> None:
    header = {"Authorization": f"Bearer {TOKEN}"}
    assert guarded.get("/health", headers=header).status_code == 200
    assert guarded.post("/api/segment", json={"path": "part.tif"}, headers=header).status_code == 200


def test_page_exchanges_the_token_for_a_cookie(guarded: TestClient) -> None:
    assert guarded.get("/?token=wrong", follow_redirects=False).status_code == 401
    answer = guarded.get(f"/?token={TOKEN}", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    guarded.cookies.clear()
    name, value = cookie.split(";")[0].split("=", 1)
    assert guarded.get("/health", headers={"Cookie": f"{name}={value}"}).status_code == 200


def test_token_in_the_address_of_other_routes_is_ignored(guarded: TestClient) -> None:
    guarded.cookies.clear()
    assert guarded.get(f"/health?token={TOKEN}").status_code == 401


def test_probes_of_a_cluster_need_no_token(guarded: TestClient) -> None:
    guarded.cookies.clear()
    assert guarded.get("/v2/health/live").json() == {"live": True}
    assert guarded.get("/v2/health/ready").status_code == 200
    assert guarded.get("/v2/models/nano/ready").status_code == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "lab-server"])
def test_addresses_that_others_can_reach_need_a_token(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ServerOptions(host=host)
    assert caught.value.field == "token"
    ServerOptions(host=host, token=TOKEN)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_the_loopback_needs_no_token(host: str) -> None:
    assert ServerOptions(host=host).on_loopback


@pytest.mark.parametrize(
    "given",
    [{"token": "short"}, {"token": "line\nbreak-in-it"}, {"token": "überlang-genug"}, {"port": 70000}, {"port": -1}],
)
def test_unusable_options_are_rejected(given: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ServerOptions(**given)  # type: ignore[arg-type]


def test_limits_must_be_positive() -> None:
    with pytest.raises(ConfigError):
        Limits(queue=0)


def test_websockets_are_closed(client: TestClient) -> None:
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect) as caught, client.websocket_connect("/api/events"):
        pass
    assert caught.value.code == 1008
