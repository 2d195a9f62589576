"""Custom jobs are made once, found, listed, cancelled and waited for, whatever the network does."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
from google.cloud.aiplatform_v1.types import CustomJob, Scheduling

from tests.launch.vertex.conftest import QUICK, Clock
from tests.launch.vertex.service import (
    Failure,
    Step,
    VertexServer,
    denied,
    disabled,
    invalid,
    lost,
    permission,
    quota,
    slow,
    unavailable,
)
from trainer.config import UserError
from trainer.launch.vertex.calls import NotAnswering, Retries
from trainer.launch.vertex.jobs import Job, JobService, Pace
from trainer.launch.vertex.watching import job_logs

START = datetime.datetime(2026, 3, 1, 9, 0, tzinfo=datetime.UTC)

#: Gives up before it is tried a second time, or soon after.
SHORT = Retries(first=0.001, longest=0.002, patience=0.02, timeout=5.0)


def job(name: str = "shop-1", **spec: object) -> CustomJob:
    """Return a job that the service takes."""
    pool = {
        "machine_spec": {
            "machine_type": "n1-standard-8",
            "accelerator_type": "NVIDIA_TESLA_T4",
            "accelerator_count": 2,
        },
        "replica_count": 1,
        "container_spec": {"image_uri": "europe-west4-docker.pkg.dev/shop/images/mildnet:1"},
    }
    output = {"output_uri_prefix": f"gs://shop-jobs/runs/{name}"}
    spec = {"worker_pool_specs": [pool], "base_output_directory": output, **spec}
    return CustomJob(display_name=name, job_spec=spec, labels={"team": "search"})


class TestCreate:
    def test_the_request_arrives_as_it_was_built(self, vertex: VertexServer, service: JobService):
        message = job()
        name = service.create(message)
        request = vertex.request("CreateCustomJob")
        assert request.custom_job == message
        assert request.parent == "projects/shop/locations/europe-west4"
        assert name in vertex.jobs
        sent = vertex.metadata[-1]
        assert sent["x-goog-request-params"] == "parent=projects/shop/locations/europe-west4"
        assert "mildnet/" in sent["x-goog-api-client"]

    def test_a_service_that_is_away_is_asked_again(self, vertex: VertexServer, service: JobService):
        vertex.fail("CreateCustomJob", unavailable(), times=3)
        name = service.create(job())
        assert list(vertex.jobs) == [name]
        assert len(vertex.requests("CreateCustomJob")) == 4

    def test_a_job_whose_answer_was_lost_is_not_made_twice(
        self, vertex: VertexServer, service: JobService
    ):
        vertex.fail("CreateCustomJob", lost())
        name = service.create(job())
        assert list(vertex.jobs) == [name]
        assert len(vertex.requests("CreateCustomJob")) == 1

    def test_nor_one_whose_answer_took_too_long(
        self, vertex: VertexServer, connect: Callable[..., JobService]
    ):
        vertex.fail("CreateCustomJob", slow(0.5))
        service = connect(retries=Retries(first=0.001, longest=0.002, patience=5.0, timeout=0.1))
        name = service.create(job())
        assert list(vertex.jobs) == [name]

    def test_an_older_job_of_that_name_is_not_taken_for_it(
        self, vertex: VertexServer, service: JobService
    ):
        older = vertex.add("shop-1", output="gs://shop-jobs/runs/shop-1")
        elsewhere = vertex.add("shop-1", output="gs://others/shop-1")
        vertex.fail("CreateCustomJob", unavailable())
        name = service.create(job())
        assert name not in (older, elsewhere)
        assert len(vertex.jobs) == 3

    def test_nor_one_that_somebody_else_makes_meanwhile(
        self, vertex: VertexServer, service: JobService
    ):
        class Calls(list[tuple[str, object]]):
            def append(self, call: tuple[str, object]) -> None:
                super().append(call)
                if call[0] == "CreateCustomJob" and not vertex.jobs:
                    other = job()
                    other.job_spec.base_output_directory.output_uri_prefix = "gs://others/shop-1"
                    vertex._make(other, [Step("RUNNING")])

        vertex.calls = Calls()
        vertex.fail("CreateCustomJob", unavailable())
        name = service.create(job())
        assert len(vertex.jobs) == 2
        assert service.get(name).output == "gs://shop-jobs/runs/shop-1"

    def test_of_two_that_came_of_it_the_younger_is_cancelled(
        self, vertex: VertexServer, service: JobService, monkeypatch: pytest.MonkeyPatch
    ):
        # The first request is still on its way when the second look finds nothing.
        make = vertex._make

        def twice(message: CustomJob, steps: list[Step]) -> CustomJob:
            make(message, steps)
            return make(message, steps)

        monkeypatch.setattr(vertex, "_make", twice)
        vertex.fail("CreateCustomJob", unavailable())
        name = service.create(job())
        first, second = vertex.jobs
        assert name == first
        assert service.get(first).state == "pending"
        assert service.get(second).state in ("cancelling", "cancelled")

    def test_a_quota_that_the_job_itself_has_used_up(
        self, vertex: VertexServer, service: JobService, monkeypatch: pytest.MonkeyPatch
    ):
        # The list shows it only after the second request was refused.
        like, looks = service._like, itertools.count()
        monkeypatch.setattr(service, "_like", lambda it: like(it) if next(looks) > 1 else [])
        vertex.fail("CreateCustomJob", lost())
        vertex.fail("CreateCustomJob", quota("custom_model_training_nvidia_t4_gpus"))
        name = service.create(job())
        assert list(vertex.jobs) == [name]
        assert next(looks) == 3

    def test_a_last_look_that_fails_takes_nothing_back(
        self, vertex: VertexServer, service: JobService, monkeypatch: pytest.MonkeyPatch
    ):
        like, looks = service._like, itertools.count()

        def look(message: CustomJob) -> list[Job]:
            if next(looks) == 2:
                raise NotAnswering("away")
            return like(message)

        monkeypatch.setattr(service, "_like", look)
        vertex.fail("CreateCustomJob", unavailable())
        name = service.create(job())
        assert list(vertex.jobs) == [name]
        assert next(looks) == 3

    def test_a_refusal_after_a_lost_answer_says_what_is_not_known(
        self, vertex: VertexServer, service: JobService
    ):
        vertex.fail("CreateCustomJob", unavailable())
        vertex.fail("CreateCustomJob", quota("custom_model_training_nvidia_t4_gpus"))
        with pytest.raises(UserError, match=r"a quota of .*; it is not known whether job shop-1"):
            service.create(job())
        assert not vertex.jobs

    def test_what_cannot_be_known_is_said(
        self, vertex: VertexServer, connect: Callable[..., JobService]
    ):
        vertex.fail("CreateCustomJob", unavailable(), times=1000)
        with pytest.raises(NotAnswering, match="not known whether job shop-1 was made: `mildnet"):
            connect(retries=SHORT).create(job())
        assert not vertex.jobs

    def test_a_quota_is_not_asked_again(self, vertex: VertexServer, service: JobService):
        vertex.fail("CreateCustomJob", quota("custom_model_training_nvidia_t4_gpus"))
        with pytest.raises(UserError) as caught:
            service.create(job())
        told = str(caught.value)
        assert "a quota of project shop is used up" in told
        assert "https://console.cloud.google.com/iam-admin/quotas?project=shop" in told
        assert "(search custom_model_training_nvidia_t4_gpus)" in told
        assert len(vertex.requests("CreateCustomJob")) == 1


def broken(name: str, value: object) -> tuple[CustomJob, str]:
    """Return a job with one field wrong, and the end of that field's name."""
    message = job()
    place: object = message
    *parts, last = name.split(".")
    for part in parts:
        place = place[int(part)] if part.isdecimal() else getattr(place, part)
    setattr(place, last, value)
    return message, last


