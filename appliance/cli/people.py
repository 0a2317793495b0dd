"""`appliance people` and `appliance keys`: who may sign in, and which programs may ask. Works whether the service runs or not."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.cli.audit import noted
from appliance.cli.serve import add_flag
from appliance.clock import utc_date
from appliance.config import BY_NAME, Config, data_dir, load_for_work
from appliance.errors import InvalidRequest, NotFound
from appliance.storage import in_words

SETTINGS = ("data_dir", "config")
BY = "command"


def add(commands: Any) -> None:
    """Declare the commands."""
    people = commands.add_parser("people", help="who may sign in", description="Who may sign in to the admin page. Works whether the service runs or not.", allow_abbrev=False)
    people = people.add_subparsers(dest="action", metavar="ACTION", parser_class=type(people))
    made = _action(people, "list", _list_people, "show who may sign in")
    made.add_argument("--json", action="store_true", help="print JSON")
    made = _action(people, "add", _add_person, "let somebody sign in; asks for the password")
    made.add_argument("name", metavar="NAME")
    made.add_argument("--role", default="admin", metavar="ROLE", help="what the person may do (default: %(default)s)")
    _add_password(made)
    made = _action(people, "password", _change_password, "give somebody another password, and end all sessions of the person")
    made.add_argument("name", metavar="NAME")
    _add_password(made)
    made = _action(people, "remove", _remove_person, "let somebody sign in no more")
    made.add_argument("name", metavar="NAME")
    keys = commands.add_parser("keys", help="keys for programs", description="Keys with which programs may ask. Works whether the service runs or not.", allow_abbrev=False)
    keys = keys.add_subparsers(dest="action", metavar="ACTION", parser_class=type(keys))
    made = _action(keys, "list", _list_keys, "show the keys, those that were revoked too")
    made.add_argument("--json", action="store_true", help="print JSON")
    made = _action(keys, "make", _make_key, "make a key and print it: it cannot be shown again")
    made.add_argument("name", metavar="NAME")
    made = _action(keys, "revoke", _revoke_key, "let a key be of no use any more")
    made.add_argument("number", type=int, metavar="NUMBER", help="as `list` shows it")


def _action(of: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    made = of.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
    for setting in SETTINGS:
        add_flag(made, BY_NAME[setting])
    made.set_defaults(run=run)
    return made


def _add_password(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--password-file", type=Path, default=None, metavar="FILE", help="take the password from a file, - for what is piped in")


def _config(arguments: argparse.Namespace) -> Config:
    return load_for_work({name: getattr(arguments, name) for name in SETTINGS})


@contextmanager
def _access(arguments: argparse.Namespace) -> Iterator[Any]:
    from appliance.access.service import Access

    config = _config(arguments)
    access = Access(data_dir(config), lambda level, words: None)
    try:
        try:
            access.open()
        except OSError as error:
            raise in_words(error, f"Opening {data_dir(config)}") from None
        yield access
    finally:
        access.close()


def _password(arguments: argparse.Namespace) -> str:
    if arguments.password_file is None:
        first = getpass.getpass("Password: ")
        if first != getpass.getpass("Once more: "):
            raise InvalidRequest("These are two different passwords.", param="password")
        return first
    try:
        text = sys.stdin.read() if str(arguments.password_file) == "-" else arguments.password_file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{arguments.password_file} cannot be read: {error}.", param="password-file") from None
    return text.rstrip("\r\n")


def _number(access: Any, name: str) -> int:
    for person in access.everybody():
        if person.name.casefold() == name.casefold():
            return person.id
    raise NotFound(f"Nobody is called {name!r}.", param="name", remedy="See: appliance people list")


def _list_people(arguments: argparse.Namespace) -> int:
    with _access(arguments) as access:
        rows = access.everybody()
    if arguments.json:
        print(json.dumps([{"id": row.id, "name": row.name, "role": row.role} for row in rows], indent=1))
    else:
        print("\n".join(f"{row.role:<10}{row.name}" for row in rows) or "Nobody may sign in yet.")
    return 0


def _add_person(arguments: argparse.Namespace) -> int:
    from appliance.access.people import ROLES

    if arguments.role not in ROLES:
        raise InvalidRequest(f"There is no role {arguments.role!r}.", param="role", remedy=f"Choose one of {', '.join(ROLES)}.")
    with _access(arguments) as access:
        access.add(arguments.name, arguments.role, _password(arguments), BY)
    noted(_config(arguments), "person.add", arguments.name, role=arguments.role)
    print(f"{arguments.name} may sign in as {arguments.role}.")
    return 0


def _change_password(arguments: argparse.Namespace) -> int:
    with _access(arguments) as access:
        number = _number(access, arguments.name)
        access.change(number, None, _password(arguments), BY)
    noted(_config(arguments), "person.change", arguments.name, password=True)
    print(f"{arguments.name} has another password.")
    return 0


def _remove_person(arguments: argparse.Namespace) -> int:
    with _access(arguments) as access:
        access.remove(_number(access, arguments.name), BY)
    noted(_config(arguments), "person.remove", arguments.name)
    print(f"{arguments.name} may sign in no more.")
    return 0


def _list_keys(arguments: argparse.Namespace) -> int:
    with _access(arguments) as access:
        rows = access.keys()
    if arguments.json:
        print(json.dumps([{"id": row.id, "name": row.name, "hint": row.hint, "revoked": row.revoked is not None} for row in rows], indent=1))
    else:
        print("\n".join(f"{row.id:>4}  {row.hint}…  {row.name}  {f'revoked {utc_date(row.revoked)}' if row.revoked else ''}".rstrip() for row in rows) or "There are no keys.")
    return 0


def _make_key(arguments: argparse.Namespace) -> int:
    from appliance.auth import Auth

    if Auth.from_config(_config(arguments)).configured(arguments.name):
        raise InvalidRequest(f"The configuration has a key named {arguments.name!r}.", param="name", remedy="Choose another name.")
    with _access(arguments) as access:
        number, key = access.make_key(arguments.name, BY)
    noted(_config(arguments), "key.make", arguments.name, number=number)
    print(key)
    if os.isatty(1):
        print(f"Key {number} of {arguments.name}. It cannot be shown again.", file=sys.stderr)
    return 0


def _revoke_key(arguments: argparse.Namespace) -> int:
    with _access(arguments) as access:
        name = access.revoke_key(arguments.number, BY)
    noted(_config(arguments), "key.revoke", name, number=arguments.number)
    print(f"Key {arguments.number} is of no use any more.")
    return 0
