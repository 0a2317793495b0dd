"""Hostile text shows as text on every page that the server renders and never becomes markup, and the admin API stays JSON."""

from __future__ import annotations

import json
import logging
import re
import shutil
import unicodedata
from collections import Counter
from html.parser import HTMLParser
from urllib.parse import urlencode

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from in_process import OURS, PASSWORD, administrator

from appliance import catalog, config, errors, gguf_header, logs
from appliance.cache import answers, reviewed
from appliance.doctor.findings import Finding
from appliance.http import admin_now, pages

PAGES = {
    "/admin": ("signed in", "", "person"),
    "/admin/answers": ("signed in", "", "person asked written phrasing answer source near"),
    "/admin/access": ("signed in", "", "person key"),
    "/admin/audit": ("signed in", "", "person key setting"),
    "/admin/settings": ("signed in", "", "person setting"),
    "/admin/models": ("signed in", "", "person"),
    "/admin/jobs": ("signed in", "", "person job"),
    "/admin/jobs/<int:number>": ("signed in", "", "person job"),
    "/admin/system": ("signed in", "", "person line finding"),
    "/admin/sign-in": ("stranger", "to", "to"),
    "/admin/first": ("newcomer", "code", "code"),
}
"""Every page of the admin: who opens it, the field of its query that is hostile too, and the hostile words it shows, which `Box.fill` has put
there: a new page may need new ones. A page that shows models belongs into `pages_of_models` as well."""
NO_TEXT = re.compile("[\0\ud800-\udfff]")
SLOTS = "person key job line finding asked written phrasing answer source near setting q to code header".split()
PIECES = [
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "' onfocus='alert(1)' autofocus x='", "</textarea>", "</title>", "</details>",
    "<!--", "]]>", "<?x", "{{7*7}}", "{% raw %}", "{#", "javascript:alert(1)", "&lt;b&gt;", "&#0;", "%3Cb%3E", "\\", "W" * 150,
    "\0", "\x1b[2J", "\a", "\x7f", "\x85", "\r\n", "\t", "\u202e", "\u2066\u2069", "\u2028", "\ufeff", "\ud800", "\udcff", "\U0001f600",
]  # fmt: skip
LETTERS = st.characters(codec=None, exclude_categories=(), exclude_characters="\x02")  # where the scripted engine begins to answer
WORDS = st.lists(st.sampled_from(PIECES) | st.text(LETTERS, max_size=4), min_size=1, max_size=5).map("".join)


