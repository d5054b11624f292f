"""The fixture of the package, also where the package is not installed and pytest does not find it by itself."""

from dwarf_nats.testing.plugin import dwarf_engine as dwarf_engine
from dwarf_nats.testing.plugin import flow_env as flow_env
