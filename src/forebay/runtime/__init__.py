"""Wiring: from a configuration to services in worker processes, with the admin listener beside them.

Nothing is imported here: workers import :mod:`forebay.runtime.entries`, and need not load what only a supervisor uses.
"""
