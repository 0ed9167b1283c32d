"""What the marked places of pages are filled with."""

from command_line import command_line
from configuration import configuration
from http_interface import endpoints, failures
from manifest_fields import manifest_fields
from metrics import daemon_metrics, delivery_metrics, server_metrics
from python_interface import python_interface

MARKS = {
    "command-line": command_line,
    "configuration": configuration,
    "daemon-metrics": daemon_metrics,
    "delivery-metrics": delivery_metrics,
    "http-endpoints": endpoints,
    "http-failures": failures,
    "manifest": manifest_fields,
    "python": python_interface,
    "server-metrics": server_metrics,
}
