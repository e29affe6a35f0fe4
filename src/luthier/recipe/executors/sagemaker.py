"""Steps made by training jobs of Amazon SageMaker, by boto3.

SageMaker takes no name twice, so that the jobs of a step are numbered: `NAME-1`, `NAME-2`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from luthier.core.errors import InputError, SystemResourceError
from luthier.core.store import Store
from luthier.core.system.packages import require
from luthier.recipe.batch import BatchJob, JobStatus, refuse_passwords
from luthier.recipe.cloud import CloudExecutor, check_word
from luthier.recipe.scheduler_api import WHERE, SchedulerTimeoutError

_LOGS, _CHECKPOINTS = "/aws/sagemaker/TrainingJobs", "/opt/ml/checkpoints"
_WAITING = ("Starting", "Pending", "LaunchingMLInstances", "PreparingTrainingStack", "Downloading", "MaxWaitTime")
_OUTPUT_LINES = 20


class SageMakerExecutor(CloudExecutor):
    """In training jobs of Amazon SageMaker: each step is one job on machines that are there for it alone.

    The store must be on S3. Credentials and region are those of the AWS tools; the job gets the rights of `role_arn`.
    Needs `luthier[aws]`.
    """

    kind: Literal["sagemaker"] = "sagemaker"

    image: str = Field(min_length=1)
    """The image in the Elastic Container Registry in which Luthier is installed."""
    role_arn: str
    """The role (ARN) that the job takes; it must read and write the store."""
    instance: str
    """The type of machine, such as `ml.g5.2xlarge`."""
    disk_gb: int = Field(default=50, ge=1)
    """Disk of each machine in GB."""
    region: str | None = None
    """The region; that of the AWS configuration when not given."""
    spot: bool = False
    """Whether machines may be taken away, which makes them cheaper; the job then waits up to twice its `hours`."""
    checkpoints: str | None = None
    """A place on S3 that is copied to and from the job's cache, so that checkpoints outlive a machine."""
    subnets: tuple[str, ...] = ()
    """Subnets of the job's own network; none when not given."""
    security_groups: tuple[str, ...] = ()
    """Security groups of that network."""

    @field_validator("image")
    @classmethod
    def _image(cls, value: str) -> str:
        return check_word(value, r"[A-Za-z0-9][\w./:@-]{0,254}", "the name of an image")

    @field_validator("role_arn")
    @classmethod
    def _arn(cls, value: str) -> str:
        return check_word(value, r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]+", "the ARN of a role")

    @field_validator("instance", "region")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        return None if value is None else check_word(value, r"[a-z0-9][a-z0-9.-]*", "a name of AWS")

    @field_validator("checkpoints")
    @classmethod
    def _place(cls, value: str | None) -> str | None:
        return None if value is None else check_word(value, r"s3://[\w./-]+", "a place on S3")

    @field_validator("subnets", "security_groups")
    @classmethod
    def _ids(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_word(value, r"[a-z]+-[0-9a-z]+", "an id such as subnet-0a1b") for value in values)

    def check_reach(self, folder: Path, store: Store) -> None:
        """`MissingExtra` without boto3; `InputError` for a store that is not on S3."""
        require("boto3", "aws", "the executor `sagemaker`", where=WHERE)
        super().check_reach(folder, store)
        if not store.location.startswith("s3://"):
            hint = f"LUTHIER_STORE=s3://bucket/{folder.name}"
            raise InputError(f"SageMaker writes to S3 alone, not to {store.location}", where=WHERE, hint=hint)
        if bool(self.subnets) != bool(self.security_groups):
            raise InputError("`subnets` and `security_groups` belong together", where=WHERE, hint="give both")

    def submit(self, job: BatchJob) -> None:
        """Create the training job; of two runs that do so at once, one makes it."""
        with self._connect("sagemaker") as client:
            found = self._list(client, job.name)
            if found and found[0]["TrainingJobStatus"] in ("InProgress", "Stopping"):
                return
            order = self.order(job, len(found) + 1)
            refuse_passwords(str(order), "AWS")
            try:
                client.create_training_job(**order)
            except client.exceptions.ResourceInUse:
                return

    def order(self, job: BatchJob, number: int) -> dict[str, Any]:
        """The training job as the API takes it."""
        command, seconds = self.get_command(job), max(60, round(3600 * self.hours))
        env = {**({"LUTHIER_CACHE": _CHECKPOINTS} if self.checkpoints else {}), **self.env}
        network = {"Subnets": list(self.subnets), "SecurityGroupIds": list(self.security_groups)}
        return {
            "TrainingJobName": f"{job.name}-{number}",
            "AlgorithmSpecification": {
                "TrainingImage": self.image,
                "TrainingInputMode": "File",
                "ContainerEntrypoint": command[:-1],
                "ContainerArguments": command[-1:],
            },
            "RoleArn": self.role_arn,
            "OutputDataConfig": {"S3OutputPath": f"{job.location.rpartition('/')[0]}/output"},
            "ResourceConfig": {
                "InstanceType": self.instance,
                "InstanceCount": self.nodes,
                "VolumeSizeInGB": self.disk_gb,
            },
            "StoppingCondition": {
                "MaxRuntimeInSeconds": seconds,
                **({"MaxWaitTimeInSeconds": 2 * seconds} if self.spot else {}),
            },
            "EnableManagedSpotTraining": self.spot,
            **({"Environment": env} if env else {}),
            **({"VpcConfig": network} if self.subnets else {}),
            **(
                {"CheckpointConfig": {"S3Uri": f"{self.checkpoints}/{job.name}", "LocalPath": _CHECKPOINTS}}
                if self.checkpoints
                else {}
            ),
        }

    def find(self, name: str) -> JobStatus | None:
        """The newest training job of the name."""
        with self._connect("sagemaker") as client:
            if not (found := self._list(client, name)):
                return None
            newest = client.describe_training_job(TrainingJobName=found[0]["TrainingJobName"])
        state, stage = newest["TrainingJobStatus"], newest.get("SecondaryStatus", "")
        if state in ("InProgress", "Stopping"):
            return JobStatus("pending", stage) if stage in _WAITING else JobStatus("running", stage)
        reason = newest.get("FailureReason", "")
        return JobStatus("ended", f"{state}: {reason}" if reason else state)

    def cancel_job(self, name: str) -> None:
        """Stop the training job, which has two minutes to write a checkpoint."""
        with self._connect("sagemaker") as client:
            found = self._list(client, name)
            if found and found[0]["TrainingJobStatus"] == "InProgress":
                client.stop_training_job(TrainingJobName=found[0]["TrainingJobName"])

    def read_output(self, name: str) -> str:
        """The last lines of the first machine, from CloudWatch."""
        with self._connect("sagemaker") as client:
            found = self._list(client, name)
        with self._connect("logs") as client:
            try:
                prefix = f"{found[0]['TrainingJobName']}/" if found else name
                streams = client.describe_log_streams(logGroupName=_LOGS, logStreamNamePrefix=prefix)["logStreams"]
                where = {"logGroupName": _LOGS, "logStreamName": streams[0]["logStreamName"] if streams else ""}
                events = client.get_log_events(**where, limit=_OUTPUT_LINES)["events"] if streams else []
            except client.exceptions.ResourceNotFoundException:  # nothing was ever printed
                events = []
        return "\n".join(event["message"] for event in events)

    def _list(self, client: Any, name: str) -> list[dict[str, Any]]:
        """The training jobs of a name, the newest first."""
        order = {"SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": 100}
        found: list[dict[str, Any]] = client.list_training_jobs(NameContains=f"{name}-", **order)[
            "TrainingJobSummaries"
        ]
        return found

    @contextmanager
    def _connect(self, service: str) -> Iterator[Any]:
        """A client of AWS; `SystemResourceError` where it refuses or cannot be reached."""
        require("boto3", "aws", "the executor `sagemaker`", where=WHERE)
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError

        hint = "try `aws sts get-caller-identity`; jobs that run go on, and running again finds them"
        try:
            yield boto3.session.Session(region_name=self.region).client(service)
        except ClientError as error:
            message = f"AWS refused: {error.response['Error'].get('Message', error.response['Error']['Code'])}"
            raise SystemResourceError(message, where=WHERE, hint=hint) from error
        except BotoCoreError as error:
            raise SchedulerTimeoutError(f"AWS cannot be reached: {error}", where=WHERE, hint=hint) from error
