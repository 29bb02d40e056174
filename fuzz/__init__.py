"""Differential fuzzing: what is read from hostile bytes, beside h11 and ``websockets``.

``python -m fuzz.requests`` and ``python -m fuzz.frames`` run one target by one engine, ``python -m fuzz`` each target
by each engine; ``--help`` says how. A target reads every input with our reader and with another implementation. Where
the two do not agree there has to be a written reason, whose test recognises exactly that case: the lists are
:mod:`fuzz.request_reasons` and :mod:`fuzz.frame_reasons`. Anything else is a failure, and its input is kept.
"""
