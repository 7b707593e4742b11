"""The proof that the tests bite: every formula changed in every small way, and each change noticed."""
