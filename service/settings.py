"""How this installation is set up: the environment (`COHORT_*`) over a 0600 file over defaults.

No other module reads either.  The file is `$COHORT_HOME/settings.json`, which an operator writes.  A running control
plane writes the settings it runs with to `$COHORT_HOME/running.json` (0600), and a job's driver, whose environment
holds only `COHORT_HOME` and `COHORT_SETTINGS_FILE`, reads that one: credentials never travel through Ray.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.private_files import read_private, write_private
from workers.data.roots import DataRoots
from workers.faults import parse as parse_faults
from workers.storage import is_remote, open_place

_CREDENTIAL = re.compile(r"secret|token|password|credential|connection_string|account_key", re.IGNORECASE)
_PATH_SEPARATOR = re.compile(f"{re.escape(os.pathsep)}(?!//)")  # the colon of `s3://` separates nothing


class Settings(BaseSettings):
    """One installation.  Paths are absolute once loaded."""

    model_config = SettingsConfigDict(
        env_prefix="COHORT_", extra="ignore", frozen=True, use_attribute_docstrings=True, validate_default=True
    )

    home: Path = Path("var")
    """The folder this installation lives in: database, storage, token, lock."""
    database_url: str = Field(default="", repr=False)
    """SQLAlchemy URL.  Empty: SQLite at `home/cohort.db`."""
    storage: str = ""
    """Where artifacts go: a folder (a path or file:// URI, NFS included), or a bucket and a path in it as a URI (s3://,
    gs://, abfs://).  Empty: `home/storage`."""
    storage_options: dict[str, Any] = Field(default={}, repr=False)
    """What fsspec is to know of an object store: endpoint, credentials.  In the environment: a JSON object."""
    data_roots: Annotated[list[str], NoDecode] = ["data"]
    """Folders, and URIs such as `s3://bucket/team`, that jobs may read data and backbones from.  Without any URI, all
    that `data_schemes` allow.  In the environment: separated as in PATH."""
    tenant_roots: dict[str, list[str]] = {}
    """Tenant -> folders and URIs that its jobs may read from, and nothing else; other tenants read `data_roots`.  In
    the environment: a JSON object."""
    data_schemes: Annotated[list[str], NoDecode] = ["file"]
    """Kinds of places that data may come from: file, s3, gs, abfs, hf.  In the environment: separated by commas."""
    ray_address: str | None = None
    """The Jobs API of an existing Ray cluster (`http://host:8265`).  Left out: a Ray head of our own."""
    ray_token: SecretStr | None = None
    """The cluster's token, if it asks for one."""
    ray_python: str | None = None
    """The Python that drivers are started with on the cluster's machines.  Left out: at the path that this process's
    own has here, as where all run one image."""
    driver_resources: dict[str, float] = {}
    """Ray resources that a driver takes, such as {"cohort_driver": 1}: drivers start on machines that offer these, and
    on no others.  Left out: on Ray's head.  In the environment: a JSON object."""
    link_secret: SecretStr | None = Field(default=None, min_length=32)
    """What links to files and sign-ins are signed with; the same for all control planes of a service.  Left out: made
    once, and kept in `home/link_secret`."""
    session_hours: float = Field(default=12.0, gt=0, le=720)
    """Hours after which a browser that was signed in has to give its key again."""
    host: str = "127.0.0.1"
    """Where the API listens."""
    port: int = Field(default=8080, ge=0, le=65535)
    """Where the API listens."""
    no_auth: bool = False
    """True: the API asks for no key.  Only for a machine that nobody else reaches."""
    poll_seconds: float = Field(default=0.5, gt=0)
    """Seconds between two looks of the coordinator, and of a driver at its wish."""
    lease_seconds: float = Field(default=30.0, gt=0)
    """How long another control plane on the same database waits before it takes over from one that fell silent."""
    requests_per_minute: int = Field(default=1200, ge=0)
    """Requests that one key may send to one control plane within a minute; 0: as many as it likes."""
    max_running_jobs: int = Field(default=2, ge=1)
    """Jobs that hold a Ray Job at the same time; the others are queued."""
    max_attempts: int = Field(default=6, ge=1)
    """Attempts that may die before a job is given up; those that Ray's end took along do not count."""
    backoff_seconds: float = Field(default=10.0, ge=0)
    """The longest wait before a first retry; doubled for every further one, at most six minutes.  The wait itself is
    drawn by chance, so that what broke together does not come back together."""
    stall_seconds: float = Field(default=1800.0, gt=0)
    """How long a driver, or a work on a device, may give no sign of life before it counts as hung and is ended."""
    cancel_grace_seconds: float = Field(default=20.0, ge=0)
    """Seconds a driver has to honour a cancel before its Ray Job is stopped."""
    drain_seconds: float = Field(default=8.0, ge=0)
    """Seconds running drivers have to write checkpoints when the service shuts down."""
    retention_days: float = Field(default=7.0, ge=0)
    """Days for which a deleted job can be restored; then its files and all that is known of it go."""
    finished_retention_days: float | None = Field(default=None, gt=0)
    """Days after which a finished job that is not archived, and to which nothing has happened since, is deleted by
    itself.  Left out: never."""
    audit_days: float | None = Field(default=400.0, gt=0)
    """Days for which the audit log is kept; null: for ever."""
    max_device_workers: int = Field(default=2, ge=1)
    """Device workers one job may hold on CPU; on GPUs, as many as the cluster has room for."""
    gpus_per_worker: float = Field(default=1.0, gt=0, le=1)
    """Share of a GPU that one device worker takes: 0.5 puts two on each."""
    max_gpus: int | None = Field(default=None, ge=1)
    """GPUs that the cluster grows to, where Ray's autoscaler adds machines for works that wait.  Left out: those that
    it has."""
    warm_seconds: float = Field(default=300.0, ge=0)
    """How long a device worker that has nothing to do waits for its tenant's next job, holding its device until others
    need it; 0: it ends with its job."""
    num_cpus: int | None = Field(default=None, ge=1)
    """CPUs the embedded Ray head offers.  Left out: all."""
    log_format: Literal["console", "json"] = "console"
    """How control planes, drivers and group actors write their logs: lines to read, or a JSON object a line."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """From which level on they write.  `debug` adds a line for every request that only looks."""

    faults: str = ""
    """Faults that are made to happen, for tests (`workers.faults`).  Empty: none."""

    @field_validator("faults")
    @classmethod
    def _known_faults(cls, value: str) -> str:
        parse_faults(value)
        return value

    @field_validator("home")
    @classmethod
    def _absolute_home(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @field_validator("data_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: object) -> object:
        return [root for root in _PATH_SEPARATOR.split(value) if root] if isinstance(value, str) else value

    @field_validator("data_roots")
    @classmethod
    def _absolute_roots(cls, value: list[str]) -> list[str]:
        return [_absolute(root) for root in value]

    @field_validator("tenant_roots")
    @classmethod
    def _absolute_tenant_roots(cls, value: dict[str, list[str]]) -> dict[str, list[str]]:
        return {tenant: [_absolute(root) for root in roots] for tenant, roots in value.items()}

    @field_validator("data_schemes", mode="before")
    @classmethod
    def _split_schemes(cls, value: object) -> object:
        return [scheme.strip() for scheme in value.split(",") if scheme.strip()] if isinstance(value, str) else value

    @field_validator("data_schemes")
    @classmethod
    def _known_schemes(cls, value: list[str]) -> list[str]:
        DataRoots(file_roots=(), schemes=tuple(value))
        return value

    @model_validator(mode="before")
    @classmethod
    def _defaults_live_in_home(cls, values: dict) -> dict:
        home = Path(values.get("home") or "var").expanduser().resolve()
        storage = values.get("storage") or str(home / "storage")
        place = open_place(storage)
        storage = storage.rstrip("/") if is_remote(place) else str(place.resolve())
        return {
            **values,
            "database_url": values.get("database_url") or f"sqlite:///{home / 'cohort.db'}",
            "storage": storage,
        }

    @classmethod
    def load(cls, **given: Any) -> Self:
        """The settings of this process; `given` (a command's options) wins over environment and file.

        ValueError if the file can be read by others, or holds what is no setting.
        """
        home = Path(given.get("home") or os.environ.get("COHORT_HOME") or "var").expanduser().resolve()
        path = Path(os.environ.get("COHORT_SETTINGS_FILE") or home / "settings.json")
        values = read_private(path) if path.exists() else {}
        unknown = sorted(set(values) - set(cls.model_fields))
        if unknown:
            raise ValueError(f"{path}: unknown setting(s) {unknown}. Known: {sorted(cls.model_fields)}.")
        for name in (
            cls.model_fields
        ):  # the environment wins over the file; pydantic-settings alone would rank them the other way
            if f"COHORT_{name.upper()}" in os.environ:
                values.pop(name, None)
        try:
            return cls(**{**values, **given, "home": home})
        except ValidationError as error:
            lines = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
            raise ValueError(f"Settings from COHORT_* and {path}: {lines}.") from error

    def write_running(self) -> Path:
        """Writes what this process runs with to `home/running.json`, readable by its owner alone, for the drivers."""
        values = self.model_dump(mode="json", exclude={"link_secret"})  # drivers make no links
        if self.ray_token is not None:
            values["ray_token"] = self.ray_token.get_secret_value()
        write_private(self.running_file, json.dumps(values, indent=1))
        return self.running_file

    @property
    def running_file(self) -> Path:
        return self.home / "running.json"

    @property
    def storage_place(self) -> Path:
        """Where artifacts go, opened."""
        return open_place(self.storage, self.storage_options)

    @property
    def faults_ledger(self) -> Path:
        """Where faults that happened are noted, so that each happens once."""
        return self.home / "faults"

    @property
    def secrets(self) -> set[str]:
        """Credentials among the settings, which no log may show."""
        kept = [secret.get_secret_value() for secret in (self.ray_token, self.link_secret) if secret is not None]
        password = urlsplit(self.database_url).password or ""
        options = [value for name, value in _texts(self.storage_options) if _CREDENTIAL.search(name)]
        return {secret for secret in (*kept, password, unquote(password), *options) if secret}

    @property
    def service_id(self) -> str:
        """What tells this service from others on the same cluster: where its jobs and their files are."""
        database = urlsplit(self.database_url)
        return f"{database.hostname}:{database.port}{database.path} {self.storage}"

    def roots_of(self, tenant: str) -> DataRoots:
        """What a tenant's jobs may read."""
        own = self.tenant_roots.get(tenant)
        roots = self.data_roots if own is None else own
        remote = tuple(root for root in roots if "://" in root)
        return DataRoots(
            file_roots=tuple(root for root in roots if "://" not in root),
            schemes=tuple(self.data_schemes),
            remote_roots=None if own is None and not remote else remote,
            closed=(str(self.home), self.storage),
        )


def _texts(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every text in an object of objects, with its name."""
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _texts(inner)
        elif isinstance(inner, str):
            yield name, inner


def _absolute(root: str) -> str:
    """A root as it is compared: a folder with every link resolved, or a URI of a known kind."""
    scheme, separator, rest = root.removeprefix("file://").partition("://")
    if not separator:
        return str(Path(scheme).expanduser().resolve())
    return DataRoots(file_roots=(), schemes=(scheme.lower(),)).check(f"{scheme}://{rest}")


def child_environment() -> dict[str, str]:
    """The environment for a Ray head of our own: this process's, but nothing that sets up another Ray."""
    refused = ("COHORT_", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_", "RAY_JOB_")
    return {name: value for name, value in os.environ.items() if not name.startswith(refused)}
