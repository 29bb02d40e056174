"""Forebay: the network-service stack for Python."""
