"""A federation whose sites are at the other end of the wire (`tests/faults/wire.py`): run in the near namespace.

``python -m tests.faults.far_sites FOLDER FAR_NAMESPACE ROUNDS LORA_RANK`` says as JSON what came of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from common.tls import harden_tls

harden_tls()  # before anything imports grpc: TLS 1.3 only

from tests.faults.processes import Federation, make_terms  # noqa: E402

if __name__ == "__main__":
    folder, far_namespace, rounds, lora_rank = sys.argv[1:]
    with Federation(Path(folder), make_terms(int(rounds), int(lora_rank)), far_namespace=far_namespace) as federation:
        print(json.dumps({"published": federation.run(), "done_twice": federation.done_twice()}))
