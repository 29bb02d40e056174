"""Configuration files: what they may say, and loading them. Noticing that they changed: :mod:`forebay.config.watch`."""

from forebay.config.checks import cannot_log_to, is_loopback
from forebay.config.load import load_settings, load_system
from forebay.config.schema import (
    AccessLogConfig,
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
    TLSConfig,
    Upstream,
)
from forebay.config.units import parse_duration, parse_rate, parse_size

__all__ = [
    "AccessLogConfig",
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
    "TLSConfig",
    "Target",
    "Upstream",
    "cannot_log_to",
    "is_loopback",
    "load_settings",
    "load_system",
    "parse_duration",
    "parse_rate",
    "parse_size",
]
