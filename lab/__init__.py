"""Experiments on one machine, with the code that the services run: ``fedmed-lab``."""

from common.tls import harden_tls

harden_tls()  # before anything imports grpc, which the services' own translations do
