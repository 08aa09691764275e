"""The command on a freshly drawn model: it says where it listens, answers there, and ends when it is told to."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import openai
import pytest
import uvicorn

from experiments import serve
from vldac.generate import Engine
from vldac.serve.limits import Limits

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("ending", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_it_serves_until_it_is_stopped(ending):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    environment[serve.KEY_VARIABLE] = "from the environment"
    options = ["--port", "0", "--max-length", "128", "--lanes", "2", "--limits.max-tokens", "9", "--name", "small"]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.serve", "--model", "nano", *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("small: http://127.0.0.1:"), process.stderr.read()
        address = line.split()[-1]
        with openai.OpenAI(base_url=address, api_key="from the environment", max_retries=0, timeout=60) as client:
            message = {"role": "user", "content": "Hello"}
            answer = client.chat.completions.create(model="small", messages=[message], max_tokens=4)
            assert answer.usage.completion_tokens <= 4
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=address, api_key="none", max_retries=0).models.list()
        process.send_signal(ending)
        out, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, told
    assert "Traceback" not in told and out == ""


def refused(capsys, model: str, *arguments: str) -> str:
    assert serve.main(["--model", model, *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    return told


def test_what_can_not_be_served_is_told_in_a_line(capsys, tmp_path, monkeypatch):
    few = ("--port", "0")
    with monkeypatch.context() as environment:
        environment.setenv(serve.KEY_VARIABLE, " \n")
        assert "VLDAC_API_KEY is blank" in refused(capsys, "nano", *few)
    assert "api_key is empty" in refused(capsys, "nano", "--api-key", " ", *few)
    assert "port is 70000; accepted: 0 to 65535" in refused(capsys, "nano", "--port", "70000")
    assert "api_key is empty" in refused(capsys, "nano", "--api-key", "", "--port", "0")
    assert "no such folder" in refused(capsys, str(tmp_path / "nothing"), *few)
    assert "no config.json in it" in refused(capsys, str(tmp_path), *few)
    assert "lanes is 0; accepted: 1 or more" in refused(capsys, "nano", "--lanes", "0", *few)
    assert "max_length is 16, too few to be used: the conversation has" in refused(
        capsys, "nano", "--max-length", "16", *few
    )
    large = refused(capsys, "nano", "--lanes", "4096", "--max-length", str(2**31 - 1), *few)
    assert "lanes, max_length are 4096, 2147483647, whose keys and values take" in large
    assert "host: '' names no host; accepted: names and addresses" in refused(capsys, "nano", "--host", "", *few)
    for name in ("http://gpu.lan", "gpu.lan:8000"):
        told = refused(capsys, "nano", "--allowed-hosts", "gpu.lan", name, *few)
        assert f"allowed_hosts: {name!r} names no host; accepted: names and addresses, no scheme, no port" in told
    told = refused(capsys, "nano", "--trusted-proxies", "10.0.0.1", "proxy.lan", *few)
    assert "trusted_proxies holds 'proxy.lan'; accepted: addresses and networks" in told
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"127.0.0.1, {port}: Address already in use" in refused(capsys, "nano", "--port", port)
    assert "host, port are no.such.host.invalid" in refused(capsys, "nano", "--host", "no.such.host.invalid")


def test_wrong_flags_end_with_code_2(capsys):
    for arguments in (["--model", "nano", "--limits.queue", "-1"], ["--model", "nano", "--dtype", "int8"], []):
        with pytest.raises(SystemExit) as caught:
            sys.exit(serve.main(arguments))
        assert caught.value.code == 2 and "Traceback" not in capsys.readouterr().err


@contextlib.contextmanager
def served(monkeypatch, command: serve.Serve, address: str = "127.0.0.1"):
    """(uvicorn's configuration, call(method, path, **headers) -> status) of a command, without an engine."""
    taken = []
    monkeypatch.setattr("vldac.serve.ending.Server.run", lambda server, sockets: taken.append(server.config))
    engine = object.__new__(Engine)
    engine.max_length = 9
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listening:
        serve.serve(command, engine, listening)
        server = uvicorn.Server(taken[0])
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()

        def call(method: str, path: str, **headers: str) -> int:
            connection = http.client.HTTPConnection(*listening.getsockname()[:2], timeout=60)
            with contextlib.closing(connection):
                connection.request(method, path, headers=headers)
                return connection.getresponse().status

        try:
            while not server.started:
                time.sleep(0.01)
            yield taken[0], call
        finally:
            server.should_exit = True
            thread.join()


def test_a_parser_that_bounds_headers_is_taken_whatever_is_installed(monkeypatch):
    """httptools, which uvicorn prefers where it finds it, takes headers without end."""
    monkeypatch.setattr("uvicorn.protocols.http.auto.AutoHTTPProtocol", "httptools")
    with served(monkeypatch, serve.Serve("nano")) as (config, _):
        assert config.http_protocol_class.__name__ == "H11Protocol"


def test_it_answers_to_its_own_names_and_to_those_it_is_told(monkeypatch):
    def answered(names, address="127.0.0.1", **options):
        with served(monkeypatch, serve.Serve("nano", **options), address) as (_, call):
            return {name for name in names if call("GET", "/v1/models", Host=name) == 200}

    names = {"localhost:80", "127.0.0.1", "[::1]:80", "127.0.0.2", "gpu.lan", "evil.example"}
    own = {"localhost:80", "127.0.0.1", "[::1]:80"}
    assert answered(names) == own
    assert answered(names, "127.0.0.2") == own | {"127.0.0.2"}
    assert answered(names, host="gpu.lan") == own | {"gpu.lan"}  # a name that /etc/hosts gives this machine
    assert answered(names, allowed_hosts=("gpu.lan",)) == own | {"gpu.lan"}
    assert answered(names, allowed_hosts=("*",)) == names
    assert answered(names, "0.0.0.0") == names  # who reaches it, and by which names, nobody knows here
    assert answered(names, "0.0.0.0", host="0.0.0.0", allowed_hosts=("gpu.lan",)) == own | {"gpu.lan"}


def test_it_answers_on_ipv6_loopback(monkeypatch):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with served(monkeypatch, serve.Serve("nano", host="::1"), "::1") as (_, call):
        assert call("GET", "/v1/models") == 200 and call("GET", "/v1/models", Host="evil.example:80") == 403


@pytest.mark.parametrize("trusted", [(), ("10.0.0.0/8",), ("127.0.0.0/8",)])
def test_who_a_client_is_nobody_says_but_a_trusted_proxy(monkeypatch, trusted):
    """Or whoever is on this machine would be another client in every request, and ask without end."""
    command = serve.Serve("nano", limits=Limits(requests_per_minute=1), trusted_proxies=trusted)
    with served(monkeypatch, command) as (_, call):
        asked = [
            call("POST", "/v1/chat/completions", **{"X-Forwarded-For": f"192.0.2.{client}"}) for client in (1, 2)
        ]
    assert asked == ([415, 415] if trusted == ("127.0.0.0/8",) else [415, 429])


def test_a_missing_package_is_named(capsys, monkeypatch):
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'vldac[serve]'" in refused(capsys, "nano", "--port", "0")
