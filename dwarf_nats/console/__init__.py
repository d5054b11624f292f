"""The console: what people look at in a browser (docs/console.md). It is a NATS client like any other, and knows no engine.

`app.build_app` makes the ASGI application; `server.ConsoleServer` serves it. Everything here but `settings` needs the extra
`console`.
"""
