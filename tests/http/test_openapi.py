"""GET /openapi.json agrees with itself and with the routes."""

import re


def document(client):
    response = client.get("/openapi.json")
    assert response.status_code == 200
    return response.get_json()


def references(value):
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_every_reference_leads_somewhere(client):
    doc = document(client)
    found = set(references(doc))
    assert found
    for reference in found:
        assert reference.startswith("#/")
        place = doc
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
        assert isinstance(place, dict)


def test_it_describes_exactly_the_routes_there_are(service):
    routes = set()
    for rule in service.app.url_map.iter_rules():
        if rule.endpoint.startswith(("pages.", "signing.")) or rule.endpoint.endswith((".page", ".one_page")):  # for people, not for programs
            continue
        path = re.sub(r"<(?:path:)?name>", "{model}", rule.rule).replace("<int:number>", "{number}").replace("<path:file>", "{file}")
        routes |= {(path, method.lower()) for method in rule.methods - {"HEAD", "OPTIONS"}}
    doc = document(service.client)
    assert {(path, method) for path, item in doc["paths"].items() for method in item} == routes


def test_every_operation_has_a_name_of_its_own_and_answers(client):
    doc = document(client)
    assert doc["openapi"].startswith("3.1.")
    assert doc["info"]["title"] and doc["info"]["version"]
    operations = [op for item in doc["paths"].values() for op in item.values()]
    assert len({op["operationId"] for op in operations}) == len(operations)
    for operation in operations:
        assert "200" in operation["responses"]
        assert all("description" in r or "$ref" in r for r in operation["responses"].values())


def test_limits_are_those_that_are_checked(client, check_error, hello):
    fields = document(client)["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    for name in ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repeat_penalty"):
        limits = fields[name]["anyOf"][0]
        for value in (limits["minimum"], limits["maximum"]):
            assert client.post("/v1/chat/completions", json=hello | {name: value, "max_tokens": 1}).status_code == 200
        response = client.post("/v1/chat/completions", json=hello | {name: limits["maximum"] + 1})
        check_error(response, 400, "invalid_request", name)


def test_keys_are_described_where_they_are_needed(make_service, client):
    assert document(client)["security"] == []
    with_keys = make_service(api_key=("k",)).client.get("/openapi.json", headers={"x-api-key": "k"}).get_json()
    assert with_keys["security"] == [{"bearer": []}, {"x_api_key": []}]
    assert with_keys["paths"]["/health"]["get"]["security"] == []


def test_the_error_object_has_all_four_fields(client):
    error = document(client)["components"]["schemas"]["Error"]["properties"]["error"]
    assert set(error["required"]) == set(error["properties"]) == {"message", "type", "param", "code"}
