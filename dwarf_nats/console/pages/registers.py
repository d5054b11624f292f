"""The pages of registers: a list, the details of an entry, a form that puts a document, and actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from dwarf_nats.console.console import Console
from dwarf_nats.console.documents import read_document, to_yaml
from dwarf_nats.console.live import PolledView, Update
from dwarf_nats.console.pages.flows import PERIODS
from dwarf_nats.console.registers import REGISTERS
from dwarf_nats.console.registers.register import PAGE_ENTRIES, Action, Entry, Filter, Register
from dwarf_nats.console.source import Source, request_line
from dwarf_nats.console.views.forms import Form, answer
from dwarf_nats.errors import BadRequest, DwarfError, Forbidden, NotFound

_PAGES = {one.plural: one for one in REGISTERS if one.has("list")}


def routes(console: Console) -> list[Route]:
    """The routes of all registers whose operations are there, and their live view."""
    found: list[Route] = []
    for register in _PAGES.values():
        page = RegisterPage(console, register)
        found.append(Route(f"/{register.plural}", page.show_list))
        if register.identity:
            found.append(Route(f"/{register.plural}/{{entry:path}}", page.show_entry))
    steering = Steering(console)
    console.views["register"] = lambda request, source: RegisterView(console, source, dict(request.query_params))
    return [*found, Route("/register/{register}/{verb}", steering.act, methods=["POST"])]


def page_of(plural: str) -> Register:
    """The register of an address. Raises `NotFound`."""
    if plural not in _PAGES:
        raise NotFound(f"there is nothing at /{plural[:80]}")
    return _PAGES[plural]


@dataclass(frozen=True, slots=True)
class Editor:
    """The form that puts a document. `entry`: id of the one that is changed, empty for a new one. `problem`: a refusal."""

    text: str
    entry: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer of a reading action, or the reason why there is none."""

    label: str
    text: str = ""
    problem: str = ""


@dataclass(slots=True)
class EntryPage:
    """The content of the page of one entry. `editable`: its document can be changed here; else `why_not` may say why."""

    id: str
    entry: Entry
    document: str
    editable: bool = False
    why_not: str = ""
    editor: Editor | None = None
    reply: Reply | None = None
    buttons: list[Action] = field(default_factory=list)


class RegisterPage:
    """Shows one register."""

    def __init__(self, console: Console, register: Register) -> None:
        self._console = console
        self._register = register

    async def show_list(self, request: Request) -> Response:
        """The list; with `?new=1`, the form for a new document above it."""
        register = self._register
        source = await self._console.source_of(request)
        editor = None
        if request.query_params.get("new") and source.may(register.operation("put")) and register.has("put"):
            editor = Editor(register.example)
        return await show_list(self._console, request, register, editor)

    async def show_entry(self, request: Request) -> Response:
        """One entry; with `?edit=1`, its document in a form."""
        source = await self._console.source_of(request)
        page = await entry_page(source, self._register, request.path_params["entry"])
        if request.query_params.get("edit") and page.editable:
            page.editor = Editor(page.document, page.id)
        return await show_entry(self._console, request, self._register, page)


async def show_list(
    console: Console, request: Request, register: Register, editor: Editor | None, *, status: int = 200
) -> Response:
    """The page of the list."""
    source = await console.source_of(request)
    values = await list_values(source, register, request.query_params)
    return console.framed(
        request,
        "register.html",
        section=register.section or register.plural,
        title=register.title,
        source=source,
        status=status,
        editor=editor,
        **values,
    )


async def show_entry(
    console: Console, request: Request, register: Register, page: EntryPage, *, status: int = 200
) -> Response:
    """The page of an entry."""
    return console.framed(
        request,
        "register_entry.html",
        section=register.section or register.plural,
        title=page.id,
        source=await console.source_of(request),
        status=status,
        register=register,
        page=page,
        editor=page.editor,
        request_of=request_of,
    )


async def list_values(source: Source, register: Register, params: Mapping[str, str]) -> dict[str, Any]:
    """The content of the list."""
    chosen = {one.name: params[one.name].strip() for one in register.filters if params.get(one.name, "").strip()}
    cursor = params.get("cursor", "")
    query: dict[str, Any] = {one.name: _asked(one, chosen[one.name]) for one in register.filters if one.name in chosen}
    if register.paged:
        query |= {"limit": PAGE_ENTRIES, **({"cursor": cursor} if cursor else {})}
    reply = await source.document(register.operation("list"), query)
    following = reply.get("cursor", "")
    return {
        "register": register,
        "entries": reply.get(register.list_field) or (),
        "chosen": chosen,
        "periods": PERIODS,
        "cursor": cursor,
        "more": f"/{register.plural}?{urlencode({**chosen, 'cursor': following})}" if following else "",
        "parameters": urlencode({**chosen, **({"cursor": cursor} if cursor else {}), "register": register.plural}),
    }


def _asked(one: Filter, text: str) -> Any:
    """The value of a filter in a request. Raises `BadRequest` for a choice that it does not have."""
    choices = tuple(PERIODS) if one.period else one.choices
    if choices and text not in choices:
        raise BadRequest(f"{one.label}: there is no {text[:40]}, use one of {', '.join(choices)}")
    return PERIODS[text] if one.period else text


async def entry_page(source: Source, register: Register, entry_id: str) -> EntryPage:
    """Read one entry. Raises `NotFound`."""
    named = register.fields_of(entry_id)
    if register.has("get"):
        entry = await source.document(register.operation("get"), named)
    else:
        listed = (await source.document(register.operation("list"), {})).get(register.list_field) or ()
        entry = next((one for one in listed if register.id_of(one) == entry_id), {})
        if not entry:
            raise NotFound(f"there is no {register.noun} {entry_id[:80]}")
    page = EntryPage(entry_id, entry, to_yaml(register.document(entry)))
    if register.has("put"):
        page.why_not = _why_not(source, register, named)
        page.editable = not page.why_not
    page.buttons = [
        one for one in register.offered if source.may(register.operation(one.verb)) and one.when(page.entry)
    ]
    return page