POOL = "job_spec.worker_pool_specs.0"
PYTHON = {
    "executor_image_uri": "europe-docker.pkg.dev/vertex-ai/training/tf-gpu.2-17.py310:latest",
    "package_uris": ["gs://shop-jobs/packages/mildnet-0.1.0.tar.gz"],
    "python_module": "trainer.task",
}


class TestTheServiceRefuses:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("display_name", ""),
            ("display_name", "x" * 129),
            ("state", "JOB_STATE_RUNNING"),
            ("labels", {"Team": "search"}),
            ("labels", {"team": "Search"}),
            ("labels", {"team": "x" * 64}),
            ("labels", {"1st": "x"}),
            ("job_spec.worker_pool_specs", []),
            (f"{POOL}.replica_count", 0),
            (f"{POOL}.replica_count", 2),
            (f"{POOL}.container_spec.image_uri", ""),
            (f"{POOL}.machine_spec.machine_type", ""),
            (f"{POOL}.machine_spec.machine_type", "n1-standrad-8"),
            (f"{POOL}.machine_spec.accelerator_count", 3),
            (f"{POOL}.machine_spec.accelerator_count", 0),
            (f"{POOL}.disk_spec.boot_disk_type", "pd-fast"),
            (f"{POOL}.disk_spec.boot_disk_size_gb", 10),
            ("job_spec.base_output_directory.output_uri_prefix", "runs/shop"),
            ("job_spec.service_account", "me@example.com"),
            ("job_spec.tensorboard", "projects/shop/locations/europe-west4/tensorboards/1"),
            ("job_spec.scheduling.timeout", datetime.timedelta(days=31)),
            ("job_spec.scheduling.timeout", datetime.timedelta(seconds=-1)),
            ("job_spec.scheduling.max_wait_duration", datetime.timedelta(hours=1)),
        ],
    )
    def test_a_wrong_field(self, field: str, value: object, service: JobService):
        message, last = broken(field, value)
        # The service names what is missing, or the message that the field is in.
        others = {"tensorboard": "service_account", "output_uri_prefix": "base_output_directory"}
        shown = others.get(last, last)
        with pytest.raises(UserError, match=rf"^Vertex AI refuses the request: .*{shown}"):
            service.create(message)

    @pytest.mark.parametrize(
        ("machine", "kind", "count", "fits"),
        [
            ("n1-standard-8", "NVIDIA_TESLA_T4", 1, True),
            ("n1-standard-8", "NVIDIA_L4", 1, False),
            ("e2-standard-4", None, 0, True),
            ("e2-standard-4", "NVIDIA_TESLA_T4", 1, False),
            ("g2-standard-24", "NVIDIA_L4", 2, True),
            ("g2-standard-24", "NVIDIA_L4", 1, False),
            ("a2-highgpu-1g", "NVIDIA_TESLA_A100", 1, True),
            ("a2-highgpu-1g", "NVIDIA_TESLA_A100", 2, False),
            ("a2-highgpu-1g", None, 0, False),
            ("a2-ultragpu-2g", "NVIDIA_A100_80GB", 2, True),
            ("a3-highgpu-8g", "NVIDIA_H100_80GB", 8, True),
            ("cloud-tpu", "TPU_V3", 8, True),
            ("cloud-tpu", "TPU_V3", 4, False),
        ],
    )
    def test_accelerators_that_do_not_fit(
        self, machine: str, kind: str | None, count: int, fits: bool, service: JobService
    ):
        message = job()
        spec = message.job_spec.worker_pool_specs[0].machine_spec
        spec.machine_type, spec.accelerator_type, spec.accelerator_count = machine, kind, count
        if fits:
            assert service.create(message)
        else:
            with pytest.raises(UserError, match=f"Machine type {machine} does not go with"):
                service.create(message)

    def test_a_tpu_of_a_newer_kind_has_a_topology(self, service: JobService):
        message = job()
        message.job_spec.worker_pool_specs[0].machine_spec = {"machine_type": "ct5lp-hightpu-4t"}
        with pytest.raises(UserError, match="tpu_topology: Needs a tpu_topology"):
            service.create(message)
        message.job_spec.worker_pool_specs[0].machine_spec.tpu_topology = "2x2"
        assert service.create(message)

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({}, None),
            ({"package_uris": []}, "package_uris: Required"),
            ({"package_uris": ["mildnet.tar.gz"]}, "package_uris: Not a package in Cloud Storage"),
            ({"python_module": ""}, "python_module: Not a Python module"),
            ({"executor_image_uri": "python:3.11"}, "executor_image_uri: Not a pre-built"),
        ],
    )
    def test_a_package_in_its_parts(
        self, change: dict[str, object], told: str | None, service: JobService
    ):
        message = job()
        # Setting one task takes the other away: it cannot have both.
        message.job_spec.worker_pool_specs[0].python_package_spec = {**PYTHON, **change}
        if told is None:
            assert service.create(message)
        else:
            with pytest.raises(UserError, match=told):
                service.create(message)

    def test_a_pool_without_a_task(self, service: JobService):
        message = job()
        del message.job_spec.worker_pool_specs[0].container_spec
        with pytest.raises(UserError, match="Exactly one of container_spec and python_package"):
            service.create(message)

    def test_several_workers_and_an_empty_role(self, service: JobService):
        message = job()
        chief = message.job_spec.worker_pool_specs[0]
        message.job_spec.worker_pool_specs = [chief, {}, chief]
        message.job_spec.worker_pool_specs[2].replica_count = 3
        message.job_spec.scheduling = {
            "strategy": Scheduling.Strategy.SPOT,
            "timeout": datetime.timedelta(hours=5),
        }
        assert len(service.get(service.create(message)).machines) == 2

    def test_every_wrong_field_is_named(self, service: JobService):
        message = job("")
        message.labels = {"Team": "x"}
        message.job_spec.worker_pool_specs[0].replica_count = 0
        with pytest.raises(UserError) as caught:
            service.create(message)
        assert str(caught.value).count("custom_job.") == 3
        assert "\n" not in str(caught.value)

    def test_the_wrong_place(self, connect: Callable[..., JobService]):
        with pytest.raises(UserError, match="parent: expected projects/shop/locations/europe"):
            connect(region="us-central1").create(job())


