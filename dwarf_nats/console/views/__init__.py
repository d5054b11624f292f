"""The flow page as values: from the JSON of the wire to models and SVG. Pure: no NATS, no web, no clock."""
