"""Settings of remote jobs: where they come from, and what is refused before anything is sent."""

from collections.abc import Mapping

import pytest

from trainer.config import Settings, UserError
from trainer.config.settings import KEYS
from trainer.launch.vertex.settings import (
    BASE_IMAGE,
    VertexSettings,
    bucket_folder,
    place_options,
    seconds,
)

NEEDED = {"project": "my-shop", "region": "europe-west4", "bucket": "gs://shop-jobs/mildnet/"}
ACCOUNT = "trainer@my-shop.iam.gserviceaccount.com"


def load(
    options: Mapping[str, str | None] | None = None,
    file: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> VertexSettings:
    values = {f"MILDNET_{key}": value for key, value in (file or {}).items()}
    origins = {key: f"settings.cfg:{number}" for number, key in enumerate(values, start=1)}
    return VertexSettings.load(
        {**NEEDED, **(options or {})}, Settings(values, origins), environment or {}
    )


def refused(**arguments: object) -> str:
    with pytest.raises(UserError) as caught:
        load(**arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_needed_is_enough():
    settings = load()
    assert settings == VertexSettings("my-shop", "europe-west4", "gs://shop-jobs/mildnet")
    assert settings.base_image == BASE_IMAGE
    assert settings.extras is None


@pytest.mark.parametrize("name", NEEDED)
def test_what_is_needed_is_asked_for(name: str):
    said = refused(options={name: None})
    assert said.startswith(f"remote jobs need MILDNET_{name.upper()}: set it in settings.cfg or")
    assert f"give --{name}, such as" in said


def test_options_win_over_environment_over_file(tmp_path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "settings.cfg"
    path.write_text(
        "MILDNET_PROJECT=from-file\nMILDNET_REGION=us-east1\nMILDNET_BUCKET=gs://from-file\n"
        "MILDNET_SPOT=yes\nMILDNET_LABELS='team=a, stage=b'\n"
    )
    environment = {"MILDNET_REGION": "us-west1", "MILDNET_BUCKET": "gs://from-environment"}
    settings = VertexSettings.load(
        {"bucket": "gs://from-option", "spot": "no", "labels": "team=c"},
        Settings.load(path, environment),
    )
    assert (settings.project, settings.region) == ("from-file", "us-west1")
    assert (settings.bucket, settings.spot) == ("gs://from-option", False)
    assert settings.labels == {"team": "c", "stage": "b"}


def test_every_setting_has_an_effect():
    settings = load(
        file={
            "SERVICE_ACCOUNT": ACCOUNT,
            "LABELS": "team=search,cost_centre=42, kind=",
            "SPOT": "Yes",
            "TIMEOUT": "1d2h30m5s",
            "TENSORBOARD": "987",
            "BASE_IMAGE": "python:3.12",
            "EXTRAS": "cpu, wandb",
            "ENV": "WANDB_API_KEY, TZ",
        },
        environment={"WANDB_API_KEY": "secret", "TZ": "", "OTHER": "x"},
    )
    assert settings.service_account == ACCOUNT
    assert settings.labels == {"team": "search", "cost_centre": "42", "kind": ""}
    assert settings.spot is True
    assert settings.timeout == 86400 + 2 * 3600 + 30 * 60 + 5
    assert settings.tensorboard == "projects/my-shop/locations/europe-west4/tensorboards/987"
    assert settings.base_image == "python:3.12"
    assert settings.extras == ("cpu", "wandb")
    assert settings.environment == {"WANDB_API_KEY": "secret", "TZ": ""}
    assert "secret" not in repr(settings)
    known = {key for key in KEYS if key.startswith("MILDNET_")}
    for name in ("JOB_DIR", "DATA_PATH"):  # are read by the job config
        known.remove(f"MILDNET_{name}")
    read = {"PROJECT", "REGION", "BUCKET", "IMAGE"} | {
        *("SERVICE_ACCOUNT", "LABELS", "SPOT", "TIMEOUT", "TENSORBOARD"),
        *("BASE_IMAGE", "EXTRAS", "ENV"),
    }
    assert known == {f"MILDNET_{name}" for name in read}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("project", "My-Shop", "not the id of a project"),
        ("project", "shop", "not the id of a project"),
        ("project", "my-shop-", "not the id of a project"),
        ("region", "europe", "not a region of Google Cloud, such as europe-west4"),
        ("region", "Europe-West4", "not a region"),
        ("region", "europe-west4-a", "a zone, and jobs run in a region: europe-west4"),
        ("bucket", "shop-jobs/mildnet", "write it as gs://shop-jobs/mildnet"),
        ("bucket", "gs://", "'' is no name of a bucket"),
        ("bucket", "gs://Shop/x", "'Shop' is no name of a bucket: lower-case letters"),
        ("bucket", "gs://ab", "3 to 63 characters"),
        ("bucket", f"gs://{'a' * 64}", "3 to 63 characters"),
        ("bucket", "gs://my-google-jobs", "no 'google' in it"),
        ("bucket", "gs://googjobs", "no 'google' in it"),
        ("bucket", "gs://192.168.5.4", "no address"),
        ("bucket", "gs://a..b", "no '..'"),
        ("bucket", "gs://shop-jobs/../x", "is no folder to use"),
        ("bucket", "gs://shop-jobs//x", "is no folder to use"),
        ("bucket", "gs://shop-jobs/a b", "is no folder to use"),
        ("service_account", "me@example.com", "not the address of a service account"),
        ("service_account", "trainer", "not the address of a service account"),
        ("labels", "team", "'team' is no label; write it as key=value"),
        ("labels", "Team=x", "'Team' in the label 'Team=x': lower-case letters"),
        ("labels", "team=Search", "'Search' in the label"),
        ("labels", "team=a b", "'a b' in the label"),
        ("labels", "1team=x", "does not begin with a letter"),
        ("labels", "=x", "does not begin with a letter"),
        ("labels", "a=1,a=2", "the label 'a' is given twice"),
        ("labels", f"{'k' * 64}=x", "the key of a label has at most 63 characters, not 64"),
        ("labels", f"k={'x' * 64}", "the value of a label has at most 63 characters, not 64"),
        ("labels", ",".join(f"k{n}=x" for n in range(65)), "65 labels; 64 are allowed"),
        ("spot", "maybe", "say yes or no"),
        ("timeout", "5400", "not a time; write it like 45m, 2h30m or 3d; 5400s or 5400m?"),
        ("timeout", "2.5h", "not a time"),
        ("timeout", "30m2h", "not a time"),
        ("timeout", "-1h", "not a time"),
        ("timeout", "0h", "a job needs a minute at least"),
        ("timeout", "59s", "a job needs a minute at least"),
        ("timeout", "366d", "longer than a year (365d)"),
        ("timeout", "999999999d", "longer than a year (365d)"),
        ("timeout", "9" * 20 + "d", "not a time; write it like 45m, 2h30m or 3d"),
        ("timeout", "٣h", "not a time"),
        ("tensorboard", "mine", "not a TensorBoard; give its number, or projects/my-shop/"),
        (
            "tensorboard",
            "projects/1/locations/us-east1/tensorboards/2",
            "it is in us-east1, but the job runs in europe-west4",
        ),
        ("image", "My Image", "not the name of an image"),
        ("image", "gs://shop/image", "not the name of an image"),
        ("base_image", "python:3.11 -m", "not the name of an image"),
        (
            "base_image",
            "europe-docker.pkg.dev/vertex-ai/training/tf-gpu.2-17.py310:latest",
            "it has Python 3.10, and mildnet needs 3.11 or later",
        ),
        (
            "base_image",
            "us-docker.pkg.dev/vertex-ai/training/tf-tpu.2-15.cp310:latest",
            "it has Python 3.10",
        ),
        ("base_image", "python:3.10-slim", "it has Python 3.10, and mildnet needs 3.11 or later"),
        ("base_image", "docker.io/library/python:3.9.18", "it has Python 3.9"),
        ("base_image", "python:2", "it has Python 2, and"),
        ("extras", "cpu gpu", "'cpu gpu' is no name of an extra"),
        ("env", "KEY=value", "'KEY=value' is no name of a variable; values are taken from here"),
        ("env", "NOT_THERE", "the variable NOT_THERE is not set here"),
        ("env", "AIP_MODEL_DIR", "the variable AIP_MODEL_DIR is Vertex AI's own"),
        ("env", "TZ,CLOUD_ML_JOB_ID", "the variable CLOUD_ML_JOB_ID is Vertex AI's own"),
        ("env", "TF_CONFIG", "the variable TF_CONFIG is Vertex AI's own, which sets it in each"),
        ("env", "CLUSTER_SPEC", "the variable CLUSTER_SPEC is Vertex AI's own"),
        ("env", ",".join(f"V{n}" for n in range(101)), "101 variables; 100 are allowed"),
    ],
)
def test_what_is_refused(name: str, text: str, said: str):
    option = "label" if name == "labels" else name.replace("_", "-")
    there = {"TZ": "UTC", "AIP_MODEL_DIR": "x", "CLOUD_ML_JOB_ID": "1", "TF_CONFIG": "{}"}
    message = refused(options={name: text}, environment=there)
    assert message.startswith(f"--{option} {text}: ")
    assert said in message
    message = refused(options={name: None}, file={name.upper(): text}, environment=there)
    assert message.startswith(f"settings.cfg:1: MILDNET_{name.upper()}={text}: ")


def test_a_variable_is_named_once():
    with pytest.raises(UserError, match=r"^environment variable MILDNET_PROJECT=shop: not the id"):
        VertexSettings.load({}, Settings.load(environment={"MILDNET_PROJECT": "shop"}))


def test_a_tensorboard_needs_a_service_account():
    said = refused(file={"TENSORBOARD": "987"})
    assert said.startswith("settings.cfg:1: MILDNET_TENSORBOARD=987: writing to a TensorBoard of ")
    assert "--service-account" in said


def test_one_image_is_enough():
    said = refused(options={"image": "a/b:1"}, file={"BASE_IMAGE": "python:3.12"})
    assert said.startswith(
        "settings.cfg:1: MILDNET_BASE_IMAGE=python:3.12 does not go with --image a/b:1: "
    )
    said = refused(options={"extras": "cpu,mat"}, file={"IMAGE": "a/b:1"})
    assert said == (
        "--extras cpu,mat does not go with settings.cfg:1: MILDNET_IMAGE=a/b:1: an image with "
        "mildnet in it needs no extras installed; leave one of the two out"
    )


def test_a_key_of_the_settings_is_passed_on(tmp_path):
    path = tmp_path / "settings.cfg"
    path.write_text("HYPERDASH_KEY=secret\n")
    settings = VertexSettings.load(
        {**NEEDED, "env": "HYPERDASH_KEY"}, Settings.load(path, {}), {"OTHER": "x"}
    )
    assert settings.environment == {"HYPERDASH_KEY": "secret"}
    assert "secret" not in repr(settings)
    both = Settings.load(path, {"HYPERDASH_KEY": "newer"})
    found = VertexSettings.load({**NEEDED, "env": "HYPERDASH_KEY"}, both, {"HYPERDASH_KEY": ""})
    assert found.environment == {"HYPERDASH_KEY": "newer"}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("gs://abc", "gs://abc"),
        ("gs://abc/", "gs://abc"),
        ("gs://my.shop.example/jobs/mildnet/", "gs://my.shop.example/jobs/mildnet"),
        (f"gs://{'a' * 63}", f"gs://{'a' * 63}"),
        ("gs://0_a-b/Größe=1", "gs://0_a-b/Größe=1"),
    ],
)
def test_places(text: str, place: str):
    assert bucket_folder(text) == place


