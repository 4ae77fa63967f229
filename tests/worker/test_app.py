import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, sys
from worker.app import app
app.finalize()
tasks = sorted(name for name in app.tasks if name.startswith("tcaq."))
print(json.dumps({"torch": "torch" in sys.modules, "tasks": tasks}))
"""


def test_the_parent_process_knows_the_tasks_without_importing_torch(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        cwd=ROOT,
        env={"TCAQ_DATA_DIRECTORY": str(tmp_path)},
        stdout=subprocess.PIPE,
        check=True,
    )
    assert json.loads(done.stdout) == {
        "torch": False,
        "tasks": [
            "tcaq.evaluate",
            "tcaq.quantize",
            "tcaq.reap",
            "tcaq.sample",
            "tcaq.shard",
            "tcaq.sweep",
        ],
    }
