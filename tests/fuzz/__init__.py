"""Coverage-guided fuzzing of what reads a stranger's bytes: ``python -m tests.fuzz``. The corpus is a test, too."""

from common.tls import harden_tls

harden_tls()  # before anything imports grpc
