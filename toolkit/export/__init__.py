"""What others deploy: a recipe and its finished store as the values of our chart, or as the objects of an engine that exists on Kubernetes.

Everything here is values in, text out. The flags are those that the local runner gives an engine, with the paths of the cluster in them.
"""

from __future__ import annotations