class TestErrors:
    @pytest.mark.parametrize(
        ("failure", "told"),
        [
            (
                disabled("aiplatform.googleapis.com", "shop"),
                "gcloud services enable aiplatform.googleapis.com --project shop",
            ),
            (
                permission("aiplatform.customJobs.get", "aiplatform.googleapis.com/projects/shop"),
                "lack a permission aiplatform.customJobs.get in project shop: ask its owner for "
                "the role roles/aiplatform.user",
            ),
            (
                permission("iam.serviceAccounts.actAs", "iam.googleapis.com/trainer@shop"),
                "the role roles/iam.serviceAccountUser",
            ),
            (
                denied(
                    "SERVICE_DISABLED",
                    "The aiplatform.googleapis.com API requires a quota project.",
                    consumer="projects/764086051850",
                ),
                "gcloud auth application-default set-quota-project shop",
            ),
            (
                denied("BILLING_DISABLED", "This API method requires billing to be enabled."),
                "give it one at https://console.cloud.google.com/billing/linkedaccount?project=shop",
            ),
            (
                denied("CONSUMER_INVALID", "Project 'shop' not found or deleted."),
                "check MILDNET_PROJECT (Project 'shop' not found or deleted.)",
            ),
            (
                Failure(grpc.StatusCode.UNAUTHENTICATED, "Request had invalid credentials."),
                "Vertex AI does not take these credentials (Request had invalid credentials.): "
                "run `gcloud auth application-default login`",
            ),
            (
                Failure(grpc.StatusCode.NOT_FOUND, "The CustomJob does not exist."),
                "has no such thing in project shop: The CustomJob does not exist.",
            ),
            (
                Failure(grpc.StatusCode.ALREADY_EXISTS, "There is one."),
                "has it already: There is one.; choose another name",
            ),
            (Failure(grpc.StatusCode.FAILED_PRECONDITION, "Not now."), "cannot do it now: Not now"),
            (
                invalid([("name", "too\nlong"), ("labels[a]", "odd")]),
                "refuses the request: name: too long; labels[a]: odd",
            ),
            (Failure(grpc.StatusCode.INVALID_ARGUMENT, "Bad."), "refuses the request: Bad."),
            (Failure(grpc.StatusCode.DATA_LOSS, "Gone."), "Vertex AI: DataLoss: Gone."),
        ],
    )
    def test_each_is_a_line_that_says_what_to_do(
        self, failure: Failure, told: str, vertex: VertexServer, service: JobService
    ):
        name = vertex.add("shop-1")
        vertex.fail("GetCustomJob", failure)
        with pytest.raises(UserError) as caught:
            service.get(name)
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not isinstance(caught.value, NotAnswering)
        assert len(vertex.requests("GetCustomJob")) == 1

    @pytest.mark.parametrize(
        "failure",
        [
            unavailable(),
            Failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded."),
            Failure(grpc.StatusCode.INTERNAL, "Internal error encountered."),
            quota("requests_per_minute"),
        ],
    )
    def test_reading_goes_on_where_the_service_is_away_or_busy(
        self, failure: Failure, vertex: VertexServer, connect: Callable[..., JobService]
    ):
        name = vertex.add("shop-1")
        vertex.fail("GetCustomJob", failure, times=3)
        assert connect().get(name).state == "running"
        assert len(vertex.requests("GetCustomJob")) == 4
        vertex.fail("GetCustomJob", failure, times=1000)
        with pytest.raises(NotAnswering):
            connect(retries=SHORT).get(name)

    def test_nobody_there(self, vertex: VertexServer, connect: Callable[..., JobService]):
        service = connect(retries=SHORT)
        vertex._server.stop(0).wait()
        with pytest.raises(NotAnswering, match=r"Vertex AI does not answer .*check the network"):
            service.names("")

    @pytest.mark.parametrize(
        ("error", "told"),
        [
            (
                RefreshError("invalid_grant: Token has been expired or revoked.", {}),
                r"^Vertex AI does not take these credentials .*gcloud auth application-default",
            ),
            (
                RefreshError("Reauthentication is needed. Please run `gcloud auth login`."),
                r"^Vertex AI does not take these credentials .*gcloud auth application-default",
            ),
            (
                TransportError("HTTPSConnectionPool(host='oauth2.googleapis.com'): Max retries"),
                r"^Vertex AI does not answer .*check the network",
            ),
        ],
    )
    def test_a_token_that_was_refused_is_no_service_that_is_away(
        self,
        error: GoogleAuthError,
        told: str,
        vertex: VertexServer,
        connect: Callable[..., JobService],
        caplog: pytest.LogCaptureFixture,
    ):
        attempts = []

        class NoToken(Credentials):
            def refresh(self, request: object) -> None:
                attempts.append(request)
                raise error

        # gRPC makes the same of both: a service that is unavailable.
        with pytest.raises(UserError, match=told) as caught:
            connect(channel=vertex.channel(NoToken()), retries=replace(SHORT, patience=0.3)).list()
        away = isinstance(error, TransportError)
        assert isinstance(caught.value, NotAnswering) == away
        assert (len(attempts) > 1) == away
        assert vertex.calls == []
        # The line is all that a terminal shows of it.
        assert caplog.records == []

    def test_where_the_services_are(self):
        credentials = AnonymousCredentials()
        client = JobService("shop", "europe-west4", credentials=credentials)._client
        assert client.api_endpoint == "europe-west4-aiplatform.googleapis.com"
        assert client.transport.kind == "grpc"
        found = Job("projects/1/locations/europe-west4/customJobs/17", "shop-1", "running", START)
        logs = job_logs(JobService("shop", "europe-west4", credentials=credentials), found)
        assert logs._client.api_endpoint == "logging.googleapis.com"
        assert logs.job_id == "17"

    def test_no_credentials(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
        with pytest.raises(UserError, match=r"no Google Cloud credentials \(.*key.json.*\): run"):
            JobService("shop", "europe-west4")
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        with pytest.raises(UserError) as caught:
            JobService("shop", "europe-west4")
        assert str(caught.value).startswith("no Google Cloud credentials (Your default")
        assert "\n" not in str(caught.value)

    def test_without_the_extra(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(__import__("sys").modules, "google.cloud.aiplatform_v1", None)
        with pytest.raises(UserError, match=r'pip install "mildnet\[vertex\]"$'):
            JobService("shop", "europe-west4")


class TestFind:
    def test_all_pages_the_youngest_first(self, vertex: VertexServer, service: JobService):
        vertex.page = 2
        for number in range(5):
            vertex.now += datetime.timedelta(minutes=1)
            vertex.add(f"shop-{number}")
        assert [job.name for job in service.list()] == [f"shop-{n}" for n in (4, 3, 2, 1, 0)]
        assert len(vertex.requests("ListCustomJobs")) == 3

    def test_a_prefix_is_taken_as_it_is_written(self, vertex: VertexServer, service: JobService):
        for name in ("shop-1", "shop-2", "shop-2", "Shop-3", "work shop-4", 'sh"op'):
            vertex.add(name)
        assert service.names("shop-") == ["shop-1", "shop-2"]
        assert service.names('sh"') == ['sh"op']
        assert service.names("none") == []
        assert vertex.requests("ListCustomJobs")[0].filter == 'display_name:"shop-*"'

    def test_states(self, vertex: VertexServer, service: JobService):
        vertex.add("one", "RUNNING")
        vertex.add("two", "FAILED")
        assert [job.name for job in service.list(states=["failed"])] == ["two"]

    def test_by_name_number_and_resource(self, vertex: VertexServer, service: JobService):
        name = vertex.add("shop-1", labels={"team": "search"}, output="gs://shop-jobs/runs/shop-1")
        number = name.rpartition("/")[2]
        for text in ("shop-1", number, name, f"{vertex.parent}/customJobs/{number}"):
            found = service.find(text)
            assert (found.resource, found.id, found.name) == (name, number, "shop-1")
        assert found.output == "gs://shop-jobs/runs/shop-1"
        assert found.labels == {"team": "search"}
        assert service.page(found.resource) == (
            "https://console.cloud.google.com/vertex-ai/locations/europe-west4/training/"
            f"{number}?project=shop"
        )

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("shop", "no job 'shop' in project shop, europe-west4: `mildnet jobs list --pr"),
            ("1", "no such thing in project shop"),
            ("a/b", "'a/b' is not the name of a job: give its display name, its number, or"),
            ("projects/shop/locations/us-central1/customJobs/1", "add --region us-central1"),
        ],
    )
    def test_what_is_not_there(
        self, text: str, told: str, vertex: VertexServer, service: JobService
    ):
        vertex.add("shop-1")
        with pytest.raises(UserError) as caught:
            service.find(text)
        assert told in str(caught.value)

    def test_a_name_of_two(self, vertex: VertexServer, service: JobService):
        first, second = vertex.add("shop", "FAILED"), vertex.add("shop")
        with pytest.raises(UserError) as caught:
            service.find("shop")
        numbers = [name.rpartition("/")[2] for name in (second, first)]
        assert str(caught.value) == (
            "2 jobs are called 'shop': give the number of one: "
            f"{numbers[0]} (running), {numbers[1]} (failed)"
        )

    def test_machines(self, vertex: VertexServer, service: JobService):
        made = service.get(service.create(job()))
        assert made.machines == ("1 x n1-standard-8 with 2 x NVIDIA_TESLA_T4",)
        assert made.to_dict()["created"].startswith("2026-03-01T09:0")
        assert made.to_dict()["ended"] is None


