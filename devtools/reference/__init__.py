"""The reference pages of the documentation, made from the code when the site is built.

Each module makes one page, from what the code itself is built on, so that no page can tell of a
setting, a command or a key that is not there. :mod:`devtools.reference.hook` gives them to MkDocs.
"""
