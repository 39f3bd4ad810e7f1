"""What touches the world for the agent: gRPC, files, the child process, metrics. It decides nothing."""

from common.tls import harden_tls

harden_tls()  # gRPC reads its cipher suites once, when it is imported; every import of it here comes after this line
