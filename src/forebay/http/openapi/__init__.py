"""OpenAPI 3.1: the document of an application, and a page that shows it and tries requests.

::

    app = App("shop", openapi=OpenAPI("Shop", "1.4.0"))     # /openapi.json and /docs
    document = app.openapi_document()

The document is made of what was compiled of the routes: parameters, bodies and their constraints from the signatures,
of dependencies as well; answers from return annotations, the option ``responses``, and what the framework and the
middleware answer by themselves.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from forebay.http.openapi.settings import OpenAPI

if TYPE_CHECKING:
    from forebay.http.openapi.document import build_document
    from forebay.http.openapi.page import install

__all__ = ["OpenAPI", "build_document", "install"]

_HOMES = {"build_document": "forebay.http.openapi.document", "install": "forebay.http.openapi.page"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'forebay.http.openapi' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)  # these need App, which needs the settings
