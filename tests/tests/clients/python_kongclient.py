"""What python-kongclient does with an Admin API: python python_kongclient.py URL CERT KEY. Ends with 1 and a traceback where it is not as with Kong."""

import sys

from kongclient import KongClient
from kongclient.exceptions import APIException


def refused(status, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except APIException as error:
        assert error.http_status == status, (status, error.http_status, error)
        return
    raise AssertionError(f"not refused with {status}")


def main(url, cert, key):
    kong = KongClient(url)
    info = kong.info.get_node_info()
    assert info["version"].split(".")[0] == "3" and info["configuration"]["database"] == "postgres", info
    assert kong.info.get_node_status()["database"]["reachable"] is True

    service = kong.services.create(name="s", url="http://s.example:81/x", tags=["t", "u"])
    assert (service["host"], service["port"], service["path"]) == ("s.example", 81, "/x"), service
    assert kong.services.update("s", retries=1, client_certificate=None)["retries"] == 1
    route = kong.services.add_route("s", "r", ["r.example"], paths=["/r"])
    assert route["service"]["id"] == service["id"] and route["preserve_host"] is True, route
    assert kong.services.get_route("s", "r") == route == kong.routes.get("r")
    assert kong.routes.get_service("r")["id"] == service["id"]
    assert kong.services.update_by_route("r", retries=2)["retries"] == 2
    assert kong.routes.update("r", hosts=["q.example"])["hosts"] == ["q.example"]
    assert [one["name"] for one in kong.services.list_routes("s")] == ["r"]
    assert [one["name"] for one in kong.services.list(tags="t,u")] == ["s"] and kong.services.list(tags="v") == []
    assert {row["entity_name"] for row in kong.tags.get("t")} == {"services"}
    assert len(kong.tags.list()) == 3
    refused(400, kong.services.delete, "s")
    # The reference refuses it as well: it has been 405 since 2.0.
    refused(405, kong.services.delete_by_route, "r")

    upstream = kong.upstreams.create(name="u", healthchecks={"active": {"healthy": {"interval": 5}}}, tags=["t"])
    assert upstream["healthchecks"]["active"]["healthy"]["interval"] == 5, upstream
    assert kong.upstreams.update("u", algorithm="least-connections")["algorithm"] == "least-connections"
    target = kong.upstreams.add_target("u", "10.0.0.1:80", weight=10)
    assert (target["target"], target["weight"]) == ("10.0.0.1:80", 10), target
    refused(409, kong.upstreams.add_target, "u", "10.0.0.1:80")
    assert kong.upstreams.list_targets("u") == kong.upstreams.list_all_targets("u") == [target]
    assert kong.upstreams.get_upstream_health("u")["data"][0]["id"] == target["id"]
    assert kong.targets.delete_target_by_upstream("u", "10.0.0.1:80") is None
    refused(404, kong.targets.delete_target_by_upstream, "u", "10.0.0.1:80")
    # Nowhere since Kong 2.0, as it asks for these.
    refused(404, kong.targets.get_upstream, target["id"])
    refused(404, kong.upstreams.delete_by_target, target["id"])

    consumer = kong.consumers.create("c", custom_id="1")
    assert kong.consumers.get("c") == consumer and kong.consumers.list_plugins("c") == []
    assert kong.consumers.update("c", custom_id="2")["custom_id"] == "2"
    assert kong.plugins.list() == []
    kong.plugins.get_enabled_plugins()

    made = kong.certificates.create(cert, key, snis=["a.example"])
    assert kong.certificates.list_snis(made["id"])[0]["name"] == "a.example"
    sni = kong.certificates.add_sni(made["id"], "b.example")
    assert kong.certificates.get(made["id"])["snis"] == ["a.example", "b.example"]
    assert kong.snis.get("b.example") == sni
    assert kong.snis.update("b.example", tags=["t"])["tags"] == ["t"]

    for delete, name in (
        (kong.snis.delete, "b.example"),
        (kong.certificates.delete, made["id"]),
        (kong.consumers.delete, "c"),
        (kong.upstreams.delete, "u"),
        (kong.routes.delete, "r"),
        (kong.services.delete, "s"),
    ):
        assert delete(name) is None
    refused(404, kong.services.get, "s")
    print("python-kongclient: well")


main(sys.argv[1], open(sys.argv[2]).read(), open(sys.argv[3]).read())
