"""The description of the API in the OpenAPI format, for programs that make clients of it.

>>> describe(Limits())["paths"]["/predict"]["post"]["operationId"]
'predict'
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from sharpzo_mlx.serving.limits import Limits

_ERRORS = {
    "400": "a parameter or the form cannot be used",
    "401": "the token is missing",
    "403": "a page of another site sent the request",
    "408": "the body did not arrive in time",
    "413": "a file, the request, or the number of files or fields is too large",
    "415": "the body is of another kind",
    "421": "the Host header is not a name of this server",
    "503": "too many images are under way; Retry-After says when to come again",
}


def describe(limits: Limits) -> dict[str, Any]:
    """Return the description of a server with these limits."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "sharpzo-mlx serve", "version": version("sharpzo-mlx")},
        "paths": {
            "/predict": {"post": _predict(limits)},
            "/classes": {"get": _get("classes", "The classes of the run.", "Classes")},
            "/health": {"get": _get("health", "Whether the server answers, and what it serves.", "Health")},
        },
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _predict(limits: Limits) -> dict[str, Any]:
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "maxItems": limits.files}
    raw = {"schema": {"type": "string", "format": "binary", "maxLength": limits.file_bytes}}
    form = {"schema": {"type": "object", "properties": {"image": files}}}
    number, rate = {"type": "integer", "minimum": 1, "default": 1}, {"type": "number"}
    return {
        "operationId": "predict",
        "summary": "Label images.",
        "description": "One image as the body, or several in a form, under any field name. Images that cannot be read "
        "have an error, and do not stop the others.",
        "parameters": [
            _parameter("top", "labels of an image", number),
            _parameter("reject", "rate of wrong rejections, above 0 and below 1", rate),
            _parameter("neighbours", "nearest labelled images, at most 20", {"type": "integer", "minimum": 0}),
        ],
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": form, "application/octet-stream": raw, "image/*": raw},
        },
        "responses": {
            "200": _response("the labels of the images, in order", "Predictions"),
            "422": _response("none of the images can be read", "Predictions"),
            **{status: _response(words, "Error") for status, words in _ERRORS.items()},
        },
    }


def _parameter(name: str, words: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": words, "schema": schema}


def _get(name: str, summary: str, schema: str) -> dict[str, Any]:
    responses = {"200": _response(summary, schema), "401": _response(_ERRORS["401"], "Error")}
    return {"operationId": name, "summary": summary, "responses": responses}


def _response(words: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": words, "content": content}


def _schemas() -> dict[str, Any]:
    text, number, whole, truth = ({"type": kind} for kind in ("string", "number", "integer", "boolean"))
    label = _object(label=text, probability=number)
    near = _object(label=text, similarity=number, image=text)
    return {
        "Error": _object(error=text),
        "Classes": _object(classes=_list(_object(label=text, folder=text)), version=whole),
        "Health": _object(
            status=text, run=text, version=whole, classes=whole, rejects=truth, labelled_images=whole, under_way=whole
        ),
        "Predictions": _object(
            predictions=_list({"$ref": "#/components/schemas/Prediction"}), notes=_list(text), version=whole
        ),
        "Prediction": _object(
            name=text, labels=_list(label), error={"type": ["string", "null"]}, rejected=truth, neighbours=_list(near)
        ),
    }


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}
