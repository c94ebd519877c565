"""What the cpu image holds, and what it does not."""

from __future__ import annotations

import subprocess
import tarfile
import uuid
from typing import TYPE_CHECKING

import pytest
from conftest import IMAGE, ROOT, docker, inspect

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_BYTES = 150_000_000
DEMO = "demo/"
# Whoever gets into the container finds nothing to work with.
TOOLS = (
    "sh",
    "bash",
    "busybox",
    "apt",
    "dpkg",
    "python",
    "python3",
    "perl",
    "gcc",
    "cc",
    "ld",
    "curl",
    "wget",
    "nc",
    "su",
)


@pytest.fixture(scope="module")
def members() -> Iterator[dict[str, tarfile.TarInfo]]:
    """Every file of the image by its path."""
    name = f"blip2-test-{uuid.uuid4().hex[:12]}"
    docker("create", "--name", name, IMAGE)
    try:
        with subprocess.Popen(["docker", "export", name], stdout=subprocess.PIPE) as export:
            assert export.stdout
            with tarfile.open(fileobj=export.stdout, mode="r|") as archive:
                # Docker itself puts these into every container.
                docker_s_own = ("dev/", "proc/", "sys/", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab")
                yield {
                    m.name: m
                    for m in archive
                    if not f"{m.name}/".startswith(docker_s_own) and m.name not in docker_s_own
                }
    finally:
        docker("rm", "--force", name)


def test_the_image_without_weights_is_small(members: dict[str, tarfile.TarInfo]) -> None:
    demo = sum(member.size for name, member in members.items() if name.startswith(DEMO))
    size = inspect(IMAGE)["Size"] - demo
    print(f"\n{IMAGE}: {size / 1e6:.1f} MB, and {demo / 1e6:.1f} MB of demo bundle")
    assert demo > 1_000_000
    assert size <= MOST_BYTES


def test_it_holds_no_tool(members: dict[str, tarfile.TarInfo]) -> None:
    executables = {
        name.rpartition("/")[2] for name, member in members.items() if member.isfile() and member.mode & 0o111
    }
    assert "blip2" in executables
    assert executables.isdisjoint(TOOLS)
    assert not [name for name, member in members.items() if not member.isdir() and name.rpartition("/")[2] in TOOLS]


def test_no_file_gives_rights_to_whoever_runs_it_or_can_be_written(members: dict[str, tarfile.TarInfo]) -> None:
    assert not [name for name, member in members.items() if member.mode & 0o6000], "setuid or setgid"
    assert not [n for n, member in members.items() if member.mode & 0o002 and not member.issym()], "world-writable"
    assert not [name for name, member in members.items() if member.uid != 0], "owned by the service's user"


def test_everybody_can_read_it(members: dict[str, tarfile.TarInfo]) -> None:
    unreadable = [n for n, m in members.items() if not m.issym() and m.mode & (0o005 if m.isdir() else 0o004) == 0]
    assert not unreadable


def test_it_holds_licences_and_authorities(members: dict[str, tarfile.TarInfo]) -> None:
    documents = "usr/share/doc"
    for licence in (
        "blip2/LICENSE",
        "blip2/THIRD-PARTY-LICENSES",
        "blip2/blip2.cdx.json",
        "onnxruntime/onnxruntime-LICENSE",
        "onnxruntime/onnxruntime-ThirdPartyNotices.txt",
        "libc6/copyright",
        "gcc-14-base/copyright",
        "ca-certificates/copyright",
    ):
        assert f"{documents}/{licence}" in members, licence
    assert members[f"{documents}/libstdc++6"].linkname == "gcc-14-base"
    assert "var/lib/dpkg/status.d/libc6" in members  # read by scanners of images
    authorities = [name for name in members if name.startswith("usr/share/ca-certificates/mozilla/")]
    assert len(authorities) > 100
    assert members["etc/ssl/certs/ca-certificates.crt"].size > 100_000


def test_its_settings_are_those_of_a_service() -> None:
    config = inspect(IMAGE)["Config"]
    assert config["User"] == "10001:10001"
    assert list(config["ExposedPorts"]) == ["5001/tcp"]
    assert (config["Entrypoint"], config["Cmd"]) == (["blip2"], ["serve"])
    assert config["Healthcheck"]["Test"] == ["CMD", "blip2", "probe"]
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    assert labels["licenses"] == "MIT"
    assert f'version = "{labels["version"]}"' in (ROOT / "Cargo.toml").read_text()
    assert len(labels["revision"]) == 40 or labels["revision"].endswith("-modified")
    # Nothing of the machine that built it.
    names = {variable.partition("=")[0] for variable in config["Env"]}
    assert names == {"PATH", "AZUREML_MODEL_DIR", "ORT_DISABLE_TELEMETRY"}
