"""How a release comes to serve: tried beside the old one, verified where it runs, then promoted or taken back; the old one serves all the while.

What is to be done is decided first, as values that can be printed and compared (plan.py, compose.py, cluster.py); performing.py does it. What is
deployed stands in the store, written before each act that it tells of, so that whoever comes after a kill knows what was under way.
"""

from __future__ import annotations
