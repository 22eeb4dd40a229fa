"""datatrove's executor for Hugging Face Jobs, with the run's bucket mounted in every job.

datatrove's own class gives jobs no volumes; the stages share a folder, so every job needs the bucket that has it.
It also uploads a script, for which the client makes another bucket; every job has the same command installed.
"""

from datatrove.executor.jobs import ARRAY_INDEX_ENV_VAR, JobsPipelineExecutor

from hf_relabel.launch.config import LaunchSettings
from hf_relabel.launch.plan import StageJob


class JobsExecutor(JobsPipelineExecutor):
    """One job per task, all with the same bucket at the same place."""

    bucket = ""
    mount = ""

    def _submit_array_index(self, array_index: int, pik_path: str, token: str) -> str:
        """Start the job of one task; returns the job's id."""
        from huggingface_hub import Volume, run_uv_job

        job = run_uv_job(
            "launch_pickled_pipeline",
            script_args=[pik_path],
            dependencies=self.dependencies,
            python=self.python,
            image=self.image,
            env={"PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", ARRAY_INDEX_ENV_VAR: str(array_index)},
            secrets={"HF_TOKEN": token},
            flavor=self.flavor,
            timeout=self.timeout,
            labels={"datatrove_job_name": self.job_name, "datatrove_array_index": str(array_index)},
            volumes=[Volume(type="bucket", source=self.bucket, mount_path=self.mount)],
            namespace=self.namespace,
            token=token,
        )
        return str(job.id)


def make_executor(job: StageJob, settings: LaunchSettings, logs: str) -> JobsExecutor:
    """The executor of a stage.

    Args:
        job: The stage.
        settings: Resources and the options of Jobs.
        logs: Remote folder of the stage's logs, such as hf://buckets/user/name/launch/propose.
    """
    jobs = settings.jobs
    executor = JobsExecutor(
        pipeline=[job.task],
        tasks=job.tasks,
        workers=min(settings.workers, job.tasks),
        logging_dir=logs,
        flavor=jobs.flavor,
        image=jobs.image,
        dependencies=list(jobs.dependencies),
        timeout=settings.seconds,
        namespace=jobs.namespace,
        max_retries=settings.restarts,
        job_name=f"hf-relabel-{job.name}",
    )
    executor.bucket, executor.mount = jobs.bucket or "", jobs.mount
    return executor