class Document(HTMLParser):
    """A parsed page. shape: how often each tag, attribute and comment stands in it. text: what it shows, and the values of attributes."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.shape, self.text = Counter(), []
        self.handle_data = self.text.append
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        self.shape.update([tag, *(f"{tag} {name}" for name, _ in attrs)])
        self.text += [value or "" for _, value in attrs]
        assert tag != "script" or (dict(attrs).get("src") or "").startswith("/static/"), "a script in the page, or of a stranger"
        for name, value in attrs:
            assert not name.startswith(("on", "style")), f"{tag} {name}"
            assert name not in ("href", "src", "action", "formaction") or re.match("/(?!/)|#", value or ""), f"an address elsewhere: {value!r}"

    def handle_endtag(self, tag) -> None:
        self.shape[f"/{tag}"] += 1

    def handle_decl(self, decl) -> None:
        self.shape["no element"] += 1

    handle_comment = handle_pi = unknown_decl = handle_decl


def plain(text: str) -> str:
    """What must be the same in a page: everything but blanks and control characters, which may be left out, joined or replaced."""
    return "".join(c for c in text if not (c.isspace() or c == "\ufffd" or unicodedata.category(c) == "Cc"))


def check_page(page, shown=()) -> Counter[str]:
    """The response is one of our pages and shows these words (but half a character as anything). Its shape, and how often each word is shown."""
    assert page.status_code < 500 and page.content_type == "text/html; charset=utf-8", page.text
    wanted = {"Content-Security-Policy": pages.POLICY, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY"}
    assert wanted.items() <= dict(page.headers).items() and re.fullmatch("[ -~]+", page.headers["x-request-id"])
    document = Document(page.get_data(as_text=True))
    text = plain("\n".join(document.text))
    for number, parts in enumerate(map(NO_TEXT.split, shown)):
        assert all(plain(part) in text for part in parts), f"{parts} are shown as something else"
        document.shape[f"word {number}"] = text.count(plain(parts[-1]))
    return document.shape


def check_json(answer, *statuses: int):
    """The response is JSON that a browser takes for nothing else; errors have all fields. Returns what it holds."""
    assert answer.status_code in (statuses or (200,)), answer.text
    assert answer.content_type == "application/json" and answer.headers["X-Content-Type-Options"] == "nosniff" and answer.data.isascii()
    found = json.loads(answer.data, parse_constant=pytest.fail)
    if answer.status_code >= 400:
        assert set(found["error"]) == {"message", "type", "param", "code"} and found["error"]["message"]
    return found


def post(client, path: str, *statuses: int, **body):
    return check_json(client.post(f"/admin/api/{path}", json=body, headers=OURS), *statuses)


def send(client, path: str, **fields: str):
    """A form; half characters go as somebody sends them who means no good."""
    return client.post(path, data=urlencode(fields, errors="surrogatepass"), content_type="application/x-www-form-urlencoded", headers=OURS)


def readable(service, api: bool) -> set[str]:
    """What can be opened under /admin: the pages, or the API."""
    rules = {rule.rule for rule in service.app.url_map.iter_rules() if "GET" in rule.methods and rule.rule.startswith("/admin")}
    return {rule for rule in rules if rule.startswith("/admin/api/") == api}


class Box:
    """A service that remembers, with Ann signed in, and one that nobody has opened yet."""

    def __init__(self, make_service, folder) -> None:
        self.service, self.new = make_service(people=True, remember=folder, context_tokens=4096), make_service(people=True, data_dir=folder / "new")
        self.ann = administrator(self.service)

    def named(self, client, path: str, word: str, **more) -> str:
        """Make something of that name, or of what is left of it when it is refused in words; the name."""
        if "error" in post(client, path, 200, 400, name=word, **more):
            word = "".join(c for c in word if c.isprintable() and c != "/")[-60:]
            post(client, path, name=word, **more)
        return word.strip()

    def fill(self, words: dict[str, str]):
        """Put these words, and no others, wherever words come from. Returns a client of the person of that name, and the words as taken."""
        cache, client, folder = self.service.cache, self.service.client, self.service.config.data_dir
        self.service.trail.close()
        for path in [*folder.glob("audit.*"), folder / "settings.toml"]:
            path.unlink(missing_ok=True)
        self.service.trail.open()
        self.service.access._writer.do(lambda db: [db.execute(f"DELETE FROM {rows}") for rows in ("keys", "people WHERE name != 'Ann'")], 5)
        self.service.renew_auth()
        cache.write("answers", lambda db: [db.execute(f"DELETE FROM {rows}") for rows in ("answers", "near")])
        cache.write("state", lambda db: [db.execute(f"DELETE FROM {rows}") for rows in ("reviewed", "verdicts")])
        for word in filter(NO_TEXT.search, words.values()):
            post(self.ann, "reviewed", 400, questions=["q"], answer=f"{NO_TEXT.findall(word)[0]}x")
        took = {slot: NO_TEXT.sub("", f"{word} ~{slot}~") for slot, word in words.items()}
        near, took["person"] = took["near"], self.named(self.ann, "people", f"{words['person']} ~person~", role="admin", password=PASSWORD)
        took["to"] = "/admin?x=" + "".join(c for c in words["to"] if c.isprintable() and c != "\\") + "~to~"  # a backslash leads home
        # gunicorn refuses control characters in headers, so they are left out here
        took["header"] = re.sub("[\0-\x1f\x7f]", "", words["header"].encode("utf-8", "surrogatepass").decode("latin-1"))
        client.environ_base = {"HTTP_USER_AGENT": took["header"], "HTTP_X_REQUEST_ID": took["header"]}
        entered = send(client, "/admin/sign-in", name=took["person"], password=PASSWORD, to=took["to"])
        assert check_page(entered) and entered.status_code == 303 and re.fullmatch(r"/admin\?x=[!-~]*", entered.headers["Location"])
        check_json(client.post("/v1/chat/completions", json={"model": "fake", "messages": [{"role": "user", "content": took["asked"]}]}))
        cache._answers.do(lambda db: None, 5)  # it is written
        cache.write("answers", lambda db: answers.note_near(db, answers.Near("anonymous", near, near, 0.9, 0.5, near, 0.0)))
        cache.write("state", lambda db: reviewed.say(db, reviewed.Verdict("anonymous", None, near, near, 0.9, reviewed.WRONG, near), 0.0))
        more = {name: took[name] for name in ("answer", "source")}
        post(client, "reviewed", questions=[took["written"], took["phrasing"]], namespace=took["source"], **more)
        post(client, "settings", cache_epoch=took["setting"], cache_exclude=[took["setting"]])
        self.service.jobs._jobs.clear()
        shutil.rmtree(self.service.config.data_dir / "jobs", ignore_errors=True)
        self.service.jobs.submit(took["job"], took["person"], lambda folder: [["models", "list"]])
        (self.service.config.data_dir / "jobs" / "1" / "log").write_text(took["job"], "utf-8")
        took["line"] = "".join(filter(str.isprintable, took["line"]))  # the log writes all else as escapes
        logs.RECENT._lines.clear()
        logs.RECENT.emit(logging.makeLogRecord({"levelno": logging.INFO, "levelname": "INFO", "msg": took["line"]}))
        self.service.doctor.at, self.service.doctor.found = 1.0, (Finding("x", "note", took["finding"], took["finding"], took["finding"]),)
        models = ["".join(filter(str.isprintable, words["key"]))[-60:]]
        took["key"] = self.named(client, "keys", f"{words['key']} ~key~", models=models)
        return client, took

    def visit(self, words: dict[str, str]) -> dict[str, Counter[str]]:
        """The shapes of every page, and of every form that is refused, all checked."""
        client, took = self.fill(words)
        stranger, newcomer, shapes = self.service.client, self.new.client, {}
        stranger.environ_base = newcomer.environ_base = client.environ_base
        who = {"signed in": client, "stranger": stranger, "newcomer": newcomer}
        for rule, (reader, field, shown) in PAGES.items():
            query = urlencode({field: took.get(field, "")}, errors="surrogatepass")
            shapes[rule] = check_page(who[reader].get(f"{re.sub('<[^>]*>', '1', rule)}?{query}"), [took[slot] for slot in shown.split()])
        nowhere, name = f"nowhere {took['q']}", f"{words['person']} ~nobody~"
        shapes["search"] = check_page(client.get("/admin/answers", query_string={"q": nowhere}), [nowhere])
        shapes["explained"] = check_page(client.get("/admin/answers", query_string={"explain": nowhere}), [nowhere.strip()])
        shapes["log"] = check_page(client.get("/admin/system", query_string={"q": nowhere}), [nowhere])
        shapes["audit"] = check_page(client.get("/admin/audit", query_string={"who": nowhere[:70], "action": nowhere}), [nowhere[:70]])
        shapes["not let in"] = check_page(send(stranger, "/admin/sign-in", name=name, password="guess", to=f"/admin?{words['to']}"), [name])
        shapes["not the first"] = check_page(send(newcomer, "/admin/first", name=name, code=took["code"]), [name, took["code"]])
        shapes["sent on"] = check_page(stranger.get("/admin"))
        for files in ("reviewed", "audit"):
            assert client.get(f"/admin/api/{files}/export").headers["Content-Disposition"].startswith("attachment")
        for rule in readable(self.service, api=True) - {"/admin/api/reviewed/export", "/admin/api/audit/export", "/admin/api/doctor/bundle"}:
            check_json(client.get(re.sub("<[^>]*>", "1", rule), query_string={"q": took["q"]}), 200, 404)
        check_json(client.get("/", environ_overrides={"PATH_INFO": f"/admin/-{took['header']}"}), 404)
        visitor = self.service.app.test_client(use_cookies=False)
        check_json(visitor.get("/admin/api/now", environ_overrides={"HTTP_HOST": took["header"]}), 400, 401, 403)
        return shapes | {"chat": check_page(client.get("/")), "help": check_page(client.get("/help"))}


@pytest.fixture(autouse=True)
def calm(monkeypatch):
    """The machine's own state puts no sentence into a page."""
    for limit in ("FULL_DISK", "FULL_MEMORY", "HOT_C"):
        monkeypatch.setattr(admin_now, limit, 1000.0)


