"""The command on a freshly drawn model: it says where it listens, answers there, and ends when it is told to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from experiments import serve
from vldac.generate import Engine

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
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"127.0.0.1, {port}: Address already in use" in refused(capsys, "nano", "--port", port)
    assert "host, port are no.such.host.invalid" in refused(capsys, "nano", "--host", "no.such.host.invalid")


def test_wrong_flags_end_with_code_2(capsys):
    for arguments in (["--model", "nano", "--limits.queue", "-1"], ["--model", "nano", "--dtype", "int8"], []):
        with pytest.raises(SystemExit) as caught:
            sys.exit(serve.main(arguments))
        assert caught.value.code == 2 and "Traceback" not in capsys.readouterr().err


def test_a_parser_that_bounds_headers_is_taken_whatever_is_installed(monkeypatch):
    """httptools, which uvicorn prefers where it finds it, takes headers without end."""
    taken = []
    monkeypatch.setattr("uvicorn.protocols.http.auto.AutoHTTPProtocol", "httptools")
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: taken.append(server.config))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serve.serve(serve.Serve("nano"), object.__new__(Engine), listening)
    (config,) = taken
    config.load()
    assert config.http_protocol_class.__name__ == "H11Protocol"


def test_a_missing_package_is_named(capsys, monkeypatch):
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'vldac[serve]'" in refused(capsys, "nano", "--port", "0")
