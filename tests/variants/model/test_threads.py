from __future__ import annotations

import subprocess
import sys


def test_torch_uses_no_more_threads_than_the_process_has_cpus() -> None:
    code = (
        "import os, torch; torch.set_num_threads(4)\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from variants.model.threads import limit_threads; limit_threads()\n"
        "print(torch.get_num_threads())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "1\n"
