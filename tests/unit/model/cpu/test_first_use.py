"""The first forwards of a process may be several at once."""

import subprocess
import sys
from pathlib import Path

from needs import needed

needed("openvino")

PROGRAM = """
import os, sys, threading
from pathlib import Path
import torch
from model.cpu import graph
compiled = graph.Graph(graph.read(Path(sys.argv[1])), "float32", 2)
ready = threading.Barrier(8)
def first():
    ready.wait()
    assert compiled(torch.ones(2, 4))[0].shape == (2, 4)
threads = [threading.Thread(target=first) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_threads_that_all_are_first_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Without what `graph` does at its first use, one process in five stood still for ever."""
    import torch

    from model.cpu import graph

    file = tmp_path / "graph.xml"
    assert graph.save(graph.convert(torch.nn.ReLU(), [torch.ones(2, 4)], [[-1, 4]]), file)
    for _ in range(3):
        subprocess.run([sys.executable, "-c", PROGRAM, str(file)], check=True, timeout=100)
