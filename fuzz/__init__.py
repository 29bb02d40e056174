"""Differential fuzzing: hostile bytes as we read them, and as h11, ``websockets`` and python-multipart do.

``python -m fuzz.requests``, ``fuzz.responses``, ``fuzz.frames`` and ``fuzz.parts`` run one target by one engine,
``python -m fuzz`` each target by each engine; ``--help`` says how. A target reads every input with our reader and with
another implementation. Where the two do not agree there has to be a written reason, whose test recognises exactly that
case: the lists are :mod:`fuzz.request_reasons`, :mod:`fuzz.response_reasons`, :mod:`fuzz.frame_reasons` and
:mod:`fuzz.part_reasons`. Anything else is a failure, and its input is kept.
"""
