"""API keys: lines that hold hashes, where they are read from, and what happens without any."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from service.access.api_key import ApiKey, DefaultStyle, Limits, digest_of, new_secret, read_line, write_line
from service.access.keyring import ReloadingKeyring, read_keyring, require_guard
from service.app import create_app
from service.cli.main import cli
from service.lifecycle import CannotStart
from service.settings import Settings
from tests.support.api_keys import Key, lines
from tests.support.process import PATIENCE_SECONDS, ROOT, command
from tests.support.server import serving
from tests.support.tiny import tiny_generator

DIGEST = "0" * 64


def test_a_key_is_kept_as_its_hash_and_found_by_its_secret() -> None:
    acme, other = Key("acme"), Key("other")
    assert acme.secret not in acme.line
    keyring = read_keyring(Settings(api_keys=lines(acme, other)))
    found = keyring.find(acme.secret)
    assert found is not None
    assert (found.name, found.tenant, found.digest) == ("acme", "acme", digest_of(acme.secret))
    for wrong in ("", acme.secret[:-1], acme.secret + "x", acme.secret.upper(), DIGEST, "schlüssel"):
        assert keyring.find(wrong) is None


def test_each_secret_is_new_and_says_what_it_is() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(re.fullmatch(r"atl_[A-Za-z0-9_-]{43}", secret) for secret in secrets)


names = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
bounds = st.none() | st.integers(1, 10**9 - 1)


styles = st.sampled_from([(None, None), ("sty_a", DefaultStyle("sty_a"))]) | st.sampled_from(
    [("sty_a:0", DefaultStyle("sty_a", 0.0)), ("sc1_-_:1.5", DefaultStyle("sc1_-_", 1.5))]
)


@given(names, st.none() | st.just("") | names, bounds, bounds, styles, st.integers(1, 100))
def test_a_line_reads_back_as_it_was_written(
    name: str,
    tenant: str | None,
    requests: int | None,
    images: int | None,
    style: tuple[str | None, DefaultStyle | None],
    weight: int,
) -> None:
    limits = Limits(requests, images)
    line = write_line("atl_x", name, tenant=tenant, limits=limits, style=style[0], weight=weight)
    assert read_line(line, Limits()) == ApiKey(
        name, name if tenant is None else tenant, digest_of("atl_x"), limits, style[1], weight
    )


def test_a_line_without_limits_has_those_of_the_settings_and_none_lifts_them() -> None:
    limited, unlimited = Key("limited").line, Key("none").line + " requests=none images=5 styles=none"
    settings = Settings(api_keys=f"{limited}\n{unlimited}", requests_per_minute=60, images_per_minute=600)
    assert [key.limits for key in read_keyring(settings).api_keys] == [
        Limits(60, 600, 10_000, 2**30),
        Limits(None, 5, None, 2**30),
    ]


@pytest.mark.parametrize(
    ("line", "part_of_message"),
    [
        ("acme", "after the name acme comes sha256: and 64 hex digits"),
        (f"acme {DIGEST}", "after the name acme comes sha256:"),
        (f"acme sha256:{DIGEST[1:]}", "64 hex digits"),
        (f"acme sha256:{DIGEST[1:]}G", "64 hex digits"),
        (f"ac/me sha256:{DIGEST}", "the name 'ac/me' must be"),
        (f"acme sha256:{DIGEST} tenant=a/b", "the tenant 'a/b' must be"),
        (f"acme sha256:{DIGEST} requests=0", "requests=0 must be a number above 0, or none"),
        (f"acme sha256:{DIGEST} images=-1", "images=-1 must be a number above 0"),
        (f"acme sha256:{DIGEST} images=١", "must be a number above 0"),
        (f"acme sha256:{DIGEST} images=1 images=2", "images is there twice"),
        (f"acme sha256:{DIGEST} colour=blue", "'colour=blue' is not one of tenant=NAME"),
        (f"acme sha256:{DIGEST} weight=0", "weight=0 must be a number from 1 to 100"),
        (f"acme sha256:{DIGEST} weight=none", "weight=none must be a number from 1 to 100"),
        (f"acme sha256:{DIGEST} admin", "'admin' is not one of"),
        (f"acme sha256:{DIGEST} style=", "style= must be a style ID or style code"),
        (f"acme sha256:{DIGEST} style=vivid", "style=vivid must be a style ID or style code"),
        (f"acme sha256:{DIGEST} style=sty_a:1.51", "its strength, 0 to 1.5"),
        (f"acme sha256:{DIGEST} style=sty_a:", "its strength, 0 to 1.5"),
        (f"acme sha256:{DIGEST} style=sty_a style=sty_b", "style is there twice"),
        ("atl_abc", "this is a key itself"),
    ],
)
def test_a_wrong_line_stops_the_start_with_its_number_and_the_reason(
    tmp_path: Path, line: str, part_of_message: str
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n{Key('first').line}\n{line}\n")
    with pytest.raises(CannotStart, match=re.escape(part_of_message)) as refused:
        create_app(Settings(data_dir=tmp_path, api_keys_file=file))
    assert f"Line 4 of {file}" in str(refused.value)
    with pytest.raises(CannotStart, match=r"Entry 1 of ATELIER_API_KEYS is no API key"):
        create_app(Settings(data_dir=tmp_path, api_keys=line))


def test_a_secret_instead_of_a_line_is_not_repeated() -> None:
    secret = new_secret()
    with pytest.raises(ValueError, match="this is a key itself") as refused:
        read_keyring(Settings(api_keys=secret))
    assert secret not in str(refused.value)


def test_the_file_and_the_environment_count_together_and_no_name_twice(tmp_path: Path) -> None:
    file, first, second = tmp_path / "keys", Key("first"), Key("second", tenant="first")
    file.write_text(first.line)
    keyring = read_keyring(Settings(api_keys_file=file, api_keys=second.line))
    assert [keyring.find(key.secret) is not None for key in (first, second)] == [True, True]
    with pytest.raises(ValueError, match=r"Line 1 of .* names first again"):
        read_keyring(Settings(api_keys_file=file, api_keys=Key("first").line))


def test_a_missing_empty_or_binary_file_of_keys_never_admits_everyone(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_keyring(Settings(api_keys_file=file))
    file.write_text("# none yet\n\n")
    with pytest.raises(ValueError, match="holds none; add the line of `atelier keys new NAME`"):
        read_keyring(Settings(api_keys_file=file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="cannot be read: it is not UTF-8"):
        read_keyring(Settings(api_keys_file=file))


def test_a_file_that_changes_counts_at_once_and_one_that_is_broken_changes_nothing(tmp_path: Path) -> None:
    file, first, second, fixed = tmp_path / "keys", Key("first"), Key("second"), Key("fixed")
    file.write_text(first.line)
    keyring = ReloadingKeyring(Settings(api_keys_file=file, api_keys=fixed.line))

    def let_in() -> list[str]:
        keys = [key for key in (fixed, first, second) if (keyring.now.find(key.secret))]
        return [key.line.partition(" ")[0] for key in keys]

    assert let_in() == ["fixed", "first"]
    file.write_text(f"{first.line}\n{second.line}")
    assert let_in() == ["fixed", "first", "second"]
    file.write_text(second.line)
    assert let_in() == ["fixed", "second"]
    for broken in ("", "# none", f"{first.line}\nsecond sha256:0", second.secret):
        file.write_text(broken)
        assert let_in() == ["fixed", "second"]
    file.unlink()
    assert let_in() == ["fixed", "second"]
    written_aside = tmp_path / "written aside"
    written_aside.write_text(first.line)
    written_aside.rename(file)
    assert let_in() == ["fixed", "first"]


def test_a_broken_file_is_logged_once_and_without_its_secrets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, key = tmp_path / "keys", Key("first")
    file.write_text(key.line)
    keyring = ReloadingKeyring(Settings(api_keys_file=file))
    file.write_text(f"{key.line}\n{key.secret}")
    for _ in range(3):
        assert keyring.now.find(key.secret) is not None
    (record,) = (record for record in caplog.records if "api_keys_unusable" in record.message)
    assert "Line 2 of" in record.message
    assert key.secret not in record.message


@pytest.mark.slow
def test_a_key_that_is_added_or_removed_needs_no_restart(tmp_path: Path) -> None:
    file, first, second = tmp_path / "keys", Key("first"), Key("second")
    file.write_text(first.line)
    with serving(Settings(data_dir=tmp_path, api_keys_file=file), tiny_generator()) as server:
        server.wait_until_settled()
        with first.client(server) as old, second.client(server) as new:
            assert [client.get("/v1/models").status_code for client in (old, new)] == [200, 401]
            file.write_text(second.line)
            assert [client.get("/v1/models").status_code for client in (old, new)] == [401, 200]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_without_keys_this_machine_may_call(host: str) -> None:
    settings = Settings(host=host)
    require_guard(settings, read_keyring(settings))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.7", "example.org", "localhost.example.org"])
def test_without_keys_nobody_else_may_call_unless_that_is_said(host: str) -> None:
    settings = Settings(host=host)
    with pytest.raises(ValueError, match=r"ATELIER_API_KEYS_FILE .*ATELIER_ALLOW_ANONYMOUS=true"):
        require_guard(settings, read_keyring(settings))
    for guarded in (Settings(host=host, api_keys=Key("a").line), Settings(host=host, allow_anonymous=True)):
        require_guard(guarded, read_keyring(guarded))


def test_the_command_prints_a_key_and_the_line_that_admits_it() -> None:
    printed = (
        CliRunner()
        .invoke(cli, ["keys", "new", "acme", "--tenant", "", "--images", "30", "--bytes", "7"])
        .stdout
    )
    secret, line = (text.strip() for text in printed.splitlines() if text.startswith("  "))
    found = read_keyring(Settings(api_keys=line)).find(secret)
    assert found == ApiKey("acme", "", digest_of(secret), Limits(None, 30, 10_000, 7))
    assert "once" in printed


def test_the_command_says_what_a_name_may_be() -> None:
    refused = CliRunner().invoke(cli, ["keys", "new", "my key"])
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "the name 'my key' must be 1 to 64 of A-Z" in refused.stderr


@pytest.mark.slow
def test_the_server_does_not_start_where_others_could_call_it_without_keys(tmp_path: Path) -> None:
    arguments = command("serve", "--host", "0.0.0.0", "--port", "0", "--data-dir", tmp_path)
    refused = subprocess.run(
        arguments, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert refused.returncode == 1
    assert "ATELIER_ALLOW_ANONYMOUS=true" in refused.stderr
    assert "Traceback" not in refused.stderr
