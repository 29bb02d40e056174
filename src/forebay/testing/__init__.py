"""Public fakes for the tests of services that are built with Forebay. Nothing in Forebay imports them."""

from forebay.testing.fault_proxy import FaultProxy

__all__ = ["FaultProxy"]
