"""What tests have ``forebay run`` run: examples that take no ``--bind``, on free ports."""

from examples.device_gateway import DeviceService

devices = DeviceService("tcp://127.0.0.1:0", "tcp://127.0.0.1:0")
