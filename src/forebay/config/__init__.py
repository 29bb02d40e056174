"""Configuration files: what they may say, and loading them. Noticing that they changed: :mod:`forebay.config.watch`."""

from forebay.config.checks import is_loopback
from forebay.config.load import load_settings, load_system
from forebay.config.schema import (
    Balance,
    Filter,
    GatewayConfig,
    GatewayLimits,
    GatewayTimeouts,
    Health,
    Match,
    RateLimit,
    RetryConfig,
    Route,
    ServiceConfig,
    System,
    SystemConfig,
    Target,
    Upstream,
)
from forebay.config.units import parse_duration, parse_rate, parse_size

__all__ = [
    "Balance",
    "Filter",
    "GatewayConfig",
    "GatewayLimits",
    "GatewayTimeouts",
    "Health",
    "Match",
    "RateLimit",
    "RetryConfig",
    "Route",
    "ServiceConfig",
    "System",
    "SystemConfig",
    "Target",
    "Upstream",
    "is_loopback",
    "load_settings",
    "load_system",
    "parse_duration",
    "parse_rate",
    "parse_size",
]
