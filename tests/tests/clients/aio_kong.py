"""What aio-kong does with an Admin API: python aio_kong.py URL CERT KEY. Ends with 1 and a traceback where it is not as with Kong."""

import asyncio
import sys

from kong.client import Kong, KongResponseError


async def refused(status, awaitable):
    """What is refused is an error with the body as JSON."""
    try:
        await awaitable
    except KongResponseError as error:
        assert error.status == status, (status, error)
        assert isinstance(error.message["message"], (str, dict)), error.message
        return error.message
    raise AssertionError(f"not refused with {status}")


async def entities(kong):
    service = await kong.services.create(name="one", host="one.example", port=8080)
    assert (service.name, service.host, service["retries"]) == ("one", "one.example", 5)
    assert await kong.services.has("one") and not await kong.services.has("none")
    assert (await kong.services.get("one")).id == service.id
    changed = await kong.services.update("one", url="https://two.example/path")
    assert (changed.protocol, changed.host, changed["port"], changed["path"]) == ("https", "two.example", 443, "/path")
    route = await service.routes.create(name="r", paths=["/r"], methods=["GET"])
    assert [one["id"] for one in await service.routes.get_list()] == [route.id]
    assert (await kong.routes.update("r", strip_path=False))["strip_path"] is False
    await refused(409, kong.services.create(name="one", host="one.example"))
    await refused(400, kong.services.create(name="two"))
    await refused(404, kong.services.get("none"))
    assert await kong.services.delete("one") is True
    assert await kong.services.get_list() == []


async def pages(kong):
    for number in range(25):
        await kong.services.create(name=f"s{number}", host="h.example", tags=["page"])
    names = {one.name async for one in kong.services.paginate(size=10)}
    assert names == {f"s{number}" for number in range(25)}, names
    tagged = [one.name async for one in kong.services.paginate(size=10, tags="page")]
    assert len(tagged) == 25, tagged
    await kong.services.delete_all()
    assert await kong.services.get_list() == []


async def declared(kong):
    services = [{"name": "d", "host": "d.example", "routes": [{"name": "d1", "paths": "/d1"}, {"name": "d2", "hosts": ["d.example"]}]}]
    for again in (False, True):
        applied = await kong.apply_json({"services": services})
        assert [route["name"] for route in applied["services"][0]["routes"]] == ["d1", "d2"], applied
    by_url = [{"name": "d", "url": "http://other.example:81", "routes": [{"name": "d2", "paths": ["/d2"]}]}]
    applied = await kong.apply_json({"services": by_url})
    assert applied["services"][0].host == "other.example"
    assert [route.name for route in await kong.routes.get_list()] == ["d2"]
    await kong.apply_json({"services": [{"name": "d", "ensure": "absent"}]})
    assert not await kong.services.has("d")
    # Its consumers ask for groups and credentials, which are forms.
    consumer = {
        "username": "c",
        "auths": [
            {"type": "key-auth", "config": {"key": "secret"}},
            {"type": "basic-auth", "config": {"username": "u", "password": "p"}},
        ],
    }
    for again in (False, True):
        await kong.apply_json({"consumers": [dict(consumer)]})
    made = await kong.consumers.get("c")
    assert [one["key"] for one in await made.keyauths.get_list()] == ["secret"]
    assert [one["username"] for one in await made.basicauths.get_list(limit=1)] == ["u"]
    assert await made.jwts.get_list() == [] and await made.acls.get_list() == []
    assert await made.plugins.get_list() == []
    await refused(405, made.acls.create(group="g"))
    await refused(400, kong.plugins.create(name="no-such-plugin"))


async def certificates(kong, cert, key):
    made = await kong.certificates.create(cert=cert, key=key)
    assert [one["name"] for one in await made.snis.get_list()] == []
    await kong.apply_json({"snis": [{"name": "a.example", "certificate": {"id": made.id}}]})
    await kong.apply_json({"snis": [{"name": "a.example", "tags": ["t"]}]})
    assert [(one["name"], one["tags"]) for one in await made.snis.get_list()] == [("a.example", ["t"])]
    assert (await kong.certificates.get("a.example")).id == made.id


async def main(url, cert, key):
    async with Kong(url) as kong:
        await entities(kong)
        await pages(kong)
        await declared(kong)
        await certificates(kong, open(cert).read(), open(key).read())
        await kong.delete_all()
        for left in (kong.services, kong.routes, kong.consumers, kong.plugins, kong.certificates, kong.snis):
            assert await left.get_list() == [], left
    print("aio-kong: well")


asyncio.run(main(*sys.argv[1:4]))
