"""`launch --engine hf-jobs`: what the official client asks the Hub for, per job."""

import subprocess
import sys

from hub_environment import TIMEOUT, environment

SCRIPT = """
from hf_relabel.config import Config, RunConfig
from hf_relabel.launch.config import JobsSettings, LaunchSettings
from hf_relabel.launch.engines import log_folder, make_jobs
from hf_relabel.launch.jobs import make_executor

jobs = JobsSettings(bucket="owner/runs", flavor="a10g-small", dependencies=["hf_relabel[cluster] @ https://x/y.whl"])
settings = LaunchSettings(engine="hf-jobs", tasks=3, workers=2, time="6h", jobs=jobs)
config = Config(run=RunConfig(dir="/mnt/run/imagenet"))
assert log_folder(config, settings).startswith("hf://buckets/owner/runs/imagenet/launch/")
# The logs of a real launch are in the bucket, which needs the Hub's Xet storage.
executor = make_executor(make_jobs("propose", config, settings)[0], settings, "memory://logs/propose")
executor.poll_interval = 0
executor.run()
print(executor.get_incomplete_ranks(skip_completed=True))
print(b"hf_owner_secret" in executor.logging_dir.open("executor.pik", "rb").read())
"""


def test_the_request_of_each_job(hub, tmp_path):
    hub.jobs.clear()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment(hub, tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "hf_owner_secret" not in done.stdout + done.stderr
    # The server's jobs do nothing, so no task is marked as done: a launch would report that.
    assert done.stdout.split("\n")[-3:-1] == ["[0, 1, 2]", "False"]
    assert len(hub.jobs) == 3
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for index, job in enumerate(hub.jobs):
        assert job["owner"] == "owner"
        assert job["flavor"] == "a10g-small"
        assert job["timeoutSeconds"] == 6 * 3600, "the Hub's own limit is 30 minutes"
        assert job["environment"]["DATATROVE_JOB_ARRAY_INDEX"] == str(index)
        assert job["secrets"] == {"HF_TOKEN": "hf_owner_secret"}
        [volume] = job["volumes"]
        assert (volume["type"], volume["source"], volume["mountPath"]) == ("bucket", "owner/runs", "/mnt/run")
        assert not volume.get("readOnly")
        command = job["command"]
        assert command[:2] == ["uv", "run"]
        assert command[command.index("--python") + 1] == version, "a task's pickle needs the same Python"
        assert "hf_relabel[cluster] @ https://x/y.whl" in command
        assert command[-2] == "launch_pickled_pipeline"
        assert command[-1].endswith("executor.pik")


def test_what_the_hub_does_not_allow_is_one_line(hub, command):
    asked = ["launch", "--engine", "hf-jobs", "--bucket", "owner/runs", "--dependencies", "x"]
    asked += ["--", "propose", "--source.path", "user/photos", "--run.dir", "/mnt/run/a"]
    assert "launch: no token" in command(*asked, token=None).error()
    # The test server has no buckets.
    assert "launch: the Hub refused the jobs of propose (" in command(*asked).error()
