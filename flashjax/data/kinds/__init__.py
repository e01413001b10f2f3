"""Kinds of data behind the seam `Samples`, recognised by what they hold and not declared."""
