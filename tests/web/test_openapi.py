"""The description of the API holds together: references, schemas and examples."""

import json
import re

from jsonschema import Draft202012Validator
from web import described


def nodes(node):
    """All objects and lists within."""
    yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(inner)


def test_references_in_the_description_lead_somewhere():
    references = [node["$ref"] for node in nodes(described.DOCUMENT) if isinstance(node, dict) and "$ref" in node]
    assert references
    for reference in references:
        assert reference.startswith("#/components/")
        assert described.resolved({"$ref": reference})


def test_everything_that_the_description_defines_is_used():
    text = json.dumps(described.DOCUMENT)
    for group in ("schemas", "responses", "parameters"):
        for name in described.DOCUMENT["components"][group]:
            assert f'"#/components/{group}/{name}"' in text, name


def test_the_description_is_an_openapi_document():
    assert described.DOCUMENT["openapi"].startswith("3.1.")
    assert described.DOCUMENT["info"].keys() >= {"title", "version"}
    ids = []
    for (path, _), operation in described.operations():
        ids.append(operation["operationId"])
        parameters = {(p["in"], p["name"]) for p in operation["parameters"]}
        assert len(parameters) == len(operation["parameters"])
        assert all(p["schema"] and (p["in"] != "path" or p["required"]) for p in operation["parameters"])
        assert {name for place, name in parameters if place == "path"} == set(re.findall(r"{(\w+)}", path))
        for status, response in operation["responses"].items():
            assert re.fullmatch("[2-5][0-9]{2}", status)
            assert described.resolved(response)["description"]
    assert len(set(ids)) == len(ids)


def test_schemas_are_schemas_and_examples_match_them():
    for node in nodes(described.DOCUMENT):
        if isinstance(node, dict) and isinstance(node.get("schema"), dict):
            Draft202012Validator.check_schema(node["schema"])
            if "example" in node:
                described.conforms(node["schema"], node["example"])
    for schema in described.DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
