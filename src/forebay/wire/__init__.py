"""Bytes to messages and back, without any I/O."""
