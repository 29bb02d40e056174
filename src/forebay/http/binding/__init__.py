"""From a handler's signature to its arguments, compiled once, when the handler is registered.

Where a parameter comes from:

==========================================================  ==========================================================
parameter                                                   value
==========================================================  ==========================================================
named in the route's pattern                                that part of the path
annotated ``Request``, ``App``, or the class of the app's   the request, the application, its state
``state``
``Annotated[T, Depends(f)]``                                what ``f`` gives: :mod:`forebay.http.binding.dependencies`
``Annotated[T, Header()]``, ``Cookie()``, ``Query()``       the header, cookie or query field of that name; an
                                                            underscore in a header's name stands for a hyphen
annotated with a record, ``dict`` or ``list[record]``,      the content, from JSON or MessagePack
or ``Annotated[T, Body()]``
``Annotated[record, Query()]``, ``Header()``, ``Cookie()``  all of the record's fields, from there
``Annotated[T, Form()]``                                    the whole form for a record, else its field of that name
``UploadFile``, ``list[UploadFile]``                        the files of that form field
``FormData``                                                the whole form as it is
annotated ``bytes``                                         the content as it is
anything else that text can become                          the query field of that name; ``list[...]`` takes them all
==========================================================  ==========================================================

A *record* is a msgspec Struct, a dataclass, a TypedDict, or a pydantic model.

What is not there gives the default, or None where the annotation allows it. Of a field that is there twice, the first
counts. Numbers are finite, and integers have at most 64 bits. Constraints are said by ``Annotated[int, Meta(ge=1)]``
(msgspec). Whatever does not fit is listed in one 422, every field with its place.
"""

from forebay.http.binding.blocking import blocking
from forebay.http.binding.markers import Body, Cookie, Depends, Form, Header, Path, Query
from forebay.http.binding.plan import Binding, compile_binding
from forebay.http.binding.signature import Signature, is_coroutine_function, place_of

__all__ = [
    "Binding",
    "Body",
    "Cookie",
    "Depends",
    "Form",
    "Header",
    "Path",
    "Query",
    "Signature",
    "blocking",
    "compile_binding",
    "is_coroutine_function",
    "place_of",
]
