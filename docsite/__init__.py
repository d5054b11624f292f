"""The documentation as a site: built from the repository's pages by `make docs`."""
