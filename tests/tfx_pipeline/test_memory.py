import subprocess
import sys
import time

import numpy as np

from tfx_pipeline.memory import PeakMemory


def test_counts_this_process_and_its_children():
    with PeakMemory(every_s=0.05) as memory:
        time.sleep(0.3)
        alone = memory.megabytes
        held = np.ones(25_000_000)  # 200 MB
        time.sleep(0.3)
        assert memory.megabytes > alone + 150
        child = "import time; held = bytearray(100_000_000); time.sleep(2)"
        before = memory.megabytes
        subprocess.run([sys.executable, "-c", child], check=True)
        assert before + 80 < memory.megabytes < before + 190
        assert held.sum() == 25_000_000
