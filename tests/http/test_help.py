"""The help page: what it names is there."""

from __future__ import annotations

import re

import openai
from in_process import on_a_socket

from appliance.config import BY_NAME


def test_what_it_names_is_there(make_service):
    service = make_service(people=True)
    page = service.client.get("/help").get_data(True)
    for address in set(re.findall(r'href="(/[^"]*)"', page)):
        assert service.client.get(address).status_code in (200, 302, 401), address
    for name in re.findall(r"<code>([a-z]+_[a-z_]+)</code>", page):
        assert name in BY_NAME, name


def test_its_example_for_programs_works_at_its_own_address(service):
    with on_a_socket(service) as address:
        page = service.client.get("/help", base_url=address).get_data(True)
        code = re.search(r"<code>from openai.*?</code>", page, re.S)[0][6:-7].replace("&#34;", '"')
        found: dict = {}
        exec(code.replace("client =", "client = made ="), {"__builtins__": __builtins__}, found)
        found["made"].close()
    assert isinstance(found["answer"], openai.types.chat.ChatCompletion) and found["answer"].choices[0].message.content
