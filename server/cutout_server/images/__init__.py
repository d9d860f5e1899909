"""Obtaining and keeping images: from wherever a request names them to pixels, within the server's bounds."""
