"""The model on Triton's Python backend with dynamic batching: V2 binary tensors over HTTP.

python -m loadtests.peers.servers.triton_server MODEL PORT INPUT FEATURES OUTPUT CLASSES

The server and the backend are those in the package nvidia-pytriton, which is not imported: its
proxy would be a third process between Triton and the model, and requires numpy 1.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Final

from . import session

NAME: Final = "model"
CONFIG: Final = Template("""\
name: "$name"
backend: "python"
max_batch_size: $batch_size
input [{ name: "$input" data_type: TYPE_FP32 dims: [$features] }]
output [{ name: "$output" data_type: TYPE_FP32 dims: [$classes] }]
instance_group [{ count: 1 kind: KIND_CPU }]
dynamic_batching {}
parameters [{ key: "path" value: { string_value: "$path" } }]
""")


def main(path: str, port: str, input_: str, features: str, output: str, classes: str) -> int:
    """Write the model repository into a temporary folder and serve it; return the status."""
    package = find_spec("pytriton")
    if package is None or package.origin is None:
        return 1
    parts = Path(package.origin).parent / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory(prefix="paretoserve-triton-") as name:
        folder = Path(name)
        backend = folder / "backends" / "python"
        shutil.copytree(parts / "backends" / "python", backend)
        shutil.copy(
            parts / "python_backend_stubs" / version / "triton_python_backend_stub", backend
        )
        model = folder / "models" / NAME
        (model / "1").mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("triton_model.py"), model / "1" / "model.py")
        text = CONFIG.substitute(
            name=NAME,
            batch_size=session.BATCH_SIZE,
            input=input_,
            features=features,
            output=output,
            classes=classes,
            path=path,
        )
        (model / "config.pbtxt").write_text(text)
        # The backend loads libpython, and looks for `python3` in PATH to find the packages.
        libraries = (sysconfig.get_config_var("LIBDIR"), parts.parents[1] / "nvidia_pytriton.libs")
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}",
        }
        command = [str(parts / "bin" / "tritonserver"), f"--model-repository={folder / 'models'}"]
        command += [f"--backend-directory={folder / 'backends'}", "--http-address=127.0.0.1"]
        command += [f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false"]
        with subprocess.Popen(command, env=environment) as server:
            # Triton removes its shared memory if it is asked to end.
            signal.signal(signal.SIGTERM, lambda number, frame: server.terminate())
            return server.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