def test_no_page_is_forgotten_here(service):
    missing = ", ".join(sorted(readable(service, api=False) - set(PAGES)))
    assert not missing, f"add {missing} to PAGES in {__file__}, and the words that are shown there to Box.fill"


def test_hostile_words_are_shown_as_words_on_every_page(make_service, tmp_path):
    box = Box(make_service, tmp_path)
    harmless = box.visit(dict.fromkeys(SLOTS, "plain"))

    @settings(max_examples=12, phases=[Phase.explicit, Phase.generate])  # shrinking takes minutes, and the message says enough
    @example(words=dict.fromkeys(SLOTS, "".join(PIECES)))
    @given(words=st.fixed_dictionaries(dict.fromkeys(SLOTS, WORDS)))
    def visited(words):
        for page, shape in box.visit(words).items():
            assert shape == harmless[page], f"{page}: {shape - harmless[page]} came, {harmless[page] - shape} went"

    visited()


def pages_of_models(make_service, wait_for, folder, names: list[str]) -> list[Counter[str]]:
    """The shapes of the pages that show models. None of these can be loaded, for a reason that names all their files; the pages say so."""
    folder.mkdir()
    files = [folder / re.sub("[/\0]", "", f"{name}.gguf") for name in names]
    for file in files:
        file.write_bytes(b"junk")
    entries = catalog.entries(config.load_config({"model": [str(file) for file in files], "alias": names}, {}))
    reasons = [str(pytest.raises(errors.ModelFileError, gguf_header.read_header, entry.path).value) for entry in entries]
    values = {"models": tuple(entry.name for entry in entries), "model": tuple(map(str, files)), "alias": tuple(names)}
    service = make_service(people=True, remember=folder, data_dir=folder, refuse=" ".join(reasons), **values)
    client = administrator(service)
    wait_for(lambda: all(engine.supervisor.status.state == "failed" for engine in service.pipeline.engines.values()))
    check_json(client.get("/admin/api/now"))
    return [check_page(client.get(page), [*names, *(file.name for file in files)]) for page in ("/admin", "/admin/settings")]


