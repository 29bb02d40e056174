"""The gateway: requests come in, are matched to a route, and are sent on to one of an upstream's targets."""

from forebay.gateway.service import Gateway, can_update

__all__ = ["Gateway", "can_update"]
