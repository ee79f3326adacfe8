"""The server of the workers has made the slow first comparisons."""

import subprocess
import sys

from edge_grpo.rewards.workers import worker as workers


def test_it_is_what_the_server_loads_and_needs_no_torch():
    assert workers.PRELOAD == ["edge_grpo.rewards.workers.warm"]
    code = "import sys; import edge_grpo.rewards.workers.warm\n"
    code += "print(sorted({'torch', 'sympy', 'math_verify'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("['math_verify', 'sympy']\n", "")