def test_names_of_models_and_why_they_cannot_be_loaded_are_shown_as_words(make_service, wait_for, tmp_path):
    hostile = [f"{piece}.{number}." for number, piece in enumerate(PIECES) if not re.search("[\ud800-\udfff]", piece)]
    harmless = pages_of_models(make_service, wait_for, tmp_path / "plain", [re.sub(r"[^/.\d]", "p", name) for name in hostile])
    assert pages_of_models(make_service, wait_for, tmp_path / "hostile", hostile) == harmless


def test_a_model_whose_name_is_no_utf8_is_refused_in_words(tmp_path):
    with pytest.raises(errors.ConfigError, match=r"a\\udcff"):
        catalog.entries(config.load_config({"model": [str(tmp_path / "a\udcff.gguf")]}, {}))


@pytest.mark.parametrize("change", [{"cache_epoch": "\ud800"}, {"cache_exclude": ["\ud800"]}, {"embedder": "\udcff"}])
def test_a_setting_that_is_no_text_is_refused_in_words(make_service, change):
    post(administrator(make_service(people=True)), "settings", 400, **change)


def test_a_new_line_in_the_page_that_was_wanted_keeps_nobody_out(make_service):
    administrator(service := make_service(people=True))
    entered = send(service.client, "/admin/sign-in", name="Ann", password=PASSWORD, to="/admin\r\nX: y")
    assert entered.status_code == 303 and "X" not in entered.headers
