"""The schema as it is now, to be read: `postgres.sql` and `sqlite.sql`, made from migrated databases.

The migrations make the schema; a test holds that these files equal their sum. After a new migration write them anew:

    python -m dwarf_nats.store.schema postgresql://… sqlite://

The PostgreSQL database may be empty; it is brought to the newest revision.
"""
