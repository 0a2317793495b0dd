"""TLS by the process itself: the clients that people use, and renewal under way. Clients that are slow or many: test_crowds.py."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from fakes import wait_until
from served import Server, command

FAKE = ("--engine", "fake", "--model", "x", "--parallel", "1", "--queue-size", "0")
OWN = (*FAKE, "--tls", "own")
QUICK = "import appliance.tls_context; appliance.tls_context.LOOK_EVERY_S = 0.5"
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"

OPENAI = """
import sys, openai
with openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0) as client:
    stream = client.chat.completions.create(model="x", messages=[{"role": "user", "content": "hi"}], stream=True)
    print("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))
"""


def connect(server: Server, stack: ExitStack, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
    """A connection whose handshake is complete."""
    plain = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
    return stack.enter_context((context or server.context).wrap_socket(plain, server_hostname="localhost"))


def fingerprint(server: Server) -> str:
    """What a new connection is shown, as `appliance tls show` writes it."""
    with ExitStack() as stack:
        shown = connect(server, stack).getpeercert(binary_form=True)
    return ":".join(f"{byte:02X}" for byte in hashlib.sha256(shown).digest())


def openai_client(server: Server, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", OPENAI, f"https://localhost:{server.port}/v1"]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})


def curl(server: Server, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["curl", "-sS", "--max-time", "20", *flags, f"https://localhost:{server.port}/health"], capture_output=True, text=True)


# -- the clients that people use ----------------------------------------------------------------------------------------------


def test_curl_and_the_openai_client_trust_the_boxes_own_authority(running_server, tmp_path):
    server = running_server(*OWN)
    downloaded = tmp_path / "downloaded.crt"
    downloaded.write_bytes(server.get("/ca.crt").body)
    assert downloaded.read_bytes() == server.ca.read_bytes()
    for version in ("--tls-max 1.2", "--tlsv1.3"):
        assert json.loads(curl(server, "--cacert", str(downloaded), *version.split()).stdout) == {"status": "ok"}
    told = openai_client(server, SSL_CERT_FILE=str(downloaded))
    assert told.stdout == "echo: hi\n", told.stderr


def test_clients_that_were_not_given_the_authority_refuse(running_server):
    server = running_server(*OWN)
    assert curl(server).returncode == 60
    told = openai_client(server)
    assert told.returncode == 1 and "CERTIFICATE_VERIFY_FAILED" in told.stderr


def test_a_client_that_speaks_tls_1_1_only_is_refused(running_server):
    server = running_server(*OWN)
    client = ssl.create_default_context(cafile=server.ca)
    with pytest.warns(DeprecationWarning):
        client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    client.set_ciphers("DEFAULT:@SECLEVEL=0")
    with ExitStack() as stack, pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
        connect(server, stack, client)


@pytest.mark.parametrize("data", [LIVEZ, b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n{}\n", b"\0rubbish"])
def test_plain_http_is_told_that_https_is_spoken(running_server, data):
    server = running_server(*OWN)
    head, _, body = server.raw(data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    error = json.loads(body)["error"]
    assert "https://" in error["message"] and set(error) == {"message", "type", "param", "code"}
    assert server.get("/livez").status == 200


def test_the_cookie_of_who_signs_in_goes_over_tls_only(running_server):
    server = running_server(*OWN)
    code = re.search(r"/admin/first\?code=(\S+) ", server.log)[1]
    form = f"code={code}&name=Ann&password=correct+horse+battery".encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": f"https://127.0.0.1:{server.port}", "Host": f"127.0.0.1:{server.port}"}
    entered = server.request("POST", "/admin/first", form, **headers)
    assert entered.status == 303 and "; Secure" in entered.headers["set-cookie"], entered.body


# -- renewal ------------------------------------------------------------------------------------------------------------------


def test_a_renewed_certificate_is_shown_without_dropping_a_stream(running_server):
    server = running_server(*OWN, before=QUICK, APPLIANCE_FAKE_STEP_S="0.02")
    before, worker = fingerprint(server), server.worker_pid
    stream = server.stream("!long", max_tokens=500, timeout_s=60, stream_options={"include_usage": True})
    stream.first_text()
    made = command("tls", "renew", "--json")
    assert made.returncode == 0, made.stderr
    wanted = json.loads(made.stdout)["sha256"]
    wait_until(lambda: fingerprint(server) == wanted, 20.0, "the new certificate")
    assert wanted != before and not stream.done
    stream.rest()
    assert stream.done and stream.events[-1]["usage"]["completion_tokens"] == 500 and server.worker_pid == worker
    assert server.gauge("appliance_tls_certificate_ends_seconds") > time.time() + 390 * 86400


def test_the_sites_own_files_are_read_again_and_a_wrong_pair_is_not_taken(running_server, tmp_path):
    for name in "ab":
        made = command("tls", "make", "--data-dir", str(tmp_path / name))
        assert made.returncode == 0, made.stderr
    first, second = ((tmp_path / name / "tls" / "server.pem").read_bytes() for name in "ab")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(first)
    key.write_bytes(first)
    server = running_server(*FAKE, "--tls-cert", str(cert), "--tls-key", str(key), healthy=False, before=QUICK)
    server.context.load_verify_locations(tmp_path / "a" / "tls" / "ca.crt")
    server.context.load_verify_locations(tmp_path / "b" / "tls" / "ca.crt")
    server.wait_healthy()
    before = fingerprint(server)
    cert.write_bytes(second)
    wait_until(lambda: "does not belong to the certificate" in server.log, 20.0, "the refusal")
    assert fingerprint(server) == before
    key.write_bytes(second)
    wait_until(lambda: fingerprint(server) != before, 20.0, "the new pair")
    assert server.get("/ca.crt").status == 404


def test_a_pair_that_is_none_ends_the_start_with_78(tmp_path):
    for name in "ab":
        command("tls", "make", "--data-dir", str(tmp_path / name))
    pair = [str(tmp_path / name / "tls" / "server.pem") for name in "ab"]
    ended = command("serve", *FAKE, "--tls-cert", pair[0], "--tls-key", pair[1], "--port", "0")
    assert ended.returncode == 78 and "the key does not belong to the certificate" in ended.stderr and "Traceback" not in ended.stderr