@pytest.mark.parametrize(
    ("text", "count"),
    [("30s", 30), ("45m", 2700), ("2h30m", 9000), ("2h 30m", 9000), ("365d", 365 * 86400)],
)
def test_times(text: str, count: int):
    assert seconds(text) == count


@pytest.mark.parametrize(
    "image",
    [
        "mildnet",
        "python:3.11-slim",
        "python:3-slim",
        "python:latest",
        "my/python:3.12",
        "europe-west4-docker.pkg.dev/my-shop/images/mildnet:2026-01-01",
        "localhost:5000/a/b@sha256:" + "0" * 64,
        "us-docker.pkg.dev/vertex-ai/training/tf-gpu.2-19.py311:latest",
    ],
)
def test_images(image: str):
    assert load({"base_image": image}).base_image == image


@pytest.mark.parametrize(
    "account",
    [
        ACCOUNT,
        "trainer@my-shop.example.com.iam.gserviceaccount.com",
        "123456789-compute@developer.gserviceaccount.com",
        "my-shop@appspot.gserviceaccount.com",
    ],
)
def test_accounts(account: str):
    assert load({"service_account": account}).service_account == account


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ({}, " --project my-shop --region europe-west4"),
        ({"PROJECT": "my-shop"}, " --region europe-west4"),
        ({"PROJECT": "other", "REGION": "europe-west4 "}, " --project my-shop"),
        ({"PROJECT": "my-shop", "REGION": "europe-west4"}, ""),
    ],
)
def test_options_that_lead_to_a_place(file: Mapping[str, str], options: str):
    settings = Settings({f"MILDNET_{key}": value for key, value in file.items()})
    assert place_options("my-shop", "europe-west4", settings) == options