def _why_not(source: Source, register: Register, named: Mapping[str, str]) -> str:
    """Why a document cannot be changed here; empty if it can. A text that hides something must not be put back."""
    if not source.may(register.operation("put")):
        return "NATS does not let this user change it."
    if not source.payloads:
        return "This console shows no values of workflows (--no-payloads), so it cannot show the whole document."
    if source.hides_keys(register.operation("get" if register.has("get") else "list"), named):
        return "It holds the key of a flow, which no page shows. Change it by the command line."
    return ""


class Steering:
    """Carries out the forms."""

    def __init__(self, console: Console) -> None:
        self._console = console

    async def act(self, request: Request) -> Response:
        """Put a document, check one, or carry out an action on an entry."""
        form = await self._console.form(request)
        register = page_of(request.path_params["register"])
        given = {name: str(value) for name, value in form.multi_items()}
        verb = request.path_params["verb"]
        if verb == "put":
            return await self._put(request, register, given)
        if verb == "check":
            return await self._check(request, register, given.get("text", ""))
        return await self._carry_out(request, register, register.action(verb), given)

    async def _put(self, request: Request, register: Register, given: Mapping[str, str]) -> Response:
        source = await self._console.source_of(request)
        editor = Editor(given.get("text", ""), given.get("entry", ""))
        try:
            document = read_document(editor.text)
            await source.act(register.operation("put"), document, actor=self._console.user_of(request))
        except DwarfError as error:
            return await self._refused(request, register, replace(editor, problem=error.message), error.code)
        self._console.hub.touch("")
        name = register.id_of(document)
        return self._console.done(request, f"Kept: {name}.", location=f"/{register.plural}/{quote(name)}")

    async def _refused(self, request: Request, register: Register, editor: Editor, status: int) -> Response:
        """The page of the form again, with the text as it was sent and the reason beside it."""
        if not editor.entry:
            return await show_list(self._console, request, register, editor, status=status)
        source = await self._console.source_of(request)
        page = await entry_page(source, register, editor.entry)
        page.editor = editor
        return await show_entry(self._console, request, register, page, status=status)

    async def _check(self, request: Request, register: Register, text: str) -> Response:
        """Return the request that would be sent, or the reason for a refusal, as a piece of a page."""
        source = await self._console.source_of(request)
        values: dict[str, Any] = {"operation": register.operation("put"), "problem": "", "fields": {}}
        try:
            values["fields"] = document = read_document(text)
            if register.has("validate"):
                await source.read(register.operation("validate"), document)
        except Forbidden:
            pass
        except DwarfError as error:
            values["problem"] = error.message
        return HTMLResponse(self._console.html("register_preview.html", **values))

    async def _carry_out(
        self, request: Request, register: Register, action: Action, given: Mapping[str, str]
    ) -> Response:
        source = await self._console.source_of(request)
        entry = given.get("entry", "")
        fields = {**register.fields_of(entry), **answer(Form(list(action.fields)), given)}
        operation = register.operation(action.verb)
        if action.reads:
            return await self._read(request, register, action, (entry, fields))
        await source.act(operation, fields, actor=self._console.user_of(request))
        self._console.hub.touch("")
        gone = action.verb == "delete"
        location = f"/{register.plural}" + ("" if gone else f"/{quote(entry)}")
        return self._console.done(request, action.done, location=location)

    async def _read(
        self, request: Request, register: Register, action: Action, asked: tuple[str, dict[str, Any]]
    ) -> Response:
        """The page of the entry with the reply of an action that changes nothing."""
        source = await self._console.source_of(request)
        entry, fields = asked
        status, reply = 200, Reply(action.label)
        try:
            found = await source.document(register.operation(action.verb), fields)
            reply = replace(reply, text=_readable(found))
        except DwarfError as error:
            status, reply = error.code, replace(reply, problem=error.message)
        page = await entry_page(source, register, entry)
        page.reply = reply
        return await show_entry(self._console, request, register, page, status=status)


def _readable(reply: Mapping[str, Any]) -> str:
    """A reply as text: its only value if that is a text, else YAML."""
    only = next(iter(reply.values())) if len(reply) == 1 else None
    return only if isinstance(only, str) else to_yaml(reply)


class RegisterView(PolledView):
    """The rows of a list, or the facts of an entry, for tabs that look at the same."""

    def __init__(self, console: Console, source: Source, params: dict[str, str]) -> None:
        super().__init__(source)
        self.key = ("register", tuple(sorted(params.items())))
        self._console = console
        self._register = page_of(params.pop("register", ""))
        self._entry = params.pop("entry", "")
        self._params = params

    async def render(self) -> Update:
        if not self._entry:
            values = await list_values(self.source, self._register, self._params)
            return Update(html={"rows": self._console.html("register_rows.html", may=self.source.may, **values)})
        page = await entry_page(self.source, self._register, self._entry)
        values = {"register": self._register, "page": page}
        return Update(
            html={
                "facts": self._console.html("register_facts.html", **values),
                "entry-buttons": self._console.html("register_buttons.html", **values),
            }
        )


def request_of(prefix: str, register: Register, action: Action, entry: str) -> str:
    """The `nats req` line of an action; its further fields as placeholders."""
    fields = {**register.fields_of(entry), **{one.name: "…" for one in action.fields if one.required}}
    return request_line(prefix, register.operation(action.verb), fields)
