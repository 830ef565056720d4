"""The description of the API, and whether an answer is as it says."""

import json
import re
from importlib import resources

from jsonschema import Draft202012Validator

DOCUMENT = json.loads(resources.files("flowagent.web").joinpath("openapi.json").read_text("utf-8"))
ANY_TIME = {"401", "403", "404", "405", "500"}
"""Below /api/ these need not be described for each path; they come with an error object."""
ERROR = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}


def resolved(node):
    """What a reference leads to, however often; anything else is itself."""
    while isinstance(node, dict) and "$ref" in node:
        parts = node["$ref"].removeprefix("#/").split("/")
        node = DOCUMENT
        for part in parts:
            node = node[part]
    return node


def operations():
    """(path, method): operation, its parameters those of the path, too."""
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                parameters = [resolved(p) for p in (*item.get("parameters", []), *operation.get("parameters", []))]
                yield (path, method.upper()), {**operation, "parameters": parameters}


def conforms(schema, value):
    """Raise ValidationError where a value does not match a schema of the document."""
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)


def check(method, path, status, content_type, value):
    """Whether an answer is described; `value` is the plain data where it is JSON."""
    responses = _responses("GET" if method == "HEAD" else method, path)
    response = resolved(responses.get(str(status), ERROR if str(status) in ANY_TIME else None))
    assert response is not None, f"{status} of {method} {path} is not described"
    kind = (content_type or "").split(";")[0]
    content = response.get("content", {})
    assert kind in (content or [""]), f"{kind or 'no content'} is not described"
    schema = content.get(kind, {}).get("schema")
    if schema is not None and method != "HEAD":
        conforms(schema, value)


def _responses(method, path):
    """Of the first path that fits; those with fewer parameters come first."""
    for (template, its_method), operation in sorted(operations(), key=lambda entry: entry[0][0].count("{")):
        if its_method == method and re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path):
            return operation["responses"]
    return {}
