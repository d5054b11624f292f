"""The schema as it is now: `postgres.sql` and `sqlite.sql` to be read, `create_….sql` as an empty database gets it at once.

The migrations make the schema; tests hold that these files equal their sum. After a new migration write them anew, from
empty databases:

    python -m dwarf_nats.store.schema postgresql://… sqlite://

and add the revision to `store/revisions.py`.
"""