class TestCancel:
    def test_a_running_job(self, vertex: VertexServer, service: JobService):
        name = vertex.add("shop-1")
        assert service.cancel(name).state == "cancelling"
        assert service.wait(name, lambda line: None).state == "cancelled"

    def test_an_answer_that_was_lost(self, vertex: VertexServer, service: JobService):
        name = vertex.add("shop-1")
        vertex.fail("CancelCustomJob", lost())
        assert service.cancel(name).state == "cancelling"
        assert len(vertex.requests("CancelCustomJob")) == 2

    def test_a_job_that_has_ended(self, vertex: VertexServer, service: JobService):
        name = vertex.add("shop-1", "SUCCEEDED")
        with pytest.raises(UserError, match=r"^job shop-1 has ended already: succeeded$"):
            service.cancel(name)

    def test_somebody_who_may_not(self, vertex: VertexServer, service: JobService):
        name = vertex.add("shop-1")
        vertex.fail("CancelCustomJob", permission("aiplatform.customJobs.cancel", "shop"))
        with pytest.raises(UserError, match=r"permission aiplatform\.customJobs\.cancel"):
            service.cancel(name)


class TestWait:
    def test_each_state_is_told_once_with_its_time(
        self, vertex: VertexServer, service: JobService, clock: Clock
    ):
        states = ["QUEUED", "PENDING", "PENDING", "RUNNING", "RUNNING", "PENDING", "RUNNING"]
        name = vertex.add("shop-1", *states, "SUCCEEDED")
        told: list[str] = []
        done = service.wait(name, told.append)
        assert [line.split("  ")[1] for line in told] == [
            "queued: it waits for its turn",
            "pending: machines are being made ready",
            "running",
            "pending: machines are being made ready",
            "running",
            "succeeded",
        ]
        times = [datetime.datetime.fromisoformat(line.split("  ")[0]) for line in told]
        assert times == sorted(times)
        assert times[-1] == vertex.now.astimezone().replace(tzinfo=None)
        assert done.state == "succeeded"
        assert done.over
        assert done.started is not None
        assert done.started < done.ended

    def test_why_it_failed(self, vertex: VertexServer, service: JobService):
        reason = "The replica workerpool0-0 exited with a non-zero\nstatus of 1."
        name = vertex.add("shop-1", "RUNNING", "FAILED", error=reason)
        told: list[str] = []
        assert service.wait(name, told.append).error == " ".join(reason.split())
        assert told[-1].endswith(
            "failed: The replica workerpool0-0 exited with a non-zero status of 1."
        )

    def test_looks_become_rarer_while_nothing_happens(
        self, vertex: VertexServer, service: JobService, clock: Clock
    ):
        name = vertex.add("shop-1", *["PENDING"] * 6, "RUNNING", "RUNNING", "SUCCEEDED")
        service.wait(name, lambda line: None, pace=Pace(first=8, longest=30, growth=2))
        assert clock.slept == [8, 16, 30, 30, 30, 30, 8, 16]

    def test_and_soon_again_where_something_else_does(
        self, vertex: VertexServer, service: JobService, clock: Clock
    ):
        name = vertex.add("shop-1", *["RUNNING"] * 4, "SUCCEEDED")
        seen: list[Job | None] = []

        def meanwhile(job: Job | None) -> bool:
            seen.append(job)
            return True

        service.wait(name, lambda line: None, pace=Pace(first=8), meanwhile=meanwhile)
        assert clock.slept == [8, 8, 8, 8]
        assert [job.state for job in seen if job] == ["running"] * 4 + ["succeeded"]

    def test_a_silence_of_the_service_changes_nothing(
        self, vertex: VertexServer, connect: Callable[..., JobService], clock: Clock
    ):
        name = vertex.add("shop-1", "RUNNING", "SUCCEEDED")
        told: list[str] = []

        def meanwhile(job: Job | None) -> bool:
            if job is not None and job.state == "running" and len(told) == 1:
                vertex.fail("GetCustomJob", unavailable(), times=200)
            if job is None and len(clock.slept) > 5:
                vertex._failures["GetCustomJob"].clear()
            return False

        service = connect(retries=SHORT)
        assert service.wait(name, told.append, meanwhile=meanwhile).state == "succeeded"
        assert [line.split("  ")[-1] for line in told] == [
            "running",
            "Vertex AI does not answer; the job goes on, and so does this",
            "Vertex AI answers again",
            "succeeded",
        ]

    def test_but_not_for_ever(
        self, vertex: VertexServer, connect: Callable[..., JobService], clock: Clock
    ):
        name = vertex.add("shop-1")
        vertex.fail("GetCustomJob", unavailable(), times=100_000)
        with pytest.raises(NotAnswering, match=r"the job goes on: `mildnet jobs logs .* --follow`"):
            connect(retries=SHORT).wait(name, lambda line: None, pace=Pace(silence=120))
        assert 120 < clock.now - 1000 < 180

    def test_a_job_that_is_gone(self, vertex: VertexServer, service: JobService):
        with pytest.raises(UserError, match="has no such thing"):
            service.wait(f"{vertex.parent}/customJobs/17", lambda line: None)


def test_patience_of_tests_is_short_enough() -> None:
    assert QUICK.patience <= 2 < Retries().patience
