"""What is shown of a running system: probes, metrics, workers, a status page."""

from forebay.admin.app import admin_app, admin_server
from forebay.admin.system import System, Worker

__all__ = ["System", "Worker", "admin_app", "admin_server"]
