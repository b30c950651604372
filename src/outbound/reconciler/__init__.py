"""The reconciler: one elected process that repairs what a crash left, with the usual verbs."""

from outbound.reconciler.leader import serve

__all__ = ["serve"]
