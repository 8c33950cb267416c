"""pip's settings, as the user has them, handed on to uv and to image builds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.packages.index import hide_password
from runner.packages.pip_settings import Registry, read_registry

MIRROR = "https://mirror.example/simple"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder whose pip.conf, in the new place and in the old, names a mirror."""
    for place, text in {
        ".pip": "[global]\nindex-url = https://old.example/simple\ntimeout = 3\n",
        ".config/pip": f"[global]\nindex-url = {MIRROR}\ntrusted-host = mirror.example\n",
    }.items():
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "pip.conf").write_text(text)
    return tmp_path


def environ(home: Path, **variables: str) -> dict[str, str]:
    return {"HOME": str(home), **variables}


def test_pip_conf_is_read_and_the_newer_place_wins(home: Path) -> None:
    registry = read_registry(environ(home))
    assert registry.index_url == MIRROR
    assert registry.trusted_hosts == ("mirror.example",)


def test_variables_win_over_pip_conf(home: Path) -> None:
    registry = read_registry(environ(home, PIP_INDEX_URL="https://env.example/"))
    assert registry.index_url == "https://env.example/"
    assert registry.trusted_hosts == ("mirror.example",)


@pytest.mark.parametrize(
    ("chosen", "expected"), [("own.conf", "https://own.example/"), ("/dev/null", "")]
)
def test_pip_config_file(home: Path, chosen: str, expected: str) -> None:
    (home / "own.conf").write_text("[install]\nindex-url = https://own.example/\n")
    registry = read_registry(environ(home, PIP_CONFIG_FILE=str(home / chosen)))
    assert registry.index_url == expected


def test_xdg_config_home(home: Path) -> None:
    folder = home / "elsewhere" / "pip"
    folder.mkdir(parents=True)
    (folder / "pip.conf").write_text("[global]\nindex-url = https://xdg.example/\n")
    registry = read_registry(environ(home, XDG_CONFIG_HOME=str(folder.parent)))
    assert registry.index_url == "https://xdg.example/"


def test_several_values(home: Path) -> None:
    (home / "own.conf").write_text(
        "[global]\nextra-index-url =\n  https://one.example/\n  https://two.example/\n"
    )
    registry = read_registry(environ(home, PIP_CONFIG_FILE=str(home / "own.conf")))
    assert registry.extra_index_urls == ("https://one.example/", "https://two.example/")


def test_a_broken_pip_conf_is_passed_over(home: Path) -> None:
    (home / "own.conf").write_text("index-url = without a section\n")
    chosen = environ(home, PIP_CONFIG_FILE=str(home / "own.conf"))
    assert read_registry(chosen).index_url == MIRROR


@pytest.mark.parametrize("variable", ["PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_certificates(home: Path, variable: str) -> None:
    bundle = home / "ca.pem"
    bundle.write_text("certificates")
    # Without this machine's own pip.conf, which may name some.
    alone = environ(home, PIP_CONFIG_FILE=os.devnull)
    assert read_registry({**alone, variable: str(bundle)}).ca_bundle == str(bundle)
    # One that is not there would make every download fail.
    assert read_registry({**alone, variable: str(home / "no")}).ca_bundle == ""


def test_pips_certificates_win(home: Path) -> None:
    for name in ("pip.pem", "ssl.pem"):
        (home / name).write_text("certificates")
    chosen = environ(home, PIP_CERT=f"{home}/pip.pem", SSL_CERT_FILE=f"{home}/ssl.pem")
    assert read_registry(chosen).ca_bundle == f"{home}/pip.pem"


FULL = Registry(MIRROR, ("https://extra.example/",), ("/opt/wheels", "/srv"), "/ca.pem", ("a", "b"))


def test_uvs_variables() -> None:
    assert FULL.make_uv_environment() == {
        "UV_NO_CONFIG": "1",
        "UV_DEFAULT_INDEX": MIRROR,
        "SSL_CERT_FILE": "/ca.pem",
        "UV_INSECURE_HOST": "a b",
        "UV_INDEX": "https://extra.example/",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/opt/wheels,/srv",
    }
    assert Registry().make_uv_environment() == {"UV_NO_CONFIG": "1"}


def test_a_lock_does_not_depend_on_this_machines_folders() -> None:
    assert not {"UV_INDEX", "UV_FIND_LINKS"} & FULL.make_uv_environment(main_only=True).keys()


def test_pip_conf_for_builds_names_what_a_container_can_reach() -> None:
    registry = Registry(MIRROR, ("file:///opt/extra", "https://extra.example/"), (), "", ("a",))
    text = registry.render_pip_conf()
    assert f"index-url = {MIRROR}" in text and "https://extra.example/" in text
    assert "file:" not in text
    assert Registry().render_pip_conf() == ""


@pytest.mark.parametrize(
    ("links", "offline"), [("/wheels", True), ("https://mirror.example/wheels", False)]
)
def test_no_index_keeps_uv_off_the_network(home: Path, links: str, offline: bool) -> None:
    """uv has no variable for it; with folders alone, offline is the same."""
    registry = read_registry(environ(home, PIP_NO_INDEX="1", PIP_FIND_LINKS=links))
    assert registry.make_uv_environment()["UV_FIND_LINKS"] == links
    assert ("UV_OFFLINE" in registry.make_uv_environment()) == offline
    assert "UV_OFFLINE" not in read_registry(environ(home, PIP_NO_INDEX="0")).make_uv_environment()


@pytest.mark.parametrize("secret", ["", "user:secret@", "user:se@cret@"])
def test_no_password_is_shown(secret: str) -> None:
    assert hide_password(f"https://{secret}index.example/simple") == "https://index.example/simple"
