"""What a remote job needs to know of its place, checked before anything leaves this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from trainer.config import Settings, UserError

T = TypeVar("T")

#: Labels of a resource of Google Cloud, and characters of a label's key or value, at most.
MOST_LABELS, LONGEST_LABEL = 64, 63
#: Environment variables of a job, at most.
MOST_VARIABLES = 100
#: Variables that the service sets itself.
_OF_SERVICE = re.compile(r"(AIP|CLOUD_ML)_\w+|TF_CONFIG|CLUSTER_SPEC")
#: Seconds that a time may be, at most; Vertex AI's own limits are below it.
LONGEST = 365 * 86400
#: Without an image with mildnet in it, the package and TensorFlow are installed in this one.
BASE_IMAGE = "python:3.11-slim"

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_YES, _NO = ("yes", "true", "1", "on"), ("no", "false", "0", "off")


@dataclass(frozen=True)
class VertexSettings:
    """Project, place and form of remote jobs. Make them with :meth:`load`.

    Attributes:
        project: id or number of the project.
        region: such as `europe-west4`.
        bucket: `gs://bucket` or `gs://bucket/folder`, without a slash at the end.
        service_account: e-mail address of the account that jobs run as; "" for Vertex AI's own.
        labels: key to value.
        spot: whether on spot machines.
        timeout: the longest time that a job may run, seconds; None for the service's default.
        tensorboard: whole name of a TensorBoard; "" for none.
        image: container image with mildnet in it; "" to install the package in `base_image`.
        base_image: image that the package is installed in.
        extras: extras to install it with; None: those that shape and config need.
        environment: variables that jobs get.
    """

    project: str
    region: str
    bucket: str
    service_account: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    spot: bool = False
    timeout: int | None = None
    tensorboard: str = ""
    image: str = ""
    base_image: str = BASE_IMAGE
    extras: tuple[str, ...] | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def load(
        cls,
        options: Mapping[str, str | None] | None = None,
        settings: Settings | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> VertexSettings:
        """Read the settings of remote jobs, and check each.

        Args:
            options: of a command, which win: by the setting's name without `MILDNET_`, in lower
                case (`region`, `service_account`, ...). None and "" count as not given.
            settings: default :meth:`trainer.config.Settings.load`.
            environment: where the variables that `MILDNET_ENV` names are, besides the settings;
                default `os.environ`.

        Raises:
            UserError: one is missing or wrong, with the place it comes from.
        """
        given = _Given.of(options, settings)
        project, region = given.place()
        account = given.take("service_account", _account, "")
        tensorboard = given.take(
            "tensorboard", lambda text: _tensorboard(text, project, region), ""
        )
        if tensorboard and not account:
            raise UserError(
                f"{given.where('tensorboard')}: writing to a TensorBoard of Vertex AI needs a "
                "service account; set MILDNET_SERVICE_ACCOUNT, or give --service-account"
            )
        image = given.take("image", _image, "")
        for name, needs in (("base_image", "no other"), ("extras", "no extras installed")):
            if image and given.text(name):
                raise UserError(
                    f"{given.where(name)} does not go with {given.where('image')}: an image with "
                    f"mildnet in it needs {needs}; leave one of the two out"
                )
        variables = os.environ if environment is None else environment
        # A key may be in the file of settings as well as in the environment.
        variables = {**variables, **given.settings.values}
        return cls(
            project,
            region,
            given.needed("bucket", bucket_folder, "gs://my-shop-jobs/mildnet"),
            account,
            given.labels(),
            given.take("spot", _yes, False),
            given.take("timeout", _timeout, None),
            tensorboard,
            image,
            given.take("base_image", _image, BASE_IMAGE),
            given.take("extras", _extras, None),
            given.take("env", lambda text: _variables(text, variables), {}),
        )


def project_and_region(
    options: Mapping[str, str | None], settings: Settings | None = None
) -> tuple[str, str]:
    """Return where jobs are: all that is needed to look at them.

    Args:
        options: of a command, `project` and `region`, which win; None and "" count as not given.
        settings: default :meth:`trainer.config.Settings.load`.

    Raises:
        UserError: one is missing or wrong, with the place it comes from.
    """
    return _Given.of(options, settings).place()


def place_options(project: str, region: str, settings: Settings | None = None) -> str:
    """Return the options, each after a space, that make a command look at jobs there.

    Args:
        project: where the jobs are.
        region: where the jobs are.
        settings: default :meth:`trainer.config.Settings.load`. What they say needs no option.
    """
    settled = Settings.load() if settings is None else settings
    return "".join(
        f" --{name} {value}"
        for name, value in (("project", project), ("region", region))
        if settled.get(_key(name)).strip() != value
    )


class _Given:
    """Options over settings, each with the words that say where it was given."""

    @classmethod
    def of(cls, options: Mapping[str, str | None] | None, settings: Settings | None) -> _Given:
        loaded = Settings.load() if settings is None else settings
        return cls({k: v for k, v in (options or {}).items() if v}, loaded)

    def __init__(self, options: Mapping[str, str | None], settings: Settings) -> None:
        self.options = options
        self.settings = settings

    def text(self, name: str) -> str:
        return self.options.get(name) or self.settings.get(_key(name))

    def where(self, name: str) -> str:
        if self.options.get(name):
            # The option for one label is called after one.
            option = "label" if name == "labels" else name.replace("_", "-")
            return f"--{option} {self.options[name]}"
        key = _key(name)
        origin, value = self.settings.origins[key], self.settings.get(key)
        # That of a variable ends with its name.
        return f"{origin}={value}" if origin.endswith(f" {key}") else f"{origin}: {key}={value}"

    def take(self, name: str, read: Callable[[str], T], default: T) -> T:
        text = self.text(name).strip()
        if not text:
            return default
        try:
            return read(text)
        except ValueError as error:
            raise UserError(f"{self.where(name)}: {error}") from None

    def labels(self) -> dict[str, str]:
        """Return the labels of the settings, with those of the options over them."""
        nothing: dict[str, str] = {}
        settled = _Given({}, self.settings).take("labels", labels_of, nothing)
        return {**settled, **self.take("labels", labels_of, nothing)}

    def needed(self, name: str, read: Callable[[str], str], example: str) -> str:
        if not self.text(name).strip():
            raise UserError(
                f"remote jobs need {_key(name)}: set it in settings.cfg or the environment, or "
                f"give --{name}, such as {example}"
            )
        return self.take(name, read, "")

    def place(self) -> tuple[str, str]:
        return (
            self.needed("project", _project, "my-shop"),
            self.needed("region", _region, "europe-west4"),
        )


def _key(name: str) -> str:
    return f"MILDNET_{name.upper()}"


def _project(text: str) -> str:
    if not re.fullmatch(r"([a-z][a-z0-9.-]*:)?[a-z][a-z0-9-]{4,28}[a-z0-9]|[0-9]{6,}", text):
        raise ValueError(
            "not the id of a project: 6 to 30 lower-case letters, digits and -, the first a letter"
        )
    return text


def _region(text: str) -> str:
    zone = re.fullmatch(r"([a-z]+-[a-z]+\d+)-[a-z]", text)
    if zone:
        raise ValueError(f"a zone, and jobs run in a region: {zone[1]}")
    if not re.fullmatch(r"[a-z]+-[a-z]+\d+", text):
        raise ValueError("not a region of Google Cloud, such as europe-west4 or us-central1")
    return text


def bucket_folder(text: str) -> str:
    """Return `gs://bucket/folder` as it is used: without a slash at the end.

    Raises:
        ValueError: the bucket's name breaks the rules of Cloud Storage, or the folder would be
            trouble in paths.
    """
    if not text.startswith("gs://"):
        raise ValueError(f"write it as gs://{text.strip('/') or 'bucket'}")
    bucket, _, folder = text.removeprefix("gs://").partition("/")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9_.-]*[a-z0-9])?", bucket):
        raise ValueError(
            f"{bucket!r} is no name of a bucket: lower-case letters, digits, -, _ and ., beginning "
            "and ending with a letter or digit"
        )
    most = 222 if "." in bucket else 63
    if not 3 <= len(bucket) <= most or any(len(part) > 63 for part in bucket.split(".")):
        raise ValueError(f"{bucket!r} is no name of a bucket, which has 3 to 63 characters")
    if (
        bucket.startswith("goog")
        or "google" in bucket
        or ".." in bucket
        or re.fullmatch(r"[\d.]+", bucket)
    ):
        raise ValueError(
            f"{bucket!r} is no name of a bucket: no address, no '..', no 'google' in it"
        )
    parts = folder.removesuffix("/").split("/") if folder.removesuffix("/") else []
    if any(not re.fullmatch(r"\w[\w.+=-]*", part) for part in parts):
        raise ValueError(
            f"{folder!r} is no folder to use: letters, digits, _, ., +, = and - do, after a letter "
            "or digit, between single slashes"
        )
    return "/".join((f"gs://{bucket}", *parts))


def _account(text: str) -> str:
    forms = (
        r"[a-z][a-z0-9-]{4,28}[a-z0-9]@[a-z][a-z0-9-]*[a-z0-9](\.[a-z0-9.-]+)?\.iam"
        r"\.gserviceaccount\.com",
        r"\d+-compute@developer\.gserviceaccount\.com",
        r"[a-z][a-z0-9-]*[a-z0-9]@appspot\.gserviceaccount\.com",
    )
    if not any(re.fullmatch(form, text) for form in forms):
        raise ValueError(
            "not the address of a service account, such as trainer@my-shop.iam.gserviceaccount.com"
        )
    return text


def labels_of(text: str) -> dict[str, str]:
    """Return the labels of `key=value, key=value`.

    Raises:
        ValueError: one has another form, or there are too many.
    """
    labels: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals:
            raise ValueError(f"{part!r} is no label; write it as key=value")
        if key in labels:
            raise ValueError(f"the label {key!r} is given twice")
        for what, word in (("key", key), ("value", value)):
            if len(word) > LONGEST_LABEL:
                raise ValueError(
                    f"the {what} of a label has at most {LONGEST_LABEL} characters, not {len(word)}"
                )
            # Letters of any script that has no upper case, or that are in lower case.
            if (
                not all(c in "_-" or c.isdigit() or c.isalpha() for c in word)
                or word.lower() != word
            ):
                raise ValueError(
                    f"{word!r} in the label {part!r}: lower-case letters, digits, _ and - do"
                )
        if not key[:1].isalpha():
            raise ValueError(f"the key of the label {part!r} does not begin with a letter")
        labels[key] = value
    if len(labels) > MOST_LABELS:
        raise ValueError(f"{len(labels)} labels; {MOST_LABELS} are allowed")
    return labels


def _yes(text: str) -> bool:
    if text.lower() not in (*_YES, *_NO):
        raise ValueError("say yes or no")
    return text.lower() in _YES


def seconds(text: str) -> int:
    """Return the seconds of a time such as `2h30m`, `3d` or `90m`.

    Raises:
        ValueError: it has another form, or is longer than a year.
    """
    words = r"\s*".join(rf"(?:(\d{{1,9}}){unit})?" for unit in _UNITS)
    match = re.fullmatch(words, text.strip(), re.ASCII)
    if not match or not any(match.groups()):
        unit = f"; {text}s or {text}m?" if text.isdigit() else ""
        raise ValueError(f"not a time; write it like 45m, 2h30m or 3d{unit}")
    total = sum(int(n or 0) * unit for n, unit in zip(match.groups(), _UNITS.values(), strict=True))
    if total > LONGEST:
        raise ValueError(f"longer than a year ({LONGEST // 86400}d)")
    return total


def _timeout(text: str) -> int:
    found = seconds(text)
    if found < 60:
        raise ValueError("a job needs a minute at least")
    return found


def _tensorboard(text: str, project: str, region: str) -> str:
    if re.fullmatch(r"\d+", text):
        return f"projects/{project}/locations/{region}/tensorboards/{text}"
    match = re.fullmatch(r"projects/[a-z0-9.:-]+/locations/([a-z0-9-]+)/tensorboards/\d+", text)
    if not match:
        raise ValueError(
            "not a TensorBoard; give its number, or "
            f"projects/{project}/locations/{region}/tensorboards/NUMBER"
        )
    if match[1] != region:
        raise ValueError(f"it is in {match[1]}, but the job runs in {region}; both have to be one")
    return text


def _image(text: str) -> str:
    host = r"[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?(:\d+)?"
    part = r"[a-z0-9]+((\.|_{1,2}|-+)[a-z0-9]+)*"
    end = r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?"
    if not re.fullmatch(rf"({host}/)?{part}(/{part})*{end}", text):
        raise ValueError(
            "not the name of an image, such as europe-west4-docker.pkg.dev/my-shop/images/mildnet:1"
        )
    # Images of the service say it in their name, Python's own in the tag.
    version = re.search(r"vertex-ai/training/\S*\.[cp][py](3)(\d+)(?=[:@]|$)", text)
    version = version or re.search(r"(?:^|/)python:(\d+)(?:\.(\d+))?(?![\d])", text)
    if version and (int(version[1]), int(version[2] or 99)) < (3, 11):
        raise ValueError(
            f"it has Python {'.'.join(filter(None, version.groups()))}, and mildnet needs 3.11 or "
            "later; make an image with the Dockerfile, or leave this out"
        )
    return text


def _extras(text: str) -> tuple[str, ...]:
    names = tuple(filter(None, (name.strip() for name in text.split(","))))
    for name in names:
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            raise ValueError(f"{name!r} is no name of an extra")
    return names


def _variables(text: str, environment: Mapping[str, str]) -> dict[str, str]:
    names = list(dict.fromkeys(filter(None, (name.strip() for name in text.split(",")))))
    if len(names) > MOST_VARIABLES:
        raise ValueError(f"{len(names)} variables; {MOST_VARIABLES} are allowed")
    for name in names:
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise ValueError(f"{name!r} is no name of a variable; values are taken from here")
        if _OF_SERVICE.fullmatch(name):
            raise ValueError(f"the variable {name} is Vertex AI's own, which sets it in each job")
        if name not in environment:
            raise ValueError(f"the variable {name} is not set here")
    return {name: environment[name] for name in names}
