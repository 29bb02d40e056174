"""Decisions: what to do, given what is known and the time. No I/O, no clock, no waiting."""
