"""An environment, registered or inline: an image or a build, and the routes of a custom container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from azure_lint import names, paths, service
from azure_lint.dockerfile import exposed_ports
from azure_lint.document import read
from azure_lint.finding import Report
from azure_lint.section import Section

if TYPE_CHECKING:
    from pathlib import Path

_ROUTES = ("liveness_route", "readiness_route", "scoring_route")


def check(
    environment: Section,
    *,
    dockerfile: Path | None,
    settings: service.Settings,
    named: bool = True,
    serves: bool = True,
) -> None:
    """`serves`: it answers HTTP, so that it needs routes. A batch deployment's does not."""
    names.check_asset_name(environment, needed=named)
    if environment.has("image") and environment.has("build"):
        environment.report.error(
            environment.where("image"), environment.get("image"), "image and build exclude each other: leave one out"
        )
    elif not environment.has("image") and not environment.has("build"):
        environment.report.missing(
            environment.where("image"),
            "an environment needs an image (or build: {path: …, dockerfile_path: Dockerfile})",
        )
    _check_image(environment)
    built = _check_build(environment)
    environment.choice("os_type", ("linux",), any_case=True)
    if serves:
        _check_routes(environment, built or dockerfile, settings)


def check_use(
    deployment: Section, *, dockerfile: Path | None, settings: service.Settings, serves: bool = True
) -> tuple[str, str] | None:
    """The field `environment` of a deployment: inline, in another file, or a reference, which is answered."""
    if not deployment.required("environment", "azureml:NAME:VERSION, or an environment inline"):
        return None
    value = deployment.get("environment")
    if isinstance(value, str) and value.startswith("file:"):
        path = deployment.folder / value.removeprefix("file:")
        if not paths.is_file(path):
            deployment.report.error(
                deployment.where("environment"), value, f"no such file, seen from {deployment.folder}"
            )
            return None
        # Its findings name that file, and its paths start there.
        report = Report(path, deployment.report.findings)
        mapping = read(path, report)
        inline = None if mapping is None else Section(mapping, report)
    elif isinstance(value, dict):
        inline = deployment.section("environment")
    else:
        return names.check_reference(deployment, "environment", "environment")
    if inline is not None:
        check(inline, dockerfile=dockerfile, settings=settings, named=False, serves=serves)
    return None


def _check_image(environment: Section) -> None:
    image = environment.text("image")
    if image is None:
        return
    where = environment.where("image")
    if any(character.isspace() for character in image):
        environment.report.error(where, image, "must be the name of an image, without spaces: REGISTRY/NAME:TAG")
    elif "<" in image or ">" in image:
        environment.report.warning(where, image, "put in the name of your registry")
    elif "@" not in image and ":" not in image.rsplit("/", 1)[-1]:
        environment.report.warning(where, image, "name a tag or a digest: latest changes under a running deployment")


def _check_build(environment: Section) -> Path | None:
    """Answers with the Dockerfile that is there."""
    build = environment.section("build")
    if build is None:
        return None
    if not build.required("path", "the folder of the build context"):
        return None
    path = build.text("path")
    if path is None or names.is_remote(path):
        return None
    context = build.folder / path
    name = build.text("dockerfile_path") if build.has("dockerfile_path") else "Dockerfile"
    if not paths.is_folder(context):
        build.report.error(build.where("path"), path, f"no such folder, seen from {build.folder}")
        return None
    if name is None:
        return None
    if not paths.is_file(context / name):
        build.report.error(build.where("dockerfile_path"), name, f"no such file in {context}")
        return None
    return context / name


def _check_routes(environment: Section, dockerfile: Path | None, settings: service.Settings) -> None:
    if not environment.required(
        "inference_config",
        "a custom container needs liveness_route, readiness_route and scoring_route, each {path, port}",
    ):
        return
    routes = environment.section("inference_config")
    if routes is None:
        return
    ports = _exposed(environment, dockerfile)
    for name in _ROUTES:
        if not routes.required(name, "a custom container needs all three routes"):
            continue
        route = routes.section(name)
        if route is not None:
            _check_path(route, name)
            _check_port(route, dockerfile, ports, settings)


def _exposed(environment: Section, dockerfile: Path | None) -> set[int] | None:
    if dockerfile is None:
        return None
    try:
        ports = exposed_ports(dockerfile)
    except (OSError, UnicodeDecodeError) as error:
        environment.report.error(
            environment.where("inference_config"), str(dockerfile), f"the Dockerfile cannot be read: {error}"
        )
        return None
    if not ports:
        environment.report.error(
            environment.where("inference_config"),
            str(dockerfile),
            f"the Dockerfile exposes no port: add EXPOSE {service.DEFAULT_PORT}, a local endpoint publishes no other",
        )
        return None
    return ports


def _check_path(route: Section, name: str) -> None:
    if not route.required("path", "as /score"):
        return
    path = route.text("path")
    if path is None:
        return
    where = route.where("path")
    if not path.startswith("/"):
        route.report.error(where, path, "must begin with a slash")
    elif any(character.isspace() for character in path):
        route.report.error(where, path, "must not hold spaces")
    elif name == "liveness_route" and path not in service.LIVENESS_PATHS:
        allowed = " or ".join(service.LIVENESS_PATHS)
        route.report.error(
            where, path, f"must be {allowed}: others do not answer 200 while the model loads, and it is restarted"
        )
    elif name == "readiness_route" and path not in service.READINESS_PATHS:
        route.report.error(where, path, "must be /readyz: others answer 200 before the model is loaded")
    elif name == "scoring_route" and path != "/score":
        route.report.warning(where, path, "/score is what the catalogue's clients, and every local endpoint, ask")


def _check_port(route: Section, dockerfile: Path | None, ports: set[int] | None, settings: service.Settings) -> None:
    if not route.required("port", f"as {service.DEFAULT_PORT}"):
        return
    port = route.integer("port", 1, 65535)
    if port is None:
        return
    if port != settings.port:
        by = f" by {settings.port_variable}" if settings.port_variable else ""
        route.report.error(route.where("port"), port, f"must be {settings.port}: that is where blip2 listens{by}")
    elif ports is not None and port not in ports:
        exposed = ", ".join(map(str, sorted(ports)))
        route.report.error(route.where("port"), port, f"must be one that {dockerfile} exposes: {exposed}")
